"""A report as sections of text, tables, figures and galleries; written as Markdown, and as one HTML page.

The page is a single file that needs no network: pictures are embedded, tables are sorted by a click on a column's
head, and a picture is decoded when it comes near the window. Both forms have the same sections in the same order,
so that two reports can be laid side by side.
"""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from captioning.data.images import load_image
from captioning.markup import markdown_table

THUMBNAIL = 192  # pixels of a gallery's pictures
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Text:
    """Paragraphs; a list of points with `points`, set apart from the rest with `warning`."""

    lines: list
    points: bool = False
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """A DataFrame; numbers that are not whole get `digits` digits.

    foot: rows below the others, which stay there however the others are sorted: values by column, the rest is blank
    """

    frame: pd.DataFrame
    digits: int = 3
    foot: tuple = ()


@dataclass(frozen=True)
class Figure:
    """A PNG in the report's folder, and what it shows in words."""

    file: str
    text: str


@dataclass(frozen=True)
class Gallery:
    """Pictures with lines (text, style) under each, styles as in plots.TEXTS; `file` is the PNG that shows the same."""

    file: str
    text: str
    images: list  # paths
    lines: list  # of each image its (text, style) pairs


@dataclass(frozen=True)
class Section:
    """A title and its blocks: Text, Table, Figure or Gallery."""

    title: str
    blocks: list


# ---- cells ---------------------------------------------------------------------------------------------


def cell_text(value, digits=3):
    """Write the value of a cell: fractions get `digits` digits, whole numbers none, NaN is a dash."""
    if isinstance(value, float):
        return f"{value:.{digits}f}" if value == value else "–"
    return re.sub(r"\s+", " ", str(value))


def rows_of(table):
    """Return the rows of a Table as lists of (value, its text)."""
    rows = table.frame.astype(object).itertuples(index=False, name=None)
    return [[(value, cell_text(value, table.digits)) for value in row] for row in rows]


def foot_of(table):
    """Return the rows at the foot of a Table, as rows_of does."""
    rows = [[row.get(name, "") for name in table.frame.columns] for row in table.foot]
    return [[(value, cell_text(value, table.digits)) for value in row] for row in rows]


def is_number(frame, name):
    """True if a column of a DataFrame holds numbers, which are set to the right."""
    return pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])


# ---- Markdown --------------------------------------------------------------------------------------------


def table_markdown(table):
    """Return a Table as Markdown."""
    names = list(table.frame.columns)
    rows = [[text for _, text in row] for row in rows_of(table)]
    rows += [[f"**{text}**" if text else "" for _, text in row] for row in foot_of(table)]
    numeric = [name for name in names if is_number(table.frame, name)]
    return markdown_table([cell_text(name) for name in names], rows, numeric)


def markdown(title, sections):
    """Return a report as Markdown; its figures stand beside it."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            match block:
                case Text([]):
                    continue
                case Text(lines, _, True):
                    parts.append("\n>\n".join(f"> **Warning:** {line}" for line in lines))
                case Text(lines, points):
                    parts.append("\n".join(f"- {line}" for line in lines) if points else "\n\n".join(lines))
                case Table():
                    parts.append(table_markdown(block))
                case Figure(file, text) | Gallery(file, text):
                    parts.append(f"![{text}]({file})")
    return "\n\n".join(parts) + "\n"


# ---- HTML ------------------------------------------------------------------------------------------------


def html(title, sections, folder):
    """Return a report as one HTML page; its figures are read from `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(title=title, sections=[page_section(section, Path(folder)) for section in sections])


def page_section(section, folder):
    """Return a Section as the template takes it: its blocks with the pictures in them."""
    blocks = []
    for block in section.blocks:
        match block:
            case Text([]):
                continue
            case Text(lines, points):
                kind = "warning" if block.warning else "points" if points else "text"
                blocks.append({"kind": kind, "lines": [code_split(line) for line in lines]})
            case Table(frame):
                names = [(name, is_number(frame, name)) for name in frame.columns]
                blocks.append({"kind": "table", "names": names, "rows": rows_of(block), "foot": foot_of(block)})
            case Figure(file, text):
                blocks.append({"kind": "figure", "source": data_uri((folder / file).read_bytes(), "png"), "text": text})
            case Gallery(_, text, images, lines):
                cards = [{"source": thumbnail(path), "lines": those} for path, those in zip(images, lines, strict=True)]
                blocks.append({"kind": "gallery", "text": text, "cards": cards})
    return {"title": section.title, "blocks": blocks}


def code_split(line):
    """Split a line at Markdown's `code`: (text, True if it is code) pairs; a [name](link) is its name."""
    line = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)
    return [(part, place % 2 == 1) for place, part in enumerate(line.split("`")) if part]


def thumbnail(path):
    """Return a picture file as the data URI of a small JPEG."""
    image = load_image(path, THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue(), "jpeg")


def data_uri(content, kind):
    """Return the bytes of an image as a URI that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

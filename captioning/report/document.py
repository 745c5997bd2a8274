"""A report as sections of text, tables, figures and galleries; written as Markdown, and as one HTML page.

The page is a single file that needs no network: pictures are embedded, tables are sorted by a click on a column's
head, which says what it holds, and a picture is decoded when it comes near the window. It follows the light or dark
style of the system, and prints on A4. Both forms have the same sections in the same order,
so that two reports can be laid side by side.
"""

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from captioning.data.images import load_image
from captioning.markup import markdown_table
from captioning.report.columns import column_of
from captioning.untrusted import markdown_cell, markdown_line, markdown_parts

THUMBNAIL = 192  # pixels of a gallery's pictures
JPEG_QUALITY = 80
CELL = 16  # pixels a side of a matrix's cells
LETTER = 6.3  # pixels of a letter of its labels, roughly
LONGEST_LABEL = 24  # letters
MOST_CLASSES = 150  # a larger matrix is shown as its figure alone


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
    name: of the table in columns.COLUMNS, where its columns are called otherwise than in other tables
    """

    frame: pd.DataFrame
    digits: int = 3
    foot: tuple = ()
    name: str = ""


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a text; Markdown's `code` is allowed in the text."""

    rows: list


@dataclass(frozen=True)
class Figure:
    """A PNG in the report's folder, and what it shows in words."""

    file: str
    text: str


@dataclass(frozen=True)
class Matrix:
    """A DataFrame of counts, true classes in rows; `file` is the PNG that shows the same, `text` what it shows."""

    frame: pd.DataFrame
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
    """A title and its blocks: Text, Table, Facts, Figure, Matrix or Gallery."""

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
    """True if a column of a DataFrame holds numbers alone, which are set to the right."""
    values = frame[name].tolist()
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def heads_of(table):
    """Return the columns.Column of each column of a Table."""
    return [column_of(table.name, name) for name in table.frame.columns]


# ---- Markdown --------------------------------------------------------------------------------------------


def table_markdown(table):
    """Return a Table as Markdown."""
    names = [head.name for head in heads_of(table)]
    rows = [[markdown_cell(text) for _, text in row] for row in rows_of(table)]
    rows += [[f"**{markdown_cell(text)}**" if text else "" for _, text in row] for row in foot_of(table)]
    numeric = {head for head, name in zip(names, table.frame.columns, strict=True) if is_number(table.frame, name)}
    return markdown_table([markdown_cell(cell_text(name)) for name in names], rows, numeric)


def markdown(title, sections):
    """Return a report as Markdown; its figures stand beside it. HTML and links in the names of strangers are text."""
    parts = [f"# {markdown_line(title)}"]
    for section in sections:
        parts.append(f"## {markdown_line(section.title)}")
        for block in section.blocks:
            match block:
                case Text([]):
                    continue
                case Text(lines, _, True):
                    parts.append("\n>\n".join(f"> **Warning:** {markdown_line(line)}" for line in lines))
                case Text(lines, points):
                    lines = list(map(markdown_line, lines))
                    parts.append("\n".join(f"- {line}" for line in lines) if points else "\n\n".join(lines))
                case Table():
                    parts.append(table_markdown(block))
                case Facts(rows):
                    parts.append("\n".join(f"- {markdown_line(name)}: {markdown_line(text)}" for name, text in rows))
                case Figure(file, text) | Gallery(file, text) | Matrix(_, file, text):
                    parts.append(f"![{markdown_line(text)}]({file})")
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
                heads = [
                    head._asdict() | {"number": is_number(frame, name)}
                    for head, name in zip(heads_of(block), frame.columns, strict=True)
                ]
                blocks.append({"kind": "table", "heads": heads, "rows": rows_of(block), "foot": foot_of(block)})
            case Facts(rows):
                blocks.append({"kind": "facts", "rows": [(name, code_split(text)) for name, text in rows]})
            case Matrix(frame, _, text) if len(frame) <= MOST_CLASSES:
                blocks.append({"kind": "matrix", "text": text, **matrix_parts(frame)})
            case Figure(file, text) | Matrix(_, file, text):
                blocks.append({"kind": "figure", "source": data_uri((folder / file).read_bytes(), "png"), "text": text})
            case Gallery(_, text, images, lines):
                cards = [{"source": thumbnail(path), "lines": those} for path, those in zip(images, lines, strict=True)]
                blocks.append({"kind": "gallery", "text": text, "cards": cards})
    return {"title": section.title, "blocks": blocks}


def matrix_parts(frame):
    """Return what the template draws of a matrix of counts: places in pixels, labels, and the cells that are not 0."""
    rows, columns = ([str(name)[:LONGEST_LABEL] for name in names] for names in (frame.index, frame.columns))
    left, top = (round(LETTER * max(map(len, names)) + 10) for names in (rows, columns))
    width, height = CELL * len(columns), CELL * len(rows)
    lines = [f"M{left} {top + CELL * place}h{width}" for place in range(len(rows) + 1)]
    lines += [f"M{left + CELL * place} {top}v{height}" for place in range(len(columns) + 1)]
    counts, cells = frame.to_numpy(), []
    for row, column in zip(*counts.nonzero(), strict=True):
        count, total = int(counts[row, column]), int(counts[row].sum())
        cells.append(
            {
                "x": left + CELL * int(column),
                "y": top + CELL * int(row),
                "count": count,
                "shade": round(max(0.1, count / total), 2),
                "strong": count > total / 2,
                "text": f"true {frame.index[row]}, named {frame.columns[column]}: {count} of {total}",
            }
        )
    return {
        "cell": CELL,
        "left": left,
        "top": top,
        "width": left + width + 4,
        "height": top + height + 4,
        "grid": "".join(lines),
        "columns": [(left + CELL * place + 12, top - 4, name) for place, name in enumerate(columns)],
        "rows": [(left - 4, top + CELL * place + 12, name) for place, name in enumerate(rows)],
        "cells": cells,
        "counts": json.dumps(counts.tolist()),
    }


def code_split(line):
    """Split a line at Markdown's `code`: (text, True if it is code) pairs; a link to a file is the file's name."""
    shown = {"": str, "code": lambda part: part[1:-1], "link": lambda part: part.split("`")[1]}
    return [(shown[kind](part), bool(kind)) for part, kind in markdown_parts(line) if part]


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

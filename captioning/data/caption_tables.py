"""Caption tables: rows of image and caption, as spreadsheets, scripts and Flickr8k write them.

Separators are commas, tabs, vertical bars or semicolons, with a header or without, with further columns, with one
column of captions or several. The columns are told by their names or, where there is no doubt, by what is in them.
"""

import ast
import contextlib
import csv
import io
import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass

from captioning.data.entries import Entry
from captioning.data.names import is_image_name
from captioning.data.splits import SPLIT_NAMES
from captioning.files import read_text

SEPARATORS = {",": "commas", "\t": "tabs", "|": "vertical bars", ";": "semicolons"}
# Names of columns, the first that is there counts; case, blanks and underscores make no difference.
IMAGE_COLUMNS = ("image", "imagename", "imagefile", "imagefilename", "imagepath", "filename", "file", "filepath")
IMAGE_COLUMNS += ("path", "img", "imgname", "imgpath", "picture", "photo", "images", "imageid", "imgid")
CAPTION_COLUMNS = ("caption", "sentence", "comment", "text", "description", "raw")
_TEXT = r"""(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")"""
_LIST = re.compile(rf"\[\s*+{_TEXT}(?:\s*+,\s*+{_TEXT})*+\s*+\]")
_EXCEL = re.compile(r'\A"?sep=.?"?(?=\r?\n)', re.IGNORECASE)  # a first line that tells Excel the separator
_NUMBERED = re.compile(r"#\d+$")  # 1000268201.jpg#0


@dataclass(frozen=True)
class Columns:
    """Where a table has what it has.

    separator: a key of SEPARATORS
    image:     place of the image's name
    captions:  places of captions, one at least
    split:     place of the split, -1 = none
    width:     columns of a row; header: whether row 1 names them
    """

    separator: str
    image: int
    captions: tuple
    split: int
    width: int
    header: bool


def read_table(path, omissions):
    """Return the entries of a caption table, in the order of each image's first row."""
    text = _EXCEL.sub("", read_text(path))
    if not text.strip():
        raise ValueError(f"{path}: is empty")
    if re.match(r"[^\t\n]+#\d+\t", text):
        rows = read_tokens(text)
    else:
        columns = find_columns(path, text)
        rows = table_rows(path, text, columns, omissions)
    captions, places = defaultdict(list), {}
    for line, name, split, texts in rows:
        where = f"line {line}"
        known, first = places.setdefault(name, (split, where))
        if known != split:
            raise ValueError(f"{path}: {where}: {name} has split {split!r} here and {known!r} in {first}")
        for text in texts:
            if usable := omissions.caption(text, path, where):
                captions[name].append(usable)
            else:
                captions.setdefault(name, [])
    return [Entry(name, texts, None, *places[name]) for name, texts in captions.items()]


def read_tokens(text):
    """Yield (line number, name, "", [caption]) of Flickr8k.token.txt: image#number, tab, caption."""
    for line, row in enumerate(text.split("\n"), 1):
        name, _, caption = row.partition("\t")
        if name.strip():
            yield line, _NUMBERED.sub("", name.strip()), "", [caption]


def table_rows(path, text, columns, omissions):
    """Yield (line number, image, split, [captions]) of each row; rows of another width are left out."""
    needed = max(columns.image, columns.captions[0], columns.split) + 1
    if len(columns.captions) == 1:
        needed = columns.width
    for line, row in itertools.islice(read_rows(path, text, columns.separator, omissions), columns.header, None):
        cells = [cell.strip() for cell in row]
        while len(cells) > columns.width and not cells[-1]:
            cells.pop()
        if not needed <= len(cells) <= columns.width:
            quotes = f"; one with {SEPARATORS[columns.separator]} in it needs quotes" * (len(cells) > columns.width)
            problem = f"{len(cells)} columns between {SEPARATORS[columns.separator]}, {columns.width} are needed"
            omissions.total["captions"] += 1
            omissions.add("captions", f"{path}: line {line}: {problem}{quotes}")
            continue
        split = ""
        if columns.split >= 0 and (written := cells[columns.split].lower()):
            if written not in SPLIT_NAMES:
                raise ValueError(f"{path}: line {line}: split {written!r}, allowed are {', '.join(SPLIT_NAMES)}")
            split = SPLIT_NAMES[written]
        name = cells[columns.image]
        texts = [cells[place] for place in columns.captions if place < len(cells)]
        if texts[0].startswith("["):  # Flickr30k's table of Hugging Face
            texts = [one for text in texts for one in listed_texts(text)]
        if len(texts) > 1:  # of several columns of captions some may be empty, as long as one is not
            texts = [text for text in texts if text] or texts[:1]
        yield line, _NUMBERED.sub("", name) if "#" in name else name, split, texts


def listed_texts(text):
    """Return the texts of a list that JSON or Python spells, as ["a dog", "it runs"]; [text] if it is none."""
    if not _LIST.fullmatch(text):
        return [text]
    with contextlib.suppress(ValueError, SyntaxError):
        return json.loads(text) if text[1:].lstrip().startswith('"') else ast.literal_eval(text)
    return [text]


def read_rows(path, text, separator, omissions=None):
    """Yield (line number of its first line, cells) of each row that is not blank.

    Backslashes escape quotes if a file has them so. A row with a quote in the wrong place is left out.
    Raises ValueError for a quote that is never closed, and for any such row if there are no omissions.
    """
    escapes = {"escapechar": "\\", "doublequote": False} if '\\"' in text and '""' not in text else {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **escapes)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            unclosed = "unexpected end" in str(error) or "field larger" in str(error)
            problem = "a quote is opened and never closed" if unclosed else f"a quote in the wrong place ({error})"
            if unclosed or omissions is None:
                raise ValueError(f"{path}: line {line}: {problem}; write it twice") from None
            omissions.total["captions"] += 1
            omissions.add("captions", f"{path}: line {line}: {problem}; write it twice")
            continue
        if row is None:
            return
        if "".join(row).strip():
            yield line, row


def find_columns(path, text):
    """Return the Columns of a table. Raises ValueError, naming what was found, where there is a doubt."""
    found = []
    for separator in SEPARATORS:
        rows = []
        with contextlib.suppress(ValueError):  # of the quotes: another separator, or to be named when all rows are read
            rows.extend(row for _, row in itertools.islice(read_rows(path, text, separator), 2))
        if rows and len(rows[0]) > 1 and (columns := named_columns(rows, separator) or plain_columns(rows, separator)):
            found.append(columns)
    if len(found) == 1:
        return found[0]
    first = text.partition("\n")[0].strip()
    if found:
        kinds = " and ".join(SEPARATORS[columns.separator] for columns in found)
        raise ValueError(f"{path}: line 1: {first!r:.80} may be read with {kinds}; write the header image,caption")
    raise ValueError(f"{path}: line 1: {first!r:.80}, must be a header with the columns image and caption")


def named_columns(rows, separator):
    """Return the Columns that a header names, or None. A column of image names needs no name of its own."""
    names = [re.sub(r"[\W_]", "", cell.lower()) for cell in rows[0]]
    place = next((names.index(name) for name in IMAGE_COLUMNS if name in names), -1)
    if place < 0 and not any(map(is_image, rows[0])) and len(rows) > 1:
        places = [place for place, cell in enumerate(rows[1][: len(names)]) if is_image(cell)]
        place = places[0] if len(places) == 1 else -1
    if place < 0:
        return None
    captions = ()
    for word in CAPTION_COLUMNS:
        pattern = re.compile(rf"(image|img)?{word}s?\d*")
        captions = captions or tuple(i for i, name in enumerate(names) if i != place and pattern.fullmatch(name))
    if not captions and len(names) == 2 and len(rows) > 1 and is_image(rows[1][place]):
        other = rows[1][1 - place] if len(rows[1]) == 2 else ""
        captions = (1 - place,) if re.search(r"[^\W\d]", other) else ()
    if not captions:
        return None
    split = names.index("split") if "split" in names else -1
    return Columns(separator, place, captions, split, len(names), header=True)


def plain_columns(rows, separator):
    """Return the Columns of a table without a header, or None: one of image names, one of text, perhaps numbers."""
    images = [place for place, cell in enumerate(rows[0]) if is_image(cell)]
    others = [i for i, cell in enumerate(rows[0]) if i not in images and re.search(r"[^\W\d]", cell)]
    if len(images) != 1 or len(others) != 1 or len(rows[0]) > 3:
        return None
    return Columns(separator, images[0], tuple(others), -1, len(rows[0]), header=False)


def is_image(cell):
    """True for a cell that is the name of an image."""
    return is_image_name(_NUMBERED.sub("", cell.strip()).replace("\\", "/").rpartition("/")[2])


def read_pairs(path, columns):
    """Yield (line number, values) of two columns that a table must have by these names."""
    text = read_text(path)
    rows = read_rows(path, text, next((s for s in SEPARATORS if s in text.partition("\n")[0]), ","))
    line, header = next(rows, (1, []))
    names = [cell.strip().lower() for cell in header]
    if not set(columns) <= set(names):
        raise ValueError(f"{path}: line {line}: {','.join(names)!r}, must be the header {','.join(columns)}")
    places = [names.index(column) for column in columns]
    for line, row in rows:
        if len(row) < len(names):
            raise ValueError(f"{path}: line {line}: {len(row)} columns, the header has {len(names)}")
        yield line, tuple(row[place].strip() for place in places)

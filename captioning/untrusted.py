"""Text of strangers (names of files and classes, captions, what servers answer) where something would obey it.

A terminal obeys escape sequences, a spreadsheet takes =1+1 for a formula, Markdown shows the HTML and the links that
stand in a name.
"""

import csv
import re

# Left-to-right and right-to-left marks, embeddings, overrides and isolates: text that reads otherwise than it is.
DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
SURROGATES = "\ud800-\udfff"  # half a character, which no file can hold

# What no word of a model may hold: the above, and the control characters C0 and C1.
CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f{DIRECTIONS}{SURROGATES}]")
_OBEYED = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{DIRECTIONS}]")  # all but tab and the ends of lines
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def _spelt(match):
    """Return how Python spells the character of a match: \\x1b, \\n; from U+007F on \\u007f, which JSON knows, too."""
    code = ord(match[0])
    return f"\\u{code:04x}" if code > 0x7E else match[0].encode("unicode_escape").decode()


def escaped(text):
    """Return a text with the characters that a terminal obeys spelt out: \\x1b; tabs and ends of lines stay."""
    return _OBEYED.sub(_spelt, text)


def on_one_line(text):
    """Return a text as `escaped`, tabs and ends of lines spelt out, too: \\t, \\n."""
    return escaped(_BREAKS.sub(_spelt, text))


FORMULA = re.compile(r"[=+\-@\t\r'＝＋－＠]")


def spreadsheet_cell(value):
    """Return the value of a CSV cell; text that a spreadsheet would take for a formula gets an apostrophe before it.

    So does text that begins with one, so that taking one away, as str.removeprefix("'") does, gives back every text.
    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def spreadsheet_table(frame):
    """Return a DataFrame whose cells, index and column names are `spreadsheet_cell`s."""
    return frame.map(spreadsheet_cell).rename(index=spreadsheet_cell, columns=spreadsheet_cell)


def write_table(path, frame, **settings):
    """Write a DataFrame as CSV, as `spreadsheet_table` and with the rows of `csv_writer`; settings: of to_csv."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        spreadsheet_table(frame).to_csv(Rows(file), lineterminator="\r\n", **settings)


def csv_writer(file):
    """Return a csv.writer of lines that end in \\n, in which a cell with a bare \\r has quotes: it would end a row."""
    return csv.writer(Rows(file), lineterminator="\r\n")


class Rows:
    """A text stream that takes rows ending in \\r\\n, for whose sake csv.writer quotes both, and ends them in \\n."""

    def __init__(self, file):
        self.file = file

    def write(self, row):
        """Write a whole row, as csv.writer does."""
        return self.file.write(row.removesuffix("\r\n") + "\n")


_OWN_LINK = re.compile(r"(\[`([\w.-]+)`\]\(\2\))")  # of a report to a file beside it
_CODE = re.compile("(`[^`]*`)")


def markdown_cell(text):
    """Return a text for a cell of a Markdown table: it shows as it is, without HTML, links or code in it."""
    return _without_html(text.replace("\\", "\\\\").replace("`", "\\`"))


def markdown_line(line):
    """Return a line of Markdown with names of strangers in it: code and links to files beside it stay, no others."""
    return "".join(part if kind else markdown_cell(part) for part, kind in markdown_parts(line))


def markdown_parts(line):
    """Yield the parts of a line of Markdown: (part, "link" to a file beside it | "code" | "" = text of anyone)."""
    for place, part in enumerate(_OWN_LINK.split(line)):
        if place % 3 == 1:
            yield part, "link"
        elif place % 3 == 0:
            yield from ((piece, "code" if odd % 2 else "") for odd, piece in enumerate(_CODE.split(part)))


def _without_html(text):
    """Return Markdown whose tags are text, and whose addresses are no links."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    text = re.sub(r"\](?=[(\[:])", "\\\\]", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


class EscapedStream:
    """A text stream that spells out what a terminal would obey; all else is the stream's own."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        """Write a text as `escaped`; returns its length."""
        self.stream.write(escaped(text))
        return len(text)

    def writelines(self, lines):
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self.stream, name)

"""Text of strangers (names of files and classes, captions, what servers answer) where something would obey it.

A terminal obeys escape sequences, a spreadsheet takes =1+1 for a formula, Markdown shows the HTML and the links that
stand in a name.
"""

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

"""Captioned images: an Example of each, in a list, or in a temporary file where they may be more than memory holds."""

import copy
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from captioning.cli import one_line
from captioning.files import ELSEWHERE, close_quietly, temporary_room

SORTED_IN_MEMORY = 2**20  # lines; of captions they take 200 MB


@dataclass(frozen=True, slots=True)
class Example:
    """One image with all its captions (at least one, as written in the file).

    label: the class, "" = none;  split: "train", "val" or "test" ("" as a reader returns it: not yet shared out)
    """

    image: Path
    captions: list[str]
    label: str
    split: str


class CaptionTexts:
    """The captions of Examples one after another, read as they are asked for, as often as they are."""

    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        for example in self.examples:
            yield from example.captions


class Lines:
    """Byte strings in a temporary file without a name, which is gone when the process ends, however it ends."""

    def __init__(self):
        self.file, self.starts = tempfile.TemporaryFile(), array("q", [0])  # noqa: SIM115 - open as long as this object
        weakref.finalize(self, close_quietly, self.file)

    def __len__(self):
        return len(self.starts) - 1

    def extend(self, lines):
        """Append the byte strings of an iterable. Raises ValueError if there is no room for them."""
        self.file.seek(0, os.SEEK_END)
        for line in lines:  # which may have errors of its own
            with temporary_room():
                self.starts.append(self.starts[-1] + self.file.write(line))
        with temporary_room():
            self.file.flush()

    def __getitem__(self, index):
        begin, end = self.starts[index], self.starts[index + 1]
        self.file.seek(begin)
        return self.file.read(end - begin)


class ExampleFile(Sequence):
    """Examples in a temporary file, of which one at a time is read; f[i] is an Example.

    In memory are 16 bytes of each. The file takes about as much room as the captions and the paths of the images, in
    the folder for temporary files (TMPDIR).
    """

    def __init__(self):
        self.lines, self.rows, self.split = Lines(), np.arange(0), ""

    def extend(self, examples):
        """Append the Examples of an iterable, which is read once. Raises ValueError if there is no room for them."""
        self.lines.extend(json.dumps([str(e.image), e.captions, e.label, e.split]).encode() for e in examples)
        self.rows = np.arange(len(self.lines))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        image, captions, label, split = json.loads(self.lines[self.rows[index]])
        return Example(Path(image), captions, label, self.split or split)

    def take(self, rows, split):
        """Return the Examples at the positions `rows` (R,) as those of a split; they stay in the same file."""
        taken = copy.copy(self)
        taken.rows, taken.split = self.rows[rows], split
        return taken


def take_examples(examples, rows, split):
    """Return the Examples at the positions `rows` as those of a split: a list of a list, or as ExampleFile.take."""
    if isinstance(examples, ExampleFile):
        return examples.take(rows, split)
    chosen = (examples[row] for row in rows.tolist())
    return [e if e.split == split else replace(e, split=split) for e in chosen]


def sorted_lines(lines, in_memory=SORTED_IN_MEMORY):
    """Yield texts as bytes, sorted; from `in_memory` of them on they are sorted on disk, by SQLite.

    Raises ValueError if there is no room for that.
    """
    encoded = (line.encode("utf-8", "surrogatepass") for line in lines)  # sorts as str does
    first = list(islice(encoded, in_memory))
    if len(first) < in_memory:
        yield from sorted(first)
        return
    import sqlite3  # which some builds of Python lack

    rows = ((line,) for line in chain(first, encoded))
    first = None
    try:
        with closing(sqlite3.connect("")) as database:  # a temporary file
            database.execute("CREATE TABLE lines (line BLOB)")
            database.executemany("INSERT INTO lines VALUES (?)", rows)
            yield from (line for (line,) in database.execute("SELECT line FROM lines ORDER BY line"))
    except sqlite3.OperationalError as error:
        raise ValueError(f"a temporary file, to sort many lines in: {one_line(error)}; {ELSEWHERE}") from None

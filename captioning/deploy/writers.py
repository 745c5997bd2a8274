"""The files that captions of pictures are written to: text, JSON lines, CSV.

A writer takes the records of a picture, dicts of name -> value: that of its caption first, then the alternatives.
"""

import contextlib
import csv
import json
import sys

from captioning.files import replace_file
from captioning.untrusted import on_one_line


class TextWriter:
    """path, tab, caption; one line for each caption of a picture. A tab or the end of a line in a name is spelt out."""

    def __init__(self, file):
        self.file = file

    def write(self, image, records):
        """Write the captions of a picture."""
        self.file.writelines(f"{on_one_line(image)}\t{record['caption']}\n" for record in records)


class JsonLinesWriter:
    """One object a line: image, what the record of its caption holds, alternatives (their records)."""

    def __init__(self, file):
        self.file = file

    def write(self, image, records):
        """Write the captions of a picture."""
        best, *others = records
        print(json.dumps({"image": image, **best, "alternatives": others}, ensure_ascii=False), file=self.file)


class CsvWriter:
    """A header, then a row for each caption of a picture: image, rank, what its record holds."""

    def __init__(self, file):
        self.rows, self.has_header = csv.writer(file, lineterminator="\n"), False

    def write(self, image, records):
        """Write the captions of a picture."""
        if not self.has_header:
            self.rows.writerow(["image", "rank", *records[0]])
            self.has_header = True
        for rank, record in enumerate(records, start=1):
            self.rows.writerow([image, rank, *record.values()])


WRITERS = {"text": TextWriter, "jsonl": JsonLinesWriter, "csv": CsvWriter}


@contextlib.contextmanager
def open_output(path):
    """Give the text file to write: standard output, or a file that is there when it is complete.

    What its encoding lacks, as a byte of a name that is no UTF-8, is escaped: \\udcff, which JSON reads as it was.
    """
    if not path:
        sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    with (
        replace_file(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file

"""The files that captions of pictures are written to: text, JSON lines, CSV, or a text file beside each picture.

A writer takes the records of a picture, dicts of name -> value: that of its caption first, then the alternatives. JSON
lines and CSV grow picture by picture, and a run that was stopped goes on where it ended: what its file has already is
not captioned again.
"""

import contextlib
import csv
import hashlib
import json
import os
import sys
from array import array
from bisect import bisect_left
from pathlib import Path

import numpy as np

from captioning.data.names import IMAGE_SUFFIXES
from captioning.files import check_kind, hold_lock, replace_file, resolved
from captioning.untrusted import csv_writer, on_one_line, spreadsheet_cell

EXISTING = ("skip", "overwrite")
ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}  # a byte of a name that is no UTF-8 becomes \udcff
BUFFER = 2**20  # bytes; all captions of a picture go to the disk in one piece
MAX_RECORD = 2**24  # bytes of a line; a longer one is of another program


class Writer:
    """What the writers of one file share.

    names: Names of the pictures that stand in it; header: its first row; begin: called before the first caption
    """

    def __init__(self, file, names=(), header=(), begin=lambda: None):
        self.file, self.names, self.header, self.begin = file, names, list(header), begin

    def problem(self, image):
        """Return why the captions of a picture cannot be written; "" = they can."""
        return ""

    def has(self, image):
        """True if a picture was captioned before."""
        return image in self.names


class TextWriter(Writer):
    """path, tab, caption; one line for each caption of a picture. A tab or the end of a line in a name is spelt out."""

    def write(self, image, records):
        """Write the captions of a picture."""
        self.file.writelines(f"{on_one_line(image)}\t{record['caption']}\n" for record in records)


class JsonLinesWriter(Writer):
    """One object a line: image, what the record of its caption holds, alternatives (their records)."""

    def write(self, image, records):
        """Write the captions of a picture."""
        self.begin()
        best, *others = records
        print(json.dumps({"image": image, **best, "alternatives": others}, ensure_ascii=False), file=self.file)
        self.file.flush()


class CsvWriter(Writer):
    """A header, then a row for each caption of a picture: image, rank, what its record holds.

    Text that a spreadsheet would take for a formula has an apostrophe before it, see captioning.untrusted.
    """

    def write(self, image, records):
        """Write the captions of a picture. Raises ValueError if the file has other columns."""
        rows, header = csv_writer(self.file), ["image", "rank", *records[0]]
        if self.header and self.header != header:
            got = ",".join(self.header)
            raise ValueError(f"{self.file.name}: has the columns {got}, not {','.join(header)}; give another --output")
        self.begin()
        if not self.header:
            rows.writerow(header)
            self.header = header
        rows.writerows(
            [*map(spreadsheet_cell, [image, rank, *record.values()])] for rank, record in enumerate(records, start=1)
        )
        self.file.flush()


class SidecarWriter:
    """A text file beside each picture, photo.txt beside photo.jpg: a line for each caption of it.

    existing: skip = a picture that has such a file is not captioned | overwrite
    """

    def __init__(self, existing):
        self.existing = existing

    def problem(self, image):
        """Return why the captions of a picture cannot be written: another has the same text file; "" = they can."""
        path = Path(image)
        for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
            twin = path.with_suffix(suffix)
            if str(twin) < str(path) and is_there(twin) and is_there(path) and not twin.samefile(path):
                return f"shares {path.stem}.txt with {twin.name}"
        return ""

    def has(self, image):
        """True if a picture has its text file."""
        return self.existing == "skip" and is_there(Path(image).with_suffix(".txt"))

    def write(self, image, records):
        """Write the captions of a picture."""
        with replace_file(Path(image).with_suffix(".txt")) as temporary:
            temporary.write_text("".join(f"{record['caption']}\n" for record in records), **ENCODING)


def is_there(path):
    """True if a path exists; not if its name is too long, or a link in a circle."""
    try:
        return path.exists()
    except OSError:
        return False


def identify(model, paths, options):
    """Return what decides the captions of a run: {"model", "model_sha256", "options"}.

    model: its name, for messages; paths: of its files, one that is missing counts as empty; options: name -> value
    """
    digests = []
    for path in paths:
        with open(path if path.is_file() else os.devnull, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return {"model": model, "model_sha256": "+".join(digests), "options": options}


WRITERS = {"text": TextWriter, "jsonl": JsonLinesWriter, "csv": CsvWriter}
FORMATS = (*WRITERS, "txt", "parquet")  # parquet: captioning.deploy.shards


@contextlib.contextmanager
def open_writer(form, path, existing, identity):
    """Give the writer of a format.

    path:     file; "" = standard output. A text is there when it is complete; JSON lines and CSV grow
    existing: of JSON lines, CSV and the files beside pictures: skip what is captioned already | overwrite
    identity: of `identify`; captions of JSON lines and CSV by another model or with other options are replaced

    Raises ValueError if the file is no earlier one of this program, or is being written by another process.
    """
    if form == "txt":
        yield SidecarWriter(existing)
    elif not path:
        sys.stdout.reconfigure(errors=ENCODING["errors"])
        yield WRITERS[form](sys.stdout)
    else:
        check_kind(Path(path))
        path = resolved(path)  # a link stays one, and what belongs to the file lies beside it
        if form == "text":
            check_text(path)
        written = write_anew if form == "text" or existing == "overwrite" else go_on
        with (
            hold_lock(path.with_name(f".{path.name}.lock"), f"{path}: is being written by"),
            written(form, path, identity) as writer,
        ):
            yield writer


def check_text(path):
    """Raise ValueError if a file is there that is not of a TextWriter, by its first lines."""
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines(BUFFER)
        if any("\t" not in line for line in lines):
            raise ValueError(f"{path}: is there, and no file of captions of this program; give another --output")


def keep_identity(path, identity):
    """Write the identity of a run to the hidden file `path`."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(identity), encoding="utf-8")


@contextlib.contextmanager
def write_anew(form, path, identity):
    """Give the writer of a file that takes the place of `path` when it is complete."""
    kept = path.with_name(f".{path.name}.run")
    with replace_file(path) as temporary:
        with open(temporary, "w", newline="", **ENCODING) as file:
            yield WRITERS[form](file)
        kept.unlink(missing_ok=True)  # of the file that is about to go
    if form != "text":
        keep_identity(kept, identity)


@contextlib.contextmanager
def go_on(form, path, identity):
    """Give the writer of a file that grows: it goes on behind what is complete in it, if that is of the same run.

    The hidden file .<name>.run beside it holds the identity of the run.
    """
    kept = path.with_name(f".{path.name}.run")
    scan = Scan(form, path, max(identity.get("options", {}).get(name, 1) for name in ("num_best", "sample")))
    names = Names(scan.images() if same_run(kept, identity) else ())
    try:
        with open(path, "a", buffering=BUFFER, newline="", **ENCODING) as file:

            def begin():
                writer.begin = lambda: None
                file.truncate(scan.end)
                keep_identity(kept, identity)

            writer = WRITERS[form](file, names, scan.header, begin)
            yield writer
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            if not path.stat().st_size:
                path.unlink()
                kept.unlink(missing_ok=True)


def same_run(path, identity):
    """True unless the file `path` holds another identity; where there is none, a file of captions may still be ours."""
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return True
    return not isinstance(kept, dict) or {**kept, "model": ""} == {**identity, "model": ""}


class Scan:
    """Reads what an earlier run wrote.

    num_rows: of a picture in a CSV; of the last, fewer may be all there are, or a full disk has cut them
    end:      bytes of the complete pictures; header: the first row of a CSV
    """

    def __init__(self, form, path, num_rows=1):
        self.form, self.path, self.num_rows = form, path, num_rows
        self.end, self.header = 0, []

    def images(self):
        """Yield each picture that is complete. Raises ValueError for a record that this program did not write."""
        image, begin, rows = None, 0, 0  # of a CSV: the picture that the last record belongs to
        for number, record in enumerate(self.records(), start=1):
            try:
                if self.form == "jsonl":
                    yield json.loads(record)["image"]
                    continue
                (row,) = csv.reader([record.decode()], strict=True)
                if number == 1:
                    self.header = row
                if self.header[:2] != ["image", "rank"] or len(row) != len(self.header):
                    raise ValueError("other columns")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error):
                raise ValueError(
                    f"{self.path}: record {number} is not of this program; give another --output"
                ) from None
            rows += 1
            if number > 1 and row[1] == "1":
                if image is not None:
                    yield image
                # Without what captioning.untrusted.spreadsheet_cell puts before it.
                image, begin, rows = row[0].removeprefix("'"), self.end - len(record), 1
        if image is not None and rows < self.num_rows:
            self.end = begin
        elif image is not None:
            yield image

    def records(self):
        """Yield the complete records of the file, as bytes; a quoted field of a CSV may have several lines."""
        if not self.path.exists():
            return
        record = b""
        with open(self.path, "rb") as file:
            while line := file.readline(MAX_RECORD):
                record += line
                if len(record) >= MAX_RECORD:
                    raise ValueError(f"{self.path}: has a line of {MAX_RECORD:,} bytes; give another --output")
                if line.endswith(b"\n") and (self.form == "jsonl" or record.count(b'"') % 2 == 0):
                    self.end += len(record)
                    yield record
                    record = b""


class Names:
    """The names of any number of pictures, 8 bytes each: `name in names`.

    Of ten million names and as many others, one is mistaken for another with a probability of 5 in a million.
    """

    def __init__(self, names):
        self.digests = np.asarray(array("Q", map(digest, names)), dtype=np.uint64)
        self.digests.sort()

    def __contains__(self, name):
        found = digest(name)
        place = bisect_left(self.digests, found)
        return place < len(self.digests) and int(self.digests[place]) == found


def digest(name):
    """Return 64 bits of a name; a byte that is no UTF-8 counts as what the files have in its place."""
    return int.from_bytes(hashlib.blake2b(name.encode(**ENCODING), digest_size=8).digest(), "little")

"""Tar shards: plain tar files of pictures with their captions, as webdataset reads and img2dataset writes them.

    00042.tar
        000420001.jpg     the picture
        000420001.txt     its caption
        000420001.json    what else is known: {"url": ..., "sha256": ...}; of this project "captions" and "label"
        000420002.jpg ...

A key is a member's name up to the first dot of its last part; what follows is its suffix. Members of a key stand side
by side. Nothing is unpacked: a member is read from its place in the shard, and its name is never taken for a path.

A picture in a shard has a path of its own, which says where it stands: 00042.tar/<first byte>+<bytes>/000420001.jpg.
So datasets of shards are read in any order, as folders are.
"""

import glob
import io
import itertools
import json
import os
import posixpath
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from captioning.cli import one_line
from captioning.data.names import IMAGE_SUFFIXES
from captioning.data.omissions import checked_caption
from captioning.files import check_regular, read_bytes, replace_file

SUFFIX = ".tar"
PICTURES = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
TEXTS = frozenset(("txt", "json"))
MAX_PICTURE_BYTES = 2**28  # of a member: 100 megapixels take 300 MB as they are, and a third of it in any format
MAX_TEXT_BYTES = 2**20
SILENT_SHARE = 0.05  # of samples without a caption; more is an error, fewer are skipped and named
NAMED = 5  # of the samples that were left out
MAX_SHARDS = 10_000_000  # that braces may stand for
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_END = bytes(tarfile.BLOCKSIZE)  # a tar ends with blocks of zeros


@dataclass
class Sample:
    """The members of one key.

    members:  suffix ("jpg", "txt") -> bytes, of the members that were asked for
    place:    the path of its picture, see the module's docstring; "" = it was not asked for
    names:    all its members, by their names in the shard
    problem:  why a member that was asked for is not there, one line; "" = nothing is missing
    repeated: the key stood in the shard before
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    place: str = ""
    names: list[str] = field(default_factory=list)
    problem: str = ""
    repeated: bool = False

    @property
    def picture(self):
        """The bytes of its picture, None if it has none."""
        return next((content for suffix, content in self.members.items() if suffix in PICTURES), None)

    @property
    def info(self):
        """The object in its .json; {} where there is none, or it cannot be read."""
        if "json" not in self.members:
            return {}
        try:
            found = json.loads(self.members["json"])
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def captions(self):
        """Its captions: the list "captions" in its .json, else the text of its .txt as one."""
        listed = self.info.get("captions")
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            return listed
        text = " ".join(self.members.get("txt", b"").decode("utf-8-sig", errors="replace").split())
        return [text] if text else []


# ---- which shards ----------------------------------------------------------------------------------


def is_shards(name):
    """True if a name, with braces or a pattern perhaps, is that of tar shards."""
    return str(name).endswith(SUFFIX)


def find_shards(names):
    """Return the Paths of shards in order: names, globs, and braces as in {00000..00099}.tar.

    Raises ValueError if a name is no shard's, or if nothing is there. One of many that is missing is not looked for.
    """
    found = []
    for name in names:
        if not is_shards(name):
            raise ValueError(f"{name}: the name of a tar shard ends in {SUFFIX}")
        if os.path.exists(name):  # whatever brackets it has
            paths = [Path(name)]
        elif glob.has_magic(name):
            paths = [Path(one) for one in sorted(glob.glob(name, recursive=True))]
        else:
            paths = [Path(one) for one in expand_braces(name)]
        if not any(path.exists() for path in paths):
            first = f" (looked for {paths[0]} and so on)" if len(paths) > 1 else ""
            raise ValueError(f"{name}: no such shard{first}")
        found += paths
    return found


def expand_braces(name):
    """Yield the names that a text with {00000..00099} stands for, in order; both ends have the same zeros before them.

    Raises ValueError if they are more than MAX_SHARDS, or a range runs backwards.
    """
    ranges = [(int(first), int(last), len(first)) for first, last in _RANGE.findall(name)]
    total = 1
    for first, last, _ in ranges:
        if last < first:
            raise ValueError(f"{name}: the range from {first} to {last} runs backwards")
        total *= last - first + 1
    if total > MAX_SHARDS:
        raise ValueError(f"{name}: stands for {total:,} shards, allowed are {MAX_SHARDS:,}")
    frame = _RANGE.sub("\0", name).split("\0")
    for numbers in itertools.product(*(range(first, last + 1) for first, last, _ in ranges)):
        texts = [f"{number:0{width}}" for number, (_, _, width) in zip(numbers, ranges, strict=True)]
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(frame, texts, fillvalue="")))


# ---- reading -----------------------------------------------------------------------------------------


class ShardFile(io.BufferedReader):
    """A shard on disk; no more of it is read at a time than a member may have, whatever a header claims."""

    def __init__(self, path):
        check_regular(path)
        super().__init__(io.FileIO(path))

    def read(self, size=-1):
        """Return the next `size` bytes. Raises tarfile.ReadError if that is more than a member may have."""
        if not 0 <= size <= MAX_PICTURE_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def read_samples(path, suffixes, placed=frozenset()):
    """Yield the Samples of a shard in order.

    suffixes: of the members to read, as PICTURES or TEXTS; the others are passed over
    placed:   suffixes of pictures that are not read, but whose place is noted

    Raises ValueError naming the shard where it is missing, cut, or no tar; what stood before the damage was yielded.
    """
    seen = set()
    try:
        with ShardFile(path) as file:
            for key, group in itertools.groupby(walk(file), key=lambda member: member[0]):
                sample = Sample(key, repeated=key in seen)
                seen.add(key)
                for _, suffix, info in group:
                    add_member(sample, suffix, info, file, suffixes, placed)
                yield sample
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole tar ({one_line(error)})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def walk(file):
    """Yield (key, suffix, TarInfo) of each member that has a key. Raises tarfile.ReadError where the tar is damaged."""
    with open_tar(file) as tar:
        before = -1
        while (info := next_member(tar)) is not None:
            if info.size < 0 or tar.offset <= before:  # a negative size would lead back for ever
                raise tarfile.ReadError(f"a member of {info.size} bytes")
            before = tar.offset
            tar.members.clear()  # else it keeps them all
            key, suffix = split_name(info.name)
            if key and not info.isdir():
                yield key, suffix, info
        # tarfile takes a damaged header for the end, a block of zeros too, and a file without an end for a whole one.
        rest = file.seek(0, os.SEEK_END) - tar.offset
        if rest > MAX_PICTURE_BYTES:
            raise tarfile.ReadError(f"{rest:,} bytes behind its end at byte {tar.offset:,}")
        file.seek(tar.offset)
        if file.read(len(_END)) != _END or file.read(rest).strip(b"\0"):
            raise tarfile.ReadError(f"cut or damaged at byte {tar.offset:,}")


NO_HEADER = (ValueError, RecursionError)  # what tarfile raises on numbers that are none, and headers of headers


def open_tar(file):
    """Return the TarFile of an open shard, whose first header is read. Raises tarfile.ReadError where it is none."""
    try:
        return tarfile.TarFile(fileobj=file, mode="r")
    except NO_HEADER as error:
        raise tarfile.ReadError(f"damaged at its first header: {one_line(error, 80)}") from None


def next_member(tar):
    """Return the next TarInfo of a TarFile, None at its end. Raises tarfile.ReadError where its header is none."""
    try:
        return tar.next()
    except NO_HEADER as error:
        raise tarfile.ReadError(f"damaged at byte {tar.offset:,}: {one_line(error, 80)}") from None


def split_name(name):
    """Return (key, suffix in small letters) of a member; ("", "") for a hidden one and one without a suffix."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else ("", "")


def add_member(sample, suffix, info, file, suffixes, placed):
    """Read a member into its sample if its suffix is among those wanted, and note why if that cannot be done."""
    sample.names.append(info.name)
    if suffix not in suffixes and suffix not in placed:
        return
    problem = ""
    most = MAX_PICTURE_BYTES if suffix in PICTURES else MAX_TEXT_BYTES
    if suffix in sample.members or (suffix in PICTURES and (sample.place or sample.picture is not None)):
        problem = f"two members of one key: {sample.names[0]} and {info.name}"
    elif info.name.startswith("/") or ".." in info.name.split("/"):
        problem = f"{info.name}: its name leads out of the shard"
    elif not info.isreg() or info.sparse is not None:
        problem = f"{info.name}: is a link, a device or a pipe, not a file"
    elif info.size > most:
        problem = f"{info.name}: {info.size:,} bytes, at most {most:,} are read"
    elif suffix in placed:
        sample.place = f"{file.name}/{info.offset_data}+{info.size}/{posixpath.basename(info.name)}"
    else:
        file.seek(info.offset_data)
        content = file.read(info.size)
        if len(content) < info.size:
            raise tarfile.ReadError(f"cut at byte {info.offset_data + len(content):,}")
        sample.members[suffix] = content
    sample.problem = sample.problem or problem


_PLACE = re.compile(rf"(.+{re.escape(SUFFIX)})/(\d+)\+(\d+)/[^/]+")


def split_place(path):
    """Return (shard, first byte, bytes) of the path of a picture in a shard; None for any other path."""
    path = os.fspath(path)
    if SUFFIX not in path or not (found := _PLACE.fullmatch(path.replace(os.sep, "/"))):
        return None
    return found[1], int(found[2]), int(found[3])


def open_picture(path):
    """Return the picture that stands at a place in a shard, as a binary file; None for any other path.

    Raises ValueError if its shard is missing or too short.
    """
    if not (place := split_place(path)):
        return None
    shard, begin, size = place
    try:
        with ShardFile(shard) as file:
            file.seek(begin)
            content = file.read(size)
    except (OSError, tarfile.ReadError) as error:
        raise ValueError(f"{path}: cannot be read ({one_line(error)})") from None
    if len(content) < size:
        raise ValueError(f"{path}: the shard has been cut since its pictures were looked up")
    return io.BytesIO(content)


def read_picture(path):
    """Return the bytes of a picture, a file or one in a shard."""
    file = open_picture(path)
    return file.getvalue() if file else read_bytes(path)


class CaptionedSamples:
    """The samples of shards that have captions: (shard, Sample, captions), read as they are asked for.

    paths:  of the shards
    placed: as in read_samples; a sample without such a picture is left out
    number: of all samples; failed: a line for each that was left out; after all were read

    Iterating raises ValueError, naming the shard, where one is broken; or in the end, if more than a small share of the
    samples was left out.
    """

    def __init__(self, paths, placed=frozenset()):
        self.paths, self.placed, self.number, self.failed = list(paths), placed, 0, []

    def __iter__(self):
        self.number, self.failed = 0, []
        for path in self.paths:
            for sample in read_samples(path, TEXTS, self.placed):
                self.number += 1
                try:
                    if sample.repeated or sample.problem:
                        raise ValueError(f"{path}: {sample.problem or f'{sample.key} stands in it twice'}")
                    captions = sample.captions
                    if not captions:
                        raise ValueError(f"{path}: {sample.key}: no caption")
                    if self.placed and not sample.place:
                        raise ValueError(f"{path}: {sample.key}: no picture")
                    found = path, sample, [checked_caption(text, path, sample.key) for text in captions]
                except ValueError as error:
                    self.failed.append(str(error))
                    continue
                yield found
        if len(self.failed) > SILENT_SHARE * self.number:
            share = f"{len(self.failed):,} of {self.number:,} samples"
            what = "have no picture or no caption" if self.placed else "have no caption"
            raise ValueError(f"{share} {what}, at most {SILENT_SHARE:.0%} may lack one; {self.failed[0]}")

    def warnings(self):
        """Return a line for each of the first samples that were left out."""
        count = f"{len(self.failed):,} of {self.number:,} samples"
        return [f"warning: {line}; left out ({count})" for line in self.failed[:NAMED]]


class ShardCaptions(CaptionedSamples):
    """The captions of shards, read as they are asked for: the memory does not grow with their number."""

    def __iter__(self):
        for _, _, captions in super().__iter__():
            yield from captions


# ---- writing -------------------------------------------------------------------------------------------


def write_shard(path, samples):
    """Write a shard, whole or not at all; the same samples give the same bytes.

    samples: of (key, {suffix: bytes})
    """
    with replace_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for key, members in samples:
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))

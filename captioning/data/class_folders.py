"""Folders of photographs, with classes and splits or without, to square JPEGs without copies, shared out to the splits.

The steps in order: list_photos, choose_classes, gather_photos (decode, crop, drop copies), place_photos.
Nothing is written outside the folder that the caller gives.
"""

import difflib
import functools
import itertools
import os
import random
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from captioning.cli import one_line
from captioning.data.annotations import Example
from captioning.data.copies import CopyGroups, describe_picture, process_map
from captioning.data.images import load_image
from captioning.data.names import is_image_name, list_tree, listed, other_ending
from captioning.data.places import read_folders
from captioning.data.splits import SPLITS
from captioning.files import resolved
from captioning.progress import Progress

JPEG_QUALITY = 92
ORIENTATION = 0x0112  # EXIF tag; 1 = as stored
WRITTEN = {*SPLITS, "captions.csv", "aliases.csv", "preview.png"}  # what a dataset folder of this project holds


@dataclass(frozen=True)
class Photo:
    """A usable photograph: its (split, class), its name in the source, and the square JPEG made of it."""

    group: tuple
    name: str
    path: Path


@dataclass
class Gathered:
    """What became of the photographs looked at."""

    photos: dict[tuple, list[Photo]]  # (split, class) -> those to use, in their random order
    looked_at: int = 0
    unreadable: list[str] = field(default_factory=list)  # one error line each
    exact: int = 0  # dropped copies, byte for byte
    near: int = 0  # dropped copies, by perceptual hash and colours


# ---- what there is ---------------------------------------------------------------------------------


def list_files(source):
    """Return (names of the images below a folder, sorted, Counter of the endings of files that are not read)."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; --source takes a folder of photos, as <class>/<image>.jpg")
    files = [os.path.join(folder, name) for folder, names in list_tree(source) for name in names]
    names = sorted(name for name in files if is_image_name(name))
    others = Counter(ending for name in files if (ending := other_ending(name)))
    if not names:
        found = f", but {listed(others)}, which are not read; convert them to JPEG" if others else ""
        raise ValueError(f"{source}: no images in it or in folders below it{found}")
    return names, others


def list_photos(source):
    """Return (Examples without captions, sorted by path, Counter of the endings of files that are not read).

    Folders say the split and the class of each, see places.read_folders; "" = they say none.
    """
    names, others = list_files(source)
    places = read_folders(names, source)
    photos = [Example(source / name, [], label, split) for name, (split, label) in zip(names, places, strict=True)]
    return photos, others


def choose_classes(available, wanted):
    """Return the classes to use: all for "", the first N for "N", or those of a list "a,b,c"."""
    if not wanted.strip():
        return available
    if wanted.strip().isdecimal():
        number = int(wanted)
        if not 1 <= number <= len(available):
            raise ValueError(f"classes: got {number}, allowed is 1 to {len(available)}, as many as there are")
        return available[:number]
    names = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    if not names:
        raise ValueError(f"classes: got {wanted!r}, allowed is a number, or names with commas between them")
    for name in names:
        if name not in available:
            nearest = difflib.get_close_matches(name, available, n=1, cutoff=0)[0]
            raise ValueError(
                f"classes: there is no {name!r} among the {len(available)} folders; nearest is {nearest!r}"
            )
    return names


# ---- decoding ----------------------------------------------------------------------------------------


def read_square(path, size):
    """Return the picture upright, cropped to its central square and resized to size x size, in RGB."""
    return ImageOps.fit(load_image(path, size), (size, size), Image.Resampling.LANCZOS)


def is_square_jpeg(path, size):
    """True for a JPEG that needs no change, and so none of the loss of writing it anew."""
    with Image.open(path) as image:
        upright = image.getexif().get(ORIENTATION, 1) == 1
        return upright and (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))


def make_square(task, size):
    """Write the square JPEG of one photograph.

    task:    (photograph, JPEG to write)
    returns: copies.Picture of the square, with the digest of the photograph's file; or the error line if it is
             unreadable, in which case nothing is written
    """
    source, target = task
    try:
        square = read_square(source, size)
        as_it_is = is_square_jpeg(source, size)
        picture = describe_picture(square, source)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        line = one_line(error)
        return line if str(source) in line else f"{source}: not a readable image ({line})"
    if as_it_is:
        shutil.copyfile(source, target)
    else:
        square.save(target, format="JPEG", quality=JPEG_QUALITY)
    return picture


@dataclass(frozen=True)
class Gathering:
    """How photographs are gathered.

    need:     images of each class; 0 = all there are
    size:     pixels a side of the square JPEGs
    distance: of CopyGroups
    seed:     of the order in which they are read
    """

    need: int
    size: int
    distance: int
    seed: int


def gather_photos(paths, candidates, folder, gathering, num_workers=1, progress=True):
    """Read photographs in random order until each class has `need` without copies, or is used up.

    paths:      name of an image -> its path
    candidates: (split, class) -> names of images; a split of "" is not known
    folder:     where the square JPEGs go; those of dropped images stay there as well

    Of a group of copies one image stays, the first read, across classes and splits too. Looking at no more images
    than needed saves most of the time on large sources.
    """
    waiting = {}
    for group, names in candidates.items():
        waiting[group] = sorted(names)
        place = "/".join(filter(None, group))  # so a class's order hangs on no other class
        random.Random(f"{gathering.seed} {place}").shuffle(waiting[group])
    groups, read, result = CopyGroups(gathering.distance), [], Gathered(photos={})
    need = gathering.need
    lacking = {group: need or len(names) for group, names in waiting.items()}
    reading = Progress(total=0, desc="reading", unit=" images", disable=not progress)
    with process_map(num_workers) as run, reading as bar:
        while batch := [(group, name) for group in waiting for name in waiting[group][: lacking[group]]]:
            waiting = {group: names[lacking[group] :] for group, names in waiting.items()}
            bar.total = result.looked_at + len(batch)
            targets = [folder / f"{result.looked_at + i:07}.jpg" for i in range(len(batch))]
            tasks = [(paths[name], target) for (_, name), target in zip(batch, targets, strict=True)]
            pictures, results = [], run(functools.partial(make_square, size=gathering.size), tasks)
            for (group, name), (_, target), answer in zip(batch, tasks, results, strict=True):
                bar.update()
                if isinstance(answer, str):
                    result.unreadable.append(answer)
                else:
                    pictures.append(answer)
                    read.append(Photo(group, name, target))
            result.looked_at += len(batch)
            if pictures:
                groups.add(pictures)
            kept = [photo for photo, first in zip(read, groups.firsts(), strict=True) if first]
            have = Counter(photo.group for photo in kept)
            lacking = {group: max(0, need - have[group]) for group in waiting}
    result.photos = {group: [photo for photo in kept if photo.group == group] for group in candidates}
    result.exact = int(groups.exact.sum())
    result.near = int((~groups.firsts() & ~groups.exact).sum())
    return result


# ---- the dataset's folder ------------------------------------------------------------------------------


def place_photos(photos, class_folder, sizes, folder):
    """Move the JPEGs of a class to folder/<split>/<class>/, the first sizes["train"] to train and so on.

    class_folder: of spelling.folder_names, "" = no class: they go to folder/<split>/
    returns:      path relative to `folder` -> the photograph's name in the source
    A file keeps its name as far as it is a plain one.
    """
    origin, taken, rest = {}, set(), iter(photos)
    for split, count in sizes.items():
        place = f"{split}/{class_folder}" if class_folder else split
        for photo in itertools.islice(rest, count):
            stem = re.sub(r"[^\w.()+-]", "_", Path(photo.name).stem)
            while stem.lower() in taken:  # 1.jpg beside 1.png, or a.jpg beside A.jpg
                stem += "_"
            taken.add(stem.lower())
            name = f"{place}/{stem}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            photo.path.rename(folder / name)
            origin[name] = photo.name
    return origin


def check_replaceable(path, inputs):
    """Raise ValueError if a dataset must not be written to `path`: it holds an input, or something else of value."""
    path = resolved(path)
    for source in map(resolved, inputs):
        if path == source or path in source.parents:
            raise ValueError(f"{path}: the output would replace {source}, which is read; give another --output")
        if source in path.parents:  # the next time its pictures would be taken for further ones of the source
            raise ValueError(f"{path}: the output would lie inside {source}, which is read; give another --output")
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path}: is a file; give another --output")
    found = set(os.listdir(path))
    others = sorted(found - WRITTEN)
    if others:
        raise ValueError(f"{path}: holds {others[0]}, which is no part of a dataset; give another --output")
    if found and "captions.csv" not in found:
        raise ValueError(f"{path}: holds {min(found)} without a captions.csv; give another --output")


def check_own(path):
    """Raise ValueError if an older dataset is not of prepare_data.py, which draws a preview of all but shards."""
    found = set(os.listdir(path)) if path.is_dir() else set()
    if found and "preview.png" not in found and not any((path / "train").glob("*.tar")):
        told = "holds a dataset without a preview.png, so not of prepare_data.py; give another --output"
        raise ValueError(f"{path}: {told}")


@contextmanager
def scratch_folder(folder):
    """Give a folder inside `folder` that is gone after the block."""
    scratch = folder / ".scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

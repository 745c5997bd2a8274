"""Captioned images on disk to a list of Example; the layout is recognised by looking at the path given.

    captions.csv                        the project's own layout, {train,val,test}/<class>/<image> beside it
    captions.csv, captions.txt, ...     any table of image and caption: Flickr8k, Flickr30k, a folder of pictures
    metadata.csv, metadata.jsonl        image folders of Hugging Face, in the folder or in that of each split
    dataset.json, dataset_*.json        Karpathy's JSON (COCO, Flickr8k/30k, UCM-Captions, RSICD)
    captions_*.json, annotations/...    COCO captions; instances_*.json beside them gives the classes
    captions.json, captions.jsonl       lists of image and caption
    1.jpg beside 1.txt                  a text file for each picture, a caption a line
    train/{00000..00099}.tar            tar shards, see captioning/data/tars.py; other splits from the folder around

A reader turns a file into entries (caption_tables, caption_json, or read_sidecars here). What is the same for all of
them happens here: the pictures are looked for, folders give classes and splits where the file does not, what cannot be
used is left out and counted, and images without a split are shared out.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from captioning.data.caption_json import instances_path, read_json_captions, read_json_lines
from captioning.data.caption_tables import read_pairs, read_table
from captioning.data.entries import Entry
from captioning.data.examples import Example, ExampleFile, sorted_lines, take_examples
from captioning.data.names import (
    HERE,
    IMAGE_FOLDERS,
    OTHER_PICTURES,
    Pictures,
    check_links,
    is_image_name,
    list_tree,
)
from captioning.data.omissions import Omissions
from captioning.data.places import pass_over, read_folders
from captioning.data.spelling import folded
from captioning.data.splits import (
    SPLITS,
    check_split,
    hold_out,
    read_split_lists,
    share_out,
    split_lists,
    split_of_file,
    split_of_folder,
)
from captioning.data.tars import PICTURES, CaptionedSamples, find_shards, is_shards
from captioning.files import read_lines, resolved

DEFAULT_DATA_DIR = "data/pictograms"
PICTURE_SETTINGS = ("images_dir", "allow_missing", "allow_links")
SIDECARS = (".txt", ".caption")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A captioned dataset, parsed once and handed on.

    name:    of its folder
    root:    the folder that paths in a report are written relative to
    splits:  split -> its Examples in file order, a list, of tar shards an ExampleFile; none is empty
    aliases: class -> further words that name it, {} = none
    """

    name: str
    root: Path
    splits: dict[str, list[Example] | ExampleFile]
    aliases: dict[str, list[str]]

    @property
    def examples(self):
        """The Examples of all splits, a list."""
        return list(chain.from_iterable(self.splits.values()))

    @property
    def classes(self):
        """The class names of all splits, sorted; [] = data without classes."""
        return sorted({example.label for example in chain.from_iterable(self.splits.values())} - {""})

    def fingerprint(self, split):
        """Return twelve hex digits that tell this split from every other; see `fingerprint`."""
        return fingerprint(self.splits[split])


# ---- what the scripts call -----------------------------------------------------------------------


def load_dataset(data_dir, *needed, **settings):
    """Read a dataset, once for a process.

    data_dir: a dataset folder or its annotation file, in one of the layouts above
    needed:   splits that must have examples
    settings: images_dir, allow_missing and allow_links, as `load_examples` takes them; what it raises is raised
    """
    for split in needed:
        check_split(split)
    examples = read_layout(data_dir, **settings)
    split_of = assign_splits(examples, data_dir)
    rows = {split: np.flatnonzero(split_of == number) for number, split in enumerate(SPLITS)}
    splits = {split: take_examples(examples, rows[split], split) for split in SPLITS if len(rows[split])}
    for split in needed:
        check_present(split, splits, data_dir)
    return Dataset(dataset_name(data_dir), dataset_root(Path(data_dir)), splits, load_aliases(data_dir))


def load_examples(data_dir, split="", silent=None, images_dir="", allow_missing=False, allow_links=False):
    """Every captioned image of a dataset in file order, or those of one split.

    data_dir:      a dataset folder or its annotation file, in one of the layouts above
    split:         "train", "val", "test" or "" = all
    silent:        a list that takes the names of images without a caption, of which many are an error otherwise
    images_dir:    the folder of the pictures, "" = that of the dataset
    allow_missing: leave out pictures that are not there, however many
    allow_links:   follow symbolic links that lead out of the folder, or out of images_dir

    Where the dataset has no splits, images are shared out 8:1:1, where it has no val, a tenth of train is taken; both
    are said, and the same each time. What is left out is said, too.
    Raises ValueError or FileNotFoundError, in one line that names the file (and line or key): unknown layout,
    malformed file, more than a small share of captions, images or pictures that cannot be used, an image in
    two splits or classes, a split without an example, a link that leads out of the folder.
    """
    if split:
        check_split(split)
    settings = {"images_dir": images_dir, "allow_missing": allow_missing, "allow_links": allow_links}
    examples = read_layout(data_dir, split, silent, **settings)
    names = [SPLITS[number] if number >= 0 else "" for number in assign_splits(examples, data_dir)]
    if split:
        check_present(split, names, data_dir)
    placed = zip(examples, names, strict=True)
    return [e if e.split == name else replace(e, split=name) for e, name in placed if split in ("", name)]


def read_layout(data_dir, split="", silent=None, **settings):
    """Return what `read_shards` or `read_examples` reads of a dataset, with the splits that it has."""
    if is_shards(data_dir):
        return read_shards(data_dir, **settings)
    return read_examples(data_dir, split, silent, **settings)


def picture_settings(config):
    """Return what a script's CONFIG says of a dataset's pictures, as arguments of `load_examples`."""
    return {key: config[key] for key in PICTURE_SETTINGS}


def data_flags(config):
    """Return the flags with which another script reads the same data."""
    return {"data_dir": config["data_dir"]} | {key: value for key, value in picture_settings(config).items() if value}


def check_present(split, splits, data_dir):
    """Raise ValueError if a split is not among the `splits` of the examples."""
    if split not in splits:
        present = ", ".join(name for name in SPLITS if name in splits)
        raise ValueError(f"{data_dir}: split {split!r} has no example; the splits there are {present}")


def assign_splits(examples, data_dir):
    """Return (N,) the split of each Example as its place in SPLITS, -1 = none; say so where it is not their own."""
    split_of = np.fromiter((SPLITS.index(e.split) if e.split else -1 for e in examples), np.int8, len(examples))
    train, val = SPLITS.index("train"), SPLITS.index("val")
    if (split_of < 0).all():
        split_of = share_out(example.image.as_posix() for example in examples)
        shares = ", ".join(f"{(split_of == number).sum():,} {split}" for number, split in enumerate(SPLITS))
        print(f"note: {data_dir} has no splits; its images are shared out at random, the same each time: {shares}")
        return split_of
    rows = np.flatnonzero(split_of == train)
    if len(rows) > 1 and val not in split_of:
        held_out = hold_out(examples[row].image.as_posix() for row in rows)
        split_of[rows[held_out]] = val
        print(
            f"note: {data_dir} has no val split; taken for it at random, the same each time: {len(held_out):,} of the "
            f"{len(rows):,} images of train"
        )
    return split_of


def dataset_name(data_dir):
    """The name of a dataset: that of its folder, also when the annotation file is given."""
    return resolved(dataset_root(Path(data_dir))).name


def load_aliases(data_dir):
    """Words that name a class without saying its label, from the optional aliases.csv (class,alias).

    returns: class -> aliases in file order; {} when the dataset has no such file
    """
    path = dataset_root(Path(data_dir)) / "aliases.csv"
    aliases = defaultdict(list)
    if path.is_file():
        for line, (label, alias) in read_pairs(path, ("class", "alias")):
            if not label or not alias:
                raise ValueError(f"{path}: line {line}: empty class or alias")
            aliases[label].append(alias)
    return dict(aliases)


def fingerprint(examples):
    """Twelve hex digits of a sha256 over image names, labels, splits and captions.

    Neither the folder's place nor the order of the images changes it.
    """
    digest, between = hashlib.sha256(), b""
    for line in sorted_lines(json.dumps([e.image.name, e.label, e.split, e.captions]) for e in examples):
        digest.update(between + line)
        between = b"\n"
    return digest.hexdigest()[:12]


# ---- which files, which reader -------------------------------------------------------------------


def read_sidecars(root, omissions):
    """Return the entries of a folder with a text file beside each picture, a caption a line."""
    entries = []
    for name, sidecar in list_sidecars(root):
        texts = []
        if sidecar:
            path = Path(root, sidecar)
            lines = [(n, line) for n, line in enumerate(read_lines(path), 1) if line.strip()]
            texts = [omissions.caption(line, path, f"line {number}") for number, line in lines]
        entries.append(Entry(name, list(filter(None, texts)), None, "", sidecar or name))
    return entries


def list_sidecars(root):
    """Yield (picture, the text file of its name beside it, "" = none) of a folder, relative to it."""
    for folder, names in list_tree(root):
        there = set(names)
        for name in filter(is_image_name, names):
            sidecar = next(filter(there.__contains__, sidecar_names(name)), "")
            yield posixpath.join(folder, name), sidecar and posixpath.join(folder, sidecar)


def sidecar_names(name):
    """Return the names that the text file of a picture may have: 1.txt or 1.jpg.txt beside 1.jpg."""
    return [stem + suffix for suffix in SIDECARS for stem in (posixpath.splitext(name)[0], name)]


def has_sidecars(root):
    """True if a picture below a folder has a text file of its name beside it."""
    for _, names in list_tree(root):
        if any(name.endswith(SIDECARS) for name in names):
            there = set(names)
            if any(not there.isdisjoint(sidecar_names(name)) for name in filter(is_image_name, names)):
                return True
    return False


class NoAnnotationsError(ValueError):
    """A folder has no captions in any layout."""


@dataclass(frozen=True)
class Layout:
    """A layout of annotations.

    name:     as messages call it
    patterns: of its files in a dataset's folder; of several, each is of another split
    """

    name: str
    patterns: tuple


LAYOUTS = (
    Layout(
        "a table", ("captions.csv", "captions.tsv", "captions.txt", "results.csv", "captions_*.csv", "captions_*.tsv")
    ),
    Layout("Flickr8k's or Flickr30k's list", ("Flickr8k.token.txt", "results_20130124.token")),
    Layout("Hugging Face's", ("metadata.csv", "metadata.jsonl", "*/metadata.csv", "*/metadata.jsonl")),
    Layout("Karpathy's", ("dataset.json", "dataset_*.json")),
    Layout("COCO's", ("captions_*.json", "annotations/captions_*.json")),
    Layout("a list", ("captions.json", "captions.jsonl", "captions_*.jsonl", "coco_karpathy_*.json")),
)
READERS = {  # by a file's ending
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_table,
    ".token": read_table,
    ".json": read_json_captions,
    ".jsonl": read_json_lines,
    "": read_sidecars,  # a folder
}
MANY_TABLES = 3  # files in a dataset's folder that may have the captions; of more none is named
ADVICE = {  # by a file's ending
    (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"): "unpack it",
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet as CSV",
    (".parquet", ".arrow", ".feather"): "save it as CSV, and the pictures as files",
}
ACCEPTED = (
    "accepted are a folder with captions.csv, captions.txt, metadata.csv or .jsonl, dataset.json (Karpathy), "
    "captions_*.json (COCO), or 1.txt beside 1.jpg, or such a file itself"
)


def find_annotations(path):
    """Return ([annotation files], the dataset's folder); the files of one layout, or a folder of sidecars.

    Raises FileNotFoundError or ValueError where there are none, or of more than one layout.
    """
    if path.is_file():
        if path.suffix.lower() not in READERS or not path.suffix:
            told = next((told for endings, told in ADVICE.items() if path.name.lower().endswith(endings)), ACCEPTED)
            raise ValueError(f"{path}: not a known caption file; {told}")
        return [path], dataset_root(path)
    if not path.is_dir():
        if resolved(path) == resolved(DEFAULT_DATA_DIR):
            raise FileNotFoundError(f"{path}: no such folder; `python prepare_data.py` makes it")
        raise FileNotFoundError(f"{path}: no such file or folder")
    root = dataset_root(path)
    for below in ("", "*/"):
        found = [files for layout in LAYOUTS if (files := find_files(path, layout, below))]
        if found:
            files = list(chain.from_iterable(found))
            if len(found) > 1 or (len(files) > 1 and not all(split_of(file, root) for file in files)):
                names = ", ".join(file.relative_to(path).as_posix() for file in files)
                raise ValueError(f"{path}: holds {names}; give the path of one of them")
            return one_for_each_split(files, root), root
    there = [file for folder in (path, path / "annotations") if folder.is_dir() for file in folder.iterdir()]
    tables = sorted(file for file in there if file.suffix and file.suffix.lower() in READERS and file.is_file())
    if named := [file for file in tables if file.suffix.lower() != ".txt" and split_of_file(file)]:
        return one_for_each_split(named, root), root
    if has_sidecars(path):
        return [path], path
    if 1 <= len(tables) <= MANY_TABLES:
        told = f"give the path of {tables[0].relative_to(path)} if it has the captions"
    elif any(is_image_name(name) for _, names in list_tree(path) for name in names):
        told = "of pictures and a table elsewhere prepare_data.py --source makes a dataset, see docs/data.md"
    else:
        told = ACCEPTED
    raise NoAnnotationsError(f"{path}: no known caption file in it; {told}")


def find_files(path, layout, below):
    """Return the files of a layout in a folder, sorted; below: "" = there, "*/" = in the folders in it."""
    patterns = [below + pattern for pattern in layout.patterns]
    for place, pattern in enumerate(patterns):
        if "/" not in pattern:  # in whatever case; below the folder it would take a look at the name of each picture
            patterns[place] = re.sub("[a-zA-Z]", lambda letter: f"[{letter[0].lower()}{letter[0].upper()}]", pattern)
    files = set(chain.from_iterable(map(path.glob, patterns)))
    return sorted(file for file in files if file.is_file() or file.is_fifo())


def text_files(files, root, given):
    """Return the paths of the annotation files and of the texts that are read with them.

    given: what the user named, which is left out: he may name a link
    """
    found = [root / "aliases.csv"]
    for path in files:
        if path.is_dir():
            found += [path / sidecar for _, sidecar in list_sidecars(path) if sidecar]
        else:
            found += [path, instances_path(path), *split_lists(path.parent)]
    return [path for path in found if path != given]


def one_for_each_split(files, root):
    """Return the files. Raises ValueError if two are of one split."""
    splits = {}
    for file in files:
        if (other := splits.setdefault(split_of(file, root), file)) is not file:
            raise ValueError(f"{file}: {other.name} is {split_of(file, root)}, too; give the path of one of them")
    return files


def split_of(path, root):
    """The split that a file's name says, or that of its folder inside the dataset's; "" = neither does."""
    if path == root:
        return ""
    return split_of_file(path) or (split_of_folder(path.parent.name) if path.parent != root else "")


def dataset_root(path):
    """The dataset's folder: `path` itself or what holds the file; COCO's annotations/ is a part of it."""
    if is_shards(path):
        return path.parent.parent if split_of_folder(path.parent.name) else path.parent
    folder = path.parent if path.is_file() else path
    return folder.parent if folder.name == "annotations" else folder


# ---- tar shards ----------------------------------------------------------------------------------


def read_shards(data_dir, **settings):
    """Return the Examples of tar shards, and those of the other splits from the dataset's folder, if it has captions.

    data_dir: names of shards, with braces or a pattern; a shard's name or its folder says its split
    settings: of `read_examples`, for that folder
    returns:  an ExampleFile

    Raises ValueError for shards that are missing or broken, if many samples have no caption or no picture, and for an
    images_dir where no split comes from the folder.
    """
    samples, examples = CaptionedSamples(find_shards([data_dir]), PICTURES), ExampleFile()
    examples.extend(map(shard_example, samples))
    for line in samples.warnings():
        print(line)
    if not examples:
        raise ValueError(f"{data_dir}: holds no captioned image")
    root, splits = dataset_root(Path(data_dir)), {example.split for example in examples}
    around = []
    if root != Path(data_dir).parent and "" not in splits:
        with contextlib.suppress(NoAnnotationsError):
            around = [e for e in read_examples(root, **settings) if e.split and e.split not in splits]
    if settings.get("images_dir") and not around:
        raise ValueError(f"images_dir: got {settings['images_dir']!r}, but {data_dir} has its pictures in the shards")
    examples.extend(around)
    return examples


def shard_example(found):
    """Return the Example of a (shard, Sample, captions) of CaptionedSamples."""
    shard, sample, captions = found
    label = sample.info.get("label")
    split = split_of_file(shard) or split_of_folder(shard.parent.name)
    return Example(Path(sample.place), captions, label if isinstance(label, str) else "", split)


# ---- entries to examples -------------------------------------------------------------------------


def read_examples(data_dir, split="", silent=None, images_dir="", allow_missing=False, allow_links=False):
    """Return the Examples of a dataset in file order, with the splits that it has; "" = it has none.

    split: the only one that is needed, as far as it is in a file of its own; "" = all
    The others are arguments of `load_examples`, and what it raises is raised.
    """
    files, root = find_annotations(Path(data_dir))
    splits = {path: split_of(path, root) for path in files}
    if split and {split, "val"} <= set(splits.values()):  # a file for each split, and COCO's are large
        files = [path for path in files if splits[path] == split]
    if images_dir and not Path(images_dir).is_dir():
        raise FileNotFoundError(f"{images_dir}: no such folder; images_dir is that of the pictures")
    if not allow_links:
        check_links(text_files(files, root, Path(data_dir)), root)
    omissions, located = Omissions(), []
    for path in files:
        entries = read_entries(path, splits[path], omissions)
        located += locate(entries, path, picture_folders(path, splits[path], root, images_dir), omissions)
        if len(files) > 1:
            for entry in entries:
                entry.where = f"{path.name}: {entry.where}"
    if not allow_links:
        check_links((image for _, image in located), images_dir or root)
    source = files[0] if len(files) == 1 else files[0].parent
    examples = as_examples(located, Path(images_dir or root), source, omissions)
    if silent is not None:
        silent += omissions.silent
        omissions.found["images"].clear()
    advice = ["images_dir names the folder of the pictures"] * (not images_dir)
    advice += ["allow_missing goes on without those that are missing"] * (not allow_missing and bool(examples))
    omissions.settle(allow_missing, advice)
    if not examples:
        raise ValueError(f"{files[0]}: holds no captioned image")
    return examples


def read_entries(path, split, omissions):
    """Return the captioned entries of one annotation file; split: of those that the file puts in none, "" = none."""
    entries = READERS["" if path.is_dir() else path.suffix.lower()](path, omissions)
    if not any(entry.split for entry in entries):
        for entry in entries:
            entry.split = split
        if not split and not path.is_dir():
            entries = split_by_lists(path, entries, omissions)
    omissions.total["images"] += len(entries)
    for entry in entries:
        if not entry.captions:
            omissions.image(entry.name, path)
    return [entry for entry in entries if entry.captions]


def split_by_lists(path, entries, omissions):
    """Return the entries that lists of names beside a caption file put in a split; all of them if there are none.

    Images in no list are left out (92 of Flickr8k's 8,092).
    Source: Hodosh, Young and Hockenmaier 2013 (doi:10.1613/jair.3994).
    """
    splits, silent = read_split_lists(path.parent, {entry.name for entry in entries})
    if not splits:
        return entries
    for list_path, number, name in silent:
        omissions.total["images"] += 1
        omissions.image(name, f"{list_path}: line {number}")
    for entry in entries:
        entry.split = splits.get(entry.name, "")
    if unlisted := [entry.name for entry in entries if not entry.split]:
        print(
            f"note: {path}: {len(unlisted):,} of {len(entries):,} images are in no list of a split and left out, the "
            f"first is {unlisted[0]}"
        )
    return [entry for entry in entries if entry.split]


def picture_folders(path, split, root, images_dir):
    """Return the Pictures of an annotation file: where they usually lie, train2017/ and images/ among others."""
    base = Path(images_dir or root)
    stem = path.stem.removeprefix("captions_")
    bases = [base / stem, base / "images" / stem, base / split, base]
    if not images_dir:
        bases.insert(3, path.parent)
    return Pictures(base, dict.fromkeys(os.path.join(one, folder) for one in bases for folder in IMAGE_FOLDERS))


def locate(entries, path, pictures, omissions):
    """Return [(entry, path of its picture)]; pictures that are missing, or of a kind that is not read, are left out."""
    bare = len({entry.name.rpartition("/")[2] for entry in entries}) == len(entries)
    bare = bare and not any(entry.label is None for entry in entries)
    located = []
    omissions.total["pictures"] += len(entries)
    omissions.total["endings"] += len(entries)
    for entry in entries:
        try:
            image, problem = pictures.find(entry.name, entry.split, bare)
        except ValueError as error:
            raise ValueError(f"{path}: {entry.where}: {error}") from None
        if problem:
            nearest = "" if omissions.found["pictures"] else pictures.nearest(entry.name)
            told = f"; the nearest name there is {nearest}" if nearest else ""
            omissions.add("pictures", f"{path}: {entry.where}: {problem}{told}")
        elif image.lower().endswith(OTHER_PICTURES):
            omissions.add("endings", f"{path}: {entry.where}: names {entry.name}, a kind of picture that is not read")
        else:
            located.append((entry, image))
    return located


def as_examples(located, root, path, omissions):
    """Return the Examples of entries and their pictures; folders say the classes and splits that the file does not."""
    start = len(os.path.join(root, "").removeprefix(HERE))
    if not any(entry.split or entry.label for entry, _ in located):
        parts = pass_over([image[start:].split("/")[:-1] for _, image in located])
        if all(part and split_of_folder(part[0]) for part in parts):
            for entry, _ in located:
                entry.label = None  # COCO and Karpathy without splits, whose pictures lie in train/, val/ and test/
    by_folder = [image[start:] for entry, image in located if entry.label is None]
    places, examples, split_folders, wheres = iter(read_folders(by_folder, path)), {}, set(), {}
    for entry, image in located:
        split, label = next(places) if entry.label is None else ("", entry.label)
        if split and not entry.split:
            split_folders.add(image[: image.index("/", start)])
        example = Example(Path(image), entry.captions, label, entry.split or split)
        if before := examples.get(image):  # a table that spells its name in two ways
            for what, one, other in (("split", before.split, example.split), ("class", before.label, example.label)):
                if one != other:
                    raise ValueError(f"{path}: {entry.where}: {image} has {what} {other!r} here and {one!r} in "
                                     f"{wheres[image]}")  # fmt: skip
            example = replace(example, captions=[*before.captions, *example.captions])
        examples[image], wheres[image] = example, wheres.get(image, entry.where)
    if any(example.split for example in examples.values()):
        omissions.total["splits"] += len(examples)
        for image in [image for image, example in examples.items() if not example.split]:
            omissions.add("splits", f"{path}: {wheres[image]}: {image[start:]} has no split, as others have")
            del examples[image]
    named = set(map(folded, omissions.silent))
    for image in list_pictures(split_folders):
        if image not in examples and folded(image[start:]) not in named:
            omissions.total["images"] += 1
            omissions.image(image[start:], path)
    return list(examples.values())


def list_pictures(folders):
    """Yield the paths of all pictures in folders and below them."""
    for folder in sorted(folders):
        for below, names in list_tree(folder):
            yield from (os.path.join(folder, below, name) for name in names if is_image_name(name))

"""Splits: their names as others spell them, lists of them in files, and seeded shares where there are none."""

import functools
import posixpath
import random
import re
from array import array

import numpy as np

from captioning.data.examples import sorted_lines
from captioning.data.spelling import folded
from captioning.files import read_lines

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "restval": "train",  # Karpathy's: the rest of COCO's val images, to be trained on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "vld": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
_BESIDE = {
    "",
    "image",
    "images",
    "img",
    "imgs",
    "photo",
    "photos",
    "picture",
    "pictures",
    "set",
    "data",
    "split",
    "jpg",
}
# Flickr_8k.devImages.txt, train.txt, val_images.txt
_SPLIT_LIST = re.compile(rf"(?:flickr_?\d+k[._])?({'|'.join(SPLIT_NAMES)})(?:_?(?:images|list|split))?\.txt")


def check_split(split):
    """Raise ValueError unless `split` is the name of one."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, allowed are {', '.join(SPLITS)}")


def split_of_file(path):
    """The split in a file's name, a whole part of it: captions_val2017, captions_latest_train; "" = none.

    Raises ValueError if two splits are named.
    """
    parts = re.findall("[a-z]+", path.stem.lower())
    found = list(dict.fromkeys(SPLIT_NAMES[part] for part in parts if part in SPLIT_NAMES))
    if len(found) > 1:
        raise ValueError(f"{path}: its name has {' and '.join(found)}; one split must be left")
    return found[0] if found else ""


@functools.lru_cache(1000)
def split_of_folder(name):
    """The split that a folder's whole name stands for: train, Validation, val2014, train_images, TestSet; "" = none."""
    words = re.split(r"[\W_]+|(?<=[nlt])set$", re.sub(r"[\W_]*\d+$", "", name.lower()))
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    return splits[0] if len(splits) == 1 and _BESIDE.issuperset(set(words) - SPLIT_NAMES.keys()) else ""


def split_lists(folder):
    """Return the paths of the lists of names in a folder, as Flickr_8k.trainImages.txt, sorted."""
    return sorted(path for path in folder.glob("*.txt") if _SPLIT_LIST.fullmatch(path.name.lower()))


def read_split_lists(folder, names):
    """Read which of `names` are in which split, from lists of names beside the captions.

    names:   of images, as the caption file spells them; a list may spell them otherwise, name more folders before them,
             or fewer, and leave out the file's ending
    returns: (name -> split, [(list, line number, name) of listed images that have no caption]); ({}, []) = no lists
    Raises ValueError if an image is in two splits, and if no list names any image.
    """
    if not (lists := split_lists(folder)):
        return {}, []
    spellings = {}  # file's name, with its ending and without -> [(a spelling of the whole name, the name)]
    for name in names:
        whole = folded(name)
        for spelling in {whole, posixpath.splitext(whole)[0]}:
            spellings.setdefault(posixpath.basename(spelling), []).append((spelling, name))
    splits, silent = {}, []
    for path in lists:
        if folded(path.stem) in spellings:  # the text beside a picture called train.jpg
            continue
        split = SPLIT_NAMES[_SPLIT_LIST.fullmatch(path.name.lower())[1]]
        for number, line in enumerate(read_lines(path), 1):
            if not (listed := line.strip()):
                continue
            name = listed if listed in names else meant_name(folded(listed), spellings)
            if name and splits.setdefault(name, split) != split:
                raise ValueError(f"{path}: line {number}: {name} is in the {splits[name]} split, too")
            if not name:
                silent.append((path, number, listed))
    if silent and not splits:
        path, number, listed = silent[0]
        told = f"{listed!r:.80} names no captioned image, and neither does any other line of a list"
        raise ValueError(f"{path}: line {number}: {told}")
    return splits, silent


def meant_name(listed, spellings):
    """Return the name that a line of a list means, folded: the one whose path ends as its does; "" = none, or several.

    spellings: as in read_split_lists
    """
    found = spellings.get(posixpath.basename(listed), ())
    exact = [name for spelling, name in found if spelling == listed]
    ends = [name for one, name in found if one.endswith(f"/{listed}") or listed.endswith(f"/{one}")]
    meant = exact or ends
    return meant[0] if len(meant) == 1 else ""


def split_sizes(number):
    """Return split -> its share of `number` images, 8:1:1: one in each split from 3 on, of 2 one in train and val."""
    held_out = max(1, round(number / 10))
    val, test = held_out if number > 1 else 0, held_out if number > 2 else 0
    return {"train": number - val - test, "val": val, "test": test}


def share_out(names):
    """Return (N,) int8 the place in SPLITS of each name, 8:1:1; it depends on the names alone, not on their order."""
    order = shuffled(names)
    shares = np.empty(len(order), np.int8)
    shares[order] = np.repeat(np.arange(len(SPLITS)), list(split_sizes(len(order)).values()))
    return shares


def hold_out(names):
    """Return the positions of a tenth of the names, one at least, to validate on; as `share_out` by the names alone."""
    order = shuffled(names)
    return order[: max(1, round(len(order) / 10))]


def shuffled(names):
    """Return (N,) int64 the positions of the names, in an order that is random, and the same each time."""
    lines = sorted_lines(f"{name}\0{position}" for position, name in enumerate(names))
    order = array("q", (int(line.rpartition(b"\0")[2]) for line in lines))
    random.Random(0).shuffle(order)
    return np.asarray(order)

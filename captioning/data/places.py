"""What the folders of pictures say: the split and the class of each."""

import os
import unicodedata

from captioning.data.names import IMAGE_FOLDERS
from captioning.data.splits import split_of_folder

_PICTURES = {name.lower() for name in IMAGE_FOLDERS}


def read_folders(paths, what):
    """Return for each relative path with / (split, class) as its folders say; "" = they say none.

    what: the dataset, to begin a message with

    Folders that all share are passed over, unless one is the only one left and may be a class. Then comes a split if
    all paths begin with one, then the class: of several levels the innermost, where its names are each in one folder
    of the level above, else the outermost. Which it is is said.
    Raises ValueError if some paths begin with one of several splits and others do not, and for a folder's name that is
    not UTF-8.
    """
    parts = [unicodedata.normalize("NFC", path).split("/")[:-1] for path in paths]
    for folder in {folder for part in parts for folder in part}:
        if not folder.isascii() and any("\ud800" <= letter <= "\udfff" for letter in folder):
            raise ValueError(f"{what}: the name of the folder {os.fsencode(folder)!r} is not UTF-8; rename it")
    parts = pass_over(parts)
    firsts = [split_of_folder(part[0]) if part else "" for part in parts]
    splits = [""] * len(parts)
    if all(firsts):
        splits, parts = firsts, pass_over([part[1:] for part in parts])
    elif len(set(firsts) - {""}) > 1:
        other = paths[firsts.index("")]
        raise ValueError(f"{what}: image {other!r} must begin with train/, val/ or test/, as others do")
    if all(len(part) == 1 and part[0].lower() in _PICTURES for part in parts):
        return [(split, "") for split in splits]
    level = class_level(parts)
    if deep := next((part for part in parts if len(part) > 1), None):
        which = "innermost" if level else "outermost"
        print(f"note: {what}: the classes are the {which} folders, as {deep[level]} of {'/'.join(deep)}")
    return [(split, part[level] if part else "") for split, part in zip(splits, parts, strict=True)]


def pass_over(parts):
    """Leave out the first folders that all paths share, as long as another follows in all of them."""
    while parts and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        if split_of_folder(parts[0][0]):
            break
        parts = [part[1:] for part in parts]
    return parts


def class_level(parts):
    """Return which folder of a path is the class: -1, the innermost, or 0."""
    if len({len(part) for part in parts}) != 1:
        return 0
    above = {}
    return -1 if all(above.setdefault(part[-1], part[:-1]) == part[:-1] for part in parts if part) else 0

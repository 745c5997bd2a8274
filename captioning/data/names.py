"""Names of files as annotations spell them, found on disk as the disk spells them.

macOS decomposes accents and Hangul, Windows writes backslashes and does not tell upper from lower case, and cameras
write .JPG: one file, several spellings. Pictures lie in folders of many names, and annotations name more folders than
there are, or fewer.
"""

import difflib
import os
import posixpath
import re
from collections import defaultdict, deque
from pathlib import Path

from captioning.data.spelling import folded, normalised
from captioning.data.splits import split_of_folder

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
OTHER_PICTURES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng")
IMAGE_FOLDERS = (  # names that say nothing about the pictures in them; the first is the folder of the captions itself
    "",
    "images",
    "Images",
    "imgs",
    "img",
    "image",
    "photos",
    "pictures",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
)
HERE = os.path.join(os.curdir, "")  # what a path below the working directory does without, as pathlib writes it
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
MAX_FOLDERS = 100_000  # of a dataset; whoever names the root of a disk has more


def is_image_name(name):
    """True for a file name with an image's suffix that is not hidden (macOS leaves ._1.jpg beside 1.jpg)."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


TEXTS = (".txt", ".caption", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".html", ".token", ".db", ".ini")
NO_ENDING = "without an ending"


def other_ending(name):
    """Return the ending of a file that is no image, as .heic or .jpg.1, or NO_ENDING.

    "" = an image, a hidden file, or a text such as stands beside images.
    """
    name = os.path.basename(name)
    stem, ending = os.path.splitext(name.lower())
    if is_image_name(name) or name.startswith(".") or ending in TEXTS:
        return ""
    return os.path.splitext(stem)[1] * stem.endswith(IMAGE_SUFFIXES) + ending or NO_ENDING


def listed(endings):
    """Return "2 .heic, 1 without an ending" of a Counter of endings."""
    return ", ".join(f"{number:,} {ending}" for ending, number in endings.most_common())


def list_tree(root):
    """Yield (path relative to `root`, "" = itself, sorted names of its files) of a folder and those below it.

    Hidden ones and SYSTEM_FOLDERS are left out. Folders are taken level by level; none is entered twice, through
    whatever links, nor one above `root`. Raises ValueError if they are more than MAX_FOLDERS.
    """
    waiting, seen = deque([""]), set(map(str, Path(os.path.realpath(root)).parents))
    while waiting:
        folder = waiting.popleft()
        path = os.path.join(root, folder)
        if (real := os.path.realpath(path)) in seen:
            continue
        if len(seen) >= MAX_FOLDERS:
            raise ValueError(f"{root}: has more than {MAX_FOLDERS:,} folders, too many for a dataset")
        seen.add(real)
        files, folders = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS:
                    try:
                        is_folder = entry.is_dir()
                    except OSError:  # a link in a circle, which whoever reads it is told of
                        is_folder = False
                    (folders if is_folder else files).append(entry.name)
        yield folder, sorted(files)
        waiting.extend(posixpath.join(folder, name) for name in sorted(folders))


def check_links(paths, root):
    """Raise ValueError for the first of the paths below the folder `root` that symbolic links lead out of it.

    `root` itself may be a link, and a link that stays inside is none of the matter. Each folder is resolved once, and
    of its files those that its listing calls links: asking the disk about each would take longer than reading them.
    """
    inside, links = os.path.join(os.path.realpath(root), ""), {}
    for path in map(os.fspath, paths):
        folder, _, name = path.rpartition(os.sep)
        if new := folder not in links:
            links[folder] = list_links(folder)
        if new or name in links[folder]:
            real = os.path.realpath(path)
            if not real.startswith(inside):
                raise ValueError(f"{path}: a link leads out of {root}, to {real}; allow_links follows such links")


def list_links(folder):
    """The names in a folder that are symbolic links, without asking the disk about each; empty if there is none."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


class Folders:
    """The folders that were looked into; each is listed once."""

    def __init__(self):
        self.names, self.spellings, self.resolved = {}, {}, {}

    def find(self, root, name):
        """Return the path of the file `name`, relative and normalised, below the folder `root`, or None.

        Each part is taken as it is spelt if it is there, else the only one that differs in nothing but its spelling.
        """
        parent, _, base = name.rpartition("/")
        folder = self.resolve(root, parent)
        found = folder and self.pick(folder, base)
        return os.path.join(folder, found) if found else None

    def resolve(self, root, parent):
        """Return the path of the folder `parent` below `root`, or None."""
        if not parent:
            return root
        key = root, parent
        if key not in self.resolved:
            above, base = posixpath.split(parent)
            if above == parent:  # the root of the disk, which leads out of the dataset
                return None
            folder = self.resolve(root, above)
            found = folder and self.pick(folder, base)
            self.resolved[key] = os.path.join(folder, found) if found else None
        return self.resolved[key]

    def pick(self, folder, name):
        """Return how `folder` spells `name`, or None if it has no such name or several."""
        if folder not in self.names:
            self.names[folder] = list_names(folder)
        if name in self.names[folder]:
            return name
        if folder not in self.spellings:
            self.spellings[folder] = defaultdict(list)
            for there in self.names[folder]:
                self.spellings[folder][folded(there)].append(there)
        matches = self.spellings[folder].get(folded(name), ())
        return matches[0] if len(matches) == 1 else None

    def nearest(self, roots, name):
        """Return the name most like a missing one in its folder: another ending, or a few other letters; "" = none."""
        parent, base = posixpath.split(name)
        stem = posixpath.splitext(folded(base))[0]
        for root in roots:
            folder = self.resolve(root, parent)
            there = sorted(list_names(folder)) if folder else []
            same_stem = [one for one in there if posixpath.splitext(folded(one))[0] == stem]
            if matches := same_stem or difflib.get_close_matches(base, there, n=1):
                return posixpath.join(parent, matches[0])
        return ""


class Pictures:
    """The pictures of a dataset, found by the names that its annotations give them.

    root:    the folder that nothing is taken from outside of
    folders: those below it, or itself, where a name is looked for first
    """

    def __init__(self, root, folders):
        self.root, self.folders = str(root), [str(folder) for folder in folders if os.path.isdir(folder)]
        self.disk, self.everywhere = Folders(), None

    def find(self, name, split="", bare=False):
        """Return (path, ""), or ("", why there is none).

        split: of the image, "" = not known; a picture in the folder of another one is not taken
        bare:  where the folders of a name are not there, the file alone will do

        Where the usual folders do not have a picture, one below the root is taken whose path ends as the name does, or
        the name as the path, if it is the only one: whatever folders are named, or lie, above.
        Raises ValueError for a name that leads out of the dataset.
        """
        relative = normalised(name)
        if "/" in relative:
            relative = re.sub(r"^([a-zA-Z]:)?/+", "", relative)
        if ".." in name and ".." in name.replace("\\", "/").split("/"):
            raise ValueError(f"image {name!r}: allowed is a path inside the dataset's folder")
        if relative == ".":
            return "", "has no name of a picture"
        for spelling in (relative, posixpath.basename(relative)) if bare else (relative,):
            for folder in self.folders:
                path = self.disk.find(folder, spelling)
                if path and (path.lower().endswith(IMAGE_SUFFIXES) or os.path.isfile(path)):
                    return path.removeprefix(HERE), ""
        found = self.below(relative, split) or (bare and self.below(posixpath.basename(relative), split)) or []
        if len(found) == 1:
            return os.path.join(self.root, found[0]).removeprefix(HERE), ""
        if found:
            return "", f"names {relative}, which may be {found[0]} or {found[1]}; write it with its folder"
        return "", f"names {relative}, which is not in {self.root} or below it"

    def below(self, name, split):
        """Return the paths, relative to the root, of all pictures below it that a name may mean."""
        if self.everywhere is None:
            self.everywhere = defaultdict(list)
            for folder, files in list_tree(self.root):
                parts = folded(folder).split("/") if folder else []
                for file in files:
                    whole, base = posixpath.join(folder, file), folded(file)
                    for key in {base, posixpath.splitext(base)[0]} if is_image_name(file) else {base}:
                        self.everywhere[key].append((parts, whole))
        *parents, base = folded(name).split("/")
        fitting = defaultdict(list)  # folders in common -> paths
        for parts, whole in self.everywhere.get(base, ()):
            common = min(len(parts), len(parents))
            elsewhere = split and any(split_of_folder(part) not in ("", split) for part in parts)
            if parts[len(parts) - common :] == parents[len(parents) - common :] and not elsewhere:
                fitting[common].append(whole)
        return fitting[max(fitting)] if fitting else []

    def nearest(self, name):
        """Return the name on disk that is most like a missing one, "" = none."""
        return self.disk.nearest(self.folders, normalised(name))


def list_names(folder):
    """The names in a folder, without asking the disk about each; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()

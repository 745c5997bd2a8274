"""Names of files as annotations spell them, found on disk as the disk spells them.

macOS decomposes accents and Hangul, Windows writes backslashes and does not tell upper from lower case, and cameras
write .JPG: one file, several spellings.
"""

import difflib
import os
import posixpath
import unicodedata
from collections import defaultdict


def folded(name):
    """Return what all spellings of a name have in common: composed (NFC), case-folded, / between, no ./ before."""
    return unicodedata.normalize("NFC", normalised(name)).casefold()


def normalised(name):
    """Return a relative path with / between its parts, without . and blanks around it."""
    return posixpath.normpath(name.strip().replace("\\", "/"))


class Folders:
    """The folders that were looked into; each is listed once."""

    def __init__(self):
        self.names, self.spellings, self.resolved = {}, {}, {}

    def find(self, root, name):
        """Return the path of the file `name` below the folder `root`, or None.

        Each part is taken as it is spelt if it is there, else the only one that differs in nothing but its spelling.
        """
        parent, base = posixpath.split(normalised(name))
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
        parent, base = posixpath.split(normalised(name))
        stem = posixpath.splitext(folded(base))[0]
        for root in roots:
            folder = self.resolve(root, parent)
            there = sorted(list_names(folder)) if folder else []
            same_stem = [one for one in there if posixpath.splitext(folded(one))[0] == stem]
            if matches := same_stem or difflib.get_close_matches(base, there, n=1):
                return posixpath.join(parent, matches[0])
        return ""


def list_names(folder):
    """The names in a folder, without asking the disk about each; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()

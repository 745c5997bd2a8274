"""Names as annotations and folders spell them: what spellings have in common, and names that every disk can hold."""

import posixpath
import re
import unicodedata

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]|^[.\s]+|[.\s]+$')  # Windows refuses most of them
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of Windows's devices
MAX_BYTES = 200  # of a folder's name; disks take 255


def folded(name):
    """Return what all spellings of a name have in common: composed (NFC), case-folded, / between, no ./ before."""
    name = normalised(name)
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def normalised(name):
    """Return a relative path with / between its parts, without . and blanks around it."""
    return posixpath.normpath(name.strip().replace("\\", "/"))


def folder_names(labels):
    """Return label -> the name of its folder, for class names from anywhere: "" stays "".

    A label that is no name of a folder on some disk, as a/b or ../a, has _ for what cannot stand there. Names are
    composed (NFC), as they are when folders are read; no two differ in their case alone.
    """
    found, taken = {}, set()
    composed = {label: unicodedata.normalize("NFC", label) for label in labels}
    for label in sorted(set(composed.values()), key=lambda label: (_UNSAFE.search(label) is not None, label)):
        name = _UNSAFE.sub("_", label)
        name = name.encode()[:MAX_BYTES].decode(errors="ignore")
        if _RESERVED.fullmatch(name):
            name += "_"
        while name and folded(name) in taken:
            name += "_"
        taken.add(folded(name))
        found[label] = name
    return {label: found[one] for label, one in composed.items()}

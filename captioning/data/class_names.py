"""The words in a class's name, without the ids that image collections put before them."""

import re

# n02110958-pug (ImageNet, Stanford Dogs), pug_n02110958
_WORDNET = re.compile(r"n\d{8}[-_. ]+(?=\D)|(?<=[^\W\d])[-_. ]+n\d{8}$", re.IGNORECASE)
# 001.Black_footed_Albatross (CUB), 204.sunflower-101 (Caltech-256), class_12-rose, c0_rose, #3 rose
_NUMBERED = re.compile(r"(?:(?:class|category|cls|id|c|no\.?|#)[-_. ]?)?\d+[-_. ]+(?=\D)", re.IGNORECASE)
_CLEARLY_NUMBERED = re.compile(r"(0\d*[-_. ]|\d+\.) *(?=\D)")
_NUMBERED_END = re.compile(r"-101$")
_REMARK = re.compile(r"[\s_-]*(?:\([^()]*\)|\[[^\[\]]*\])")  # dance-fly_(insect), rose [12]


def spoken_names(classes):
    """Return class -> its name without an id and a remark in brackets, where that leaves words that are no other's.

    A number at the beginning is an id with a 0 before it or a stop behind it, or where half of the classes begin with
    one: 001.lotus, 12_rose, but not 3_d_glasses among things.
    """
    classes = list(classes)
    numbered = 2 * sum(bool(_NUMBERED.match(name)) for name in classes) >= len(classes)
    spoken = {}
    for name in classes:
        plain = _WORDNET.sub("", name, count=1)
        if _CLEARLY_NUMBERED.match(name) or (numbered and _NUMBERED.match(name)):
            plain = _NUMBERED_END.sub("", _NUMBERED.sub("", name, count=1))
        spoken[name] = _REMARK.sub("", plain).strip(" _-")
    taken = [key(name) for name in spoken.values()] + [key(name) for name in classes if spoken[name] != name]
    unique = {name for name, plain in spoken.items() if plain == name or taken.count(key(plain)) == 1}
    return {name: plain if name in unique and key(plain) else name for name, plain in spoken.items()}


def key(name):
    """Return what names have in common that differ in case, blanks, underscores and hyphens alone."""
    return re.sub(r"[\W_]+", " ", name.lower()).strip()

"""The fonts of the figures: matplotlib's own, and those that are installed for what it lacks."""

import functools
import re
from contextlib import suppress
from pathlib import Path

from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

# matplotlib's own font lacks Hangul, Chinese characters, kana, Devanagari and emoji. They are drawn with those of these
# fonts that are installed: Noto and Google fonts, then fonts of Linux distributions, of Windows and of macOS.
FALLBACKS = [
    *("Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans KR", "Noto Sans SC", "Noto Sans JP"),
    *("NanumGothic", "WenQuanYi Zen Hei", "IPAGothic", "Malgun Gothic", "Microsoft YaHei", "Yu Gothic"),
    *("Apple SD Gothic Neo", "PingFang SC", "Hiragino Sans"),
    *("Noto Sans Devanagari", "Lohit Devanagari", "Nirmala UI", "Kohinoor Devanagari"),
    *("Noto Sans Thai", "Loma", "Leelawadee UI", "Thonburi", "Noto Sans Arabic", "Noto Emoji", "Symbola"),
]
FONT_FILES = re.compile(r"noto|nanum|wqy|ipa|malgun|msyh|yugoth|lohit|nirmala|loma|leelaw|symbola", re.IGNORECASE)
# Debian's packages of fonts, by the first and the last of the characters that they are installed for.
FONT_PACKAGES = [
    ("\uac00", "\ud7a3", "fonts-nanum"),
    ("\u1100", "\u11ff", "fonts-nanum"),
    ("\u3130", "\u318f", "fonts-nanum"),
    ("\u2e80", "\u9fff", "fonts-noto-cjk"),
    ("\uf900", "\uffee", "fonts-noto-cjk"),
    ("\u2600", "\u27bf", "fonts-symbola"),
    ("\U0001f000", "\U0001faff", "fonts-symbola"),
    ("\U00020000", "\U0003ffff", "fonts-noto-cjk"),
]


@functools.cache
def installed_fallbacks():
    """Return those of FALLBACKS that are installed.

    matplotlib keeps a list of fonts from the day that it first ran; what was installed since is added to it here.
    """
    known = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known and FONT_FILES.match(Path(path).name):
            with suppress(OSError, RuntimeError):  # a font in colours, which matplotlib does not read
                fontManager.addfont(path)
    names = set(fontManager.get_font_names())
    return [name for name in FALLBACKS if name in names]


# Fonts that draw every character as the same sign, and fonts in colours, which matplotlib does not draw.
_NO_LETTERS = re.compile(r"last ?resort|adobe ?blank|color", re.IGNORECASE)
_found = []  # families that were found for characters which those above lack
_missing = set()  # characters that no font has
_told = []  # the characters that a line was printed about


def families(first="DejaVu Sans"):
    """Return the families of a text, `first` and what is installed for characters that it lacks."""
    return list(dict.fromkeys([first, "DejaVu Sans", *installed_fallbacks(), *_found]))  # the monospaced: no Hebrew


def find_families(characters):
    """Look through all installed fonts for characters that families() lack; return those that no font has."""
    wanted = set(characters) - _missing
    if wanted:
        fonts = {font.fname: None for font in fontManager.ttflist} | dict.fromkeys(findSystemFonts())
        has = {}  # font -> those of the characters that it has
        for path in fonts:
            with suppress(OSError, RuntimeError):
                font = FT2Font(path)
                if not _NO_LETTERS.search(font.family_name):
                    has[path] = {character for character in wanted if ord(character) in font.get_charmap()}
        while wanted and has:
            # Of those with the most, a plain one: neither serifs nor bold.
            best = min(has, key=lambda path: (-len(has[path] & wanted), "sans" not in path.lower(), len(path), path))
            if not has[best] & wanted:
                break
            wanted -= has.pop(best)
            fontManager.addfont(best)
            _found.append(fontManager.ttflist[-1].name)
        _missing.update(wanted)
    return [character for character in characters if character in _missing]


def tell_missing(characters):
    """Print which characters no font has and the packages that have them, once in a process."""
    if _told or not characters:
        return
    _told.extend(characters)
    packages = " ".join(dict.fromkeys(map(package_of, characters)))
    print(
        f"warning: no installed font has {' '.join(characters[:10])}; figures show boxes. Debian and Ubuntu: "
        f"apt install {packages}; elsewhere a Noto Sans font of the language"
    )


def package_of(character):
    """Return Debian's package of a font that has a character."""
    found = (package for first, last, package in FONT_PACKAGES if first <= character <= last)
    return next(found, "fonts-noto-core")

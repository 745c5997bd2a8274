"""Captions to tokens and back: for the vocabulary, every metric and the class look-up.

A tokenizer, as a vocabulary and a checkpoint keep it, is a dict of plain types:
  name    words | characters: a token is a unit | pieces: it is a piece of one (captioning/data/pieces.py)
  unit    words | characters
  merges  of pieces

A unit is what metrics and limits count:
  words       the rules of NLTK's word tokenizer: regular expressions in NLTK's code, so nothing is downloaded
  characters  the same, and each character of a script without spaces (Han, kana, Thai, Lao, Khmer, Burmese) is a token
"""

import functools
import re
import unicodedata

UNITS = ("words", "characters")
NAMES = (*UNITS, "pieces")
WORDS = {"name": "words", "unit": "words"}

# The ASCII characters of COCO's list (pycocoevalcap's PUNCTUATIONS: quotes, brackets, . ? ! , : ; - -- ...). Square
# brackets are added. clean() leaves no others.
_PUNCTUATION = "'`\".?!,:;-()[]{}"

# A caption of words, 's, apostrophes and single hyphens inside words, and punctuation; of commas, colons and periods
# only those before a space, and one period at the end. NLTK's rules can only cut off its punctuation and 's, and take
# eight words apart; test_tokenizer.py compares both paths.
_LETTER = r"[a-z0-9\x80-\U0010ffff]"
_APART = r"?!;\"()\[\]{}"
_POSSESSIVE = rf"(?<={_LETTER})'s(?=[ ,{_APART}]|\.?\s*\Z)"
_BEFORE = "[a-zß-öø-ɏά-ώа-ҁҊ-ԯẠ-ỹ]"  # Latin, Greek, Cyrillic
_ELISION = rf"(?<={_BEFORE})'(?={_LETTER})(?!.\b)(?!(?:s|m|d|ll|re|ve|t)(?!{_LETTER}))"  # l'homme; not he'll, don't
_PLAIN = re.compile(rf"((?:[a-z0-9\x80-\U0010ffff {_APART}]++|[,:.](?= )|-(?!-)|{_POSSESSIVE}|{_ELISION})*+)\.?\s*")
_SEPARATORS = re.compile(f"[,:.{_APART}]")
_CONTRACTION = re.compile("cannot|d'ye|gimme|gonna|gotta|lemme|more'n|wanna")  # or longer words, with \b it were slow

# Characters of scripts that put no spaces between words, digits left out, and the marks that belong to the one before.
_HAN_KANA = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SOUTH_EAST_ASIAN = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"  # Thai, Lao
    "\u1780-\u17b3\u17d7\u17dc\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d"  # Khmer, Burmese
)
_MARKS = (
    "\u3099\u309a\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u17b4-\u17d1\u17d3\u17dd"
    "\u102b-\u1038\u103a-\u103e\u1056-\u1059"
)
_STACKED = "\u17d2[\u1780-\u17b3]|\u1039[\u1000-\u102a]"  # a consonant below another
_UNSPACED = re.compile(f"[{_HAN_KANA}{_SOUTH_EAST_ASIAN}](?:[{_MARKS}]|{_STACKED})*+")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_TIGHT = re.compile(f"[{_HAN_KANA}]")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff][\U0001f3fb-\U0001f3ff]?|[\U0001f1e6-\U0001f1ff]{1,2}")
# Given as what it is not: re has a table for a class without characters above \uffff, and a list for another.
_MAYBE_EMOJI = re.compile("[^\x00-\u25ff\u27c0-\uffff]")


def tokenize(caption, unit="words"):
    """The tokens of a caption: lower case, composed (NFC), split by NLTK's rules, punctuation dropped as COCO does.

    unit:    words | characters, as in the module's docstring
    returns: tokens without spaces; [] for a caption without words

    A token of nothing but quotes, brackets, dashes or . , : ; ? ! is dropped, and so is the punctuation of every other
    script (clean). "cannot" becomes can + not, "dog's" dog + 's, "don't" do + n't; "black-and-white", "l'homme", "3.5"
    and "1,000" stay whole, & and % are kept. An emoji is a token. The period after a word is cut off wherever it
    stands: NLTK's word rules do so at the caption's end only, and its sentence splitter would need a download.
    Source: NLTKWordTokenizer (Penn Treebank rules); PUNCTUATIONS as in Chen et al. 2015 (arXiv:1504.00325); characters
    as in the papers on Chinese captions, Li et al. 2016 (Flickr8k-CN) among them.
    """
    text = clean(caption)
    if unit == "characters" and not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", text)
    plain = _PLAIN.fullmatch(text)
    if not plain or _CONTRACTION.search(text):
        return _tokenize_any(text)
    text = _SEPARATORS.sub(" ", plain[1])
    tokens = (f"{text} ".replace("'s ", " 's ") if "'" in text else text).split()
    return [token for token in tokens if token != "-"] if "-" in tokens else tokens


def clean(caption):
    """A caption in lower case with one spelling of each letter, and no punctuation but ASCII's."""
    text = caption.lower()
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)  # an accent of its own and one inside its letter are one word
    text = text.replace("i\u0307", "i")  # Turkish: the small letter of \u0130 has its dot already
    rare, signs = _signs()
    if rare.search(text):
        text = unicodedata.normalize("NFC", text.translate(signs))
        if _MAYBE_EMOJI.search(text):
            text = _EMOJI.sub(r" \g<0> ", text)
    return text


@functools.cache
def _signs():
    """A pattern of the characters that clean() changes, and the table by which str.translate changes them.

    Apostrophes and hyphens become ASCII's. Marks of direction, joiners, soft hyphens and variation selectors are
    dropped: they change how a word looks, not which word it is. So are halves of surrogate pairs, which no file can
    hold. Other punctuation and spaces become spaces.
    """
    signs = {}
    for code in (*range(0x80, 0x18000), *range(0xE0000, 0xE0200)):
        category = unicodedata.category(chr(code))
        if category in ("Cf", "Cs") or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
            signs[code] = None
        elif category[0] in "PZ":
            signs[code] = " "
    signs |= dict.fromkeys(map(ord, "·׳״"), None)  # inside words of Catalan and Hebrew, and of names in Chinese
    signs |= dict.fromkeys(map(ord, "\u200b\x85▁"), " ")  # zero-width space: between words of Thai and Khmer
    signs |= dict.fromkeys(map(ord, "’ʼ＇՚"), "'") | dict.fromkeys(map(ord, "‐‑－־֊"), "-")
    # Letters and digits as wide as a Chinese character, and kana half as wide.
    widths = (*map(ord, "％＆＃＠＊"), *range(0xFF10, 0xFF1A), *range(0xFF41, 0xFF5B), *range(0xFF66, 0xFFA0))
    signs |= {code: unicodedata.normalize("NFKC", chr(code)) for code in widths}
    for sign in "٫٬٪‰":  # separators of decimals and thousands, parts of a hundred and of a thousand
        del signs[ord(sign)]
    # Given as what it is not, like _MAYBE_EMOJI.
    others = [code not in signs and not 0x2600 <= code < 0x27C0 for code in range(0x10000)]
    edges = [code for code in range(1, 0x10000) if others[code] != others[code - 1]]
    bounds = zip([0, *edges[1::2]], [*edges[::2], 0x10000], strict=True)
    ranges = "".join(f"\\u{begin:04x}-\\u{end - 1:04x}" for begin, end in bounds)
    return re.compile(f"[^{ranges}]"), signs


def join_tokens(tokens, unit="words"):
    """The text of tokens as the language writes it: spaces between words, none between characters without spaces."""
    if unit == "words":
        return " ".join(tokens)
    text = ""
    for token in tokens:
        text += token if not text or _touch(text[-1], token) else f" {token}"
    return text


def _touch(last, token):
    """True where no space is written between a text that ends with the character `last` and the token after it."""
    unspaced = bool(_UNSPACED.match(token))
    if re.fullmatch(f"[{_MARKS}{_HAN_KANA}{_SOUTH_EAST_ASIAN}\u1780-\u17b3\u1000-\u102a]", last):
        return unspaced or (bool(_TIGHT.match(last)) and token.isascii())
    return unspaced and last.isascii() and bool(_TIGHT.match(token))


def split_text(text, unit="words"):
    """The tokens of a text that `join_tokens` made."""
    return (_UNSPACED.sub(r" \g<0> ", text) if unit == "characters" else text).split()


def pick_unit(captions):
    """Return the unit that fits captions, and why, in words.

    characters where one caption in twenty or more has text of a script without spaces that nobody has cut into words:
    where such captions have fewer than three runs of it, or runs of four characters or more on average.
    """
    found = [runs for caption in captions if (runs := [_UNSPACED.findall(run) for run in _runs(caption)])]
    if not found or len(found) < len(captions) / 20:
        return "words", "spaces stand between the words"
    num_runs, num_characters = sum(map(len, found)), sum(len(run) for runs in found for run in runs)
    if num_runs >= 3 * len(found) and num_characters < 4 * num_runs:
        return "words", "the captions are cut into words already"
    return "characters", f"{len(found):,} of {len(captions):,} captions have text without spaces between words"


def _runs(caption):
    """The words of a caption that have a character of a script without spaces."""
    if caption.isascii() or _HANGUL.search(caption):  # Korean has spaces, also beside a Chinese character
        return []
    return [word for word in tokenize(caption) if _UNSPACED.search(word)]


def check_tokenizer(tokenizer):
    """Raise ValueError unless a tokenizer, as a file has it, is one."""
    name, unit, merges = (tokenizer.get(key) for key in ("name", "unit", "merges"))
    if name not in NAMES:
        raise ValueError(f"tokenizer: got {str(name)[:60]!r}, allowed are {', '.join(NAMES)}")
    if unit not in UNITS or (name in UNITS and unit != name):
        raise ValueError(f"tokenizer: counts {str(unit)[:60]!r}, allowed are {', '.join(UNITS)}")
    right = isinstance(merges, list) and all(isinstance(merge, str) for merge in merges)
    if tokenizer.keys() - {"name", "unit", "merges"} or (name == "pieces") != right or (name in UNITS and merges):
        raise ValueError("tokenizer: allowed are name, unit and, of pieces, merges, a list of texts")


def tokenizer_name(tokenizer):
    """Return how messages name a tokenizer: words, characters, pieces of words, pieces of characters."""
    return f"pieces of {tokenizer['unit']}" if tokenizer["name"] == "pieces" else tokenizer["name"]


class Tokens(dict):
    """caption -> its tokens: each caption is tokenised once, at the first `tokens[caption]`. The lists are shared."""

    def __init__(self, unit="words"):
        super().__init__()
        self.unit = unit

    def __missing__(self, caption):
        return self.setdefault(caption, tokenize(caption, self.unit))


@functools.cache
def _nltk_tokenizer():
    """NLTK's word tokenizer; the import takes a second, and few captions need it."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def _tokenize_any(text):
    """tokenize() for any text of clean(), about thirty times slower than the path for plain captions."""
    return [token.rstrip(".") for token in _nltk_tokenizer().tokenize(text) if token.strip(_PUNCTUATION)]

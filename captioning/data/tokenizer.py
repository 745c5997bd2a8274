"""Captions to words: the one tokenizer of the vocabulary, of every metric and of the class look-up.

The rules are those of NLTK's word tokenizer: regular expressions in NLTK's code, so nothing is downloaded.
"""

import functools
import re
import unicodedata

# The characters of COCO's list (pycocoevalcap's PUNCTUATIONS: quotes, brackets, . ? ! , : ; - -- ...),
# and those that Stanford's tokenizer turns into one of them but NLTK leaves alone. Square brackets are
# added.
_PUNCTUATION = "'`\".?!,:;-()[]{}“”„‘’‚‛«»‹›…‒–—―"

# A caption of words, 's, single hyphens, commas and periods before a blank, one period at the end. NLTK's
# rules can only cut off its commas, periods and 's, and take six words apart; test_tokenizer.py compares
# both paths.
_PLAIN = re.compile(r"((?:[a-z0-9 ]++|[,.](?= )|-(?!-)|(?<=[a-z0-9])'s(?=[ ,]|\.?\s*\Z))*+)\.?\s*")
_CONTRACTION = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")
_TO_WORDS = {ord(","): " ", ord("."): " ", ord("'"): " '"}


def tokenize(caption):
    """The words of a caption: lower case, composed (NFC), split by NLTK's rules, punctuation dropped as COCO does.

    returns: tokens without blanks; [] for a caption without words

    A token of nothing but quotes, brackets, dashes or . , : ; ? ! is dropped. "cannot" becomes can + not,
    "dog's" dog + 's, "don't" do + n't; "black-and-white", "3.5" and "1,000" stay whole, & and % are kept.
    The period after a word is cut off wherever it stands: NLTK's word rules do so at the caption's end only,
    and its sentence splitter would need a download.
    Source: NLTKWordTokenizer (Penn Treebank rules); PUNCTUATIONS as in Chen et al. 2015 (arXiv:1504.00325).
    """
    text = caption.lower()
    if not text.isascii():  # an accent of its own and one inside its letter are one word
        text = unicodedata.normalize("NFC", text)
    plain = _PLAIN.fullmatch(text)
    if not plain or _CONTRACTION.search(text):
        return _tokenize_any(text)
    tokens = plain[1].translate(_TO_WORDS).split()
    return [token for token in tokens if token != "-"] if "-" in tokens else tokens


class Tokens(dict):
    """caption -> its tokens: each caption is tokenised once, at the first `tokens[caption]`. The lists are shared."""

    def __missing__(self, caption):
        return self.setdefault(caption, tokenize(caption))


@functools.cache
def _nltk_tokenizer():
    """NLTK's word tokenizer; the import takes a second, and few captions need it."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def _tokenize_any(text):
    """tokenize() for any lower-case text, about thirty times slower than the path for plain captions."""
    return [token.rstrip(".") for token in _nltk_tokenizer().tokenize(text) if token.strip(_PUNCTUATION)]

"""Which class a caption names, and the scores of captions read as a classifier."""

import difflib
import re
import unicodedata
from functools import lru_cache
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from captioning.data.class_names import spoken_names
from captioning.data.korean import is_counter, is_verb, stems
from captioning.data.prefixes import without_prefix
from captioning.data.tokenizer import tokenize

SELDOM_NAMED = 0.1  # of the captions; below it, class names are hardly what the captions are about
NAMING_SAMPLE = 2000  # captions that are looked at
MAX_FORMS = 64  # of the words of a name, with and without prefixes, that are tried
NONE = "(none)"  # the column of captions that name no class

CASES = {  # how a caption can name its image's class -> as printed
    "alone": "the true class and no other",
    "first": "the true class first, then others",
    "later": "another class first, then the true one",
    "other": "other classes alone",
    "none": "no class",
}

# What typesetters and keyboards write for the apostrophe and the hyphen.
_SPELLINGS = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-"})
# Letters that capitals do not tell apart: the Turkish I is that of i and of dotless i, SS may be that of sharp s.
_CAPITALS = str.maketrans({"ı": "i", "ß": "ss"})

# Endings of English nouns whose plural is not made by -s, -es or -ies; "man" serves woman and fireman, too.
_IRREGULAR = {
    "man": "men",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "cactus": "cacti",
    "ife": "ives",  # knife, wife, life
    "eaf": "eaves",  # leaf, sheaf
    "oaf": "oaves",
    "oof": "ooves",
    "arf": "arves",  # scarf, wharf
    "lf": "lves",  # wolf, shelf, calf, half
    "thief": "thieves",
}
# Names that are other words without their -s: "a short man" does not name the class `shorts`.
_ALWAYS_PLURAL = frozenset({"glasses", "goods", "news", "shorts", "tights"})


class Mentions(NamedTuple):
    """The classes that a caption names.

    classes: each once, in order of mention
    nested:  (class named, other class) pairs in which the other's name stands inside the words of the first's
    """

    classes: list
    nested: list

    @property
    def first(self):
        """The class that is named first, "" if none."""
        return next(iter(self.classes), "")


class Grounder:
    """Finds class names in captions.

    classes: names as the data has them, `tennis_court` and `carpenter_s_kit` as well as "tennis court"; ids before
             them, as in 001.lotus, need not be said
    aliases: class -> further words that name it
    others:  further classes, of a model for example

    Names and captions are compared word by word, split by one tokenizer; case, underscores, hyphens and the way
    that Unicode spells a letter make no difference. The last word may be singular or plural on either side.
    Where names overlap the longest counts: "garden spider" is no "spider". An exact name comes before the
    plural of another. Where a script has no spaces, a word is a character. A Korean name may carry particles:
    captioning.data.korean tells which; words of Arabic, Hebrew and the Romance languages carry the prefixes of
    captioning.data.prefixes.
    Raises ValueError for a name without words, a name that stands for two classes, aliases of an unknown
    class.
    """

    def __init__(self, classes, aliases=None, others=()):
        names = [(name, name) for name in (*classes, *others)]
        for group in (classes, others):  # apart, so that what others are called changes no name of the classes
            names += [(plain, name) for name, plain in spoken_names(group).items() if plain != name]
        spelt = {name_words(name): name for name in classes}  # however a table spells it: Panda, tennis court
        for name, words in (aliases or {}).items():
            label = name if name in classes else spelt.get(name_words(name))
            if label is None:
                near = ", ".join(difflib.get_close_matches(name, classes, n=1, cutoff=0))
                raise ValueError(f"aliases.csv: got {name!r}, which is not a class (nearest: {near or 'none'})")
            names += [(alias, label) for alias in words]

        self.num_others = len(others)
        self._classes = {}  # words of a name -> its class
        for name, label in names:
            words = name_words(name)
            if not words:
                raise ValueError(f"classes: got {name!r}, a name needs at least one word")
            if self._classes.setdefault(words, label) != label:
                raise ValueError(f"classes: {name!r} names both {self._classes[words]!r} and {label!r}")
        for words, label in list(self._classes.items()):
            always_plural = " ".join(words) in _ALWAYS_PLURAL
            for form in _plurals(words[-1]) | (set() if always_plural else _singulars(words[-1])):
                self._classes.setdefault((*words[:-1], form), label)
        self._plain = {}  # words as they are without the letters of _CAPITALS -> their class; None = of two classes
        for words, label in self._classes.items():
            plain = _plain_words(words)
            self._plain[plain] = label if self._plain.get(plain, label) == label else None
        self._sizes = sorted({len(words) for words in self._classes})

    def find(self, caption):
        """The classes that a caption names, each once, in order of mention; [] if none."""
        return self.read(caption).classes

    def read(self, caption, tokens=None):
        """Return the Mentions of a caption.

        tokens: of tokenize, where they are at hand; a caption with letters beyond ASCII is tokenised here all the
                same, since Unicode spells some of them in several ways
        """
        if tokens is None or not caption.isascii():
            tokens = _tokens(caption)
        words, edges = [], {0}
        for token in tokens:
            words += filter(None, token.split("-"))
            edges.add(len(words))

        # A name begins and ends at the edge of a token: "t-shirt" is found, the tree of "tree-lined" is not.
        found = []  # (-size, start, class)
        for start in edges:
            for size in self._sizes:
                if start + size in edges and (label := self.class_of(words, start, start + size)):
                    found.append((-size, start, label))

        mentions, nested, owner = [], [], {}  # owner: place of a word -> the class that it helps to name
        for size, start, label in sorted(found):
            span = range(start, start - size)
            if owner.keys().isdisjoint(span):
                owner |= dict.fromkeys(span, label)
                mentions.append((start, label))
            elif len({owner.get(place) for place in span}) == 1 and owner[start] != label:
                nested.append((owner[start], label))
        return Mentions(list(dict.fromkeys(label for _, label in sorted(mentions))), list(dict.fromkeys(nested)))

    def class_of(self, words, start, stop):
        """The class that words[start:stop] name, with or without particles and prefixes; "" if none."""
        *others, last = words[start:stop]
        if last.isascii() and not others and "'" not in last:
            return self._classes.get((last,)) or self._plain.get((last,)) or ""  # most words: nothing can be cut off
        if start and (is_counter(last, words[start - 1]) or is_verb(last, words[start - 1])):
            return ""
        # In Arabic and Hebrew each word of a name may carry the article.
        forms = product(
            *[(word, *without_prefix(word)) for word in others], (last, *stems(last), *without_prefix(last))
        )
        forms = list(islice(forms, MAX_FORMS))
        found = [*map(self._classes.get, forms), *(self._plain.get(_plain_words(form)) for form in forms)]
        return next(filter(None, found), "")

    def label(self, name):
        """The class that these words as a whole are a name of, "" if none."""
        words = name_words(name)
        return self._classes.get(words) or self._plain.get(_plain_words(words)) or ""

    def name(self, caption):
        """The first class that a caption names, "" if none."""
        return self.read(caption).first


def build_grounders(labels, trained_classes, aliases):
    """Return two Grounders over the classes of data and checkpoint: with the aliases, and without.

    labels:  of the data, "" = none; without any the result is (None, None)
    aliases: class -> further words; where there are none the second is None
    """
    classes = sorted(set(labels) - {""})
    if not classes:
        return None, None
    # Where the two spell a class differently ("Tennis court", tennis_court), the data's spelling counts.
    known = Grounder(classes, aliases)
    spoken = spoken_names(trained_classes)
    new = [name for name in trained_classes if not (known.label(name) or known.label(spoken[name]))]
    others = list({name_words(name): name for name in new}.values())
    return Grounder(classes, aliases, others), Grounder(classes, others=others) if aliases else None


def naming_share(examples, grounder):
    """Return the share of captions, 0..1, that name the class of their image, in a sample; nan = no classes."""
    number = sum(len(e.captions) for e in examples if e.label)
    pairs = ((caption, e.label) for e in examples if e.label for caption in e.captions)
    pairs = list(islice(pairs, 0, None, -(-number // NAMING_SAMPLE) or 1))
    return sum(label in grounder.find(text) for text, label in pairs) / len(pairs) if pairs else float("nan")


def naming_warning(share, root):
    """Return a line if captions hardly ever name their class, else "". share: of naming_share; root: of the dataset."""
    if not share < SELDOM_NAMED:
        return ""
    return (
        f"{share:.1%} of the train captions name the class of their image, so accuracy and all that rests on class "
        f"names say little; write the words that mean a class to {root / 'aliases.csv'} (class,alias)"
    )


def caption_classifier(grounder, vocabulary, classes):
    """Return a function (ids of a caption, a tuple) -> position in `classes` of the first class that it names.

    -1 = it names none. It remembers what it was asked: captions of a training set, and what a model says, repeat.
    """
    position = {name: index for index, name in enumerate(classes)}

    @lru_cache(2**16)
    def named(ids):
        return position.get(grounder.name(vocabulary.decode(ids)), -1)

    return named


def classification_scores(true, predicted, classes):
    """Accuracy and mean precision, recall and F1 of captions read as a classifier, in [0, 1].

    true:      N classes
    predicted: N classes as the captions name them, "" = none, which counts as wrong
    classes:   every legal value of both
    returns:   "accuracy", the share of captions that name the true class; "precision", "recall" and "f1", the
               plain (macro) means over the classes that occur in `true`, each 0 where it would divide by zero;
               "weighted_precision", ... the means weighted by the classes' images

    The weighted recall is the accuracy, and so is the plain one where all classes have as many images.
    Raises ValueError on unequal or zero lengths and on a value that is not a class.
    """
    per_class = per_class_scores(true, predicted, classes)
    scores = {"accuracy": float(np.mean(np.array(true) == np.array(predicted)))}
    for name in ("precision", "recall", "f1"):
        scores[name] = float(per_class[name].mean())
        scores[f"weighted_{name}"] = float(np.average(per_class[name], weights=per_class["count"]))
    return scores


def naming_case(true, named):
    """The key in CASES of a caption that names these classes of an image of class `true`."""
    if not named:
        return "none"
    if true not in named:
        return "other"
    return "later" if named[0] != true else "first" if len(named) > 1 else "alone"


def per_class_scores(true, predicted, classes):
    """One row per class that occurs in `true`, in the order of `classes`; arguments as classification_scores.

    columns: class; precision, the share of captions naming the class that are right; recall; f1;
             accuracy, the share of the class's own images whose caption names it, which is its recall;
             count, its images

    Raises ValueError as classification_scores.
    """
    from sklearn.metrics import precision_recall_fscore_support  # slow to import, and not every script scores classes

    _check(true, predicted, classes)
    present = set(true)
    labels = [name for name in classes if name in present]
    precision, recall, f1, count = precision_recall_fscore_support(
        true, _none_named(predicted), labels=labels, average=None, zero_division=0
    )
    columns = {"class": labels, "precision": precision, "recall": recall, "f1": f1, "accuracy": recall}
    return pd.DataFrame({**columns, "count": count.astype(int)})


def confusion(true, predicted, classes):
    """How often an image of each class (row) was captioned as each class (column).

    returns: (C, C + 1) counts, rows `classes`, columns `classes` and "(none)"; arguments as
             classification_scores

    Raises ValueError as classification_scores.
    """
    from sklearn.metrics import confusion_matrix  # as in per_class_scores

    _check(true, predicted, classes)
    labels = [*classes, NONE]
    counts = confusion_matrix(true, _none_named(predicted), labels=labels)
    return pd.DataFrame(counts[:-1], index=pd.Index(classes, name="true"), columns=labels)


def _check(true, predicted, classes):
    if len(true) != len(predicted):
        raise ValueError(f"classes: got {len(predicted)} named for {len(true)} images, needs one for each")
    if not true:
        raise ValueError("classes: got no images, a score needs at least one")
    unknown = set(true) - set(classes) or set(predicted) - {*classes, ""}
    if unknown:
        raise ValueError(f"classes: got {min(unknown)!r}, which is not one of the {len(classes)} classes")


def _none_named(predicted):
    return [name or NONE for name in predicted]


def name_words(name):
    """The words of a class name; `_s` at the end of a word is the file-name spelling of 's."""
    caption = re.sub(r"(?<=[^\W_])_s(?![^\W_])", "'s", name).replace("_", " ")
    return tuple(word for token in _tokens(caption) for word in token.split("-") if word)


def _plain_words(words):
    """Return words without the letters that capitals do not tell apart."""
    return tuple(word.translate(_CAPITALS) for word in words)


def _tokens(text):
    """The tokens of a name or caption, with one spelling of letters, apostrophes and hyphens."""
    return tokenize(unicodedata.normalize("NFKC", text).translate(_SPELLINGS), "characters")


def _plurals(word):
    """Every plural that the rules of spelling allow; a form that does not exist does no harm in a look-up."""
    plurals = {word[: -len(end)] + plural for end, plural in _IRREGULAR.items() if word.endswith(end)}
    if re.search(r"[^aeiou]y$", word):
        return plurals | {word[:-1] + "ies"}
    if re.search(r"(s|x|z|sh)$", word):
        return plurals | {word + "es"}
    return plurals | {word + "s"} | ({word + "es"} if re.search(r"(o|ch)$", word) else set())


def _singulars(word):
    """Every singular of which `word` may be the plural."""
    singulars = {word[: -len(plural)] + end for end, plural in _IRREGULAR.items() if word.endswith(plural)}
    if re.search(r"[^s]s$", word):
        singulars.add(word[:-1])
    if word.endswith("ies"):
        singulars.add(word[:-3] + "y")
    if re.search(r"(s|x|z|ch|sh|o)es$", word):
        singulars.add(word[:-2])
    return singulars

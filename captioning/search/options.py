"""What beam search looks for and finds, without torch: both searches share it, beam.py's and numpy_beam.py's."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from captioning.search.pieces import TOKENS_PER_WORD, Pieces


@dataclass(frozen=True)
class SearchOptions:
    """What beam search looks for. Raises ValueError naming an option that is impossible or that another forbids.

    -1, "the model's own", is for the settings of scripts: search_options puts a number in its place.
    """

    beam_size: int = 5  # beams per image, all groups together; 1 = greedy
    max_len: int = 30  # words of the longest caption, <end> counts as one
    min_len: int = 0  # words of the shortest caption
    length_penalty: float = 0.7  # candidates rank by log-probability / length**x; -1 = the model's own
    no_repeat_ngram: int = 0  # no n-gram of this many words occurs twice in a caption; 0 = off
    consensus: float = 0.6  # candidates weigh probability ** this; 0 = plain beam search; -1 = the model's own
    num_best: int = 1  # captions per image, at most
    groups: int = 1  # groups of beams that avoid each other's words (diverse beam search)
    diversity: float = 0.0  # penalty in nats for a word, per beam of an earlier group that uses it at the same position
    pieces: Pieces | None = None  # where tokens are pieces of words, the model's; limits still count words

    def __post_init__(self):
        check_lengths(self)
        require(self.beam_size >= 1, "beam_size", self.beam_size, "1 or more")
        require(0 <= self.length_penalty < math.inf, "length_penalty", self.length_penalty, "0 or more")
        require(0 <= self.consensus < math.inf, "consensus", self.consensus, "0 or more")
        require(1 <= self.num_best <= self.beam_size, "num_best", self.num_best, f"1 to beam_size ({self.beam_size})")
        divides = self.groups >= 1 and self.beam_size % self.groups == 0
        require(divides, "groups", self.groups, f"a divisor of beam_size ({self.beam_size})")
        require(0 <= self.diversity < math.inf, "diversity", self.diversity, "0 or more")
        alone = self.groups == 1 and self.diversity > 0
        require(not alone, "diversity", self.diversity, "0 with groups 1")

    @property
    def max_tokens(self):
        """The tokens of the longest caption, <end> included."""
        return most_tokens(self)

    def agrees(self):
        """Return whether beams choose the caption together; one beam has nothing to agree with."""
        return self.consensus > 0 and self.beam_size > 1

    def recipe(self):
        """Return all that decides the best caption, as the recipe of a score names it.

        For example beam:5|length_penalty:0.7|max_len:30|consensus:0.6. What is not named is off: no shortest length,
        no n-gram rule, no groups, no consensus. num_best is left out: it does not change the best caption.
        """
        parts = {"beam": self.beam_size, "length_penalty": self.length_penalty, "max_len": self.max_len}
        parts |= {name: getattr(self, name) for name in ("min_len", "no_repeat_ngram") if getattr(self, name)}
        if self.groups > 1:
            parts |= {"groups": self.groups, "diversity": self.diversity}
        if self.agrees():
            parts["consensus"] = self.consensus
        return "|".join(f"{name}:{value:g}" for name, value in parts.items())

    def text(self):
        """Return `recipe` for a sentence: beam 5, length_penalty 0.7, max_len 30, consensus 0.6."""
        return self.recipe().replace(":", " ").replace("|", ", ")

    def all_beams(self):
        """Return the options of the search whose captions a consensus is chosen from."""
        return replace(self, num_best=self.beam_size, consensus=0.0)


@dataclass(frozen=True)
class SamplingOptions:
    """What sampling draws from. Raises ValueError naming an option that is impossible or that another forbids."""

    num_samples: int = 1  # captions of an image
    max_len: int = 30  # words of the longest caption, <end> counts as one
    min_len: int = 0  # words of the shortest caption
    no_repeat_ngram: int = 0  # no run of this many words stands twice in a caption; 0 = off
    temperature: float = 1.0  # log-probabilities are divided by this; above 0
    top_k: int = 0  # draw from this many likeliest words; 0 = from all
    top_p: float = 1.0  # draw from the fewest likeliest words that hold this probability, above 0; 1 = from all
    seed: int = 0  # of sample_captions
    pieces: Pieces | None = None  # as in SearchOptions

    def __post_init__(self):
        check_lengths(self)
        require(self.num_samples >= 1, "num_samples", self.num_samples, "1 or more")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "above 0; greedy is a beam of 1")
        require(self.top_k >= 0, "top_k", self.top_k, "1 or more, or 0 for all words")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")

    @property
    def max_tokens(self):
        """The tokens of the longest caption, <end> included."""
        return most_tokens(self)


MODEL_DECIDES = ("length_penalty", "consensus")  # chosen on the validation split, and kept in the checkpoint
UNSET = -1  # value of such a setting: take the model's

# The options that the scripts show as settings, with their defaults.
SETTINGS = {
    name: float(UNSET) if name in MODEL_DECIDES else getattr(SearchOptions, name)
    for name in ("beam_size", "max_len", "min_len", "length_penalty", "no_repeat_ngram", "consensus")
}


def search_options(decoding, **settings):
    """Return the SearchOptions of a model.

    decoding: {name of MODEL_DECIDES: value} of its checkpoint; an older one, and one of few validation images, has {},
              and gets the defaults
    settings: of SearchOptions; of those that the model decides, -1 or none stands for the model's own
    """
    for name in MODEL_DECIDES:
        if settings.get(name, UNSET) == UNSET:
            settings[name] = decoding.get(name, getattr(SearchOptions, name))
    return SearchOptions(**settings)


LIMITS = {
    "beam_size": (1, 100),
    "max_len": (1, 200),
    "min_len": (0, 199),
    "length_penalty": (float(UNSET), 10),
    "no_repeat_ngram": (0, 100),
    "consensus": (float(UNSET), 10),
}


def require(condition, name, got, allowed):
    """Raise ValueError about the option `name` unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}: got {got}, allowed is {allowed}")


def check_lengths(options):
    """Check what search and sampling share."""
    require(options.max_len >= 1, "max_len", options.max_len, "1 or more")
    longest = options.max_len - 1  # one token is <end>
    require(0 <= options.min_len <= longest, "min_len", options.min_len, f"0 to max_len - 1 ({longest})")
    require(options.no_repeat_ngram >= 0, "no_repeat_ngram", options.no_repeat_ngram, "1 or more, or 0 for off")


def most_tokens(options):
    """Return the tokens of the longest caption: a word is a token, or a few pieces."""
    return options.max_len * (TOKENS_PER_WORD if options.pieces else 1)


def confidence(log_prob, num_tokens):
    """Return the geometric mean of the probabilities of a caption's tokens, 0..1: no lower for a long caption.

    log_prob:   nats, of all the tokens
    num_tokens: words, and <end> where it was said: a caption cut at max_len has none
    """
    return math.exp(log_prob / num_tokens)


class Hypothesis(NamedTuple):
    """One caption that the search found; log-probabilities in nats."""

    ids: list[int]  # without <start> and <end>
    log_prob: float  # of all its tokens, <end> included where it was said
    score: float  # log_prob / length ** length_penalty; length counts <end>. Of a consensus, its agreement, 0..1
    ended: bool = True  # False: cut at max_len, so log_prob has no <end> in it

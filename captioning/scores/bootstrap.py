"""Scores with 95 % bootstrap intervals over the images, and the paired comparison of two models.

Every score of a report is a function of sums over images (of matching n-grams, of right captions, ...). Drawing N of N
images with replacement gives each image a weight of 0, 1, 2, ..., so a thousand draws are one product of a (1000, N)
matrix of weights with the counts of each image, and nothing is scored again. The score itself is the draw in which
every weight is 1: a score and its interval come from one function and cannot disagree.

Draws are stratified: the images of each class are drawn among themselves, so no draw lacks a class. A draw that lacks
one would count its precision, recall and F1 as 0. Classes of one image have nothing to draw from; they share a stratum,
together with the images without a class.

Intervals are percentile intervals, moved so that the median of the draws is the score itself (`interval`): an interval
always holds its score. Where the draws do not vary there is no interval: where all images of each class are right, or
all wrong, every draw has the same accuracy, which says nothing about how certain it is.

Sources: Efron 1979 for the bootstrap; Efron and Tibshirani 1993, chapters 10 (bias) and 13 (percentile intervals);
Koehn 2004 for pairing (a draw takes the same images of all models); Davison and Hinkley 1997, section 4.2.5, for p.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm, rankdata

from captioning.scores.metrics import bleu_counts, bleu_of_counts, cider_d, rouge_l, sentence_bleu_of_counts

DRAWS = 1000
LEVEL = 0.95  # share of the draws that an interval holds
FINER = 10  # steps of p below the level of a test with Holm's correction
BLOCK = 1 << 22  # weights at a time: 32 MB, however many images there are
DIGITS = 8  # scores that agree in so many decimals are equal: a perfect BLEU-4 is 1 less up to 1e-9, by its length
NO_WIDTH = 10.0**-DIGITS  # a narrower interval is one of draws that differ by rounding alone
MACRO = ("precision", "recall", "f1")  # plain means over the classes


class Estimate(NamedTuple):
    """A score, or an array of scores, with its 95 % interval; `low` and `high` are NaN where there is no interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """What the scores of N captions are made of, a row for each image.

    bleu:    (N, 10) matches and totals of BLEU-1..4, caption length, closest reference length
    means:   name -> (N,) scores that a corpus has the mean of
    classes: C names; true, said: (N,) places in it of the true class and of the one that the caption names, -1 = none
    """

    bleu: np.ndarray
    means: dict
    classes: list
    true: np.ndarray
    said: np.ndarray

    @property
    def strata(self):
        """(N,) the stratum of each image, as `strata_of`."""
        return strata_of(self.true)

    @property
    def single_classes(self):
        """The places in `classes` of the classes that have one image."""
        return np.flatnonzero(np.bincount(self.true[self.true >= 0], minlength=len(self.classes)) == 1)


def strata_of(true):
    """Return (N,) the stratum of each image: its class, or -1 for images without a class and classes of one image.

    true: (N,) the places of their classes, -1 = none
    """
    single = np.flatnonzero(np.bincount(true[true >= 0]) == 1)
    return np.where(np.isin(true, single), -1, true)


def count(hypotheses, references, classes=(), true=None, said=None):
    """Return the Counts of captions: token lists, and (N,) class names of which "" is none.

    CIDEr-D takes its document frequencies from all these images; they stay as they are in every draw.
    """
    place = {name: index for index, name in enumerate(classes)}
    true, said = ([place.get(name, -1) for name in names or [""] * len(hypotheses)] for names in (true, said))
    counted = bleu_counts(hypotheses, references)
    means = {
        "sentence_bleu4": sentence_bleu_of_counts(*counted),
        "rouge_l": rouge_l(hypotheses, references)[1],
        "cider_d": cider_d(hypotheses, references)[1],
    }
    return Counts(np.column_stack(counted), means, list(classes), np.array(true), np.array(said))


# ---- scores of weighted images ---------------------------------------------------------------------------


def bleu(sums):
    """(..., 10) sums of Counts.bleu -> (..., 4) BLEU-1..4."""
    return bleu_of_counts(sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9])


def divide(part, whole):
    """part / whole, 0 where `whole` is 0: what the class scores are by convention."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def corpus_scores(counts, weights):
    """The scores of whole corpora: name -> (D,), for weights (D, N) of the images; all ones = the corpus itself."""
    scores = dict(zip(("bleu1", "bleu2", "bleu3", "bleu4"), bleu(weights @ counts.bleu).T, strict=True))
    return scores | {name: weights @ values / weights.sum(axis=1) for name, values in counts.means.items()}


def class_scores(counts, weights):
    """The scores of each class: name -> (D, C), for weights (D, N) of the images.

    "bleu4" is the corpus BLEU-4 of the class's images, "sentence_bleu4" and "cider_d" are means of theirs, and
    "accuracy", "precision", "recall" and "f1" read the captions as a classifier, 0 where they would divide by 0.
    """
    true = one_hot(counts.true, len(counts.classes))
    size = weights @ true
    sums = np.stack([weights @ (true * column[:, None]) for column in counts.bleu.T], axis=-1)
    means = {
        name: divide(weights @ (true * counts.means[name][:, None]), size) for name in ("sentence_bleu4", "cider_d")
    }
    return {"bleu4": bleu(sums)[..., 3], **means, **classifier_scores_by_class(counts, weights)}


def classifier_scores_by_class(counts, weights):
    """ "accuracy", "precision", "recall" and "f1" of each class: name -> (D, C), for weights (D, N) of the images."""
    true, said = one_hot(counts.true, len(counts.classes)), one_hot(counts.said, len(counts.classes))
    size, times_said = weights @ true, (weights * (counts.true >= 0)) @ said
    hits = weights @ (true * (counts.true == counts.said)[:, None])
    recall = divide(hits, size)
    scores = {"precision": divide(hits, times_said), "recall": recall, "f1": divide(2 * hits, size + times_said)}
    return {"accuracy": recall, **scores}


def classifier_scores(counts, weights):
    """Accuracy, and precision, recall and F1 as plain and as weighted means: name -> (D,).

    The means go over the classes that have an image; the weights of the weighted ones are these images' numbers.
    """
    by_class = classifier_scores_by_class(counts, weights)
    size = weights @ one_hot(counts.true, len(counts.classes))
    present = np.bincount(counts.true[counts.true >= 0], minlength=len(counts.classes)) > 0
    scores = {"accuracy": divide((by_class["recall"] * size).sum(axis=1), size.sum(axis=1))}
    for name in MACRO:
        scores[name] = by_class[name][:, present].mean(axis=1)
        scores[f"weighted_{name}"] = divide((by_class[name] * size).sum(axis=1), size.sum(axis=1))
    return scores


def all_scores(counts, weights):
    """corpus_scores, and classifier_scores where the images have classes."""
    return corpus_scores(counts, weights) | (classifier_scores(counts, weights) if (counts.true >= 0).any() else {})


def one_hot(places, size):
    """(N,) places, -1 = none -> (N, size) sparse ones."""
    rows = np.flatnonzero(places >= 0)
    return csr_array((np.ones(len(rows)), (rows, places[rows])), shape=(len(places), size))


# ---- draws and intervals ---------------------------------------------------------------------------------


def resample(statistic, strata, draws=DRAWS, seed=0):
    """The values that a statistic takes in samples of the images: name -> (draws, ...).

    statistic: weights (D, N) -> name -> (D, ...)
    strata:    (N,) whole numbers; the images of each stratum are drawn among themselves, so that it keeps its size
    """
    generator, strata = np.random.default_rng(seed), np.asarray(strata)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    size = len(strata)
    block, blocks = max(1, BLOCK // size), []
    for start in range(0, draws, block):
        weights = np.zeros((min(block, draws - start), size))
        for rows in members:
            shares = np.full(len(rows), 1 / len(rows))
            weights[:, rows] = generator.multinomial(len(rows), shares, size=len(weights))
        blocks.append(statistic(weights))
    return {name: np.concatenate([values[name] for values in blocks]) for name in blocks[0]}


def interval(value, drawn):
    """Return (low, high), the 95 % percentile interval of draws (D, ...) around a score `value` (...).

    The draws are moved by the distance of their median from `value`, which takes out their bias; the 2.5 % and 97.5 %
    quantiles lie on both sides of the median, so the interval holds `value`. It goes no further than `value` and the
    draws themselves do, so a share stays within 0 and 1. NaN where the interval would have no width.
    """
    levels = [0, (1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2, 1]
    lowest, low, median, high, highest = np.quantile(drawn, levels, axis=0)
    # As differences from `value`, so that rounding cannot put it outside.
    low = np.maximum(value + np.minimum(low - median, 0), np.minimum(lowest, value))
    high = np.minimum(value + np.maximum(high - median, 0), np.maximum(highest, value))
    alike = high - low < NO_WIDTH
    return np.where(alike, np.nan, low)[()], np.where(alike, np.nan, high)[()]


def estimate(statistic, strata, draws=DRAWS, seed=0):
    """Return name -> Estimate of a statistic, as `resample` takes it; one image has no interval."""
    strata = np.asarray(strata)
    values = {name: value[0] for name, value in statistic(np.ones((1, len(strata)))).items()}
    if len(strata) < 2:
        return {name: Estimate(value, value * np.nan, value * np.nan) for name, value in values.items()}
    drawn = resample(statistic, strata, draws, seed)
    return {name: Estimate(value, *interval(value, drawn[name])) for name, value in values.items()}


def estimate_scores(counts):
    """Return name -> Estimate of all_scores.

    Plain means over classes have no interval where a class has one image: that class cannot vary, so the interval would
    be too narrow, and of one image a class it would have no width.
    """
    estimates = estimate(lambda weights: all_scores(counts, weights), counts.strata)
    if len(counts.single_classes):
        estimates |= {name: Estimate(estimates[name].value, np.nan, np.nan) for name in MACRO if name in estimates}
    return estimates


def draw_class_scores(counts):
    """Return (values, drawn) of class_scores: name -> (C,) and name -> (draws, C), NaN for classes of one image."""
    values = {name: value[0] for name, value in class_scores(counts, np.ones((1, len(counts.true)))).items()}
    drawn = resample(lambda weights: class_scores(counts, weights), counts.strata)
    for score in drawn.values():
        score[:, counts.single_classes] = np.nan
    return values, drawn


def estimate_mean(values, strata=None):
    """Return the Estimate of the mean of (N,) values; strata as in `resample`, None = one of them all."""
    values = np.asarray(values, float)
    strata = np.zeros(len(values)) if strata is None else strata
    return estimate(lambda weights: {"mean": weights @ values / len(values)}, strata)["mean"]


def estimate_share(parts, wholes, true):
    """Return the Estimate of sum(parts) / sum(wholes) over N images; true: (N,) the places of their classes."""

    def share(weights):
        return {"share": weights @ parts / (weights @ wholes)}

    return estimate(share, strata_of(np.asarray(true)))["share"]


def estimate_gap(values, first):
    """Return the Estimate of the mean of the values (N,) where `first` is True minus that of the others.

    Both groups keep their size in each draw. No interval where one of them has a single value.
    """
    values, first = np.asarray(values, float), np.asarray(first, bool)

    def difference(weights):
        means = [weights[:, side] @ values[side] / side.sum() for side in (first, ~first)]
        return {"gap": means[0] - means[1]}

    gap = estimate(difference, first)["gap"]
    return gap if min(first.sum(), (~first).sum()) > 1 else Estimate(gap.value, np.nan, np.nan)


# ---- rank correlation ------------------------------------------------------------------------------------


def rank_correlation(x, y):
    """Spearman's rank correlation of (..., n) with (..., n) along the last axis; NaN where one side is constant."""
    x, y = (rankdata(np.round(side, DIGITS), axis=-1) for side in np.broadcast_arrays(x, y))
    x, y = (side - side.mean(axis=-1, keepdims=True) for side in (x, y))
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def estimate_correlation(x, y):
    """Return the Estimate of Spearman's rank correlation of (n,) with (n,), over samples of the n pairs.

    NaN where one side is constant or there are fewer than three pairs. No interval below four pairs, and none for a
    correlation of exactly 1 or -1.

    The interval is Fisher's: symmetric around artanh(rho) with the variance (1 + rho^2 / 2) / (n - 3). Bootstrap draws
    of pairs repeat some of them, and the ties that this makes bias a rank correlation.
    Source: Bonett and Wright 2000 (doi:10.1007/BF02294183).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.isnan(value := float(rank_correlation(x, y))):
        return Estimate(np.nan, np.nan, np.nan)
    if abs(value) > 1 - 1e-9:
        return Estimate(float(np.sign(value)), np.nan, np.nan)
    if len(x) < 4:
        return Estimate(value, np.nan, np.nan)
    width = norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + value**2 / 2) / (len(x) - 3))
    low, high = np.tanh(np.arctanh(value) + np.array([-width, width]))
    return Estimate(value, float(low), float(high))


# ---- several models --------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A score of two models on the same images; `low` and `high` bound the difference, NaN where nothing tells it."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def one_score(counts, weights, name):
    """One of all_scores alone: (D,), for weights (D, N) of the images."""
    if name in counts.means:
        return weights @ counts.means[name] / weights.sum(axis=1)
    if name.startswith("bleu"):
        return bleu(weights @ counts.bleu)[..., int(name.removeprefix("bleu")) - 1]
    return classifier_scores(counts, weights)[name]


def draw_together(sides, names=(), draws=DRAWS, seed=0):
    """Return (values, drawn) of the scores of M models: name -> (M,) and name -> (draws, M).

    sides: Counts of each model; each draw takes the same images of all of them
    names: of all_scores, which take time together; () = all of them

    Raises ValueError if the numbers of images differ.
    """
    first = sides[0]
    for side in sides[1:]:
        if len(side.true) != len(first.true):
            raise ValueError(f"compare: {len(first.true)} images of the first model, {len(side.true)} of the second")

    def scores(weights):
        found = [
            {name: one_score(side, weights, name) for name in names} if names else all_scores(side, weights)
            for side in sides
        ]
        return {name: np.stack([one[name] for one in found], axis=-1) for name in found[0]}

    values = {name: value[0] for name, value in scores(np.ones((1, len(first.true)))).items()}
    if len(first.true) < 2:
        return values, {name: np.full((draws, len(sides)), np.nan) for name in values}
    drawn = resample(scores, first.strata, draws, seed)
    if len(first.single_classes):
        drawn |= {name: np.full_like(drawn[name], np.nan) for name in MACRO if name in drawn}
    return values, drawn


def difference_of(values, drawn):
    """Compare two models by a score: the Difference of its values (2,), with draws (D, 2).

    difference: first - second, with its 95 % interval
    p:          two-sided: twice (k + 1) / (draws + 1), where k draws lie on the other side of 0; the draws are moved as
                in `interval`. 1 where the two never differ, NaN where there is a difference but no interval
    """
    first, second = map(float, values)
    value, drawn = first - second, drawn[:, 0] - drawn[:, 1]
    value = value if abs(value) >= NO_WIDTH else 0.0
    low, high = interval(value, drawn)
    if np.isnan(drawn).any():
        p = np.nan
    elif np.isnan(low):
        p = np.nan if value else 1.0
    else:
        moved = drawn + (value - np.median(drawn))
        p = min(1.0, 2 * (min((moved <= 0).sum(), (moved >= 0).sum()) + 1) / (len(drawn) + 1))
    return Difference(first, second, value, float(low), float(high), p)


def paired_differences(first, second, draws=DRAWS, seed=0):
    """Compare two models on the same images: name -> Difference, of their Counts."""
    values, drawn = draw_together([first, second], draws=draws, seed=seed)
    return {name: difference_of(values[name], drawn[name]) for name in values}


def draws_for(comparisons):
    """Return how many draws tell apart p-values at Holm's smallest level, LEVEL's complement / comparisons.

    The least p of D draws is 2 / (D + 1); FINER such steps lie below the level.
    """
    return max(DRAWS, int(np.ceil(2 * FINER * comparisons / (1 - LEVEL))))


def holm(p_values):
    """Return p-values corrected for their number, in their order; NaN counts as 1 and stays NaN.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    p_values = np.asarray(p_values, float)
    filled = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(filled, kind="stable")
    stepped = filled[order] * np.arange(len(filled), 0, -1)
    corrected = np.empty(len(filled))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return np.where(np.isnan(p_values), np.nan, corrected)

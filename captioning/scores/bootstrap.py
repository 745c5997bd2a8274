"""How sure a score is: bootstrap intervals over images, and the paired comparison of two models.

Every score of a report is a function of sums over images (of matching n-grams, of right captions, ...). Drawing N
of N images with replacement is giving each a weight of 0, 1, 2, ..., so a thousand draws are one product of a
(1000, N) matrix of weights with the counts of each image, and nothing is scored again.
Source: Efron 1979 for the bootstrap, Koehn 2004 for pairing it (a draw takes the same images of both models).
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from captioning.scores.metrics import bleu_counts, bleu_of_counts, cider_d, rouge_l, sentence_bleu

DRAWS = 1000
LEVEL = 0.95  # share of the draws that an interval holds
BLOCK = 1 << 22  # weights at a time: 32 MB, however many images there are


@dataclass(frozen=True)
class Counts:
    """What the scores of N captions are made of, a row for each image.

    bleu:    (N, 10) matches and totals of BLEU-1..4, caption length, closest reference length
    means:   name -> (N,) scores that a corpus has the mean of
    classes: C names; true, named: (N,) places in it of the true class and of the one named, -1 = none
    """

    bleu: np.ndarray
    means: dict
    classes: list
    true: np.ndarray
    named: np.ndarray


def count(hypotheses, references, classes=(), true=None, named=None):
    """Return the Counts of captions: token lists, and (N,) class names of which "" is none.

    CIDEr-D takes its document frequencies from all these images; they stay as they are in every draw.
    """
    place = {name: index for index, name in enumerate(classes)}
    true, named = ([place.get(name, -1) for name in names or [""] * len(hypotheses)] for names in (true, named))
    means = {
        "sentence_bleu4": sentence_bleu(hypotheses, references),
        "rouge_l": rouge_l(hypotheses, references)[1],
        "cider_d": cider_d(hypotheses, references)[1],
    }
    bleu = np.column_stack(bleu_counts(hypotheses, references))
    return Counts(bleu, means, list(classes), np.array(true), np.array(named))


def bleu(sums):
    """(..., 10) sums of Counts.bleu -> (..., 4) BLEU-1..4."""
    return bleu_of_counts(sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9])


def divide(part, whole):
    """part / whole, 0 where `whole` is 0: what the class scores are by convention."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def caption_scores(counts, weights):
    """The scores of whole corpora: name -> (D,), for weights (D, N) of the images; all ones = the corpus itself."""
    scores = dict(zip(("bleu1", "bleu2", "bleu3", "bleu4"), bleu(weights @ counts.bleu).T, strict=True))
    return scores | {name: weights @ values / weights.sum(axis=1) for name, values in counts.means.items()}


def class_scores(counts, weights):
    """The scores of each class: name -> (D, C), for weights (D, N) of the images.

    "bleu4" is the corpus BLEU-4 of the class's images, "sentence_bleu4" and "cider_d" are means of theirs, and
    "accuracy", "precision", "recall" and "f1" read the captions as a classifier, 0 where they would divide by 0.
    """
    true, named = one_hot(counts.true, len(counts.classes)), one_hot(counts.named, len(counts.classes))
    size = weights @ true
    sums = np.stack([weights @ (true * column[:, None]) for column in counts.bleu.T], axis=-1)
    scores = {
        name: divide(weights @ (true * counts.means[name][:, None]), size) for name in ("sentence_bleu4", "cider_d")
    }
    hits = weights @ (true * (counts.true == counts.named)[:, None])
    labelled = weights * (counts.true >= 0)
    recall, precision = divide(hits, size), divide(hits, labelled @ named)
    f1 = divide(2 * hits, size + labelled @ named)
    return {
        "bleu4": bleu(sums)[..., 3],
        **scores,
        "accuracy": recall,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def classifier_scores(counts, weights):
    """Accuracy, and precision, recall and F1 as plain and as weighted means: name -> (D,).

    The means go over the classes that have an image; the weights of the weighted ones are these images' numbers.
    """
    by_class = class_scores(counts, weights)
    size = weights @ one_hot(counts.true, len(counts.classes))
    present = np.bincount(counts.true[counts.true >= 0], minlength=len(counts.classes)) > 0
    scores = {"accuracy": divide((by_class["recall"] * size).sum(axis=1), size.sum(axis=1))}
    for name in ("precision", "recall", "f1"):
        scores[name] = by_class[name][:, present].mean(axis=1)
        scores[f"weighted_{name}"] = divide((by_class[name] * size).sum(axis=1), size.sum(axis=1))
    return scores


def one_hot(places, size):
    """(N,) places, -1 = none -> (N, size) sparse ones."""
    rows = np.flatnonzero(places >= 0)
    return csr_array((np.ones(len(rows)), (rows, places[rows])), shape=(len(places), size))


# ---- draws ---------------------------------------------------------------------------------------------


def resample(statistic, size, groups=None, draws=DRAWS, seed=0):
    """The values that a statistic takes in samples of the images: name -> (draws, ...).

    statistic: weights (D, N) -> name -> (D, ...)
    size:      N, the number of images
    groups:    (N,) whole numbers; where given each group is sampled for itself and keeps its size
    """
    generator = np.random.default_rng(seed)
    groups = np.zeros(size, int) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    block, blocks = max(1, BLOCK // size), []
    for start in range(0, draws, block):
        weights = np.zeros((min(block, draws - start), size))
        for rows in members:
            shares = np.full(len(rows), 1 / len(rows))
            weights[:, rows] = generator.multinomial(len(rows), shares, size=len(weights))
        blocks.append(statistic(weights))
    return {name: np.concatenate([values[name] for values in blocks]) for name in blocks[0]}


def interval(values):
    """(low, high) that hold the middle 95 % of the draws along the first axis."""
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def mean_interval(values):
    """The interval of the mean of (N,) values: (low, high)."""
    drawn = resample(lambda weights: {"mean": weights @ values / len(values)}, len(values))["mean"]
    return tuple(interval(drawn).tolist())


def rank_correlation(x, y):
    """Spearman's rank correlation of (..., n) with (..., n) along the last axis; NaN where one side is constant."""
    x, y = (rankdata(side, axis=-1) for side in np.broadcast_arrays(x, y))
    x, y = (side - side.mean(axis=-1, keepdims=True) for side in (x, y))
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def correlation_interval(x, y, draws=DRAWS, seed=0):
    """Spearman's rank correlation of (n,) with (n,), with its 95 % interval over samples of the n pairs.

    returns: (value, low, high); NaN where one side is constant or there are fewer than three pairs. Samples in which
             one side is constant have no correlation and are left out.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.isnan(value := float(rank_correlation(x, y))):
        return np.nan, np.nan, np.nan
    generator, block, sampled = np.random.default_rng(seed), max(1, BLOCK // len(x)), []
    for start in range(0, draws, block):
        chosen = generator.integers(0, len(x), (min(block, draws - start), len(x)))
        sampled.append(rank_correlation(x[chosen], y[chosen]))
    sampled = np.concatenate(sampled)
    return value, *interval(sampled[~np.isnan(sampled)]).tolist()


# ---- two models ----------------------------------------------------------------------------------------


def all_scores(counts, weights):
    """caption_scores, and classifier_scores where the images have classes."""
    return caption_scores(counts, weights) | (classifier_scores(counts, weights) if (counts.true >= 0).any() else {})


def paired_differences(first, second, draws=DRAWS, seed=0):
    """Compare two models on the same images: name -> (first, second, difference, low, high, p).

    difference: first - second, with its 95 % interval; each draw takes the same images of both
    p:          share of the draws on the other side of 0, doubled; 1 where the two never differ
    Raises ValueError if the numbers of images differ.
    """
    size = len(first.bleu)
    if len(second.bleu) != size:
        raise ValueError(f"compare: {size} images of the first model, {len(second.bleu)} of the second")
    whole = np.ones((1, size))
    values = [{name: float(score[0]) for name, score in all_scores(side, whole).items()} for side in (first, second)]

    def difference(weights):
        ours, theirs = all_scores(first, weights), all_scores(second, weights)
        return {name: ours[name] - theirs[name] for name in ours}

    rows = {}
    for name, drawn in resample(difference, size, draws=draws, seed=seed).items():
        ours, theirs = values[0][name], values[1][name]
        low, high = interval(drawn).tolist()
        p = min(1.0, 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()))
        rows[name] = (ours, theirs, ours - theirs, low, high, max(p, 1 / draws))
    return rows

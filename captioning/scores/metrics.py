"""How close captions come to their references: BLEU, ROUGE-L and CIDEr-D on token lists.

hypotheses: N token lists, one caption per image; references: N lists of one or more token lists. Both are
made by captioning.data.tokenizer.tokenize. Every function raises ValueError if the lengths differ or are 0, or
if an image has no reference. Corpus BLEU, ROUGE-L and CIDEr-D agree with pycocoevalcap to 1e-9.

BLEU and CIDEr-D compare counts of n-grams. _Ngrams turns n-grams into whole numbers, so that numpy counts
and joins those of all the captions at once; CiderD is also the reward of self-critical training.
"""

import math
from itertools import chain
from typing import NamedTuple

import numpy as np

# What pycocoevalcap adds above and below BLEU's fractions: nothing is divided by zero, no match gives
# about 0.
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2  # ROUGE-L: how much more recall weighs than precision
_MAX_N = 4  # CIDEr-D: tokens of the longest n-gram
_SIGMA = 6.0  # CIDEr-D: words of length difference that cost a factor of exp(-1/2)
_LOW = (1 << 32) - 1  # two numbers below 2**31 share an int64: high << 32 | low


def corpus_bleu(hypotheses, references, max_n=4):
    """Corpus BLEU-1..max_n in [0, 1]; papers print x100.

    Unsmoothed; counts are summed over the images before dividing, not a mean of sentences. The reference
    length is the one closest to the hypothesis, the shorter of two equally close. Without a match BLEU-n
    is about 0.
    Source: Papineni et al. 2002; counts short hypotheses as pycocoevalcap does.
    """
    return bleu_of_counts(*(counts.sum(axis=0) for counts in bleu_counts(hypotheses, references, max_n))).tolist()


def bleu_counts(hypotheses, references, max_n=4):
    """What BLEU counts in each image: (matches, totals, lengths, closest).

    matches, totals: (N, max_n) n-grams of the caption that a reference holds, and all of them
    lengths, closest: (N,) words of the caption, and of the reference nearest in length
    """
    _check(hypotheses, references)
    size = len(hypotheses)
    group_size = np.array([len(group) for group in references])
    image_of = np.repeat(np.arange(size), group_size)
    captions = list(chain.from_iterable(references))
    lengths = np.array([len(hypothesis) for hypothesis in hypotheses])
    totals = np.maximum(lengths[:, None] - np.arange(max_n), 0)

    # The smallest (distance, length) of each image, packed into one number.
    reference_lengths = np.array([len(caption) for caption in captions])
    packed = abs(reference_lengths - lengths[image_of]) << 32 | reference_lengths
    closest = np.minimum.reduceat(packed, _starts(group_size)) & _LOW

    matches = np.zeros((size, max_n))
    ngrams = _Ngrams(max_n)
    counted = zip(ngrams.learn(hypotheses), ngrams.count(captions), strict=True)
    for n, ((keys, counts), (reference_keys, reference_counts)) in enumerate(counted):
        most = np.zeros(len(keys), np.int64)  # the n-gram's count in the reference of its image that has most
        place, found = _find(keys, image_of[reference_keys >> 32] << 32 | reference_keys & _LOW)
        np.maximum.at(most, place[found], reference_counts[found])
        matches[:, n] = np.bincount(keys >> 32, np.minimum(counts, most), minlength=size)
    return matches, totals, lengths, closest


def bleu_of_counts(matches, totals, lengths, closest):
    """Corpus BLEU-1..n (..., n) in [0, 1] from the sums of bleu_counts over the images of a corpus.

    matches, totals: (..., n); lengths, closest: (...): one corpus for each place of the leading axes
    """
    precisions = (matches + _TINY) / (totals + _SMALL)
    scores = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, precisions.shape[-1] + 1))
    ratio = (lengths + _TINY) / (closest + _SMALL)
    return scores * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]


def sentence_bleu(hypotheses, references):
    """BLEU-4 of every caption for itself, smoothed; (N,) in [0, 1].

    0 for a caption that shares no word with its references. An n-gram order without a match counts
    log(length) / (5 * 2**i) matches, i = 1 for the first such order, 2 for the second, ...
    Source: method 4 of Chen and Cherry 2014, equal to nltk's with SmoothingFunction().method4.
    """
    return sentence_bleu_of_counts(*bleu_counts(hypotheses, references, 4))


def sentence_bleu_of_counts(matches, totals, lengths, closest):
    """The (N,) values of sentence_bleu from bleu_counts up to 4-grams."""
    missing = matches == 0
    smoothed = np.log(np.maximum(lengths, 1))[:, None] / (5 * 2.0 ** np.cumsum(missing, axis=1))
    precisions = np.where(missing, smoothed, matches) / np.maximum(totals, 1)
    # A single word has log(length) = 0: its empty orders are left out of the mean, as nltk does.
    log_mean = np.log(precisions, out=np.zeros(precisions.shape), where=precisions > 0).sum(axis=1) / 4
    penalty = np.minimum(0.0, 1 - closest / np.maximum(lengths, 1))
    return np.where(missing[:, 0], 0.0, np.exp(log_mean + penalty))


def rouge_l(hypotheses, references):
    """ROUGE-L, the F-measure of the longest common subsequence: (mean, (N,) per image), in [0, 1].

    Precision and recall are each the best over the references before they are combined with beta = 1.2.
    0 for an empty caption, unless a reference is empty too.
    Source: Lin 2004, equations 2 to 4; the best over references as in pycocoevalcap.
    """
    _check(hypotheses, references)
    scores = []
    for hypothesis, group in zip(hypotheses, references, strict=True):
        hypothesis = hypothesis or [""]  # pycocoevalcap's reading of "": one empty word
        group = [reference or [""] for reference in group]
        common = _common_lengths(hypothesis, group)
        precision = max(common) / len(hypothesis)
        recall = max(c / len(reference) for c, reference in zip(common, group, strict=True))
        weighted = recall + _BETA**2 * precision
        scores.append((1 + _BETA**2) * precision * recall / weighted if weighted else 0.0)
    return float(np.mean(scores)), np.array(scores)


def cider_d(hypotheses, references):
    """CIDEr-D: (mean, (N,) per image), in [0, 10].

    The scale is pycocoevalcap's, which includes the paper's factor 10: Lu et al. 2017 print this number
    as it is (hard attention on UCM: 2.99), COCO papers print it x100 (1.20 as 120).
    An n-gram weighs log(N) - log(images whose references hold it), counted on these references: the score
    depends on the set of images, and for one image it is 0.
    Source: Vedantam et al. 2015 (arXiv:1411.5726); its length penalty counts bigrams, as in pycocoevalcap.
    """
    _check(hypotheses, references)
    scores = CiderD(references).score(hypotheses, np.arange(len(hypotheses)))
    return float(scores.mean()), scores


class CiderD:
    """CIDEr-D against references that are counted once: the reward of self-critical training.

        reward = CiderD(references)  # of the train split, one list of token lists per image
        advantage = reward.score(sampled, images) - reward.score(greedy, images)

    Tokens are words or token ids, the same kind on both sides. Either end all captions with <end>, references
    and hypotheses, or none; without it training learns to stop at "on a" (Hu et al. 2023, arXiv:2305.12254).
    Raises ValueError if there are no references, or an image has none.
    Source: Rennie et al. 2017 (arXiv:1612.00563) for the training, cider_d for the score.
    """

    def __init__(self, references):
        _check(references, references)
        captions = list(chain.from_iterable(references))
        self._group_size = np.array([len(group) for group in references])  # captions of each image
        self._first = _starts(self._group_size)  # place of each image's first caption in `captions`
        image_of = np.repeat(np.arange(len(references)), self._group_size)
        self._lengths = np.array([len(caption) for caption in captions])

        self._ngrams = _Ngrams(_MAX_N)
        unseen_weight = math.log(len(references))
        self._orders = []
        for keys, counts in self._ngrams.learn(captions):
            caption, ngram = keys >> 32, keys & _LOW
            # Equation 2 of Vedantam et al.: the inverse document frequency; an image is a document.
            images = np.bincount(np.unique(image_of[caption] << 32 | ngram) & _LOW)
            weights = np.append(unseen_weight - np.log(images), unseen_weight)
            values = counts * weights[ngram]
            size = np.bincount(caption, minlength=len(captions))
            norms = np.sqrt(np.bincount(caption, values**2, minlength=len(captions)))
            self._orders.append(_Vectors(weights, ngram, values, _starts(size), size, norms))

    def score(self, hypotheses, image_indices):
        """Return the CIDEr-D of each hypothesis against the references of its image, (N,) in [0, 10].

        hypotheses:    N token lists, [] allowed
        image_indices: (N,) whole numbers, the images' places in `references`, in any order and repeated

        Raises ValueError if the lengths differ or an index has no references.
        """
        images = np.asarray(image_indices, dtype=np.int64)
        if images.shape != (len(hypotheses),):
            raise ValueError(f"image_indices: got shape {images.shape} for {len(hypotheses)} hypotheses")
        if ((images < 0) | (images >= len(self._first))).any():
            raise ValueError(
                f"image_indices: got {images.min()} to {images.max()}, allowed are 0 to {len(self._first) - 1}"
            )
        # Each hypothesis meets every reference of its image: P pairs, a row of each.
        group_size = self._group_size[images]
        hypothesis = np.repeat(np.arange(len(images)), group_size)
        reference = _ranges(self._first[images], group_size)
        similarity = np.zeros(len(reference))
        for (keys, counts), vectors in zip(self._ngrams.count(hypotheses), self._orders, strict=True):
            values = counts * vectors.weights[np.minimum(keys & _LOW, len(vectors.weights) - 1)]
            norms = np.sqrt(np.bincount(keys >> 32, values**2, minlength=len(images)))
            # The n-grams of each pair's reference, joined with those of its hypothesis.
            size = vectors.size[reference]
            entry, pair = _ranges(vectors.first[reference], size), np.repeat(np.arange(len(reference)), size)
            place, found = _find(keys, hypothesis[pair] << 32 | vectors.ngram[entry])
            value, reference_value = values[place[found]], vectors.values[entry[found]]
            products = np.minimum(value, reference_value) * reference_value  # what makes CIDEr CIDEr-D
            products = np.bincount(pair[found], products, minlength=len(reference))
            scale = norms[hypothesis] * vectors.norms[reference]
            similarity += np.divide(products, scale, out=np.zeros(len(reference)), where=scale > 0)
        lengths = np.array([len(tokens) for tokens in hypotheses], dtype=np.int64)
        bigrams, reference_bigrams = np.maximum(lengths - 1, 0), np.maximum(self._lengths - 1, 0)
        difference = bigrams[hypothesis] - reference_bigrams[reference]
        similarity *= np.exp(-(difference**2) / (2 * _SIGMA**2))
        return 10 / _MAX_N * np.bincount(hypothesis, similarity, minlength=len(images)) / group_size


class _Vectors(NamedTuple):
    """The n-grams of one order in R references: one entry per reference and different n-gram, E in all."""

    weights: np.ndarray  # (n-grams + 1,) inverse document frequency; the last is that of every n-gram not seen
    ngram: np.ndarray  # (E,) number of the n-gram
    values: np.ndarray  # (E,) its count * weight
    first: np.ndarray  # (R,) the reference's first entry
    size: np.ndarray  # (R,) the number of its entries
    norms: np.ndarray  # (R,) Euclidean length of its values


class _Ngrams:
    """Whole numbers for tokens and n-grams, from 0 on in each order: equal n-grams have equal numbers.

    An n-gram is the number of its first n-1 tokens and that of its last token, packed into one. Nothing is
    hashed, so different n-grams never share a number.
    """

    def __init__(self, max_n):
        self._tokens = {}
        self._longer = [np.empty(0, np.int64)] * (max_n - 1)  # packed, sorted: an n-gram's number is its place

    def learn(self, captions):
        """Count the n-grams of the first captions, as `count` does, and keep their numbers. For one call."""
        counts, self._tokens, self._longer = self._count(captions)
        return counts

    def count(self, captions):
        """Count the n-grams of any captions; those without a number get the next ones, forgotten afterwards.

        returns: for each order n = 1, 2, ... (keys, counts): key = caption << 32 | n-gram, sorted, each once
        """
        return self._count(captions)[0]

    def _count(self, captions):
        """Return (counts, the numbers of all tokens, the n-grams of order 2, 3, ... without a number)."""
        flat = list(chain.from_iterable(captions))
        new = [token for token in dict.fromkeys(flat) if token not in self._tokens]
        tokens = self._tokens | dict(zip(new, range(len(self._tokens), len(self._tokens) + len(new)), strict=True))
        last = np.fromiter(map(tokens.__getitem__, flat), np.int64, len(flat))
        lengths = np.fromiter(map(len, captions), np.int64, len(captions))
        caption = np.repeat(np.arange(len(captions)), lengths)
        remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # tokens to the caption's end

        numbers = last.copy()  # of the n-gram that begins at each token; junk where the caption is too short
        counts, longer = [np.unique(caption << 32 | numbers, return_counts=True)], []
        for n, known in enumerate(self._longer, start=2):
            begin = np.flatnonzero(remaining >= n)
            packed = numbers[begin] << 32 | last[begin + n - 1]
            number, found = _find(known, packed)
            fresh, order = np.unique(packed[~found], return_inverse=True)
            number[~found] = len(known) + order
            numbers[begin] = number
            counts.append(np.unique(caption[begin] << 32 | number, return_counts=True))
            longer.append(fresh)
        return counts, tokens, longer


def _find(keys, wanted):
    """Return the places of `wanted` in sorted `keys`, and which of them are there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return places, keys[places] == wanted


def _starts(sizes):
    """Return where each of several runs of `sizes` begins, one after the other."""
    return np.cumsum(sizes) - sizes


def _ranges(first, sizes):
    """Return first[0], first[0] + 1, ..., sizes[0] numbers, then those of first[1], and so on."""
    return np.repeat(first - _starts(sizes), sizes) + np.arange(sizes.sum())


def _check(hypotheses, references):
    if len(hypotheses) != len(references):
        raise ValueError(f"captions: got {len(hypotheses)} for {len(references)} images, needs one for each")
    if not hypotheses:
        raise ValueError("captions: got none, a score needs at least one image")
    for index, group in enumerate(references):
        if not group:
            raise ValueError(f"references: image {index} has none, needs at least one caption")


def _common_lengths(tokens, others):
    """The length of the longest common subsequence of `tokens` with each of `others`.

    One bit per token of `tokens`, a whole row of the usual table at once. Source: Hyyrö 2004.
    """
    places = {}
    for index, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << index
    full = (1 << len(tokens)) - 1
    lengths = []
    for other in others:
        row = full  # a 0 where the table's value rises by one
        for place in map(places.get, other):
            if place:  # a token that `tokens` lacks changes nothing
                hits = row & place
                row = ((row + hits) | (row - hits)) & full
        lengths.append(len(tokens) - row.bit_count())
    return lengths

"""How close captions come to their references: BLEU, ROUGE-L and CIDEr-D on token lists.

hypotheses: N token lists, one caption per image; references: N lists of one or more token lists. Both are
made by captioning.tokenizer.tokenize. Every function raises ValueError if the lengths differ or are 0, or
if an image has no reference. Corpus BLEU, ROUGE-L and CIDEr-D agree with pycocoevalcap to 1e-9.
"""

import math
from collections import Counter

import numpy as np

# What pycocoevalcap adds above and below BLEU's fractions: nothing is divided by zero, no match gives
# about 0.
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2  # ROUGE-L: how much more recall weighs than precision
_SIGMA = 6.0  # CIDEr-D: words of length difference that cost a factor of exp(-1/2)


def corpus_bleu(hypotheses, references, max_n=4) -> list[float]:
    """Corpus BLEU-1..max_n in [0, 1]; papers print x100.

    Unsmoothed; counts are summed over the images before dividing, not a mean of sentences. The reference
    length is the one closest to the hypothesis, the shorter of two equally close. Without a match BLEU-n
    is about 0.
    Source: Papineni et al. 2002; counts short hypotheses as pycocoevalcap does.
    """
    matches, totals, lengths, closest = _bleu_counts(hypotheses, references, max_n)
    precisions = (matches.sum(axis=0) + _TINY) / (totals.sum(axis=0) + _SMALL)
    scores = np.cumprod(precisions) ** (1 / np.arange(1, max_n + 1))
    ratio = (lengths.sum() + _TINY) / (closest.sum() + _SMALL)
    return (scores * math.exp(min(0.0, 1 - 1 / ratio))).tolist()


def sentence_bleu(hypotheses, references) -> np.ndarray:
    """BLEU-4 of every caption for itself, smoothed; (N,) in [0, 1].

    0 for a caption that shares no word with its references. An n-gram order without a match counts
    log(length) / (5 * 2**i) matches, i = 1 for the first such order, 2 for the second, ...
    Source: method 4 of Chen and Cherry 2014, equal to nltk's with SmoothingFunction().method4.
    """
    matches, totals, lengths, closest = _bleu_counts(hypotheses, references, 4)
    scores = np.zeros(len(matches))
    for row in np.flatnonzero(matches[:, 0]):
        length, counts = lengths[row], matches[row].copy()
        missing = np.flatnonzero(counts == 0)
        # A single word has log(length) = 0: its empty orders are left out of the mean below, as nltk does.
        counts[missing] = np.log(length) / (5 * 2.0 ** np.arange(1, len(missing) + 1))
        seen = counts > 0
        log_mean = np.log(counts[seen] / np.maximum(totals[row, seen], 1)).sum() / 4
        scores[row] = math.exp(log_mean + min(0.0, 1 - closest[row] / length))
    return scores


def rouge_l(hypotheses, references) -> tuple[float, np.ndarray]:
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


def cider_d(hypotheses, references) -> tuple[float, np.ndarray]:
    """CIDEr-D: (mean, (N,) per image), in [0, 10].

    The scale is pycocoevalcap's, which includes the paper's factor 10: Lu et al. 2017 print this number
    as it is (hard attention on UCM: 2.99), COCO papers print it x100 (1.20 as 120).
    An n-gram weighs log(N) - log(images whose references hold it), counted on these references: the score
    depends on the set of images, and for one image it is 0.
    Source: Vedantam et al. 2015 (arXiv:1411.5726); its length penalty counts bigrams, as in pycocoevalcap.
    """
    _check(hypotheses, references)
    counted = [[_ngrams(reference, 4) for reference in group] for group in references]
    frequency = Counter(ngram for group in counted for ngram in set().union(*group))
    total = math.log(len(references))
    weight = {ngram: total - math.log(count) for ngram, count in frequency.items()}

    def vector(counts):
        """n-gram -> tf * idf, and the Euclidean norm of each order."""
        values, squares = {}, [0.0] * 4
        for ngram, count in counts.items():
            value = values[ngram] = count * weight.get(ngram, total)
            squares[len(ngram) - 1] += value * value
        return values, [math.sqrt(square) for square in squares]

    scores = []
    for hypothesis, group, group_counts in zip(hypotheses, references, counted, strict=True):
        values, norms = vector(_ngrams(hypothesis, 4))
        score = 0.0
        for reference, counts in zip(group, group_counts, strict=True):
            reference_values, reference_norms = vector(counts)
            products = [0.0] * 4
            for ngram, value in values.items():
                reference_value = reference_values.get(ngram, 0.0)
                products[len(ngram) - 1] += min(value, reference_value) * reference_value
            difference = max(0, len(hypothesis) - 1) - max(0, len(reference) - 1)
            penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
            for product, norm, reference_norm in zip(products, norms, reference_norms, strict=True):
                if norm * reference_norm > 0:
                    score += penalty * product / (norm * reference_norm)
        scores.append(10 * score / (4 * len(group)))
    return float(np.mean(scores)), np.array(scores)


def _check(hypotheses, references) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"captions: got {len(hypotheses)} for {len(references)} images, needs one for each")
    if not hypotheses:
        raise ValueError("captions: got none, a score needs at least one image")
    for index, group in enumerate(references):
        if not group:
            raise ValueError(f"references: image {index} has none, needs at least one caption")


def _ngrams(tokens, max_n) -> Counter:
    """How often each n-gram of 1..max_n tokens occurs."""
    orders = range(1, max_n + 1)
    return Counter(ngram for n in orders for ngram in zip(*(tokens[i:] for i in range(n)), strict=False))


def _bleu_counts(hypotheses, references, max_n):
    """Matches and totals (N, max_n) per n-gram order, caption lengths and closest reference lengths (N,)."""
    _check(hypotheses, references)
    size = len(hypotheses)
    matches = np.zeros((size, max_n))
    totals = np.zeros((size, max_n))
    lengths = np.array([len(hypothesis) for hypothesis in hypotheses])
    closest = np.zeros(size)
    for row, (hypothesis, group) in enumerate(zip(hypotheses, references, strict=True)):
        length = len(hypothesis)
        closest[row] = min((len(reference) for reference in group), key=lambda r: (abs(r - length), r))
        totals[row] = [max(0, length - n) for n in range(max_n)]
        group_counts = [_ngrams(reference, max_n) for reference in group]
        for ngram, count in _ngrams(hypothesis, max_n).items():
            best = max(counts.get(ngram, 0) for counts in group_counts)
            matches[row, len(ngram) - 1] += min(count, best)
    return matches, totals, lengths, closest


def _common_lengths(tokens, others) -> list[int]:
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
        for token in other:
            hits = row & places.get(token, 0)
            row = ((row + hits) | (row - hits)) & full
        lengths.append(len(tokens) - row.bit_count())
    return lengths

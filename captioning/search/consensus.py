"""Minimum Bayes risk decoding (Kumar and Byrne 2004): choose the candidate most similar to all candidates of a search.

The most probable caption can be an outlier, while most of the probability lies on captions that say the same thing in
different words. Each candidate is compared with all of them, weighted by their probabilities; the similarity is that
of CIDEr-D. numpy over token ids, for both beam searches.
"""

import numpy as np

ORDERS = (2, 3, 4)  # words of the n-grams; single words such as "a" stand in nearly every caption
SIGMA = 6.0  # words; of CIDEr-D's penalty for captions of other lengths


def closeness(captions):
    """Return the similarity of each pair of K captions, (K, K) in [0, 1], 1 for a caption with itself.

    captions: lists of words, as token ids or what stands for them, without <start> and <end>

    The cosine of their n-gram counts, averaged over the orders that at least one of the two has, times
    exp(-(difference of the lengths)^2 / (2 sigma^2)). <start> and <end> count as words.
    Source: after CIDEr-D, Vedantam et al. 2015 (arXiv:1411.5726), without its document frequencies, which one
    picture does not have.
    """
    cosines, orders = np.zeros((2, len(captions), len(captions)))
    for n in ORDERS:
        places, counts = {}, []  # n-gram -> its column; (row, column) of each occurrence
        for row, ids in enumerate(captions):
            tokens = ["<start>", *ids, "<end>"]
            for i in range(len(tokens) - n + 1):
                counts.append((row, places.setdefault(tuple(tokens[i : i + n]), len(places))))
        vectors = np.zeros((len(captions), len(places)))
        np.add.at(vectors, tuple(np.array(counts, dtype=int).reshape(-1, 2).T), 1)
        norms = np.linalg.norm(vectors, axis=1)
        vectors /= np.maximum(norms, 1)[:, None]
        cosines += vectors @ vectors.T
        orders += np.maximum(norms[:, None], norms) > 0
    lengths = np.array([len(ids) for ids in captions])
    return cosines / np.maximum(orders, 1) * np.exp(-((lengths[:, None] - lengths) ** 2) / (2 * SIGMA**2))


def most_agreed(hypotheses, options):
    """Return the options.num_best of one image's hypotheses that agree most with all of them, best first.

    Each hypothesis counts by its probability to the power options.consensus. Of equals the earlier one comes first.
    """
    log_probs = np.array([found.log_prob for found in hypotheses])
    if log_probs.max() == -np.inf:  # nothing may be said
        return hypotheses[: options.num_best]
    weights = np.exp(options.consensus * (log_probs - log_probs.max()))
    said = [options.pieces.words(found.ids) if options.pieces else found.ids for found in hypotheses]
    agreement = closeness(said) @ (weights / weights.sum())
    order = np.argsort(-agreement, kind="stable")[: options.num_best]
    return [hypotheses[place]._replace(score=float(agreement[place])) for place in order]

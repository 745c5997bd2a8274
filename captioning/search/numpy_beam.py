"""Beam search in numpy, over token ids only: captioning.search.beam's, for machines without torch.

A model is a function `step(tokens (N,), state) -> (log-probs (N, V), state)`; `state` is a tuple of arrays whose first
dimension is N. All images advance together; each then chooses among its own beams, in lists, as there are few.
"""

import math
from typing import NamedTuple

import numpy as np

from captioning.search.consensus import most_agreed
from captioning.search.options import Hypothesis, SamplingOptions, require


class Beam(NamedTuple):
    """A caption that has not ended."""

    ids: list[int]  # without <start>
    log_prob: np.float32  # nats


def beam_search(step, state, options, *, start, end, banned=()):
    """Find the likeliest sequences of each row, as captioning.search.beam.beam_search does with one group of beams.

    step:    (tokens (N,) int64, state) -> (log-probs (N, V) float32, state)
    state:   tuple of arrays (B, ...), one row per image
    options: SearchOptions with groups 1
    banned:  ids that are never chosen (<unk>, <pad>, <start>)
    returns: B lists of 1 to num_best Hypothesis, best score first
    """
    if isinstance(options, SamplingOptions):
        raise ValueError(
            f"sample: got {options.num_samples}, allowed is 0 for an .onnx model; a .safetensors model samples"
        )
    require(options.groups == 1, "groups", options.groups, "1 for an .onnx model; a .safetensors model has groups")
    if options.agrees():
        found = beam_search(step, state, options.all_beams(), start=start, end=end, banned=banned)
        return [most_agreed(hypotheses, options) for hypotheses in found]
    batch_size = len(state[0])
    live = {row: [Beam([], np.float32(0))] for row in range(batch_size)}
    ended = {row: [] for row in range(batch_size)}
    tokens = np.full(batch_size, start, dtype=np.int64)

    for t in range(options.max_tokens):
        log_probs, state = step(tokens, state)
        log_probs = np.array(log_probs)  # a copy, to forbid words in
        log_probs[:, list(banned)] = -np.inf
        parents, first = [], 0
        for row, beams in list(live.items()):
            scores = log_probs[first : first + len(beams)]
            for beam, score in zip(beams, scores, strict=True):
                forbid(score, beam.ids, options, end)
            live[row], origin, hypotheses = extend(beams, scores, options, end)
            ended[row] += hypotheses
            if t == options.max_tokens - 1 or is_done(live[row], ended[row], options):
                beams_left = live.pop(row)
                ended[row] = ended[row] or [unfinished(beams_left, options)]
            else:
                parents += [first + position for position in origin]
            first += len(beams)
        if not live:
            break
        tokens = np.array([beam.ids[-1] for beams in live.values() for beam in beams], dtype=np.int64)
        state = tuple(part[parents] for part in state)

    # Stable: of equal scores the one that ended first comes first.
    return [sorted(ended[row], key=lambda found: -found.score)[: options.num_best] for row in range(batch_size)]


def forbid(scores, said, options, end):
    """Set the scores (V,) of tokens that may not come after `said` to -inf, in place.

    A caption to which no_repeat_ngram and `banned` leave no word may end before min_len.
    """
    if options.pieces:
        ending = scores[end]
        scores[options.pieces.forbidden([said], options, end)[0]] = -np.inf
        if scores.max() == -np.inf:
            scores[end] = ending
        return
    size = options.no_repeat_ngram
    if size:
        for i in range(len(said) - size + 1):
            if said[i : i + size - 1] == said[len(said) - size + 1 :]:
                scores[said[i + size - 1]] = -np.inf
    if len(said) < options.min_len:
        ending, scores[end] = scores[end], -np.inf
        if scores.max() == -np.inf:
            scores[end] = ending


def extend(beams, log_probs, options, end):
    """Advance the beams of one image by one token.

    log_probs: (W, V)
    returns:   the beams that live on, the position in `beams` that each came from, and the Hypotheses that ended
    """
    size, vocab_size = options.beam_size, log_probs.shape[1]
    total = (log_probs + np.array([beam.log_prob for beam in beams])[:, None]).ravel()
    # Each beam offers one <end> at most, so 2K candidates hold K that go on.
    count = min(2 * size, len(total))
    candidates = np.sort(np.argpartition(-total, count - 1)[:count])
    candidates = candidates[np.argsort(-total[candidates], kind="stable")]
    going, origin, ended = [], [], []
    for rank, flat in enumerate(candidates.tolist()):
        parent, token, log_prob = flat // vocab_size, flat % vocab_size, total[flat]
        if log_prob == -np.inf:
            break
        ids = beams[parent].ids
        if token != end and len(going) < size:
            going.append(Beam([*ids, token], log_prob))
            origin.append(parent)
        # An <end> among the first K finishes a hypothesis.
        elif token == end and rank < size:
            ended.append(Hypothesis(ids, float(log_prob), float(log_prob) / (len(ids) + 1) ** options.length_penalty))
    return going, origin, ended


def is_done(live, ended, options):
    """True if no live beam of an image can better what has ended, or K captions have."""
    if not live or len(ended) >= options.beam_size:
        return True
    # Scores only fall, so no live beam can end better than its score now over the full length.
    bound = float(live[0].log_prob) / options.max_tokens**options.length_penalty
    best = sorted((found.score for found in ended), reverse=True)
    return len(best) >= options.num_best and best[options.num_best - 1] >= bound


def unfinished(live, options):
    """Return the best live beam of an image in which nothing has ended; no words, at -inf, if there is none."""
    if not live:
        return Hypothesis([], -math.inf, -math.inf)
    best = live[0]
    score = float(best.log_prob) / options.max_tokens**options.length_penalty
    return Hypothesis(best.ids, float(best.log_prob), score, ended=False)

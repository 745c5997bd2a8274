"""The search without torch finds what captioning.search.beam finds."""

import itertools
import math

import numpy as np
import pytest
import torch

from captioning.search import beam, numpy_beam
from captioning.search.options import SearchOptions

VOCAB, START, END = 9, 1, 2
COMMON = {"max_len": 8, "consensus": 0.0}  # tests/search/test_consensus.py has both searches' consensus


class Toy:
    """A random recurrent model whose state is a row of numbers; the same one in torch and in numpy."""

    def __init__(self, seed, sharpness=2.0):
        generator = np.random.default_rng(seed)
        self.words = generator.normal(size=(VOCAB, 6))
        self.mix = generator.normal(size=(6, 6))
        self.out = sharpness * generator.normal(size=(6, VOCAB))

    def step(self, tokens, state):
        """In numpy, double precision: rounding must not decide a tie."""
        hidden = np.tanh(state[0] @ self.mix + self.words[tokens])
        logits = hidden @ self.out
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return log_probs, (hidden, state[1])

    def torch_step(self, tokens, state):
        log_probs, state = self.step(tokens.numpy(), tuple(part.numpy() for part in state))
        return torch.from_numpy(log_probs), tuple(map(torch.from_numpy, state))


def both(toy, options, batch_size, seed, banned=()):
    """Search with numpy and with torch from the same states."""
    state = (np.random.default_rng(seed).normal(size=(batch_size, 6)), np.zeros((batch_size, 1)))
    words = {"start": START, "end": END, "banned": banned}
    ours = numpy_beam.beam_search(toy.step, state, options, **words)
    theirs = beam.beam_search(toy.torch_step, tuple(map(torch.from_numpy, state)), options, **words)
    return ours, theirs


@pytest.mark.parametrize("beam_size", [1, 2, 5, 30])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length_penalty": 0.0},
        {"length_penalty": 2.0, "min_len": 4},
        {"no_repeat_ngram": 1},
        {"no_repeat_ngram": 2, "min_len": 6},
        {"max_len": 1},
        {"max_len": 3, "min_len": 2},
    ],
)
def test_equal_to_the_search_with_torch(beam_size, settings):
    for seed in range(8):
        options = SearchOptions(**(COMMON | {"beam_size": beam_size, "num_best": min(beam_size, 3)} | settings))
        banned = (0, 1, 3) if seed % 2 else ()
        ours, theirs = both(Toy(seed), options, batch_size=1 + seed, seed=seed, banned=banned)
        for one, other in zip(ours, theirs, strict=True):
            assert [found.ids for found in one] == [found.ids for found in other]
            for name in ("log_prob", "score"):
                values = [[getattr(found, name) for found in side] for side in (one, other)]
                assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_a_wide_beam_is_brute_force():
    """With as many beams as there are prefixes nothing is cut, so the best of all sequences must come out."""
    toy, options = Toy(3), SearchOptions(beam_size=800, max_len=3, num_best=1, length_penalty=1.0, consensus=0.0)
    state = (np.ones((1, 6)), np.zeros((1, 1)))
    scores = {}
    for length in range(3):
        for ids in itertools.product([t for t in range(VOCAB) if t != END], repeat=length):
            total, now = 0.0, state
            for before, after in itertools.pairwise([START, *ids, END]):
                log_probs, now = toy.step(np.array([before]), now)
                total += log_probs[0, after]
            scores[ids] = total / (length + 1)
    best = max(scores, key=scores.get)
    [[found]] = numpy_beam.beam_search(toy.step, state, options, start=START, end=END)
    assert (tuple(found.ids), found.score) == (best, pytest.approx(scores[best], abs=1e-5))


def test_one_beam_is_greedy():
    toy, state = Toy(5), (np.ones((1, 6)), np.zeros((1, 1)))
    ids, now, token = [], state, START
    while len(ids) < 10:
        log_probs, now = toy.step(np.array([token]), now)
        token = int(log_probs.argmax())
        if token == END:
            break
        ids.append(token)
    options = SearchOptions(beam_size=1, max_len=10)
    assert numpy_beam.beam_search(toy.step, state, options, start=START, end=END)[0][0].ids == ids


def test_a_model_that_leaves_nothing_says_nothing():
    options = SearchOptions(beam_size=2, max_len=4, consensus=0.0)

    def step(tokens, state):
        return np.full((len(tokens), VOCAB), -np.inf), state

    [[found]] = numpy_beam.beam_search(step, (np.zeros((1, 1)),), options, start=START, end=END)
    assert (found.ids, found.log_prob) == ([], -math.inf)


def test_the_log_probs_of_the_model_are_left_alone():
    """onnxruntime may hand out its own memory."""
    given = np.log(np.full((1, VOCAB), 1 / VOCAB))
    before = given.copy()
    numpy_beam.beam_search(
        lambda tokens, state: (given, state), (np.zeros((1, 1)),), SearchOptions(beam_size=1, max_len=1, num_best=1),
        start=START, end=END, banned=(0, 3),
    )  # fmt: skip
    assert np.array_equal(given, before)


def test_groups_need_torch():
    with pytest.raises(ValueError, match="groups: got 2, allowed is 1 for an .onnx model"):
        numpy_beam.beam_search(None, (np.zeros((1, 1)),), SearchOptions(beam_size=4, groups=2), start=1, end=2)

"""Limits of a search count words where tokens are pieces of words: against every sequence, and in both searches."""

import itertools

import numpy as np
import pytest
import torch

from captioning.search import beam, numpy_beam
from captioning.search.consensus import closeness
from captioning.search.options import SamplingOptions, SearchOptions
from captioning.search.pieces import TOKENS_PER_WORD, Pieces

# <start>, <end>, then two pieces that begin a word and two that go on with one
START, END, VOCAB = 0, 1, 6
PIECES = Pieces([True, True, True, True, False, False])
SPECIAL = {"start": START, "end": END, "banned": (START,)}


def words(ids):
    """The words of tokens, written otherwise: a piece below 4 begins one."""
    return tuple("".join(map(str, ids)).replace("2", " 2").replace("3", " 3").split())


def allowed(ids, *, max_len, min_len=0, no_repeat_ngram=0):
    """True for tokens that are words, of which neither the number nor an n-gram is forbidden."""
    said = words(ids)
    runs = list(zip(*(said[i:] for i in range(no_repeat_ngram)), strict=False))
    begins_well = not ids or ids[0] in (2, 3)
    return begins_well and min_len <= len(said) < max_len and len(set(runs)) == len(runs)


def test_words_of_tokens():
    assert PIECES.words([2, 4, 4, 3, 2, 5, END]) == [(2, 4, 4), (3,), (2, 5), (END,)]
    assert PIECES.words([]) == []


def table_model(seed):
    """A step whose log-probabilities depend on the last token alone; the state is not read."""
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return table.mul(2).log_softmax(dim=1)


@pytest.mark.parametrize(
    "rules",
    [{"max_len": 3}, {"max_len": 4, "min_len": 2}, {"max_len": 4, "no_repeat_ngram": 1}, {"max_len": 1}],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_best_of_all_sequences(rules, seed):
    """Of at most 5 tokens: what is longer has a smaller probability than what is found."""
    table = table_model(seed)
    options = SearchOptions(beam_size=400, consensus=0.0, length_penalty=0.0, pieces=PIECES, num_best=1, **rules)
    found = beam.beam_search(lambda tokens, state: (table[tokens], state), (torch.zeros(1, 1),), options, **SPECIAL)
    best = max(
        (
            sum(table[a, b].item() for a, b in itertools.pairwise([START, *ids, END]))
            for length in range(6)
            for ids in itertools.product(range(2, VOCAB), repeat=length)
            if allowed(ids, **rules)
        ),
        default=None,
    )
    assert allowed(found[0][0].ids, **rules)
    assert len(found[0][0].ids) > 5 or found[0][0].log_prob == pytest.approx(best)


class Toy:
    """A random recurrent model; the same one in torch and in numpy."""

    def __init__(self, seed):
        generator = np.random.default_rng(seed)
        self.words, self.mix, self.out = (generator.normal(size=size) for size in ((VOCAB, 6), (6, 6), (6, VOCAB)))
        self.state = generator.normal(size=(2, 6))

    def step(self, tokens, state):
        """In double precision: rounding must not decide a tie."""
        hidden = np.tanh(state[0] @ self.mix + self.words[tokens])
        logits = 2 * hidden @ self.out - np.array([0, 3, 0, 0, 1, 1])  # long captions of short words
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), (hidden,)

    def torch_step(self, tokens, state):
        log_probs, (hidden,) = self.step(tokens.numpy(), (state[0].numpy(),))
        return torch.from_numpy(log_probs), (torch.from_numpy(hidden),)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("rules", [{}, {"min_len": 5}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2, "min_len": 3}])
@pytest.mark.parametrize("consensus", [0.0, 0.6])
def test_both_searches_say_the_same_allowed_captions(beam_size, rules, consensus):
    for seed in range(8):
        toy = Toy(seed)
        options = SearchOptions(beam_size=beam_size, max_len=8, pieces=PIECES, consensus=consensus, **rules)
        found = beam.beam_search(toy.torch_step, (torch.from_numpy(toy.state),), options, **SPECIAL)
        ours = numpy_beam.beam_search(toy.step, (toy.state,), options, **SPECIAL)
        for one, other in zip(found, ours, strict=True):
            assert one[0].ids == other[0].ids
            assert one[0].ended
            # Where no word may follow, a caption ends before min_len.
            assert allowed(one[0].ids, max_len=8, **rules | {"min_len": 0})
            assert len(words(one[0].ids)) >= rules.get("min_len", 0) or "no_repeat_ngram" in rules


def test_a_word_has_an_end():
    """A model that knows no end once said one word of hundreds of pieces."""
    table = torch.full((VOCAB, VOCAB), -9.0)
    table[:, 4] = 0.0
    options = SearchOptions(beam_size=1, max_len=3, min_len=2, pieces=PIECES)
    found = beam.beam_search(lambda tokens, state: (table[tokens], state), (torch.zeros(1, 1),), options, **SPECIAL)
    assert found[0][0].ended
    assert len(words(found[0][0].ids)) == 2
    assert max(map(len, words(found[0][0].ids))) == TOKENS_PER_WORD


def test_samples_keep_the_rules():
    table = table_model(0)
    options = SamplingOptions(num_samples=60, max_len=6, min_len=2, no_repeat_ngram=2, pieces=PIECES)
    found = beam.sample_captions(lambda tokens, state: (table[tokens], state), (torch.zeros(1, 1),), options, **SPECIAL)
    assert len(found[0]) > 20
    for hypothesis in found[0]:
        assert allowed(hypothesis.ids, max_len=6, no_repeat_ngram=2)


def test_a_consensus_counts_words():
    """Two captions of one word each agree in nothing, however many pieces the words share."""
    apart = [PIECES.words([2, 4, 4, 4, 4]), PIECES.words([2, 4, 4, 4, 5])]
    assert closeness(apart)[0, 1] == 0
    assert closeness([[2, 4, 4, 4, 4], [2, 4, 4, 4, 5]])[0, 1] > 0.3

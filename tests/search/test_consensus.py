"""The consensus of a search's beams against a plain count of n-grams, by hand, and over both searches."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from captioning.search import beam, numpy_beam
from captioning.search.consensus import closeness, most_agreed
from captioning.search.options import Hypothesis, SearchOptions

A, B, C, D, E, F = range(10, 16)


def plain_closeness(one, other):
    """The same, one pair at a time, with dictionaries."""
    cosines, orders = 0.0, 0
    for n in (2, 3, 4):
        counts = []
        for ids in (one, other):
            padded = ("begin", *ids, "end")
            counts.append(Counter(padded[i : i + n] for i in range(len(padded) - n + 1)))
        product = sum(counts[0][ngram] * counts[1][ngram] for ngram in counts[0])
        norms = [math.sqrt(sum(count**2 for count in side.values())) for side in counts]
        if any(norms):
            orders += 1
            cosines += product / (norms[0] * norms[1]) if all(norms) else 0.0
    return cosines / orders * math.exp(-((len(one) - len(other)) ** 2) / 72)


def test_closeness_is_that_of_a_plain_count():
    draw = random.Random(0)
    captions = [[draw.randrange(4) for _ in range(draw.randrange(9))] for _ in range(60)] + [[], [1]]
    expected = [[plain_closeness(one, other) for other in captions] for one in captions]
    assert closeness(captions) == pytest.approx(np.array(expected), abs=1e-12)
    assert np.diag(closeness(captions)) == pytest.approx(1.0)


def test_what_many_say_beats_the_likeliest():
    """0.3 says one thing; 0.2, 0.2 and 0.15 say nearly the same: by hand, A B C D gathers the most."""
    probabilities = {(F, F, F, F): 0.3, (A, B, C, D): 0.2, (A, B, C, E): 0.2, (A, B, D): 0.15}
    found = [Hypothesis(list(ids), math.log(p), math.log(p)) for ids, p in probabilities.items()]
    # A B C D and A B C E: of 5 bigrams, 4 trigrams and 3 four-grams they share 3, 2 and 1; A B D, of 4, 3 and 2, shares
    # with A B C D the bigrams begin A, A B and D end and the trigram begin A B; with A B C E one bigram fewer.
    near = (3 / 5 + 2 / 4 + 1 / 3) / 3
    far = (3 / math.sqrt(20) + 1 / math.sqrt(12)) / 3 * math.exp(-1 / 72)
    agreement = (0.2 + 0.2 * near + 0.15 * far) / 0.85
    (best,) = most_agreed(found, SearchOptions(consensus=1.0))
    assert best.ids == [A, B, C, D]
    assert best.log_prob == pytest.approx(math.log(0.2))
    assert best.score == pytest.approx(agreement, abs=1e-12)
    ranked = most_agreed(found, SearchOptions(consensus=1.0, num_best=4))
    assert ranked[1].ids == [A, B, C, E]
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    # The higher the power, the more the likeliest counts alone.
    assert most_agreed(found, SearchOptions(consensus=10.0))[0].ids == [F, F, F, F]


def test_of_equals_the_likelier_comes_first_and_nothing_to_say_is_left():
    found = [Hypothesis([A, B], -1.0, -1.0), Hypothesis([C, D], -1.0, -1.0)]
    assert [one.ids for one in most_agreed(found, SearchOptions(consensus=0.5, num_best=2))] == [[A, B], [C, D]]
    nothing = [Hypothesis([], -math.inf, -math.inf)]
    assert most_agreed(nothing, SearchOptions(consensus=1.0)) == nothing


def random_step(seed, rows, vocab_size=7):
    """Return (step, state) of a table of log-probabilities for each row, in double precision."""
    table = torch.randn(rows, vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    table = table.mul(2).log_softmax(dim=2)
    return lambda tokens, state: (table[state[0], tokens], state), (torch.arange(rows),)


@pytest.mark.parametrize("power", [0.25, 0.75, 1.0])
def test_both_searches_choose_among_all_that_they_find(power):
    words = {"start": 0, "end": 1, "banned": (2,)}
    options = SearchOptions(beam_size=8, max_len=6, num_best=3, consensus=power)
    changed = 0
    for seed in range(6):
        step, state = random_step(seed, rows=5)
        results = beam.beam_search(step, state, options, **words)
        everything = beam.beam_search(step, state, options.all_beams(), **words)
        for found, among in zip(results, everything, strict=True):
            weights = [math.exp(power * one.log_prob) for one in among]
            agreement = {
                tuple(one.ids): sum(
                    w * plain_closeness(one.ids, other.ids) for w, other in zip(weights, among, strict=True)
                )
                / sum(weights)
                for one in among
            }
            best = sorted(agreement.values(), reverse=True)[:3]
            assert [one.score for one in found] == pytest.approx(best, abs=1e-12)
            for one in found:
                assert one.score == pytest.approx(agreement[tuple(one.ids)])
                assert one.log_prob == next(other.log_prob for other in among if other.ids == one.ids)
            changed += found[0].ids != among[0].ids

        def numpy_step(tokens, state, step=step):
            log_probs, state = step(torch.from_numpy(tokens), tuple(map(torch.from_numpy, state)))
            return log_probs.numpy(), tuple(part.numpy() for part in state)

        without_torch = numpy_beam.beam_search(numpy_step, tuple(part.numpy() for part in state), options, **words)
        for found, other in zip(results, without_torch, strict=True):
            assert [one.ids for one in found] == [one.ids for one in other]
            assert [one.score for one in found] == pytest.approx([one.score for one in other], abs=1e-5)
        # An image's caption does not depend on its neighbours.
        alone = [beam.beam_search(step, (row[None],), options, **words)[0] for row in state[0]]
        assert [[one.ids for one in found] for found in alone] == [[one.ids for one in found] for found in results]
    assert changed > 0


def test_one_beam_has_nothing_to_agree_with():
    step, state = random_step(0, rows=3)
    options = [SearchOptions(beam_size=1, max_len=6, consensus=power) for power in (0.0, 0.6)]
    greedy, same = (beam.beam_search(step, state, one, start=0, end=1) for one in options)
    assert greedy == same
    assert "consensus" not in options[1].recipe()
    with pytest.raises(ValueError, match="consensus: got -1, allowed is 0 or more"):
        SearchOptions(consensus=-1)

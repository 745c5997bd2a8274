"""Beam search against a plain greedy loop and against brute force, with more than one row everywhere."""

import itertools

import pytest
import torch

from captioning.decoding import beam_search

START, END = 0, 1


def markov_step(seed, rows, vocab_size):
    """Return (step, state, table): each row has its own table of log-probabilities after each token."""
    table = torch.randn(rows, vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed)).mul(2)
    table = table.log_softmax(dim=2)

    def step(tokens, state):
        (row,) = state
        return table[row, tokens].clone(), state

    return step, (torch.arange(rows),), table


def greedy(table, row, max_len):
    """The likeliest token at every step: (ids, sum of log-probabilities, number of decisions)."""
    token, ids, total = START, [], 0.0
    for length in range(1, max_len + 1):
        log_prob, best = table[row, token].max(dim=0)
        token, total = best.item(), total + log_prob.item()
        if token == END:
            return ids, total, length
        ids.append(token)
    return ids, total, max_len


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_greedy(seed):
    step, state, table = markov_step(seed, rows=3, vocab_size=7)
    found = beam_search(step, state, 3, start=START, end=END, beam_size=1, max_len=6, length_penalty=0.7)
    for row, (ids, score) in enumerate(found):
        expected, total, length = greedy(table, row, 6)
        assert ids == expected
        assert score == pytest.approx(total / length**0.7, abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
def test_a_wide_beam_is_brute_force(seed, length_penalty):
    """4 words, 4 steps: the best finished sequence of all, at its normalised score."""
    vocab_size, max_len = 4, 4
    step, state, table = markov_step(seed, rows=2, vocab_size=vocab_size)
    found = beam_search(
        step,
        state,
        2,
        start=START,
        end=END,
        beam_size=vocab_size**max_len,
        max_len=max_len,
        length_penalty=length_penalty,
    )
    words = [token for token in range(vocab_size) if token != END]
    for row, (ids, score) in enumerate(found):
        best = (-torch.inf, None)
        for length in range(max_len):
            for sequence in itertools.product(words, repeat=length):
                path = [START, *sequence, END]
                total = sum(table[row, a, b].item() for a, b in itertools.pairwise(path))
                best = max(best, (total / (length + 1) ** length_penalty, list(sequence)))
        assert ids == best[1]
        assert score == pytest.approx(best[0], abs=1e-5)


def test_rows_do_not_touch_each_other():
    step, (row,), _ = markov_step(3, rows=5, vocab_size=9)
    options = {"start": START, "end": END, "beam_size": 3, "max_len": 8}
    together = beam_search(step, (row,), 5, **options)
    alone = [beam_search(step, (row[i : i + 1],), 1, **options)[0] for i in range(5)]
    assert [ids for ids, _ in together] == [ids for ids, _ in alone]
    assert [score for _, score in together] == pytest.approx([score for _, score in alone], abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_a_row_that_never_ends_returns_its_best_unfinished_beam(beam_size):
    def step(tokens, state):
        log_probs = torch.tensor([-9.0, -torch.inf, -0.1, -3.0]).repeat(len(tokens), 1)
        return log_probs, state

    found = beam_search(step, (torch.zeros(2, 1),), 2, start=START, end=END, beam_size=beam_size, max_len=5)
    assert [ids for ids, _ in found] == [[2] * 5] * 2
    assert found[0][1] == pytest.approx(-0.5 / 5**0.7, abs=1e-5)


def test_banned_words_are_never_said():
    step, state, _ = markov_step(5, rows=4, vocab_size=6)
    free = beam_search(step, state, 4, start=START, end=END, beam_size=3, max_len=6)
    said = {token for ids, _ in free for token in ids}
    banned = max(said)
    found = beam_search(step, state, 4, start=START, end=END, beam_size=3, max_len=6, banned=(banned,))
    assert banned not in {token for ids, _ in found for token in ids}


def test_impossible_widths_are_refused():
    with pytest.raises(ValueError, match="beam_size"):
        beam_search(None, (torch.zeros(1),), 1, start=0, end=1, beam_size=0, max_len=3)


def test_a_row_that_never_ends_does_not_hold_back_one_that_does():
    """Row 0 can only say 2; row 1 says 2 once and ends."""
    table = torch.full((2, 4, 4), -torch.inf)
    table[0, :, 2] = -0.1
    table[1, START, 2], table[1, 2, END], table[1, 2, 2] = -0.2, -0.3, -9.0

    def step(tokens, state):
        return table[state[0], tokens].clone(), state

    options = {"start": START, "end": END, "beam_size": 1, "max_len": 5, "length_penalty": 1.0}
    found = beam_search(step, (torch.arange(2),), 2, **options)
    assert [ids for ids, _ in found] == [[2] * 5, [2]]
    assert [score for _, score in found] == pytest.approx([-0.1, -0.25], abs=1e-5)

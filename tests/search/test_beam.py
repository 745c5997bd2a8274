"""Search and sampling against plain loops and brute force on tiny vocabularies, with more than one row everywhere."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch.overrides import TorchFunctionMode

from captioning.search.beam import beam_search, best_positions, ensemble, sample, sample_captions
from captioning.search.options import SETTINGS, SamplingOptions, SearchOptions, search_options

START, END = 0, 1


def markov_step(seed, rows, vocab_size):
    """Return (step, state, table): each row has its own table of log-probabilities after each token."""
    table = torch.randn(rows, vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed)).mul(2)
    table = table.log_softmax(dim=2)

    def step(tokens, state):
        (row,) = state
        return table[row, tokens], state

    return step, (torch.arange(rows),), table


def search(step, state, banned=(), **options):
    return beam_search(step, state, SearchOptions(**{"consensus": 0.0} | options), start=START, end=END, banned=banned)


def best_of_each(results):
    return [(found[0].ids, found[0].score) for found in results]


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


def repeats(ids, size):
    """True if a run of `size` ids stands twice in `ids`."""
    runs = list(zip(*(ids[i:] for i in range(size)), strict=False))
    return size > 0 and len(set(runs)) < len(runs)


def all_sequences(table, row, *, max_len, min_len=0, no_repeat_ngram=0, length_penalty=0.7, banned=()):
    """Every sequence that ends and is allowed, as (score, log-probability, ids), best first."""
    words = [token for token in range(table.shape[1]) if token != END and token not in banned]
    found = []
    for length in range(min_len, max_len):
        for ids in itertools.product(words, repeat=length):
            if not repeats(ids, no_repeat_ngram):
                total = sum(table[row, a, b].item() for a, b in itertools.pairwise([START, *ids, END]))
                found.append((total / (length + 1) ** length_penalty, total, list(ids)))
    return sorted(found, reverse=True)


def assert_best(hypotheses, sequences):
    """Hypotheses are the best of all sequences, in order; of equally good ones (0 3 0 and 3 0 0 pass through the same
    entries of a table) any may stand first."""
    worth = {tuple(ids): (score, log_prob) for score, log_prob, ids in sequences}
    assert len({tuple(hypothesis.ids) for hypothesis in hypotheses}) == len(hypotheses)
    for hypothesis, (score, _, _) in zip(hypotheses, sequences, strict=False):
        assert (hypothesis.score, hypothesis.log_prob) == pytest.approx(worth[tuple(hypothesis.ids)], abs=1e-5)
        assert hypothesis.score == pytest.approx(score, abs=1e-5)


# ---- beam search


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_greedy(seed):
    step, state, table = markov_step(seed, rows=3, vocab_size=7)
    found = search(step, state, beam_size=1, max_len=6)
    for row, (hypothesis,) in enumerate(found):
        expected, total, length = greedy(table, row, 6)
        assert hypothesis.ids == expected
        assert hypothesis.log_prob == pytest.approx(total, abs=1e-5)
        assert hypothesis.score == pytest.approx(total / length**0.7, abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("rules", [{}, {"min_len": 2}, {"no_repeat_ngram": 1}, {"min_len": 2, "no_repeat_ngram": 2}])
def test_a_wide_beam_is_brute_force(seed, length_penalty, rules):
    """4 words, 4 steps: the 7 best sequences of all that end, in order. Stopping too early would lose the last ones,
    and an n-gram counted over the filling of a sequence would forbid too much."""
    rules = {**rules, "max_len": 4, "length_penalty": length_penalty}
    step, state, table = markov_step(seed, rows=2, vocab_size=4)
    found = search(step, state, beam_size=4**4, num_best=7, **rules)
    for row, hypotheses in enumerate(found):
        sequences = all_sequences(table, row, **rules)
        assert len(hypotheses) == min(7, len(sequences))
        assert_best(hypotheses, sequences)


def test_fewer_sequences_than_asked_for():
    """Only two sequences exist, <end> and 2 <end>: no filling, no unfinished beam, nothing twice."""
    table = torch.full((4, 4), -torch.inf)
    table[START, END], table[START, 2], table[2, END] = math.log(0.4), math.log(0.6), 0.0
    found = search(lambda tokens, state: (table[tokens], state), (torch.zeros(3),), beam_size=4, num_best=4, max_len=5)
    assert [[hypothesis.ids for hypothesis in row] for row in found] == [[[2], []]] * 3


@pytest.mark.parametrize("options", [{"beam_size": 3}, {"beam_size": 4, "num_best": 3, "groups": 2}])
def test_rows_do_not_touch_each_other(options):
    """Rows end at different steps and leave the batch; mixing up the states of those that stay would show."""
    step, (row,), _ = markov_step(3, rows=9, vocab_size=9)
    together = search(step, (row,), max_len=8, **options)
    assert len({len(found[0].ids) for found in together}) > 2
    for i, found in enumerate(together):
        (alone,) = search(step, (row[i : i + 1],), max_len=8, **options)
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], abs=1e-5)


@pytest.mark.parametrize(("beams", "words", "count"), [(1, 40, 10), (5, 40, 10), (5, 3, 10), (4, 2, 8), (3, 30, 1)])
def test_the_best_positions_are_those_of_a_whole_sort(beams, words, count):
    scores = torch.randn(6, beams, words, generator=torch.Generator().manual_seed(0))
    scores[0, 0] = -torch.inf
    scores[1] = -torch.inf
    values, positions = best_positions(scores, count)
    expected, order = scores.flatten(1).sort(dim=1, descending=True)
    assert torch.equal(values, expected[:, :count])
    assert torch.equal(scores.flatten(1).gather(1, positions), values)
    assert all(len(set(row)) == count for row in positions.tolist())
    assert torch.equal(positions[2:], order[2:, :count])


def test_rows_that_are_done_leave_the_batch():
    """Row 0 ends at once, row 1 after 2 words, row 2 never: later steps compute fewer rows."""
    seen = []

    def step(tokens, state):
        row, t = state
        seen.append(sorted(set(row.tolist())))
        log_probs = torch.full((len(tokens), 4), -30.0)
        ends = t >= 2 * row
        log_probs[ends & (row < 2), END] = 0.0
        log_probs[~ends | (row == 2), 2] = 0.0
        return log_probs, (row, t + 1)

    found = search(step, (torch.arange(3), torch.zeros(3)), beam_size=2, max_len=6)
    assert [hypothesis.ids for (hypothesis,) in found] == [[], [2, 2], [2] * 6]
    assert seen == [[0, 1, 2], [1, 2], [1, 2], [2], [2], [2]]


@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_a_row_that_never_ends_returns_its_best_unfinished_beam(beam_size):
    def step(tokens, state):
        log_probs = torch.tensor([-9.0, -torch.inf, -0.1, -3.0]).repeat(len(tokens), 1)
        return log_probs, state

    found = search(step, (torch.zeros(2, 1),), beam_size=beam_size, max_len=5)
    assert [hypothesis.ids for (hypothesis,) in found] == [[2] * 5] * 2
    assert found[0][0].score == pytest.approx(-0.5 / 5**0.7, abs=1e-5)
    assert found[0][0].log_prob == pytest.approx(-0.5, abs=1e-5)


def test_a_row_that_never_ends_does_not_hold_back_one_that_does():
    """Row 0 can only say 2; row 1 says 2 once and ends."""
    table = torch.full((2, 4, 4), -torch.inf)
    table[0, :, 2] = -0.1
    table[1, START, 2], table[1, 2, END], table[1, 2, 2] = -0.2, -0.3, -9.0

    def step(tokens, state):
        return table[state[0], tokens], state

    found = best_of_each(search(step, (torch.arange(2),), beam_size=1, max_len=5, length_penalty=1.0))
    assert [ids for ids, _ in found] == [[2] * 5, [2]]
    assert [score for _, score in found] == pytest.approx([-0.1, -0.25], abs=1e-5)


def test_a_row_without_any_sequence_returns_no_words():
    """The model gives every token of row 1 no probability at all: its neighbour is not disturbed."""
    table = torch.full((2, 3), -torch.inf)
    table[0, END] = 0.0
    found = search(lambda tokens, state: (table[state[0]], state), (torch.arange(2),), beam_size=2, max_len=3)
    assert [hypothesis.ids for (hypothesis,) in found] == [[], []]
    assert [hypothesis.log_prob for (hypothesis,) in found] == [0.0, -math.inf]


def test_banned_words_are_never_said():
    step, state, table = markov_step(5, rows=4, vocab_size=6)
    said = {token for ids, _ in best_of_each(search(step, state, beam_size=3, max_len=6)) for token in ids}
    banned = (max(said), min(said))
    found = search(step, state, banned, beam_size=6**3, max_len=4, num_best=3)
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 3
        assert_best(hypotheses, all_sequences(table, row, max_len=4, banned=banned))
    samples = sample(step, state, SamplingOptions(num_samples=50), start=START, end=END, banned=banned)
    assert not torch.isin(samples.tokens, torch.tensor(banned)).any()


def test_the_models_output_is_not_overwritten():
    """A step may return a view of its own table, which bans written in place would spoil."""
    step, state, table = markov_step(6, rows=2, vocab_size=5)
    step_without_rows = (lambda tokens, state: (table[0, : len(tokens)], state)), (torch.zeros(2),)
    before = table.clone()
    search(step, state, (2,), beam_size=3, max_len=5, min_len=2, no_repeat_ngram=1)
    search(*step_without_rows, (2,), beam_size=1, max_len=5, min_len=2)
    sample(*step_without_rows, SamplingOptions(max_len=5, min_len=2), start=START, end=END, banned=(2,))
    assert torch.equal(table, before)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_run_of_words_is_said_twice(beam_size, size):
    """Without the rule the same model loops."""
    table = torch.full((5, 5), -5.0)
    table[:, END] = -20.0
    table[0, 2], table[2, 3], table[3, 2] = -0.01, -0.01, -0.01

    def step(tokens, state):
        return table[tokens], state

    options = {"beam_size": beam_size, "max_len": 9}
    assert all(repeats(found[0].ids, size) for found in search(step, (torch.zeros(2),), **options))
    for found in search(step, (torch.zeros(2),), no_repeat_ngram=size, **options):
        assert not repeats(found[0].ids, size)
    samples = sample(
        step,
        (torch.zeros(2),),
        SamplingOptions(num_samples=20, max_len=9, no_repeat_ngram=size),
        start=START,
        end=END,
        generator=torch.Generator().manual_seed(0),
    )
    for tokens, length in zip(samples.tokens.flatten(0, 1).tolist(), samples.lengths.flatten().tolist(), strict=True):
        assert not repeats(tokens[:length], size)


def test_min_len_yields_where_no_word_is_left():
    """Three words that may be said once each, and eight asked for: the caption ends instead of having no next word."""
    step, state, _ = markov_step(2, rows=3, vocab_size=4)
    rules = {"max_len": 10, "min_len": 8, "no_repeat_ngram": 1}
    assert [sorted(found[0].ids) for found in search(step, state, beam_size=2, **rules)] == [[0, 2, 3]] * 3
    samples = sample(step, state, SamplingOptions(num_samples=4, **rules), start=START, end=END)
    assert (samples.lengths == 4).all()


# ---- groups


def test_one_group_is_plain_beam_search_and_groups_without_diversity_are_equal():
    step, state, _ = markov_step(7, rows=4, vocab_size=8)
    plain = search(step, state, beam_size=3, num_best=3, max_len=7)
    assert search(step, state, beam_size=3, num_best=3, max_len=7, groups=1, diversity=0.0) == plain
    equal = search(step, state, beam_size=6, num_best=3, max_len=7, groups=2, diversity=0.0)
    assert [[h.ids for h in row] for row in equal] == [[h.ids for h in row] for row in plain]


def test_groups_begin_with_different_words_under_a_strong_penalty():
    """The best of each group come first, so 3 captions of 3 groups are one of each; scores stay the model's."""
    step, state, table = markov_step(8, rows=4, vocab_size=9)
    table[:, :, END] -= 5
    found = search(step, state, beam_size=6, num_best=3, max_len=7, groups=3, diversity=100.0)
    for row, hypotheses in enumerate(found):
        assert len({hypothesis.ids[0] for hypothesis in hypotheses}) == 3
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for ids, log_prob, *_ in hypotheses:
            spoken = [START, *ids, END][: 7 + 1]
            total = sum(table[row, a, b].item() for a, b in itertools.pairwise(spoken))
            assert log_prob == pytest.approx(total, abs=1e-4)


def test_groups_by_hand():
    """p(2), p(3), p(4) = .5, .3, .2 at the first place, then <end>: group 2 leaves 2 to group 1 once it costs more
    than log(.5 / .3), and takes it below that."""
    table = torch.full((5, 5), -torch.inf)
    table[START, 2:] = torch.tensor([0.5, 0.3, 0.2]).log()
    table[2:, END] = 0.0

    def first_words(diversity):
        options = {"beam_size": 2, "groups": 2, "num_best": 2, "max_len": 4, "diversity": diversity}
        found = search(lambda tokens, state: (table[tokens], state), (torch.zeros(2),), **options)
        return [[hypothesis.ids for hypothesis in row] for row in found]

    cost = math.log(0.5 / 0.3)
    assert first_words(cost + 0.01) == [[[2], [3]]] * 2
    assert first_words(cost - 0.01) == [[[2]]] * 2


# ---- sampling


def draw_samples(step, state, seed=0, banned=(), **options):
    generator = torch.Generator().manual_seed(seed)
    return sample(step, state, SamplingOptions(**options), start=START, end=END, banned=banned, generator=generator)


def cut(probs, temperature=1.0, top_k=0, top_p=1.0):
    """The distribution that is drawn from, worked out one token at a time."""
    heated = [p ** (1 / temperature) for p in probs.tolist()]
    heated = [p / sum(heated) for p in heated]
    order = sorted(range(len(heated)), key=lambda token: -heated[token])
    kept, mass = [], 0.0
    for token in order[: top_k or len(order)]:
        if mass >= top_p:
            break
        kept.append(token)
        mass += heated[token]
    return torch.tensor([heated[token] / mass if token in kept else 0.0 for token in range(len(heated))])


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.8}, {"top_p": 0.95, "top_k": 4}],
)
def test_frequencies_follow_the_distribution(options):
    """First and second words of 2 rows; a wrong cut, or one number shared by the rows, would not fit."""
    step, state, table = markov_step(9, rows=2, vocab_size=6)
    table[:, :, END] = -20.0  # nearly none ends, so second words are not a selection
    table[:] = table.log_softmax(dim=2)
    tokens = draw_samples(step, state, num_samples=5000, max_len=2, **options).tokens
    for row in range(2):
        first, second = tokens[row, :, 0], tokens[row, :, 1]
        common = first.mode().values.item()
        for after, drawn in ((START, first), (common, second[first == common])):
            expected = cut(table[row, after].exp(), **options) * len(drawn)
            counts = drawn.bincount(minlength=6).float()
            likely = expected > 5
            assert counts[expected == 0].sum() == 0, "outside of the nucleus"
            result = stats.chisquare(counts[likely], expected[likely] * counts[likely].sum() / expected[likely].sum())
            assert result.pvalue > 1e-3


def test_the_nucleus_holds_the_likeliest_word_even_if_top_p_is_tiny():
    step, state, table = markov_step(10, rows=3, vocab_size=6)
    samples = draw_samples(step, state, num_samples=4, max_len=6, top_p=1e-6)
    for row in range(3):
        ids, _, length = greedy(table, row, 6)
        for tokens in samples.tokens[row].tolist():
            assert tokens[:length] == [*ids, END][:length]


def test_the_seed_alone_decides():
    step, state, _ = markov_step(11, rows=3, vocab_size=8)
    first = draw_samples(step, state, seed=1, num_samples=5)
    torch.rand(3)  # of the global generator
    again, other = draw_samples(step, state, seed=1, num_samples=5), draw_samples(step, state, seed=2, num_samples=5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.tokens[:, :, 0], other.tokens[:, :, 0])
    assert len({tuple(tokens) for tokens in first.tokens.flatten(0, 1).tolist()}) > 5, "samples of a row are not equal"


@pytest.mark.parametrize("rules", [{}, {"temperature": 0.7, "top_p": 0.9, "min_len": 2, "no_repeat_ngram": 1}])
def test_log_probs_are_the_models_own(rules):
    """Not those of the heated, cut or restricted distribution, which a policy gradient would be wrong with; samples
    end at different places, and what follows <end> counts nothing."""
    step, state, table = markov_step(12, rows=4, vocab_size=6)
    tokens, log_probs, lengths = draw_samples(step, state, num_samples=6, max_len=5, **rules)
    assert tokens.shape == log_probs.shape == (4, 6, lengths.max())
    assert lengths.unique().numel() > 2
    for row, number in itertools.product(range(4), range(6)):
        length = lengths[row, number].item()
        ids = tokens[row, number].tolist()
        assert END not in ids[: length - 1]
        assert set(ids[length:]) <= {END}
        assert ids[length - 1] == END or length == 5
        expected = [table[row, a, b].item() for a, b in itertools.pairwise([START, *ids[:length]])]
        assert log_probs[row, number, :length].tolist() == pytest.approx(expected, abs=1e-5)
        assert log_probs[row, number, length:].abs().sum() == 0
        assert length > rules.get("min_len", 0)


def test_a_sample_does_not_depend_on_when_others_end():
    """Row 0 is the same model beside one that ends at once and beside one that never does."""
    _, _, table = markov_step(13, rows=2, vocab_size=6)

    def beside(end_log_prob):
        table[1, :, END] = end_log_prob
        normal = table.log_softmax(dim=2)
        return draw_samples(lambda tokens, state: (normal[state[0], tokens], state), (torch.arange(2),), num_samples=8)

    short, long = beside(50.0), beside(-50.0)
    assert short.lengths[1].max() == 1
    assert long.lengths[1].min() == 30
    assert torch.equal(short.lengths[0], long.lengths[0])
    width = short.tokens.shape[2]
    assert torch.equal(short.tokens[0], long.tokens[0, :, :width])


def test_captions_are_drawn_for_each_row_by_itself():
    """The likeliest first, each once, and the same whatever other rows there are."""
    step, state, table = markov_step(3, rows=4, vocab_size=6)
    options, special = SamplingOptions(num_samples=20, max_len=5, seed=3), {"start": START, "end": END}
    found = sample_captions(step, state, options, **special)
    for row, hypotheses in enumerate(found):
        (alone,) = sample_captions(step, tuple(part[row : row + 1] for part in state), options, **special)
        assert alone == hypotheses
        assert len({tuple(hypothesis.ids) for hypothesis in hypotheses}) == len(hypotheses) > 1
        assert [h.log_prob for h in hypotheses] == sorted((h.log_prob for h in hypotheses), reverse=True)
        for ids, log_prob, score, ended in hypotheses:
            spoken = [START, *ids, *[END] * ended]
            assert log_prob == pytest.approx(
                sum(table[row, a, b].item() for a, b in itertools.pairwise(spoken)), abs=1e-4
            )
            assert score == log_prob
            assert ended == (len(ids) < 5)
    other = sample_captions(step, state, SamplingOptions(num_samples=20, max_len=5, seed=4), **special)
    assert other != found


def test_sampling_needs_no_gradient():
    """Its log-probabilities steer a policy gradient that is computed afterwards; a graph of every step would not fit
    into memory."""
    weight = torch.nn.Parameter(torch.zeros(4))

    def step(tokens, state):
        return weight.log_softmax(0).expand(len(tokens), -1), state

    assert not draw_samples(step, (torch.zeros(2),)).log_probs.requires_grad


# ---- several models


def test_an_ensemble_of_a_model_with_itself_is_the_model():
    step, state, _ = markov_step(14, rows=3, vocab_size=7)
    alone = best_of_each(search(step, state, beam_size=3, max_len=6))
    for number in (1, 3):
        together = best_of_each(search(*ensemble([step] * number, [state] * number), beam_size=3, max_len=6))
        assert [ids for ids, _ in together] == [ids for ids, _ in alone]
        assert [score for _, score in together] == pytest.approx([score for _, score in alone], abs=1e-5)


def test_an_ensemble_averages_probabilities_and_keeps_the_states_apart():
    """The mean of log-probabilities would be another model; states of 1 and 2 tensors come back to their owners."""
    one, two = torch.tensor([[0.1, 0.2, 0.7]]), torch.tensor([[0.5, 0.3, 0.2]])

    def first(tokens, state):
        (row,) = state
        return one.log().expand(len(tokens), -1), (row + 1,)

    def second(tokens, state):
        row, wide = state
        return two.log().expand(len(tokens), -1), (row - 1, wide * 2)

    step, state = ensemble([first, second], [(torch.zeros(2),), (torch.ones(2), torch.ones(2, 3))])
    log_probs, state = step(torch.tensor([0, 2]), state)
    assert log_probs.exp().tolist() == [pytest.approx([0.3, 0.25, 0.45])] * 2
    assert [part.tolist() for part in state] == [[1.0] * 2, [0.0] * 2, [[2.0] * 3] * 2]


def test_an_ensemble_of_two_is_brute_force():
    """Rows leave and beams move; each model must follow with its own state."""
    (step_a, state, table_a), (step_b, _, table_b) = (markov_step(seed, rows=3, vocab_size=4) for seed in (15, 16))
    table = (table_a.exp() + table_b.exp()).div(2).log()
    found = search(*ensemble([step_a, step_b], [state, state]), beam_size=4**4, num_best=3, max_len=4)
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 3
        assert_best(hypotheses, all_sequences(table, row, max_len=4))


def test_an_ensemble_needs_a_state_for_each_model():
    step, state, _ = markov_step(0, rows=2, vocab_size=4)
    for steps, states in (([], []), ([step, step], [state])):
        with pytest.raises(ValueError, match="ensemble"):
            ensemble(steps, states)


# ---- options


class Waits(TorchFunctionMode):
    """Counts the calls that wait for the device, because the host needs a value or a size."""

    NAMES = ("__int__", "__bool__", "__float__", "__index__", "item", "tolist", "nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        indices = args[1] if function.__name__ in ("__getitem__", "__setitem__") else ()
        indices = indices if isinstance(indices, tuple) else (indices,)
        masks = sum(torch.is_tensor(index) and index.dtype == torch.bool for index in indices)  # a hidden nonzero()
        self.count += masks + (function.__name__ in self.NAMES)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["search", "sample"])
def test_a_step_waits_for_the_device_once(method):
    """Each wait leaves a GPU without work; .item() in the loop is easily added and never seen on a CPU."""
    step, state, _ = markov_step(17, rows=5, vocab_size=9)
    rules = {"max_len": 8, "min_len": 2, "no_repeat_ngram": 2}
    before = []

    def counted(tokens, state):
        before.append(waits.count)
        return step(tokens, state)

    with Waits() as waits:
        if method == "search":
            search(counted, state, (3,), beam_size=4, num_best=2, groups=2, diversity=0.5, **rules)
        else:
            draw_samples(counted, state, banned=(3,), num_samples=3, top_p=0.9, top_k=5, **rules)
    assert len(before) > 3
    assert {later - earlier for earlier, later in itertools.pairwise(before)} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size: got 0, allowed is 1 or more"),
        ({"max_len": 0}, "max_len: got 0, allowed is 1 or more"),
        ({"max_len": 5, "min_len": 5}, "min_len: got 5, allowed is 0 to max_len - 1 \\(4\\)"),
        ({"length_penalty": -0.1}, "length_penalty: got -0.1"),
        ({"length_penalty": math.nan}, "length_penalty: got nan"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram: got -1"),
        ({"beam_size": 2, "num_best": 3}, "num_best: got 3, allowed is 1 to beam_size \\(2\\)"),
        ({"beam_size": 5, "groups": 2, "diversity": 0.5}, "groups: got 2, allowed is a divisor of beam_size"),
        ({"groups": 0}, "groups: got 0"),
        ({"diversity": 0.5}, "diversity: got 0.5, allowed is 0 with groups 1"),
    ],
)
def test_impossible_and_conflicting_search_options_are_refused_by_name(options, message):
    """A num_best above beam_size or a diversity without groups would be ignored without a word."""
    with pytest.raises(ValueError, match=f"^{message}") as error:
        SearchOptions(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 0},
        {"max_len": 3, "min_len": 3},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"no_repeat_ngram": -1},
    ],
)
def test_impossible_sampling_options_are_refused_by_name(options):
    name, value = list(options.items())[-1]
    with pytest.raises(ValueError, match=f"^{name}: got {value}, allowed is "):
        SamplingOptions(**options)


def test_settings_of_the_scripts_are_options():
    """What the model decides is its own where it has chosen, and the default where it has not."""
    assert search_options({}, **SETTINGS) == SearchOptions()
    chosen = {"length_penalty": 1.5, "consensus": 0.0}
    assert search_options(chosen, **SETTINGS) == SearchOptions(**chosen)
    assert search_options(chosen, **SETTINGS | {"consensus": 0.3}) == SearchOptions(length_penalty=1.5, consensus=0.3)
    assert search_options(chosen, beam_size=2) == SearchOptions(beam_size=2, **chosen)
    with pytest.raises(ValueError, match=r"length_penalty: got -0\.5, allowed is 0 or more"):
        search_options({}, length_penalty=-0.5)

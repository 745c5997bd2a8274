"""Bootstrap draws against scoring the drawn images again, against closed forms, and against scipy."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from captioning.scores import bootstrap
from captioning.scores.grounding import classification_scores, per_class_scores
from captioning.scores.metrics import cider_d, corpus_bleu, sentence_bleu
from captioning.scores.recipes import caption_scores

CLASSES = ["cat", "cow", "dog", "owl"]  # no image of the owl


@pytest.fixture(scope="module")
def captions():
    """60 random captions of three classes, with references, true and named classes; some have none."""
    generator = np.random.default_rng(3)
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]

    def text():
        return generator.choice(words, generator.integers(3, 9)).tolist()

    hypotheses = [text() for _ in range(60)]
    references = [[text(), [*hypothesis[:-1], "z"]] for hypothesis in hypotheses]
    true = generator.choice(["cat", "cow", "dog", ""], 60, p=[0.3, 0.3, 0.3, 0.1]).tolist()
    named = [label if generator.random() < 0.6 else str(generator.choice([*CLASSES, ""])) for label in true]
    return hypotheses, references, true, named


def counts_of(captions, rows=None):
    rows = range(len(captions[0])) if rows is None else rows
    hypotheses, references, true, named = ([column[row] for row in rows] for column in captions)
    return bootstrap.count(hypotheses, references, CLASSES, true, named)


def test_equal_weights_give_the_scores_of_the_split(captions):
    hypotheses, references, true, named = captions
    whole = np.ones((1, 60))
    scores = {name: value[0] for name, value in bootstrap.all_scores(counts_of(captions), whole).items()}
    labelled = [(t, n) for t, n in zip(true, named, strict=True) if t]
    expected = caption_scores(hypotheses, references) | classification_scores(
        *map(list, zip(*labelled, strict=True)), CLASSES
    )
    assert scores == pytest.approx(expected)

    by_class = bootstrap.class_scores(counts_of(captions), whole)
    table = per_class_scores(*map(list, zip(*labelled, strict=True)), CLASSES).set_index("class")
    for name in ("precision", "recall", "f1", "accuracy"):
        assert by_class[name][0, [0, 1, 2]].tolist() == pytest.approx(table[name].tolist())
    cats = [index for index, label in enumerate(true) if label == "cat"]
    bleu = corpus_bleu([hypotheses[i] for i in cats], [references[i] for i in cats])[3]
    assert by_class["bleu4"][0, 0] == pytest.approx(bleu)
    assert by_class["cider_d"][0, 0] == pytest.approx(cider_d(hypotheses, references)[1][cats].mean())


def test_a_draw_scores_as_the_drawn_images_do(captions):
    """Weights 0, 1, 2, ... are the same as leaving images out and repeating them."""
    rows = np.random.default_rng(0).integers(0, 60, 60)
    weights = np.bincount(rows, minlength=60)[None].astype(float)
    counts = counts_of(captions)
    drawn = {name: value[0] for name, value in bootstrap.all_scores(counts, weights).items()}
    hypotheses, references, true, named = ([column[row] for row in rows] for column in captions)
    assert [drawn[f"bleu{n}"] for n in range(1, 5)] == pytest.approx(corpus_bleu(hypotheses, references))
    assert drawn["sentence_bleu4"] == pytest.approx(sentence_bleu(hypotheses, references).mean())
    labelled = [(t, n) for t, n in zip(true, named, strict=True) if t]
    expected = classification_scores(*map(list, zip(*labelled, strict=True)), CLASSES)
    assert {name: drawn[name] for name in expected} == pytest.approx(expected)
    # The document frequencies are the split's own in every draw.
    assert drawn["cider_d"] == pytest.approx(cider_d(captions[0], captions[1])[1][rows].mean())


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).gamma(2.0, size=200)
    drawn = bootstrap.resample(lambda weights: {"mean": weights @ values / 200}, np.zeros(200), draws=8000)["mean"]
    standard_error = values.std() / math.sqrt(200)
    assert drawn.std() == pytest.approx(standard_error, rel=0.05)
    assert bootstrap.interval(values.mean(), drawn) == pytest.approx(
        values.mean() + np.array([-1.96, 1.96]) * standard_error, abs=0.02
    )


def test_the_interval_of_a_share_is_binomial():
    """Drawing from 30 right of 40 images is drawing a binomial number: its quantiles are known."""
    right = np.arange(40) < 30
    drawn = bootstrap.resample(lambda weights: {"share": weights @ right}, np.zeros(40), draws=8000)["share"]
    cumulated = np.cumsum([math.comb(40, k) * 0.75**k * 0.25 ** (40 - k) for k in range(41)])
    quantiles = [int(np.searchsorted(cumulated, p)) for p in (0.025, 0.975)]
    assert bootstrap.interval(30, drawn) == tuple(quantiles)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(300):
        values = generator.normal(size=50)
        _, low, high = bootstrap.estimate_mean(values)
        hits += low <= 0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_groups_keep_their_size():
    groups = np.array([0, 0, 0, 5, 5, 5, 5, 9])
    weights = bootstrap.resample(lambda weights: {"w": weights}, groups, draws=50)["w"]
    sums = np.stack([weights[:, groups == group].sum(axis=1) for group in (0, 5, 9)], axis=1)
    assert (sums == [3, 4, 1]).all()
    assert len(np.unique(weights, axis=0)) > 10
    free = bootstrap.resample(lambda weights: {"w": weights}, np.zeros(8), draws=50)["w"]
    assert (free.sum(axis=1) == 8).all()
    assert len(np.unique(free[:, groups == 0].sum(axis=1))) > 1


def test_draws_depend_on_the_seed_alone(monkeypatch):
    def draw(seed):
        return bootstrap.resample(lambda weights: {"w": weights}, np.zeros(30), draws=40, seed=seed)["w"]

    first = draw(0)
    assert (draw(1) != first).any()
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 30)  # blocks of seven draws
    assert (draw(0) == first).all()


@pytest.mark.parametrize("size", [3, 10, 60])
def test_rank_correlation_is_scipys(size):
    generator = np.random.default_rng(size)
    x, y = generator.integers(0, 5, (4, size)), generator.random((4, size))
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert bootstrap.rank_correlation(x, y) == pytest.approx(np.array(expected), nan_ok=True)


def test_the_interval_of_a_rank_correlation_is_fishers():
    """By hand: rho = 0.5 of 20 pairs, artanh(0.5) = 0.5493, half-width 1.96 * sqrt((1 + 0.125) / 17) = 0.5042."""
    generator, found = np.random.default_rng(0), None
    while found is None or abs(found.value - 0.5) > 0.001:
        x, y = generator.random((2, 20))
        found = bootstrap.estimate_correlation(x, y + 0.6 * x)
    assert found.low == pytest.approx(math.tanh(0.5493 - 0.5042), abs=0.003)
    assert found.high == pytest.approx(math.tanh(0.5493 + 0.5042), abs=0.003)


@pytest.mark.parametrize("x", [[1, 2], [1, 1, 1, 1], []])
def test_what_has_no_correlation_says_so(x):
    assert np.isnan(bootstrap.estimate_correlation(x, range(len(x)))).all()


@pytest.mark.parametrize(("size", "value"), [(3, 0.5), (3, 1.0), (40, -1.0)])
def test_a_correlation_without_an_interval(size, value):
    """Three pairs have no variance to tell; of an exact 1 the interval would have no width."""
    y = [0, 2, 1] if value == 0.5 else np.sign(value) * np.arange(size)
    assert bootstrap.estimate_correlation(np.arange(size), y) == pytest.approx((value, np.nan, np.nan), nan_ok=True)


def random_captions(generator, *, least):
    """Random captions of a random number of classes with `least` to 6 images each, some images without a class."""
    classes = [f"c{number}" for number in range(generator.integers(1, 7))]
    true = [name for name in classes for _ in range(generator.integers(least, 7))]
    true += [""] * int(generator.integers(0, 3))
    rate = generator.choice([0.0, 0.2, 0.5, 0.9, 1.0])
    said = [name if generator.random() < rate else str(generator.choice([*classes, ""])) for name in true]
    words = np.array(["a", "b", "c", "d"])

    def text():
        return generator.choice(words, generator.integers(1, 6)).tolist()

    return bootstrap.count([text() for _ in true], [[text(), text()] for _ in true], classes, true, said)


def holds(estimate):
    """True if an interval has a width and holds its value, or there is none."""
    if np.isnan(estimate.low):
        return np.isnan(estimate.high)
    return estimate.low <= estimate.value <= estimate.high and estimate.low < estimate.high


@pytest.mark.parametrize("seed", range(60))
def test_every_interval_holds_its_estimate(seed, monkeypatch):
    """Draws that missed a class once counted it as 0: F1 1.000 had the interval 0.50 to 0.75."""
    monkeypatch.setattr(bootstrap, "DRAWS", 200)
    generator = np.random.default_rng(seed)
    counts = random_captions(generator, least=2)
    estimates = bootstrap.estimate_scores(counts)
    assert set(estimates) >= {"accuracy", "precision", "weighted_f1", "bleu4", "cider_d"}
    assert all(holds(estimate) for estimate in estimates.values())

    values, drawn = bootstrap.draw_class_scores(counts)
    for name, value in values.items():
        low, high = bootstrap.interval(value, drawn[name])
        assert all(holds(estimate) for estimate in map(bootstrap.Estimate, value, low, high))

    said = generator.permutation(counts.said)
    other = bootstrap.Counts(counts.bleu, counts.means, counts.classes, counts.true, said)
    for row in bootstrap.paired_differences(counts, other, draws=200).values():
        assert holds(bootstrap.Estimate(row.difference, row.low, row.high))
        assert np.isnan(row.p) if np.isnan(row.low) and row.difference else 0 < row.p <= 1

    x, y = generator.integers(0, 4, (2, generator.integers(4, 30)))
    correlation = bootstrap.estimate_correlation(x, y)
    assert np.isnan(correlation.low) or holds(correlation)
    assert holds(bootstrap.estimate_mean(generator.gamma(0.3, size=5)))
    assert holds(bootstrap.estimate_gap(generator.gamma(0.3, size=7), np.arange(7) < 3))


def test_an_interval_holds_a_biased_estimate_and_stays_in_its_range():
    """All draws lie below the value, as they do for a macro score of few images: the interval moves up to it."""
    drawn = np.random.default_rng(0).uniform(0.4, 0.6, 1000)
    low, high = bootstrap.interval(0.7, drawn)
    assert low < 0.7 <= high <= 0.7, "not above the value and all draws"
    low, high = bootstrap.interval(0.5, drawn)
    assert (low, high) == pytest.approx((0.405, 0.595), abs=0.01)


def test_draws_are_stratified_and_a_perfect_model_stays_perfect():
    """A class of two images among classes of five: no draw lacks it, so macro F1 of a perfect model is 1 in all.

    Draws that are all alike give no interval, instead of "1 to 1".
    """
    true = ["cat"] * 2 + ["cow"] * 5 + ["dog"] * 5
    texts = [["a", name] for name in true]
    counts = bootstrap.count(texts, [[text] for text in texts], ["cat", "cow", "dog"], true, true)
    for name in ("accuracy", "precision", "recall", "f1", "weighted_f1"):
        drawn = bootstrap.resample(lambda weights: bootstrap.all_scores(counts, weights), counts.strata)[name]
        assert drawn == pytest.approx(np.ones(1000))
        assert bootstrap.estimate_scores(counts)[name] == pytest.approx((1, np.nan, np.nan), nan_ok=True)


def test_classes_all_right_or_all_wrong_have_no_interval_and_no_significant_difference():
    """One class of four right, in every draw: "0.2500 to 0.2500", and the difference from another model had p 0.002."""
    true = [name for name in CLASSES for _ in range(5)]
    texts = [["a", name] for name in true]
    first, second = (
        bootstrap.count(texts, [[text] for text in texts], CLASSES, true, said)
        for said in (["cat"] * 20, [name if name in ("cat", "cow") else "" for name in true])
    )
    estimate = bootstrap.estimate_scores(first)["accuracy"]
    assert estimate == pytest.approx((0.25, np.nan, np.nan), nan_ok=True)
    row = bootstrap.paired_differences(first, second)["accuracy"]
    assert row.difference == pytest.approx(-0.25)
    assert np.isnan([row.low, row.high, row.p]).all()


def test_draws_that_differ_by_rounding_alone_have_no_interval():
    values = np.full(30, 0.1) + np.random.default_rng(0).integers(0, 3, 30) * 1e-17
    assert np.isnan(bootstrap.estimate_mean(values)[1:]).all()


def test_classes_of_one_image_have_no_interval():
    true = ["cat", "cow", "dog", "dog"]
    texts = [["a", name] for name in ("cat", "cow", "dog", "cow")]
    said = [text[1] for text in texts]
    counts = bootstrap.count(texts, [[["a", name]] for name in true], ["cat", "cow", "dog"], true, said)
    values, drawn = bootstrap.draw_class_scores(counts)
    low, high = bootstrap.interval(values["recall"], drawn["recall"])
    assert np.isnan([low[:2], high[:2]]).all()
    assert low[2] <= 0.5 <= high[2]
    estimates = bootstrap.estimate_scores(counts)
    assert all(np.isnan(estimates[name].low) for name in ("precision", "recall", "f1"))
    # The share of right captions needs no class to vary, and the weighted recall is the accuracy.
    assert holds(estimates["accuracy"])
    assert estimates["weighted_recall"] == estimates["accuracy"]
    row = bootstrap.paired_differences(counts, counts)["f1"]
    assert np.isnan([row.low, row.high, row.p]).all()


def test_one_image_has_no_interval():
    counts = bootstrap.count([["a"]], [[["a"]]], ["cat"], ["cat"], ["cat"])
    assert all(np.isnan(estimate.low) for estimate in bootstrap.estimate_scores(counts).values())
    assert np.isnan(bootstrap.estimate_mean([0.5]).low)


def test_a_model_does_not_differ_from_itself(captions):
    rows = bootstrap.paired_differences(counts_of(captions), counts_of(captions))
    assert set(rows) >= {"bleu4", "cider_d", "accuracy", "weighted_f1"}
    for row in rows.values():
        assert row.first == row.second
        assert row.difference == 0
        assert np.isnan([row.low, row.high]).all()
        assert row.p == 1


def test_pairing_sees_what_two_intervals_hide(captions):
    """A model that is a little better on each image is better, however much the images differ."""
    hypotheses, references, true, named = captions
    better = [[*hypothesis[:-1], "z"] for hypothesis in hypotheses]  # as the second reference says
    worse = [[*hypothesis[:-1], "y"] for hypothesis in hypotheses]
    first, second = (bootstrap.count(texts, references, CLASSES, true, named) for texts in (better, worse))
    ours, theirs, difference, low, high, p = bootstrap.paired_differences(first, second)["bleu4"]
    assert difference == pytest.approx(ours - theirs)
    assert 0 < low < difference < high
    assert p == pytest.approx(2 / 1001), "no draw of 1,000 lies on the other side"
    back = bootstrap.paired_differences(second, first)["bleu4"]
    assert back[2:5] == pytest.approx((-difference, -high, -low))


def test_scores_drawn_alone_are_those_drawn_together(captions):
    sides = [counts_of(captions)] * 2
    values, drawn = bootstrap.draw_together(sides, draws=20)
    for name in values:
        alone, draws = bootstrap.draw_together(sides, (name,), draws=20)
        assert alone[name] == pytest.approx(values[name])
        assert draws[name] == pytest.approx(drawn[name])


def test_holm_corrects_by_hand():
    """Holm 1979: 0.01 * 4, then 0.02 * 3, then 0.03 * 2 but no less than the one before, then 0.5."""
    assert bootstrap.holm([0.03, 0.01, 0.5, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert bootstrap.holm([0.6, 0.7]).tolist() == [1, 1]
    assert bootstrap.holm([0.01, np.nan]).tolist() == pytest.approx([0.02, np.nan], nan_ok=True)
    assert bootstrap.holm([]).tolist() == []


@pytest.mark.parametrize("pairs", [1, 3, 45])
def test_draws_reach_below_the_smallest_level(pairs):
    assert bootstrap.draws_for(pairs) >= 1000
    assert 2 / (bootstrap.draws_for(pairs) + 1) * 9 < 0.05 / pairs


def test_models_on_other_images_are_not_compared(captions):
    with pytest.raises(ValueError, match="60 images of the first model, 59 of the second"):
        bootstrap.paired_differences(counts_of(captions), counts_of(captions, range(59)))

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
    drawn = bootstrap.resample(lambda weights: {"mean": weights @ values / 200}, 200, draws=8000)["mean"]
    standard_error = values.std() / math.sqrt(200)
    assert drawn.std() == pytest.approx(standard_error, rel=0.05)
    assert bootstrap.interval(drawn) == pytest.approx(
        values.mean() + np.array([-1.96, 1.96]) * standard_error, abs=0.02
    )


def test_the_interval_of_a_share_is_binomial():
    """Drawing from 30 right of 40 images is drawing a binomial number: its quantiles are known."""
    right = np.arange(40) < 30
    drawn = bootstrap.resample(lambda weights: {"share": weights @ right}, 40, draws=8000)["share"]
    cumulated = np.cumsum([math.comb(40, k) * 0.75**k * 0.25 ** (40 - k) for k in range(41)])
    quantiles = [int(np.searchsorted(cumulated, p)) for p in (0.025, 0.975)]
    assert bootstrap.interval(drawn).tolist() == quantiles


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(300):
        values = generator.normal(size=50)
        drawn = bootstrap.resample(lambda weights, values=values: {"mean": weights @ values / 50}, 50, draws=400)
        low, high = bootstrap.interval(drawn["mean"])
        hits += low <= 0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_groups_keep_their_size():
    groups = np.array([0, 0, 0, 5, 5, 5, 5, 9])
    weights = bootstrap.resample(lambda weights: {"w": weights}, 8, groups, draws=50)["w"]
    sums = np.stack([weights[:, groups == group].sum(axis=1) for group in (0, 5, 9)], axis=1)
    assert (sums == [3, 4, 1]).all()
    assert len(np.unique(weights, axis=0)) > 10
    free = bootstrap.resample(lambda weights: {"w": weights}, 8, draws=50)["w"]
    assert (free.sum(axis=1) == 8).all()
    assert len(np.unique(free[:, groups == 0].sum(axis=1))) > 1


def test_draws_depend_on_the_seed_alone(monkeypatch):
    def draw(seed):
        return bootstrap.resample(lambda weights: {"w": weights}, 30, draws=40, seed=seed)["w"]

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


def test_correlation_interval_holds_the_value():
    x = np.arange(40)
    value, low, high = bootstrap.correlation_interval(x, x + np.random.default_rng(0).normal(0, 15, 40))
    assert low < value < high
    assert low > 0.3
    assert high < 1
    assert bootstrap.correlation_interval(x, -x) == pytest.approx((-1, -1, -1))


def test_correlation_draws_do_not_depend_on_the_memory_they_take(monkeypatch):
    x, y = np.random.default_rng(0).random((2, 30))
    whole = bootstrap.correlation_interval(x, y)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 30)
    assert bootstrap.correlation_interval(x, y) == whole


@pytest.mark.parametrize(("x", "y"), [([1, 2], [2, 1]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([], [])])
def test_what_has_no_correlation_says_so(x, y):
    assert np.isnan(bootstrap.correlation_interval(x, y)).all()


def test_a_model_does_not_differ_from_itself(captions):
    rows = bootstrap.paired_differences(counts_of(captions), counts_of(captions))
    assert set(rows) >= {"bleu4", "cider_d", "accuracy", "weighted_f1"}
    for ours, theirs, *difference, p in rows.values():
        assert ours == theirs
        assert difference == [0, 0, 0]
        assert p == 1


def test_pairing_sees_what_two_intervals_hide(captions):
    """A model that is a little better on each image is better, however much the images differ."""
    hypotheses, references, true, named = captions
    better = [[*hypothesis[:-1], "z"] for hypothesis in hypotheses]  # as the second reference says
    worse = [[*hypothesis[:-1], "y"] for hypothesis in hypotheses]
    first, second = (bootstrap.count(texts, references, CLASSES, true, named) for texts in (better, worse))
    ours, theirs, difference, low, high, p = bootstrap.paired_differences(first, second)["bleu4"]
    assert difference == pytest.approx(ours - theirs)
    assert 0 < low < difference < high
    assert p <= 0.002
    back = bootstrap.paired_differences(second, first)["bleu4"]
    assert back[2:5] == pytest.approx((-difference, -high, -low))


def test_models_on_other_images_are_not_compared(captions):
    with pytest.raises(ValueError, match="60 images of the first model, 59 of the second"):
        bootstrap.paired_differences(counts_of(captions), counts_of(captions, range(59)))

"""The comparison of models: its verdicts, their correction, and its tables."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import HAND_MADE, predict, repeated, study

from captioning.data.annotations import Example
from captioning.report import comparison
from captioning.scores import bootstrap


def pair(low, high, p_holm, **more):
    values = {"first_value": 0.5, "second_value": 0.5, "difference": (low + high) / 2, "low": low, "high": high}
    return {"first": "a", "second": "b", "metric": "CIDEr-D", **values, "p": 0.01, "p_holm": p_holm, **more}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (pair(0.1, 0.3, 0.02), "Verdict: a is better than b in CIDEr-D."),
        (pair(-0.3, -0.1, 0.02), "Verdict: b is better than a in CIDEr-D."),
        (pair(0.1, 0.3, 0.06), "Verdict: no significant difference in CIDEr-D on these images."),
        (pair(-0.1, 0.3, 0.4), "Verdict: no significant difference in CIDEr-D on these images."),
        (pair(np.nan, np.nan, 1, difference=0), "Verdict: no difference: both models have the same CIDEr-D"),
    ],
)
def test_verdicts_claim_what_the_corrected_p_allows(row, verdict):
    other = pair(0.5, 0.6, np.nan, metric="BLEU-4")
    assert comparison.verdicts(pd.DataFrame([other, row]), "CIDEr-D")[0].startswith(verdict)


def test_a_difference_without_an_interval_gets_no_verdict():
    row = pair(np.nan, np.nan, np.nan, difference=0.2)
    whole, line = comparison.verdicts(pd.DataFrame([row]), "CIDEr-D")
    assert whole == "Verdict: none in CIDEr-D: no draw from the images of each class changes the difference."
    assert "no verdict" in line
    whole, *_ = comparison.verdicts(pd.DataFrame([row, pair(-0.1, 0.3, 0.4)]), "CIDEr-D")
    assert whole == "Verdict: no significant difference in CIDEr-D on these images; 1 pair without a verdict."


def test_perfect_captions_of_different_length_do_not_differ():
    """BLEU-4 is 1 less some 1e-11 by the captions' length: "no verdict, difference -0.0000"."""
    texts = [("a cat on a mat", "a cat on a mat with a dog in it"), ("one dog here now", "the dog sat in the sun")]
    sides = [
        study([predict("cat", pair[side], *pair, name=f"{n}.jpg") for n, pair in enumerate(texts)]) for side in (0, 1)
    ]
    compared = comparison.compare_models([s.scored for s in sides], [s.subject for s in sides], "bleu4")
    assert compared.lines[0].startswith("Verdict: no difference: both models have the same BLEU-4")
    assert compared.lines[1].endswith("no difference, both have 1.0000.")


def test_a_comparison_tells_what_limits_it():
    """Only the report on one model named the pictures that could not be read."""
    studied = study(HAND_MADE)
    missing = Example(Path("data/val/cat/broken.jpg"), ["a cat"], "cat", "val")
    dataset = replace(studied.subject.dataset, splits={"val": [*(p.example for p in HAND_MADE), missing]})
    subject = replace(studied.subject, dataset=dataset)
    compared = comparison.compare_models([studied.scored] * 2, [subject] * 2, "cider_d")
    assert "Left out, not readable: 1 image (val/cat/broken.jpg)." in compared.lines
    assert any(line.startswith("CIDEr-D is unreliable here") for line in compared.lines)


def test_three_models_have_three_pairs_and_one_is_found_better():
    worse = repeated(HAND_MADE, 10)
    better = [type(one)(one.example, one.example.captions[0].lower().strip("."), -1.5) for one in worse]
    studies = [study(predictions) for predictions in (worse, better, worse)]
    compared = comparison.compare_models([s.scored for s in studies], [s.subject for s in studies], "bleu4")
    assert compared.names == ["mobile (1)", "mobile (2)", "mobile (3)"]
    assert compared.lines[0] == (
        "Verdict: mobile (2) is better than mobile (1); mobile (2) is better than mobile (3) in BLEU-4."
    )
    primary = compared.pairs[compared.pairs["metric"] == "BLEU-4"]
    assert primary["p_holm"].tolist() == pytest.approx(bootstrap.holm(primary["p"]).tolist())
    assert compared.pairs.loc[compared.pairs["metric"] != "BLEU-4", "p_holm"].isna().all()
    wide = comparison.wide_scores(compared.scores)
    assert wide["model"].tolist() == compared.names
    for row in primary.itertuples(index=False):
        values = wide.set_index("model")["bleu4"]
        assert (row.first_value, row.second_value) == pytest.approx((values[row.first], values[row.second]))
    assert "corrected for 3 pairs by Holm's procedure" in compared.about
    assert compared.images["spread"].is_monotonic_decreasing


def test_ten_models_of_a_thousand_images_take_seconds():
    generator = np.random.default_rng(0)
    words = np.array(list("abcdefgh"))

    def text():
        return generator.choice(words, 8).tolist()

    references = [[text() for _ in range(5)] for _ in range(1000)]
    sides = [bootstrap.count([text() for _ in range(1000)], references) for _ in range(10)]
    began = time.process_time()
    table = comparison.pair_table(sides, list("0123456789"), "cider_d")
    assert time.process_time() - began < 60, "it takes about 5 s"
    assert len(table) == 45 * 7
    assert table["p"].min() >= 2 / (bootstrap.draws_for(45) + 1)


@pytest.mark.parametrize(
    "names", [["a", "a", "a (1)"], ["a (1)", "a", "a"], ["a", "b"], ["a", "a", "a (1)", "a (1) (1)"]]
)
def test_no_two_models_have_the_same_name(names):
    """A second download is called a (1): the report ended in an error of pandas."""
    assert len(set(comparison.distinct(names))) == len(names)
    assert [name for name in comparison.distinct(names) if names.count(name) == 1] == [
        name for name in names if names.count(name) == 1
    ]

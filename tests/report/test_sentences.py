"""The sentences of a report say what its tables hold, and no more than the intervals support."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from studies import CANNON, HAND_MADE, build, many_classes, predict, study

from captioning.data.annotations import Example
from captioning.evaluation import Prediction
from captioning.report import sentences


def test_references_are_a_yardstick():
    blind = [predict("cat", "a cat", "a cat", "an animal"), predict("dog", "a dog", "a dog", "a dog")]
    studied = study(blind)
    rows = studied.tables["yardsticks"].set_index("classifier")["accuracy"]
    assert rows["reference captions"] == 0.75
    assert "of the reference captions 75.0% do" in " ".join(studied.texts()["facts"])


def test_a_class_whose_captions_do_not_name_it_is_diagnosed():
    tables = build(CANNON, classes=("cannon", "dog"))
    row = tables["diagnosis"].iloc[0]
    assert [row["class"], row["accuracy"], row["named_instead"]] == ["cannon", 0, "(none) 10"]
    assert row["bleu4"] == pytest.approx(1)
    assert row["reference_naming"] == pytest.approx(1 / 20)
    assert "gun" in row["words"].split()
    assert "cannon" not in row["words"].split()
    (line,) = sentences.diagnoses(tables)
    for part in (
        "name it in 5% of cases",
        "name instead: no class 10",
        "BLEU-4 does not measure",
        "gun",
        "aliases.csv",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("naming", "probe", "fault"),
    [
        (0.1, 0.9, "Too few reference captions name it"),
        (0.9, 0.2, "encoder does not separate it from others"),
        (0.9, 0.8, "the decoder does not name it"),
        (0.9, float("nan"), "in the encoder or the decoder"),
    ],
)
def test_the_fault_is_in_captions_encoder_or_decoder(naming, probe, fault):
    row = pd.DataFrame([{"accuracy": 0.1, "reference_naming": naming, "probe": probe, "words": "gun"}])
    assert fault in sentences.fault(next(row.itertuples()))


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (lambda rank: rank < 30, "named more often"),
        (lambda rank: rank >= 30, "named less often"),
        (lambda rank: rank % 2, "no significant correlation"),
    ],
)
def test_bleu_against_accuracy_over_the_classes(accuracy, verdict):
    """Sixty classes whose captions get better; which of them are named decides the sign of the correlation."""
    predictions = []
    for index, prediction in enumerate(many_classes(60)):
        rank = 59 - (index % 20 * 3 + index // 20)  # 0 = the most shared words
        caption = f"{prediction.caption} {prediction.example.label if accuracy(rank) else 'zzz'}"
        predictions.append(Prediction(prediction.example, caption, -1.5))
    tables = build(predictions, classes=[f"c{index:02}" for index in range(60)])
    assert verdict in sentences.bleu_and_accuracy(tables)[0]


def test_too_few_classes_have_no_rank_correlation():
    assert "is undefined" in sentences.bleu_and_accuracy(build(HAND_MADE))[0]


def test_reservations_name_what_is_missing():
    tables, subject, scored = study(HAND_MADE)
    unread = Example(Path("data/val/cat/9.jpg"), ["a cat"], "cat", "val")
    never = Example(Path("data/train/owl/1.jpg"), ["an owl"], "owl", "train")
    splits = {"train": [never], "val": [*subject.dataset.splits["val"], unread]}
    subject = replace(subject, dataset=replace(subject.dataset, splits=splits), classes=["cat"])
    notes = sentences.reservations(tables, subject, scored)
    text = " ".join(notes)
    # words of the references: 19, of which "a" stands 6 times
    for part in ("1 image (val/cat/9.jpg)", "68.4%", "never saw 1 class of the data: dog", "CIDEr-D is unreliable"):
        assert part in text
    assert "The split has no image of 1 class of the data: owl." in text
    assert not any("\n" in note for note in notes)


def test_a_difference_that_no_draw_changes_is_no_significant_one():
    """One class always right, the other always wrong: the interval without width once made it a finding."""
    names = [f"{n}.jpg" for n in range(3)]
    right = [predict("cat", "a cat on a mat", "a cat on a mat", name=name) for name in names]
    wrong = [predict("dog", "a cat", "one dog in the sun", name=name) for name in names]
    text = " ".join(sentences.bleu_and_accuracy(build([*right, *wrong])))
    assert "100.0 points (100.0 to 100.0): all draws are alike" in text
    assert "name their class more often" not in text

"""The sentences of a report say what its tables hold, and no more than the intervals support."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from studies import CANNON, HAND_MADE, build, many_classes, predict, repeated, study, text_of

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
    for number, prediction in enumerate(many_classes(60)):
        index = number // 5
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


def test_a_class_that_train_lacks_is_no_fault_of_the_encoder():
    tables = build(CANNON, classes=("cannon", "dog"))
    (line,) = sentences.diagnoses(tables, {"dog"})
    assert line.endswith("Train has no image of it.")


def test_nothing_is_known_of_what_a_model_without_classes_saw():
    """photos, which learned from Flickr8k's dogs, "never saw" a dog."""
    studied = study(repeated(HAND_MADE))
    unknown = replace(studied.subject, classes=[])
    assert not any("never saw" in note for note in studied._replace(subject=unknown).notes())
    other = replace(studied.subject, classes=["cat"])
    assert any("never saw 1 class of the data: dog" in note for note in studied._replace(subject=other).notes())


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ([], "Every image has one reference, so the effect of their number is unknown."),
        (["a cat"], "Some images have one reference, others more, so the effect of their number is unknown."),
    ],
)
def test_one_reference_is_said_of_images_that_have_one(extra, sentence):
    predictions = [predict("cat", "a cat on a mat", "a cat on a mat", *extra), predict("dog", "a dog", "a dog here")]
    assert study(predictions).texts()["references"] == [sentence]


def test_a_confidence_is_too_high_where_its_interval_says_so():
    """Five of six captions right and a confidence of 0.846 were "too high on average"."""

    def confidence_of(right, wrong):
        words = ["cat"] * right + ["dog"] * wrong
        examples = [Example(Path(f"{n}.jpg"), ["a red cat"], "cat", "val") for n in range(len(words))]
        pairs = zip(examples, words, strict=True)
        made = [Prediction(example, f"a red {word} here", 5 * math.log(0.846)) for example, word in pairs]
        return study(made).texts()["confidence"][-1]

    assert "the gap 0.013" in confidence_of(5, 1)
    assert "no significant gap" in confidence_of(5, 1)
    assert "it is too high on average" in confidence_of(10, 30)
    assert "no verdict" in confidence_of(6, 0)


def test_a_difference_that_no_draw_changes_is_no_significant_one():
    """One class always right, the other always wrong: the interval without width once made it a finding."""
    names = [f"{n}.jpg" for n in range(5)]
    right = [predict("cat", "a cat on a mat", "a cat on a mat", name=name) for name in names]
    wrong = [predict("dog", "a cat", "one dog in the sun", name=name) for name in names]
    text = " ".join(sentences.bleu_and_accuracy(build([*right, *wrong])))
    assert "The class with the best BLEU-4 has the accuracy 100.0%, that with the worst 0.0%" in text
    assert "100.0 points (no interval): no verdict, because all draws are alike" in text
    assert "name their class more often" not in text


def test_accuracies_without_an_interval_say_why():
    names = [f"{n}.jpg" for n in range(5)]
    right = [predict("cat", "a cat on a mat", "a cat on a mat", name=name) for name in names]
    wrong = [predict("dog", "a cat", "one dog in the sun", name=name) for name in names]
    notes = " ".join(study([*right, *wrong]).notes())
    assert "Within each class the captions are all right or all wrong" in notes
    assert "Within each class" not in " ".join(study(repeated(HAND_MADE)).notes())


def test_classes_of_few_images_get_no_verdict():
    """From one image a class it once was told that "the best captions name their class more often"."""
    few = repeated(HAND_MADE, times=2)
    text = text_of(study(few))
    assert "2 classes with fewer than 5 images" in text
    assert "No class is best or worst" in text
    enough = text_of(study(repeated(HAND_MADE)))
    for claim in ("the best class is", "with the best BLEU-4 has", "predictions name instead"):
        assert claim not in text
        assert claim in enough


def test_ties_are_said_as_ties():
    def facts(*captions):
        labels = [f"c{number}" for number in range(len(captions))]
        made = [
            predict(label, caption, "a b c d e f g h", name=f"{image}.jpg")
            for label, caption in zip(labels, captions, strict=True)
            for image in range(5)
        ]
        return " ".join(study(made, classes=labels).texts()["facts"])

    assert "All 3 classes have the same BLEU-4 (1.000): none is best or worst." in facts(*["a b c d e f g h"] * 3)
    text = facts(*["a b c d e f g h"] * 2, "a b c d e f x y")
    assert "the best classes are c0, c1 (1.000 each), the worst class is c2 (0." in text
    assert "most frequent mistakes are to name no class where c0 is true; no class where c1 is true" in text


@pytest.mark.parametrize(
    ("caption", "told"), [("", "says nothing about 20 of 20"), ("a thing", "says 'a thing' about")]
)
def test_captions_that_are_all_alike_are_told_of_first(caption, told):
    made = [
        predict(label, caption, f"one {label} here", name=f"{n}.jpg") for n in range(10) for label in ("cat", "dog")
    ]
    text = text_of(study(made))
    assert text.index("**Warning:** The model says") < text.index("mobile captioned the val split")
    assert told in text
    assert "## Random, best and worst captions\n\n![Captions drawn at random](sample.png)\n\nNo caption is best" in text
    assert ("20 captions of 20 are empty." in text) == (not caption)


def test_captions_without_any_score_do_not_score_well():
    """BLEU-4 0 is at least half of the split's BLEU-4, if that is 0, too."""
    made = [
        predict(label, "x y z", f"one {label} there", name=f"{n}.jpg") for n in range(5) for label in ("cat", "dog")
    ]
    text = text_of(study(made))
    assert "cat: accuracy 0.00" in text
    assert "score well" not in text
    assert "score without it" not in text


def test_a_class_without_typical_words_names_none():
    """It once said "the words that set them apart are ; add those ..."."""
    made = [predict(label, "x y", "a thing", name=f"{n}.jpg") for n in range(5) for label in ("cat", "dog")]
    text = text_of(study(made))
    assert "No word is typical of them" in text
    assert "are ;" not in text


def test_the_number_of_classes_in_a_group_decides_the_verb():
    made = [*many_classes(2), *many_classes(4)[10:]]
    (fact,) = [f for f in study(made, classes=[f"c0{n}" for n in range(4)]).texts()["bleu"] if "with the best" in f]
    assert fact.startswith("The 2 classes with the best BLEU-4 have the accuracy 0.0%, the 2 with the worst 0.0%")
    (fact,) = [f for f in study(repeated(HAND_MADE)).texts()["bleu"] if "with the best" in f]
    assert fact.startswith("The class with the best BLEU-4 has the accuracy 50.0%, that with the worst 50.0%")


def test_familiarity_is_reported_with_the_scores_of_either_kind():
    images = pd.DataFrame({"familiarity": [0.01] * 5 + [0.5] * 15, "cider_d": [0.5] * 5 + [1.5] * 15})
    (sentence,) = sentences.familiarity_findings(images)
    assert "25.0% of the images are unlike" in sentence
    assert "captions is 0.50, that of the others 1.50" in sentence
    (sentence,) = sentences.familiarity_findings(images.iloc[3:])  # two pictures judge nothing
    assert "CIDEr-D" not in sentence
    assert sentences.familiarity_findings(images[["cider_d"]]) == []

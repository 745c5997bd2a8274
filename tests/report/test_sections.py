"""The sections of a report: what they show, with and without classes."""

import re

import numpy as np
import pytest
from studies import HAND_MADE, many_classes, predict, repeated, study, text_of

from captioning.report import sections


def test_what_has_no_interval_is_a_dash_in_the_report():
    studied = study(many_classes(4, images=1), classes=[f"c{index:02}" for index in range(4)])
    text = text_of(studied)
    assert not re.search(r"\bnan\b", text.lower())
    assert "| F1 | 0.0000 | – |" in text
    assert "4 classes with one image: such a class has no interval" in text


def test_report_says_what_the_tables_say():
    text = text_of(study(repeated(HAND_MADE)))
    assert "50.0% of the images the caption names the true one of 2 classes" in text
    assert "- one line about the data" in text
    assert "Best 1 class by BLEU-4:" in text
    assert "\\|refs:1-2\\|" in text, "a bar would end the cell"
    assert "mistakes are to name dog where cat is true; no class where dog is true: 5 times each." in text
    for name in sections.FILES:
        assert f"[`{name}`]({name})" in text


def test_without_classes_the_report_is_about_captions():
    studied = study([predict("", p.caption, *p.example.captions) for p in HAND_MADE], classes=())
    tables = studied.tables
    assert set(tables) == {"images", "summary", "references", "language", "calibration"}
    assert "named" not in tables["images"]
    assert tables["summary"]["metric"].tolist() == [
        *(f"BLEU-{n}" for n in range(1, 5)),
        "mean sentence BLEU-4",
        "ROUGE-L",
        "CIDEr-D",
    ]
    assert "no classes" in studied.notes()[-1]
    text = text_of(studied)
    assert "confusion.png)" not in text.split("## Files")[0]
    assert "one of each class" not in text.split("## Files")[0]
    with_classes = text_of(study(HAND_MADE))
    heads = [[line for line in part.splitlines() if line.startswith("## ")] for part in (text, with_classes)]
    assert heads[0] == heads[1], "two reports can be laid side by side"


def test_one_image_is_enough():
    studied = study(HAND_MADE[:1])
    assert studied.tables["summary"].set_index("metric")["value"]["BLEU-4"] == pytest.approx(1.0)
    assert studied.tables["summary"]["low"].isna().all()
    text = text_of(studied)
    assert "# mobile on data" in text
    assert not re.search(r"\bnan\b", text)


def test_no_picture_is_both_among_the_best_and_the_worst():
    captions = ["a b c d e", "a b c d x", "a b x y z", "q r s t u", "a b c d e", "q r s t u", "a q r s t"]
    made = [predict(f"c{n}", caption, "a b c d e", name=f"{n}.jpg") for n, caption in enumerate(captions)]
    images = study([*made, predict("c0", "z", "k l m n o")], classes=[f"c{n}" for n in range(7)]).tables["images"]
    best, worst = sections.extreme_rows(images)
    assert best
    assert worst
    assert not set(best) & set(worst)
    assert images["cider_d"][best].min() > images["cider_d"][worst].max()
    assert not set(images["cider_d"].round(9)[best]) & set(images["cider_d"].round(9)[worst])


def test_the_sample_is_drawn_from_a_seed():
    images = study(many_classes(6), classes=[f"c0{n}" for n in range(6)]).tables["images"]
    drawn = sections.sample_rows(images)
    assert drawn == sections.sample_rows(images) != sections.sample_rows(images, seed=1)
    assert len(set(drawn)) == sections.GALLERY_IMAGES
    assert drawn != list(range(10))


def test_classes_that_tie_with_the_last_of_a_group_are_counted():
    made = [predict(f"c{n:02}", "a b c d", "a b c d", name=f"{i}.jpg") for n in range(25) for i in range(5)]
    made += many_classes(3)
    text = text_of(study([*made], classes=[f"c{n:02}" for n in range(25)]))
    assert (
        "Best 10 classes by BLEU-4; equal BLEU-4 is one rank; 12 more classes with that of the last are left out:"
        in text
    )


def test_all_the_mistakes_that_are_as_frequent_are_counted():
    """The table has ten of them; the sentence once said "7 more pairs" where there were more."""
    names = [f"c{n:02}" for n in range(15)]
    text = text_of(study([predict(name, "a thing", f"a {name}") for name in names], classes=names))
    assert "no class where c02 is true, and 12 more pairs: 1 time each." in text


@pytest.mark.parametrize(("said", "without"), [("abccef", False), ("abcdef", True)])
def test_that_the_accuracy_has_no_interval_is_said_where_it_has_none(said, without):
    """Of classes with one image each, it was said beside the interval: those are drawn among each other."""
    pairs = zip("abcdef", said, strict=True)
    predictions = [predict(label, f"one {word} here now", f"one {label} here now") for label, word in pairs]
    studied = study(predictions, classes=list("abcdef"))
    low = studied.tables["summary"].set_index("metric")["low"]["average accuracy"]
    assert np.isnan(low) == without
    assert ("so the accuracy and what is made of it have no interval" in text_of(studied)) == without

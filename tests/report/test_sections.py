"""The sections of a report: what they show, with and without classes."""

import pytest
from studies import HAND_MADE, many_classes, predict, study, text_of

from captioning.report import sections


def test_what_has_no_interval_is_a_dash_in_the_report():
    studied = study(many_classes(4), classes=[f"c{index:02}" for index in range(4)])
    text = text_of(studied)
    assert "nan" not in text.lower()
    assert "| F1 | 0.0000 | – |" in text
    assert "4 classes with one image: such a class has no interval" in text


def test_report_says_what_the_tables_say():
    text = text_of(study(HAND_MADE))
    assert "50.0% of the images the caption names the true one of 2 classes" in text
    assert "- one line about the data" in text
    assert "Best 1 class by BLEU-4:" in text
    assert "\\|refs:1-2\\|" in text, "a bar would end the cell"
    assert "is to name dog where cat is true: 1 time." in text
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
    with_classes = text_of(study(HAND_MADE))
    heads = [[line for line in part.splitlines() if line.startswith("## ")] for part in (text, with_classes)]
    assert heads[0] == heads[1], "two reports can be laid side by side"


def test_one_image_is_enough():
    studied = study(HAND_MADE[:1])
    assert studied.tables["summary"].set_index("metric")["value"]["BLEU-4"] == pytest.approx(1.0)
    assert studied.tables["summary"]["low"].isna().all()
    text = text_of(studied)
    assert "# mobile on data" in text
    assert "nan" not in text

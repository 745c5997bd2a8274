"""The cards of the captions, and the files that a visitor can download."""

import base64
import csv
import io
import json
import re

import pytest

from captioning.page import results
from captioning.page.labels import TEXT, language_of

RECORD = {"caption": "a cat", "log_prob": -1.0, "confidence": 0.5, "score": 0.9, "familiarity": None}


def result(name="cat.jpg", *records, **values):
    return {"name": name, "records": [RECORD | values, *records], "thumbnail": b"jpeg"}


def downloaded(page):
    """Return {file name: text} of the links of a page."""
    links = re.findall(r'download="(.*?)" href="data:.*?;base64,(.*?)"', page)
    return {name: base64.b64decode(content).decode() for name, content in links}


def test_both_languages_say_the_same_things():
    """Every label there is, with the same values to fill in."""
    english, korean = TEXT["en"], TEXT["ko"]
    assert english.keys() == korean.keys()
    for name in english:
        assert re.findall(r"{.*?}", english[name]) == re.findall(r"{.*?}", korean[name]), name
        assert re.search("[가-힣]", korean[name]), name


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("en-US,en;q=0.9,ko;q=0.8", "en"),
        ("fr-FR,fr;q=0.9,ko;q=0.8", "en"),
        ("kok-IN", "en"),
        ("KO", "ko"),
        ("ko;q=1", "ko"),
        (None, "en"),
    ],
)
def test_the_language_is_the_browsers(header, language):
    assert language_of(header) == language


def test_a_card_holds_the_picture_the_caption_and_a_button_that_copies_it():
    page = results.show([result(), result("dog.jpg", caption="a dog")], TEXT["en"])
    assert re.findall(r'<h3 lang="en">(.*?)</h3>', page) == ["a cat", "a dog"]
    assert re.findall(r'data-copy="(.*?)"', page) == ["a cat", "a dog"]
    assert page.count(f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}") == 2
    assert page.count("confidence 50%") == 4  # in words, and as the name of the bar
    assert 'aria-label="Copy the caption of dog.jpg"' in page


@pytest.mark.parametrize("language", TEXT)
def test_an_unfamiliar_picture_is_told_so_beside_its_caption(language):
    """The model of photographs took a cup of coffee for a dog, and said so as surely as any caption."""
    text = TEXT[language]
    strange, known = result(familiarity=0.01), result(familiarity=0.4)
    assert text["unlike"] in results.show([strange], text)
    assert text["unlike_info"].format(value=0.99) in results.show([strange], text)
    assert text["unlike_info"].format(value=0.99) in results.show([result(familiarity=0.0)], text)
    for familiar in (known, result()):  # also by a model that does not know
        assert 'class="unlike"' not in results.show([familiar], text)


def test_a_surer_alternative_is_explained():
    surer, less = RECORD | {"caption": "a dog", "confidence": 0.6}, RECORD | {"confidence": 0.4}
    assert TEXT["en"]["surer"] in results.show([result("a.jpg", surer)], TEXT["en"])
    assert TEXT["en"]["surer"] not in results.show([result("a.jpg", less)], TEXT["en"])


def test_all_captions_can_be_downloaded():
    other = RECORD | {"caption": "a dog, perhaps"}
    unreadable = {"name": "b.txt", "problem": "not a picture"}
    files = downloaded(results.show([result("a.jpg", other), unreadable, result('"c".jpg')], TEXT["ko"]))
    rows = list(csv.DictReader(io.StringIO(files["captions.csv"].removeprefix("\ufeff"))))
    assert [(row["image"], row["rank"], row["caption"]) for row in rows] == [
        ("a.jpg", "1", "a cat"),
        ("a.jpg", "2", "a dog, perhaps"),
        ('"c".jpg', "1", "a cat"),
    ]
    records = json.loads(files["captions.json"])
    assert [record["image"] for record in records] == ["a.jpg", '"c".jpg']
    assert files["captions.csv"].startswith("\ufeff"), "else Excel garbles Korean names"
    assert records[0]["alternatives"] == [other]
    assert not downloaded(results.show([unreadable], TEXT["ko"]))


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\x0b"])
def test_a_name_with_an_odd_end_of_line_breaks_no_download(sign):
    files = downloaded(results.show([result(f"a{sign}b.jpg"), result("c.jpg")], TEXT["en"]))
    assert [record["image"] for record in json.loads(files["captions.json"])] == [f"a{sign}b.jpg", "c.jpg"]


def test_words_and_names_are_no_html():
    """A checkpoint from a stranger may hold any words, an upload may have any name."""
    evil = '<script>alert(1)</script>"'
    page = results.show([result(evil, RECORD | {"caption": evil}, caption=evil)], TEXT["en"])
    page += results.show([{"name": evil, "problem": evil}], TEXT["en"])
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert '"&quot;' not in page.replace('data-copy="&lt;', "")


def test_what_was_left_out_is_told():
    assert "At most 1 pictures at once" in results.show([result()], TEXT["en"], num_left_out=2)

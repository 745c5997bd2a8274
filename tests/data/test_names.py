"""One file, several spellings of its name: every reader finds it, and a missing one is shown its nearest."""

import json
import unicodedata

import pytest
from PIL import Image

from captioning.data.annotations import load_examples, read_examples
from captioning.data.names import Folders
from captioning.data.spelling import folded
from captioning.data.tokenizer import tokenize

SPELLINGS = [  # on disk, in the annotations
    ("train/cat/1.jpg", "train\\cat\\1.jpg"),
    ("train/cat/1.jpg", "./train/cat/1.jpg"),
    ("train/cat/1.JPG", "train/cat/1.jpg"),
    ("train/Cat/A.jpg", "train/cat/a.JPG"),
    (unicodedata.normalize("NFD", "train/판다/café.jpg"), "train/판다/café.jpg"),
    ("train/판다/café.jpg", unicodedata.normalize("NFD", "train/판다/café.jpg")),
]


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="JPEG")


@pytest.mark.parametrize(("there", "written"), SPELLINGS)
def test_captions_csv_finds_a_picture_by_any_spelling(tmp_path, there, written):
    write_picture(tmp_path / there)
    (tmp_path / "captions.csv").write_text(f"image,caption\n{written},a picture\n", encoding="utf-8")
    (example,) = load_examples(tmp_path)
    assert example.image == tmp_path / there
    assert example.split == "train"
    assert folded(example.label) == folded(there.split("/")[1])


@pytest.mark.parametrize(("there", "written"), SPELLINGS)
def test_karpathys_json_finds_a_picture_by_any_spelling(tmp_path, there, written):
    write_picture(tmp_path / "images" / there)
    image = {"filename": written, "split": "train", "sentences": [{"raw": "a picture"}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [image]}), encoding="utf-8")
    (example,) = load_examples(tmp_path)
    assert example.image == tmp_path / "images" / there


@pytest.mark.parametrize(("there", "written"), SPELLINGS)
def test_the_captions_of_class_folders_find_a_picture_by_any_spelling(tmp_path, there, written):
    there, written = there.removeprefix("train/"), written.replace("train", "", 1).lstrip("./\\")
    write_picture(tmp_path / "source" / there)
    (tmp_path / "c.csv").write_text(f"image,caption\n{written},a picture\n", encoding="utf-8")
    (example,) = read_examples(tmp_path / "c.csv", images_dir=tmp_path / "source")
    assert example.image == tmp_path / "source" / there


def test_two_files_that_differ_in_case_alone_are_told_apart_or_not_guessed(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        write_picture(tmp_path / name)
    disk = Folders()
    assert disk.find(str(tmp_path), "A.jpg") == str(tmp_path / "A.jpg")
    assert disk.find(str(tmp_path), "a.JPG") is None


@pytest.mark.parametrize("written", ["001.jpg", "0001.tif"])
def test_a_missing_picture_is_shown_the_nearest_name(tmp_path, written):
    write_picture(tmp_path / "train/cat/0001.jpg")
    (tmp_path / "captions.csv").write_text(f"image,caption\ntrain/cat/{written},a cat\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"names train/cat/{written}, .* nearest name there is train/cat/0001.jpg"):
        load_examples(tmp_path)


def test_composed_and_decomposed_words_are_one_word():
    for word in ("café", "판다", "Ångström"):
        assert tokenize(unicodedata.normalize("NFD", word)) == tokenize(unicodedata.normalize("NFC", word))


@pytest.mark.parametrize(
    "written", ["photos/cat/1.jpg", "/home/me/photos/cat/1.jpg", "C:\\photos\\cat\\1.jpg", "1.jpg"]
)
def test_captions_of_class_folders_may_name_more_or_less_than_the_class(tmp_path, written):
    write_picture(tmp_path / "photos/cat/1.jpg")
    (tmp_path / "c.csv").write_text(f"image,caption\n{written},a cat\n", encoding="utf-8")
    (example,) = read_examples(tmp_path / "c.csv", images_dir=tmp_path / "photos")
    assert (example.image, example.label) == (tmp_path / "photos/cat/1.jpg", "cat")


def test_a_picture_of_another_class_is_not_taken_for_one_that_is_missing(tmp_path):
    write_picture(tmp_path / "photos/dog/1.jpg")
    (tmp_path / "c.csv").write_text("image,caption\ncat/1.jpg,a cat\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: names cat/1.jpg, which is not in .*photos or below it"):
        read_examples(tmp_path / "c.csv", images_dir=tmp_path / "photos")


def test_a_name_without_its_class_that_two_classes_have_is_not_guessed(tmp_path):
    for label in ("cat", "dog"):
        write_picture(tmp_path / f"photos/{label}/1.jpg")
    (tmp_path / "c.csv").write_text("image,caption\n1.jpg,a cat\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: names 1.jpg, which may be cat/1.jpg or dog/1.jpg; write it with"):
        read_examples(tmp_path / "c.csv", images_dir=tmp_path / "photos")

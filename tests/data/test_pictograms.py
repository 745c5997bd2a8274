"""pictograms: what is drawn is what is said, and the same seed draws the same bytes."""

import csv
import hashlib

import numpy as np
import pytest

from captioning.data import pictograms
from captioning.data.pictograms import CLASSES, COLOURS, GLYPHS, draw_example, glyph_mask, phrase, write_dataset
from captioning.data.splits import split_sizes
from captioning.scores.grounding import Grounder


def digest(folder):
    """Return file name -> hash for every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_korean_pictures_are_the_same_with_true_captions(tmp_path, few_classes):
    write_dataset(tmp_path / "en", per_class=3, num_workers=1, progress=False)
    write_dataset(tmp_path / "ko", per_class=3, num_workers=1, progress=False, language="ko")
    english, korean = (digest(tmp_path / name) for name in ("en", "ko"))
    assert set(english.values()) ^ set(korean.values()) == {english["captions.csv"], korean["captions.csv"]}
    with open(tmp_path / "ko/captions.csv", encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert captions
    assert {path.name for path in (tmp_path / "ko/train").iterdir()} == {"비행기", "앰퍼샌드", "닻"}
    with pytest.raises(ValueError, match="language: got 'xx', allowed are en, ko"):
        write_dataset(tmp_path / "xx", language="xx")


def test_korean_captions_name_their_class_with_the_right_particle_and_counter():
    names, describe = pictograms.LANGUAGES["ko"]
    assert names.keys() == GLYPHS.keys()
    assert len(set(names.values())) == len(names)
    grounder = Grounder([name.replace(" ", "_") for name in names.values()])
    for word, name in names.items():
        for number in (1, 2, 3):
            scene = pictograms.Scene(word, number, "small", "red", "yellow", "striped")
            for caption in describe(scene, range(5)):
                assert grounder.find(caption) == [name.replace(" ", "_")], caption
    told = [
        ("star", 1, "노란 배경에 빨간 별이 있다"),
        ("star", 2, "노란 배경에 빨간 별 두 개가 있다"),
        ("cat", 3, "노란 배경에 빨간 고양이 세 마리가 있다"),
        ("hammer", 1, "노란 배경에 빨간 망치 한 쌍이 있다"),
        ("envelope", 2, "노란 배경에 빨간 봉투 두 장이 있다"),
        ("umbrella", 1, "노란 배경에 빨간 우산이 있다"),
    ]
    for word, number, caption in told:
        scene = pictograms.Scene(word, number, "", "red", "yellow", "plain")
        assert describe(scene, [])[0] == caption
    scene = pictograms.Scene("star", 1, "large", "black", "white", "dotted")
    assert describe(scene, range(5))[1:] == [
        "검은 별이 하얀 배경 위에 있다",
        "그림에 물방울무늬가 있는 하얀 배경과 커다란 검은 별이 보인다",
        "물방울무늬가 있는 하얀 배경 앞에 커다란 검은 별이 있다",
        "하얀 바탕에 커다란 검은 별을 그린 그림",
        "검은 별은 물방울무늬가 있는 하얀 배경 위에 있다",
    ]


@pytest.fixture
def few_classes(monkeypatch):
    """Three classes are enough to write; spawned workers draw by name and need no list."""
    monkeypatch.setattr(pictograms, "CLASSES", CLASSES[:3])


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_workers(tmp_path, few_classes):
    write_dataset(tmp_path / "one", per_class=4, num_workers=1, progress=False)
    write_dataset(tmp_path / "two", per_class=4, num_workers=2, progress=False)
    write_dataset(tmp_path / "other", per_class=4, num_workers=1, seed=1, progress=False)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one") != digest(tmp_path / "other")


def test_a_picture_does_not_depend_on_how_many_are_drawn(tmp_path, few_classes):
    write_dataset(tmp_path / "small", per_class=3, num_workers=1, progress=False)
    write_dataset(tmp_path / "large", per_class=5, num_workers=1, progress=False)
    small, large = digest(tmp_path / "small"), digest(tmp_path / "large")
    assert all(large[name] == content for name, content in small.items() if name.endswith(".jpg"))


def test_layout_and_counts(tmp_path, few_classes):
    assert write_dataset(tmp_path / "data", per_class=20, num_workers=1, progress=False) == 60
    for split, count in (("train", 16), ("val", 2), ("test", 2)):
        for name in CLASSES[:3]:
            assert len(list((tmp_path / "data" / split / name).glob("*.jpg"))) == count
    with open(tmp_path / "data" / "captions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 60
    assert all((tmp_path / "data" / row["image"]).is_file() for row in rows)


def test_the_published_counts(tmp_path):
    assert split_sizes(300) == {"train": 240, "val": 30, "test": 30}
    assert [list(split_sizes(number).values()) for number in (3, 2, 1)] == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="per_class: got 2, allowed is 3"):
        write_dataset(tmp_path / "new", per_class=2, progress=False)


def test_a_folder_that_is_not_a_dataset_is_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not a dataset"):
        write_dataset(tmp_path / "letters", per_class=3, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_a_dataset_with_a_foreign_file_is_left_alone(tmp_path):
    """A folder with some captions.csv was taken for a dataset, and whatever else lay in it was deleted."""
    (tmp_path / "captions.csv").write_text("image,caption\n")
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"holds thesis\.txt"):
        write_dataset(tmp_path, per_class=3, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "thesis.txt"]


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "data").write_text("keep me")
    with pytest.raises(ValueError, match="is a file"):
        write_dataset(tmp_path / "data", per_class=3, progress=False)


def test_a_failed_run_keeps_the_older_dataset(tmp_path, few_classes, monkeypatch):
    write_dataset(tmp_path / "data", per_class=3, num_workers=2, progress=False)
    before = digest(tmp_path)
    monkeypatch.setattr(pictograms, "CLASSES", (*CLASSES[:2], "unheard_of"))
    with pytest.raises(ValueError, match="unheard_of|not in tuple"):
        write_dataset(tmp_path / "data", per_class=3, num_workers=2, seed=1, progress=False)
    assert digest(tmp_path) == before


def test_a_linked_folder_is_written_through(tmp_path, few_classes):
    """The older dataset behind a symbolic link could not be removed, after everything had been drawn."""
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "data").symlink_to("large_disk")
    for _ in range(2):
        assert write_dataset(tmp_path / "data", per_class=3, num_workers=1, progress=False) == 9
    assert (tmp_path / "data").is_symlink()
    assert (tmp_path / "large_disk" / "captions.csv").is_file()


@pytest.mark.parametrize("key", ["seed", "num_workers"])
def test_negative_settings_are_named(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key}: got -1, allowed is 0 or more"):
        write_dataset(tmp_path / "data", progress=False, **{key: -1})
    assert not list(tmp_path.iterdir())


def test_sixty_classes_each_with_a_glyph_of_its_own():
    assert len(CLASSES) == len(set(CLASSES)) == 60
    missing = np.asarray(
        pictograms.ImageFont.truetype(str(pictograms.font_path()), pictograms.MASK_SIZE).getmask("\U0010fffd")
    )
    shapes = {glyph_mask(word).tobytes() for word in GLYPHS}
    assert len(shapes) == 60
    assert missing.tobytes() not in shapes


def test_every_caption_names_its_class_and_no_other():
    grounder = Grounder(list(CLASSES))
    rng = np.random.default_rng(0)
    for word, name in zip(GLYPHS, CLASSES, strict=True):
        for _ in range(6):
            _, captions = draw_example(word, rng)
            assert len(set(captions)) == len(captions) >= 3
            for caption in captions:
                assert grounder.find(caption) == [name], caption


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("knight", 2, "red"), "two red knights"),
        (("scissors", 1, "small", "black"), "a pair of small black scissors"),
        (("scissors", 3, "black"), "three pairs of black scissors"),
        (("leaf", 2, "green"), "two green leaves"),
        (("dice", 1, "white"), "a white dice"),
        (("dice", 3, "white"), "three white dice"),
        (("umbrella", 1, "orange"), "an orange umbrella"),
        (("umbrella", 1, "large", "orange"), "a large orange umbrella"),
        (("swords", 2, "blue"), "two pairs of blue swords"),
    ],
)
def test_phrases_are_english(words, said):
    assert phrase(*words) == said


def test_every_plural_is_english():
    """Read by hand: all but these take an s. "two snowmans" were drawn once."""
    odd = {
        "cross": "crosses",
        "dice": "dice",
        "hammer": "pairs of hammers",
        "leaf": "leaves",
        "scissors": "pairs of scissors",
        "snowman": "snowmen",
        "swords": "pairs of swords",
    }
    assert {word: phrase(word, 2) for word in GLYPHS} == {word: f"two {odd.get(word, word + 's')}" for word in GLYPHS}


def test_articles_fit_the_next_word():
    rng = np.random.default_rng(1)
    captions = " | ".join(caption for word in GLYPHS for _ in range(20) for caption in draw_example(word, rng)[1])
    assert " a orange" not in captions
    assert not any(f" an {colour}" in captions for colour in COLOURS if colour != "orange")


def nearest_colour(pixel):
    """Return the name of the colour nearest to an RGB value."""
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))


def test_the_picture_has_the_colours_and_the_number_that_its_caption_tells():
    """The commonest two colours of the picture are counted from its pixels; hearts are solid, so they can be."""
    label = pytest.importorskip("scipy.ndimage").label
    rng = np.random.default_rng(2)
    for _ in range(40):
        picture, captions = draw_example("heart", rng)
        words = captions[0].split()
        figure, ground = words[1], words[-2]
        pixels = np.asarray(picture, dtype=int)
        base = {name: np.abs(pixels - np.array(COLOURS[name])).sum(axis=2) for name in (figure, ground)}
        inside = base[figure] < base[ground] - 60
        assert nearest_colour(np.median(pixels[inside], axis=0)) == figure
        assert nearest_colour(np.median(pixels[~inside], axis=0)) == ground
        parts, count = label(inside)
        areas = np.bincount(parts.ravel())[1:]
        assert (areas > 400).sum() == {"a": 1, "an": 1, "two": 2, "three": 3}[words[0]], (captions[0], count)
        edge = np.concatenate([inside[:2].ravel(), inside[-2:].ravel(), inside[:, :2].ravel(), inside[:, -2:].ravel()])
        assert not edge.any()  # wholly inside

"""Layouts that people bring, each read by both doors: `--data_dir`, and `prepare_data.py --source`."""

import json
import random
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_data
from captioning.data.annotations import load_dataset, load_examples
from captioning.data.examples import sorted_lines
from captioning.data.splits import hold_out, share_out, shuffled

NUMBERS = [f"{number}" for number in range(10)]


def draw(path):
    """A picture that is nearly equal to none of another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(ord(letter) * 31**place for place, letter in enumerate(path.as_posix()[-40:])) % 2**32
    blots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(blots).resize((40, 40), Image.Resampling.BICUBIC).save(path, format="JPEG")


def write(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)


def dump(path, content):
    write(path, json.dumps(content))


def flat(folder, *names):
    for name in names or [f"{number}.jpg" for number in NUMBERS]:
        draw(folder / name)


def rows(names, form="{}.jpg,a thing {}"):
    return [form.format(name, name) for name in names]


# ---- one function for each layout, each (folder) -> what is given as data_dir, if it is not the folder ----


def kaggle_flickr8k(folder):
    flat(folder / "Images")
    write(folder / "captions.txt", "image,caption", *rows(NUMBERS), *rows(NUMBERS, "{}.jpg,one more {}"))


def kaggle_flickr30k(folder):
    """Vertical bars with blanks, and pictures in a folder of their own name twice."""
    flat(folder / "flickr30k_images/flickr30k_images")
    write(folder / "results.csv", "image_name| comment_number| comment", *rows(NUMBERS, "{}.jpg| 0| a dog , {} ."))


def numbered_csv(folder):
    flat(folder)
    write(folder / "captions.csv", "id,image,caption", *rows(NUMBERS, "{0},{0}.jpg,a thing {0}"))


def text_beside_each(folder):
    flat(folder)
    for number in NUMBERS:
        write(folder / f"{number}.txt", f"a thing {number}", "", "another caption")


def hugging_face_csv(folder):
    flat(folder / "train")
    write(folder / "train/metadata.csv", "file_name,text", *rows(NUMBERS))


def hugging_face_lines(folder):
    flat(folder)
    lines = [json.dumps({"file_name": f"{number}.jpg", "text": f"a thing {number}"}) for number in NUMBERS]
    write(folder / "metadata.jsonl", *lines)


def list_of_records(folder):
    flat(folder / "images")
    records = [{"image": f"images/{number}.jpg", "caption": [f"a {number}", "a thing"]} for number in NUMBERS]
    dump(folder / "captions.json", records)


def mapping(folder):
    flat(folder / "images")
    dump(folder / "captions.json", {f"{number}.jpg": [f"a thing {number}"] for number in NUMBERS})


def karpathy_without_splits(folder):
    flat(folder / "imgs")
    images = [{"filename": f"{number}.jpg", "sentences": [{"raw": "a thing"}]} for number in NUMBERS]
    dump(folder / "dataset.json", {"images": images})


def coco_without_splits(folder):
    flat(folder / "pictures")
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in NUMBERS]
    notes = [{"image_id": int(number), "caption": "a thing"} for number in NUMBERS]
    dump(folder / "annotations/captions_all.json", {"images": images, "annotations": notes})


def wide_table(folder):
    flat(folder)
    write(folder / "captions.csv", "image,caption_1,caption_2", *rows(NUMBERS, "{0}.jpg,a thing {0},another"))


def excel_unicode_text(folder):
    flat(folder)
    lines = ["image\tcaption", *rows(NUMBERS, "{0}.jpg\ta thing, {0}")]
    write(folder / "captions.tsv", *lines, encoding="utf-16")


def semicolons(folder):
    flat(folder)
    write(folder / "captions.csv", "image;caption", *rows(NUMBERS, "{0}.jpg;a thing, {0}"))


def absolute_paths(folder):
    flat(folder / "pictures")
    write(folder / "captions.csv", "image,caption", *rows(NUMBERS, "/kaggle/input/x/pictures/{0}.jpg,a thing {0}"))


def windows_paths(folder):
    flat(folder / "pictures")
    write(folder / "captions.csv", "image,caption", *rows(NUMBERS, "C:\\data\\pictures\\{0}.jpg,a thing {0}"))


def names_without_endings(folder):
    flat(folder / "pictures")
    write(folder / "captions.csv", "image,caption", *rows(NUMBERS, "{0},a thing {0}"))


WITHOUT_SPLITS = [
    kaggle_flickr8k,
    kaggle_flickr30k,
    numbered_csv,
    text_beside_each,
    hugging_face_lines,
    list_of_records,
    mapping,
    karpathy_without_splits,
    coco_without_splits,
    wide_table,
    excel_unicode_text,
    semicolons,
    absolute_paths,
    windows_paths,
    names_without_endings,
]


@pytest.mark.parametrize("layout", WITHOUT_SPLITS)
def test_pictures_without_splits_are_shared_out_and_it_is_said(tmp_path, layout, capsys):
    layout(tmp_path / "data")
    dataset = load_dataset(tmp_path / "data", "train", "val", "test")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 8, "val": 1, "test": 1}
    assert dataset.classes == []
    assert sorted(example.image.name for example in dataset.examples) == [f"{number}.jpg" for number in NUMBERS]
    note = f"note: {tmp_path / 'data'} has no splits; its images are shared out at random, the same each time: 8"
    assert capsys.readouterr().out.startswith(note)
    assert load_examples(tmp_path / "data", "val") == dataset.splits["val"]


def siblings(folder):
    """Both archives of Flickr8k, unpacked side by side."""
    flat(folder / "Flickr8k_Dataset/Flicker8k_Dataset")
    text = folder / "Flickr8k_text"
    write(text / "Flickr8k.token.txt", *rows(NUMBERS, "{0}.jpg#0\ta thing , {0} ."))
    write(text / "Flickr8k.lemma.token.txt", *rows(NUMBERS, "{0}.jpg#0\tthing"))
    lists(text)


def lists(folder, form="Flickr_8k.{}Images.txt", ending=".jpg"):
    for split, numbers in (("train", NUMBERS[:7]), ("dev", NUMBERS[7:8]), ("test", NUMBERS[8:])):
        write(folder / form.format(split), *(number + ending for number in numbers))


def csv_with_lists(folder):
    flat(folder / "Flicker8k_Dataset")
    write(folder / "captions.csv", "id,image,caption", *rows(NUMBERS, "{0},{0}.jpg,a thing {0}"))
    lists(folder)


def lists_of_stems(folder):
    kaggle_flickr30k(folder)
    lists(folder, "{}.txt", ending="")


def split_column(folder):
    flat(folder)
    splits = ["train"] * 7 + ["validation"] + ["test"] * 2
    table = [f"{number}.jpg,a thing,{split}" for number, split in zip(NUMBERS, splits, strict=True)]
    write(folder / "captions.csv", "filename,text,split", *table)


def presplit(folder, names=("train", "val", "test")):
    places = dict(zip(names, (NUMBERS[:7], NUMBERS[7:8], NUMBERS[8:]), strict=True))
    paths = [f"{split}/panda/{number}.jpg" for split, numbers in places.items() for number in numbers]
    flat(folder, *paths)
    return write(folder / "captions.csv", "image,caption", *(f"{path},a panda" for path in paths))


def presplit_by_other_names(folder):
    presplit(folder, ("Training", "valid", "testing"))


def yolo_folders(folder):
    """images/train, images/val: the split below a folder that says nothing."""
    presplit(folder / "images", ("train", "validation", "test"))
    (folder / "images/captions.csv").rename(folder / "captions.csv")


def file_for_each_split(folder):
    flat(folder / "images")
    for split, numbers in (("train", NUMBERS[:7]), ("valid", NUMBERS[7:8]), ("test", NUMBERS[8:])):
        write(folder / f"{split}.csv", "image,caption", *rows(numbers))


def blip_lists(folder):
    """LAVIS's coco_karpathy_train.json names train images in val2014, too: the file says the split."""
    flat(folder, *(f"val2014/{number}.jpg" for number in NUMBERS))
    for split, numbers in (("train", NUMBERS[:7]), ("val", NUMBERS[7:8]), ("test", NUMBERS[8:])):
        records = [{"image": f"val2014/{number}.jpg", "caption": f"a {number}"} for number in numbers]
        dump(folder / f"coco_karpathy_{split}.json", records)


def hugging_face_splits(folder):
    for split, numbers in (("train", NUMBERS[:7]), ("validation", NUMBERS[7:8]), ("test", NUMBERS[8:])):
        flat(folder / "data" / split, *(f"{number}.jpg" for number in numbers))
        write(folder / "data" / split / "metadata.csv", "file_name,text", *rows(numbers))


WITH_SPLITS = [
    siblings,
    csv_with_lists,
    lists_of_stems,
    split_column,
    presplit,
    presplit_by_other_names,
    yolo_folders,
    file_for_each_split,
    blip_lists,
    hugging_face_splits,
]


@pytest.mark.parametrize("layout", WITH_SPLITS)
def test_splits_that_are_there_are_kept(tmp_path, layout, capsys):
    layout(tmp_path / "data")
    dataset = load_dataset(tmp_path / "data", "train", "val", "test")
    numbers = {split: [e.image.stem for e in examples] for split, examples in dataset.splits.items()}
    assert numbers == {"train": NUMBERS[:7], "val": NUMBERS[7:8], "test": NUMBERS[8:]}
    assert dataset.classes == (["panda"] if layout in (presplit, presplit_by_other_names, yolo_folders) else [])
    assert "splits" not in capsys.readouterr().out


def prepare(source, output, monkeypatch, **settings):
    monkeypatch.setattr(prepare_data, "PREVIEW_IMAGES", 2)
    given = {"source": str(source), "output": str(output), "image_size": 32, "num_workers": 1, "near_copies": -1}
    prepare_data.main({"prepare": prepare_data.CONFIG | given | settings})
    return load_examples(output)


@pytest.mark.parametrize("layout", [*WITHOUT_SPLITS, *WITH_SPLITS])
def test_prepare_data_takes_the_layout_as_a_source(tmp_path, layout, monkeypatch):
    layout(tmp_path / "data")
    expected = {example.image.stem: example for example in load_examples(tmp_path / "data")}
    found = {example.image.stem: example for example in prepare(tmp_path / "data", tmp_path / "out", monkeypatch)}
    assert {name: (e.captions, e.label) for name, e in found.items()} == {
        name: (e.captions, e.label) for name, e in expected.items()
    }
    assert Counter(e.split for e in found.values()) == Counter(e.split for e in expected.values())
    if layout in WITH_SPLITS:
        assert {name: e.split for name, e in found.items()} == {name: e.split for name, e in expected.items()}


# ---- links ---------------------------------------------------------------------------------------


def with_classes_of_coco(folder):
    coco_without_splits(folder)
    dump(folder / "annotations/instances_all.json", {"images": [], "annotations": [], "categories": []})


def with_aliases(folder):
    presplit(folder)
    write(folder / "aliases.csv", "class,alias", "panda,bear")


def move_out(path, outside):
    """Put a link in the place of a file or folder, which goes elsewhere."""
    outside.parent.mkdir(parents=True, exist_ok=True)
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("layout", [*WITHOUT_SPLITS, *WITH_SPLITS, with_classes_of_coco, with_aliases])
def test_links_that_lead_out_of_a_dataset_are_refused_until_allowed(tmp_path, layout):
    """Followed without a word before: a dataset of a stranger could show the report's reader any picture or text."""
    layout(tmp_path / "whole")
    (tmp_path / "data").symlink_to(tmp_path / "whole")  # the dataset itself may be a link
    expected = load_examples(tmp_path / "data")
    files = [path.relative_to(tmp_path / "whole") for path in sorted((tmp_path / "whole").rglob("*.*"))]
    files = [path for path in files if (tmp_path / "whole" / path).is_file() and "lemma" not in path.name]
    pictures = [path for path in files if path.suffix == ".jpg"]
    for number, name in enumerate([pictures[0], pictures[-1], *(set(files) - set(pictures))]):
        move_out(tmp_path / "whole" / name, tmp_path / f"outside/{number}{name.suffix}")
        with pytest.raises(ValueError, match=rf"{name.name}: a link leads out of .*data, to .*outside/{number}"):
            load_examples(tmp_path / "data")
        assert load_examples(tmp_path / "data", allow_links=True) == expected
        (tmp_path / "whole" / name).unlink()
        (tmp_path / f"outside/{number}{name.suffix}").rename(tmp_path / "whole" / name)
    folder = (tmp_path / "whole" / pictures[0]).parent
    if folder != tmp_path / "whole":
        move_out(folder, tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=r": a link leads out of .*data, to .*elsewhere"):
            load_examples(tmp_path / "data")
        folder.unlink()
        (tmp_path / "elsewhere").rename(folder)
    picture = tmp_path / "whole" / pictures[0]
    move_out(picture, picture.with_name(f".{picture.name}"))  # not out at all
    assert load_examples(tmp_path / "data") == expected


def test_the_user_may_name_a_link_and_a_link_out_of_images_dir_is_refused(tmp_path):
    flat(tmp_path / "pictures")
    write(tmp_path / "elsewhere/captions.csv", "image,caption", *rows(NUMBERS))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/captions.csv").symlink_to(tmp_path / "elsewhere/captions.csv")
    named = tmp_path / "data/captions.csv"
    assert len(load_examples(named, images_dir=tmp_path / "pictures")) == 10
    move_out(tmp_path / "pictures/3.jpg", tmp_path / "outside/3.jpg")
    with pytest.raises(ValueError, match=r"3.jpg: a link leads out of .*pictures, to .*outside/3.jpg; allow_links"):
        load_examples(named, images_dir=tmp_path / "pictures")
    assert len(load_examples(named, images_dir=tmp_path / "pictures", allow_links=True)) == 10


def test_photographs_that_links_take_from_elsewhere_are_refused_until_allowed(tmp_path, monkeypatch):
    flat(tmp_path / "photos/cat")
    move_out(tmp_path / "photos/cat/3.jpg", tmp_path / "outside/3.jpg")
    with pytest.raises(ValueError, match=r"3.jpg: a link leads out of .*photos, to .*outside/3.jpg"):
        prepare(tmp_path / "photos", tmp_path / "out", monkeypatch, caption_template="a {class}")
    assert not (tmp_path / "out").exists()
    settings = {"caption_template": "a {class}", "allow_links": True}
    assert len(prepare(tmp_path / "photos", tmp_path / "out", monkeypatch, **settings)) == 10


# ---- pictures elsewhere, or nowhere --------------------------------------------------------------


@pytest.mark.parametrize("folder", ["imgs", "UCM_images", "deep/down/there"])
def test_karpathys_pictures_are_found_wherever_they_lie_below_the_folder(tmp_path, folder):
    flat(tmp_path / folder)
    images = [{"filename": f"{n}.jpg", "split": "train", "sentences": [{"raw": "a"}]} for n in NUMBERS]
    dump(tmp_path / "dataset.json", {"images": images})
    assert {example.image.parent for example in load_examples(tmp_path)} == {tmp_path / folder}


def test_pictures_in_another_folder_need_a_setting_that_the_message_names(tmp_path):
    siblings(tmp_path)
    with pytest.raises(ValueError, match=r"line 1: names 0.jpg, which is not in .*_text or below .* images_dir names"):
        load_examples(tmp_path / "Flickr8k_text")
    found = load_examples(tmp_path / "Flickr8k_text", images_dir=tmp_path / "Flickr8k_Dataset")
    assert len(found) == 10
    with pytest.raises(FileNotFoundError, match="absent: no such folder; images_dir is that of the pictures"):
        load_examples(tmp_path / "Flickr8k_text", images_dir="absent")


def test_missing_pictures_are_counted_and_can_be_done_without(tmp_path, capsys):
    kaggle_flickr8k(tmp_path)
    (tmp_path / "Images/3.jpg").unlink()
    (tmp_path / "Images/5.jpg").unlink()
    message = r"line 5: names 3.jpg, .* \(2 of 10 pictures; at most 0 .*; images_dir .*; allow_missing goes on without"
    with pytest.raises(ValueError, match=message) as caught:
        load_examples(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(load_examples(tmp_path, allow_missing=True)) == 8
    assert "left out (2 of 10 pictures)" in capsys.readouterr().out
    for number in NUMBERS:
        (tmp_path / f"Images/{number}.jpg").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"\(10 of 10 pictures; images_dir names the folder of the pictures\)"):
        load_examples(tmp_path, allow_missing=True)  # nothing is left to go on with


def test_a_few_missing_pictures_are_no_error(tmp_path, capsys):
    """RSICD and others name pictures that no archive has."""
    flat(tmp_path, *(f"{number}.jpg" for number in range(39)))
    write(tmp_path / "captions.csv", "image,caption", *rows(range(40)))
    assert len(load_examples(tmp_path)) == 39
    assert "line 41: names 39.jpg, which is not in" in capsys.readouterr().out


def test_a_picture_of_another_split_is_not_taken_for_one_that_is_missing(tmp_path):
    flat(tmp_path / "val2017", "7.jpg")
    notes = {"images": [{"id": 1, "file_name": "7.jpg"}], "annotations": [{"image_id": 1, "caption": "a car"}]}
    dump(tmp_path / "annotations/captions_train2017.json", notes)
    with pytest.raises(ValueError, match="names 7.jpg, which is not in"):
        load_examples(tmp_path)


def test_kinds_of_pictures_that_are_not_read_are_counted_by_ending(tmp_path, capsys, monkeypatch):
    flat(tmp_path / "source/thing", *(f"{number}.jfif" for number in NUMBERS))
    for name in ("a.heic", "b.HEIC", "c.avif"):
        (tmp_path / "source/thing" / name).write_bytes(b"?")
    table = [*(f"thing/{number}.jfif,a thing" for number in NUMBERS), "thing/a.heic,a thing", "thing/c.avif,a thing"]
    write(tmp_path / "c.csv", "image,caption", *table)
    examples = prepare(tmp_path / "source", tmp_path / "out", monkeypatch, captions=str(tmp_path / "c.csv"))
    said = capsys.readouterr().out
    assert len(examples) == 10
    assert "line 12: names thing/a.heic, a kind of picture that is not read; left out (2 of 12 pictures)" in said
    assert "not read         2 .heic, 1 .avif" in said
    for number in NUMBERS:
        (tmp_path / f"source/thing/{number}.jfif").unlink()
    with pytest.raises(ValueError, match=r"no images in it .*, but 2 .heic, 1 .avif, which are not read; convert them"):
        prepare(tmp_path / "source", tmp_path / "out", monkeypatch, captions=str(tmp_path / "c.csv"))


# ---- which file, which splits --------------------------------------------------------------------


def test_two_layouts_in_a_folder_are_both_named(tmp_path):
    kaggle_flickr8k(tmp_path)
    dump(tmp_path / "dataset.json", {"images": []})
    with pytest.raises(ValueError, match=r"holds captions.txt, dataset.json; give the path of one of them"):
        load_examples(tmp_path)
    assert len(load_examples(tmp_path / "captions.txt")) == 10


def test_a_table_of_an_unknown_name_is_named(tmp_path):
    flat(tmp_path)
    write(tmp_path / "labels.csv", "image,caption", *rows(NUMBERS))
    with pytest.raises(ValueError, match=r"no known caption file in it; give the path of labels.csv if it has"):
        load_examples(tmp_path)
    assert len(load_examples(tmp_path / "labels.csv")) == 10


def test_coco_ids_may_be_numbers_here_and_text_there(tmp_path):
    coco_without_splits(tmp_path)
    assert {tuple(example.captions) for example in load_examples(tmp_path)} == {("a thing",)}


def test_without_val_a_tenth_of_train_is_taken_and_it_is_said(tmp_path, capsys):
    hugging_face_csv(tmp_path)
    dataset = load_dataset(tmp_path, "train", "val")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 9, "val": 1}
    assert "has no val split; taken for it at random, the same each time: 1 of the 10" in capsys.readouterr().out


def test_shares_depend_on_the_names_alone():
    names = [f"{number}.jpg" for number in range(40)]
    shares = share_out(names)
    assert share_out(names[::-1])[::-1].tolist() == shares.tolist()
    assert np.bincount(shares).tolist() == [32, 4, 4]
    held_out = {names[position] for position in hold_out(names)}
    assert len(held_out) == 4
    assert held_out == {names[::-1][position] for position in hold_out(names[::-1])}
    assert share_out(["a"]).tolist() == [0]
    assert np.bincount(share_out(["a", "b"])).tolist() == [1, 1]


def test_shares_are_those_of_the_first_versions():
    """Sorted as str, shuffled by random.Random(0), also beyond what is sorted in memory, and whatever the letters."""
    names = [
        f"{letter}/{number}.jpg" for number in range(20) for letter in ("a", "é", "가", "\udc80", "\U0001f600", "a.")
    ]
    expected = sorted(names)
    random.Random(0).shuffle(expected)
    assert [names[position] for position in shuffled(names)] == expected
    assert [names[i] for i in np.flatnonzero(share_out(names))] == [n for n in names if n in set(expected[96:])]
    encoded = [name.encode("utf-8", "surrogatepass") for name in sorted(names)]
    for in_memory in (1, 50, len(names), len(names) + 1):
        assert list(sorted_lines(iter(names), in_memory)) == encoded


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["animals/cat/1.jpg", "animals/dog/1.jpg", "food/cup/1.jpg"], ["cat", "dog", "cup"]),
        (["cat/indoor/1.jpg", "dog/indoor/1.jpg", "dog/outdoor/1.jpg"], ["cat", "dog", "dog"]),
        (["cat/1.jpg", "dog/puppy/1.jpg"], ["cat", "dog"]),
        (["images/001.lotus/1.jpg", "images/002.rose/1.jpg"], ["001.lotus", "002.rose"]),
        (["train/1.jpg", "car/1.jpg", "bus/1.jpg"], ["train", "car", "bus"]),  # vehicles
        (["thing/1.jpg", "thing/2.jpg"], ["thing", "thing"]),
        (["Images/1.jpg", "Images/2.jpg"], ["", ""]),
        (["1.jpg", "2.jpg"], ["", ""]),
        ([unicodedata.normalize("NFD", "판다/1.jpg"), "고양이/1.jpg"], ["판다", "고양이"]),
    ],
)
def test_classes_are_the_folders_that_tell_pictures_apart(tmp_path, paths, labels):
    flat(tmp_path, *paths)
    write(tmp_path / "captions.csv", "image,caption", *(f"{path},a thing" for path in paths))
    assert [example.label for example in load_examples(tmp_path)] == labels


def test_what_is_left_out_is_told(tmp_path, monkeypatch, capsys):
    """Photographs in no folder of a class, files without an ending, and those beyond the numbers asked for."""
    flat(tmp_path / "s", *(f"cat/{n}.jpg" for n in range(8)), *(f"dog/{n}.jpg" for n in range(10, 18)))
    flat(tmp_path / "s", "loose.jpg", "loose2.jpg")
    (tmp_path / "s/cat/0.jpg").rename(tmp_path / "s/cat/IMG_17")
    flat(tmp_path / "s", "cat/0.jpg")
    examples = prepare(tmp_path / "s", tmp_path / "out", monkeypatch, caption_template="a {class}", per_class=2)
    said = capsys.readouterr().out
    assert len(examples) == 4
    assert "not read         1 without an ending" in said
    assert "without class    2 images in no folder of a class, skipped" in said
    assert "not used         12 images: more than" in said
    assert "no image for test; --per_class 2 leaves none" in said, "each class has 8 images"

    write(tmp_path / "c.csv", "image,caption", "cat/IMG_17,a cat", *(f"cat/{n}.jpg,a cat" for n in (1, 2, 3)))
    examples = prepare(tmp_path / "s", tmp_path / "named", monkeypatch, captions=str(tmp_path / "c.csv"))
    assert len(examples) == 4
    assert "not read" not in capsys.readouterr().out, "a table names the file, so it is read"


@pytest.mark.parametrize("setting", [{"captions": "c.csv"}, {"captioner": "photos"}, {"caption_template": "a {class}"}])
def test_a_folder_of_pictures_beside_a_source_of_pictures_is_refused(tmp_path, monkeypatch, setting):
    flat(tmp_path / "s/cat", "0.jpg")
    write(tmp_path / "c.csv", "image,caption", "cat/0.jpg,a cat")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^--images_dir: got elsewhere, but .* those of --source; leave it out$"):
        prepare(tmp_path / "s", tmp_path / "out", monkeypatch, images_dir="elsewhere", **setting)


def test_folders_of_uneven_depth_say_which_are_the_classes(tmp_path, capsys):
    flat(tmp_path, "cat/1.jpg", "animals/dog/1.jpg")
    write(tmp_path / "captions.csv", "image,caption", "cat/1.jpg,x", "animals/dog/1.jpg,y")
    assert {example.label for example in load_examples(tmp_path)} == {"cat", "animals"}
    assert "the classes are the outermost folders, as animals of animals/dog" in capsys.readouterr().out


def test_too_many_omissions_say_how_many_are_allowed(tmp_path):
    flat(tmp_path)
    write(tmp_path / "captions.csv", "image,caption", *rows(NUMBERS), "1.jpg,", "2.jpg,")
    with pytest.raises(ValueError, match=r"empty caption '' \(2 of 12 captions; at most 1 may be left out\)$"):
        load_examples(tmp_path)


def test_two_photographs_make_a_dataset_and_its_gap_is_said(tmp_path, monkeypatch, capsys):
    """The message once advised --per_class 0, which was the setting."""
    flat(tmp_path / "source/thing", "0.jpg", "1.jpg")
    examples = prepare(tmp_path / "source", tmp_path / "out", monkeypatch, caption_template="a {class}")
    assert Counter(example.split for example in examples) == {"train": 1, "val": 1}
    assert "note: there is no image for test" in capsys.readouterr().out


def test_photographs_in_one_flat_folder_have_no_classes(tmp_path, monkeypatch):
    flat(tmp_path / "source")
    write(tmp_path / "c.csv", "image,caption", *rows(NUMBERS))
    examples = prepare(tmp_path / "source", tmp_path / "out", monkeypatch, captions=str(tmp_path / "c.csv"))
    assert {(example.label, example.image.parent.parent.name) for example in examples} == {("", "out")}
    with pytest.raises(ValueError, match="has no folders of classes, which --caption_template and --classes need"):
        prepare(tmp_path / "source", tmp_path / "out", monkeypatch, caption_template="a {class}")


def test_sizes_do_not_apply_to_splits_that_are_there(tmp_path, monkeypatch):
    presplit(tmp_path / "source")
    with pytest.raises(ValueError, match="its images have splits; leave out --per_class, --train, --val and --test"):
        prepare(tmp_path / "source", tmp_path / "out", monkeypatch, train=3)


def test_an_annotated_folder_of_links_that_lead_in_circles_ends(tmp_path):
    flat(tmp_path / "deep")
    Path(tmp_path / "deep/again").symlink_to(tmp_path)
    write(tmp_path / "captions.csv", "image,caption", *rows(NUMBERS))
    assert len(load_examples(tmp_path)) == 10

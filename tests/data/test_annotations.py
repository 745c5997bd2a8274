"""The readers, one small dataset of each format, and what they say about bad input."""

import csv
import json
import math
import os
from collections import Counter
from pathlib import Path

import pytest

from captioning.data.annotations import (
    dataset_name,
    fingerprint,
    load_aliases,
    load_examples,
    read_examples,
)
from captioning.data.splits import split_of_file
from captioning.data.tars import write_shard


def touch(folder, *names):
    """Make empty files; the readers look at names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_project(folder):
    """Two classes, three images; the captions of one image do not stand together."""
    rows = [
        ("train/sun/1.jpg", "a yellow sun"),
        ("val/sun/1.jpg", "the sun, alone"),
        ("train/sun/1.jpg", " one sun "),
        ("test/ice_cream/a b.png", "빨간 아이스크림"),
    ]
    touch(folder, *dict(rows))
    write_rows(folder / "captions.csv", [("image", "caption"), *rows])
    return folder


def karpathy_image(filename, split, *captions, **more):
    return {"filename": filename, "split": split, "sentences": [{"raw": text} for text in captions], **more}


def write_karpathy(folder, images, name="dataset.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"images": images, "dataset": "x"}))
    return folder


def write_coco(folder):
    """Three images in two splits, with objects."""
    touch(folder, "train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "annotations/captions_train2017.json")
    notes = folder / "annotations"

    def dump(name, **content):
        (notes / name).write_text(json.dumps(content))

    dump(
        "captions_train2017.json",
        images=[{"id": 10, "file_name": "1.jpg"}, {"id": 11, "file_name": "2.jpg"}],
        annotations=[
            {"image_id": 11, "caption": "a car\n"},
            {"image_id": 10, "caption": "a cat on a car"},
            {"image_id": 11, "caption": "one car"},
        ],
    )
    dump(
        "captions_val2017.json",
        images=[{"id": 12, "file_name": "3.jpg"}],
        annotations=[{"image_id": 12, "caption": "nothing here"}],
    )
    dump(
        "instances_train2017.json",
        categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "traffic light"}],
        annotations=[
            {"image_id": 10, "category_id": 1, "area": 50.0, "segmentation": [[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]]},
            {"image_id": 10, "category_id": 2, "area": 30.0},
            {"image_id": 10, "category_id": 2, "area": 30},
            {"image_id": 11, "category_id": 1, "area": 1.5},
        ],
    )
    dump("instances_val2017.json", categories=[{"id": 1, "name": "cat"}], annotations=[])
    return folder


def write_flickr8k(folder):
    """Four images, of which one is in no split."""
    touch(folder, "Images/a.jpg", "Images/b.jpg", "Images/c.jpg", "Images/unused.jpg")
    rows = [("b.jpg", "a dog , running"), ("a.jpg", "a boy"), ("c.jpg", 'a "sign"'), ("unused.jpg", "x")]
    write_rows(folder / "captions.txt", [("image", "caption"), *rows])
    for name, image in (("train", "a.jpg"), ("dev", "b.jpg"), ("test", "c.jpg")):
        (folder / f"Flickr_8k.{name}Images.txt").write_text(image + "\n")
    return folder


def test_project_layout(tmp_path):
    """Captions of one image are gathered over the whole file, in the order of the image's first row."""
    examples = load_examples(write_project(tmp_path / "things"))
    assert [(e.image.relative_to(tmp_path / "things").as_posix(), e.label, e.split) for e in examples] == [
        ("train/sun/1.jpg", "sun", "train"),
        ("val/sun/1.jpg", "sun", "val"),
        ("test/ice_cream/a b.png", "ice_cream", "test"),
    ]
    assert [e.captions for e in examples] == [
        ["a yellow sun", "one sun"],
        ["the sun, alone"],
        ["빨간 아이스크림"],
    ]
    assert load_examples(tmp_path / "things", "val") == examples[1:2]
    assert load_examples(tmp_path / "things/captions.csv") == examples


def test_project_layout_as_spreadsheets_write_it(tmp_path):
    """A byte-order mark, Windows path separators, a blank last row and a further column are no errors."""
    touch(tmp_path, "train/sun/1.jpg", "train/2.jpg")
    text = "\ufeffImage,source,Caption\r\ntrain\\sun\\1.jpg,me,a sun\r\ntrain/2.jpg,me,no class\r\n\r\n"
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8")
    assert [(e.captions, e.label) for e in load_examples(tmp_path)] == [
        (["a sun"], "sun"),
        (["no class"], ""),
    ]


def test_karpathy_with_class_folders(tmp_path):
    """Every class of UCM-Captions has a 1.jpg, so the folder must not be dropped when looking for a file."""
    images = [
        karpathy_image("1.jpg", "train", "a beach .", filepath="beach"),
        karpathy_image("1.jpg", "test", "a river .", "water", filepath="river"),
    ]
    touch(tmp_path, "images/beach/1.jpg", "images/river/1.jpg")
    examples = load_examples(write_karpathy(tmp_path, images))
    assert [(e.image.parent.name, e.label, e.split, len(e.captions)) for e in examples] == [
        ("beach", "beach", "train", 1),
        ("river", "river", "test", 2),
    ]


def test_karpathy_coco_folders_are_no_classes(tmp_path):
    """`restval` is train; train2014 and val2014 are where the file lies, not what it shows."""
    images = [
        karpathy_image("a.jpg", "restval", "one", filepath="val2014"),
        karpathy_image("b.jpg", "train", "two", filepath="train2014"),
        karpathy_image("c.jpg", "val", "three", filepath="val2014"),
    ]
    touch(tmp_path, "val2014/a.jpg", "train2014/b.jpg", "val2014/c.jpg")
    examples = load_examples(write_karpathy(tmp_path, images, "dataset_coco.json"))
    assert [(e.label, e.split) for e in examples] == [("", "train"), ("", "train"), ("", "val")]


@pytest.mark.parametrize("more", [{}, {"filepath": "all"}])
def test_karpathy_without_classes(tmp_path, more):
    """Flickr8k and RSICD have no filepath; one folder for all is no class, nor need it be on the disk."""
    images = [karpathy_image(f"{i}.jpg", "train", "words", **more) for i in range(3)]
    touch(tmp_path, *(f"images/{i}.jpg" for i in range(3)))
    examples = load_examples(write_karpathy(tmp_path, images))
    assert [e.label for e in examples] == ["", "", ""]
    assert [e.image.name for e in examples] == ["0.jpg", "1.jpg", "2.jpg"]


def test_coco(tmp_path):
    """The label is the category with the largest total area: two lights of 30 beat a cat of 50."""
    examples = load_examples(write_coco(tmp_path / "coco"))
    assert [(e.image.parent.name, e.image.name, e.label, e.split) for e in examples] == [
        ("train2017", "1.jpg", "traffic light", "train"),
        ("train2017", "2.jpg", "cat", "train"),
        ("val2017", "3.jpg", "", "val"),
    ]
    assert examples[1].captions == ["a car", "one car"]
    assert load_examples(tmp_path / "coco/annotations") == examples
    assert load_examples(tmp_path / "coco/annotations/captions_val2017.json") == examples[2:]
    (tmp_path / "coco/annotations/instances_train2017.json").unlink()
    assert {e.label for e in load_examples(tmp_path / "coco")} == {""}


def test_coco_split_reads_its_own_file_only(tmp_path):
    """Who has downloaded COCO's val images alone can work with val."""
    folder = write_coco(tmp_path)
    (folder / "train2017/1.jpg").unlink()
    assert len(load_examples(folder, "val")) == 1
    with pytest.raises(ValueError, match=r"captions_train2017.json: images\[0\]: names 1.jpg"):
        load_examples(folder, "train")
    with pytest.raises(ValueError, match=r"captions_train2017.json: images\[0\]: names"):
        load_examples(folder)


def test_flickr8k(tmp_path):
    """dev is val; images outside the split files are left out."""
    examples = load_examples(write_flickr8k(tmp_path))
    assert [(e.image.name, e.label, e.split, e.captions) for e in examples] == [
        ("b.jpg", "", "val", ["a dog , running"]),
        ("a.jpg", "", "train", ["a boy"]),
        ("c.jpg", "", "test", ['a "sign"']),
    ]


def test_flickr8k_tokens(tmp_path):
    """The original names an image that does not exist (2258277193_586949ec62.jpg.1) and is in no split."""
    folder = write_flickr8k(tmp_path)
    (folder / "captions.txt").unlink()
    (folder / "Images").rename(folder / "Flicker8k_Dataset")
    (folder / "Flickr8k.token.txt").write_text(
        "a.jpg#0\ta boy .\na.jpg#1\ta # child .\nb.jpg#0\ta dog .\ngone.jpg.1#0\tnobody\nc.jpg#0\ta sign .\n"
    )
    (folder / "Flickr8k.lemma.token.txt").write_text("a.jpg#0\tboy\n")
    assert [e.captions for e in load_examples(folder)] == [
        ["a boy .", "a # child ."],
        ["a dog ."],
        ["a sign ."],
    ]


def test_dataset_name(tmp_path, monkeypatch):
    write_coco(tmp_path / "coco")
    assert dataset_name(tmp_path / "coco") == "coco"
    assert dataset_name(tmp_path / "coco/annotations/captions_val2017.json") == "coco"
    assert dataset_name(str(tmp_path / "absent/birds/")) == "birds"
    monkeypatch.chdir(tmp_path / "coco")
    assert dataset_name(".") == "coco"


def test_aliases(tmp_path):
    assert load_aliases(tmp_path) == {}
    write_rows(tmp_path / "aliases.csv", [("class", "alias"), ("bee", "insect"), ("sun", "star"), ("bee", "bug ")])
    assert load_aliases(tmp_path) == {"bee": ["insect", "bug"], "sun": ["star"]}
    assert load_aliases(tmp_path / "captions.csv") == {}
    write_rows(tmp_path / "aliases.csv", [("class", "alias"), ("bee", " ")])
    with pytest.raises(ValueError, match=r"aliases.csv: line 2: empty"):
        load_aliases(tmp_path)


def test_fingerprint(tmp_path):
    """The same data elsewhere, in another order, is the same data; another caption or split is not."""
    here, there = (load_examples(write_project(tmp_path / name)) for name in ("a", "b"))
    assert fingerprint(here) == fingerprint(there[::-1])
    assert fingerprint(here) != fingerprint(here[1:])
    text = (tmp_path / "b/captions.csv").read_text(encoding="utf-8")
    (tmp_path / "b/captions.csv").write_text(text.replace("yellow", "red"), encoding="utf-8")
    assert fingerprint(load_examples(tmp_path / "b")) != fingerprint(here)


def test_missing_folder(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"absent: no such file or folder"):
        load_examples(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no known caption file in it; accepted are"):
        load_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`python prepare_data.py` makes it"):
        load_examples("data/pictograms")


def test_unknown_file(tmp_path):
    touch(tmp_path, "model.bin", "dataset_a.json", "dataset_b.json")
    with pytest.raises(ValueError, match=r"model.bin: not a known caption file"):
        load_examples(tmp_path / "model.bin")
    with pytest.raises(ValueError, match=r"holds dataset_a.json, dataset_b.json; give the path of one"):
        load_examples(tmp_path)


def test_splits(tmp_path):
    folder = write_project(tmp_path)
    with pytest.raises(ValueError, match=r"split: got 'training', allowed are train, val, test"):
        load_examples(folder, "training")
    rows = [("image", "caption"), ("train/sun/1.jpg", "sun"), ("val/sun/1.jpg", "sun")]
    write_rows(folder / "captions.csv", rows)
    (folder / "test/ice_cream/a b.png").unlink()
    with pytest.raises(ValueError, match=r"split 'test' has no example"):
        load_examples(folder, "test")
    with pytest.raises(ValueError, match=r"the splits there are train, val"):
        load_examples(folder, "test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,caption\n", "holds no captioned image"),
        ("", "captions.csv: is empty"),
        ("file,text\na,b\n", "names a, which is not in"),
        ("a,b\nc,d\n", "line 1: 'a,b', must be a header with the columns image and caption"),
        ("image,caption\ntrain/a/1.jpg,\n", "line 2: empty caption"),
        ("image,caption\ntrain/a/1.jpg, ..\ntrain/a/1.jpg,-\ntrain/a/1.jpg,ok\n", r"line 2: empty .*2 of 3 captions"),
        (
            "image,caption\ntrain/a/1.jpg,red, green\n",
            "line 2: 3 columns between commas, 2 are needed; one",
        ),
        ("image,caption\ntrain/a/1.jpg\n", "line 2: 1 columns"),
        ('image,caption\ntrain/a/1.jpg,"open\n', "line 2: a quote is opened and never closed"),
        ("image,caption\ntrain/a/1.jpg,ok\nval/a/1.jpg,ok\na/1.jpg,ok\n", "image 'a/1.jpg' must begin with train/"),
        ("image,caption\ntrain/../../1.jpg,ok\n", "line 2: image .* allowed is a path inside the dataset's folder"),
        (
            "image,caption\ntrain/a/1.jpg,ok\ntrain/a/2.jpg,ok\nval/a/3.jpg,ok\n",
            "line 3: names train/a/2.jpg, which is not in .* .2 of 3 pictures; at most 0 .*; images_dir",
        ),
        (b"image,caption\ntrain/a/1.jpg,caf\xe9\n", "line 2: not UTF-8 text .byte 0xe9"),
    ],
)
def test_bad_project_csv(tmp_path, rows, message):
    """Every message is one line that begins with the file."""
    touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "a/1.jpg")
    (tmp_path / "captions.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_examples(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "captions.csv"))
    assert "\n" not in str(caught.value)


def test_image_without_caption(tmp_path):
    """Hidden files and files that are no images do not count."""
    folder = write_project(tmp_path)
    touch(folder, "preview.png", "train/sun/.hidden.jpg", "train/sun/notes.txt")
    assert len(load_examples(folder)) == 3
    touch(folder, "train/sun/2.JPG", "val/moon/9.jpeg")
    with pytest.raises(ValueError, match=r"captions.csv: no caption for train/sun/2.JPG \(2 of 5 images"):
        load_examples(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "malformed JSON"),
        ("[]", "holds no captioned image"),
        ("[3]", r"\[0\]: 3 is no object with the keys image and caption"),
        ("3", "holds a int, must be an object or a list"),
        ('{"a": 3}', "its keys are 'a'; needed are images, or images and annotations"),
        ('{"images": 3}', "no list under the key 'images'"),
        ('{"images": [3]}', r"images\[0\]: no key 'filename'"),
        ('{"images": [{"filename": "1.jpg"}]}', r"images\[0\]: no key 'sentences'"),
        (
            '{"images": [{"filename": 1, "split": "train"}]}',
            r"images\[0\]: filename is 1, which has the wrong",
        ),
        ([karpathy_image("1.jpg", "trian", "x")], r"images\[0\]: split 'trian', allowed are train"),
        ([karpathy_image("1.jpg", "train")], "no caption for 1.jpg"),
        ([karpathy_image("1.jpg", "train", "ok", " ", ".")], r"images\[0\]: empty caption ' ' \(2 of 3 captions"),
        (
            [karpathy_image("1.jpg", "train", "a"), karpathy_image("1.jpg", "test", "a")],
            "1.jpg stands in it twice",
        ),
        (
            [karpathy_image("1.jpg", "train", "a"), karpathy_image("./1.jpg", "test", "a")],
            r"images\[1\]: .*1.jpg has split 'test' here and 'train' in images\[0\]",
        ),
        (
            [karpathy_image("1.jpg", "train", "a word " * 60_000)],
            r"images\[0\]: caption 'a word .*'... has 420,000 characters, allowed are 5,000",
        ),
        ([karpathy_image("2.jpg", "train", "x")], r"images\[0\]: names 2.jpg, which is not in .* \(1 of 1 pictures"),
        ([karpathy_image("../1.jpg", "train", "x")], "allowed is a path inside the dataset's folder"),
        ([], "holds no captioned image"),
        ('{"images": [' + "1" * 5000 + "]}", "malformed JSON"),
        ([karpathy_image("1.jpg", "train", "a dog \ud83d")], r"images\[0\]: caption .* has half of a surrogate pair"),
    ],
)
def test_bad_karpathy(tmp_path, content, message):
    touch(tmp_path, "1.jpg")
    text = content if isinstance(content, str) else json.dumps({"images": content})
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_examples(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "dataset.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("captions_train2017", lambda c: c["annotations"].clear(), r"no caption for 1.jpg \(2 of 3 images"),
        ("captions_train2017", lambda c: c["images"].pop(0), r"annotations\[1\]: image_id 10 is not among"),
        (
            "captions_train2017",
            lambda c: [a.update(caption="") for a in c["annotations"][:2]],
            r"annotations\[0\]: empty",
        ),
        ("captions_train2017", lambda c: c["annotations"][0].update(image_id=[]), "wrong type"),
        ("captions_train2017", lambda c: c["annotations"][0].update(image_id=True), "image_id is True, which has the"),
        ("captions_train2017", lambda c: c["images"][0].update(id=True), "id is True, which has the wrong type"),
        ("captions_train2017", lambda c: c.pop("images"), "no list under the key 'images'"),
        (
            "instances_train2017",
            lambda c: c["annotations"][0].pop("area"),
            r"annotations\[0\]: no key 'area'",
        ),
        ("instances_train2017", lambda c: c["categories"].pop(), r"category_id 2 is not among"),
        (
            "captions_train2017",
            lambda c: c["images"].append(c["images"][0] | {"file_name": "2.jpg"}),
            r"images\[\d\]: id \d+ is that of .*jpg, too",
        ),
        ("instances_train2017", lambda c: c["annotations"][0].update(area=10**400), r"annotations\[0\]: area is 1"),
        ("instances_train2017", lambda c: c["annotations"][0].update(area=math.nan), "area is nan, allowed is 0 to"),
    ],
)
def test_bad_coco(tmp_path, name, change, message):
    path = write_coco(tmp_path) / f"annotations/{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        load_examples(tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("below", ["", "images/"])
@pytest.mark.parametrize("folder", ["", "cat/"])
@pytest.mark.parametrize("layout", ["coco", "karpathy"])
def test_folders_of_splits_count_where_a_json_file_has_no_splits(tmp_path, layout, folder, below):
    """They were shared out at random: test pictures were trained on."""
    names = [f"{split}/{folder}{number}.jpg" for number, split in enumerate(("train", "train", "val", "test"))]
    touch(tmp_path, *(below + name for name in names))
    if layout == "coco":
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        rows = [{"image_id": number, "caption": "a cat"} for number in range(4)]
        (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": rows}))
    else:
        images = [{"filename": name, "sentences": [{"raw": "a cat"}]} for name in names]
        (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    found = load_examples(tmp_path)
    assert [example.split for example in found] == ["train", "train", "val", "test"]
    assert {example.label for example in found} == {folder.rstrip("/")}


def test_coco_files_that_share_an_image_are_refused(tmp_path):
    """Two files, two splits: the model would be tested on what it was trained on."""
    folder = write_coco(tmp_path)
    path = folder / "annotations/captions_val2017.json"
    path.write_text(path.read_text().replace("3.jpg", "train2017/1.jpg"))
    message = r"captions_val2017.json: .*1.jpg has split 'val' here and 'train' in captions_train2017.json: images"
    with pytest.raises(ValueError, match=message):
        load_examples(folder)


def test_coco_split_names(tmp_path):
    notes = write_coco(tmp_path) / "annotations"
    (notes / "captions_train2014.json").write_text((notes / "captions_train2017.json").read_text())
    with pytest.raises(ValueError, match=r"captions_train2014.json is train, too"):
        load_examples(tmp_path)
    (notes / "captions_train2014.json").rename(notes / "captions_2014.json")
    with pytest.raises(ValueError, match=r"holds annotations/captions_2014.json, .*; give the path of one of them"):
        load_examples(tmp_path)


def test_bad_flickr8k(tmp_path):
    folder = write_flickr8k(tmp_path)
    split_path = folder / "Flickr_8k.testImages.txt"
    split_path.write_text("c.jpg\nnew.jpg\nnewer.jpg\n")
    with pytest.raises(ValueError, match=r"testImages.txt: line 2: no caption for new.jpg \(2 of 5 images; at most 1 "):
        load_examples(folder)
    split_path.write_text("c.jpg\na.jpg\n")
    with pytest.raises(ValueError, match=r"trainImages.txt: line 1: a.jpg is in the test split, too"):
        load_examples(folder)
    split_path.write_text("c.jpg\n")
    (folder / "Images/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"captions.txt: line 2: names b.jpg, which is not in"):
        load_examples(folder)


def test_one_listing_per_directory(tmp_path, monkeypatch):
    """A look-up of every image in every folder would take minutes for COCO on a network drive."""
    names = [f"{i}.jpg" for i in range(100)]
    touch(tmp_path, *(f"Images/{name}" for name in names))
    write_karpathy(tmp_path, [karpathy_image(name, "train", "words") for name in names])
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    assert len(read_examples(tmp_path / "dataset.json")) == 100
    # Once for the names, and once for the links among those that were found.
    assert max(Counter(map(str, listed)).values()) <= 2
    assert len(listed) <= 6


def test_real_data_loads_as_it_lies(shared_dir):
    ucm = load_examples(shared_dir / "data/ucm_captions")
    assert Counter(e.split for e in ucm) == {"train": 1680, "val": 210, "test": 210}
    assert set(Counter(e.label for e in ucm).values()) == {100}
    assert {len(e.captions) for e in ucm} == {5}
    assert "farmland" in load_aliases(shared_dir / "data/ucm_captions")["agricultural"]

    flickr = load_examples(shared_dir / "data/flickr8k_1000")
    assert Counter(e.split for e in flickr) == {"train": 753, "val": 113, "test": 125}
    assert {e.label for e in flickr} == {""}
    assert {len(e.captions) for e in flickr} == {5}


def test_images_without_captions_can_be_listed_instead(tmp_path, capsys):
    """An audit counts them; everything else says that it leaves them out."""
    project = write_project(tmp_path / "project")
    touch(project, "val/sun/silent.jpg")
    karpathy = write_karpathy(
        tmp_path / "karpathy", [karpathy_image("a.jpg", "train", "a sun"), karpathy_image("silent.jpg", "val")]
    )
    touch(karpathy, "a.jpg")
    coco = write_coco(tmp_path / "coco")
    path = coco / "annotations/captions_train2017.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 99, "file_name": "silent.jpg"})
    path.write_text(json.dumps(content))
    flickr = write_flickr8k(tmp_path / "flickr")
    with open(flickr / "Flickr_8k.testImages.txt", "a") as file:
        file.write("\nsilent.jpg\n")
    for folder in (project, karpathy, coco, flickr):
        load_examples(folder)
        assert "silent.jpg; left out (1 of " in capsys.readouterr().out
        silent = []
        examples = load_examples(folder, silent=silent)
        assert [name.rpartition("/")[2] for name in silent] == ["silent.jpg"]
        assert examples
        assert "silent.jpg" not in capsys.readouterr().out
        assert not any(example.image.name == "silent.jpg" for example in examples)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2017", "train"),
        ("captions_latest_train", "train"),  # "la-test" was taken for test
        ("captions_valley_test", "test"),
        ("captions_dev", "val"),
        ("captions_restval", "train"),
        ("captions_contest", ""),
    ],
)
def test_the_split_of_a_file_is_a_whole_part_of_its_name(name, split):
    assert split_of_file(Path(f"{name}.json")) == split


def test_a_file_name_with_two_splits_is_an_error():
    with pytest.raises(ValueError, match=r"captions_train_val\.json: its name has train and val"):
        split_of_file(Path("captions_train_val.json"))


def test_a_pipe_in_place_of_a_table_is_refused(tmp_path):
    os.mkfifo(tmp_path / "captions.csv")
    with pytest.raises(ValueError, match=r"captions\.csv: is a device or a pipe, a file is needed"):
        load_examples(tmp_path)


def test_settings_of_pictures_count_for_the_folder_around_shards(tmp_path):
    """They were ignored: a link was refused although it was allowed, and pictures elsewhere were missing."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    shards = f"{root}/train/{{0..0}}.tar"
    write_shard(root / "train/0.tar", [("a", {"jpg": b"x", "txt": b"a cat"})])
    assert [e.split for e in load_examples(shards)] == ["train"]
    with pytest.raises(
        ValueError, match=r"images_dir: got 'x', but .*train/\{0\.\.0\}\.tar has its pictures in the shards"
    ):
        load_examples(shards, images_dir="x")
    write_rows(root / "captions.csv", [("image", "caption"), ("val/b.jpg", "a dog")])
    touch(elsewhere, "val/b.jpg")
    assert load_examples(shards, "val", images_dir=str(elsewhere))[0].image == elsewhere / "val/b.jpg"
    (root / "val").symlink_to(elsewhere / "val")
    with pytest.raises(ValueError, match=r"val.*: a link leads out of .*allow_links"):
        load_examples(shards)
    assert load_examples(shards, "val", allow_links=True)[0].image == root / "val/b.jpg"

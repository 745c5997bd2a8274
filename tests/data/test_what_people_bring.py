"""Further tables, lists, folders and names: each is read, or ends in one line that says what to do."""

import json
import os
import re
import unicodedata

import pytest

import prepare_data
import vocab
from captioning.cli import Settings
from captioning.data import names
from captioning.data.annotations import load_dataset, load_examples
from captioning.data.class_names import spoken_names
from captioning.data.spelling import folder_names
from captioning.data.splits import split_of_folder
from captioning.scores.grounding import Grounder

NUMBERS = range(6)


def place(folder, *names):
    """Make files of these names; what is in them is not looked at when a dataset is read."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")


def six(folder, below=""):
    place(folder / below, *(f"{number}.jpg" for number in NUMBERS))


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((text if isinstance(text, str) else json.dumps(text)).encode(encoding))


def records(**more):
    return [{"image": f"{number}.jpg", "caption": f"a thing {number}", **more} for number in NUMBERS]


def coco(name=str):
    images = [{"id": name(number), "file_name": f"{number}.jpg"} for number in NUMBERS]
    notes = [{"id": number, "image_id": number, "caption": f"a thing {number}"} for number in NUMBERS]
    return {"images": images, "annotations": notes}


def karpathy(**more):
    return [{"filename": f"{n}.jpg", "split": "train", "sentences": [{"raw": f"a thing {n}"}], **more} for n in NUMBERS]


TABLE = "".join(f'{number}.jpg,"a thing {number}"\n' for number in NUMBERS)
LINES = [json.dumps({"file_name": f"{number}.jpg", "text": f"a thing {number}"}) for number in NUMBERS]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", "sep=,\nimage,caption\n" + TABLE),
        ("captions.csv", '"sep=;"\r\nimage;caption\r\n' + TABLE.replace(",", ";").replace("\n", "\r\n")),
        ("Captions.CSV", "image,caption\n" + TABLE),
        ("CAPTIONS.TXT", "image,caption\n" + TABLE),
        ("captions.csv", "이미지,설명\n" + TABLE),
        ("captions.jsonl", "\n\n".join(LINES)),
        ("captions.json", {"data": records()}),
        ("captions.json", {"annotations": records()}),
        ("captions.json", {"train": records()[:4], "Valid": records()[4:5], "test": records()[5:]}),
        ("captions.json", records(split="TRAIN")),
        ("dataset.json", {"images": karpathy(split="Train")}),
        ("annotations/captions_train2017.json", coco("{:012}".format)),
        ("Captions_Train2017.json", coco()),
    ],
)
def test_read_without_doubt(tmp_path, name, content):
    six(tmp_path)
    write(tmp_path / name, content)
    examples = load_examples(tmp_path)
    assert {e.image.name: e.captions for e in examples} == {f"{n}.jpg": [f"a thing {n}"] for n in NUMBERS}


def test_lists_under_the_names_of_splits_are_these_splits(tmp_path):
    six(tmp_path)
    write(tmp_path / "captions.json", {"train": records()[:4], "dev": records()[4:5], "test": records()[5:]})
    sizes = {split: len(group) for split, group in load_dataset(tmp_path).splits.items()}
    assert sizes == {"train": 4, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a dog', \"it's a dog\"]", ["a dog", "it's a dog"]),
        (json.dumps(["a dog", "a caf\u00e9"]), ["a dog", "a caf\u00e9"]),
        ("[a dog] on a sofa", ["[a dog] on a sofa"]),
        ("['a dog', ['nested']]", ["['a dog', ['nested']]"]),
        ("[" * 3000, None),
    ],
)
def test_a_cell_may_hold_a_list_of_captions(tmp_path, cell, captions):
    """nlphuji/flickr30k's table has all five in one cell; read as one text, an image had one caption of 60 words."""
    place(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "captions.csv", 'image,caption\nb.jpg,b\na.jpg,"{}"\n'.format(cell.replace('"', '""')))
    found = {e.image.name: e.captions for e in load_examples(tmp_path)}
    assert found.get("a.jpg") == captions


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("captions.csv", ("image,caption\n" + TABLE).encode("utf-16-le"), "line 1: not UTF-8 text (many bytes are 0"),
        ("captions.csv", ("image,caption\n" + TABLE).encode("utf-32"), "line 1: not UTF-8 text (many bytes are 0"),
        ("captions.csv", b"", "is empty"),
        ("dataset.json", b"", "is empty"),
        ("captions.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull` fetches it"),
        ("captions.csv", b"image,caption\n0.jpg,a\0cat\n", "line 2: caption 'a\\x00cat' has a NUL character"),
        ("captions.csv", b"image,label\n0.jpg,3\n1.jpg,4\n", "must be a header with the columns image and caption"),
        (
            "dataset.json",
            json.dumps({"images": karpathy()})
            .replace("thing", "caf\u00e9")
            .replace("\\u00e9", "\u00e9")
            .encode("latin-1"),
            "line 1: not UTF-8 text (byte 0xe9",
        ),
        (
            "captions_test.json",
            json.dumps({"images": coco()["images"]}).encode(),
            "no list under the key 'annotations'",
        ),
        (
            "captions_train.json",
            json.dumps(coco()).replace('"0.jpg"', '""').encode(),
            "images[0]: has no name of a picture (1 of 6 pictures",
        ),
        ("data.zip", b"PK", "unpack it"),
        ("data.xlsx", b"PK", "save the sheet as CSV"),
        ("data.parquet", b"PAR1", "save it as CSV"),
    ],
)
def test_one_line_that_says_what_to_do(tmp_path, name, content, line):
    six(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        load_examples(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_text_may_be_named_after_the_whole_name_of_its_picture(tmp_path):
    six(tmp_path)
    for number in NUMBERS:
        write(tmp_path / f"{number}.jpg.txt", f"a thing {number}\n")
    assert [e.captions for e in load_examples(tmp_path)] == [[f"a thing {number}"] for number in NUMBERS]


def test_a_folder_of_pictures_alone_is_told_of_prepare_data(tmp_path):
    """Where each picture had a JSON file beside it, the advice was to give the first of them as the captions."""
    six(tmp_path)
    for number in NUMBERS:
        write(tmp_path / f"{number}.json", {"label": 1})
    with pytest.raises(ValueError, match=r"no known caption file in it; .* prepare_data.py --source makes a dataset"):
        load_examples(tmp_path)


# ---- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Training TRAIN trn train2014 train_images images-train trainset train_set train_01", "train"),
        ("val VALID Validation dev vld eval valset val_images", "val"),
        ("test Testing tst test2017 TestSet img_test", "test"),
        ("train_val trainval station images sunset set trains 001 test_room untested", ""),
    ],
)
def test_folders_of_splits(names, split):
    assert {name: split_of_folder(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_split_folders_of_longer_names_are_no_classes(tmp_path):
    """train_images/panda was read as the class train_images, and the splits were drawn anew."""
    rows = [f"{split}_images/panda/{n}.jpg" for split in ("train", "val", "test") for n in range(3)]
    place(tmp_path, *rows)
    write(tmp_path / "captions.csv", "image,caption\n" + "".join(f"{row},a panda\n" for row in rows))
    assert {(e.split, e.label) for e in load_examples(tmp_path)} == {(s, "panda") for s in ("train", "val", "test")}


def test_folders_of_systems_are_passed_over(tmp_path):
    """A copy of a zip made on macOS had the class __MACOSX."""
    photos = tmp_path / "photos"
    place(photos, "cat/1.jpg", "dog/1.jpg", "__MACOSX/cat/2.jpg", "@eaDir/cat/3.jpg", "cat/.DS_Store", "cat/Thumbs.db")
    found, others = prepare_data.class_folders.list_photos(photos)
    assert [e.image.relative_to(photos).as_posix() for e in found] == ["cat/1.jpg", "dog/1.jpg"]
    assert not others


def test_a_link_to_a_folder_above_is_not_entered(tmp_path):
    """Its pictures were counted as images without a caption."""
    rows = ["train/cat/1.jpg", "train/cat/2.jpg", "val/cat/1.jpg", "test/cat/1.jpg"]
    place(tmp_path, *rows)
    write(tmp_path / "captions.csv", "image,caption\n" + "".join(f"{row},a cat\n" for row in rows))
    os.symlink(tmp_path, tmp_path / "train/again")
    assert len(load_examples(tmp_path)) == 4


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "photos.csv"])
def test_a_file_as_source_is_told_so(tmp_path, name):
    """The line said that there was no such folder, and spoke of another setting."""
    (tmp_path / name).write_bytes(b"PK")
    write(tmp_path / "captions.csv", "image,caption\n" + TABLE)
    settings = {"source": str(tmp_path / name), "captions": str(tmp_path / "captions.csv")}
    told = "unpack it" if name != "photos.csv" else "the folder of the pictures"
    with pytest.raises(ValueError, match=rf"^--source: .*{name} is a file; .*{told}"):
        prepare_data.main(Settings({**prepare_data.CONFIG, **settings, "output": str(tmp_path / "out")}))


# ---- names of classes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["n02110958 pug", "n07873807 pizza"],
        ["N02110958-pug", "N07873807-pizza"],
        ["pug_n02110958", "pizza.n07873807"],
        ["0001_pug", "0002_pizza"],
        ["class_12-pug", "class_13-pizza"],
        ["c0_pug", "c1_pizza"],
        ["#1 pug", "#2 pizza"],
        ["12. pug", "13. pizza"],
        ["1 - pug", "2 - pizza"],
        ["(1) pug", "(2) pizza"],
        ["pug [12]", "pizza [13]"],
        ["pug_(dog)", "pizza_(food)"],
    ],
)
def test_ids_around_class_names(names):
    assert list(spoken_names(names).values()) == ["pug", "pizza"]


@pytest.mark.parametrize(
    "names",
    [["3_d_glasses", "cup", "pen"], ["n02110958", "n07873807"], ["class_1", "class_2"], ["boeing 747", "a 320"]],
)
def test_what_is_no_id_stays(names):
    assert list(spoken_names(names).values()) == names


@pytest.mark.parametrize(
    ("label", "written"),
    [("판다", "\u1111\u1161\u11ab\u1103\u1161"), ("Panda", "panda"), ("tennis_court", "Tennis court")],
)
def test_aliases_find_their_class_however_it_is_spelt(label, written):
    """aliases: got '판다', which is not a class (nearest: 판다)."""
    assert Grounder([label, "cup"], {written: ["bear"]}).name("a bear") == label


def test_wrong_aliases_are_told_before_the_vocabulary_is_written(tmp_path):
    place(tmp_path, "train/panda/1.jpg", "val/panda/1.jpg")
    write(tmp_path / "captions.csv", "image,caption\ntrain/panda/1.jpg,a panda\nval/panda/1.jpg,a panda\n")
    write(tmp_path / "aliases.csv", "class,alias\npnda,bear\n")
    path = tmp_path / "v.pkl"
    graph = str(tmp_path / "g.png")
    settings = {"data_dir": str(tmp_path), "vocab_path": str(path), "graph_path": graph}
    with pytest.raises(ValueError, match=r"^aliases.csv: got 'pnda', which is not a class \(nearest: panda\)"):
        vocab.main(Settings({**vocab.CONFIG, **settings}))
    assert not path.exists()


def test_images_without_a_split_are_counted_where_others_have_one(tmp_path, capsys):
    """Rows with an empty split belonged to no split, and nobody was told."""
    place(tmp_path, *(f"{number}.jpg" for number in range(40)))
    splits = ["train"] * 30 + ["val"] * 9 + [""]
    rows = "".join(f"{number}.jpg,a thing,{split}\n" for number, split in enumerate(splits))
    write(tmp_path / "captions.csv", "image,caption,split\n" + rows)
    assert {e.split for e in load_examples(tmp_path)} == {"train", "val"}
    assert "line 41: 39.jpg has no split, as others have; left out (1 of 40 images)" in capsys.readouterr().out
    write(tmp_path / "captions.csv", "image,caption,split\n" + rows.replace(",val", ","))
    with pytest.raises(
        ValueError,
        match=r"captions.csv: line 32: 30.jpg has no split, .* \(10 of 40 images; at most 2 ",
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "spelt", ["{}.jpg", "{}", "images/{}.jpg", "./{}.JPG", "/home/me/coco/images/{}.jpg", "images\\{}.jpg"]
)
def test_lists_of_splits_spell_names_as_they_like(tmp_path, spelt):
    """Lists that named the folder were taken for none, and the images shared out at random."""
    six(tmp_path, "images")
    write(tmp_path / "captions.csv", "image,caption\n" + TABLE)
    for split, numbers in (("train", (5, 3, 1, 0)), ("val", (2,)), ("test", (4,))):
        write(tmp_path / f"{split}.txt", "".join(spelt.format(number) + "\n" for number in numbers))
    found = {int(e.image.stem): e.split for e in load_examples(tmp_path)}
    assert found == {0: "train", 1: "train", 2: "val", 3: "train", 4: "test", 5: "train"}


def test_lists_of_splits_that_name_no_image_are_an_error(tmp_path):
    six(tmp_path)
    write(tmp_path / "captions.csv", "image,caption\n" + TABLE)
    write(tmp_path / "train.txt", "\nphoto_1\n")
    with pytest.raises(
        ValueError, match=r"train.txt: line 2: 'photo_1' names no captioned image, and neither does any"
    ):
        load_examples(tmp_path)


def test_a_base_name_that_two_images_have_is_not_guessed(tmp_path, capsys):
    place(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    write(tmp_path / "captions.csv", "image,caption\ncat/1.jpg,a cat\ndog/1.jpg,a dog\ndog/2.jpg,a dog\n")
    write(tmp_path / "train.txt", "cat/1.jpg\n")
    write(tmp_path / "val.txt", "1.jpg\n2.jpg\n")
    found = {e.image.relative_to(tmp_path).as_posix(): e.split for e in load_examples(tmp_path)}
    assert found == {"cat/1.jpg": "train", "dog/2.jpg": "val"}
    assert "val.txt: line 1: no caption for 1.jpg; left out" in capsys.readouterr().out


def test_images_in_no_list_are_counted(tmp_path, capsys):
    six(tmp_path)
    write(tmp_path / "captions.csv", "image,caption\n" + TABLE)
    write(tmp_path / "train.txt", "0.jpg\n1.jpg\n")
    write(tmp_path / "val.txt", "2.jpg\n")
    assert len(load_examples(tmp_path)) == 3
    assert "note: " in (told := capsys.readouterr().out)
    assert "captions.csv: 3 of 6 images are in no list of a split and left out, the first is 3.jpg" in told


LAYOUTS_OF_SPLITS = {
    "a table in each split's folder": lambda root, split: write(
        root / split / "metadata.csv", "file_name,text\n" + "".join(f"{c}/1.jpg,a {c}\n" for c in ("cat", "dog"))
    ),
    "a table for each split": lambda root, split: write(
        root / f"{split}.csv", "image,caption\n" + "".join(f"{c}/1.jpg,a {c}\n" for c in ("cat", "dog"))
    ),
    "texts": lambda root, split: [write(root / split / c / "1.txt", f"a {c}\n") for c in ("cat", "dog")],
}


@pytest.mark.parametrize("layout", LAYOUTS_OF_SPLITS)
def test_the_working_directory_is_a_dataset_like_any_other(layout, tmp_path, monkeypatch):
    """With --data_dir . the first two letters of each path were cut off: the classes were ain and l."""
    for split in ("train", "val"):
        place(tmp_path, *(f"{split}/{label}/1.jpg" for label in ("cat", "dog")))
        LAYOUTS_OF_SPLITS[layout](tmp_path, split)
    monkeypatch.chdir(tmp_path)
    here, there = load_dataset("."), load_dataset(tmp_path)
    assert here.classes == there.classes == ["cat", "dog"]
    for split in ("train", "val"):
        assert [tmp_path / e.image for e in here.splits[split]] == [e.image for e in there.splits[split]]


def test_a_link_out_of_the_working_directory_is_refused(tmp_path, monkeypatch):
    """Only the first file of the folder was looked at, so that captions.csv itself might lead out."""
    six(tmp_path / "data")
    write(tmp_path / "data" / "aliases.csv", "class,alias\n")
    write(tmp_path / "outside.csv", "image,caption\n" + TABLE)
    (tmp_path / "data" / "captions.csv").symlink_to(tmp_path / "outside.csv")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(ValueError, match="captions.csv: a link leads out of"):
        load_examples(".")


def test_more_folders_than_a_dataset_has_are_an_error(tmp_path, monkeypatch):
    """Those beyond the limit were left out without a word."""
    place(tmp_path, *(f"{number}/1.jpg" for number in range(5)))
    monkeypatch.setattr(names, "MAX_FOLDERS", 5 + len(tmp_path.parents))
    with pytest.raises(ValueError, match=r"has more than \d+ folders, too many for a dataset$"):
        prepare_data.class_folders.list_photos(tmp_path)
    monkeypatch.setattr(names, "MAX_FOLDERS", 6 + len(tmp_path.parents))
    assert len(prepare_data.class_folders.list_photos(tmp_path)[0]) == 5


def test_a_folder_whose_name_is_no_text_is_named(tmp_path):
    place(tmp_path, "cat/1.jpg", os.fsdecode("고양이".encode("euc-kr")) + "/1.jpg")
    with pytest.raises(ValueError, match=r"the name of the folder b'\\xb0\\xed.*' is not UTF-8; rename it$"):
        prepare_data.class_folders.list_photos(tmp_path)


def test_rows_that_spell_a_picture_in_two_ways_are_captions_of_one(tmp_path):
    """They were refused: "allowed is one for each image", in a table that has a row for each caption."""
    place(tmp_path, "cat/1.jpg", "cat/2.jpg")
    rows = ["cat/1.jpg,a cat", "cat/2.jpg,a cat", "./cat/1.jpg,one cat", "Cat/1.jpg,the cat"]
    write(tmp_path / "captions.csv", "\n".join(["image,caption", *rows, ""]))
    assert [example.captions for example in load_examples(tmp_path)] == [["a cat", "one cat", "the cat"], ["a cat"]]


def test_names_of_folders_are_names_on_every_disk():
    labels = [
        "a/b",
        "a\\b",
        "a_b",
        "..",
        "../../x",
        ".hidden",
        "CON",
        "nul.txt",
        "고양이",
        "बिल्ली",
        "bird's nest",
        "Cat",
        "cat",
        "",
    ]
    found = folder_names(labels)
    assert {label: found[label] for label in ("a_b", "고양이", "बिल्ली", "bird's nest", "Cat", "")} == {
        label: label for label in ("a_b", "고양이", "बिल्ली", "bird's nest", "Cat", "")
    }
    assert len({name.casefold() for name in found.values()}) == len(labels)
    for name in found.values():
        assert not set(name) & set('/\\:*?"<>|')
        assert name == name.strip(" .")
        assert name.upper() not in ("CON", "NUL.TXT")
    assert len(folder_names(["고" * 300])["고" * 300].encode()) <= 200


def test_a_listed_picture_without_captions_is_not_another_of_its_file_name(tmp_path, capsys):
    """dog/1.jpg in val.txt put cat/1.jpg, which is in no list, into val."""
    place(tmp_path, *(f"cat/{number}.jpg" for number in range(1, 30)))
    write(tmp_path / "captions.csv", "image,caption\n" + "".join(f"cat/{n}.jpg,a cat\n" for n in range(1, 30)))
    write(tmp_path / "train.txt", "".join(f"cat/{number}.jpg\n" for number in range(2, 20)))
    write(tmp_path / "val.txt", "".join(f"cat/{number}.jpg\n" for number in range(20, 30)) + "dog/1.jpg\n")
    found = {e.image.name: e.split for e in load_examples(tmp_path)}
    assert "1.jpg" not in found
    assert "no caption for dog/1.jpg; left out" in capsys.readouterr().out


def test_the_text_beside_a_picture_is_no_list_of_a_split(tmp_path):
    place(tmp_path, "train.jpg", "car.jpg", "bus.jpg")
    write(tmp_path / "captions.csv", "image,caption\ntrain.jpg,a train\ncar.jpg,a car\nbus.jpg,a bus\n")
    write(tmp_path / "train.txt", "a train in town\n")
    assert len(load_examples(tmp_path)) == 3


def test_names_of_folders_are_composed():
    """macOS decomposes Hangul: the class in shards was another than in folders."""
    spelt = unicodedata.normalize("NFD", "고양이")
    assert folder_names([spelt, "고양이"]) == {spelt: "고양이", "고양이": "고양이"}

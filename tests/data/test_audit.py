"""The audit against a dataset in which every fault was put by hand."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare_data
from captioning.data import audit
from captioning.data.annotations import Example, load_examples
from captioning.data.tars import write_shard


def picture(seed, size=96):
    """A smooth random picture: noise of 6 x 6 colours, enlarged."""
    colours = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """Four images of train, two of val, three of test; what is wrong with each is in its name."""
    folder = tmp_path / "data"
    captions = {
        "train/cat/0.jpg": ["a cat", "one small cat"],
        "train/cat/1.jpg": ["a cat on a mat"],
        "train/cat/2.jpg": ["a black cat"],
        "train/dog/3.jpg": ["A dog."],
        "val/cat/copied.jpg": ["a grey cat"],
        "val/dog/own.jpg": ["the dog", "a dog"],
        "test/cat/smaller.jpg": ["a cat", "one small cat"],
        "test/cat/recoloured.jpg": ["a cat on mat"],
        "test/dog/own.jpg": ["a dog on a zebra"],
    }
    for number, name in enumerate(captions):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, quality=92)
    shutil.copy(folder / "train/cat/0.jpg", folder / "val/cat/copied.jpg")
    picture(1).resize((80, 80)).save(folder / "test/cat/smaller.jpg", quality=70)
    grey = picture(2).convert("L")  # only the colours differ
    Image.merge("RGB", (grey, grey, grey)).save(folder / "test/cat/recoloured.jpg", quality=92)
    rows = [f'{name},"{caption}"' for name, texts in captions.items() for caption in texts]
    (folder / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    return folder


def values(found, split):
    return {row.measure: row.value for row in found.table.itertuples() if row.split == split}


def test_pictures_in_shards_are_audited_as_files_are(data):
    """Each was counted as one that cannot be read, also by the report."""
    train = load_examples(data, "train")
    write_shard(data / "train/0.tar", [(e.image.stem, {"jpg": e.image.read_bytes(), "txt": b"a cat"}) for e in train])
    found = audit.audit_examples(load_examples(f"{data}/train/0.tar"), progress=False)
    assert values(found, "train")["unreadable"] == 0
    assert ("exact", "copied.jpg", "0.jpg") in [
        (one.kind, one.image.name, one.copy_of.name) for one in found.copies.itertuples()
    ]


def test_every_fault_is_found(data):
    found = audit.audit_examples(load_examples(data), progress=False)
    copies = [(row.kind, row.image.name, row.copy_of.name) for row in found.copies.itertuples()]
    assert copies == [("exact", "copied.jpg", "0.jpg"), ("near", "smaller.jpg", "1.jpg")]
    train, val, test = (values(found, split) for split in ("train", "val", "test"))
    assert [train["images"], val["images"], test["images"]] == [4, 2, 3]
    assert "exact_copies" not in train, "there is no earlier split"
    assert [val["exact_copies"], val["near_copies"], test["exact_copies"], test["near_copies"]] == [1, 0, 0, 1]
    assert val["captions_in_train"] == pytest.approx(1 / 3)  # "a dog", without case and period
    assert test["captions_in_train"] == pytest.approx(2 / 4)
    assert [val["images_in_train"], test["images_in_train"]] == pytest.approx([0, 1 / 3])
    assert [val["new_words"], test["new_words"]] == [2, 1]  # grey, the; zebra
    assert test["new_word_share"] == pytest.approx(1 / (2 + 3 + 4 + 5))
    assert [train["classes"], train["class_min"], train["class_max"]] == [2, 1, 3]
    assert [train["words_min"], train["words_max"]] == [2, 5]
    assert train["words_mean"] == pytest.approx((2 + 3 + 5 + 3 + 2) / 5)


def test_warnings_name_what_flatters(data):
    found = audit.audit_examples(load_examples(data), progress=False)
    val, test = (" ".join(audit.warnings(found, split)) for split in ("val", "test"))
    assert "1 of the 2 images of the val split (50.0%) have the same file" in val
    assert "1 of the 3 images of the test split (33.3%) nearly equal" in test
    assert "50.0% of the test split's captions" in test
    assert audit.warnings(found, "train") == []


def test_images_without_captions_are_counted_not_refused(data):
    (data / "test/dog").mkdir(exist_ok=True)
    picture(50).save(data / "test/dog/silent.jpg")
    silent = []
    found = audit.audit_examples(load_examples(data, silent=silent), silent, progress=False)
    assert found.silent == ["test/dog/silent.jpg"]
    assert values(found, "")["silent"] == 1
    assert any("1 image without a caption" in line for line in audit.warnings(found, "test"))
    assert audit.overview(found.table).iloc[0].tolist()[0] != ""


@pytest.mark.parametrize(("caption", "unit"), [("一只黑色的猫坐在草地上", "characters"), ("a black cat", "words")])
def test_what_is_counted_is_called_so(caption, unit):
    """Characters of Chinese captions were printed as words."""
    examples = [Example(Path(f"{i}.jpg"), [caption], "", split) for i, split in enumerate(("train", "test"))]
    printed = audit.overview(audit.audit_examples(examples, progress=False).table).set_index("measure")
    assert printed.loc[f"{unit} in a caption, mean", "test"] == ("11.0" if unit == "characters" else "3.0")
    assert f"different {unit} that train lacks" in printed.index


def test_splits_of_unlike_references_do_not_compare():
    """RSICD: 2.0 different captions an image in train, 3.3 in test; CIDEr-D was 2.5 on val and 0.84 on test."""
    examples = [Example(Path(f"{i}.jpg"), ["a field", "A field."], "", "train") for i in range(20)]
    examples += [Example(Path(f"{i}.jpg"), ["a field", "a park"], "", "test") for i in range(20, 40)]
    found = audit.audit_examples(examples, progress=False)
    assert [values(found, split)["different_per_image"] for split in ("train", "test")] == [1, 2]
    lines = " ".join(audit.warnings(found, "test"))
    assert "Images of the test split have 2.0 different captions, those of train 1.0: scores of the two do not" in lines
    alike = audit.audit_examples([example for example in examples if example.split == "test"], progress=False)
    assert "do not compare" not in " ".join(audit.warnings(alike, "test"))


def test_captions_that_do_not_name_their_class_are_said(data):
    found = audit.audit_examples(load_examples(data), progress=False, naming_share=lambda examples: 0.01)
    assert values(found, "val")["naming"] == 0.01
    assert "1.0% of the val split's captions name the class" in " ".join(audit.warnings(found, "val"))
    assert "aliases.csv" not in " ".join(
        audit.warnings(audit.audit_examples(load_examples(data), progress=False), "val")
    )


def test_unreadable_images_are_counted(data):
    (data / "val/dog/own.jpg").write_bytes(b"no picture")
    found = audit.audit_examples(load_examples(data), progress=False)
    assert [values(found, split)["unreadable"] for split in ("train", "val", "test")] == [0, 1, 0]


def test_a_dataset_without_train_and_without_classes(tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\n0.jpg,a dog\n1.jpg,a cat\n")
    for split, names in (("train", ""), ("dev", ""), ("test", "0.jpg\n1.jpg\n")):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(names)
    found = audit.audit_examples(load_examples(tmp_path), progress=False)
    assert "classes" not in values(found, "test")
    assert "captions_in_train" not in values(found, "test")
    assert audit.warnings(found, "test") == []


def test_the_embedded_dataset_holds_no_copies(pictograms_dir):
    """Hashes alone take drawings on the same background for copies of each other."""
    assert audit.audit_examples(load_examples(pictograms_dir), progress=False).copies.empty


def test_two_processes_find_what_one_does(data):
    examples = load_examples(data)
    one, two = (audit.audit_examples(examples, num_workers=number, progress=False) for number in (1, 2))
    pd.testing.assert_frame_equal(one.table, two.table)
    pd.testing.assert_frame_equal(one.copies, two.copies)


def test_script_prints_and_writes_the_audit(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in data.rglob("*"))
    prepare_data.main({"prepare": {**prepare_data.CONFIG, "audit": str(data), "num_workers": 1}})
    out = capsys.readouterr().out
    assert "images whose file stands in an earlier split too" in out
    assert "warning: 1 of the 2 images of the val split" in out
    table = pd.read_csv("reports/data_audit/audit.csv", keep_default_na=False)
    assert list(table.columns) == ["measure", "split", "value"]
    assert len(pd.read_csv("reports/data_audit/copies.csv")) == 2
    assert sorted(path.name for path in data.rglob("*")) == before


def test_the_script_calls_clean_what_is(data, tmp_path, monkeypatch, capsys):
    """A few shared captions or a broken picture were once passed over by "clean: no shared captions"."""
    monkeypatch.chdir(tmp_path)
    for name in ("val/cat/copied.jpg", "test/cat/smaller.jpg", "test/cat/recoloured.jpg"):
        picture(20 + len(name)).save(data / name)
    config = {"prepare": {**prepare_data.CONFIG, "audit": str(data), "num_workers": 1}}

    def last_words():
        prepare_data.main(config)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("clean", "warning"))]

    monkeypatch.setattr(audit, "LEAK", 0.7)
    shared = "50.0% of a split's captions in train at most"  # two of the four of test
    assert last_words() == [f"clean: no copies, {shared} and no image without a caption"]
    (data / "train/cat/2.jpg").write_text("no picture")
    assert last_words() == ["warning: 1 of the 4 images of the train split cannot be read."]
    picture(2).save(data / "train/cat/2.jpg")
    text = (data / "captions.csv").read_text()
    for shared in ('"a dog"', '"a cat"', '"one small cat"'):
        head, tail = text.split("val/", 1)
        text = head + "val/" + tail.replace(shared, '"an owl"')
    (data / "captions.csv").write_text(text)
    assert last_words() == ["clean: no copies, no shared captions and no image without a caption"]


def test_script_refuses_an_audit_of_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        prepare_data.main({"prepare": {**prepare_data.CONFIG, "audit": "data/none"}})
    assert not list(tmp_path.iterdir())

"""Class folders to datasets: choice, crop, copies, counts, captions; and the script as a user runs it."""

import csv
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import processes
import pytest
from PIL import Image, ImageDraw, ImageFile

import prepare_data
import vocab
from captioning.data import class_folders
from captioning.data.annotations import load_aliases, load_dataset, load_examples
from captioning.data.images import load_image
from captioning.data.tars import PICTURES, TEXTS, find_shards, read_samples, write_shard

EVERYTHING = PICTURES | TEXTS
SCRIPT = Path(prepare_data.__file__)


def picture(number, size=(80, 60)):
    """A picture unlike those of other numbers: coarse random blots."""
    blots = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def write_source(folder, classes=("cat", "dog"), count=10):
    """`count` different JPEGs in each class."""
    for number, (label, index) in enumerate(itertools.product(classes, range(count))):
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / label / f"{index}.jpg")
    return folder


def write_rows(path, source, *, leave_out=()):
    """A caption CSV for every image of the source."""
    names = sorted(image.relative_to(source).as_posix() for image in source.glob("*/*.*"))
    rows = [(name, f"a {name.split('/')[0]}, number {text}") for name in names for text in ("one", "two")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *(row for row in rows if row[0] not in leave_out)])
    return path


@pytest.fixture(autouse=True)
def small_preview(monkeypatch):
    """Drawing 60 pictures takes longer than all the rest of a test."""
    monkeypatch.setattr(prepare_data, "PREVIEW_IMAGES", 3)


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.fixture
def captions(source, tmp_path):
    return write_rows(tmp_path / "captions.csv", source)


def prepare(source, output, captions="", **settings):
    """Run main() in this process, as the command line would."""
    given = {"source": str(source), "output": str(output), "captions": str(captions), "num_workers": 1, "per_class": 0}
    prepare_data.main({"prepare": prepare_data.CONFIG | given | settings})
    return load_examples(output)


def gather(source, folder, *, need=0, distance=4, seed=0, num_workers=1):
    folder.mkdir(exist_ok=True)
    gathering = class_folders.Gathering(need=need, size=64, distance=distance, seed=seed)
    candidates = {}
    for photo in class_folders.list_photos(source)[0]:
        candidates.setdefault(("", photo.label), []).append(photo.image.relative_to(source).as_posix())
    paths = {name: source / name for names in candidates.values() for name in names}
    found = class_folders.gather_photos(paths, candidates, folder, gathering, num_workers, progress=False)
    found.photos = {label: photos for (_, label), photos in found.photos.items()}
    return found


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run_script(*arguments, cwd):
    """Run prepare_data.py in `cwd` as a user does."""
    return processes.run([str(SCRIPT), *map(str, arguments)], cwd, OMP_NUM_THREADS="1")


# ---- choosing --------------------------------------------------------------------------------------


def test_list_photos(source):
    """Hidden files and other files are no photographs; pictures of kinds that are not read are counted."""
    (source / "cat/._0.jpg").touch()
    (source / "cat/notes.txt").touch()
    (source / "empty").mkdir()
    for name in ("a.heic", "b.HEIC", "c.avif", "d.jpg.1"):
        (source / "dog" / name).touch()
    photos, others = class_folders.list_photos(source)
    assert [(photo.label, photo.split) for photo in photos] == [("cat", "")] * 10 + [("dog", "")] * 10
    assert photos[10].image == source / "dog/0.jpg"
    assert class_folders.listed(others) == "2 .heic, 1 .avif, 1 .jpg.1"


def test_choose_classes():
    available = ["ant", "bee", "cat", "dog"]
    assert class_folders.choose_classes(available, "") == available
    assert class_folders.choose_classes(available, "2") == ["ant", "bee"]
    assert class_folders.choose_classes(available, "dog, bee,dog") == ["dog", "bee"]
    with pytest.raises(ValueError, match="got 5, allowed is 1 to 4"):
        class_folders.choose_classes(available, "5")
    with pytest.raises(ValueError, match="no 'bees' among the 4 folders; nearest is 'bee'"):
        class_folders.choose_classes(available, "cat,bees")


def test_split_sizes():
    """8:1:1 of per_class, exact counts, or a mixture."""
    none = {"train": 0, "val": 0, "test": 0}
    assert prepare_data.Sizes(300, none).of(300) == {"train": 240, "val": 30, "test": 30}
    assert prepare_data.Sizes(100, none | {"test": 50}).of(100) == {"train": 80, "val": 10, "test": 50}
    wanted = {"train": 5, "val": 1, "test": 2}
    assert prepare_data.Sizes(0, wanted).of(0) == wanted
    assert [prepare_data.Sizes(0, sizes).need for sizes in (none, wanted)] == [0, 8]


# ---- decoding --------------------------------------------------------------------------------------


def test_square_is_centred_and_upright(tmp_path):
    """A photograph lying on its side by EXIF is turned before it is cropped."""
    wide = Image.new("RGB", (300, 100), "blue")
    wide.paste("red", (100, 0, 200, 100))
    wide.paste("lime", (100, 0, 200, 50))  # the upper half of the centre
    exif = Image.Exif()
    exif[class_folders.ORIENTATION] = 6  # turn by 90 degrees clockwise to see it
    wide.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    square = class_folders.read_square(tmp_path / "turned.jpg", 64)
    assert (square.size, square.mode) == ((64, 64), "RGB")
    left, right = square.getpixel((8, 32)), square.getpixel((56, 32))
    assert left[0] > 200
    assert left[1] < 60
    assert right[1] > 200
    assert right[0] < 60


def test_ready_jpeg_is_copied_unchanged(tmp_path):
    """Writing a JPEG anew would lose a little for nothing; any other picture is converted."""
    for name, size, mode in (("a.jpg", (64, 64), "RGB"), ("b.jpg", (64, 64), "L"), ("c.png", (70, 64), "RGBA")):
        picture(1, size).convert(mode).save(tmp_path / name)
    answers = [
        class_folders.make_square((tmp_path / n, tmp_path / f"{n}.out"), 64) for n in ("a.jpg", "b.jpg", "c.png")
    ]
    assert not any(isinstance(answer, str) for answer in answers)
    assert (tmp_path / "a.jpg.out").read_bytes() == (tmp_path / "a.jpg").read_bytes()
    for name in ("b.jpg.out", "c.png.out"):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_larger_jpeg_is_not_taken_for_ready(tmp_path):
    """Decoded at half its size, a 128 x 128 JPEG looks like a 64 x 64 one."""
    picture(1, (128, 128)).save(tmp_path / "a.jpg")
    class_folders.make_square((tmp_path / "a.jpg", tmp_path / "out.jpg"), 64)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (64, 64)


def bad_images(folder):
    """Four files that are no pictures, each in its own way."""
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    whole = (folder / "0.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    # A PNG that claims 60,000 x 60,000 pixels: 10 GB once decoded.
    Image.new("1", (1, 1)).save(folder / "bomb.png")
    header = bytearray((folder / "bomb.png").read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(header)


def test_unreadable_images_are_named_and_counted(source, tmp_path):
    bad_images(source / "cat")
    result = gather(source, tmp_path / "out")
    assert len(result.unreadable) == 4
    assert {len(photos) for photos in result.photos.values()} == {10}
    for name in ("text.jpg", "empty.jpg", "truncated.jpg", "bomb.png"):
        (line,) = (line for line in result.unreadable if name in line)
        assert "not a readable image" in line
        assert "\n" not in line
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


# ---- copies ----------------------------------------------------------------------------------------


def test_copies_are_dropped_across_classes(tmp_path):
    """A file copied into the other class, a smaller one, a recompressed one and a brighter one: one image stays."""
    source = write_source(tmp_path / "source", count=6)
    original = source / "cat/0.jpg"
    (source / "dog/copy.jpg").write_bytes(original.read_bytes())
    with Image.open(original) as image:
        image.resize((40, 30)).save(source / "dog/small.png")
        image.save(source / "cat/again.jpg", quality=40)
        image.point(lambda value: min(255, value + 12)).save(source / "dog/bright.jpg")
    result = gather(source, tmp_path / "out")
    assert (result.exact, result.near) == (1, 3)
    names = [photo.name for photos in result.photos.values() for photo in photos]
    assert len(names) == 12
    copies = {"cat/0.jpg", "dog/copy.jpg", "dog/small.png", "cat/again.jpg", "dog/bright.jpg"}
    assert len(copies & set(names)) == 1
    off = gather(source, tmp_path / "off", distance=-1)
    assert (off.exact, off.near) == (1, 0)


def test_balls_of_three_colours_are_no_copies(tmp_path):
    """The grey hash of a red, a green and a blue ball is one: two of three classes once lost their only image."""
    source, rows = tmp_path / "balls", ["image,caption"]
    for color in ("red", "green", "blue"):
        (source / color).mkdir(parents=True)
        for number, size in enumerate((20, 26, 32)):
            image = Image.new("RGB", (80, 80), "white")
            ImageDraw.Draw(image).ellipse((40 - size, 40 - size, 40 + size, 40 + size), fill=color)
            image.save(source / color / f"{number}.png")
            rows.append(f"{color}/{number}.png,a {color} ball")
    (tmp_path / "captions.csv").write_text("\n".join(rows) + "\n")
    result = gather(source, tmp_path / "gathered")
    assert (result.exact, result.near) == (0, 0)
    examples = prepare(source, tmp_path / "out", tmp_path / "captions.csv")
    assert Counter(e.label for e in examples) == {"red": 3, "green": 3, "blue": 3}


def test_no_picture_is_in_two_splits(tmp_path):
    """With every image there four times, the splits still share none."""
    source = write_source(tmp_path / "source", count=12)
    for path in list(source.glob("*/*.jpg")):
        with Image.open(path) as image:
            for quality in (60, 80, 95):
                image.save(path.with_name(f"{path.stem}_{quality}.jpg"), quality=quality)
    examples = prepare(source, tmp_path / "out", write_rows(tmp_path / "c.csv", source), image_size=64)
    assert Counter(e.split for e in examples) == {"train": 20, "val": 2, "test": 2}
    hashes = [imagehash.phash(Image.open(e.image)) for e in examples]
    assert min(a - b for a, b in itertools.combinations(hashes, 2)) > 4


def test_only_as_many_are_read_as_needed(tmp_path):
    """Dropped images are made up for from the rest of the class, and no more are read."""
    source = write_source(tmp_path / "source", ["cat"], 40)
    for i in range(20):
        (source / f"cat/copy{i}.jpg").write_bytes((source / "cat/0.jpg").read_bytes())
    result = gather(source, tmp_path / "out", need=15)
    assert len(result.photos["cat"]) == 15
    assert result.looked_at == 15 + len(result.unreadable) + result.exact + result.near < 60


def test_choice_is_set_by_the_seed(source, tmp_path):
    """The processes do not change it, nor do other classes; another seed does."""

    def names(folder, **settings):
        photos = gather(source, tmp_path / folder, need=5, **settings).photos
        return {label: [photo.name for photo in group] for label, group in photos.items()}

    one = names("one")
    assert one == names("two", num_workers=2)
    assert one != names("three", seed=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    write_source(source, ["ape"], 3)
    assert names("four")["dog"] == one["dog"]


# ---- the dataset -----------------------------------------------------------------------------------


def test_class_folders_to_dataset(source, captions, tmp_path, capsys):
    examples = prepare(source, tmp_path / "out", captions)
    assert Counter((e.label, e.split) for e in examples) == {
        (label, split): count for label in ("cat", "dog") for split, count in (("train", 8), ("val", 1), ("test", 1))
    }
    for example in examples:
        assert example.captions == [f"a {example.label}, number one", f"a {example.label}, number two"]
        with Image.open(example.image) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(class_folders.WRITTEN - {"aliases.csv"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "out", "source"]
    said = capsys.readouterr().out
    assert "20 images; dropped 0 unreadable, 0 exact copies, 0 near copies" in said
    assert said.endswith(f"next: python vocab.py --data_dir {tmp_path / 'out'}\n")


def test_images_without_a_caption_are_skipped_and_counted(source, tmp_path, capsys):
    rows = write_rows(tmp_path / "captions.csv", source, leave_out=("cat/3.jpg", "dog/1.jpg", "dog/2.jpg"))
    examples = prepare(source, tmp_path / "out", rows)
    assert Counter(e.label for e in examples) == {"cat": 9, "dog": 8}
    assert "3 images, skipped" in capsys.readouterr().out


def test_counts_and_classes(source, captions, tmp_path):
    examples = prepare(source, tmp_path / "out", captions, classes="dog", train=4, val=3, test=2)
    assert Counter((e.label, e.split) for e in examples) == {("dog", "train"): 4, ("dog", "val"): 3, ("dog", "test"): 2}
    examples = prepare(source, tmp_path / "out", captions, classes="1", per_class=5)
    assert Counter((e.label, e.split) for e in examples) == {("cat", "train"): 3, ("cat", "val"): 1, ("cat", "test"): 1}


def test_names_that_would_collide(tmp_path):
    """1.jpg and 1.png become two files; a comma or a blank in a name does no harm."""
    source = tmp_path / "source"
    (source / "ice cream").mkdir(parents=True)
    for number, name in enumerate(("1.jpg", "1.png", "1.JPG", "a, b.jpg", "d e.jpg", "é.jpg")):
        picture(number).save(source / "ice cream" / name)
    examples = prepare(source, tmp_path / "out", write_rows(tmp_path / "c.csv", source))
    assert len(examples) == len({e.image for e in examples}) == 6
    assert {e.label for e in examples} == {"ice cream"}
    assert {path.stem.rstrip("_") for e in examples for path in [e.image]} == {"1", "a__b", "d_e", "é"}


def test_an_older_dataset_is_replaced_only_by_a_complete_one(source, captions, tmp_path):
    out = tmp_path / "out"
    prepare(source, out, captions, per_class=10)
    before = digests(out)
    with pytest.raises(ValueError, match=r"class 'cat': 10 usable images, 12 are needed \(10/1/1 for train"):
        prepare(source, out, captions, per_class=12)
    (source / "dog/0.jpg").write_bytes((source / "dog/1.jpg").read_bytes())  # found out while reading only
    with pytest.raises(ValueError, match="class 'dog': 9 usable images, 10 are needed"):
        prepare(source, out, captions, per_class=10)
    assert digests(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "out", "source"]
    assert len(prepare(source, out, captions, per_class=5)) == 10


def test_output_that_holds_something_else_is_left_alone(source, captions, tmp_path):
    """Writing over the photographs themselves, or over a folder with other things in it, would lose them."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "captions.csv").write_bytes(captions.read_bytes())
    (tmp_path / "file").touch()
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.jpg").touch()
    before = digests(tmp_path)
    for output, rows, message in (
        (source, captions, r"the output would replace .*source, which is read"),
        (tmp_path, captions, r"the output would replace .*source, which is read"),
        (inside, inside / "captions.csv", r"the output would replace .*captions.csv, which is read"),
        (source / "cat", captions, r"the output would lie inside .*source, which is read; give another --output"),
        (source / "new/out", captions, r"the output would lie inside .*source, which is read; give another --output"),
        (other, captions, r"holds 0.jpg, which is no part of a dataset"),
        (tmp_path / "file", captions, r"file: is a file; give another --output"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(source, output, rows)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_writing_leaves_the_older_dataset(source, captions, tmp_path, monkeypatch, error):
    """Ctrl-C or a full disk while the captions are written: the old dataset is whole, nothing else is left."""
    prepare(source, tmp_path / "out", captions)
    before = digests(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(prepare_data, "write_captions", fail)
    with pytest.raises(type(error)) as caught:
        prepare(source, tmp_path / "out", captions, per_class=5)
    if isinstance(error, OSError):
        assert caught.value.filename == str((tmp_path / "out").resolve())
    assert digests(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "out", "source"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "line 1: 'a,b', must be a header with the columns image and caption"),
        ("image,caption\ncat/0.jpg, \n", "line 2: empty caption"),
        ("image,caption\ncat/0.jpg,a\ncat/x.jpg,a\ncat/y.jpg,a\n", r"line 3: names cat/x.jpg, .* \(2 of 3 pictures"),
        ("image,caption\ncat/0.jpg,a, b\n", "line 2: 3 columns"),
    ],
)
def test_bad_captions(source, tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        prepare(source, tmp_path / "out", tmp_path / "bad.csv")
    assert str(caught.value).startswith(str(tmp_path / "bad.csv"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": ""}, "need captions: give --captions .*, or --captioner <model>, or --caption_template"),
        ({"caption_template": "a {class}"}, "give one of them"),
        ({"captions": "", "caption_template": "a cat"}, r"caption_template: got 'a cat', it must have \{class\} in it"),
        ({"captioner": "x"}, "give one of them"),
        ({"captions": "absent.csv"}, "absent.csv: no such file"),
        ({"source": "absent"}, "absent: no such folder; --source takes"),
        ({"source": str(SCRIPT.parent / "captioning")}, "no images in it or in folders below it"),
        ({"classes": "5"}, "classes: got 5, allowed is 1 to 2"),
        ({"train": 20, "val": 1, "test": 1}, r"class 'cat': 10 usable images, 22 are needed \(20/1/1"),
    ],
)
def test_bad_settings(source, captions, tmp_path, settings, message):
    given = {"source": str(source), "captions": str(captions), "output": str(tmp_path / "out"), "num_workers": 1}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        prepare_data.main({"prepare": prepare_data.CONFIG | given | settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": "3"}, "--classes: is for photos"),
        ({"train": 3}, "--train: is for photos"),
        ({"image_size": 128}, "pictograms have 256 pixels"),
        ({"per_class": 0}, "per_class: got 0"),
    ],
)
def test_pictograms_refuse_what_is_for_class_folders(tmp_path, settings, message):
    given = {"output": str(tmp_path / "out"), "num_workers": 1}
    with pytest.raises(ValueError, match=message):
        prepare_data.main({"prepare": prepare_data.CONFIG | given | settings})
    assert not (tmp_path / "out").exists()


# ---- the captioner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory):
    """A BLIP of random weights that knows a few words, as a folder."""
    pytest.importorskip("transformers")
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "dog", "small", "on"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**sizes, **ids, "vocab_size": len(words), "encoder_hidden_size": 16, "projection_dim": 8},
        vision_config={**sizes, "image_size": 32, "patch_size": 16, "projection_dim": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # random weights may prefer to end at once, or to pad: make them say words
        model.text_decoder.cls.predictions.bias[:5] = -100.0
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_captioner_describes_every_image(source, tmp_path, tiny_blip):
    """The last batch is a smaller one, and the same image gets the same caption in any batch."""
    one = prepare(source, tmp_path / "one", captioner=str(tiny_blip), captioner_batch=7, device="cpu")
    two = prepare(source, tmp_path / "two", captioner=str(tiny_blip), captioner_batch=1, device="cpu")
    assert len(one) == 20
    for example in one:
        (caption,) = example.captions
        assert set(caption.split()) <= {"a", "photo", "of", "cat", "dog", "small", "on"}
    assert [e.captions for e in one] == [e.captions for e in two]


def test_captioner_that_is_not_there(source, tmp_path, monkeypatch):
    """A wrong folder is one line, before any image is read."""
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(class_folders, "gather_photos", None)
    for name in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ValueError, match="neither a folder with an image-to-text model nor") as caught:
            prepare(source, tmp_path / "out", captioner=str(name))
        assert "\n" not in str(caught.value)


def test_captioner_without_network(source, tmp_path, monkeypatch):
    """One quick attempt; transformers alone would try for minutes, with a page of warnings."""
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(hub, "model_info", fail)
    with pytest.raises(ValueError, match=r"Hugging Face hub \(ConnectionError: no network\)$"):
        prepare(source, tmp_path / "out", captioner="nobody/no-such-model")


def test_captioner_without_transformers(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-captioner.txt"):
        prepare(source, tmp_path / "out", captioner="any")
    assert (SCRIPT.parent / "requirements-captioner.txt").is_file()


def test_captioner_without_words(source, tmp_path):
    with pytest.raises(ValueError, match=r"train/cat/0.jpg: the captioner gives ' .'"):
        prepare_data.describe_images(
            lambda images: [" ."] * len(images),
            write_source(tmp_path / "x/train", ["cat"], 1).parent,
            ["train/cat/0.jpg"],
            4,
        )


# ---- the script ------------------------------------------------------------------------------------


def test_script_makes_pictograms(tmp_path):
    """The bare command, made small: where the next script looks for it, with a preview."""
    done = run_script("--per_class", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("next: python vocab.py\n")
    examples = load_examples(tmp_path / "data/pictograms")
    assert Counter(e.split for e in examples) == {"train": 60, "val": 60, "test": 60}
    assert min(len(e.captions) for e in examples) >= 3
    with Image.open(tmp_path / "data/pictograms/preview.png") as preview:
        assert preview.width > 1000


def test_script_reads_class_folders(source, captions, tmp_path):
    """Relative paths, processes, and data/<name of the source> for output."""
    bad_images(source / "cat")
    write_rows(captions, source)
    arguments = ("--source", "source/", "--captions", "captions.csv", "--per_class", 0, "--num_workers", 2)
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dropped 4 unreadable" in done.stdout
    assert done.stdout.endswith("next: python vocab.py --data_dir data/source\n")
    assert len(load_examples(tmp_path / "data/source")) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "absent"), "absent: no such folder"),
        (("--source", "data/*.tar"), r"--source: data/\*\.tar is of tar shards, which only --shards takes"),
        (("--source", "source"), "need captions: give --captions"),
        (
            ("--source", "source", "--captions", "captions.csv", "--per_class", 300),
            "class 'cat': 10 usable images, 300 are needed",
        ),
        (("--sauce", "x"), "did you mean --source?"),
        (("--per_class", "many"), "allowed is a whole number"),
        (("--per_class", 2), "per_class: got 2"),
        (("--output", "."), "the output would|holds"),
        (("--output", "captions.csv/x"), r"^error: \S+/captions\.csv/x: a file stands where its folder should be"),
        (("--per_class", -2), "--prepare.per_class: got -2, allowed is -1 to 1000000"),
        (("--image_size", 8), "--prepare.image_size: got 8, allowed is 32 to 1024"),
        (("--source", "source", "--image_size", 50_000), "--prepare.image_size: got 50000, allowed is 32 to 1024"),
    ],
)
def test_script_with_bad_input(source, captions, tmp_path, arguments, message):
    """Exit code 2, one line, no traceback, nothing written."""
    before = digests(tmp_path)
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)
    assert digests(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "source"]


def test_real_photographs(shared_dir, tmp_path):
    """Aerial photographs of one class look alike, and are no copies; the one made here is."""
    source = tmp_path / "ucm"
    for label in ("beach", "harbor"):
        (source / label).mkdir(parents=True)
        for path in sorted((shared_dir / "data/ucm_captions/images" / label).glob("*.jpg"))[:30]:
            (source / label / path.name).write_bytes(path.read_bytes())
    with Image.open(next(source.glob("beach/*.jpg"))) as image:
        image.save(source / "harbor/copy.jpg", quality=70)
    result = gather(source, tmp_path / "out")
    assert (result.unreadable, result.exact, result.near) == ([], 0, 1)


def test_aliases_that_the_user_wrote_outlive_a_new_dataset(source, tmp_path):
    """docs/data.md asks for them; the next run removed them without a word."""
    for label in ("cat", "dog"):
        prepare(source, tmp_path / "out", caption_template=f"a {label} or a {{class}}")
        (tmp_path / "out" / "aliases.csv").write_text("class,alias\ncat,kitten\nwhale,orca\n")
    prepare(source, tmp_path / "out", caption_template="the {class}")
    assert load_dataset(tmp_path / "out").aliases == {"cat": ["kitten"]}  # there is no whale


def test_a_dataset_of_another_hand_is_not_replaced(source, captions, tmp_path):
    """A user's originals in the layout of a dataset were replaced, also by default, and where they are read from."""
    mine = tmp_path / "mine"
    prepare(source, mine, captions)
    with pytest.raises(ValueError, match="is read; give another --output"):
        prepare(tmp_path, mine, captions, images_dir=str(mine))
    (mine / "preview.png").unlink()
    before = digests(mine)
    with pytest.raises(ValueError, match=r"without a preview.png, so not of prepare_data.py"):
        prepare(source, mine, captions)
    assert digests(mine) == before


def test_files_that_captions_name_are_not_called_unread(source, tmp_path, capsys):
    """IMG.17 and d.jpg.1 were read, and told as files that are not."""
    first, second, *_ = sorted((source / "cat").glob("*.jpg"))
    first.rename(first.with_name("IMG.17"))
    second.rename(second.with_name("d.jpg.1"))
    (source / "cat" / "e.dat").touch()
    rows = [f"{path.relative_to(source)},a photo" for path in sorted(source.glob("*/*")) if path.suffix != ".dat"]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(rows))
    prepare(source, tmp_path / "out", tmp_path / "captions.csv")
    told = capsys.readouterr().out
    assert "1 .dat" in told
    assert ".17" not in told
    assert ".jpg.1" not in told


STARTED = """
import os, time
from captioning.data.copies import process_map

def wait(_):
    os.write(1, b"working\\n")  # at once: several write
    time.sleep(3)

if __name__ == "__mp_main__":  # of a process that is starting
    os.write(1, b"importing\\n")
    time.sleep(1)
if __name__ == "__main__":
    with process_map(2, chunksize=1) as run:
        list(run(wait, range(2)))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them_and_say_nothing(tmp_path, end):
    """They went on when it was killed, and held its output; on Ctrl-C while they started each had a traceback."""
    (tmp_path / "run.py").write_text(STARTED)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parent)},
        start_new_session=True,
    )
    assert process.stdout.readline() == "importing\n"
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does
    else:
        while process.stdout.readline() != "working\n":
            pass
        process.send_signal(end)
    _, said = process.communicate(timeout=30)  # ends when nobody holds the pipe any longer
    assert said.count("Traceback") <= (end == signal.SIGINT)  # its own, since this script has no cli.run


def test_split_folders_without_captions_are_somebodys_photographs(tmp_path):
    """They were once taken for a dataset of ours, and replaced."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds train without a captions.csv"):
        class_folders.check_replaceable(tmp_path, [])


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("cat", "a photo of a cat"),
        ("airplane", "a photo of an airplane"),
        ("scissors", "a photo of scissors"),
        ("glass", "a photo of a glass"),
        ("bus", "a photo of a bus"),
        ("octopus", "a photo of an octopus"),
        ("unicycle", "a photo of a unicycle"),
        ("tennis_court", "a photo of a tennis court"),
    ],
)
def test_a_template_gets_the_right_article(label, caption):
    assert prepare_data.fill_template("a photo of a {class}", label) == caption
    assert prepare_data.fill_template("a photo of an {class}", label) == caption


@pytest.mark.parametrize(
    ("template", "label", "caption"),
    [
        ("uma foto com a {class}", "abelha", "uma foto com a abelha"),  # "an" is no word of Portuguese
        ("uma foto com a {class}", "casas", "uma foto com a casas"),
        ("a {class}", "airplane", "an airplane"),
        ("A {class}", "airplane", "An airplane"),
        ("{class}가 있는 사진", "집", "집이 있는 사진"),
        ("{class}이(가) 있는 사진", "개", "개가 있는 사진"),
        ("{class}가(이) 있는 사진", "집", "집이 있는 사진"),
        ("{class}(이)랑 놀기", "집", "집이랑 놀기"),
        ("{class}(으)로 가는 길", "서울", "서울로 가는 길"),
        ("a {class} on grass", "airplane", "an airplane on grass"),
        ("a {class} seen from above", "scissors", "scissors seen from above"),
        ("I see a {class}", "apple", "I see an apple"),
        ("un gato junto a {class}", "abeja", "un gato junto a abeja"),
        ("kép: a {class}", "alma", "kép: a alma"),
        ("{class}으로 가는 길", "서울", "서울로 가는 길"),
        ("{class}가방", "집", "집가방"),  # no particle: a bag
        ("{class}가 있는 사진", "cat", "cat가 있는 사진"),  # nobody knows how a Latin letter is read
    ],
)
def test_a_template_of_another_language(template, label, caption):
    assert prepare_data.fill_template(template, label) == caption


def test_captions_from_a_template_alone_and_before_those_of_a_model(source, tmp_path, model_files):
    alone = prepare(source, tmp_path / "alone", caption_template="a photo of a {class}")
    assert {e.captions[0] for e in alone} == {"a photo of a cat", "a photo of a dog"}
    both = prepare(source, tmp_path / "both", caption_template="a {class}", captioner=str(model_files.onnx))
    assert all(e.captions[0].startswith(f"a {e.label}, ") and len(e.captions[0]) > 8 for e in both)


def test_all_photographs_are_taken_unless_told_otherwise(source, captions, tmp_path):
    """The commands for own data once ended at the first, which wanted 300 photographs of each class."""
    assert len(prepare(source, tmp_path / "out", captions, per_class=prepare_data.CONFIG["per_class"])) == 20


def test_a_dataset_of_any_layout_becomes_shards(pictograms_dir, tmp_path, monkeypatch, capsys):
    """Each train picture is in one shard with its captions; the other splits are a dataset; the words are the same."""
    output = tmp_path / "shards"
    given = {"source": str(pictograms_dir), "output": str(output), "shards": 7}
    for _ in range(2):  # the second replaces the first, and is the same
        prepare_data.main({"prepare": prepare_data.CONFIG | given})
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.rglob("*.tar"))]
    assert len(set(digests)) == 7
    assert f"next: python vocab.py --data_dir '{output}/train/{{00000..00006}}.tar'" in capsys.readouterr().out

    paths = find_shards([f"{output}/train/{{00000..00006}}.tar"])
    samples = [sample for path in paths for sample in read_samples(path, EVERYTHING)]
    train = load_examples(pictograms_dir, "train")
    expected = sorted((example.image.read_bytes(), example.captions, example.label) for example in train)
    assert sorted((one.picture, one.captions, one.info["label"]) for one in samples) == expected
    assert len({one.key for one in samples}) == len(train)
    for split in ("val", "test"):
        found, before = load_examples(output, split), load_examples(pictograms_dir, split)
        assert [(e.image.read_bytes(), e.captions, e.label) for e in found] == [
            (e.image.read_bytes(), e.captions, e.label) for e in before
        ]

    monkeypatch.chdir(tmp_path)
    for source in (str(pictograms_dir), f"{output}/train/{{00000..00006}}.tar"):
        vocab.main({"vocab": vocab.CONFIG | {"data_dir": source, "min_count": 1, "graph_path": "v.png"}})
        capsys.readouterr()
        words = vocab.load_vocabulary("vocab_1.pkl").itos
        assert words == vocab.build_vocabulary(vocab.count_words(c for e in train for c in e.captions)[0], 1).itos
        Path("vocab_1.pkl").unlink()

    # Trained on, they are the dataset that they were made from.
    shards = load_dataset(f"{output}/train/{{00000..00006}}.tar", "train", "val", "test")
    assert shards.root == output
    for split in ("train", "val", "test"):
        before = load_examples(pictograms_dir, split)
        keys = [
            sorted((load_image(e.image).tobytes(), e.captions, e.label) for e in group)
            for group in (shards.splits[split], before)
        ]
        assert keys[0] == keys[1]
    assert shards.aliases == load_aliases(pictograms_dir)

    # Shards are a layout, too: others are made of them.
    given = {"source": f"{output}/train/{{00000..00006}}.tar", "output": str(tmp_path / "again"), "shards": 2}
    prepare_data.main({"prepare": prepare_data.CONFIG | given})
    again = [
        sample for path in find_shards([f"{tmp_path}/again/train/*.tar"]) for sample in read_samples(path, EVERYTHING)
    ]
    assert sorted((one.picture, one.captions, one.info["label"]) for one in again) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 61}, "--shards: got 61, the train split has 60 images"),
        ({"shards": 2, "source": ""}, "--shards: needs --source"),
        ({"shards": 2, "source": "none"}, "none: no such"),
    ],
)
def test_shards_that_cannot_be_made_are_one_line(pictograms_dir, tmp_path, settings, message):
    given = {"source": str(pictograms_dir), "output": str(tmp_path / "shards")}
    with pytest.raises((ValueError, OSError), match=message):
        prepare_data.main({"prepare": prepare_data.CONFIG | given | settings})
    assert not (tmp_path / "shards").exists()


def test_the_drawn_dataset_takes_its_place_with_its_preview(tmp_path, monkeypatch):
    """A kill while the preview was drawn left a dataset without one, and a file that the next start refused."""
    monkeypatch.setattr(prepare_data.plots, "caption_grid", lambda *_, **__: pytest.fail("the preview"))
    with pytest.raises(pytest.fail.Exception, match="the preview"):
        prepare_data.prepare_pictograms(tmp_path / "data", per_class=3, num_workers=1)
    assert not list(tmp_path.iterdir())


def write_objects(folder, names, count=6):
    """A COCO dataset whose pictures show one object each, of the categories in turn."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    numbers = range(count)
    for number in numbers:
        picture(number).save(folder / "train2017" / f"{number}.jpg")
    captions = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in numbers],
        "annotations": [{"image_id": number, "caption": f"a thing {number}"} for number in numbers],
    }
    objects = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": n, "category_id": n % len(names), "area": 9} for n in numbers],
    }
    for kind, content in (("captions", captions), ("instances", objects)):
        (folder / "annotations" / f"{kind}_train2017.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("shards", [0, 1])
def test_class_names_from_a_file_are_no_paths(shards, tmp_path, capsys):
    """../../escaped was written to, and Cabinet/shelf and Cabinet/drawer became one class."""
    names = ["../../escaped", "Cabinet/shelf", "Cabinet/drawer"]
    write_objects(tmp_path / "coco", names)
    output = tmp_path / "deep" / "out"
    before = {path for path in tmp_path.rglob("*") if "coco" in path.parts}
    given = {"source": str(tmp_path / "coco"), "output": str(output), "num_workers": 1, "shards": shards}
    prepare_data.main({"prepare": prepare_data.CONFIG | given})
    found = load_dataset(f"{output}/train/00000.tar" if shards else output)
    assert found.classes == ["Cabinet_drawer", "Cabinet_shelf", "__.._escaped"]
    assert len(found.examples) == 6
    assert {path for path in tmp_path.rglob("*") if "deep" not in path.parts} - before <= {tmp_path / "coco"}
    told = capsys.readouterr().out
    assert (
        "note: class '../../escaped' is called '__.._escaped', a name that every disk can hold, and 2 more alike; "
        "captions may say both" in told
    )
    assert found.aliases == {"__.._escaped": names[:1], "Cabinet_shelf": names[1:2], "Cabinet_drawer": names[2:]}
    if not shards:
        assert f"note: there is no image for val and test; {tmp_path / 'coco'} has none" in told


def test_shards_and_folders_call_a_class_the_same(tmp_path):
    """Of bird's nest the train split had its name, the others bird_s nest."""
    source = write_source(tmp_path / "source", ("bird's nest", "बिल्ली", "cat"))
    captions = write_rows(source / "captions.csv", source)
    (source / "aliases.csv").write_text("class,alias\ncat,kitten\n")
    assert captions.is_file()
    given = {"source": str(source), "output": str(tmp_path / "out"), "shards": 1}
    for _ in range(2):  # and a dataset with aliases can be written again
        prepare_data.main({"prepare": prepare_data.CONFIG | given})
    shards = load_dataset(str(tmp_path / "out" / "train" / "00000.tar"))
    assert shards.classes == sorted(["bird's nest", "बिल्ली", "cat"])
    assert len({example.label for split in ("val", "test") for example in shards.splits[split]} - {"cat"}) > 0
    assert shards.aliases == {"cat": ["kitten"]}
    prepare(source, tmp_path / "photos")
    assert load_dataset(tmp_path / "photos").aliases == {"cat": ["kitten"]}


def test_an_annotated_source_is_a_folder_or_a_file_wherever_its_pictures_lie(tmp_path):
    """A file, COCO's file, and a link with pictures elsewhere ended in an error about the unfinished output."""
    source = write_source(tmp_path / "real" / "source")
    write_rows(source / "captions.csv", source)
    (tmp_path / "link").symlink_to(source)
    pictures = tmp_path / "pictures"
    shutil.copytree(source, pictures, ignore=shutil.ignore_patterns("*.csv"))
    expected = {e.image.relative_to(tmp_path / "a"): e.captions for e in prepare(source, tmp_path / "a")}
    for name, given, settings in (
        ("b", source / "captions.csv", {}),
        ("c", tmp_path / "link", {}),
        ("d", tmp_path / "link", {"images_dir": str(pictures)}),
        ("e", tmp_path / "link" / "captions.csv", {"images_dir": str(pictures)}),
    ):
        found = prepare(given, tmp_path / name, **settings)
        assert {e.image.relative_to(tmp_path / name): e.captions for e in found} == expected


def test_cocos_pictures_without_annotations_have_no_caption(tmp_path, capsys):
    """unlabeled2017 beside train2017 and val2017, as COCO has it, once was an error."""
    coco = write_objects(tmp_path / "coco", ["cat", "dog"])
    (coco / "unlabeled2017").mkdir()
    picture(9).save(coco / "unlabeled2017" / "9.jpg")
    for source in (coco, coco / "annotations" / "captions_train2017.json"):
        assert len(prepare(source, tmp_path / "out")) == 6
        assert "without caption  1 image, skipped" in capsys.readouterr().out


def test_the_default_output_of_a_file_is_named_as_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_source(tmp_path / "birds")
    write_rows(source / "captions.csv", source)
    prepare("birds/captions.csv", "")
    assert (tmp_path / "data" / "birds" / "captions.csv").is_file()


def test_a_source_of_which_nothing_can_be_read_names_the_first_picture(tmp_path):
    for number in range(3):
        (tmp_path / "source" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / "cat" / f"{number}.jpg").write_text("<html>404")
    with pytest.raises(
        ValueError, match=r"source: none of 3 images can be read, the first is .*cat/\d.jpg: not a read"
    ):
        prepare(tmp_path / "source", tmp_path / "out", caption_template="a {class}")
    assert not (tmp_path / "out").exists()


def test_classes_of_commas_are_refused(source, captions, tmp_path):
    with pytest.raises(ValueError, match=r"^classes: got ' , ', allowed is a number, or names with commas between"):
        prepare(source, tmp_path / "out", captions, classes=" , ")


def test_an_audit_takes_a_dataset_without_a_test_split(tmp_path, monkeypatch):
    """It read all pictures and ended in KeyError: 'test'."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, split in enumerate(["train"] * 4 + ["val"] * 2):
        (tmp_path / "birds" / split / "cat").mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / "birds" / split / "cat" / f"{number}.jpg")
        rows.append(f"{split}/cat/{number}.jpg,a cat {number}\n")
    (tmp_path / "birds" / "captions.csv").write_text("image,caption\n" + "".join(rows))
    prepare_data.main({"prepare": prepare_data.CONFIG | {"audit": "birds", "num_workers": 1}})
    assert Path("reports/birds_audit/audit.csv").is_file()


def test_a_shard_may_have_brackets_in_its_name(tmp_path):
    write_shard(tmp_path / "set[1]" / "00000.tar", [("1", {"jpg": b"\xff\xd8", "txt": b"a cat"})])
    assert find_shards([str(tmp_path / "set[1]" / "00000.tar")]) == [tmp_path / "set[1]" / "00000.tar"]


def test_aliases_are_read_before_any_picture_and_keep_their_class_however_it_is_spelt(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source", ("Tennis court", "park"))
    write_rows(source / "captions.csv", source)
    (source / "aliases.csv").write_text("class,alias\ntennis_court,court\n")
    prepare(source, tmp_path / "out")
    assert load_aliases(tmp_path / "out") == {"Tennis court": ["court"]}
    monkeypatch.setattr(class_folders, "gather_photos", None)
    for row, told in (
        ("tennis_curt,court", "got 'tennis_curt', which is not a class"),
        ("park,", "empty class or alias"),
    ):
        (source / "aliases.csv").write_text(f"class,alias\n{row}\n")
        with pytest.raises(ValueError, match=told):
            prepare(source, tmp_path / "other")

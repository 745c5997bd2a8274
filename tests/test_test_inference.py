"""The draw of script 6, its picture, and what it does without classes, images or a display."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import model as model_script
import test_inference as script
from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.data.annotations import Example
from captioning.evaluation import Prediction
from captioning.scores.grounding import Grounder
from vocab import SPECIALS


@pytest.fixture
def examples(tmp_path):
    """Three images each of the classes c0 ... c5."""
    found = []
    for label in range(6):
        for number in range(3):
            path = tmp_path / f"images/c{label}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 24), (40 * label, 80 * number, 0)).save(path)
            found.append(Example(path, [f"a c{label}"], f"c{label}", "test"))
    return found


def unlabelled(examples):
    return [Example(e.image, e.captions, "", e.split) for e in examples]


def test_draw_gives_different_classes(examples):
    drawn = script.draw_examples(examples, 4, seed=0)
    assert len({example.label for example in drawn}) == 4
    assert drawn == sorted(drawn, key=lambda example: example.label)


def test_draw_depends_on_the_seed_alone(examples):
    first = script.draw_examples(examples, 4, seed=0)
    assert script.draw_examples(examples[::-1], 4, seed=0) == first
    assert any(script.draw_examples(examples, 4, seed=seed) != first for seed in range(1, 4))


def test_draw_takes_all_where_there_are_fewer(examples):
    assert len(script.draw_examples(examples, 20, seed=0)) == 6


def test_draw_without_classes_gives_different_images(examples):
    drawn = script.draw_examples(unlabelled(examples), 10, seed=0)
    assert len({example.image for example in drawn}) == 10


def test_draw_replaces_an_unreadable_image(examples, capsys):
    for example in examples[:2]:
        example.image.write_bytes(b"no picture")
    drawn = script.draw_examples(examples[:3], 1, seed=1)
    assert drawn == [examples[2]]
    examples[2].image.unlink()
    with pytest.raises(ValueError, match="none of its images"):
        script.draw_examples(examples[:3], 1, seed=1)
    assert "not a readable image" in capsys.readouterr().out


def test_draw_refuses_no_class(examples):
    with pytest.raises(ValueError, match="num_classes: got 0"):
        script.draw_examples(examples, 0, seed=0)


@pytest.mark.parametrize(("caption", "style"), [("a c1", "right"), ("a c2", "wrong"), ("", "wrong")])
def test_lines_mark_a_caption_that_names_the_class(examples, caption, style):
    log_prob = math.log(0.25) * (len(caption.split()) + 1)  # every token, <end> included, has probability 1/4
    lines = script.prediction_lines(Prediction(examples[3], caption, log_prob), Grounder(["c1", "c2"]))
    assert lines == [("c1", "label"), (caption, style), ("confidence 0.25", "caption"), ("ref: a c1", "reference")]


def test_lines_without_a_class_have_no_mark(examples):
    lines = script.prediction_lines(Prediction(unlabelled(examples)[0], "a c1", 0.0), None)
    assert [style for _, style in lines] == ["caption", "caption", "reference"]


@pytest.fixture
def tiny(tmp_path, monkeypatch, examples):
    """The configuration of a random model and a data folder of six classes, on a machine without a display."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(script.sys, "platform", "linux")
    rows = ["image,caption"]
    for example in examples:
        path = tmp_path / "data/tiny/test" / example.label / example.image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        example.image.rename(path)
        rows.append(f"test/{example.label}/{path.name},a {example.label}")
    Path("data/tiny/captions.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    config = {**model_script.CONFIG, "embed_size": 8, "hidden_size": 8}
    vocab = [*SPECIALS, "a", "c1"]
    network = model_script.build_model(len(vocab), config)
    transform = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_checkpoint(
        "checkpoints/mobile.safetensors", Checkpoint(network.state_dict(), {"model": config}, vocab, transform)
    )
    return {**script.CONFIG, "data_dir": "data/tiny", "device": "cpu", "max_len": 5}


def test_script_writes_the_picture(tiny, capsys):
    script.main({"inference": tiny})
    with Image.open("reports/mobile/test_inference.png") as image:
        assert image.width > 4000  # five pictures of 2.5 inches in a row, to be printed
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    out = capsys.readouterr().out
    assert "6 classes instead of 20" in out
    assert f"wrote {Path('reports/mobile/test_inference.png')}" in out


def test_script_takes_other_splits_and_numbers(tiny):
    for name in ("val", "train"):
        (Path("data/tiny") / name / "c0").mkdir(parents=True)
        Image.new("RGB", (32, 24), "red").save(f"data/tiny/{name}/c0/0.jpg")
        with open("data/tiny/captions.csv", "a") as file:
            file.write(f"{name}/c0/0.jpg,a c0\n")
    script.main({"inference": {**tiny, "split": "val", "num_classes": 1, "dpi": 120}})
    with Image.open("reports/mobile/val_inference.png") as image:
        assert 300 < image.width < 500  # one picture, for a screen


def test_script_says_when_there_are_no_classes(tiny, capsys):
    for folder in list(Path("data/tiny/test").iterdir()):
        for image in list(folder.iterdir()):
            image.rename(Path("data/tiny", f"{folder.name}_{image.name}"))
    names = sorted(path.name for path in Path("data/tiny").glob("*.jpg"))
    Path("data/tiny/captions.txt").write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in names))
    for split, part in (("train", names[:2]), ("dev", names[2:4]), ("test", names[4:])):
        Path(f"data/tiny/Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n")
    Path("data/tiny/captions.csv").unlink()
    script.main({"inference": {**tiny, "num_classes": 3, "output": "out/three.png"}})
    assert "the data has no classes; drawn at random: 3 images" in capsys.readouterr().out
    assert Path("out/three.png").is_file()


def test_script_shows_the_picture_only_where_there_is_a_display(tiny, monkeypatch):
    shown = []
    monkeypatch.setattr(script, "show_picture", shown.append)
    script.main({"inference": tiny})
    assert shown == []
    monkeypatch.setenv("DISPLAY", ":0")
    script.main({"inference": {**tiny, "show": False}})
    assert shown == []
    script.main({"inference": tiny})
    assert shown == [Path("reports/mobile/test_inference.png")]


def test_a_viewer_that_fails_does_not_stop_the_script(examples, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError("no viewer")

    monkeypatch.setattr(Image.Image, "show", fail)
    script.show_picture(examples[0].image)
    assert "could not be opened" in capsys.readouterr().out


def test_attention_is_drawn_and_refused_where_there_is_none(tiny, capsys):
    with pytest.raises(ValueError, match=r"attention: checkpoints/mobile.safetensors has none; train one with"):
        script.main({"inference": {**tiny, "attention": True}})
    assert not Path("reports").exists()
    config = {**model_script.CONFIG, "embed_size": 8, "hidden_size": 8, "decoder": "attention"}
    vocab = [*SPECIALS, "a", "c1"]
    network = model_script.build_model(len(vocab), config)
    transform = {"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
    path = "checkpoints/looks.safetensors"
    save_checkpoint(path, Checkpoint(network.state_dict(), {"model": config}, vocab, transform))
    script.main({"inference": {**tiny, "model_path": path, "attention": True, "num_classes": 2}})
    with Image.open("reports/looks/test_inference_attention.png") as image:
        assert image.height > 250
    assert "and reports/looks/test_inference_attention.png" in capsys.readouterr().out

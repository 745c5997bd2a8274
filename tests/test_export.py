"""Script export.py: its files, its table and its model folder."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import export
from caption import Captioner
from captioning.data.annotations import load_examples
from captioning.data.examples import Example
from captioning.evaluation import Prediction
from captioning.scores.grounding import Grounder

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "pictograms.safetensors"


def test_draw_keeps_the_order_and_depends_on_the_seed():
    examples = list(range(100))
    drawn = export.draw(examples, 10, seed=0)
    assert drawn == sorted(drawn) == export.draw(examples, 10, seed=0)
    assert drawn != export.draw(examples, 10, seed=1)
    assert export.draw(examples, 1000, seed=0) == examples


def test_table_of_the_three_forms(model_files, pictograms_dir):
    """PyTorch and ONNX say the same on every test picture, with a beam and greedily; int8 is close and small."""
    examples = load_examples(pictograms_dir, "test")
    paths = dict(zip(export.FORMS, (model_files.checkpoint, model_files.onnx, model_files.int8), strict=True))
    grounder = Grounder({example.label for example in examples})
    table = export.build_table(paths, examples, export.SearchOptions(), grounder, num_runs=1).set_index("form")
    assert list(table.index) == list(export.FORMS)
    for name in ("same beam captions", "same greedy captions"):
        assert table.loc["ONNX float32", name] == 1
        assert table.loc["ONNX int8", name] > 0.7
    for name in ("BLEU-4", "CIDEr-D", "accuracy"):
        assert table.loc["ONNX float32", name] == table.loc["PyTorch", name] > 0.8
        assert table.loc["ONNX int8", name] > table.loc["PyTorch", name] - 0.1
    assert table.loc["ONNX int8", "MB"] == pytest.approx(model_files.int8.stat().st_size / 1e6)
    assert table.loc["ONNX int8", "MB"] < 6
    assert (table[["ms, 1 thread", "ms, 2 threads"]] > 0).all(axis=None)


def test_score_is_that_of_the_report(pictograms_dir):
    example = load_examples(pictograms_dir, "test")[0]
    predictions = [Prediction(example, example.captions[0], 0.0)] * 3
    right, wrong = Grounder([example.label]), Grounder(["whale"])
    assert export.score_form(predictions, right, "words")["BLEU-4"] == pytest.approx(1)
    assert export.score_form(predictions, right, "words")["accuracy"] == 1
    assert export.score_form(predictions, wrong, "words")["accuracy"] == 0
    assert "accuracy" not in export.score_form(predictions, None, "words")


def test_score_counts_what_the_model_counts():
    """In words a Chinese caption is one, and BLEU-4 of a perfect one was 0."""
    example = Example(Path("1.jpg"), ["一只黑色的猫坐在草地上"], "", "test")
    prediction = Prediction(example, example.captions[0], 0.0)
    assert export.score_form([prediction], None, "characters")["BLEU-4"] == pytest.approx(1)


def test_markdown_table_is_one():
    text = export.to_markdown(pd.DataFrame({"form": ["a"], "MB": [1.23456]}), "Title")
    assert text == "Title\n\n| form | MB |\n| --- | --- |\n| a | 1.235 |\n"


def test_script_writes_the_files_and_the_folder(pictograms_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.hub, "upload", lambda folder, name: "not uploaded: log in")
    report = tmp_path / "report"
    report.mkdir()
    with open(report / "summary.csv", "w", newline="") as file:
        csv.writer(file).writerows([["metric", "value", "recipe"], ["BLEU-4", 0.5, "bleu4|x"]])
    monkeypatch.chdir(tmp_path)
    config = export.CONFIG | {"model_path": str(SHIPPED), "data_dir": str(pictograms_dir), "num_images": 8}
    config |= {"num_runs": 1, "calibration_images": 8, "hub": "a/b", "report": str(report), "beam_size": 2}
    export.main({"export": config})
    written = {path.name for path in Path("exports").iterdir()}
    assert written == {
        "pictograms.onnx", "pictograms_int8.onnx", "pictograms.csv", "pictograms.md", "pictograms_hub",
    }  # fmt: skip
    assert len(pd.read_csv("exports/pictograms.csv")) == 3
    assert Path("exports/pictograms.md").read_text() in capsys.readouterr().out
    picture = np.zeros((64, 64, 3), np.uint8)
    assert Captioner.load("exports/pictograms_hub/model_int8.onnx")(picture)


def test_a_table_of_another_model_does_not_stay(model_files, pictograms_dir, tmp_path, monkeypatch, capsys):
    """With --num_images 0 the scores of an earlier model stood beside the files of the new one."""
    monkeypatch.chdir(tmp_path)
    config = export.CONFIG | {"data_dir": str(pictograms_dir), "num_images": 0, "calibration_images": 4}
    Path("exports").mkdir()
    for name in ("m.csv", "m.md", "m.pte", "other.md"):
        Path("exports", name).write_text("old")
    shutil.copy(model_files.checkpoint, "m.safetensors")
    export.main({"export": config | {"model_path": "m.safetensors"}})
    assert sorted(path.name for path in Path("exports").iterdir()) == ["m.onnx", "m_int8.onnx", "other.md"]
    Path("exports", "m.md").write_text("of this model")
    export.main({"export": config | {"model_path": "m.safetensors"}})
    assert Path("exports", "m.md").is_file(), "the model is the same"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_path": "a.onnx"}, r"a\.onnx: a \.safetensors checkpoint is exported"),
        ({"hub": "name"}, "must be owner/name"),
        ({"hub": "a/b"}, "summary.csv is not there"),
        ({"split": "tests"}, "split: got 'tests'"),
        ({"data_dir": "nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        export.main({"export": export.CONFIG | {"model_path": str(SHIPPED)} | change})
    assert not list(tmp_path.iterdir())

"""Resume files: what the first format held is read, and a file of another run, version or project is one clear line."""

import pandas as pd
import pytest
import torch

from captioning.checkpoint import load_checkpoint, save_resume
from captioning.runtime import random_state
from captioning.training.history import RESUME_FORMAT, Record, check_identity, load_run

IDENTITY = {"train.lr": 0.1, "train.ema": 0.9, "vocabulary": ["<pad>", "sun"], "data": {"name": "a"}}
STATE = {name: {name: torch.ones(2)} for name in ("model", "optimizer", "scheduler", "scaler", "averaged")}
REST = {"stage": 1, "history": [{"epoch": 1}], "best": {"epoch": 1}, "best_weights": {"w": torch.ones(1)}}


def format_1():
    """Return what commit 56669ee wrote."""
    return {**STATE, **REST, "random": random_state(), **IDENTITY}


def format_2():
    return {
        "format": 2, "state": STATE, **REST, "random": random_state(), "tracker_id": "abc",
        "identity": IDENTITY,
    }  # fmt: skip


@pytest.mark.parametrize(("content", "tracker_id"), [(format_1, ""), (format_2, "abc")])
def test_every_format_is_read_into_todays(tmp_path, content, tracker_id):
    save_resume(tmp_path / "a_last.pt", content())
    resumed = load_run(tmp_path / "a_last.pt")
    assert resumed.keys() == {*format_2(), "launch"}
    assert resumed["state"].keys() == {*STATE, "tally"}
    assert resumed["format"] == RESUME_FORMAT
    assert torch.equal(resumed["state"]["optimizer"]["optimizer"], torch.ones(2))
    assert {name: resumed[name] for name in ("stage", "history", "best")} == {
        name: REST[name] for name in ("stage", "history", "best")
    }
    assert resumed["identity"] == IDENTITY
    assert resumed["tracker_id"] == tracker_id


@pytest.mark.parametrize(("freeze", "rate"), [(True, 3e-4), (False, 0.1)])
def test_a_whole_encoder_trained_at_lr_until_format_4(tmp_path, freeze, rate):
    """Whatever encoder_lr said; and a run is known by its file, not by how its name was given."""
    content = format_2()
    content["identity"] = IDENTITY | {"train.freeze_encoder": freeze, "train.encoder_lr": 3e-4, "train.run": ""}
    save_resume(tmp_path / "a_last.pt", content)
    identity = IDENTITY | {"train.freeze_encoder": freeze, "train.encoder_lr": rate}
    check_identity(load_run(tmp_path / "a_last.pt"), identity, "a_last.pt")


@pytest.mark.parametrize("content", [format_1, format_2])
def test_a_setting_that_an_older_file_lacks_takes_todays_value(tmp_path, content):
    """A new key of CONFIG once made every run that was under way useless."""
    save_resume(tmp_path / "a_last.pt", content())
    check_identity(load_run(tmp_path / "a_last.pt"), IDENTITY | {"train.later": 7}, "a_last.pt")


@pytest.mark.parametrize("content", [format_1, format_2])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train.lr": 0.2}, "a_last.pt: its train.lr was 0.1, now it is 0.2"),
        ({"vocabulary": ["<pad>"]}, "a_last.pt: its vocabulary was 2 words, now it is 1 words"),
    ],
)
def test_another_run_is_named_by_the_first_difference(tmp_path, content, change, line):
    save_resume(tmp_path / "a_last.pt", content())
    with pytest.raises(ValueError, match=line):
        check_identity(load_run(tmp_path / "a_last.pt"), IDENTITY | change, "a_last.pt")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (format_2() | {"format": 99}, "a_last.pt: resume format 99, this version reads 1 to 4"),
        (format_1() | {"format": True}, "a_last.pt: resume format True, this version reads 1 to 4"),
        (format_2() | {"stage": True}, "a_last.pt: 'stage' is a bool, must be a int"),
        (format_2() | {"history": {}}, "a_last.pt: 'history' is a dict, must be a list"),
        (format_2() | {"history": [1]}, r"a_last.pt: history\[0\] is a int, must be a dict"),
        (format_2() | {"history": [{"epoch": True}]}, r"a_last.pt: history\[0\] has epoch True, which is no number"),
        (format_2() | {"best": {"value": [1]}}, r"a_last.pt: best has value \[1\], which is no number"),
        (format_2() | {"format": "2"}, "a_last.pt: not a resume file of this project"),
        ({"format": 2}, "a_last.pt: not a resume file of this project"),
        ({"model": {}}, "a_last.pt: not a resume file of this project"),
        ([1, 2], "a_last.pt: not a resume file of this project"),
        (format_2() | {"identity": {**IDENTITY, "train.gone": 1}}, "a_last.pt: has a setting train.gone, which this"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(tmp_path, content, line):
    save_resume(tmp_path / "a_last.pt", content)
    with pytest.raises(ValueError, match=line):
        check_identity(load_run(tmp_path / "a_last.pt"), IDENTITY, "a_last.pt")


class Log:
    """A tracker that remembers what it was given."""

    run_id = "abc"

    def __init__(self):
        self.steps = []

    def log(self, values, step):
        self.steps.append(step)


def test_a_resumed_record_writes_what_the_interruption_left_out(tmp_path, monkeypatch):
    """The table, the figures, the best checkpoint and the tracker's row of the last epoch, before it trains again."""
    monkeypatch.chdir(tmp_path)
    row = {"epoch": 1, "stage": "decoder", "train_loss": 2.0, "val_loss": 1.0, "token_accuracy": 0.5, "cider_d": 0.1}
    fixed = {"config": {"model": {}}, "vocab": ["a"], "transform": {"image_size": 8, "mean": [0.5] * 3, "std": [1] * 3}}
    record = Record("a", "cider_d", Log(), identity=IDENTITY, fixed=fixed, settings={"half": False, "save_minutes": 0})
    record.add(row, {"w": torch.ones(2)})
    record.save_last(STATE, 1)
    assert not (tmp_path / "runs").exists()
    record.best_path.unlink()

    resumed = Record("a", "cider_d", Log(), identity=IDENTITY, fixed=fixed, settings={"half": False, "save_minutes": 0})
    resumed.resume(load_run(record.last_path))
    assert resumed.tracker.steps == [1]
    assert len(pd.read_csv(tmp_path / "runs" / "a" / "history.csv")) == 1
    assert all((tmp_path / "graphs" / f"{kind}_a.png").stat().st_size > 1000 for kind in ("tl", "vl", "va"))
    assert load_checkpoint(record.best_path).best == {"metric": "cider_d", "value": 0.1, "epoch": 1}


def test_more_epochs_are_told_how_to_train_on():
    saved, today = {"identity": {"train.epochs": 2}}, {"train.epochs": 9}
    with pytest.raises(ValueError, match="was 2, now it is 9; .* another --train.run with --train.init a.safetensors"):
        check_identity(saved, today, "a_last.pt")

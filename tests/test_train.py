"""Training as a user runs it, by its command line, on a tiny set of pictograms."""

import contextlib
import io
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import processes
import pytest
import torch
from drawn import copy_classes, keep_classes
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from captioning import process, runtime
from captioning.checkpoint import load_checkpoint
from captioning.data.annotations import Example, load_examples
from captioning.data.pictograms import write_dataset
from captioning.data.sequences import Captions
from captioning.data.tars import write_shard
from captioning.runtime import Machine
from captioning.scores.grounding import Grounder
from captioning.search.options import SearchOptions
from captioning.training import history
from captioning.training.features import compute_views
from captioning.training.history import Record
from captioning.training.losses import CaptionLoss, LossTerms
from captioning.training.optimisation import Run, build_scheduler, moving_average
from captioning.training.stages import Stage
from captioning.training.validation import Validation
from data_loader import CachedBatches, EvalTransform, StageData
from model import CNNtoRNN, start_model
from train import drop_class_terms, train_one_epoch
from vocab import SPECIALS, Vocabulary

ROOT = Path(__file__).resolve().parents[1]
TINY = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 12 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16
    --train.max_len 8 --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0
""".split()  # noqa: SIM905
FIGURES = ("tl", "vl", "va")


def run(script, *flags, cwd, code=0):
    """Run a script of the project as its command line would, in this process; its stdout and stderr."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setattr(sys, "argv", [script, *flags])
        patch.setattr(process, "set_up", lambda: None)  # of this process, which has other tests to run
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                status = end.code
    torch.set_flush_denormal(False)
    assert status == code, err.getvalue()[-2000:]
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(autouse=True)
def light_figures(monkeypatch):
    """A figure's file holds the number of epochs that it would show: drawing takes half of so short a training.

    The end-to-end test has them drawn.
    """

    def note(rows, run):
        Path("graphs").mkdir(exist_ok=True)
        for kind in FIGURES:
            Path(f"graphs/{kind}_{run}.png").write_text(str(len(rows)))

    monkeypatch.setattr(history, "save_graphs", note)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictograms_dir):
    """A working directory with a picture of each of 24 classes in each split, and their vocabulary."""
    folder = tmp_path_factory.mktemp("work")
    copy_classes(pictograms_dir, folder / "data")
    run("vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl", cwd=folder)
    return folder


def weights(folder, name):
    return load_checkpoint(folder / "checkpoints" / f"{name}.safetensors").weights


def read_history(folder, name):
    return pd.read_csv(folder / "runs" / name / "history.csv")


def train_tiny(folder, name, flags, code=0):
    """Run train.py on TINY, without WandB."""
    return run("train.py", *TINY, *flags.split(), "--train.wandb", "off", "--train.run", name, cwd=folder, code=code)


@contextlib.contextmanager
def stopped(place, epoch):
    """Stop a training at a place of an epoch, as Ctrl-C pressed there would.

    place: "validated", before anything of the epoch is saved; "added", after its checkpoint and before its resume file;
           "saved", after its resume file and before its row of history.csv; "shown", after all that it writes
    """
    method, before = {
        "validated": ("add", True), "added": ("add", False), "saved": ("save_last", False), "shown": ("show", False)
    }[place]  # fmt: skip
    original = getattr(Record, method)

    def stopping(self, *args, **kwargs):
        if before and len(self.history) == epoch - 1:
            raise KeyboardInterrupt
        result = original(self, *args, **kwargs)
        if not before and len(self.history) == epoch:
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, method, stopping)
        yield


def assert_same_run(folder, expected, got):
    """Assert that two runs have the same history and the same best weights, and that all files of both are there."""
    whole, parts = (read_history(folder, name).drop(columns=["seconds", "figure_seconds"]) for name in (expected, got))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-6)
    expected, got = weights(folder, expected), weights(folder, got)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-6)


STAGES = {
    "decoder": "--train.epochs 3",
    "everything": "--train.epochs 2 --train.freeze_encoder false --train.accumulate 2 --train.self_critical_epochs 2 "
    "--train.half",
    "all": "--train.epochs 1 --train.finetune_epochs 3 --train.self_critical_epochs 3 --train.ema 0.9 "
    "--train.scheduled_sampling 0.2",
    "attention": "--train.epochs 1 --train.finetune_epochs 2 --train.self_critical_epochs 2 --model.decoder attention "
    "--train.class_loss 1 --train.class_emphasis 1 --train.class_reward 1 --train.word_loss 0.1",
}


@pytest.fixture(scope="module")
def whole(folder):
    """Return a function (key of STAGES) -> the name of a run of these stages that nothing interrupts."""
    done = set()

    def finished(stages):
        if stages not in done:
            train_tiny(folder, f"whole_{stages}", STAGES[stages])
            done.add(stages)
        return f"whole_{stages}"

    return finished


@pytest.mark.parametrize(
    ("stages", "place", "epoch"),
    [
        ("decoder", "shown", 1),
        ("decoder", "validated", 3),
        ("decoder", "added", 2),
        ("decoder", "saved", 3),
        ("everything", "shown", 1),
        ("everything", "saved", 2),
        ("everything", "validated", 4),
        ("all", "shown", 2),
        ("all", "saved", 3),
        ("all", "shown", 4),
        ("all", "added", 4),
        ("all", "saved", 6),
        ("all", "shown", 7),
        ("attention", "shown", 2),
        ("attention", "saved", 4),
    ],
)
def test_resuming_equals_the_uninterrupted_run(folder, whole, stages, place, epoch):
    """Stopped in any stage, between two, or after the last epoch, the resumed run ends as if nothing had happened.

    Ctrl-C between the last epoch's resume file and its row of history.csv once left the table and the graphs a row
    short for good.
    """
    name = f"parts_{stages}_{place}_{epoch}"
    with stopped(place, epoch):
        train_tiny(folder, name, STAGES[stages], code=130)
    table = folder / "runs" / name / "history.csv"
    assert (len(read_history(folder, name)) if table.exists() else 0) == epoch - (place != "shown")
    figures = [folder / "graphs" / f"{kind}_{name}.png" for kind in FIGURES]
    for path in figures:
        path.unlink(missing_ok=True)
    train_tiny(folder, name, f"{STAGES[stages]} --train.resume")
    assert_same_run(folder, whole(stages), name)
    assert [int(path.read_text()) for path in figures] == [len(read_history(folder, name))] * 3


SMALL_BATCHES = (
    "--data.batch_size 24 --train.finetune_batch_size 6 --train.self_critical_batch_size 6 --train.save_minutes 1e-9 "
)
STAGES["small"] = SMALL_BATCHES + STAGES["all"].replace("epochs 3", "epochs 1")
STAGES["small_of_files"] = (
    SMALL_BATCHES + "--train.epochs 1 --train.freeze_encoder false --train.accumulate 2 --train.self_critical_epochs 0"
)


@contextlib.contextmanager
def stopped_after_step(stage, step):
    """Stop a training after this many steps in the stage of this number, once the step's resume file is written."""
    original, seen = Record.save_if_due, []

    def stopping(self, run, number):
        original(self, run, number)
        seen.append(number)
        if seen.count(stage) == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "save_if_due", stopping)
        yield


def assert_equal_run(folder, expected, got):
    """As assert_same_run, to the last bit."""
    whole, parts = (read_history(folder, name).drop(columns=["seconds", "figure_seconds"]) for name in (expected, got))
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)
    expected, got = weights(folder, expected), weights(folder, got)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("stages", "stops"),
    [("small", [(0, 1), (0, 1), (1, 2)]), ("small", [(2, 3), (2, 1)]), ("small_of_files", [(0, 1)])],
)
def test_resuming_inside_an_epoch_equals_the_uninterrupted_run(folder, whole, stages, stops):
    """Weights and history to the last bit: dropout, order, views and samples go on where they were."""
    name = f"inside_{stages}_{len(stops)}"
    for number, place in enumerate(stops):
        with stopped_after_step(*place):
            train_tiny(folder, name, f"{STAGES[stages]}{' --train.resume' * (number > 0)}", code=130)
    said = train_tiny(folder, name, f"{STAGES[stages]} --train.resume").stdout
    assert re.search(r"going on with checkpoints/\w+_last.pt, after epoch \d and [1-9]\d* batch", said)
    assert_equal_run(folder, whole(stages), name)


def test_resuming_on_shards_inside_an_epoch_equals_the_uninterrupted_run(folder):
    """To the last bit as in a folder, each epoch with its own draw of samples; other samples_per_epoch are refused."""
    samples = []
    for number, example in enumerate(load_examples(folder / "data", "train")):
        known = {"captions": example.captions, "label": example.label}
        samples.append((f"{number:02}", {"jpg": example.image.read_bytes(), "json": json.dumps(known).encode()}))
    for name, chosen in (("train-0", samples[:16]), ("train-1", samples[16:20]), ("val-0", samples[20:])):
        write_shard(folder / f"shards/{name}.tar", chosen)
    flags = SMALL_BATCHES + "--data.data_dir shards/*.tar --data.samples_per_epoch 10 --data.batch_size 4 "
    flags += "--train.epochs 2 --train.finetune_epochs 1 --train.self_critical_epochs 0"
    said = train_tiny(folder, "whole_shards", flags).stdout
    assert "20 train and 4 val images" in said
    for number, place in enumerate([(0, 2), (0, 3), (1, 1)]):
        with stopped_after_step(*place):
            train_tiny(folder, "shards", f"{flags}{' --train.resume' * (number > 0)}", code=130)
    other = flags.replace("epoch 10", "epoch 11")
    assert (
        "data.samples_per_epoch was 10, now it is 11"
        in train_tiny(folder, "shards", f"{other} --train.resume", 2).stderr
    )
    said = train_tiny(folder, "shards", f"{flags} --train.resume").stdout
    assert "after epoch 2 and 1 batch\n" in said
    assert_equal_run(folder, "whole_shards", "shards")


KILLED_WHILE_SAVING = """
import os, runpy, signal, sys
sys.path.insert(0, {root!r})
import torch
from PIL import Image
save, saved = torch.save, []

def killed(state, path):
    save(state, path)
    saved.append(path)
    if len(saved) == 3:
        os.truncate(path, 1000)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = killed
sys.argv = ["train.py", *{flags!r}]
runpy.run_path({root!r} + "/train.py", run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_killed_while_it_saves(folder, whole):
    """The half-written file is gone after the next start, the lock of the dead process is free, the result is equal."""
    flags = [*TINY, *STAGES["small"].split(), "--train.wandb", "off", "--train.run", "killed"]
    driver = KILLED_WHILE_SAVING.format(root=str(ROOT), flags=flags)
    result = processes.run(["-c", driver], folder, OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert result.returncode == -9, result.stderr
    assert len(list((folder / "checkpoints").glob(".killed_last.*.pt"))) == 1
    assert (folder / "runs/killed/lock").exists()
    train_tiny(folder, "killed", f"{STAGES['small']} --train.resume")
    assert not list((folder / "checkpoints").glob(".killed*"))
    assert not (folder / "runs/killed/lock").exists()
    assert_same_run(folder, whole("small"), "killed")


def test_a_name_is_trained_by_one_process_at_a_time(folder):
    """Two trainings of one name overwrote each other's files without a word."""
    pytest.importorskip("fcntl")  # Windows has no such locks
    hold = (
        "from captioning.training.history import hold_run\nwith hold_run('taken'): print('ready', flush=True), input()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold], cwd=folder, env=environment, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        error = train_tiny(folder, "taken", "--train.epochs 1", code=2).stderr
        process.communicate("go on\n")
    assert error.startswith(f"error: --train.run: taken is being trained by process {process.pid} on ")
    assert len(error.splitlines()) == 1
    assert not (folder / "checkpoints/taken_last.pt").exists()
    train_tiny(folder, "taken", "--train.epochs 1")


@pytest.mark.parametrize("stages", ["everything", "all"])
def test_a_run_may_be_resumed_with_another_number_of_workers(folder, whole, monkeypatch, stages):
    """What reads images must not change them: the augmentation once depended on the number of workers."""
    with stopped("shown", 1):
        train_tiny(folder, f"workers_{stages}", STAGES[stages], code=130)
    monkeypatch.setattr(runtime, "pick_workers", lambda num_workers, device: num_workers)  # also on two cores
    train_tiny(folder, f"workers_{stages}", f"{STAGES[stages]} --data.num_workers 2 --train.resume")
    assert_same_run(folder, whole(stages), f"workers_{stages}")


def test_resuming_behind_a_fine_tuned_backbone(folder):
    """The features of a stage behind it are those of the backbone as fine-tuned, not as the run began with it."""
    flags = ("--train.epochs 1 --train.lr 1e-9 --train.finetune_epochs 2 --train.finetune_blocks 19 "
             "--train.encoder_lr 0.001 --train.finetune_lr 0.01 --train.self_critical_epochs 2")  # fmt: skip
    train_tiny(folder, "whole_tuned", flags)
    scores = read_history(folder, "whole_tuned")["cider_d"]
    assert scores[1:3].max() > scores[0]  # so the last stage begins from a fine-tuned epoch
    for place, epoch in (("saved", 3), ("shown", 4)):
        with stopped(place, epoch):
            train_tiny(folder, f"parts_tuned_{epoch}", flags, code=130)
        train_tiny(folder, f"parts_tuned_{epoch}", f"{flags} --train.resume")
        assert_same_run(folder, "whole_tuned", f"parts_tuned_{epoch}")


DRIVER = """
import os, runpy, signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from captioning.training.history import Record
save_last = Record.save_last

def interrupted(self, *args):
    save_last(self, *args)
    if len(self.history) == {epoch}:
        os.kill(os.getpid(), signal.SIGINT)

Record.save_last = interrupted
sys.argv = ["train.py", *{flags!r}]
runpy.run_path({root!r} + "/train.py", run_name="__main__")
"""


def test_a_real_ctrl_c_and_one_wandb_run(folder, monkeypatch):
    """A resumed run once opened a second WandB run. Here both parts of it write into one, offline.

    WandB's files stay in the run's folder, and the last epoch, of which the first part did not log anything, is there.
    """
    flags = [*TINY, "--train.epochs", "2", "--train.run", "mobile", "--train.wandb", "offline"]
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    driver = DRIVER.format(root=str(ROOT), epoch=2, flags=flags)
    result = processes.run(["-c", driver], folder, OMP_NUM_THREADS="1")
    assert result.returncode == 130, result.stderr[-2000:]
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert len(read_history(folder, "mobile")) == 1
    result = processes.run([str(ROOT / "train.py"), *flags, "--train.resume"], folder, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "warning: wandb" not in result.stdout
    assert len(read_history(folder, "mobile")) == 2
    assert not (folder / "wandb").exists()
    first, second = sorted((folder / "runs" / "mobile" / "wandb").glob("offline-run-*"))
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
    history = read_history(folder, "mobile")
    assert {"train_loss", "val_loss", "token_accuracy", "bleu4", "cider_d", "class_accuracy"} <= set(history)


def test_figures_are_drawn_at_most_every_half_minute_and_at_the_end(folder, monkeypatch):
    """They once took 1.6 s of every epoch, which no timing showed."""
    drawn = []
    monkeypatch.setattr(history, "save_graphs", lambda rows, run: drawn.append(len(rows)))
    looks = iter(range(0, 100_000, 8))  # every look at the clock is 8 s after the one before
    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=looks.__next__))
    shown = train_tiny(folder, "drawn", "--train.epochs 8 --train.save_minutes 0").stdout
    assert drawn == [1, 5, 8]
    assert read_history(folder, "drawn")["figure_seconds"].tolist() == [8.0, 0, 0, 0, 8.0, 0, 0, 8.0]
    assert shown.count("+ 8.0 s for figures") == 2  # the last ones are drawn after the last line


def test_a_run_that_stops_early_draws_its_last_epochs(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(history, "save_graphs", lambda rows, run: drawn.append(len(rows)))
    monkeypatch.setattr(history, "BARELY_ANY", -1)  # patience counts from the first epoch on
    train_tiny(folder, "early", "--train.epochs 9 --train.max_len 1 --train.patience 2")  # one word scores alike
    assert drawn == [1, 3]
    assert len(read_history(folder, "early")) == 3


def test_the_checkpoint_keeps_its_decoding_and_the_report_uses_it(folder):
    train_tiny(folder, "decoded", "--train.epochs 2")
    decoding = load_checkpoint(folder / "checkpoints" / "decoded.safetensors").decoding
    assert decoding.keys() == {"length_penalty", "consensus"}
    flags = ["--model_path", "checkpoints/decoded.safetensors", "--data_dir", "data"]
    flags += ["--audit", "false", "--probe_images", "0"]  # of other tests
    run("analysis_report.py", *flags, cwd=folder)
    recipe = pd.read_csv(folder / "reports/decoded/summary.csv")["recipe"][1]
    assert f"length_penalty:{decoding['length_penalty']:g}|" in recipe
    assert ("consensus" in recipe) == (decoding["consensus"] > 0)
    run("analysis_report.py", *flags, "--length_penalty", "1.25", "--consensus", "0.45", cwd=folder)
    recipe = pd.read_csv(folder / "reports/decoded/summary.csv")["recipe"][1]
    assert "length_penalty:1.25|max_len:30|consensus:0.45" in recipe


def test_below_20_validation_images_the_loss_judges_an_epoch(tmp_path, pictograms_dir):
    """BLEU-4 of four captions is 0 for ever, and the first epoch was the best."""
    copy_classes(pictograms_dir, tmp_path / "data")
    keep_classes(tmp_path / "data", 3, ["val"])
    run("vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl", cwd=tmp_path)
    said = train_tiny(tmp_path, "few", "--train.epochs 3").stdout
    assert "by val_loss, as " in said
    checkpoint = load_checkpoint(tmp_path / "checkpoints/few.safetensors")
    losses = read_history(tmp_path, "few")["val_loss"]
    assert checkpoint.best["value"] == pytest.approx(losses.min())
    assert checkpoint.best["epoch"] == losses.idxmin() + 1
    assert checkpoint.decoding == {}


def test_what_the_recipe_chooses_is_printed_and_a_flag_wins(folder):
    said = train_tiny(folder, "chosen", "--train.lr 0.004 --train.epochs 1").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("recipe quick")]
    assert "lr" not in line.replace("encoder_lr", "").replace("self_critical_lr", "")
    assert "finetune_epochs 0" in line
    assert load_checkpoint(folder / "checkpoints/chosen.safetensors").config["train"]["lr"] == 0.004


@pytest.mark.parametrize("name", ["photos", "aerial", "pictograms"])
def test_a_run_cannot_overwrite_a_model_that_ships(name):
    error = run("train.py", "--train.run", name, cwd=ROOT, code=2).stderr
    assert error.startswith(f"error: --train.run: checkpoints/{name}.safetensors ships with the project")


def test_patience_does_not_run_while_the_score_is_about_zero(folder):
    """A small set scores 0 for many epochs, and was stopped before it had begun to learn."""
    data = shutil.copytree(folder / "data", folder / "foreign")
    table = data / "captions.csv"
    table.write_text(re.sub(r"^(val/.*?),.*", r"\1,zzz", table.read_text(encoding="utf-8"), flags=re.MULTILINE))
    train_tiny(folder, "late", "--data.data_dir foreign --train.epochs 5 --train.max_len 1 --train.patience 2")
    assert read_history(folder, "late")["cider_d"].max() < 0.01
    assert len(read_history(folder, "late")) == 5


def test_with_a_class_reward_the_checkpoint_is_the_epoch_that_earns_the_most(folder):
    run("train.py", *TINY, "--train.epochs", "6", "--train.class_reward", "4", "--train.wandb", "off",
        "--train.run", "rewarded", cwd=folder)  # fmt: skip
    history = pd.read_csv(folder / "runs" / "rewarded" / "history.csv")
    expected = history["cider_d"] + 4 * history["class_accuracy"]
    assert history["val_reward"].tolist() == pytest.approx(expected.tolist())
    best = load_checkpoint(folder / "checkpoints" / "rewarded.safetensors").best
    assert best["metric"] == "val_reward"
    assert best["epoch"] == history["val_reward"].idxmax() + 1
    assert best["value"] == pytest.approx(history["val_reward"].max())


def test_a_frozen_backbone_does_not_drift(folder):
    """The BatchNorm statistics of a frozen encoder are those it began with."""
    run("train.py", *TINY, "--train.freeze_encoder", "false", "--train.epochs", "1", "--train.run", "first",
        "--train.wandb", "off", cwd=folder)  # fmt: skip
    flags = [*TINY, "--model.encoder_weights", "checkpoints/first.safetensors", "--train.epochs", "2"]
    run("train.py", *flags, "--train.run", "second", "--train.wandb", "off", cwd=folder)
    first, second = weights(folder, "first"), weights(folder, "second")
    for key in first:
        if key.startswith("encoder.backbone."):
            assert torch.equal(first[key], second[key]), key
    assert not torch.equal(first["decoder.output.weight"], second["decoder.output.weight"])


def test_fine_tuning_trains_the_last_blocks_alone(folder):
    """Blocks before the cut keep their weights, blocks behind it change, and no BatchNorm statistics drift."""
    flags = [*TINY, "--train.finetune_blocks", "3", "--train.encoder_lr", "0.01", "--train.wandb", "off"]
    run("train.py", *flags, "--train.epochs", "1", "--train.run", "before", cwd=folder)
    flags += ["--model.encoder_weights", "checkpoints/before.safetensors", "--train.epochs", "0"]
    run("train.py", *flags, "--train.finetune_epochs", "1", "--train.run", "after", cwd=folder)
    before, after = weights(folder, "before"), weights(folder, "after")
    for key in before:
        if key.startswith("encoder.backbone."):
            block = int(key.split(".")[3])
            trained = block >= 16 and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
            assert torch.equal(before[key], after[key]) != trained, key


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        ("--train.freeze_encoder false", ["everything", "self-critical"]),
        ("--train.finetune_epochs 1 --train.finetune_blocks 19", ["decoder", "finetune", "self-critical"]),
    ],
)
def test_stages_that_read_files_are_followed_by_ones_that_read_a_cache(folder, flags, stages):
    """The cache of a backbone that has been trained in between is computed anew."""
    flags = [*TINY, *flags.split(), "--train.epochs", "1", "--train.self_critical_epochs", "1"]
    name = stages[0]
    run("train.py", *flags, "--train.run", name, "--train.wandb", "off", cwd=folder)
    history = pd.read_csv(folder / "runs" / name / "history.csv")
    assert history["stage"].tolist() == stages
    assert math.isfinite(history["reward"].iloc[-1])


@pytest.mark.parametrize(("patience", "from_epoch"), [("0", 4), ("1", 1)])
def test_a_stage_goes_on_from_the_end_of_the_one_before_or_where_that_stopped_early_from_its_best(
    folder, patience, from_epoch, monkeypatch
):
    """A stage whose rates are 0 shows where it began. Captions of one word score alike, so the first epoch is best."""
    monkeypatch.setattr(history, "BARELY_ANY", -1)  # patience counts from the first epoch on
    flags = "--train.epochs 4 --train.finetune_epochs 1 --train.finetune_lr 0 --train.encoder_lr 0 --train.ema 0.5"
    name = f"handed_over_{patience}"
    settings = [*flags.split(), "--train.wandb", "off", "--train.run", name, "--train.max_len", "1"]
    run("train.py", *TINY, *settings, "--train.patience", patience, cwd=folder)
    rows = read_history(folder, name)
    assert rows["stage"].tolist()[-1] == "finetune"
    losses = dict(zip(rows["epoch"], rows["val_loss"], strict=True))
    assert losses[len(rows)] == pytest.approx(losses[from_epoch], rel=1e-3)
    assert losses[1] != pytest.approx(losses[2], rel=2e-3)


def test_the_moving_average_by_hand_and_its_short_memory_at_first():
    """A run of 20 steps once ended, at a decay of 0.99, with an average near the weights that it began with."""
    weight = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(weight, multi_avg_fn=moving_average(0.5))
    values, expected = [4.0, 1.0, 2.0, 8.0, 5.0, 3.0, 7.0, 6.0, 9.0, 0.0, 1.0], None
    for step, value in enumerate(values):
        with torch.no_grad():
            weight.weight.fill_(value)
        averaged.update_parameters(weight)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert averaged.module.weight.item() == pytest.approx(expected)
    assert decay == 0.5

    slow = AveragedModel(weight, multi_avg_fn=moving_average(0.99))
    for value in [0.0] + [1.0] * 20:
        with torch.no_grad():
            weight.weight.fill_(value)
        slow.update_parameters(weight)
    assert slow.module.weight.item() > 0.99


def test_what_needs_classes_is_left_out_where_the_data_have_none(capsys):
    options = {"class_loss": 1.0, "class_emphasis": 2.0, "class_reward": 0.0, "lr": 1.0}
    drop_class_terms(options, ["cat"], "birds")
    assert options["class_loss"] == 1
    assert not capsys.readouterr().out
    drop_class_terms(options, [], "birds")
    assert options == {"class_loss": 0.0, "class_emphasis": 0.0, "class_reward": 0.0, "lr": 1.0}
    assert capsys.readouterr().out == (
        "note: birds has no classes, so train.class_loss, train.class_emphasis are left out\n"
    )


CPU = Machine(torch.device("cpu"))


def small_run(model, batches, stage, loss=None, optimizer=None):
    """Return (Run, StageData, loss) of a stage with plain SGD and without an average."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = build_scheduler(optimizer, math.ceil(len(batches) / stage.accumulate), 0)
    run = Run(model, optimizer, scheduler, torch.amp.GradScaler("cpu", enabled=False))
    captions, labels = batches.tokens, batches.labels
    data = StageData(batches, lambda model, features: model.encoder.embed(features), captions, labels)
    return run, data, loss or CaptionLoss(captions, LossTerms())


def test_a_loss_that_is_not_finite_stops_the_training():
    model, tokens = CNNtoRNN(6, embed_size=4, hidden_size=4), Captions([[[1, 4, 2]], [[1, 5, 2]]])
    batches = CachedBatches(torch.full((2, 1, 1280), torch.nan), tokens, torch.zeros(2).long(), 2, by_caption=True)
    stage = Stage("decoder")
    run, data, loss = small_run(model, batches, stage)
    with pytest.raises(ValueError, match="decoder: the loss became nan; lower --train.lr"):
        train_one_epoch(run, stage, data, loss, CPU, seed=0)


def test_a_batch_of_one_row_costs_no_step():
    """BatchNorm cannot train on it; once it took the step of the batches before it, and the schedule's, with it."""
    model = CNNtoRNN(6, embed_size=4, hidden_size=4)
    batches = CachedBatches(torch.randn(3, 1, 1280), Captions([[[1, 4, 2]]] * 3), torch.zeros(3).long(), 2,
                            by_caption=False)  # fmt: skip
    stage = Stage("decoder", accumulate=2)
    run, data, loss = small_run(model, batches, stage)
    before = model.decoder.output.weight.clone()
    train_one_epoch(run, stage, data, loss, CPU, seed=0)
    assert run.scheduler.last_epoch == 1
    assert not torch.equal(model.decoder.output.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_averaged_over_the_batches_there_are():
    """Of three batches in groups of two the last stands alone: once its gradient was halved."""
    model = CNNtoRNN(6, embed_size=4, hidden_size=4)
    bias = model.decoder.output.bias
    batches = CachedBatches(torch.randn(6, 1, 1280), Captions([[[1, 4, 2]]] * 6), torch.zeros(6).long(), 2,
                            by_caption=False)  # fmt: skip
    stage = Stage("decoder", accumulate=2, grad_clip=1e9)
    gradient_one = lambda model, embeddings, batch: (bias.sum(), {"train_loss": 3.0})  # noqa: E731
    run, data, loss = small_run(model, batches, stage, gradient_one, torch.optim.SGD([bias], lr=1.0))
    run.scheduler, before = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0), bias.detach().clone()
    assert train_one_epoch(run, stage, data, loss, CPU, seed=0) == {"train_loss": pytest.approx(3.0)}
    torch.testing.assert_close(before - bias.detach(), torch.full((6,), 2.0))


def test_an_image_without_a_class_is_neither_right_nor_wrong():
    """Where the caption names no class, an empty label once counted as right."""
    vocabulary = Vocabulary([*SPECIALS, "red", "cup"])
    model = CNNtoRNN(len(vocabulary), embed_size=4, hidden_size=4)
    examples = [Example(Path(f"{n}.jpg"), ["red cup"], label, "val") for n, label in enumerate(["", "cat", "", ""])]

    def score(classes, examples):
        validation = Validation(vocabulary, Grounder(classes), SearchOptions(beam_size=1, max_len=4))
        return validation(model, torch.randn(4, 4), examples)

    assert score(["cat"], examples)["class_accuracy"] == 0
    assert score(["red", "cup", "cat"], examples)["class_accuracy"] == 0
    assert "class_accuracy" not in score(["cat"], examples[2:] * 2)


def test_aliases_of_a_class_that_train_lacks(folder, tmp_path):
    """The report takes such data; training once refused them."""
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.copy(folder / "vocab.pkl", tmp_path)
    label = sorted((tmp_path / "data" / "train").iterdir())[0].name
    shutil.rmtree(tmp_path / "data" / "train" / label)
    captions = pd.read_csv(tmp_path / "data" / "captions.csv")
    captions[~captions["image"].str.startswith(f"train/{label}/")].to_csv(tmp_path / "data/captions.csv", index=False)
    (tmp_path / "data" / "aliases.csv").write_text(f"class,alias\n{label},thing\n")
    run("train.py", *TINY, "--train.epochs", "1", "--train.run", "a", "--train.wandb", "off", cwd=tmp_path)
    assert 0 <= pd.read_csv(tmp_path / "runs/a/history.csv")["class_accuracy"][0] <= 1


def test_weights_to_start_from_may_have_an_address(tmp_path, monkeypatch):
    """As wherever else a checkpoint is named."""
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path / "cache"))
    shipped = ROOT / "checkpoints" / "pictograms.safetensors"
    checkpoint = load_checkpoint(shipped)
    handler = partial(SimpleHTTPRequestHandler, directory=shipped.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {"init": f"http://127.0.0.1:{server.server_port}/{shipped.name}", "class_loss": 0, "word_loss": 0}
        model, size = start_model(Vocabulary(checkpoint.vocab), [], options, checkpoint.config["model"])
        server.shutdown()
    assert size == checkpoint.transform["image_size"]
    for name, tensor in model.decoder.state_dict().items():
        torch.testing.assert_close(tensor, checkpoint.weights[f"decoder.{name}"].float())


def test_a_resumed_run_must_be_the_same(folder):
    """Another EMA or precision once ended in a traceback, another image size in a checkpoint with two of them."""
    flags = [*TINY, "--train.epochs", "2", "--train.run", "same", "--train.wandb", "off"]
    run("train.py", *flags, cwd=folder)
    for change, line in (
        (["--train.ema", "0.9"], "its train.ema was 0.99, now it is 0.9"),
        (["--data.image_size", "48"], "its data.image_size was 32, now it is 48"),
    ):
        result = run("train.py", *flags, *change, "--train.resume", cwd=folder, code=2)
        assert line in result.stderr


def test_a_resumed_run_is_not_taken_for_another(folder):
    """A run of the same name that was killed early leaves the older run's _last.pt, which must not pass for its own.

    Its settings may be the same where the file of its first weights is another, or the validation split is.
    """
    for seed in ("1", "2"):
        run("train.py", *TINY, "--train.epochs", "1", "--train.run", f"seed_{seed}", "--train.seed", seed,
            "--train.wandb", "off", cwd=folder)  # fmt: skip
    start = folder / "checkpoints" / "start.safetensors"
    shutil.copy(folder / "checkpoints" / "seed_1.safetensors", start)
    flags = [*TINY, "--model.encoder_weights", "checkpoints/start.safetensors", "--train.epochs", "1", "--train.run",
             "older", "--train.wandb", "off"]  # fmt: skip
    run("train.py", *flags, cwd=folder)
    # Copies: the tensors of a checkpoint are mapped from its file, which is overwritten here.
    before = {name: tensor.clone() for name, tensor in weights(folder, "older").items()}

    # The killed run had saved its first epoch's checkpoint, but not yet its _last.pt.
    shutil.copy(folder / "checkpoints" / "seed_2.safetensors", folder / "checkpoints" / "older.safetensors")
    result = run("train.py", *flags, "--train.resume", cwd=folder)
    assert "going on with checkpoints/older_last.pt, after epoch 1" in result.stdout.replace("\\", "/")
    after = weights(folder, "older")
    assert all(torch.equal(before[key], after[key]) for key in before)

    shutil.copy(folder / "checkpoints" / "seed_2.safetensors", start)
    result = run("train.py", *flags, "--train.resume", cwd=folder, code=2)
    assert "its first weights' sha256 was" in result.stderr
    shutil.copy(folder / "checkpoints" / "seed_1.safetensors", start)

    captions = folder / "data" / "captions.csv"
    content = captions.read_text(encoding="utf-8")
    try:
        row = next(line for line in content.splitlines() if line.startswith("val/"))
        captions.write_text(content.replace(row, f"{row} again"), encoding="utf-8")
        result = run("train.py", *flags, "--train.resume", cwd=folder, code=2)
        assert "its validation data was" in result.stderr
    finally:
        captions.write_text(content, encoding="utf-8")


def test_more_views_than_the_disk_has_room_for_are_refused_before_the_first(tmp_path):
    """10 million images in 64 views, tens of terabytes; none of the files is there, so nothing was read."""
    trunk = CNNtoRNN(6, embed_size=4, hidden_size=4).encoder.cut(5)[0]
    paths = [tmp_path / "a.jpg"] * 10_000_000
    with pytest.raises(ValueError, match=r"--train.feature_views: 64 views of 10,000,000 train images take [\d.]+ GB"):
        compute_views(trunk, paths, [EvalTransform(64)] * 64, CPU, 0, "train images")


def test_the_cache_tells_positions_from_pooled_features(tmp_path, monkeypatch):
    """With attention the same weights, images and settings give a grid; it once got pooled features from the cache."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"), per_class=3, progress=False)
    paths = sorted(Path("data/train").rglob("*.jpg"))[:3]
    pooled = CNNtoRNN(6, embed_size=4, hidden_size=4).encoder
    grid = CNNtoRNN(6, embed_size=4, hidden_size=4, decoder="attention").encoder
    grid.load_state_dict(pooled.state_dict())
    _, first = compute_views(pooled.backbone, paths, [EvalTransform(64)], CPU, 0, "train images")
    _, second = compute_views(grid.backbone, paths, [EvalTransform(64)], CPU, 0, "train images")
    assert first.shape == (3, 1, 1280)
    assert second.shape == (3, 1, 4, 1280)
    torch.testing.assert_close(second.float().mean(dim=2), first, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--train.lr", "nan"], "error: --train.lr: got nan, allowed is 0 to 100"),
        (["--train.grad_clip", "-1"], "error: --train.grad_clip: got -1.0, allowed is"),
        (["--model.dropout", "1.5"], "error: --model.dropout: got 1.5, allowed is 0 to 0.95"),
        (["--data.crop_scale", "0"], "error: --data.crop_scale: got 0.0, allowed is 0.01 to 1"),
        (["--train.wandb", "foo"], "error: --train.wandb: got 'foo', allowed are auto, online, offline, off"),
        (["--train.run", "../x"], "error: --train.run: got '../x', allowed are letters"),
        (["--train.precision", "float16"], "error: precision: got float16, which needs CUDA"),
        (["--data.captions_per_image", "2"], "error: --data.captions_per_image: a frozen encoder trains on all"),
        (["--train.init", "checkpoints/bad.safetensors"], "error: --train.init: checkpoints/bad.safetensors is what"),
        (["--model.encoder_weights", "checkpoints/bad.safetensors"], "error: --model.encoder_weights: checkpoints/bad"),
        (["--train.init", "gone.safetensors"], "error: gone.safetensors: no such checkpoint"),
        (["--train.resume", "--train.run", "never"], "error: checkpoints/never_last.pt: nothing to resume"),
        (["--model.encoder_weights", "gone.pth"], "error: model.encoder_weights: gone.pth: no such file"),
        (["--data.data_dir", "nowhere"], "error: nowhere"),
        (["--train.epochs", "0"], "error: train.epochs: got 0, and no stage after it has epochs"),
        (["--train.epochs", "-2"], "error: --train.epochs: got -2, allowed is -1 to 100000"),
        (["--train.encoder_lr", "-0.5"], "error: --train.encoder_lr: got -0.5, allowed are 0 to 100, and -1"),
        (["--train.recipe", "fast"], "error: train.recipe: got 'fast', allowed are quick, full, best"),
        (["--train.finetune_blocks", "20"], "error: --train.finetune_blocks: got 20, allowed is 0 to 19"),
        (["--train.finetune_epochs", "1", "--train.freeze_encoder", "false"], "error: train.finetune_epochs: freeze"),
        (["--train.ema", "1"], "error: --train.ema: got 1.0, allowed is 0 to 0.99999"),
        (["--data.batch_size", "1"], "error: --data.batch_size: got 1, BatchNorm needs 2 or more"),
        (["--data.samples_per_epoch", "1"], "error: --data.samples_per_epoch: got 1, BatchNorm needs 2 or more"),
        (["--train.self_critical_samples", "1"], "error: --train.self_critical_samples: got 1, baseline samples needs"),
        (["--train.self_critical_baseline", "foo"], "error: --train.self_critical_baseline: got 'foo', allowed are"),
        (["--train.run", "features"], "error: --train.run: got 'features', but runs/features is the cache"),
        (["--train.init", "photos", "--model.encoder_weights", "a"], "error: --model.encoder_weights: got a, but --tr"),
        (["--train.device", "cpu:x"], "error: device: got 'cpu:x'"),
        (["--train.device", "tpu"], "error: device: got 'tpu'"),
        (["--train.precision", "int8"], "error: precision: got 'int8'"),
    ],
)
def test_mistakes_are_one_line(folder, flags, line):
    result = run("train.py", *TINY, "--train.epochs", "2", "--train.wandb", "off", "--train.run", "bad", *flags,
                 cwd=folder, code=2)  # fmt: skip
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(line)


def test_a_vocabulary_of_other_data_is_refused(folder):
    other = folder / "other"
    (other / "train" / "x").mkdir(parents=True)
    picture = next((folder / "data").rglob("*.jpg")).read_bytes()
    (other / "val" / "x").mkdir(parents=True)
    for name in ("train/x/1.jpg", "train/x/2.jpg", "val/x/1.jpg"):
        (other / name).write_bytes(picture)
    rows = "train/x/1.jpg,zebras graze quietly\ntrain/x/2.jpg,zebras run\nval/x/1.jpg,zebras graze\n"
    (other / "captions.csv").write_text(f"image,caption\n{rows}", encoding="utf-8")
    shutil.copy(folder / "vocab.pkl", folder / "v 2.pkl")
    flags = [{"data": "other", "vocab.pkl": "v 2.pkl"}.get(flag, flag) for flag in TINY]
    result = run("train.py", *flags, cwd=folder, code=2)
    assert "knows 0% of the words of other" in result.stderr
    # It advised `vocab.py --data_dir other`, which wrote another file and left out the words again.
    advice = result.stderr.rstrip().rpartition("python ")[2]
    assert "--min_count 1" in advice
    run(*shlex.split(advice), cwd=folder)
    assert (folder / "v 2.pkl").read_bytes() == (folder / "vocab.pkl").read_bytes(), "that of the other data stays"
    flags = ["v 2_other.pkl" if flag == "v 2.pkl" else flag for flag in flags]
    run("train.py", *flags, "--train.epochs", "1", "--train.wandb", "off", "--train.run", "zebras", cwd=folder)


def test_a_few_unreadable_images_are_skipped_and_many_stop_the_run(folder):
    pictures = sorted((folder / "data" / "train").rglob("*.jpg"))
    kept = {path: path.read_bytes() for path in pictures[:10]}
    flags = [*TINY, "--train.epochs", "1", "--train.run", "hurt", "--train.wandb", "off"]
    try:
        pictures[0].write_bytes(kept[pictures[0]][:200])
        result = run("train.py", *flags, cwd=folder)
        assert str(Path(*pictures[0].parts[-4:])) in result.stdout.replace("\\", "/")
        for path in kept:
            path.write_bytes(b"not a picture")
        result = run("train.py", *flags, cwd=folder, code=2)
        assert "10 of 24 images cannot be read" in result.stderr
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_whole_encoder_has_a_rate_of_its_own(folder):
    """It trained at lr, whatever encoder_lr said."""
    flags = f"{SMALL_BATCHES} --train.freeze_encoder false --train.epochs 1 --train.ema 0"
    for name, more in (("still", "--train.encoder_lr 0"), ("slow", "--train.encoder_lr 1e-3"), ("as_lr", "")):
        train_tiny(folder, name, f"{flags} --train.lr 1e-3 {more}")
    still, slow, as_lr = (weights(folder, name) for name in ("still", "slow", "as_lr"))
    first = load_checkpoint(folder / "checkpoints" / "still.safetensors")
    name = "encoder.backbone.0.0.0.weight"
    assert first.config["train"]["encoder_lr"] == 0
    assert load_checkpoint(folder / "checkpoints" / "as_lr.safetensors").config["train"]["encoder_lr"] == 1e-3
    assert torch.equal(slow[name], as_lr[name])
    assert not torch.equal(slow[name], still[name])
    assert not torch.equal(slow["decoder.embedding.weight"], torch.zeros_like(slow["decoder.embedding.weight"]))


def test_a_run_with_its_own_name_given_is_the_same_run(folder):
    """mobile is the name that a run has without one; with it, --train.resume was refused."""
    train_tiny(folder, "", "--train.epochs 1")
    result = run("train.py", *TINY, "--train.wandb", "off", "--train.epochs", "1", "--train.run", "mobile",
                 "--train.resume", cwd=folder)  # fmt: skip
    assert "going on with checkpoints/mobile_last.pt" in result.stdout.replace("\\", "/")


def test_what_a_run_takes_from_its_first_model_is_said(folder):
    train_tiny(folder, "narrow", "--train.epochs 1")
    settings = "--train.wandb off --train.epochs 1 --train.run wide --data.data_dir data --data.vocab_path vocab.pkl"
    result = run("train.py", *settings.split(), "--train.init", "checkpoints/narrow.safetensors", cwd=folder)
    assert "init: as in checkpoints/narrow.safetensors, " in result.stdout


def test_the_schedule_rises_then_falls_to_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(("by_caption", "batch_size"), [(True, 4), (False, 2)])
def test_an_epoch_of_cached_inputs_holds_every_caption_once(by_caption, batch_size):
    features = torch.arange(6.0).reshape(3, 2, 1)  # image i, view v -> 2 * i + v
    tokens = Captions([[1, 10 * i + j, 2] for j in range(2)] for i in range(3))
    batches = CachedBatches(features, tokens, torch.tensor([7, 8, 9]), batch_size, by_caption=by_caption)
    seen = []
    for batch in batches.epoch(seed=0):
        for ids, row in zip(batch.tokens, batch.owner.tolist(), strict=True):
            image = int(batch.inputs[row, 0]) // 2
            assert batch.labels[row] == 7 + image
            assert batch.index[row] == image
            assert ids[1] // 10 == image
            seen.append(int(ids[1]))
    assert sorted(seen) == [0, 1, 10, 11, 20, 21]
    assert len(batches) == 2


@pytest.fixture(scope="module")
def dull(tmp_path_factory):
    """A working directory with 8 train and 4 val pictures, whose one caption of 40 words names no class."""
    folder = tmp_path_factory.mktemp("dull")
    rows = []
    for split, number in (("train", 4), ("val", 2)):
        for label in ("panda", "pizza"):
            for index in range(number):
                name = f"{split}/{label}/{index}.jpg"
                (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (index * 40, len(rows) * 20, 99)).save(folder / "data" / name)
                rows.append(f"{name},{' '.join(['something'] * 40)}\n")
    (folder / "data/captions.csv").write_text("image,caption\n" + "".join(rows))
    return folder


def test_captions_that_teach_little_are_told_by_every_script(dull):
    """Captions that never name their class, that are longer than any that is said, and that are all the same."""
    flags = ("--data_dir", "data", "--vocab_path", "vocab.pkl", "--graph_path", "v.png")
    said = {"vocab": run("vocab.py", *flags, cwd=dull).stdout}
    said["train"] = train_tiny(dull, "dull", "--train.epochs 1 --train.max_len 30").stdout
    report = ("--model_path", "checkpoints/dull.safetensors", "--data_dir", "data", "--num_workers", "0")
    said["report"] = run("analysis_report.py", *report, cwd=dull).stdout
    named = "0.0% of the train captions name the class of their image, so accuracy and all that rests on class names"
    long = "100% of the {} captions have more than 29 words (the longest 40), but captions are said with at most 29"
    alike = "{} captions of the {} split are 'something something"
    for script in ("vocab", "train"):
        lines = [line for line in said[script].splitlines() if line.startswith("warning: ")]
        for expected in (named, long.format("train"), alike.format("8 of 8", "train")):
            assert sum(expected in line for line in lines) == 1, (script, expected)
        assert all("aliases.csv" in line for line in lines if named in line)
    notes = [line for line in said["report"].splitlines() if line.startswith("note: ")]
    named = "0.0% of the val split's captions name the class of their image: accuracy says little, until aliases.csv"
    for expected in (named, long.format("val"), alike.format("4 of 4", "val")):
        assert sum(expected in line for line in notes) == 1, expected
    assert "--split val" in said["report"].splitlines()[-1]  # there is no test split, which the next script takes


def test_a_run_is_not_resumed_with_another_tokenizer(dull):
    flags = ("--data_dir", "data", "--vocab_path", "vocab.pkl", "--graph_path", "v.png")
    run("vocab.py", *flags, cwd=dull)
    train_tiny(dull, "words", "--train.epochs 1")
    run("vocab.py", *flags, "--tokenizer", "characters", cwd=dull)
    told = train_tiny(dull, "words", "--train.epochs 1 --train.resume", code=2).stderr
    assert told.strip().endswith("words_last.pt: its tokenizer was words, now it is characters")


def test_one_train_image_is_refused_before_any_work(dull, tmp_path):
    """The features were computed first, and torch warned of the order of calls."""
    shutil.copytree(dull / "data", tmp_path / "data")
    header, *rows = (dull / "data/captions.csv").read_text().splitlines(keepends=True)
    kept = [row for row in rows if row.startswith(("train/panda/0", "val"))]
    (tmp_path / "data/captions.csv").write_text(header + "".join(kept))
    for row in set(rows) - set(kept):
        (tmp_path / "data" / row.partition(",")[0]).unlink()
    run("vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl", "--graph_path", "v.png", cwd=tmp_path)
    result = train_tiny(tmp_path, "one", "", code=2)
    assert result.stderr == "error: data: its train split has 1 image, training needs 2 or more\n"
    assert result.stdout == ""

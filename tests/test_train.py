"""Training as a user runs it: real processes on a tiny set of pictograms."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from captioning.checkpoint import load_checkpoint
from captioning.pictograms import write_dataset
from captioning.sequences import Captions
from train import FeatureBatches, build_scheduler, word_detection_loss

ROOT = Path(__file__).resolve().parents[1]
TINY = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 32 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16
    --train.max_len 8 --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0
""".split()  # noqa: SIM905


def run(script, *flags, cwd, code=0):
    """Run a script of the project and return the finished process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("WANDB_API_KEY", None)
    command = [sys.executable, str(ROOT / script), *flags]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, result.stderr[-2000:]
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with 180 pictures and their vocabulary."""
    folder = tmp_path_factory.mktemp("work")
    write_dataset(folder / "data", per_class=3, progress=False)
    run("vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl", cwd=folder)
    return folder


def weights(folder, name):
    return load_checkpoint(folder / "checkpoints" / f"{name}.safetensors").weights


@pytest.mark.parametrize("freeze", ["true", "false"])
def test_resuming_equals_the_uninterrupted_run(folder, freeze):
    """Stopped by Ctrl-C after an epoch and resumed, the run ends with the same weights and the same history."""
    flags = [*TINY, "--train.freeze_encoder", freeze, "--train.epochs", "4", "--train.wandb", "off"]
    run("train.py", *flags, "--train.run", f"whole_{freeze}", cwd=folder)

    name = f"parts_{freeze}"
    history = folder / "runs" / name / "history.csv"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags, "--train.run", name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 200
    while not history.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (130, 0)
    done = len(pd.read_csv(history))
    assert 1 <= done < 4
    run("train.py", *flags, "--train.run", name, "--train.resume", cwd=folder)

    whole, parts = (pd.read_csv(folder / "runs" / n / "history.csv") for n in (f"whole_{freeze}", name))
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), parts.drop(columns="seconds"), rtol=1e-6)
    expected, got = weights(folder, f"whole_{freeze}"), weights(folder, name)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-6)


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


def test_wandb_offline_stays_in_the_run_and_curves_are_drawn(folder):
    result = run(
        "train.py", *TINY, "--train.epochs", "1", "--train.run", "mobile", "--train.wandb", "offline", cwd=folder
    )
    assert not (folder / "wandb").exists()
    assert "warning: wandb" not in result.stdout
    assert list((folder / "runs" / "mobile" / "wandb").glob("offline-run-*"))
    for name in ("tl", "vl", "va"):
        assert (folder / "graphs" / f"{name}_mobile.png").stat().st_size > 1000
    history = pd.read_csv(folder / "runs" / "mobile" / "history.csv")
    assert {"train_loss", "val_loss", "token_accuracy", "bleu4", "cider_d", "class_accuracy"} <= set(history)
    assert math.isfinite(history["val_loss"][0])


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--train.lr", "1e30"], "error: training: the loss became"),
        (["--train.resume", "--train.run", "never"], "error: checkpoints/never_last.pt: nothing to resume"),
        (["--model.encoder_weights", "gone.pth"], "error: model.encoder_weights: gone.pth: no such file"),
        (["--data.data_dir", "nowhere"], "error: nowhere"),
        (["--train.epochs", "0"], "error: train.epochs: got 0, allowed is 1 or more"),
        (["--data.batch_size", "0"], "error: data.batch_size: got 0, allowed is 2 or more"),
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
    for split in ("train", "val"):
        (other / split / "x").mkdir(parents=True, exist_ok=True)
        (other / split / "x" / "1.jpg").write_bytes(picture)
    (other / "captions.csv").write_text(
        "image,caption\ntrain/x/1.jpg,zebras graze quietly\nval/x/1.jpg,zebras graze\n", encoding="utf-8"
    )
    result = run("train.py", *TINY, "--data.data_dir", "other", cwd=folder, code=2)
    assert "the vocabulary knows 0% of the words of other" in result.stderr
    assert "python vocab.py --data_dir other" in result.stderr


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
        assert "10 of 60 images cannot be read" in result.stderr
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


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


def test_an_epoch_of_features_holds_every_caption_once():
    features = torch.arange(6.0).reshape(3, 2, 1)  # image i, view v -> 2 * i + v
    tokens = Captions([[1, 10 * i + j, 2] for j in range(2)] for i in range(3))
    batches = FeatureBatches(features, tokens, torch.tensor([7, 8, 9]), batch_size=4)
    seen = []
    for inputs, ids, owner, labels, _ in batches.epoch(seed=0):
        for row in owner.tolist():
            image = int(inputs[row, 0]) // 2
            assert labels[row] == 7 + image
            assert ids[row, 1] // 10 == image
            seen.append(int(ids[row, 1]))
    assert sorted(seen) == [0, 1, 10, 11, 20, 21]
    assert len(batches) == 2


def test_word_detection_by_hand():
    """Image 0 says words 1 and 2 over two captions, image 1 word 3; at logit 0 every word costs log 2."""
    tokens, owner = torch.tensor([[1, 2], [1, 1], [3, 3]]), torch.tensor([0, 0, 1])
    assert word_detection_loss(torch.zeros(2, 4), tokens, owner).item() == pytest.approx(4 * math.log(2))
    sure = torch.tensor([[-50.0, 50, 50, -50], [-50, -50, -50, 50]])
    assert word_detection_loss(sure, tokens, owner).item() == pytest.approx(0, abs=1e-6)
    assert word_detection_loss(-sure, tokens, owner).item() == pytest.approx(4 * 50)

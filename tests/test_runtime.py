"""The tracker never stops a run, the generators can be put back, and unknown names list the legal ones."""

import os
import random
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioning import runtime
from captioning.checkpoint import load_resume, save_resume
from captioning.runtime import (
    Tracker,
    automatic_mode,
    hold_interrupts,
    pick_device,
    pick_precision,
    pick_workers,
    random_state,
    restore_random_state,
    seed_everything,
    wandb_logged_in,
)

TRACKED = {"project": "p", "run": "r", "config": {}}


def test_without_tracking_wandb_is_not_imported_and_nothing_is_written(tmp_path, monkeypatch):
    """A folder called wandb in the working directory could be taken for the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    tracker = Tracker("off", folder=tmp_path / "runs", **TRACKED)
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("known", "given"), [("", {}), ("abc", {"id": "abc", "resume": "allow"})])
def test_a_resumed_run_is_the_one_with_its_id(tmp_path, monkeypatch, known, given):
    """Without an id, as in an old resume file, WandB chooses one."""
    options = {}

    def init(**received):
        options.update(received)
        return types.SimpleNamespace(id=known or "new")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=lambda **options: None))
    tracker = Tracker("offline", folder=tmp_path / "runs", **TRACKED, run_id=known)
    assert {key: options[key] for key in ("id", "resume") if key in options} == given
    assert tracker.run_id == (known or "new")
    assert Tracker("off", folder=tmp_path / "runs", **TRACKED, run_id=known).run_id == known


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys, broken):
    class Run:
        id = "abc"

        def log(self, values, step):
            if broken == "log":
                raise ConnectionError("no\nnetwork")

        def finish(self):
            if broken == "finish":
                raise ConnectionError("no\nnetwork")

    def init(**options):
        if broken == "init":
            raise ConnectionError("no\nnetwork")
        return Run()

    fake = types.SimpleNamespace(init=init, Settings=lambda **options: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = Tracker("offline", folder=tmp_path / "runs", **TRACKED)
    for step in range(3):
        tracker.log({"train/loss": 1.0}, step=step)
    tracker.finish()
    name = {"init": "start"}.get(broken, broken)
    assert capsys.readouterr().out == f"warning: wandb could not {name} (no network); going on without it\n"


def test_a_missing_wandb_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    Tracker("offline", folder=tmp_path, **TRACKED).log({}, step=1)
    assert "warning: wandb could not start" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "logged_in"),
    [
        ("", False),
        ("machine api.wandb.ai login user password x\n", True),
        ("machine github.com login a password b\n", False),
    ],
)
def test_logged_in_is_found_without_asking(tmp_path, monkeypatch, content, logged_in):
    (tmp_path / "netrc").write_text(content)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_logged_in() == logged_in
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_logged_in()


def test_generators_go_on_where_the_resume_file_left_them(tmp_path):
    """Through the file, whose reader takes tensors and built-in types alone."""

    def draw():
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()]

    seed_everything(3)
    draw()
    save_resume(tmp_path / "a.pt", {"random": random_state()})
    expected = draw()
    seed_everything(4)
    restore_random_state(load_resume(tmp_path / "a.pt")["random"])
    assert draw() == expected


def test_unknown_names_list_the_legal_ones(tmp_path):
    with pytest.raises(ValueError, match="device: got 'tpu', this machine has cpu"):
        pick_device("tpu")
    with pytest.raises(ValueError, match="precision: got 'int8', allowed are auto, float32, bfloat16, float16"):
        pick_precision("int8", torch.device("cpu"))
    with pytest.raises(ValueError, match="wandb: got 'on', allowed are auto, online, offline, off"):
        Tracker("on", folder=tmp_path, **TRACKED)


@pytest.mark.parametrize("consumer", ["encode_images", "ImageBatches"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ctrl_c_while_workers_are_forked_is_not_lost(tmp_path, consumer):
    """Python ignores what a hook of fork raises: training once went on, or ended in a traceback of its workers."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    script = """
import os, signal, sys
import torch
from PIL import Image
from captioning.evaluation import encode_images
from data_loader import CaptionDataset, ImageBatches, EvalTransform
from captioning.data.annotations import Example
from captioning import cli
from captioning.runtime import Machine
from vocab import SPECIALS, Vocabulary

forks = []
def press():
    forks.append(os.kill(os.getpid(), signal.SIGINT))
signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=press)
torch.multiprocessing.set_start_method("fork")

def main(config):
    transform = EvalTransform(8)
    if config["what"]["consumer"] == "encode_images":
        encode_images(torch.nn.Flatten(), ["a.png"] * 4, transform, Machine(torch.device("cpu"), num_workers=2))
    else:
        examples = [Example("a.png", ["a sun"], "", "train")] * 4
        list(ImageBatches(CaptionDataset(examples, Vocabulary([*SPECIALS, "sun"]), transform), 2, 2).epoch(0))
    print("went on")

try:
    cli.run(main, what={"consumer": "encode_images"})
finally:
    print(len(forks), "forks")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", script, "--consumer", consumer]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (130, "2 forks\n"), result.stderr
    assert result.stderr == "interrupted\n"


def test_interrupts_are_held_until_the_end_of_the_block():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background ignores it
    reached = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize(
    ("cores", "device", "expected"), [(1, "cpu", 0), (2, "cpu", 0), (3, "cpu", 1), (16, "cpu", 4), (2, "cuda", 4)]
)
def test_a_network_on_the_cpu_keeps_two_cores_from_the_readers(monkeypatch, cores, device, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert pick_workers(4, torch.device(device)) == expected


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_by_itself_only_where_it_is_faster(monkeypatch, amx, dtype):
    """With AVX512_BF16 alone it once made training 1.7 times slower."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert pick_precision("auto", torch.device("cpu")) == dtype


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_MODE": "disabled"}, "off"),
        ({"WANDB_DISABLED": "true"}, "off"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "off"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_DISABLED": "false", "WANDB_API_KEY": "x"}, "online"),
    ],
)
def test_wandbs_own_variables_decide(monkeypatch, variables, mode):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert automatic_mode() == mode


@pytest.mark.parametrize(("free_megabytes", "expected"), [(250, 4), (64, 4), (33, 2), (22, 1), (16, 0)])
def test_only_as_many_workers_as_the_shared_memory_has_room_for(monkeypatch, capsys, free_megabytes, expected):
    """In a container with 64 MB of /dev/shm, workers waited for ever. 8 images of 512 px are 6 MB a batch."""
    status = types.SimpleNamespace(f_bavail=free_megabytes * 1000, f_frsize=1000)
    monkeypatch.setattr(runtime.os, "statvfs", lambda path: status)
    assert runtime.fit_workers(4, 8, 512) == expected
    assert runtime.fit_workers(0, 8, 512) == 0
    assert ("note: num_workers" in capsys.readouterr().out) == (expected < 4)


def test_a_worker_that_dies_or_is_late_is_one_line():
    def batches():
        yield 1
        raise RuntimeError("DataLoader timed out after 600 seconds")

    read = runtime.name_workers(batches())
    assert next(read) == 1
    with pytest.raises(ValueError, match="num_workers: a process that reads images failed .*timed out.*; give 0"):
        next(read)


def test_a_restart_is_told_from_another_launch(monkeypatch):
    """Also where torchrun has one process: it must not go on with the file of a run that had no launcher."""
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (runtime.launch(), runtime.was_restarted()) == ("", False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    first = runtime.launch()
    assert first
    assert not runtime.was_restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert (runtime.launch(), runtime.was_restarted()) == (first, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "b")
    assert runtime.launch() != first


def test_without_a_launcher_one_rank_is_all():
    """What the ranks do together is, alone, what was there already: the very same tensors, and no process group."""
    tensor, rows = torch.tensor(2.0, requires_grad=True), [1, 2]
    with runtime.join_ranks(1), runtime.whole_batch_norm(), runtime.shared_draws((3, 4), tensor.device):
        assert runtime.total(tensor) is tensor
        assert runtime.share_of_mean(tensor, 7) is tensor
        assert runtime.gather_list(rows) is rows
        assert runtime.from_first(lambda: 5) == 5
        assert runtime.total_counts(1, 2) == [1, 2]
        assert rows[runtime.share(2)] == rows
        assert (runtime.num_ranks(), runtime.is_first()) == (1, True)
    assert not torch.distributed.is_initialized()

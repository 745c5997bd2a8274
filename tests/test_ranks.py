"""Several processes train as one does: the same draws, the same statistics, the same steps."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from captioning.checkpoint import load_checkpoint
from captioning.data.pictograms import write_dataset

ROOT = Path(__file__).resolve().parents[1]

STEPS = """
import sys
from functools import partial

import torch

from captioning.data.sequences import Captions
from captioning.runtime import Machine, is_first, join_ranks
from captioning.search.options import SamplingOptions
from captioning.training.losses import CaptionLoss, LossTerms, SelfCritical
from captioning.training.optimisation import Tally, start_run
from captioning.training.stages import Stage
from data_loader import CachedBatches
from model import CNNtoRNN
from train import StageData, train_one_epoch
from vocab import SPECIALS, Vocabulary

draw = torch.Generator().manual_seed(1)
WORDS = 12
lengths = torch.randint(2, 8, (21, 3), generator=draw).tolist()
captions = Captions(
    [[1, *torch.randint(4, WORDS, (n,), generator=draw).tolist(), 2] for n in group] for group in lengths
)
captions.names_class[::3] = True
labels = torch.randint(-1, 3, (21,), generator=draw)
vocabulary = Vocabulary([*SPECIALS, *(f"w{n}" for n in range(WORDS - 4))])
terms = LossTerms(0.1, 0.3, 0.1, class_emphasis=2.0, class_loss=1.0, word_loss=0.1)
plain = LossTerms(0.1)


def embed(model, features):
    return model.encoder.embed(features.double())


def encode(model, images):
    return model.encoder(images.double())


def embed_maps(model, maps):
    return model.encoder.embed(model.encoder.cut(2)[1](maps.double()))


def run(stage, inputs, encode, loss, *, by_caption=False, steps=20, **model):
    torch.manual_seed(0)
    model = CNNtoRNN(WORDS, 3, True, embed_size=8, hidden_size=8, **model).double()
    batches = CachedBatches(inputs, captions, labels, stage.batch_size, by_caption=by_caption)
    data = StageData(batches, encode, captions, labels)
    machine = Machine(torch.device("cpu"))
    state = start_run(model, stage, len(batches), machine)
    losses = []
    for epoch in range(-(-steps * stage.accumulate // len(batches))):
        state.tally = Tally()
        losses.append(train_one_epoch(state, stage, data, loss, machine, seed=epoch))
    kept = {name: tensor for name, tensor in state.judged.state_dict().items()}
    return {"losses": torch.tensor([list(means.values()) for means in losses]), "next": torch.rand(3), **kept}


with join_ranks(5):
    features = torch.randn(21, 2, 1280, generator=draw)
    grid = torch.randn(21, 2, 4, 1280, generator=draw)
    maps = torch.randn(21, 2, 160, 2, 2, generator=draw)
    images = torch.randn(21, 1, 3, 32, 32, generator=draw)
    common = {"lr": 1e-3, "ema": 0.9, "epochs": 20}  # at larger rates 20 steps make rounding errors visible
    critical = SelfCritical(captions, vocabulary, SamplingOptions(num_samples=3, max_len=6), baseline="samples")
    greedy = SelfCritical(captions, vocabulary, SamplingOptions(num_samples=2, max_len=6))
    decoder = Stage("decoder", batch_size=8, accumulate=2, **common)
    tune = Stage("finetune", batch_size=8, num_blocks=2, encoder_lr=1e-4, **common)
    critic = Stage("self-critical", batch_size=8, **common)
    every = Stage("everything", batch_size=8, num_blocks=19, encoder_lr=1e-4, **common)
    found = {
        "decoder": run(decoder, features, embed, CaptionLoss(captions, terms), by_caption=True),
        "without classes": run(decoder, features, embed, CaptionLoss(captions, plain), by_caption=True),
        "attention": run(critic, grid, embed, CaptionLoss(captions, terms), decoder="attention", steps=6),
        "finetune": run(tune, maps, embed_maps, CaptionLoss(captions, terms)),
        "self-critical": run(critic, features, embed, critical),
        "self-critical, greedy": run(critic, features, embed, greedy, steps=6),
        "everything": run(every, images, encode, CaptionLoss(captions, terms), steps=3),
    }
    if is_first():
        torch.save(found, sys.argv[1])
"""


# BatchNorm subtracts what this bias adds, so its gradient is rounding alone, which AdamW scales up to its rate.
SHIFTS = ("encoder.linear.bias", "encoder.norm.running_mean")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_ranks(command, number, cwd, **environment):
    """Start `number` processes as a launcher would; one process has no launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    environment.pop("WANDB_API_KEY", None)
    if number > 1:
        environment |= {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1"}
        environment.setdefault("MASTER_PORT", str(free_port()))
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=environment | ({"RANK": str(rank)} if number > 1 else {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(number)
    ]  # fmt: skip


def finish(processes, code=0):
    """Wait for processes; their standard outputs and errors."""
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), ends
    return [out for out, _ in ends], [errors for _, errors in ends]


def test_steps_of_every_stage_are_those_of_one_process(tmp_path):
    """20 steps in float64, dropout, scheduled sampling and sampled captions among them; 21 images, so no even shares.

    A mean of the ranks' means is another loss where their captions differ in length, and a rank's own BatchNorm or
    dropout another model.
    """
    finish([*start_ranks(["-c", STEPS, "one.pt"], 1, tmp_path), *start_ranks(["-c", STEPS, "two.pt"], 2, tmp_path)])
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    for stage, expected in one.items():
        assert two[stage].keys() == expected.keys()
        for name, tensor in expected.items():
            difference = (two[stage][name].double() - tensor.double()).abs().max().item()
            assert difference <= (1e-8 if name in SHIFTS else 1e-9), (stage, name, difference)
        assert not torch.equal(expected["losses"][0], expected["losses"][-1])


TINY = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 64 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16 --train.max_len 8 --train.wandb off
    --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0 --train.epochs 1
    --train.finetune_epochs 1 --train.finetune_batch_size 16 --train.self_critical_epochs 1
    --train.self_critical_batch_size 16 --train.save_minutes 1e-9
""".split()  # noqa: SIM905
TRAIN = [str(ROOT / "train.py"), *TINY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with 180 pictures, their vocabulary, and the run `one` that one process has trained."""
    folder = tmp_path_factory.mktemp("ranks")
    write_dataset(folder / "data", per_class=3, progress=False)
    finish(start_ranks([str(ROOT / "vocab.py"), "--data_dir", "data", "--vocab_path", "vocab.pkl"], 1, folder))
    finish(start_ranks([*TRAIN, "--train.run", "one"], 1, folder))
    return folder


def assert_same_training(folder, run):
    """Assert that a run has the losses of the run `one` up to rounding."""
    one, two = (pd.read_csv(folder / "runs" / name / "history.csv") for name in ("one", run))
    assert two["stage"].tolist() == one["stage"].tolist()
    for column in ("train_loss", "val_loss"):
        assert two[column].tolist() == pytest.approx(one[column].tolist(), abs=1e-3)


def test_an_epoch_of_every_stage_by_its_command_line(folder):
    """Only the first rank prints and writes."""
    outs, errors = finish(start_ranks([*TRAIN, "--train.run", "two"], 2, folder))
    assert "best epoch" in outs[0]
    assert (outs[1], errors[1]) == ("", "")
    assert_same_training(folder, "two")
    assert load_checkpoint(folder / "checkpoints/two.safetensors").decoding
    assert not list(folder.rglob(".*"))

"""Several processes train as one does: the same draws, the same statistics, the same steps."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from drawn import copy_classes
from processes import Process

from captioning.checkpoint import load_checkpoint

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
from data_loader import CachedBatches, StageData
from model import CNNtoRNN
from train import train_one_epoch
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
        "everything": run(every, images, encode, CaptionLoss(captions, terms), steps=4),
    }
    if is_first():
        torch.save(found, sys.argv[1])
"""


TOGETHER = """
import json
from pathlib import Path

import torch
from torch import nn

from captioning.data.annotations import load_examples
from captioning.runtime import Machine, is_first, join_ranks
from captioning.search.options import SearchOptions
from captioning.training import features
from captioning.training.validation import Validation
from data_loader import EvalTransform, TrainTransform
from model import CNNtoRNN
from vocab import load_vocabulary

features.MAX_VIEWS_BYTES, features.PART_BYTES = 0, 4_000
torch.manual_seed(0)
trunk = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.Flatten(), nn.Linear(392, 24))
paths = sorted(Path("data/train").rglob("*.jpg"))
with join_ranks(5):
    views = [EvalTransform(32), TrainTransform(32)]
    kept, found = features.compute_views(trunk, paths, views, Machine(torch.device("cpu"), batch_size=3), 0, "x")
    assert len(kept) == len(found) == len(paths)

    examples, vocabulary = load_examples("data", "val"), load_vocabulary("vocab.pkl")
    model = CNNtoRNN(len(vocabulary), embed_size=8, hidden_size=8).eval()
    embeddings = torch.randn(len(examples), 8)
    validation = Validation(vocabulary, None, SearchOptions(beam_size=2, max_len=6))
    scores = validation(model, embeddings, examples), validation.choose_decoding(model, embeddings, examples)
    if is_first():
        Path("scores.json").write_text(json.dumps(scores))
"""


# BatchNorm subtracts what this bias adds, so its gradient is rounding alone, which AdamW scales up to its rate.
SHIFTS = ("encoder.linear.bias", "encoder.norm.running_mean")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_ranks(command, number, cwd, **environment):
    """Start `number` processes as a launcher would; one process has no launcher."""
    environment = {"OMP_NUM_THREADS": "1", "WANDB_API_KEY": "", **environment}
    if number > 1:
        environment |= {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1"}
        environment.setdefault("MASTER_PORT", str(free_port()))
    ranks = range(number)
    return [Process(command, cwd, environment | ({"RANK": str(rank)} if number > 1 else {})) for rank in ranks]


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
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    for stage, expected in one.items():
        assert two[stage].keys() == expected.keys()
        for name, tensor in expected.items():
            difference = (two[stage][name].double() - tensor.double()).abs().max().item()
            assert difference <= (1e-8 if name in SHIFTS else 1e-9), (stage, name, difference)
        assert not torch.equal(expected["losses"][0], expected["losses"][-1])


TINY = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 24 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16 --train.max_len 8 --train.wandb off
    --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0 --train.epochs 1
    --train.finetune_epochs 1 --train.finetune_batch_size 6 --train.self_critical_epochs 1
    --train.self_critical_batch_size 6 --train.save_minutes 1e-9
""".split()  # noqa: SIM905
TRAIN = [str(ROOT / "train.py"), *TINY]


def run_torchrun(command, cwd, seconds=240):
    """Run a script under torchrun with two processes: (exit code, output, errors). One that hangs is ended."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_API_KEY": "", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *LAUNCH, *command], cwd=cwd, env=environment, **pipes)
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes
        process.communicate()
        raise
    return process.returncode, output, errors


LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictograms_dir):
    """A working directory with pictures, their vocabulary, and the run `one` that one process has trained."""
    folder = tmp_path_factory.mktemp("ranks")
    copy_classes(pictograms_dir, folder / "data")
    finish(start_ranks([str(ROOT / "vocab.py"), "--data_dir", "data", "--vocab_path", "vocab.pkl"], 1, folder))
    finish(start_ranks([*TRAIN, "--train.run", "one"], 1, folder))
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """What two processes print that train the run `two`: (outputs, errors)."""
    return finish(start_ranks([*TRAIN, "--train.run", "two"], 2, folder))


def test_an_epoch_of_every_stage_by_its_command_line(folder, two):
    """Two processes train as one up to rounding; only the first of them prints and writes."""
    outs, errors = two
    assert "best epoch" in outs[0]
    assert (outs[1], errors[1]) == ("", "")
    one, two = (pd.read_csv(folder / "runs" / name / "history.csv") for name in ("one", "two"))
    assert two["stage"].tolist() == one["stage"].tolist()
    for column in ("train_loss", "val_loss"):
        assert two[column].tolist() == pytest.approx(one[column].tolist(), abs=1e-3)
    assert load_checkpoint(folder / "checkpoints/two.safetensors").decoding
    assert not list(folder.rglob(".*"))


def test_features_and_scores_of_two_processes_are_those_of_one(folder, tmp_path):
    """Each computes its share of every file and of the captions; files and scores are the same, to the last bit."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for path in (alone, shared):
        path.mkdir()
        for name in ("data", "vocab.pkl"):
            (path / name).symlink_to(folder / name)
    finish([*start_ranks(["-c", TOGETHER], 1, alone), *start_ranks(["-c", TOGETHER], 2, shared)])
    names = sorted(os.listdir(alone / "runs/features"))
    assert len(names) > 1
    assert sorted(os.listdir(shared / "runs/features")) == names
    for name in names:
        assert (alone / "runs/features" / name).read_bytes() == (shared / "runs/features" / name).read_bytes()
    assert json.loads((alone / "scores.json").read_text()) == json.loads((shared / "scores.json").read_text())


def assert_equal_to_two(folder, run):
    """Assert that a run has the history and the weights of the run `two`, to the last bit."""
    one, other = (load_checkpoint(folder / "checkpoints" / f"{name}.safetensors") for name in ("two", run))
    assert all(torch.equal(other.weights[name], one.weights[name]) for name in one.weights)
    assert [row["train_loss"] for row in other.history] == [row["train_loss"] for row in one.history]


def test_a_report_by_two_processes_has_the_same_files(folder):
    """Byte for byte, but for the lines that name the command, the date, the machine and the time."""
    report = [str(ROOT / "analysis_report.py"), "--model_path", "checkpoints/one.safetensors", "--data_dir", "data",
              "--batch_size", "6", "--device", "cpu", "--audit", "false", "--probe_images", "0"]  # fmt: skip
    finish(start_ranks([*report, "--output", "reports/alone"], 1, folder))
    outs, errors = finish(start_ranks([*report, "--output", "reports/shared"], 2, folder))
    assert "wrote reports/shared/report.html" in outs[0]
    assert (outs[1], errors[1]) == ("", "")
    alone, shared = (folder / "reports" / name for name in ("alone", "shared"))
    names = sorted(path.name for path in alone.iterdir())
    assert names == sorted(path.name for path in shared.iterdir())
    assert len(names) > 15
    for name in names:
        if name not in ("report.html", "report.md", "report.json"):
            assert (alone / name).read_bytes() == (shared / name).read_bytes(), name
    one, two = (json.loads((path / "report.json").read_text()) for path in (alone, shared))
    for told in (one, two):
        for key in ("command", "date", "machine", "seconds"):
            del told["provenance"][key]
    assert two == one


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from captioning.training.history import Record
save_if_due, steps = Record.save_if_due, []

def killed(self, run, stage):
    save_if_due(self, run, stage)
    steps.append(stage)
    if len(steps) == {step} and os.environ["RANK"] == "1" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

Record.save_if_due = killed
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path({root!r} + "/train.py", run_name="__main__")
"""


def test_a_killed_rank_is_one_line_and_the_run_goes_on(folder, two):
    """By hand with --train.resume. The other process prints one line and no traceback."""
    (folder / "killed").unlink(missing_ok=True)
    (folder / "hurt.py").write_text(KILLED.format(root=str(ROOT), step=2))
    first, second = start_ranks(["hurt.py", *TINY, "--train.run", "hurt"], 2, folder)
    _, errors = first.communicate()
    second.communicate()
    assert (first.returncode, second.returncode) == (2, -9)
    assert errors == "error: another process of this training has died, or did not answer for train.rank_minutes\n"
    outs, _ = finish(start_ranks([*TRAIN, "--train.run", "hurt", "--train.resume"], 2, folder))
    # The other process may have been killed before the first had written what follows the second step.
    assert re.search("going on with checkpoints/hurt_last.pt, after epoch 0 and (1 batch|2 batches)\n", outs[0])
    assert_equal_to_two(folder, "hurt")


def test_torchrun_goes_on_by_itself_after_a_rank_was_killed(folder, two):
    """In the second stage, and although a finished run of the same name, which is not its own, lies there."""
    (folder / "killed").unlink(missing_ok=True)
    for name in ("two.safetensors", "two_last.pt"):
        shutil.copy(folder / "checkpoints" / name, folder / "checkpoints" / name.replace("two", "healed"))
    (folder / "hurt.py").write_text(KILLED.format(root=str(ROOT), step=5))
    code, output, errors = run_torchrun(["hurt.py", *TINY, "--train.run", "healed"], folder)
    assert code == 0, errors
    assert output.count("going on with checkpoints/healed_last.pt") == 1
    assert_equal_to_two(folder, "healed")


LATE = """
import os, signal, time
from captioning import cli
from captioning.runtime import is_first, join_ranks, total, was_restarted
import torch

def main(config):
    if was_restarted() and os.environ["RANK"] == "0":
        time.sleep(4)
    with join_ranks(1):
        total(torch.ones(1))
        if not (was_restarted() or is_first()):
            os.kill(os.getpid(), signal.SIGKILL)
        print(total(torch.ones(1)))

cli.run(main, a={})
"""


def test_a_process_that_is_started_again_waits_for_the_other_one_started_again(tmp_path):
    """The store of torchrun outlives its processes: the address of a killed one stood in it, and the first to come back
    called that. Beside a busy machine the port may be another's by then, and nobody answers."""
    (tmp_path / "late.py").write_text(LATE)
    code, output, errors = run_torchrun(["late.py"], tmp_path, seconds=120)
    assert (code, output) == (0, "tensor([2.])\n"), errors


ELSEWHERE = """
import os
from pathlib import Path
import train
from captioning.runtime import join_ranks

rank = os.environ["RANK"]
train.last_path = lambda run: Path("elsewhere.py")
train.load_run = lambda path: {"launch": "launch 0"}
train.launch = lambda: f"launch {rank}"
with join_ranks(1):
    Path(f"rank_{rank}").write_text(str(train.may_go_on("x")))
"""


def test_ranks_of_two_machines_go_on_together(tmp_path):
    """The resume file names torchrun of the first machine; on the second the training began anew, alone."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    restarted = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1", "PYTHONPATH": str(ROOT)}
    finish(start_ranks(["elsewhere.py"], 2, tmp_path, **restarted))
    assert [(tmp_path / f"rank_{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


ALONE = """
import os, signal, time
from captioning import cli
from captioning.runtime import is_first, join_ranks, total
import torch

def main(config):
    with join_ranks(0.1):
        total(torch.ones(1))
        if not is_first():
            os.kill(os.getpid(), signal.SIGSTOP)
        total(torch.ones(1))

cli.run(main, a={})
"""


def test_a_rank_that_does_not_answer_is_one_line_after_the_limit(tmp_path):
    first, second = start_ranks(["-c", ALONE], 2, tmp_path)
    _, errors = first.communicate()
    second.kill()
    second.communicate()
    assert (first.returncode, errors.count("\n"), errors[:29]) == (2, 1, "error: another process of thi")


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        first, second = start_ranks(["-c", ALONE], 2, tmp_path, MASTER_PORT=port)
        _, errors = first.communicate()
        second.kill()
        second.communicate()
    assert first.returncode == 2, errors
    assert errors.startswith("error: the processes of the launcher cannot meet (")
    assert port in errors
    assert errors.count("\n") == 1


MISTAKE = """
from captioning import cli
from captioning.runtime import join_ranks

def main(config):
    with join_ranks(1):
        raise ValueError("data_dir: is missing")

cli.run(main, a={})
"""


def test_a_mistake_before_the_ranks_meet_is_told_once(tmp_path):
    _, errors = finish(start_ranks([str(ROOT / "train.py"), "--train.epocs", "3"], 2, tmp_path), code=2)
    assert errors == ["error: unknown key --train.epocs: did you mean --train.epochs? (--help lists every key)\n", ""]


def test_a_mistake_that_all_ranks_meet_is_told_once(tmp_path):
    _, errors = finish(start_ranks(["-c", MISTAKE], 2, tmp_path), code=2)
    assert sorted(errors) == ["", "error: data_dir: is missing\n"]

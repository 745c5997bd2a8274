"""Does a training that is killed anywhere end as if nothing had happened?

    python benchmarks/bench_kills.py                                        # 20 trainings, each killed once
    python benchmarks/bench_kills.py --num_processes 2                      # of two processes, started by torchrun
    python benchmarks/bench_kills.py --num_processes 2 --max_restarts 3     # torchrun starts them again by itself

A tiny model trains through all three stages in a temporary folder, with a resume file after every step. Then the same
training is started again and again, and killed with SIGKILL at a random time between its first resume file and its end:
one of its processes, or all of them. Without restarts it is then started once more with `--train.resume`. `equal`
counts those whose weights and history are, to the last bit, those of the training of as many processes that nothing
interrupted; `half_written` the kills that left a half-written file, `left` the trainings after which one is still
there. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass

import psutil
import torch

from captioning import cli
from captioning.checkpoint import load_checkpoint
from captioning.data.pictograms import write_dataset
from captioning.training.history import load_run, written_paths

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "num_kills": 20,
    "num_processes": 1,  # of a training; more are started by torchrun
    "max_restarts": 0,  # of torchrun
    "seed": 0,  # of the times and the victims of the kills
}
FLAGS = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 16 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16 --train.max_len 8 --train.wandb off
    --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0 --train.epochs 2
    --train.finetune_epochs 2 --train.finetune_batch_size 8 --train.self_critical_epochs 2
    --train.self_critical_batch_size 8 --train.scheduled_sampling 0.2 --train.save_minutes 1e-9
""".split()  # noqa: SIM905
TIMES = ("seconds", "figure_seconds")  # columns of the history that no two runs share


@dataclass(frozen=True)
class Training:
    """How a training is started: by how many processes, and how often torchrun starts them again."""

    num_processes: int
    max_restarts: int

    def start(self, run, *flags):
        """Start it under the name `run`."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.num_processes}"]
        launcher += [f"--max-restarts={self.max_restarts}"]
        return start(*launcher * (self.num_processes > 1), ROOT / "train.py", *FLAGS, "--train.run", run, *flags)

    def ranks(self, process):
        """Return the processes that train."""
        return [process] if self.num_processes == 1 else psutil.Process(process.pid).children()


def start(*command):
    """Start Python in the working directory."""
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Wait for a process to end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors[-1000:])


def wait_for_step(run, process):
    """Wait for the first resume file of a run, or for its end: seconds."""
    began = time.monotonic()
    while process.poll() is None and not written_paths(run)[1].is_file():
        time.sleep(0.005)
    return time.monotonic() - began


def kill(victims):
    """Kill processes with SIGKILL, as far as they are still there."""
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


def state_of(run):
    """Return where a run's resume file stands: (stage, epochs of the run, batches of the epoch)."""
    resumed = load_run(written_paths(run)[1])
    return resumed["stage"], len(resumed["history"]), resumed["state"]["tally"]["batches"]


def half_written(run):
    """Return the files of a run that were begun and not finished."""
    return [file for path in written_paths(run) for file in path.parent.glob(f".{path.stem}.*") if file.is_file()]


def same_result(first, second):
    """True if the checkpoints of two runs hold the same weights and the same history, but for the times."""
    one, two = (load_checkpoint(written_paths(run)[0]) for run in (first, second))
    same = one.weights.keys() == two.weights.keys()
    same = same and all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in of.history] for of in (one, two)]
    return same and rows[0] == rows[1] and one.best == two.best


def main(config):
    """Print a line per kill, and the counts as JSON."""
    config = config["bench"]
    training = Training(config["num_processes"], config["max_restarts"])
    if training.max_restarts and training.num_processes == 1:
        raise ValueError("--max_restarts: torchrun starts trainings of several processes alone; give --num_processes 2")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(config["seed"])
    counts, stages = Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_dataset(Path("data"), per_class=3, progress=False)
        finish(start(ROOT / "vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl"))
        finish(training.start("warm"))  # computes the features that all runs read
        process = training.start("whole")
        wait_for_step("whole", process)
        began = time.monotonic()
        finish(process)
        whole = time.monotonic() - began
        for number in range(config["num_kills"]):
            run, seconds = f"killed_{number}", draw.uniform(0, 1) * whole
            process = training.start(run)
            wait_for_step(run, process)
            ranks = training.ranks(process)
            victims = draw.choice([*([rank] for rank in ranks), ranks])
            time.sleep(seconds)
            kill(victims)
            if training.max_restarts:
                state = state_of(run)
                finish(process)
            else:
                process.communicate()
                state = state_of(run)
                counts.update(half_written=bool(half_written(run)))
                finish(training.start(run, "--train.resume"))
            equal = same_result("whole", run)
            counts.update(equal=equal, left=bool(half_written(run)))
            stages[f"stage {state[0] + 1}"] += 1
            told = f"{len(victims)} of {len(ranks)} processes killed {seconds:5.1f} s after the first step"
            print(f"{told}, of {whole:.1f}, at {state}: {'equal' if equal else 'NOT EQUAL'}", flush=True)
    result = {"bench": "kills", **config, **counts, "resumed_in": dict(sorted(stages.items()))}
    print(json.dumps(result))


if __name__ == "__main__":
    limits = {"num_kills": (1, 10_000), "num_processes": (1, 64), "max_restarts": (0, 100)}
    cli.run(main, {"bench": limits}, bench=CONFIG)

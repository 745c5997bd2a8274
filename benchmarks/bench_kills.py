"""Does a training that is killed anywhere end as if nothing had happened?

    python benchmarks/bench_kills.py                    # 20 trainings of all stages, each killed once
    python benchmarks/bench_kills.py --num_kills 3

A tiny model trains through all three stages in a temporary folder, with a resume file after every step. Then the same
training is started again and again, killed with SIGKILL at a random time, and started once more with `--train.resume`
(without it where the kill came before the first resume file). `equal` counts those whose weights and history are, to
the last bit, those of the training that nothing interrupted; `half_written` the kills that left a half-written file,
`left` the trainings after which one is still there. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter

import torch

from captioning import cli
from captioning.checkpoint import load_checkpoint
from captioning.data.pictograms import write_dataset
from captioning.training.history import load_run, written_paths

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "num_kills": 20,
    "seed": 0,  # of the times of the kills
}
FLAGS = """
    --data.image_size 32 --data.num_workers 0 --data.batch_size 16 --data.data_dir data --data.vocab_path vocab.pkl
    --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16 --train.max_len 8 --train.wandb off
    --train.precision float32 --train.feature_views 2 --train.device cpu --train.patience 0 --train.epochs 2
    --train.finetune_epochs 2 --train.finetune_batch_size 8 --train.self_critical_epochs 2
    --train.self_critical_batch_size 8 --train.scheduled_sampling 0.2 --train.save_minutes 1e-9
""".split()  # noqa: SIM905
TIMES = ("seconds", "figure_seconds")  # columns of the history that no two runs share


def start(script, *flags):
    """Start a script in the working directory."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Wait for a script to end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors[-1000:])


def train(run, *flags):
    """Start a training."""
    return start("train.py", *FLAGS, "--train.run", run, *flags)


def state_of(run):
    """Return where a run's resume file stands: (stage, epochs of the run, batches of the epoch); None = no file."""
    path = written_paths(run)[1]
    if not path.is_file():
        return None
    resumed = load_run(path)
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
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(config["seed"])
    counts, stages = Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_dataset(Path("data"), per_class=3, progress=False)
        finish(start("vocab.py", "--data_dir", "data", "--vocab_path", "vocab.pkl"))
        finish(train("warm"))  # computes the features that all runs read
        began = time.monotonic()
        finish(train("whole"))
        whole = time.monotonic() - began
        for number in range(config["num_kills"]):
            run, seconds = f"killed_{number}", draw.uniform(0, 1) * whole
            process = train(run)
            try:
                process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            state, left = state_of(run), half_written(run)
            finish(train(run, *(["--train.resume"] if state else [])))
            equal = same_result("whole", run)
            counts.update(equal=equal, half_written=bool(left), left=bool(half_written(run)))
            stages["none" if state is None else f"stage {state[0] + 1}"] += 1
            print(f"killed after {seconds:5.1f} s of {whole:.1f}, at {state}: {'equal' if equal else 'NOT EQUAL'}")
        os.chdir(ROOT)
    result = {"bench": "kills", "kills": config["num_kills"], **counts, "resumed_in": dict(sorted(stages.items()))}
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, {"bench": {"num_kills": (1, 10_000)}}, bench=CONFIG)

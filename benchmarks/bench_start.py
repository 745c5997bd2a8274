"""How long a user waits for the first caption: caption.py on one picture, as a process of its own.

    python benchmarks/bench_start.py --model_path exports/pictograms_int8.onnx

import torch    the baseline: the interpreter and torch alone, without which no .safetensors model can be read
import caption  the interpreter and what `from caption import Captioner` needs
caption.py      the interpreter, the model and one caption, beam 5

Seconds are the median of several runs after a first one that warms the disk. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

from captioning import cli

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "model_path": "checkpoints/pictograms.safetensors",  # as in caption.py
    "runs": 5,
}


def seconds(command, runs):
    """Return the median time of a command in seconds. Raises ValueError with its last line if it fails."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        if done.returncode:
            raise ValueError(f"{' '.join(map(str, command[1:]))[:80]}: {done.stderr.strip().splitlines()[-1]}")
    return statistics.median(times[1:])


def main(config):
    """Print the times, and all of them as JSON."""
    config = config["bench"]
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "picture.jpg")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), dtype=np.uint8)).save(picture)
        model = os.path.abspath(config["model_path"]) if Path(config["model_path"]).exists() else config["model_path"]
        commands = {
            "import torch": ["-c", "import torch"],
            "import caption": ["-c", "import caption"],
            "caption.py": ["caption.py", str(picture), "--model_path", model],
        }
        found = {name: seconds([sys.executable, *command], config["runs"]) for name, command in commands.items()}
    for name, value in found.items():
        print(f"{name:<16}{value:>8.2f} s{value / found['import torch']:>8.2f} x import torch")
    ratio = {name: round(value / found["import torch"], 2) for name, value in found.items()}
    rounded = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({"bench": "start", "model": config["model_path"], "seconds": rounded, "ratio": ratio}))


if __name__ == "__main__":
    cli.run(main, {"bench": {"runs": (1, 1000)}}, bench=CONFIG)

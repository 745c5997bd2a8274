"""How much memory does train.py take for its table of the pictures and captions of tar shards?

    python benchmarks/bench_index.py                          # 1 million pictures with a caption each
    python benchmarks/bench_index.py --pictures 10000000

One shard of drawn pictures stands under as many names as the pictures take. `few` is a training on one such shard,
`many` on all: one epoch of 64 images, the whole encoder, so that nothing but the table differs. Megabytes are the
largest resident set of the process (pages of temporary files that it mapped included), seconds those of the whole run.
The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import io
import json
import math
import os
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

from bench_vocab import draw_captions
from captioning import cli
from captioning.data.tars import write_shard

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "pictures": 1_000_000,
    "pictures_per_shard": 10_000,
    "words": 5000,  # different ones that a caption is drawn from
}
SIDE, VAL_PICTURES = 32, 20
FLAGS = {
    "train.epochs": 1,
    "train.freeze_encoder": False,
    "train.wandb": "off",
    "data.samples_per_epoch": 64,
    "data.batch_size": 16,
    "data.image_size": SIDE,
    "model.encoder_weights": "none",
}


def draw_pictures(number):
    """Return JPEG files of one colour each, as bytes."""
    draw, files = np.random.default_rng(0), []
    for _ in range(number):
        content = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), tuple(draw.integers(0, 255, 3).tolist())).save(content, "JPEG")
        files.append(content.getvalue())
    return files


def run(folder, script, flags):
    """Run a script; return (its seconds, the megabytes of its largest resident set)."""
    command = [sys.executable, str(ROOT / script)] + [
        str(part) for name, value in flags.items() for part in (f"--{name}", value)
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{script}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1000  # kilobytes of Linux


def main(config):
    """Print seconds and memory of both trainings, and all as JSON."""
    config = config["bench"]
    each = config["pictures_per_shard"]
    num_shards = math.ceil(config["pictures"] / each)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train").mkdir()
        (folder / "val").mkdir()
        captions, pictures = draw_captions(each, config["words"]), draw_pictures(each)
        pairs = zip(pictures, captions, strict=True)
        first = folder / "train" / "00000000.tar"
        write_shard(first, ((f"{n:09}", {"jpg": p, "txt": c.encode()}) for n, (p, c) in enumerate(pairs)))
        for number in range(1, num_shards):
            os.link(first, folder / f"train/{number:08}.tar")
        rows = ["image,caption"]
        for number in range(VAL_PICTURES):
            (folder / f"val/{number}.jpg").write_bytes(pictures[number])
            rows.append(f"val/{number}.jpg,{captions[number]}")
        (folder / "captions.csv").write_text("\n".join(rows) + "\n")
        run(folder, "vocab.py", {"data_dir": first, "vocab_path": "vocab.pkl", "min_count": 1})
        for name, last in {"few": 0, "many": num_shards - 1}.items():
            shards = f"{folder}/train/{{00000000..{last:08}}}.tar"
            flags = FLAGS | {"train.run": name, "data.data_dir": shards, "data.vocab_path": "vocab.pkl"}
            seconds, megabytes = run(folder, "train.py", flags)
            found[name] = {"pictures": (last + 1) * each, "seconds": round(seconds), "megabytes": round(megabytes)}
            print(f"{found[name]['pictures']:>12,} pictures  {seconds:>6.0f} s  {megabytes:>6.0f} MB", flush=True)
    more = found["many"]["pictures"] - found["few"]["pictures"]
    growth = (found["many"]["megabytes"] - found["few"]["megabytes"]) * 1e6 / more if more else 0.0
    print(f"{growth:.0f} bytes for each further picture")
    print(json.dumps({"bench": "index", **found, "bytes_per_picture": round(growth)}))


if __name__ == "__main__":
    cli.run(
        main, {"bench": {"pictures": (1, 10**9), "pictures_per_shard": (64, 10**6), "words": (1, 10**6)}}, bench=CONFIG
    )

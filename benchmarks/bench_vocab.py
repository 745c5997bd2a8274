"""What does vocab.py cost on millions of captions in tar shards?

    python benchmarks/bench_vocab.py                          # 1 million captions
    python benchmarks/bench_vocab.py --captions 10000000

One shard of drawn captions, whose words have the frequencies of Zipf's law, stands under as many names as the captions
take; vocab.py reads it as often. `baseline` reads the same members with tarfile alone, and counts nothing: the share of
the captions that a shard has. `megabytes` is the largest resident set of the process that runs vocab.py. The last line
is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import math
import os
import resource
import subprocess
import tarfile
import tempfile
import time

import numpy as np

from captioning import cli
from captioning.data.tars import write_shard

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "captions": 1_000_000,
    "captions_per_shard": 10_000,
    "words": 30_000,  # different ones that a caption is drawn from
    "picture_bytes": 1000,  # that are passed over; a caption of img2dataset stands beside some 20,000
}


def draw_captions(number, num_words):
    """Return captions of 8 to 13 words."""
    draw = np.random.default_rng(0)
    chances = 1 / np.arange(1, num_words + 1)
    lengths = draw.integers(8, 14, number)
    words = draw.choice(num_words, lengths.sum(), p=chances / chances.sum())
    return [" ".join(f"w{word}" for word in group) for group in np.split(words, lengths.cumsum()[:-1])]


def read_members(path):
    """Read the texts of a shard with tarfile alone: seconds for each."""
    began, number = time.perf_counter(), 0
    with tarfile.open(path) as tar:
        for info in tar:
            if info.name.endswith(".txt"):
                number += bool(tar.extractfile(info).read())
    return (time.perf_counter() - began) / number


def main(config):
    """Print seconds and memory, and all as JSON."""
    config = config["bench"]
    per_shard = min(config["captions_per_shard"], config["captions"])
    num_shards = math.ceil(config["captions"] / per_shard)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = draw_captions(per_shard, config["words"])
        picture = bytes(config["picture_bytes"])
        first = folder / "00000000.tar"
        write_shard(first, ((f"{n:09}", {"jpg": picture, "txt": c.encode()}) for n, c in enumerate(captions)))
        for number in range(1, num_shards):
            os.link(first, folder / f"{number:08}.tar")
        baseline = num_shards * per_shard * read_members(first)
        shards = f"{folder}/{{00000000..{num_shards - 1:08}}}.tar"
        command = [sys.executable, ROOT / "vocab.py", "--data_dir", shards, "--vocab_path", "v.pkl"]
        began = time.perf_counter()
        said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - began
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000  # kilobytes of Linux
    print(next(line for line in said.splitlines() if line.startswith("train captions")))
    total = num_shards * per_shard
    print(f"{seconds:.0f} s, {total / seconds:,.0f} captions/s; tarfile alone {baseline:.0f} s; {megabytes:.0f} MB")
    result = {"bench": "vocab", "captions": total, "seconds": round(seconds, 1), "baseline_seconds": round(baseline, 1)}
    print(json.dumps(result | {"megabytes": round(megabytes)}))


if __name__ == "__main__":
    limits = {
        "captions": (1, 10**10),
        "captions_per_shard": (1, 10**6),
        "words": (1, 10**6),
        "picture_bytes": (1, 2**20),
    }
    cli.run(main, {"bench": limits}, bench=CONFIG)

"""Does training from features on the disk, larger than the memory, keep up with training from memory?

    python benchmarks/bench_features.py                          # 4 GB of features, 2 GB of memory
    python benchmarks/bench_features.py --gigabytes 8 --limit 3

Writes random features, as many views of images as `gigabytes` need, in the files that train.py writes, into a temporary
folder. Then stage 1 of train.py (the decoder, cross-entropy) trains on them in processes of their own, in turn:

memory  all features are read into memory first, and no limit is set
disk    they are read as training asks for them, in a control group that holds the process and what the kernel keeps of
        its files to `limit` GB, so that most rows come from the disk

`ratio` is the rate of `disk` over that of `memory`, the median of several rounds. A control group needs root, and the
memory controller under /sys/fs/cgroup; without it the benchmark ends with one line. The last line is JSON.
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
import statistics
import subprocess
import tempfile
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import train
from captioning import cli
from captioning.data.sequences import Captions
from captioning.runtime import Machine, flush_denormals, pick_precision
from captioning.training.features import PART_BYTES, MappedViews
from captioning.training.losses import CaptionLoss, LossTerms
from captioning.training.optimisation import start_run
from captioning.training.stages import Stage
from data_loader import CachedBatches, StageData
from model import CNNtoRNN

CONFIG = {
    "gigabytes": 4.0,  # of features
    "limit": 2.0,  # GB of memory that `disk` may use, its files' pages included
    "kind": "pooled features",  # pooled features: 1280 numbers a view | feature maps: 160 x 4 x 4 in half precision
    "views": 4,
    "words": 2000,  # of the vocabulary
    "batches": 400,  # trained on in each measurement
    "warm_up": 50,  # batches before the time is taken
    "batch_size": 64,
    "rounds": 3,
    "measure": "",  # set by the benchmark for its own processes: folder,variant
}
SHAPES = {"pooled features": (torch.float32, (1280,)), "feature maps": (torch.float16, (160, 4, 4))}
MEMORY_ROOTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")  # of control groups 1 and 2
LIMIT_FILES = ("memory.limit_in_bytes", "memory.max")


@contextlib.contextmanager
def memory_limit(gigabytes):
    """Make a control group of at most so much memory: the file that takes a process into it. Raises ValueError."""
    for root, limit_file in zip(MEMORY_ROOTS, LIMIT_FILES, strict=True):
        group = Path(root, f"bench_features_{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit_file).exists():
                (group / limit_file).write_text(str(int(gigabytes * 1e9)))
                yield group / "cgroup.procs"
                return
        finally:
            group.rmdir()
    raise ValueError(f"no control group with a memory limit can be made below {' or '.join(MEMORY_ROOTS)}")


def write_parts(folder, config):
    """Write random features into files of PART_BYTES."""
    dtype, shape = SHAPES[config["kind"]]
    row_bytes = config["views"] * dtype.itemsize * torch.Size(shape).numel()
    size, left, number = int(PART_BYTES // row_bytes), int(config["gigabytes"] * 1e9 // row_bytes), 0
    while left:
        rows = min(size, left)
        views = torch.rand(rows, config["views"], *shape).to(dtype)
        save_file({"views": views}, Path(folder, f"{number:05}.safetensors"))
        left, number = left - rows, number + 1


def measure(folder, variant, config):
    """Return captions/s of training on the features in `folder`."""
    flush_denormals()
    parts, paths = [], sorted(Path(folder).iterdir())
    for path in paths:
        with safe_open(path, framework="pt") as file:
            views = file.get_tensor("views")
        parts.append(views.clone() if variant == "memory" else views)
    files = [os.open(path, os.O_RDONLY) for path in paths] if variant == "disk" else ()
    inputs = MappedViews("", parts, files)
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 14, (len(inputs),), generator=draw).tolist()
    captions = Captions(
        [[1, *torch.randint(4, config["words"], (length,), generator=draw).tolist(), 2]] for length in lengths
    )
    labels = torch.full((len(inputs),), -1)
    cut = 0 if inputs.ndim == 3 else 2
    model = CNNtoRNN(config["words"])
    model.encoder.to(memory_format=torch.channels_last)

    def encode(model, views):
        return model.encoder.embed(model.encoder.cut(cut)[1](views) if cut else views)

    batches = CachedBatches(inputs, captions, labels, config["batch_size"], by_caption=not cut)
    machine = Machine(torch.device("cpu"), pick_precision("auto", torch.device("cpu")))
    stage = Stage("finetune" if cut else "decoder", lr=1e-4, encoder_lr=1e-4 * bool(cut), num_blocks=cut, warmup=0.0)
    run = start_run(model, stage, len(batches), machine)
    began = []

    class Some:
        """The first batches of an epoch."""

        num_rows = len(batches) * config["batch_size"]

        def __len__(self):
            return config["warm_up"] + config["batches"]

        def epoch(self, seed, first=0):
            for number, batch in zip(range(len(self)), batches.epoch(seed, first), strict=False):
                if number == config["warm_up"]:
                    began.append(time.perf_counter())
                yield batch

    data = StageData(Some(), encode, captions, labels)
    train.train_one_epoch(run, stage, data, CaptionLoss(captions, LossTerms(label_smoothing=0.1)), machine, seed=0)
    return config["batches"] * config["batch_size"] / (time.perf_counter() - began[0])


def main(config):
    """Print a line per round, and the ratio as JSON."""
    config = config["bench"]
    if config["measure"]:
        print(measure(*config["measure"].split(","), config))
        return
    with memory_limit(config["limit"]) as group, tempfile.TemporaryDirectory(dir=".") as folder:
        write_parts(folder, config)
        flags = [
            part
            for name in ("kind", "words", "batches", "warm_up", "batch_size")
            for part in (f"--{name}", str(config[name]))
        ]
        rates = {"memory": [], "disk": []}
        for _ in range(config["rounds"]):
            for variant, found in rates.items():
                command = [sys.executable, __file__, *flags, "--measure", f"{folder},{variant}"]
                enter = (lambda: group.write_text(str(os.getpid()))) if variant == "disk" else None
                os.sync()
                for path in Path(folder).iterdir():  # what the kernel keeps of the files counts where it was read first
                    with open(path, "rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=enter)
                found.append(float(done.stdout.splitlines()[-1]))
            print(f"memory {rates['memory'][-1]:>8,.0f} captions/s   disk {rates['disk'][-1]:>8,.0f}", flush=True)
    ratio = statistics.median(disk / memory for memory, disk in zip(*rates.values(), strict=True))
    result = {
        "bench": "features",
        "ratio": round(ratio, 2),
        "captions_per_second": {k: round(statistics.median(v)) for k, v in rates.items()},
    }
    print(json.dumps(result | {name: config[name] for name in ("gigabytes", "limit", "kind", "views")}))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

"""How much memory the index of COCO's train captions takes, in the training process and its workers together.

    python benchmarks/bench_memory.py                       # 118,287 images, 591,753 captions, 4 workers
    python benchmarks/bench_memory.py --num_images 20000

It writes annotations like COCO's, with random words and empty image files, into a temporary folder. Each measurement
is a process of its own that loads them, builds a dataset and a loader, and runs through the captions of one epoch.

empty       CaptionDataset of 512 images: the interpreter, torch and the batches under way
ours        CaptionDataset of all; what it was built from is dropped, as train.py does
baseline    a list of (path, caption, tensor), as tutorials have it; where workers are forked only, since to a
            spawned one each tensor is sent as a file of its own, of which no process may open so many

Memory is the proportional set size (PSS) of the process and all its workers, from /proc/<pid>/smaps_rollup: a page
that k processes share counts 1/k in each, so that the sum counts every page once. The largest of several samples
stands for the run. Held under 500 MB (10**6 bytes) is the index: ours minus empty. The total, with the code of torch
and the Python objects that each process makes for itself, is given beside it and is not under 500 MB.

Linux only. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from captioning import cli
from captioning.data.annotations import load_examples
from data_loader import CaptionDataset, EvalTransform, build_loader, collate
from vocab import SPECIALS, Vocabulary

CONFIG = {
    "num_images": 118_287,  # COCO train2017; 5 captions each, and a sixth for one image in 370
    "num_workers": 4,
    "start": "fork,spawn",  # how workers begin, one or both
    "measure": "",  # set by the benchmark for its own processes: folder,variant,start
}
NUM_WORDS, MEAN_WORDS = 10_000, 10.5  # the vocabulary; words in a caption
WORDS = [f"word{number}" for number in range(NUM_WORDS)]
EMPTY_IMAGES = 512
BATCH_SIZE = 64
LIMIT = 500e6  # bytes
VARIANTS = {"fork": ("empty", "ours", "baseline"), "spawn": ("empty", "ours")}


def write_coco(folder, num_images):
    """Write annotations/captions_train2017.json and empty images; return the number of captions."""
    rng = np.random.default_rng(0)
    names = [f"{number:012d}.jpg" for number in range(num_images)]
    (folder / "train2017").mkdir(parents=True)
    for name in names:  # the reader looks for names only
        (folder / "train2017" / name).touch()
    url = "http://images.cocodataset.org/train2017/"
    images = [
        {"license": 3, "file_name": name, "coco_url": url + name, "height": 480, "width": 640, "id": number}
        for number, name in enumerate(names)
    ]
    owners = [number for number in range(num_images) for _ in range(5 + (number % 370 == 0))]
    rng.shuffle(owners)
    lengths = np.maximum(7, rng.poisson(MEAN_WORDS, len(owners)))
    frequencies = 1 / np.arange(1, NUM_WORDS + 1)
    words = rng.choice(NUM_WORDS, lengths.sum(), p=frequencies / frequencies.sum())
    texts = [" ".join(WORDS[word] for word in words[a:b]) for a, b in pairwise([0, *np.cumsum(lengths)])]
    annotations = [
        {"image_id": owner, "id": number, "caption": f"{text}."}
        for number, (owner, text) in enumerate(zip(owners, texts, strict=True))
    ]
    (folder / "annotations").mkdir()
    with open(folder / "annotations/captions_train2017.json", "w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations}, file)
    return len(annotations)


class TutorialDataset(Dataset):
    """(path, caption, tensor of ids) of each caption, in a list."""

    def __init__(self, examples, vocabulary):
        self.items = [
            (str(example.image), caption, torch.tensor(vocabulary.encode(caption)))
            for example in examples
            for caption in example.captions
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        path, _, tokens = self.items[index]
        return {"image": None, "tokens": [tokens], "label": -1, "index": index, "failed": path}


def proc_bytes(path, key):
    """Return a value that Linux gives in kB under /proc, in bytes."""
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{path}: no {key}")


def total_pss():
    """Return the bytes of this process and its workers, shared pages counted once."""
    processes = (os.getpid(), *(process.pid for process in multiprocessing.active_children()))
    return sum(proc_bytes(f"/proc/{pid}/smaps_rollup", "Pss") for pid in processes)


def measure(folder, variant, start, num_workers):
    """Return {"pss": bytes, "peak": bytes of this process alone, "load_s": seconds} of one epoch."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than processors
    multiprocessing.set_start_method(start)
    began = time.perf_counter()
    examples = load_examples(folder, "train")
    vocabulary = Vocabulary([*SPECIALS, *WORDS])
    if variant == "baseline":
        dataset = TutorialDataset(examples, vocabulary)
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=num_workers, collate_fn=collate)
    else:
        dataset = CaptionDataset(examples, vocabulary, EvalTransform(8), image_size=8)
        loader = build_loader(dataset, batch_size=BATCH_SIZE, num_workers=num_workers, shuffle=True)
    del examples
    load_s = time.perf_counter() - began
    samples, every = [], max(1, len(loader) // 8)
    for number, _ in enumerate(loader):
        if number % every == every - 1:
            samples.append(total_pss())
            workers = len(multiprocessing.active_children())
    if workers != num_workers:
        raise ValueError(f"num_workers: {num_workers} asked for, {workers} seen")
    return {"pss": max(samples), "peak": proc_bytes("/proc/self/status", "VmHWM"), "load_s": load_s}


def main(config):
    """Print a line per measurement, and all of them as JSON."""
    config = config["bench"]
    if config["measure"]:
        print(json.dumps(measure(*config["measure"].split(","), config["num_workers"])))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        count = write_coco(Path(folder) / "full", config["num_images"])
        write_coco(Path(folder) / "empty", EMPTY_IMAGES)
        print(f"{config['num_images']:,} images, {count:,} captions, {config['num_workers']} workers; MB = 10**6 bytes")
        for start in config["start"].split(","):
            for variant in VARIANTS[start]:
                data = Path(folder) / ("empty" if variant == "empty" else "full")
                flags = ["--measure", f"{data},{variant},{start}", "--num_workers", str(config["num_workers"])]
                command = [sys.executable, __file__, *flags]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = results[f"{start} {variant}"] = json.loads(done.stdout.splitlines()[-1])
                index = found["pss"] - results[f"{start} empty"]["pss"]
                print(
                    f"{start:<6}{variant:<10}total {found['pss'] / 1e6:>7,.0f} MB   index {index / 1e6:>7,.0f} MB   "
                    f"peak while loading {found['peak'] / 1e6:>7,.0f} MB   ready after {found['load_s']:>5.1f} s",
                    flush=True,
                )
    total = {name: round(found["pss"] / 1e6) for name, found in results.items()}
    index = {name: value - total[f"{name.split()[0]} empty"] for name, value in total.items() if "empty" not in name}
    held = all(value < LIMIT / 1e6 for name, value in index.items() if name.endswith("ours"))
    machine = {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({"bench": "memory", "index MB": index, "total MB": total, "held": held, "machine": machine}))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

"""What train.py makes of few images: random subsets of a dataset, with the settings it chooses and with fixed ones.

    python benchmarks/small_sets.py --data_dir <dataset> --encoder_weights photos
    python benchmarks/small_sets.py --data_dir <flickr8k> --encoder_weights <mobilenet_v2.pth> --settings chosen fixed

The encoder and `--train.init photos` have seen all train images of Flickr8k, so the second line leaves both out.
A draw of N images is split 8:1:1 into train and val (the tenth for test is left out); all models are scored on the same
`test_images` of the dataset's own test split, beam search with the checkpoint's own decoding. Every run's scores are
kept in runs/small_sets.csv, so that an interrupted table goes on where it stopped: delete it before a new one. Writes
runs/small_sets/ and checkpoints/small_sets.safetensors, again and again. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import random
import shutil
import statistics
import subprocess
import time

import pandas as pd
from tqdm import tqdm

from captioning import cli
from captioning.data.annotations import load_dataset
from captioning.markup import markdown_table

CONFIG = {
    "data_dir": "data/pictograms",  # dataset with a train and a test split
    "encoder_weights": "photos",
    "sizes": [20, 40, 100, 400],  # images of a draw
    "draws": 3,
    "test_images": 200,
    "settings": ["chosen", "fixed", "init"],  # init: chosen, and the weights of the whole photo model to begin with
}
FIXED = {  # what train.py took for every set before it looked at the number of images
    "train.epochs": 20, "train.lr": 0.001, "train.feature_views": 4, "train.patience": 8, "data.batch_size": 64
}  # fmt: skip
SETTINGS = {"chosen": {}, "fixed": FIXED, "init": {"train.init": "photos"}}  # which brings an encoder
METRICS = {
    "BLEU-4": "BLEU-4",
    "CIDEr-D": "CIDEr-D",
    "average accuracy": "class accuracy",
    "seconds": "seconds of training",
}
RESULTS, FOLDER = Path("runs", "small_sets.csv"), Path("runs", "small_sets")


def write_subset(dataset, size, draw, num_test):
    """Write a draw as a folder of the project's layout."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    chosen = random.Random(draw).sample(dataset.splits["train"], size)
    num_val = max(1, size // 10)
    test = random.Random(0).sample(dataset.splits["test"], min(num_test, len(dataset.splits["test"])))
    rows = []
    for split, examples in (("val", chosen[:num_val]), ("train", chosen[num_val : size - num_val]), ("test", test)):
        for number, example in enumerate(examples):
            name = "/".join(filter(None, (split, example.label, f"{number:04}{example.image.suffix}")))
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(example.image, FOLDER / name)
            rows += [(name, caption) for caption in example.captions]
    pd.DataFrame(rows, columns=["image", "caption"]).to_csv(FOLDER / "captions.csv", index=False)


def call(script, settings):
    """Run a script of the project. Raises ValueError with the end of what it says if it fails."""
    command = [sys.executable, script, *(f"--{name}={value}" for name, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{script}: {cli.one_line(done.stderr[-300:])}")


def measure(config, changes):
    """Train on the subset and return {name in METRICS: score on its test split}."""
    vocabulary = FOLDER / "vocab.pkl"
    call("vocab.py", {"data_dir": FOLDER, "min_count": 1, "vocab_path": vocabulary, "graph_path": FOLDER / "v.png"})
    settings = {"data.data_dir": FOLDER, "data.vocab_path": vocabulary, "train.run": "small_sets", "train.wandb": "off"}
    began = time.perf_counter()
    encoder = {} if "train.init" in changes else {"model.encoder_weights": config["encoder_weights"]}
    call("train.py", settings | encoder | changes)
    seconds = time.perf_counter() - began
    model = "checkpoints/small_sets.safetensors"
    call("analysis_report.py", {"model_path": model, "data_dir": FOLDER, "split": "test", "probe_images": 0})
    summary = pd.read_csv("reports/small_sets_test/summary.csv").set_index("metric")["value"]
    return {name: float(summary[name]) for name in METRICS if name in summary} | {"seconds": seconds}


def main(config):
    """Print the table in Markdown, and its numbers as JSON."""
    config = config["small_sets"]
    unknown = set(config["settings"]) - SETTINGS.keys()
    if unknown:
        raise ValueError(f"settings: got {', '.join(unknown)}, allowed are {', '.join(SETTINGS)}")
    dataset = load_dataset(config["data_dir"], "train", "test")
    results = pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []
    done = {(row["data"], row["images"], row["draw"], row["settings"]) for row in results}
    jobs = [(draw, size) for draw in range(config["draws"]) for size in config["sizes"]]
    for draw, size in tqdm(jobs):
        for name in config["settings"]:
            if (dataset.name, size, draw, name) in done:
                continue
            write_subset(dataset, size, draw, config["test_images"])
            row = {"data": dataset.name, "images": size, "draw": draw, "settings": name}
            results.append(row | measure(config, SETTINGS[name]))
            pd.DataFrame(results).to_csv(RESULTS, index=False)
    results = [row for row in results if row["data"] == dataset.name]
    metrics = [name for name in METRICS if name in results[0]]
    rows = []
    for size in config["sizes"]:
        for name in config["settings"]:
            cells = []
            for metric in metrics:
                values = [row[metric] for row in results if (row["images"], row["settings"]) == (size, name)]
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 and metric != "seconds" else ""
                cells.append(f"{statistics.mean(values):.{0 if metric == 'seconds' else 3}f}{spread}")
            rows.append([str(size), name, *cells])
    print(markdown_table(["images", "settings", *(METRICS[name] for name in metrics)], rows))
    print(json.dumps({"bench": "small_sets", "results": results}))


if __name__ == "__main__":
    cli.run(main, {"small_sets": {"draws": (1, 100), "test_images": (2, 100_000)}}, small_sets=CONFIG)

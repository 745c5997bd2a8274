"""What each setting of training is worth in stage 1: train.py's default, and with one setting changed at a time.

    python benchmarks/levers.py --data_dir data/birds --vocab_path vocab_5.pkl --encoder_weights imagenet

Every row is `seeds` runs of train.py, which differ in their seed alone; a run's scores are those of its best epoch by
CIDEr-D on the validation split. Mean and standard deviation. A row within about one of these of the default shows no
difference. Every run's scores are kept in runs/levers.csv, so that an interrupted table goes on where it stopped:
delete it before a new one. Writes checkpoints/levers.safetensors, again and again. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import statistics
import subprocess

import pandas as pd
from tqdm import tqdm

from captioning import cli
from captioning.markup import markdown_table

CONFIG = {
    "data_dir": "data/pictograms",  # folder or annotation file
    "vocab_path": "vocab_2.pkl",
    "encoder_weights": "checkpoints/pictograms.safetensors",
    "seeds": 3,
    "vertical_flip": 0.0,
    "lr": 1e-3,
    "epochs": 20,
}
LEVERS = [  # settings that each row changes
    "",
    "train.ema=0",
    "train.warmup=0",
    "train.weight_decay=0",
    "train.grad_clip=1e9",
    "train.accumulate=2",
    "train.class_loss=0",
    "train.class_emphasis=0",
    "train.class_emphasis=1",
    "train.label_smoothing=0",
    "train.scheduled_sampling=0.2",
    "train.feature_views=1",
    "model.input_dropout=0",
    "model.dropout=0",
    "model.tie_weights=true",
    "model.num_layers=2 model.layer_dropout=0.3",
    "model.image_input=state",
    "model.decoder=attention",
]
METRICS = {"bleu4": "BLEU-4", "cider_d": "CIDEr-D", "class_accuracy": "class accuracy", "seconds": "seconds an epoch"}
RESULTS = Path("runs", "levers.csv")


def train(config, lever, seed):
    """Run train.py and return {name in METRICS: of its best epoch}."""
    settings = {
        "data.data_dir": config["data_dir"],
        "data.vocab_path": config["vocab_path"],
        "data.vertical_flip": config["vertical_flip"],
        "model.encoder_weights": config["encoder_weights"],
        "train.lr": config["lr"],
        "train.epochs": config["epochs"],
        "train.seed": seed,
        "train.run": "levers",
        "train.wandb": "off",
        **dict(pair.split("=") for pair in lever.split()),
    }
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"train.py with {lever or 'the default'}: {cli.one_line(done.stderr[-300:])}")
    history = pd.read_csv(Path("runs", "levers", "history.csv"))
    best = history.loc[history["cider_d"].idxmax()]
    return {name: float(best[name]) for name in METRICS if name in history} | {"seconds": history["seconds"].median()}


def main(config):
    """Print the table in Markdown, and its numbers as JSON."""
    config = config["levers"]
    results = pd.read_csv(RESULTS, keep_default_na=False).to_dict("records") if RESULTS.exists() else []
    done = {(row["setting"], row["seed"]) for row in results}
    # The default and its changes stand beside each other in time, so that a busy minute falls on few of them alone.
    for seed, lever in tqdm([(seed, lever) for seed in range(config["seeds"]) for lever in LEVERS]):
        if (lever, seed) not in done:
            results.append({"setting": lever, "seed": seed} | train(config, lever, seed))
            RESULTS.parent.mkdir(exist_ok=True)
            pd.DataFrame(results).to_csv(RESULTS, index=False)
    results = [row for row in results if row["seed"] < config["seeds"]]
    metrics = [name for name in METRICS if name in results[0]]
    rows = []
    for lever in LEVERS:
        cells = []
        for name in metrics:
            values = [row[name] for row in results if row["setting"] == lever]
            mean, spread = statistics.mean(values), f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean:.1f}" if name == "seconds" else f"{mean:.3f}{spread}")
        rows.append([f"`{lever}`" if lever else "the default", *cells])
    print(markdown_table(["setting", *(METRICS[name] for name in metrics)], rows))
    print(json.dumps({"bench": "levers", "results": results}))


if __name__ == "__main__":
    cli.run(main, levers=CONFIG)

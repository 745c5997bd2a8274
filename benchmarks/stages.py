"""What each stage of training gained, over runs that differ in their seed: mean and standard deviation.

    python benchmarks/stages.py --runs ucm_0 ucm_1 ucm_2

Reads runs/<run>/history.csv. A stage stands for the epochs up to its end: its row is the best of them, by validation
CIDEr-D or, with class_reward, by val_reward, which is what the checkpoint would hold if training ended there. The
scores are those of the validation split, decoded freely with train.py's beam. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json

import pandas as pd

from captioning import cli
from captioning.markup import markdown_table

CONFIG = {
    "runs": ["mobile"],  # names of runs
}
METRICS = {"bleu4": "BLEU-4", "cider_d": "CIDEr-D", "class_accuracy": "class accuracy"}


def best_until(history, stage):
    """Return the row of the best epoch up to the end of a stage, by what the run chose its checkpoint by."""
    last = history.index[history["stage"] == stage].max()
    metric = "val_reward" if "val_reward" in history else "cider_d"
    return history.loc[history.loc[:last, metric].idxmax()]


def main(config):
    """Print the table in Markdown, and its numbers as JSON."""
    histories = []
    for run in config["stages"]["runs"]:
        path = Path("runs", run, "history.csv")
        if not path.is_file():
            raise ValueError(f"runs: {path} is not there; `python train.py --train.run {run}` writes it")
        histories.append(pd.read_csv(path))
    stages = list(histories[0]["stage"].unique())
    metrics = [name for name in METRICS if name in histories[0]]
    rows, results, seconds = [], {}, 0.0
    for number, stage in enumerate(stages):
        best = pd.DataFrame([best_until(history, stage) for history in histories])
        seconds += sum(h.loc[h["stage"] == stage, "seconds"].sum() for h in histories) / len(histories)
        results[stage] = {name: best[name].tolist() for name in metrics} | {"seconds": round(seconds)}
        cells = [f"{best[name].mean():.3f}" for name in metrics]
        if len(best) > 1:  # the sample's deviation, over n - 1
            cells = [f"{cell} ± {best[name].std():.3f}" for cell, name in zip(cells, metrics, strict=True)]
        rows.append([f"{'+ ' * (number > 0)}{stage}", f"{seconds:.0f}", *cells])
    print(markdown_table(["stages", "seconds", *(METRICS[name] for name in metrics)], rows))
    print(json.dumps({"bench": "stages", "stages": results}))


if __name__ == "__main__":
    cli.run(main, stages=CONFIG)

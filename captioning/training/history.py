"""The history of a run: the table, the curves, the best epoch, and what --train.resume reads."""

import hashlib
from pathlib import Path

import pandas as pd

from captioning import plots
from captioning.checkpoint import Checkpoint, load_resume, save_checkpoint, save_resume
from captioning.files import replace_file
from captioning.runtime import random_state


def best_path(run):
    """Return where the best epoch of a run is kept."""
    return Path(f"checkpoints/{run}.safetensors")


def last_path(run):
    """Return where the last epoch of a run is kept, for --train.resume."""
    return Path(f"checkpoints/{run}_last.pt")


def file_digest(path):
    """Return the sha256 of a file as hex digits; "" where there is none (random weights, or torchvision's own)."""
    if not Path(path).is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_run(path, identity):
    """Read the state of a run that was interrupted.

    identity: what must be the same: the settings that shape the run, the vocabulary, the data and the first weights
    Raises ValueError naming both values of the first that is not.
    """
    state = load_resume(path)
    expected = {
        "model",
        "optimizer",
        "scheduler",
        "scaler",
        "averaged",
        "history",
        "best",
        "best_weights",
        "random",
        "stage",
    }
    if not isinstance(state, dict) or set(state) != expected | set(identity):
        raise ValueError(f"{path}: not a resume file of this project")
    for what, here in identity.items():
        if state[what] != here:
            was, now = (f"{len(value)} words" if what == "vocabulary" else value for value in (state[what], here))
            raise ValueError(f"{path}: its {what} was {was}, now it is {now}")
    return state


def save_graphs(history, suffix):
    """Draw train loss, validation loss and validation accuracy over the epochs."""
    columns = {key: [row[key] for row in history] for key in history[0]}
    plots.curve(
        {"train": columns["train_loss"]},
        f"graphs/tl_{suffix}.png",
        title="Train loss",
        ylabel="nats per token",
    )
    plots.curve(
        {"validation": columns["val_loss"]},
        f"graphs/vl_{suffix}.png",
        title="Validation loss",
        ylabel="nats per token",
    )
    accuracy = {"token (teacher-forced)": columns["token_accuracy"]}
    if "class_accuracy" in columns:
        accuracy["class named in the caption"] = columns["class_accuracy"]
    plots.curve(accuracy, f"graphs/va_{suffix}.png", title="Validation accuracy", ylabel="share correct")


class Record:
    """The history of a run, on disk and on the terminal, and its best epoch.

    identity: what must be the same for a run to be resumed
    fixed:    what every checkpoint of the run holds beside its weights, history and best
    """

    def __init__(self, run, metric, tracker, identity, fixed):
        self.run, self.metric, self.tracker, self.identity, self.fixed = run, metric, tracker, identity, fixed
        self.best_path, self.last_path = best_path(run), last_path(run)
        self.history, self.best, self.best_weights = [], {}, {}

    def add(self, row, weights, *, half):
        """Add an epoch's row; its weights (name -> tensor) become the checkpoint if it is the best: True if so."""
        self.history.append(row)
        improved = not self.best or row[self.metric] > self.best["value"]
        if improved:
            self.best = {"metric": self.metric, "value": row[self.metric], "epoch": row["epoch"]}
            # Kept in full: what is stored may be float16, and a stage that stops early goes back to here.
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            self.save_best(half=half)
        return improved

    def save_best(self, *, half):
        """Write the checkpoint of the best epoch."""
        history = self.history[: self.best["epoch"]]
        checkpoint = Checkpoint(weights=self.best_weights, history=history, best=self.best, **self.fixed)
        save_checkpoint(self.best_path, checkpoint, half=half)

    def epochs_since_best(self, num_epochs):
        """Return how many of the last `num_epochs` epochs have passed without a better one."""
        return min(num_epochs, len(self.history) - self.best["epoch"])

    def save_last(self, parts, next_stage):
        """Write what --train.resume reads."""
        state = {"averaged": {}} | {name: part.state_dict() for name, part in parts.items()}
        state |= {"random": random_state(), "stage": next_stage, "history": self.history, "best": self.best}
        state |= {"best_weights": self.best_weights}
        save_resume(self.last_path, state | self.identity)

    def show(self):
        """Bring the table, the curves and the tracker up to the last epoch."""
        with replace_file(f"runs/{self.run}/history.csv") as temporary:
            pd.DataFrame(self.history).to_csv(temporary, index=False)
        save_graphs(self.history, self.run)
        row = self.history[-1]
        names = {"train_loss": "train/loss", "reward": "train/reward", "lr": "train/lr", "seconds": "train/seconds"}
        logged = {names.get(k, f"val/{k}"): v for k, v in row.items() if k not in ("epoch", "stage")}
        self.tracker.log(logged, row["epoch"])

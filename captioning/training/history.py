"""The history of a run: its table and curves, its best epoch, and the file that --train.resume reads."""

import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from captioning import plots
from captioning.checkpoint import Checkpoint, load_resume, save_checkpoint, save_resume
from captioning.files import hold_lock, remove_unfinished, replace_file
from captioning.metadata import is_number
from captioning.runtime import is_first, launch, random_state
from captioning.training.optimisation import Tally
from captioning.untrusted import write_table

RESUME_FORMAT = 4
BARELY_ANY = 0.01  # a score below it is no score yet; patience does not count such epochs
SECONDS_BETWEEN_FIGURES = 30  # three figures take 1 to 2 s, longer than a short epoch


def best_path(run):
    """Return where the best epoch of a run is kept."""
    return Path(f"checkpoints/{run}.safetensors")


def last_path(run):
    """Return where the last epoch of a run is kept, for --train.resume."""
    return Path(f"checkpoints/{run}_last.pt")


def written_paths(run):
    """Return all files that a run writes."""
    graphs = [Path(f"graphs/{name}_{run}.png") for name in ("tl", "vl", "va")]
    return [best_path(run), last_path(run), Path(f"runs/{run}/history.csv"), *graphs]


@contextmanager
def hold_run(run):
    """Hold the name of a run for this process, and remove what killed runs of that name left half written.

    Raises ValueError if another process trains under this name: two would overwrite each other's files.
    """
    if not is_first():  # it holds the name for all ranks
        yield
        return
    busy = f"--train.run: {run} is being trained by"
    with hold_lock(f"runs/{run}/lock", busy) as held:
        for folder in {path.parent for path in written_paths(run)} if held else ():
            remove_unfinished(folder)
        yield


# ---- the resume file -----------------------------------------------------------------------------

FORMAT_1 = (  # names of the state_dicts, and of the rest beside the identity
    {"model", "optimizer", "scheduler", "scaler", "averaged"},
    {"random", "stage", "history", "best", "best_weights"},
)
PARTS = {"state": dict, "random": dict, "stage": int, "history": list, "best": dict, "best_weights": dict}
PARTS |= {"tracker_id": str, "launch": str, "identity": dict}  # beside the format


def load_run(path):
    """Read the state of a run that was interrupted.

    returns: {"state": of Run.state_dict, "random": the generators, "stage": the number of the stage to go on with,
             "history", "best" and "best_weights" as in Record, "tracker_id": of the WandB run, "" = none, "launch": of
             runtime.launch, "identity": what must be the same}

    Raises ValueError for a file that is missing, damaged or of a later format.
    """
    return migrate(load_resume(path), path)


def check_identity(resumed, identity, path):
    """Raise ValueError, naming both values of the first that differs, unless a run can be gone on with.

    resumed:  of load_run
    identity: of the run of today: the settings that shape it, the vocabulary, the data and the first weights

    A setting that an older file lacks takes its value of today; its tokenizer was words.
    """
    saved = resumed["identity"]
    if "tokenizer" in identity:
        saved = {"tokenizer": "words"} | saved
    for what in saved.keys() - identity.keys():
        raise ValueError(f"{path}: has a setting {what}, which this version does not know")
    for what, here in identity.items():
        if saved.get(what, here) != here:
            was, now = (
                f"{len(value)} words" if what == "vocabulary" else "none" if value == "" else value
                for value in (saved[what], here)
            )
            start = str(path).replace("_last.pt", ".safetensors")
            # The learning rate follows a cosine over the epochs that were planned.
            hint = f"; to train on, start another --train.run with --train.init {start}" if "epochs" in what else ""
            raise ValueError(f"{path}: its {what} was {was}, now it is {now}{hint}")


def migrate(resumed, path):
    """Return the content of a resume file in today's format. Raises ValueError if it has none that is known."""
    if not isinstance(resumed, dict):
        raise ValueError(f"{path}: not a resume file of this project")
    version = resumed.get("format", 1)
    if isinstance(version, int) and (version is True or version > RESUME_FORMAT):
        raise ValueError(f"{path}: resume format {version}, this version reads 1 to {RESUME_FORMAT}")
    if version == 1 and set().union(*FORMAT_1) <= resumed.keys():
        resumed = from_format_1(resumed)
    if resumed.get("format") == 2 and isinstance(resumed.get("state"), dict):  # written between two epochs
        resumed = resumed | {"format": 3, "launch": "", "state": resumed["state"] | {"tally": Tally().state_dict()}}
    if resumed.get("format") == 3 and isinstance(resumed.get("identity"), dict):
        resumed = resumed | {"format": 4, "identity": from_identity_3(resumed["identity"])}
    if resumed.keys() != {"format", *PARTS} or resumed["format"] != RESUME_FORMAT:
        raise ValueError(f"{path}: not a resume file of this project")
    check_parts(resumed, path)
    return resumed


def from_identity_3(identity):
    """Return the identity of format 4: without the run's name, and with the rate that a whole encoder trained at."""
    identity = {what: value for what, value in identity.items() if what != "train.run"}
    if identity.get("train.freeze_encoder") is False and "train.encoder_lr" in identity:
        identity["train.encoder_lr"] = identity.get("train.lr")
    return identity


def check_parts(resumed, path):
    """Raise ValueError for the first part of a resume file that has another type; true, an int to Python, is none."""
    for name, kind in PARTS.items():
        if not isinstance(resumed[name], kind) or isinstance(resumed[name], bool):
            raise ValueError(f"{path}: {name!r} is a {type(resumed[name]).__name__}, must be a {kind.__name__}")
    rows = {"best": resumed["best"]} | {f"history[{place}]": row for place, row in enumerate(resumed["history"])}
    for where, row in rows.items():
        if not isinstance(row, dict):
            raise ValueError(f"{path}: {where} is a {type(row).__name__}, must be a dict")
        for name, value in row.items():
            if not isinstance(value, str) and not is_number(value):
                raise ValueError(f"{path}: {where} has {name!s:.40} {value!r:.40}, which is no number")


def from_format_1(resumed):
    """Format 1 had no number, everything in one dict, and no id of the tracker's run."""
    state, kept = ({name: resumed[name] for name in names} for names in FORMAT_1)
    identity = {name: value for name, value in resumed.items() if name not in state | kept}
    return {"format": 2, "state": state, **kept, "tracker_id": "", "identity": identity}


# ---- while it trains -----------------------------------------------------------------------------


class Record:
    """The history of a run, on disk and with the tracker, and its best epoch.

    metric:   key of a row by which the best epoch is chosen: the largest value, of val_loss the smallest
    tracker:  runtime.Tracker
    identity: what must be the same for a run to be resumed
    fixed:    what every checkpoint of the run holds beside its weights, history and best
    settings: train.CONFIG, of which it reads half and save_minutes

    history: one row (dict) per epoch; best: metric, value and epoch; best_weights: name -> tensor
    resumed: of load_run, {} = the run starts from the beginning
    """

    def __init__(self, run, metric, tracker, *, identity, fixed, settings):
        self.run, self.metric, self.tracker = run, metric, tracker
        self.identity, self.fixed, self.settings = identity, fixed, settings
        self.best_path, self.last_path = best_path(run), last_path(run)
        self.history, self.best, self.best_weights, self.resumed = [], {}, {}, {}
        self.num_drawn, self.drawn_at = 0, -float("inf")  # epochs in the figures; time of the monotonic clock
        # So the first step is saved: a run that is killed early is not taken for an older one of its name.
        self.saved_at = -float("inf")

    def resume(self, resumed):
        """Go on from what load_run returned, and rewrite every file that the interruption may have left behind."""
        self.resumed = resumed
        self.history, self.best, self.best_weights = resumed["history"], resumed["best"], resumed["best_weights"]
        if not self.history:  # stopped in the first epoch
            return
        self.metric = self.best["metric"]  # an older version chose by another on a small validation split
        self.save_best()  # a run of this name that began later may have written its own
        self.show()

    def stopped_in(self, stage):
        """True if the run that is resumed was stopped inside this Stage, so that its state is one of the stage."""
        if self.resumed.get("stage") != stage.number:
            return False
        begun = any(row["stage"] == stage.name for row in self.history)
        return begun or self.resumed["state"]["tally"]["batches"] > 0

    def add(self, row, weights):
        """Add an epoch's row; its weights (name -> tensor) become the checkpoint if it is the best: True if so."""
        self.history.append(row)
        sign = -1 if self.metric == "val_loss" else 1
        improved = not self.best or sign * row[self.metric] > sign * self.best["value"]
        if improved:
            self.best = {"metric": self.metric, "value": row[self.metric], "epoch": row["epoch"]}
            # In full precision: the file may hold float16, and the stage after an early stop starts from these.
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            self.save_best()
        return improved

    def save_best(self):
        """Write the checkpoint of the best epoch."""
        if not is_first():
            return
        history = self.history[: self.best["epoch"]]
        checkpoint = Checkpoint(weights=self.best_weights, history=history, best=self.best, **self.fixed)
        save_checkpoint(self.best_path, checkpoint, half=self.settings["half"])

    def epochs_since_best(self, num_epochs):
        """Return how many of the last `num_epochs` epochs have passed without a better one.

        0 as long as the best score is about 0, which says that the model has not begun to learn.
        """
        if self.metric != "val_loss" and self.best["value"] < BARELY_ANY:
            return 0
        return min(num_epochs, len(self.history) - self.best["epoch"])

    def keep(self, **parts):
        """Write what was found out about the best epoch, `decoding` and `familiarity`, into the checkpoint."""
        self.fixed = self.fixed | parts
        self.save_best()

    def save_last(self, state, next_stage):
        """Write what --train.resume reads; state: of Run.state_dict; next_stage: number of the stage to go on with."""
        resumed = {"format": RESUME_FORMAT, "state": state, "random": random_state(), "stage": next_stage}
        resumed |= {"history": self.history, "best": self.best, "best_weights": self.best_weights}
        resumed |= {"tracker_id": self.tracker.run_id, "launch": launch(), "identity": self.identity}
        if is_first():
            save_resume(self.last_path, resumed)

    def save_if_due(self, run, stage):
        """As save_last, inside an epoch of the stage of this number, every `save_minutes`."""
        minutes = self.settings["save_minutes"]
        if minutes and is_first() and time.monotonic() - self.saved_at >= 60 * minutes:
            self.save_last(run.state_dict(), stage)
            self.saved_at = time.monotonic()

    def show(self):
        """Bring the table, the tracker and, at most every half minute, the figures up to the last epoch."""
        if not is_first():
            return
        if time.monotonic() - self.drawn_at >= SECONDS_BETWEEN_FIGURES:
            self.draw()
        self.save_table()
        row = self.history[-1]
        names = {"train_loss": "train/loss", "reward": "train/reward", "lr": "train/lr"}
        names |= {"seconds": "train/seconds", "figure_seconds": "train/figure_seconds"}
        logged = {names.get(k, f"val/{k}"): v for k, v in row.items() if k not in ("epoch", "stage")}
        self.tracker.log(logged, row["epoch"])

    def finish(self):
        """Draw the last epochs, and close the tracker."""
        if is_first() and self.num_drawn < len(self.history):
            self.draw()
            self.save_table()
        self.tracker.finish()

    def draw(self):
        """Draw the figures, and note in the last row how long that took."""
        began = time.monotonic()
        save_graphs(self.history, self.run)
        self.num_drawn, self.drawn_at = len(self.history), time.monotonic()
        self.history[-1]["figure_seconds"] = self.drawn_at - began

    def save_table(self):
        """Write history.csv."""
        with replace_file(f"runs/{self.run}/history.csv") as temporary:
            write_table(temporary, pd.DataFrame(self.history), index=False)


def save_graphs(history, run):
    """Draw train loss, validation loss and validation accuracy over the epochs."""

    def draw(file, title, unit, lines):
        """lines: {label: column of the history}"""
        curves = {label: [row[column] for row in history] for label, column in lines.items()}
        plots.curve(curves, f"graphs/{file}_{run}.png", title=title, ylabel=unit)

    draw("tl", "Train loss", "nats per token", {"train": "train_loss"})
    draw("vl", "Validation loss", "nats per token", {"validation": "val_loss"})
    accuracy = {"token (teacher-forced)": "token_accuracy"}
    if "class_accuracy" in history[0]:
        accuracy["class named in the caption"] = "class_accuracy"
    draw("va", "Validation accuracy", "share correct", accuracy)

"""Where a report comes from: the command, the model, the data, the versions and the machine."""

import importlib.metadata
import math
import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from captioning import __version__
from captioning.cli import counted
from captioning.files import file_digest
from captioning.untrusted import on_one_line

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "onnxruntime")


CURVES = ("train_loss", "val_loss", "cider_d", "bleu4", "class_accuracy")  # of an epoch, what is drawn
LONGEST = 60  # characters of what a model's file says about itself


def describe_command():
    """Return the command of this process as it was typed, with today's date in UTC."""
    words = ["python", Path(sys.argv[0]).name, *sys.argv[1:]]
    return {"command": shlex.join(words), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def describe_models(source, files, models, options):
    """Return what is known of each file of a model, whose captions are those of all together.

    source: as it was given; files: Paths; models: TorchModel or OnnxModel of each file; options: SearchOptions
    """
    described = []
    for file, model in zip(files, models, strict=True):
        origin = model.origin
        described.append(
            {
                "source": source,
                "path": str(file),
                "sha256": file_digest(file),
                "bytes": file.stat().st_size,
                "architecture": model.config["model"],
                "image_size": model.transform["image_size"],
                "vocabulary": len(model.vocab),
                "data": origin.get("data", {}),
                "best": origin.get("best", {}),
                "epochs": len(training_history(origin)),
                "versions": origin.get("versions", {}),
                "decoding": {name: value for name, value in asdict(options).items() if name != "pieces"},
            }
        )
    return described


def describe_data(dataset, split):
    """Return the name, the folder and the fingerprint of the split that was captioned."""
    return {
        "name": dataset.name,
        "path": str(dataset.root),
        "split": split,
        "images": len(dataset.splits[split]),
        "fingerprint": dataset.fingerprint(split),
    }


def describe_versions():
    """Return the versions of this project, of Python and of the libraries that a score depends on."""
    versions = {"captioning": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine(device):
    """Return what the captions were computed on; device: torch.device."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": f"{device} ({card})" if card else str(device),
    }


def processor_name():
    """Return the name of the processor; on Linux the system knows more than Python."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def is_number(value):
    """True for a finite number, which what a file says about itself need not be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def training_history(origin):
    """Return the epochs of a model's training that can be drawn: dicts of epoch, stage and what there is of CURVES.

    origin: as that of caption.TorchModel; what is no history is left out
    """
    rows = []
    for row in origin.get("history", []):
        if isinstance(row, dict) and is_number(row.get("epoch")):
            scores = {name: row[name] for name in CURVES if is_number(row.get(name))}
            if scores:
                rows.append({"epoch": row["epoch"], "stage": told(row.get("stage", "")), **scores})
    return rows


def told(value):
    """Return what a model's file says about itself as text that can be shown."""
    text = on_one_line(str(value).encode("utf-8", "backslashreplace").decode("utf-8"))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def build_provenance(subject, models, device, seconds):
    """Return all of it: command, date, models with their decoding, data, versions, machine, seconds.

    subject: tables.Subject; models: of describe_models; device: torch.device; seconds: name of a step -> its time
    """
    return {
        **describe_command(),
        "models": models,
        "data": describe_data(subject.dataset, subject.split),
        "versions": describe_versions(),
        "machine": describe_machine(device),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def provenance_rows(provenance):
    """Return the (what, text) rows of the report's first page."""
    rows = [("command", f"`{provenance['command']}`"), ("date", provenance["date"])]
    for model in provenance["models"]:
        rows += model_rows(model)
    data, machine = provenance["data"], provenance["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    seconds = ", ".join(f"{name} {value:g} s" for name, value in provenance["seconds"].items())
    return [
        *rows,
        ("data", f"{data['name']} ({data['path']}), {data['split']} split, {data['images']:,} images, fingerprint "
                 f"`{data['fingerprint']}`"),
        ("versions", versions),
        ("machine", f"{machine['processor']}, {counted(machine['cores'], 'core')}, "
                    f"{counted(machine['threads'], 'thread')}, device "
                    f"{machine['device']}, {machine['system']}"),
        ("time", seconds),
    ]  # fmt: skip


def model_rows(model):
    """Return the (what, text) rows of one file of a model."""
    architecture, trained, best = model["architecture"], model["data"], model["best"]
    named = {name: architecture[name] for name in ("encoder", "decoder", "embed_size", "hidden_size", "num_layers")
             if name in architecture}  # fmt: skip
    text = ", ".join(f"{name} {told(value)}" for name, value in named.items())
    rows = [
        ("model", f"{model['path']}, {model['bytes'] / 1e6:.1f} MB, SHA-256 `{model['sha256']}`"),
        ("architecture", f"{text}, images of {model['image_size']} px, a vocabulary of {model['vocabulary']:,}"),
    ]
    if trained:
        name, fingerprint = (told(trained.get(key, "?")) for key in ("name", "fingerprint"))
        rows.append(("training data", f"{name}, fingerprint `{fingerprint}`"))
    if best:
        epoch, metric = (told(best.get(key, "?")) for key in ("epoch", "metric"))
        value = f"{best['value']:.4f}" if is_number(best.get("value")) else "?"
        rows.append(("chosen epoch", f"{epoch} of {model['epochs']}, {metric} {value} on val"))
    if made := model["versions"]:
        rows.append(("trained with", ", ".join(f"{told(name)} {told(version)}" for name, version in made.items())))
    return [*rows, ("decoding", ", ".join(f"{name} {value:g}" for name, value in model["decoding"].items()))]

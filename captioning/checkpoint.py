"""One safetensors file that captions by itself, and one resume file that training goes on from.

`checkpoints/<run>.safetensors`   weights; the header's metadata holds JSON: format, config, vocab, transform,
                                  classes, history, best, versions, data
`checkpoints/<run>_last.pt`       optimizer, scheduler, generators, epoch; read with weights_only=True
"""

import contextlib
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from captioning.files import replace_file

FORMAT = 1
MAX_IMAGE_SIZE = 4096  # pixels a side


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    weights:   name -> tensor, as stored (float16 in a file made to ship)
    config:    the resolved CONFIG dicts by name
    vocab:     list of words, index = id
    transform: image_size (pixels), mean, std (3 floats each)
    classes:   class names, [] for data without classes
    history:   one dict per epoch; best: metric, value, epoch
    versions:  of the libraries; data: name, fingerprint
    """

    weights: dict
    config: dict
    vocab: list
    transform: dict
    classes: list = field(default_factory=list)
    history: list = field(default_factory=list)
    best: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)


PARTS = {"config": dict, "vocab": list, "transform": dict, "classes": list, "history": list, "best": dict}
PARTS |= {"versions": dict, "data": dict}


def save_checkpoint(path, checkpoint, *, half=False):
    """Write a Checkpoint; the old file stays until the new one is complete.

    half: store floating-point weights as float16
    """
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    metadata = {"format": json.dumps(FORMAT)}
    metadata |= {name: json.dumps(getattr(checkpoint, name), ensure_ascii=False) for name in PARTS}
    with replace_file(path) as temporary, writing(path):
        save_file(weights, temporary, metadata)


def load_checkpoint(path):
    """Read a Checkpoint. Raises ValueError, one line naming the file, if it is missing, damaged or foreign."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; `python train.py` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({' '.join(str(error).split())})") from None
    missing = [name for name in ("format", *PARTS) if name not in metadata]
    if missing:
        raise ValueError(f"{path}: a safetensors file, but not a checkpoint of this project (no {missing[0]!r})")
    try:
        parts = {name: json.loads(metadata[name]) for name in PARTS}
        version = json.loads(metadata["format"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is not JSON ({' '.join(str(error).split())})") from None
    if version != FORMAT:
        raise ValueError(f"{path}: checkpoint format {version!r}, this version reads {FORMAT}")
    for name, kind in PARTS.items():
        if not isinstance(parts[name], kind):
            raise ValueError(f"{path}: {name!r} is a {type(parts[name]).__name__}, must be a {kind.__name__}")
    for name in ("vocab", "classes"):
        if not all(isinstance(word, str) for word in parts[name]):
            raise ValueError(f"{path}: {name!r} holds something other than words")
    if not isinstance(parts["config"].get("model"), dict):
        raise ValueError(f"{path}: 'config' does not describe a model")
    check_transform(path, parts["transform"])
    return Checkpoint(weights=weights, **parts)


def check_transform(path, transform):
    """Raise ValueError unless a checkpoint's transform is an image size and three means and deviations."""
    if set(transform) != {"image_size", "mean", "std"}:
        raise ValueError(f"{path}: 'transform' has {sorted(transform)}, must have image_size, mean, std")
    size = transform["image_size"]
    if not isinstance(size, int) or not 1 <= size <= MAX_IMAGE_SIZE:
        raise ValueError(f"{path}: image_size is {size!r}, allowed is 1 to {MAX_IMAGE_SIZE}")
    for name in ("mean", "std"):
        values = transform[name]
        if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
            raise ValueError(f"{path}: {name} is {str(values)[:60]}, must be three numbers")


def save_resume(path, state):
    """Write the resume state: tensors and built-in types only; the old file stays until the new one is complete."""
    with replace_file(path) as temporary, writing(path):
        torch.save(state, temporary)


@contextlib.contextmanager
def writing(path):
    """Turn what safetensors and torch raise on a full disk into an OSError that names the file."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise OSError(f"{path}: could not be written, is the disk full? What was there is kept ({reason})") from None


def load_resume(path):
    """Read a resume state. Raises ValueError if it is missing, damaged, or would need code to read."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: nothing to resume; start the run once without --train.resume")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its text is a page about how to run the code after all
        raise ValueError(
            f"{path}: not a readable resume file (it is damaged, or carries code, which was not run)"
        ) from None
    except Exception as error:  # a damaged archive raises from zipfile, pickle or torch
        raise ValueError(f"{path}: not a readable resume file ({' '.join(str(error).split())[:160]})") from None


def load_weights(module, weights, source):
    """Load `weights` into `module` strictly. Raises ValueError naming the first difference and `source`."""
    own = module.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise ValueError(f"{source}: has no weights {name!r}, which this model needs")
        if name not in own:
            raise ValueError(f"{source}: has weights {name!r}, which this model does not know")
        if own[name].shape != weights[name].shape:
            got, need = tuple(weights[name].shape), tuple(own[name].shape)
            raise ValueError(f"{source}: {name!r} has shape {got}, this model needs {need}")
    module.load_state_dict(weights)

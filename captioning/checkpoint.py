"""The checkpoint, which is all that inference needs, and the resume file, which continues a training run.

`checkpoints/<run>.safetensors`   weights; the header's metadata holds JSON: format, config, vocab, transform,
                                  classes, history, best, versions, data, decoding,
                                  familiarity, tokenizer
`checkpoints/<run>_last.pt`       torch.save of built-in types and tensors, read with weights_only=True; its content
                                  is that of captioning/training/history.py

Both say their `format`; files of an older format load, as tests with files of each format show.
"""

import contextlib
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from captioning.cli import one_line
from captioning.data.tokenizer import WORDS
from captioning.files import replace_file
from captioning.metadata import dump_metadata, parse_metadata
from captioning.model_files import check_safetensors


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
    decoding:  length_penalty and consensus, as chosen on the validation split; {} = not chosen
    familiarity: what training pictures look like, as captioning.familiarity writes it; {} = not known
    tokenizer: of captioning.data.tokenizer.check_tokenizer
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
    decoding: dict = field(default_factory=dict)
    familiarity: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=lambda: dict(WORDS))


def save_checkpoint(path, checkpoint, *, half=False):
    """Write a Checkpoint; the old file stays until the new one is complete.

    half: store floating-point weights as float16, but for tensors with a number that float16 has not
    """
    weights = {}
    for name, tensor in checkpoint.weights.items():
        dtype = tensor.dtype
        if tensor.is_floating_point():
            fits = half and (tensor.abs() <= torch.finfo(torch.float16).max).all()
            dtype = torch.float16 if fits else torch.float32
        weights[name] = tensor.detach().to("cpu", dtype).contiguous()
    with replace_file(path) as temporary, writing(path):
        save_file(weights, temporary, dump_metadata(vars(checkpoint)))


def load_checkpoint(path):
    """Read a Checkpoint. Raises ValueError, one line naming the file, if it is missing, damaged or foreign.

    Weights that are NaN or infinite are damage, too: such a model says words at random.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; `python train.py` writes one")
    check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({one_line(error)})") from None
    for name, tensor in weights.items():
        if tensor.dtype not in WEIGHT_TYPES:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in WEIGHT_TYPES)
            got = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{path}: weights {name!r} are of type {got}, allowed are {kinds}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: weights {name!r} hold NaN or infinity")
    return Checkpoint(weights=weights, **parse_metadata(path, metadata))


def save_resume(path, state):
    """Write the resume state: tensors and built-in types only; the old file stays until the new one is complete."""
    with replace_file(path) as temporary, writing(path):
        torch.save(state, temporary)


@contextlib.contextmanager
def writing(path):
    """Turn the errors of safetensors and torch on a full disk into an OSError that names the file."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = one_line(error, 160)
        raise OSError(f"{path}: could not be written, is the disk full? What was there is kept ({reason})") from None


def load_resume(path):
    """Read a resume state. Raises ValueError if it is missing, damaged, or would need code to read."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: nothing to resume; start the run once without --train.resume")
    return read_tensors(path, f"{path}: not a readable resume file")


WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
MAX_STATE_DICT_BYTES = 2**30  # of torchvision's weights, for example; the networks here have under 50 MB


def load_state_dict(path, source=""):
    """Read a state_dict as torch and torchvision save it: name -> tensor.

    source: where the file came from, for error messages; "" = its path

    Raises ValueError if it is damaged, would need code to read, or is something else.
    """
    source = source or path
    size = Path(path).stat().st_size
    if size > MAX_STATE_DICT_BYTES:
        raise ValueError(f"{source}: {size} bytes, a state_dict has at most {MAX_STATE_DICT_BYTES}")
    state = read_tensors(path, f"{source}: not a readable state_dict")
    state = unwrap(state)
    if not isinstance(state, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        raise ValueError(f"{source}: holds a {type(state).__name__}, which is no state_dict (name -> tensor)")
    return state


def unwrap(state):
    """Return the state_dict inside what others save: {"state_dict": ...}, names that begin with module."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if isinstance(state, dict) and state and all(isinstance(name, str) for name in state):
        while all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def read_tensors(path, problem):
    """Read a torch.save file of tensors and built-in types. Raises ValueError beginning with `problem`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its text is a page about how to run the code after all
        raise ValueError(f"{problem} (it is damaged, or carries code, which was not run)") from None
    except Exception as error:  # a damaged archive raises from zipfile, pickle or torch
        raise ValueError(f"{problem} ({one_line(error, 160)})") from None


def load_weights(module, weights, source, *, assign=False):
    """Load `weights` into `module` strictly. Raises ValueError naming the first difference and `source`.

    assign: take the tensors themselves, in the module's precision, instead of filling its own (on device "meta")
    """
    own = module.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise ValueError(f"{source}: has no weights {name!r}, which this model needs")
        if name not in own:
            raise ValueError(f"{source}: has weights {name!r}, which this model does not know")
        if own[name].shape != weights[name].shape:
            got, need = tuple(weights[name].shape), tuple(own[name].shape)
            raise ValueError(f"{source}: {name!r} has shape {got}, this model needs {need}")
    if assign:
        weights = {name: weights[name].to(own[name].dtype) for name in own}
    module.load_state_dict(weights, assign=assign)

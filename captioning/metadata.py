"""What stands beside the weights in a checkpoint or an ONNX model, as JSON: vocabulary, config, transform, history.

Format 2 added `decoding`, format 3 `familiarity` and `tokenizer`. Older files are read as if what they lack were {},
the tokenizer as words.
"""

import json

from captioning.cli import one_line
from captioning.familiarity import Familiarity
from captioning.untrusted import CONTROL

FORMAT = 3
MAX_IMAGE_SIZE = 1024  # pixels a side
PARTS = {"config": dict, "vocab": list, "transform": dict, "classes": list, "history": list, "best": dict}
PARTS |= {"versions": dict, "data": dict, "decoding": dict, "familiarity": dict, "tokenizer": dict}
# What an older file has not -> its value.
BEFORE = {"decoding": {}, "familiarity": {}, "tokenizer": {"name": "words", "unit": "words"}}
ORIGIN = ("history", "best", "versions", "data")  # the parts that tell where a model comes from
DECODING = {"length_penalty": (0, 10), "consensus": (0, 10)}  # key -> (least, most)


def dump_metadata(parts):
    """Return {name: JSON} of the format and of `parts`, a dict that has the names of PARTS."""
    metadata = {"format": json.dumps(FORMAT)}
    return metadata | {name: json.dumps(parts[name], ensure_ascii=False) for name in PARTS}


def parse_metadata(path, metadata):
    """Return {name of PARTS: value} from {name: JSON}. Raises ValueError, one line naming the file `path`."""
    metadata = {name: json.dumps(value) for name, value in BEFORE.items()} | metadata
    missing = [name for name in ("format", *PARTS) if name not in metadata]
    if missing:
        raise ValueError(f"{path}: not a checkpoint of this project (no {missing[0]!r})")
    try:
        parts = {name: json.loads(metadata[name]) for name in PARTS}
        version = json.loads(metadata["format"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is not JSON ({one_line(error)})") from None
    if not is_number(version) or version not in range(1, FORMAT + 1):
        raise ValueError(f"{path}: checkpoint format {str(version)[:60]}, this version reads 1 to {FORMAT}")
    for name, kind in PARTS.items():
        if not isinstance(parts[name], kind):
            raise ValueError(f"{path}: {name!r} is a {type(parts[name]).__name__}, must be a {kind.__name__}")
    for name in ("vocab", "classes"):
        if not all(isinstance(word, str) for word in parts[name]):
            raise ValueError(f"{path}: {name!r} holds something other than words")
    if problem := bad_word(parts["vocab"]):
        raise ValueError(f"{path}: {problem}")
    if not isinstance(parts["config"].get("model"), dict):
        raise ValueError(f"{path}: 'config' does not describe a model")
    check_transform(path, parts["transform"])
    check_decoding(path, parts["decoding"])
    try:
        Familiarity.from_json(parts["familiarity"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return parts


def bad_word(words):
    """Return what is wrong with the first word that a terminal would obey, or that turns text around; "" = none."""
    word = next(filter(CONTROL.search, words), "")
    return f"its vocabulary has the word {word[:60]!a}, which holds a control character" if word else ""


def is_number(value, kind=int | float):
    """True for a number as JSON has it: true, an int to Python, is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_decoding(path, decoding):
    """Raise ValueError unless what a model decides of its decoding is known, and within its limits."""
    for name, value in decoding.items():
        if name not in DECODING:
            raise ValueError(f"{path}: 'decoding' has {name[:60]!r}, allowed are {', '.join(DECODING)}")
        least, most = DECODING[name]
        if not is_number(value) or not least <= value <= most:
            raise ValueError(f"{path}: decoding {name} is {str(value)[:60]}, allowed is {least} to {most}")


def check_transform(path, transform):
    """Raise ValueError unless a checkpoint's transform is an image size and three means and deviations."""
    if set(transform) != {"image_size", "mean", "std"}:
        raise ValueError(f"{path}: 'transform' has {str(sorted(transform))[:60]}, must have image_size, mean, std")
    size = transform["image_size"]
    if not is_number(size, int) or not 1 <= size <= MAX_IMAGE_SIZE:
        raise ValueError(f"{path}: image_size is {size!r:.60}, allowed is 1 to {MAX_IMAGE_SIZE}")
    for name, least in (("mean", -1000), ("std", 1e-6)):  # NaN lies outside any limits
        values = transform[name]
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
            raise ValueError(f"{path}: {name} is {str(values)[:60]}, must be three numbers")
        if not all(least <= value <= 1000 for value in values):
            raise ValueError(f"{path}: {name} is {str(values)[:60]}, allowed is {least:g} to 1000")

"""What a model file claims, read without a library that would load it: whether it is whole, and of a bearable size."""

import json

from captioning.cli import one_line
from captioning.files import check_regular

MAX_FILE_BYTES = 4 * 2**30
MAX_HEADER_BYTES = 32 * 2**20  # of a safetensors file; a vocabulary of a million words takes half of it
MAX_OBJECTS = 20_000  # in that header: tensors, epochs of the history, settings


def check_safetensors(path):
    """Raise ValueError unless a safetensors file is whole, and has a size and a header that a checkpoint may have.

    Whole: 8 bytes for the header's length, the header, and the weights up to the last offset in it.
    Source: https://huggingface.co/docs/safetensors, "Format"
    """
    check_regular(path)
    problem, size = f"{path}: not a readable safetensors file", path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{problem} (a header of {length} bytes, at most {MAX_HEADER_BYTES} are read)")
        header = file.read(length)
    if header[:1] != b"{":
        raise ValueError(f"{problem} (its header is not JSON)")
    if header.count(b"{") > MAX_OBJECTS:  # each tensor needs one; counted before a parser makes dicts of them
        raise ValueError(f"{problem} (its header has more than {MAX_OBJECTS:,} objects)")
    try:
        tensors = json.loads(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
        whole = 8 + length + int(end)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{problem} (its header: {one_line(error, 80)})") from None
    if size != whole:
        raise ValueError(f"{problem} (it has {size} bytes, its header tells of {whole})")

"""Checkpoints: what goes in comes out, and a damaged or foreign file is one clear line."""

import json
import os
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from captioning.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_resume,
    load_state_dict,
    load_weights,
    save_checkpoint,
    save_resume,
)
from captioning.metadata import dump_metadata
from captioning.model_files import check_safetensors


@pytest.fixture
def checkpoint():
    return Checkpoint(
        weights={"a": torch.randn(3, 4), "count": torch.tensor(7)},
        config={"model": {"embed_size": 300}},
        vocab=["<pad>", "새"],
        transform={"image_size": 96, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        classes=["sun"],
        history=[{"epoch": 1}],
        best={"value": 0.5},
        decoding={"length_penalty": 1.5, "consensus": 0.0},
    )


def test_round_trip(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    read = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(read.weights["a"], checkpoint.weights["a"])
    assert read.weights["count"] == 7
    read.weights = checkpoint.weights
    assert read == checkpoint


def test_half_stores_float16_and_leaves_integers(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "a.safetensors", checkpoint, half=True)
    read = load_checkpoint(tmp_path / "a.safetensors").weights
    assert read["a"].dtype == torch.float16
    assert read["count"].dtype == torch.int64
    torch.testing.assert_close(read["a"].float(), checkpoint.weights["a"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -5])
def test_a_truncated_file_is_named(tmp_path, checkpoint, keep):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="a.safetensors: not a readable safetensors file") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_foreign_file_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": "not json"}, "not JSON"),
        ({"vocab": "{}"}, "'vocab' is a dict, must be a list"),
        ({"vocab": json.dumps(["a", "\x1b]0;title\x07"])}, "which holds a control character"),
        ({"format": "99"}, "format 99, this version reads 1"),
        ({"config": "[" * 100_000}, "not JSON"),
        ({"format": "true"}, "format True, this version reads 1 to 3"),
        ({"decoding": '{"beams": 5}'}, "'decoding' has 'beams', allowed are length_penalty, consensus"),
        ({"decoding": '{"consensus": true}'}, "decoding consensus is True, allowed is 0 to 10"),
        ({"decoding": '{"length_penalty": NaN}'}, "decoding length_penalty is nan, allowed is 0 to 10"),
    ],
)
def test_bad_metadata_is_one_line(tmp_path, checkpoint, change, message):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= change
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)


def test_a_missing_file_says_what_makes_one(tmp_path):
    with pytest.raises(ValueError, match="train.py"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kind", ["checkpoint", "resume"])
def test_a_full_disk_leaves_the_old_file_and_is_an_os_error(tmp_path, checkpoint, kind):
    """A file that may not grow past 64 KiB fails as on a full disk, in the libraries' own error classes."""
    resource = pytest.importorskip("resource")  # Windows has no such limit
    path = tmp_path / "a.file"
    big = {"w": torch.zeros(100_000)}
    save = {
        "checkpoint": lambda weights: save_checkpoint(path, replace(checkpoint, weights=weights)),
        "resume": lambda weights: save_resume(path, weights),
    }[kind]
    save({"w": torch.zeros(3)})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.file: could not be written, is the disk full\? What was there is kept"):
            save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.file"]


def test_half_a_character_in_a_word_is_refused(tmp_path, checkpoint):
    """UTF-8 cannot hold it, JSON can spell it, and Python would print it until a console cannot."""
    metadata = dump_metadata(vars(checkpoint)) | {"vocab": r'["<pad>", "a\ud800b"]'}
    save_file(checkpoint.weights, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=r"the word 'a\\ud800b', which holds"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_header_of_very_many_tensors_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    """Four hundred thousand empty tensors took seconds to load, and would fit no model."""

    def parse(*_):
        raise AssertionError("the header was parsed")

    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"w{number}": entry for number in range(400_000)}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    monkeypatch.setattr("captioning.model_files.json.loads", parse)
    monkeypatch.setattr("captioning.checkpoint.safe_open", parse)
    with pytest.raises(ValueError, match="its header has more than 20,000 objects"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_is_whole_where_its_header_says(tmp_path, checkpoint, change):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint)
    check_safetensors(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change < 0 else content + b"\0")
    with pytest.raises(ValueError, match=f"it has {len(content) + change} bytes, its header tells of {len(content)}"):
        check_safetensors(path)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("transform", {"mean": [0.5] * 3, "std": [0.5] * 3}, "'transform' has"),
        ("transform", {"image_size": "64", "mean": [0.5] * 3, "std": [0.5] * 3}, "image_size is '64', allowed is 1 to"),
        ("transform", {"image_size": -1, "mean": [0.5] * 3, "std": [0.5] * 3}, "image_size is -1"),
        ("transform", {"image_size": 64, "mean": 0.5, "std": [0.5] * 3}, "mean is 0.5, must be three numbers"),
        (
            "transform",
            {"image_size": 64, "mean": [10**400] * 3, "std": [0.5] * 3},
            "mean is .*, allowed is -1000 to 1000",
        ),
        (
            "transform",
            {"image_size": 64, "mean": [0.5] * 3, "std": [0.5, 0.5, 0]},
            "std is .*, allowed is 1e-06 to 1000",
        ),
        ("transform", {"image_size": True, "mean": [0.5] * 3, "std": [0.5] * 3}, "image_size is True, allowed is"),
        ("transform", {"image_size": 64, "mean": [True] * 3, "std": [0.5] * 3}, "mean is .*, must be three numbers"),
        ("vocab", ["<pad>", "\x1b[2J"], r"the word '\\x1b\[2J', which holds a control character"),
        ("vocab", ["<pad>", "a\u202eb"], r"the word 'a\\u202eb', which"),
        ("config", {"model": []}, "'config' does not describe a model"),
        ("classes", [1, 2], "'classes' holds something other than words"),
    ],
)
def test_metadata_of_the_wrong_shape_is_named(tmp_path, checkpoint, part, value, message):
    save_checkpoint(tmp_path / "a.safetensors", replace(checkpoint, **{part: value}))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "a.safetensors")


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_resume_file_cannot_run_code(tmp_path):
    torch.save({"model": Code(f"touch {tmp_path}/ran")}, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"not a readable resume file \(it is damaged, or carries code, which was not run\)$"
    ):
        load_resume(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_resume_round_trip(tmp_path):
    save_resume(tmp_path / "a.pt", {"epoch": 3, "weights": torch.ones(2)})
    assert load_resume(tmp_path / "a.pt")["epoch"] == 3


def test_weights_that_do_not_fit_are_named():
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"file: 'weight' has shape \(4, 2\), this model needs \(3, 2\)"):
        load_weights(layer, {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)}, "file")
    with pytest.raises(ValueError, match="has no weights 'bias'"):
        load_weights(layer, {"weight": torch.zeros(3, 2)}, "file")
    with pytest.raises(ValueError, match="has weights 'other'"):
        load_weights(layer, {**layer.state_dict(), "other": torch.zeros(1)}, "file")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, checkpoint, value):
    """They captioned with exit code 0, in words at random."""
    checkpoint.weights["a"][1, 2] = value
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    with pytest.raises(ValueError, match=r"a\.safetensors: weights 'a' hold NaN or infinity"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_an_image_size_that_no_model_has_is_refused(tmp_path, checkpoint):
    checkpoint.transform["image_size"] = 4096
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    with pytest.raises(ValueError, match="image_size is 4096, allowed is 1 to 1024"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: {"epoch": 3, "model_state_dict": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_weights_as_others_save_them(tmp_path, wrap):
    state = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    torch.save(wrap(state), tmp_path / "a.pth")
    assert load_state_dict(tmp_path / "a.pth").keys() == state.keys()


def test_weights_that_float16_does_not_hold_stay_in_float32(tmp_path, checkpoint):
    """They became infinite, and the file was reported as written, and refused when it was read."""
    weights = {"large": torch.tensor([1.0, 70000.0]), "small": torch.tensor([0.1]), "none": torch.empty(0)}
    save_checkpoint(tmp_path / "a.safetensors", replace(checkpoint, weights=weights), half=True)
    found = load_checkpoint(tmp_path / "a.safetensors").weights
    assert found["large"].tolist() == [1.0, 70000.0]
    assert found["small"].dtype == torch.float16


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.complex64])
def test_weights_of_an_odd_type_are_one_line(tmp_path, kind):
    """Of eight bits they were a traceback, complex ones were loaded."""
    save_file({"a": torch.ones(2).to(kind)}, tmp_path / "a.safetensors", {"format": "3"})
    with pytest.raises(
        ValueError, match=r"a.safetensors: weights 'a' are of type \w+, allowed are float16, bfloat16, "
    ):
        load_checkpoint(tmp_path / "a.safetensors")

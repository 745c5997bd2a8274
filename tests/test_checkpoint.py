"""Checkpoints: what goes in comes out, and a damaged or foreign file is one clear line."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from captioning import checkpoint as module
from captioning.checkpoint import Checkpoint, load_checkpoint, load_resume, load_weights, save_checkpoint, save_resume


@pytest.fixture
def checkpoint():
    return Checkpoint(
        weights={"a": torch.randn(3, 4), "count": torch.tensor(7)},
        config={"model": {"embed_size": 300}},
        vocab=["<pad>", "새"],
        transform={"image_size": 96},
        classes=["sun"],
        history=[{"epoch": 1}],
        best={"value": 0.5},
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
        ({"format": "99"}, "format 99, this version reads 1"),
        ({"config": "[" * 100_000}, "not JSON"),
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


def test_a_full_disk_leaves_the_old_file(tmp_path, checkpoint, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(weights, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_resume_file_cannot_run_code(tmp_path):
    torch.save({"model": Code(f"touch {tmp_path}/ran")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not a readable resume file"):
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

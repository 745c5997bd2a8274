"""The cache gives back what was computed, notices every kind of change, and neither trusts damage nor grows."""

import os

import pytest
import torch

from captioning.training import features
from captioning.training.features import cached, fingerprint
from data_loader import eval_transform, train_transform

KEY = "0" * 64


def tensors(value=1.0, count=10):
    return {"features": torch.full((count, 2, 5), value, dtype=torch.float16), "kept": torch.arange(count)}


def never():
    raise AssertionError("computed although the file is there")


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].dtype == expected[name].dtype
        assert torch.equal(got[name], expected[name])


@pytest.fixture
def inputs(tmp_path):
    """What features depend on: weights, a description, two files."""
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in paths:
        path.write_bytes(b"picture")
    weights = {"conv": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
    return {"weights": weights, "description": f"{eval_transform(32)} seed 0", "paths": paths}


def test_a_hit_is_what_was_computed(tmp_path):
    expected = tensors()
    assert_equal(cached(tmp_path / "new" / "cache", KEY, tensors), expected)
    assert_equal(cached(tmp_path / "new" / "cache", KEY, never), expected)
    assert [path.name for path in (tmp_path / "new" / "cache").iterdir()] == [f"{KEY}.safetensors"]


def test_float32_stays_float32(tmp_path):
    expected = {"features": torch.tensor([[0.1, 1e-9]]), "odd": torch.randn(3, 4).T}
    cached(tmp_path, KEY, lambda: expected)
    assert_equal(cached(tmp_path, KEY, never), expected)


def test_the_same_inputs_have_the_same_fingerprint(inputs):
    again = {**inputs, "weights": dict(reversed(inputs["weights"].items())), "paths": map(str, inputs["paths"])}
    assert fingerprint(**inputs) == fingerprint(**again)


def change_a_weight(inputs):
    inputs["weights"]["conv"][1, 2] += 1e-6


def rename_a_weight(inputs):
    inputs["weights"]["other"] = inputs["weights"].pop("conv")


def change_a_shape(inputs):
    inputs["weights"]["conv"] = inputs["weights"]["conv"].reshape(3, 2)


def change_a_type(inputs):
    inputs["weights"]["steps"] = inputs["weights"]["steps"].to(torch.bfloat16)


def change_the_description(inputs):
    inputs["description"] = inputs["description"].replace("seed 0", "seed 1")


def change_the_size_of_a_file(inputs):
    status = inputs["paths"][1].stat()
    inputs["paths"][1].write_bytes(b"another picture")
    os.utime(inputs["paths"][1], ns=(status.st_atime_ns, status.st_mtime_ns))


def change_the_time_of_a_file(inputs):
    status = inputs["paths"][1].stat()
    os.utime(inputs["paths"][1], ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def rename_a_file(inputs):
    inputs["paths"][1] = inputs["paths"][1].rename(inputs["paths"][1].with_name("c.jpg"))


def drop_a_file(inputs):
    inputs["paths"].pop()


def swap_the_files(inputs):
    inputs["paths"].reverse()


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        rename_a_weight,
        change_a_shape,
        change_a_type,
        change_the_description,
        change_the_size_of_a_file,
        change_the_time_of_a_file,
        rename_a_file,
        drop_a_file,
        swap_the_files,
    ],
)
def test_each_kind_of_change_misses(inputs, change):
    before = fingerprint(**inputs)
    change(inputs)
    assert fingerprint(**inputs) != before


def test_the_repr_of_a_transform_tells_its_settings():
    """A description made of the transforms must change with each of them."""
    settings = [
        {},
        {"crop_scale": 0.7},
        {"flip": 0.4},
        {"jitter": 0.1},
        {"hue": 0.1},
        {"mean": (0.4, 0.4, 0.4)},
        {"std": (0.2, 0.2, 0.2)},
    ]
    texts = [str(train_transform(32, **setting)) for setting in settings] + [str(train_transform(64))]
    texts += [str(eval_transform(32)), str(eval_transform(64))]
    assert len(set(texts)) == len(texts)
    assert str(train_transform(32)) == texts[0]


def test_a_missing_image_is_an_error(inputs):
    inputs["paths"][0].unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        fingerprint(**inputs)


def cut(content):
    return content[:-7]


def flip_a_bit(content):
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


def empty(content):
    return b""


def foreign(content):
    return b"not a safetensors file"


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, foreign])
def test_a_damaged_file_is_computed_again(tmp_path, capsys, damage):
    """Safetensors reads a file with a changed byte as if nothing had happened."""
    path = tmp_path / f"{KEY}.safetensors"
    cached(tmp_path, KEY, tensors)
    path.write_bytes(damage(path.read_bytes()))
    assert_equal(cached(tmp_path, KEY, tensors), tensors())
    out = capsys.readouterr().out
    assert out.startswith(f"warning: {path}: damaged (")
    assert out.count("\n") == 1
    assert_equal(cached(tmp_path, KEY, never), tensors())
    assert capsys.readouterr().out == ""


def test_the_oldest_files_make_room(tmp_path):
    size = features.HEADER_BYTES + sum(tensor.nbytes for tensor in tensors(count=1000).values())
    for number in range(5):
        cached(tmp_path, f"{number:064x}", lambda: tensors(count=1000), max_bytes=3 * size)
        newest = tmp_path / f"{number:064x}.safetensors"
        os.utime(newest, (number, number))  # the clock of a file system may be coarse
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * size
    assert sorted(path.stem for path in tmp_path.iterdir()) == [f"{number:064x}" for number in (2, 3, 4)]


def test_what_does_not_fit_is_not_stored_and_drives_nothing_out(tmp_path):
    cached(tmp_path, KEY, tensors)
    large = cached(tmp_path, "1" * 64, lambda: tensors(count=1000), max_bytes=10_000)
    assert len(large["kept"]) == 1000
    assert [path.stem for path in tmp_path.iterdir()] == [KEY]


def test_a_full_disk_costs_the_file_and_not_the_features(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    assert_equal(cached(tmp_path, KEY, tensors), tensors())
    assert ": not stored (No space left on device)\n" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_error_while_computing_leaves_no_file(tmp_path):
    with pytest.raises(AssertionError):
        cached(tmp_path, KEY, never)
    assert not list(tmp_path.iterdir())

"""The cache gives back what was computed, notices every kind of change, and neither trusts damage nor grows."""

import contextlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import torch
from PIL import Image

from captioning.data import images
from captioning.data.sequences import Captions
from captioning.files import lock_now
from captioning.runtime import Machine
from captioning.training import features
from captioning.training.features import MappedViews, cached, compute_views, describe_views, fingerprint, head_views
from data_loader import AUGMENTATION, CONFIG, LIMITS, CachedBatches, EvalTransform, TrainTransform

KEY = "0" * 64
CPU = Machine(torch.device("cpu"))


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
    return {"weights": weights, "description": describe_views([EvalTransform(32)], CPU, 0, (8,)), "paths": paths}


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
    inputs["description"] = describe_views([EvalTransform(32)], CPU, 1, (8,))


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


@pytest.mark.parametrize("name", AUGMENTATION)
def test_every_setting_of_the_augmentation_is_in_the_key(name):
    """torchvision's RandomApply hides its probability: quarter_turn 0.01 and 1.0 once had one cache file."""
    low, high = LIMITS[name]
    settings = {key: CONFIG[key] for key in AUGMENTATION}
    values = {low, high, 0.01 + (high - 0.01) / 3, settings[name]}
    keys = {describe_views([TrainTransform(32, **settings | {name: value})], CPU, 0, (8,)) for value in values}
    assert len(keys) == len(values) >= 3


def test_all_that_views_depend_on_is_in_the_key_and_nothing_else():
    plain, train = EvalTransform(32), TrainTransform(32)
    different = [
        ([plain], CPU, 0, (8,)),
        ([plain, train], CPU, 0, (8,)),
        ([plain, train, train], CPU, 0, (8,)),
        ([train], CPU, 0, (8,)),
        ([EvalTransform(64)], CPU, 0, (8,)),
        ([EvalTransform(32, mean=(0.4, 0.4, 0.4))], CPU, 0, (8,)),
        ([EvalTransform(32, std=(0.2, 0.2, 0.2))], CPU, 0, (8,)),
        ([plain], Machine(CPU.device, torch.bfloat16), 0, (8,)),
        ([plain], Machine(torch.device("cuda")), 0, (8,)),
        ([plain], CPU, 1, (8,)),
        ([plain], CPU, 0, (4, 8)),
    ]
    assert len({describe_views(*arguments) for arguments in different}) == len(different)
    same = describe_views([EvalTransform(32)], Machine(CPU.device, num_workers=3, batch_size=7), 0, (8,))
    assert same == describe_views(*different[0])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_cached_views_do_not_depend_on_workers_or_on_torchs_generator(num_workers, tmp_path, monkeypatch):
    """0, 1 and 2 workers once gave other augmentation, so a run's features hung on the core count."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (7, 40, 40, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(len(pixels))]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    views, trunk = [EvalTransform(8), TrainTransform(8), TrainTransform(8)], torch.nn.Flatten()

    def compute(num_workers, seed):
        return compute_views(trunk, paths, views, Machine(CPU.device, num_workers=num_workers, batch_size=3), seed, "x")

    torch.manual_seed(num_workers)
    before = torch.get_rng_state()
    _, found = compute(num_workers, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    shutil.rmtree("runs")
    _, expected = compute(0, seed=5)
    assert torch.equal(found, expected)
    assert not torch.equal(found[:, 1], found[:, 2]), "each view has random numbers of its own"
    _, other = compute(0, seed=6)
    assert torch.equal(other[:, 0], found[:, 0])
    assert not torch.equal(other[:, 1], found[:, 1])


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Ten small pictures and one that cannot be read, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "UNREADABLE_SHARE", 0.5)
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    draw = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    paths[4].write_bytes(b"no picture")
    return paths


def test_features_larger_than_memory_are_read_from_several_files(pictures, monkeypatch):
    """They are those of one file, and so are the batches of an epoch and what the encoder's head makes of them."""
    views, trunk, machine = [EvalTransform(8), TrainTransform(8)], torch.nn.Flatten(), Machine(CPU.device, batch_size=3)
    head = torch.nn.Linear(192, 5)

    def run(network, inputs, kind):
        with torch.inference_mode():
            return network(inputs).to(kind)

    def compute():
        return compute_views(trunk, pictures, views, machine, 0, "x")

    kept, whole = compute()
    expected = head_views(head, whole, run)
    monkeypatch.setattr(features, "MAX_VIEWS_BYTES", 1000)
    monkeypatch.setattr(features, "PART_BYTES", 7 * whole[0].nbytes)  # 6 images, in whole batches
    for _ in range(2):  # computed, then read
        mapped_kept, mapped = compute()
        assert isinstance(mapped, MappedViews)
        assert [len(part) for part in mapped.parts] == [5, 5]
        assert torch.equal(mapped_kept, kept)
        assert torch.equal(torch.cat(mapped.split(3)), whole)
        assert torch.equal(torch.cat(mapped[:, 0].split(64)), whole[:, 0])
        torch.testing.assert_close(torch.cat(head_views(head, mapped, run).split(64)), expected)
        inputs = [len(part) * mapped.parts[0][0].nbytes for part in head_views(head, mapped, run).parts]
        assert max(inputs) <= features.PART_BYTES, "of a head with small outputs the inputs would fill the memory"
    captions = Captions([[[1, 4, 2], [1, 5, 5, 2]]] * len(kept))
    for by_caption in (True, False):
        of_one, of_parts = (
            CachedBatches(inputs, captions, torch.zeros(len(kept)), 4, by_caption=by_caption)
            for inputs in (whole, mapped)
        )
        for one, other in zip(of_one.epoch(3), of_parts.epoch(3), strict=True):
            assert (one.kind, other.kind) == ("pooled features",) * 2
            assert torch.equal(one.inputs, other.inputs)
    with torch.no_grad():
        head.bias += 1
    assert not torch.allclose(torch.cat(head_views(head, mapped, run).split(64)), expected)


MEMORY = """
import resource

import torch
from PIL import Image

from captioning.runtime import Machine
from captioning.training import features
from data_loader import EvalTransform, TrainingData

WIDTH, IMAGES, VIEWS = 20_000, 1500, 2


class Grid(torch.nn.Module):
    # (B, ...) -> (B, 2, WIDTH)

    def forward(self, inputs):
        return inputs.flatten(1).float().mean(dim=1)[:, None, None].expand(-1, 2, WIDTH) + torch.zeros(2, WIDTH)


def grown(compute):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compute()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


for number in range(IMAGES):
    Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(f"{number}.png")
paths = [f"{number}.png" for number in range(IMAGES)]
machine, bytes_in_float16 = Machine(torch.device("cpu"), batch_size=8), IMAGES * VIEWS * 2 * WIDTH * 2
trunk, views = torch.nn.Flatten(), [EvalTransform(8)] * VIEWS
_, pooled = features.compute_views(trunk, paths, views, machine, 0, "x")
run = TrainingData(None, [], views, machine, cut=0, seed=0).run
features.MAX_VIEWS_BYTES, features.PART_BYTES = bytes_in_float16 // 2, bytes_in_float16 // 8
print(grown(lambda: features.head_views(Grid(), pooled, run)) / bytes_in_float16)
features.MAX_VIEWS_BYTES = bytes_in_float16
print(grown(lambda: features.compute_views(Grid(), paths, views, machine, 1, "x")) / bytes_in_float16)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the peak of a process is read as Unix tells it")
def test_the_memory_is_that_of_the_table(tmp_path):
    """Grids of 6,090 photographs, a table of 3 GB, once took 10; and of a head's outputs there were two in float32."""
    result = processes.run(["-c", MEMORY], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    in_parts, whole = map(float, result.stdout.split())
    assert in_parts < 0.5, "of which a part is an eighth"
    assert whole < 1.8, "a view is written to its place in the table of two"


def test_what_a_killed_run_left_of_a_part_goes_and_the_others_are_kept(pictures, monkeypatch):
    monkeypatch.setattr(features, "MAX_VIEWS_BYTES", 1000)
    monkeypatch.setattr(features, "PART_BYTES", 1600)
    machine, computed = Machine(CPU.device, batch_size=2), []

    class Trunk(torch.nn.Flatten):
        def forward(self, batch):
            computed.append(len(batch))
            return super().forward(batch)

    compute_views(Trunk(), pictures, [EvalTransform(8)], machine, 0, "x")
    parts = sorted(os.listdir("runs/features"))
    assert len(parts) == 6
    stem = parts[2].removesuffix(".safetensors")
    os.rename(f"runs/features/{parts[2]}", f"runs/features/.{stem}.a1b2c3d4.unfinished.safetensors")
    computed.clear()
    compute_views(Trunk(), pictures, [EvalTransform(8)], machine, 0, "x")
    assert sorted(os.listdir("runs/features")) == parts
    assert computed == [1, 1]  # the probe, and of the lost part the image that can be read


def test_a_disk_without_room_for_large_features_is_one_line(pictures, monkeypatch):
    monkeypatch.setattr(features, "MAX_VIEWS_BYTES", 1000)

    def compute():
        return compute_views(torch.nn.Flatten(), pictures, [EvalTransform(8)], CPU, 0, "train images")

    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(features, "save_file", lambda *arguments: (_ for _ in ()).throw(full))
        with pytest.raises(ValueError, match=r"safetensors: 0.0 GB of features .* could not be stored there$"):
            compute()
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"^--train.feature_views: 1 views of 11 train images take 0.0 GB, runs/feat"):
        compute()


@pytest.mark.parametrize("name", ["torch", "torchvision", "pillow"])
def test_another_version_of_what_reads_and_encodes_images_misses(name, inputs, monkeypatch):
    """Pillow and torchvision decode and resize; their versions once were not in the key."""
    before, installed = fingerprint(**inputs), features.version
    monkeypatch.setattr(features, "version", lambda asked: "0.0" if asked == name else installed(asked))
    assert fingerprint(**inputs) != before


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


def test_locks_and_what_is_being_written_make_no_room(tmp_path):
    """They belong to trainings beside this one."""
    for name in ("b.lock", ".c.a1b2c3d4.unfinished.safetensors"):
        (tmp_path / name).write_bytes(bytes(5000))
    with open(tmp_path / ".c.a1b2c3d4.unfinished.safetensors", "rb") as held:
        assert lock_now(held.fileno())
        cached(tmp_path, KEY, tensors, max_bytes=8000)
        names = {path.name for path in tmp_path.iterdir()}
        assert {"b.lock", ".c.a1b2c3d4.unfinished.safetensors"} <= names


def test_parts_that_another_run_removes_meanwhile_stay_readable(pictures, monkeypatch):
    """The training ended with FileNotFoundError after all its pictures had been encoded."""
    monkeypatch.setattr(features, "MAX_VIEWS_BYTES", 0)
    monkeypatch.setattr(features, "PART_BYTES", 1600)
    machine, original = Machine(CPU.device, batch_size=2), features.cached

    def cached_beside_another(folder, key, compute, max_bytes):
        for path in Path(folder).glob("*.safetensors"):
            path.unlink()
        return original(folder, key, compute, max_bytes)

    expected = compute_views(torch.nn.Flatten(), pictures, [EvalTransform(8)], machine, 0, "x")[1]
    expected = torch.cat(expected.split(99))
    monkeypatch.setattr(features, "cached", cached_beside_another)
    kept, found = compute_views(torch.nn.Flatten(), pictures, [EvalTransform(8)], machine, 0, "x")
    assert torch.equal(found[torch.arange(len(kept)), torch.zeros(len(kept), dtype=torch.long)], expected[:, 0])
    assert torch.equal(torch.cat(found.split(99)), expected)


def test_the_share_of_unreadable_pictures_is_that_of_all_parts(pictures, monkeypatch):
    """A part of one picture that cannot be read ended a training of thousands."""
    monkeypatch.setattr(features, "MAX_VIEWS_BYTES", 0)
    monkeypatch.setattr(features, "PART_BYTES", 1600)
    paths = [*pictures[:4], *pictures[5:], pictures[4]]
    machine = Machine(CPU.device, batch_size=2)
    kept, found = compute_views(torch.nn.Flatten(), paths, [EvalTransform(8)], machine, 0, "train images")
    assert len(kept) == len(found) == 10
    assert [len(part) for part in found.parts] == [2, 2, 2, 2, 2, 0]
    monkeypatch.setattr(images, "UNREADABLE_SHARE", 0.1)
    for path in (paths[0], paths[2]):
        path.write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"^train images: 3 of 11 images cannot be read, at most 10% may be$|^images: "
    ):
        compute_views(torch.nn.Flatten(), paths, [EvalTransform(8)], machine, 0, "train images")


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path, monkeypatch, capsys):
    def refuse(*arguments, **settings):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(features, "hold_lock", contextlib.contextmanager(lambda *a, **s: (yield refuse())))
    monkeypatch.setattr(features, "save_file", refuse)
    assert_equal(cached(tmp_path, KEY, tensors), tensors())
    assert ": not stored (Read-only file system)\n" in capsys.readouterr().out

"""Examples in a file are those of a list, and take next to no memory."""

import gc
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from captioning.data import examples as examples_module
from captioning.data.annotations import fingerprint, load_dataset, load_examples
from captioning.data.examples import CaptionTexts, Example, ExampleFile, take_examples
from captioning.data.tars import write_shard

ROOT = Path(__file__).resolve().parents[2]
GIVEN = [
    Example(Path("shards/0.tar/512+9/a b.jpg"), ["a cat", 'two "cats"\n'], "cat", "train"),
    Example(Path("shards/0.tar/2048+9/그림.jpg"), ["고양이 한 마리"], "", ""),
    Example(Path("val/\udc80.jpg"), ["\U0001f600"], "dog", "val"),
]


def in_a_file(given):
    """Return an ExampleFile of Examples."""
    examples = ExampleFile()
    examples.extend(iter(given))
    return examples


def test_a_file_gives_back_what_a_list_does():
    examples = in_a_file(GIVEN[:1])
    examples.extend(GIVEN[1:])
    assert list(examples) == GIVEN
    assert [examples[0], examples[-1], examples[2]] == [GIVEN[0], GIVEN[2], GIVEN[2]]
    assert examples[1:] == GIVEN[1:]
    assert len(examples) == 3
    assert list(CaptionTexts(examples)) == list(CaptionTexts(GIVEN)) == [t for e in GIVEN for t in e.captions]
    assert random.Random(1).sample(examples, 2) == random.Random(1).sample(GIVEN, 2)
    assert not ExampleFile()
    with pytest.raises(IndexError):
        examples[3]


def test_some_of_them_as_those_of_a_split():
    rows = np.array([2, 0])
    taken = take_examples(in_a_file(GIVEN), rows, "test")
    assert list(taken) == take_examples(GIVEN, rows, "test")
    assert [(e.image, e.split) for e in taken] == [(GIVEN[2].image, "test"), (GIVEN[0].image, "test")]
    assert [e.captions for e in taken.take(np.array([1]), "train")] == [GIVEN[0].captions]


@pytest.mark.parametrize("in_memory", [1, 2, 100])
def test_the_fingerprint_is_that_of_a_list_also_where_it_is_sorted_on_disk(monkeypatch, in_memory):
    expected = fingerprint(GIVEN)
    defaults = (in_memory,)
    monkeypatch.setattr(examples_module.sorted_lines, "__defaults__", defaults)
    assert fingerprint(in_a_file(GIVEN[::-1])) == expected


def write_shards(folder, names, samples):
    """Write one shard of as many pictures, a captioned one each, and link it under other names."""
    folder.mkdir(parents=True)
    write_shard(
        folder / names[0],
        (
            (f"{key:06d}", {"jpg": b"picture", "txt": b"a caption of about as many words as people write"})
            for key in range(samples)
        ),
    )
    for name in names[1:]:
        (folder / name).symlink_to(names[0])


@pytest.mark.parametrize("names", [["0.tar", "1.tar"], ["train-0.tar", "train-1.tar"], ["train-0.tar", "val-1.tar"]])
def test_shards_are_shared_out_as_a_list_of_the_same_names(tmp_path, names, capsys):
    write_shards(tmp_path / "x", names, 30)
    dataset = load_dataset(f"{tmp_path}/x/*.tar")
    told = capsys.readouterr().out
    everything = load_examples(f"{tmp_path}/x/*.tar")
    assert all(isinstance(examples, ExampleFile) for examples in dataset.splits.values())
    groups = {split: [e for e in everything if e.split == split] for split in ("train", "val", "test")}
    assert {split: list(group) for split, group in dataset.splits.items()} == {s: g for s, g in groups.items() if g}
    sizes = Counter(example.split for example in everything)
    if "-" not in names[0]:
        order = sorted(e.image.as_posix() for e in everything)
        random.Random(0).shuffle(order)
        assert {e.image.as_posix() for e in everything if e.split == "test"} == set(order[54:])
        assert "has no splits; its images are shared out at random, the same each time: 48 train, 6 val, 6 test" in told
    else:
        assert sizes == {"train": 54, "val": 6} if "val" not in names[1] else {"train": 30, "val": 30}
        assert ("has no val split" in told) == ("val" not in names[1])


def bytes_each(examples):
    """Return the bytes, for each of the Examples, of what captioning/data/examples.py holds."""
    gc.collect()
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, examples_module.__file__)])
    return sum(trace.size for trace in ours.traces) / len(examples)


def test_the_captions_of_shards_are_not_held_in_memory(tmp_path):
    """Two whole numbers of 8 bytes for each; an Example of a list takes more, without its path and its texts."""
    write_shards(tmp_path / "x", [*(f"train-{number}.tar" for number in range(8)), "val.tar"], 250)
    tracemalloc.start()
    try:
        examples = load_dataset(f"{tmp_path}/x/*.tar", "train", "val").splits["train"]
        assert bytes_each(examples) < 25
        held = list(examples)
        assert bytes_each(held) > 60
    finally:
        tracemalloc.stop()


FULL = """
import resource, sys
from pathlib import Path
from captioning.cli import run
from captioning.data import sequences
from captioning.data.examples import Example, ExampleFile, sorted_lines
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sequences.IN_MEMORY = 1000
def examples(config): ExampleFile().extend(Example(Path("a"), ["b" * 100], "", "") for _ in range(1000))
def numbers(config): sequences.Sequences([[7] * 100] * 1000)
def lines(config): list(sorted_lines((str(number) * 50 for number in range(30_000)), 10))
run(globals()[sys.argv.pop()], of={"setting": 1})
"""


@pytest.mark.parametrize("what", ["examples", "numbers", "lines"])
def test_a_full_disk_is_one_line(tmp_path, what):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FULL, what], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*temporary file.*; TMPDIR names the folder for temporary files\n", done.stderr)
    assert what == "lines" or f"error: {tmp_path}: a temporary file: File too large" in done.stderr
    assert not list(tmp_path.iterdir())

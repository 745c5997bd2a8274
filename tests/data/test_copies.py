"""Copies: hashes and colours decide together, and the groups are those of brute force."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from captioning.data import copies
from captioning.data.copies import CopyGroups, Picture, describe_image, find_copies


def random_pictures(rng, number):
    """Pictures in chains of near copies, some with other colours: Pictures, (N, 64) hashes, (N, 768) thumbnails."""
    hashes = rng.random((number, 64)) < 0.5
    thumbnails = rng.integers(0, 256, (number, 768), dtype=np.uint8)
    for row in range(number // 4, number):
        origin = rng.integers(row)
        hashes[row] = hashes[origin]
        hashes[row, rng.integers(0, 64, rng.integers(0, 12))] ^= True
        shift = int(rng.choice([0, 20, 59, 61, 120]))
        thumbnails[row] = np.where(thumbnails[origin] < 128, thumbnails[origin] + shift, thumbnails[origin] - shift)
    pictures = [Picture(str(i), *pair) for i, pair in enumerate(zip(hashes, thumbnails, strict=True))]
    return pictures, hashes, thumbnails


@pytest.mark.parametrize("distance", [-1, 0, 4, 10])
def test_copy_groups_equal_brute_force(distance, monkeypatch):
    """In several additions and blocks, the groups are the connected components of "near"."""
    monkeypatch.setattr(copies, "BLOCK", 32)
    pictures, hashes, thumbnails = random_pictures(np.random.default_rng(0), 400)
    groups = CopyGroups(distance)
    for start, stop in ((0, 1), (1, 150), (150, 400)):
        groups.add(pictures[start:stop])
    expected = np.arange(400)
    near = (hashes[:, None] != hashes[None]).sum(-1) <= distance
    colours = np.stack([np.abs(thumbnails.astype(int) - one).max(axis=1) for one in thumbnails])
    near &= colours <= copies.NEAR_LEVELS
    for _ in range(400):
        smaller = np.array([expected[near[i] | (expected == expected[i])].min() for i in range(400)])
        if (smaller == expected).all():
            break
        expected = smaller
    np.testing.assert_array_equal(groups.group, expected)
    assert distance < 0 or 100 < len(np.unique(expected)) < 400


def test_find_copies_equals_brute_force():
    """The same test as of CopyGroups, between a split and the earlier ones."""
    rng = np.random.default_rng(1)
    pictures, hashes, thumbnails = random_pictures(rng, 200)
    order = rng.integers(0, 3, 200)
    found = {(image, copy) for _, image, copy in find_copies(pictures, order)}
    expected = set()
    for row in np.flatnonzero(order):
        old = np.flatnonzero(order < order[row])
        old = old[(hashes[old] != hashes[row]).sum(axis=1) <= copies.NEAR_BITS]
        gaps = np.abs(thumbnails[old].astype(int) - thumbnails[row]).max(axis=1, initial=0)
        if len(old) and gaps.min() <= copies.NEAR_LEVELS:
            expected.add((int(row), int(old[gaps.argmin()])))
    assert found == expected
    assert len(expected) > 20


@pytest.mark.parametrize("same_colours", [True, False])
def test_twenty_thousand_pictures_take_seconds(same_colours):
    """The search for near copies is no loop over pairs in Python, not even where the hashes of 2,000 agree."""
    rng = np.random.default_rng(0)
    hashes = rng.random((20_000, 64)) < 0.5
    hashes[10_000:12_000] = hashes[0]
    thumbnails = np.zeros((20_000, 768), np.uint8)
    if not same_colours:
        thumbnails[10_000:12_000] = rng.integers(0, 256, (2_000, 768))
    groups = CopyGroups(4)
    groups.add([Picture(str(i), *pair) for i, pair in enumerate(zip(hashes, thumbnails, strict=True))])
    assert groups.firsts().sum() == (18_000 if same_colours else 20_000)


def ball(color="red", background="white", centre=64):
    image = Image.new("RGB", (128, 128), background)
    ImageDraw.Draw(image).ellipse((centre - 30, 34, centre + 30, 94), fill=color)
    return image


def gradient(*, downwards):
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    ramp = np.tile(ramp[:, None] if downwards else ramp[None], (1, 128) if downwards else (128, 1))
    return Image.fromarray(np.stack([ramp] * 3, axis=2))


def text(words):
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).text((8, 40), words, fill="black", font_size=28)
    return image


PAIRS = {  # name -> (one picture, another, are they copies)
    "another colour": (ball("red"), ball("blue"), False),
    "another background": (ball(background="white"), ball(background="yellow"), False),
    "flat pictures of two colours": (Image.new("RGB", (128, 128), "navy"), Image.new("RGB", (128, 128), "pink"), False),
    "gradients of two directions": (gradient(downwards=True), gradient(downwards=False), False),
    "another place": (ball(centre=40), ball(centre=88), False),
    "another word": (text("seven"), text("eleven"), False),
    "smaller": (ball(), ball().resize((70, 70)), True),
    "blurred": (ball(), ball().filter(ImageFilter.GaussianBlur(1)), True),
    "brighter": (ball("maroon"), ball("maroon").point(lambda level: min(255, level + 12)), True),
    "one pixel aside": (ball(centre=64), ball(centre=65), True),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_a_copy_is_one_question_for_datasets_and_audits(name, tmp_path):
    first, second, expected = PAIRS[name]
    first.save(tmp_path / "first.png")
    second.save(tmp_path / "second.png")
    pictures = [describe_image(tmp_path / f"{one}.png") for one in ("first", "second")]
    groups = CopyGroups(copies.NEAR_BITS)
    groups.add(pictures)
    assert groups.firsts().tolist() == [True, not expected]
    assert (len(find_copies(pictures, np.array([0, 1]))) == 1) is expected


def test_a_recompressed_copy_is_found(tmp_path):
    gradient(downwards=True).save(tmp_path / "a.jpg", quality=95)
    gradient(downwards=True).save(tmp_path / "b.jpg", quality=30)
    assert len(find_copies([describe_image(tmp_path / name) for name in ("a.jpg", "b.jpg")], np.array([0, 1]))) == 1


@pytest.mark.parametrize("way", ["stdin", "without a guard"])
def test_a_script_that_starts_processes_wrongly_ends_in_one_line(tmp_path, way):
    """The processes of such a script die at their start; a pool once started others in their place, without end."""
    script = (
        "from captioning.data.pictograms import write_dataset\nwrite_dataset('drawn', per_class=3, num_workers=2)\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-" if way == "stdin" else "script.py"], cwd=tmp_path, input=script, timeout=60,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.returncode == 1
    # Python's resource tracker may warn after the error, of semaphores that a process left when it was ended.
    said = [line for line in done.stderr.splitlines() if "resource_tracker" not in line]
    assert said[-1].startswith("ValueError: a process of several died")
    assert not list(tmp_path.glob("*drawn*"))

"""The files of captions: they grow, a run that was killed goes on where it ended, and no picture stands there twice."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captioning.deploy.writers import Names, SidecarWriter, open_writer

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {"model": "a", "model_sha256": "b"}
RECORD = {"caption": "a cat", "log_prob": -1.5, "confidence": 0.5}
ODD = ["a.jpg", 'say "hi", \nthere.jpg', "caf\udce9.jpg", "고양이.jpg", "=1+1.jpg"]


def write(path, form, images, existing="skip", options=3):
    """Write the captions of those images that have none; return the images that have."""
    with open_writer(form, str(path), existing, IDENTITY | {"options": {"num_best": 2, "seed": options}}) as writer:
        known = [image for image in images if writer.has(image)]
        for image in images:
            if image not in known:
                writer.write(image, [RECORD, RECORD])
    return known


def images_of(path, form):
    with open(path, encoding="utf-8", newline="") as file:
        if form == "jsonl":
            return [json.loads(line)["image"] for line in file]
        return [row["image"] for row in csv.DictReader(file) if row["rank"] == "1"]


def test_text_takes_the_place_of_its_own_kind_alone(tmp_path):
    """`--output README.md` replaced it."""
    notes, path = tmp_path / "notes.md", tmp_path / "captions.txt"
    notes.write_text("# Notes\n")
    with pytest.raises(ValueError, match=r"notes.md: is there, and no file of captions"):
        write(notes, "text", ["a.jpg"])
    assert notes.read_text() == "# Notes\n"
    for image in ("a.jpg", "b.jpg"):
        write(path, "text", [image])
    assert path.read_text() == "b.jpg\ta cat\n" * 2


@pytest.mark.parametrize("form", ["text", "jsonl", "csv"])
def test_a_link_stays_one(tmp_path, form):
    """What belongs to the file lies beside the file, and not beside the link."""
    (tmp_path / "here").mkdir()
    real, link = tmp_path / "captions", tmp_path / "here" / "link"
    real.touch()
    link.symlink_to(real)
    for existing in ("skip", "overwrite"):
        write(link, form, ["a.jpg"], existing)
    assert link.is_symlink()
    assert [path.name for path in link.parent.iterdir()] == ["link"]
    assert "a.jpg" in real.read_text()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_grows_and_knows_what_it_has(tmp_path, form):
    path = tmp_path / "new" / "out"
    path.parent.mkdir()
    assert write(path, form, ODD[:3]) == []
    assert write(path, form, ODD) == ODD[:3]
    assert write(path, form, ODD) == ODD
    assert len(images_of(path, form)) == len(ODD)
    assert write(path, form, ODD[:1], existing="overwrite") == []
    assert images_of(path, form) == ODD[:1]
    assert write(path, form, ODD) == ODD[:1]
    before = path.read_bytes()
    assert write(path, form, [], options=4) == []  # as a run that fails before its first caption
    assert path.read_bytes() == before
    assert write(path, form, ODD[1:3], options=4) == []  # captions of other options are no captions of these
    assert images_of(path, form) == [ODD[1], images_of(path, form)[1]]
    assert sorted(file.name for file in path.parent.iterdir()) == [".out.run", "out"]
    (path.parent / ".out.run").unlink()  # a file that was copied without it
    assert write(path, form, ODD[:3]) == ODD[1:3]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_that_was_cut_anywhere_goes_on(tmp_path, form):
    """A killed process leaves half a line."""
    path = tmp_path / "out"
    write(path, form, ODD)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        write(path, form, ODD)
        found = images_of(path, form)
        assert sorted(found) == sorted(images_of_whole(whole, form, tmp_path))
        assert len(set(found)) == len(found) == len(ODD)


def images_of_whole(whole, form, folder):
    (folder / "whole").write_bytes(whole)
    return images_of(folder / "whole", form)


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("jsonl", '{"a": 1}\n', "record 1 is not of this program"),
        ("jsonl", "text\n", "record 1 is not of this program"),
        ("jsonl", "[" * 10**5 + "\n", "record 1 is not of this program"),
        ("csv", "name,value\na,b\n", "record 1 is not of this program"),
        ("csv", "image,rank,caption\na.jpg,1\n", "record 2 is not of this program"),
        (
            "csv",
            "image,rank,caption\na.jpg,1,a cat\n",
            "has the columns image,rank,caption, not image,rank,caption,log",
        ),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, form, content, message):
    path = tmp_path / "out"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        write(path, form, ["new.jpg"])
    assert path.read_text() == content


def test_two_runs_do_not_write_one_file(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom captioning.deploy.writers import open_writer\n"
    code += "with open_writer('jsonl', 'out', 'skip', {}): print('open', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=f"out: is being written by process {other.pid}"):
            write(tmp_path / "out", "jsonl", [])
        other.communicate("\n")


def test_ten_million_names_would_take_80_megabytes():
    names = [f"/data/pictures/{number:09}.jpg" for number in range(50_000)]
    known = Names(names)
    assert known.digests.nbytes == 8 * len(names)
    assert all(name in known for name in names)
    assert not any(f"{name}x" in known for name in names)


def test_a_text_file_stands_beside_each_picture(tmp_path):
    for name in ("a.jpg", "b.jpg", "b.png", "c.PNG"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("mine\n")
    images = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "b.png", "c.PNG")]
    writer = SidecarWriter("skip")
    assert [writer.has(image) for image in images] == [True, False, False, False]
    writer = SidecarWriter("overwrite")
    assert [writer.has(image) for image in images] == [False, False, False, False]
    assert [writer.problem(image) for image in images] == ["", "", "shares b.txt with b.jpg", ""]
    writer.write(images[3], [RECORD, {"caption": "two"}])
    assert (tmp_path / "c.txt").read_text() == "a cat\ntwo\n"


# ---- the command line ----------------------------------------------------------------------------


def start(model_files, *arguments):
    command = [sys.executable, ROOT / "caption.py", *arguments, "--model_path", model_files.int8, "--max_len", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_run_that_is_killed_goes_on_with_the_same_command(model_files, pictograms_dir, tmp_path, form):
    path = tmp_path / "out"
    arguments = [
        pictograms_dir / "val",
        pictograms_dir / "test",
        "--format",
        form,
        "--output",
        path,
        "--batch_size",
        "4",
    ]
    size = 0
    for _ in range(3):
        run = start(model_files, *arguments)
        while run.poll() is None and (not path.exists() or path.stat().st_size <= size):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        size = path.stat().st_size
    run = start(model_files, *arguments)
    _, errors = run.communicate()
    assert run.returncode == 0
    assert "that have captions" in errors
    expected = sorted(str(file) for split in ("val", "test") for file in (pictograms_dir / split).rglob("*.jpg"))
    assert sorted(images_of(path, form)) == expected
    again = start(model_files, *arguments)
    assert "captioned 0 pictures, left out 120 that have captions (--existing)" in again.communicate()[1]
    assert again.returncode == 0


def test_jobs_share_a_list_and_write_beside_the_pictures(model_files, pictograms_dir, tmp_path):
    for number, file in enumerate(sorted((pictograms_dir / "val").rglob("*.jpg"))[:5]):
        (tmp_path / f"{number}.jpg").write_bytes(file.read_bytes())
    for index, expected in ((1, ["1.txt", "3.txt"]), (0, [f"{number}.txt" for number in range(5)])):
        run = start(model_files, tmp_path, "--format", "txt", "--num_shards", "2", "--shard_index", str(index))
        run.communicate()
        assert run.returncode == 0
        assert sorted(file.name for file in tmp_path.glob("*.txt")) == expected


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_that_was_overwritten_tells_whose_it_is(tmp_path, form):
    """It kept the identity of the file before it: captions of two models came into one file, or were thrown away."""
    write(tmp_path / "out", form, ODD[:2], options=3)
    write(tmp_path / "out", form, ODD[:2], existing="overwrite", options=4)
    assert write(tmp_path / "out", form, ODD[:3], options=4) == ODD[:2]
    write(tmp_path / "out", form, ODD[:2], existing="overwrite", options=3)
    assert write(tmp_path / "out", form, ODD[:3], options=4) == []


@pytest.mark.parametrize(("form", "existing"), [("text", "skip"), ("csv", "overwrite"), ("jsonl", "overwrite")])
def test_a_file_is_written_anew_by_one_process_at_a_time(tmp_path, form, existing):
    """What another run wrote meanwhile was lost at the end."""
    with open_writer(form, str(tmp_path / "out"), existing, IDENTITY):
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom captioning.deploy.writers import open_writer\n"
        code += f"with open_writer({form!r}, 'out', 'skip', {IDENTITY}): pass"
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert "out: is being written by process" in result.stderr


@pytest.mark.parametrize("num_images", [1, 2])
def test_a_picture_of_which_some_rows_are_missing_is_captioned_again(tmp_path, num_images):
    """A disk that was full between the captions of a picture left it half written for good."""
    path, images = tmp_path / "out", ["a.jpg", "b.jpg"][:num_images]
    write(path, "csv", images)
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert images_of(path, "csv") == images
    assert write(path, "csv", images) == images[:-1]
    assert path.read_bytes() == whole

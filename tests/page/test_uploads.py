"""The folder of uploads: its bound, what goes first, what is swept, and what a killed process leaves."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from captioning.page import uploads
from captioning.page.uploads import BLOCK, MAX_AGE, MIN_AGE, FullError, Uploads

ROOT = Path(__file__).resolve().parents[2]


def put(folder, name, num_bytes, age):
    """Make an upload as Gradio does, `age` seconds ago."""
    path = folder / name / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(bytes(num_bytes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_oldest_go_first_and_the_young_stay(tmp_path):
    kept = put(tmp_path, "icon", 50_000, 10 * MAX_AGE)  # a picture of the page itself
    folder = Uploads(tmp_path, 100_000)
    paths = [put(tmp_path, str(age), 30_000, age) for age in (MIN_AGE + 300, MIN_AGE + 200, 0)]
    with folder.receive(30_000):
        assert [path.exists() for path in paths] == [False, True, True]
    with folder.receive(60_000):
        assert [path.exists() for path in paths] == [False, False, True]
        with pytest.raises(FullError), folder.receive(20_000):  # 60,000 are on their way
            pass
    assert not paths[1].parent.exists()
    with folder.receive(70_000):
        assert paths[2].exists()
    assert kept.exists()


def test_many_tiny_files_are_not_free(tmp_path):
    folder = Uploads(tmp_path, 10 * BLOCK)
    for number in range(10):
        put(tmp_path, str(number), 1, 0)
    with pytest.raises(FullError), folder.receive(1):
        pass


def test_folders_that_go_meanwhile_are_no_error(tmp_path):
    """The walk of the sweep met a folder that had just gone: its thread ended, and nothing was swept from then on."""
    folder, over = Uploads(tmp_path, 10**6), threading.Event()

    def come_and_go():
        while not over.is_set():
            for number in range(20):
                (tmp_path / str(number)).mkdir()
            for number in range(20):
                (tmp_path / str(number)).rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(500):
            folder.sweep()
    finally:
        over.set()
        other.join()
    tmp_path.rmdir()
    folder.sweep()


def test_what_is_cut_goes_but_not_while_another_comes(tmp_path):
    folder = Uploads(tmp_path, 10**6)
    with folder.receive(1000):
        (tmp_path / "tmpabc").write_bytes(b"half")
        with folder.receive(1000):
            pass
        folder.sweep()
        assert (tmp_path / "tmpabc").exists()
    assert not (tmp_path / "tmpabc").exists()


def test_what_is_old_is_swept(tmp_path):
    folder = Uploads(tmp_path, 10**6)
    old, new = put(tmp_path, "old", 1, MAX_AGE + 1), put(tmp_path, "new", 1, MAX_AGE - 100)
    (tmp_path / "tmpabc").write_bytes(b"cut")
    folder.sweep()
    assert [old.exists(), new.exists(), (tmp_path / "tmpabc").exists()] == [False, True, False]


def test_the_folder_goes_at_the_end_and_those_of_killed_processes_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "from captioning.page.uploads import upload_folder\n"
        "with upload_folder() as folder:\n    print(folder, flush=True)\n    input()"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as killed,
        subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as alive,
    ):
        left, used = (Path(process.stdout.readline().strip()) for process in (killed, alive))
        killed.kill()
        killed.wait()
        other = tmp_path / f"{uploads.PREFIX}other"  # being made by another process: no lock yet
        other.mkdir()
        assert left.is_dir()
        with uploads.upload_folder() as mine:
            assert [path.is_dir() for path in (left, used, mine, other)] == [False, True, True, True]
        assert not mine.exists()
        alive.communicate("\n")
    assert not used.exists()

"""A function in another process: its answers, its errors, and what happens when it does not answer."""

import multiprocessing
import os
import sys
import time

import pytest

from caption import Captioner
from captioning.page.worker import Worker


def build(offset):
    """For a Worker: a function that obeys words."""

    def function(word, value):
        if word == "add":
            return value + offset
        if word == "wait":
            time.sleep(3600)
        if word == "take":
            return len(bytearray(value))
        if word == "exit":
            os._exit(3)
        if word == "mistake":
            raise ValueError(f"{value} is wrong")
        raise KeyError("defect")

    return {"offset": offset}, function


def refuse():
    raise ValueError("no such model")


@pytest.fixture(scope="module")
def worker():
    worker = Worker(build, 10)
    yield worker
    worker.stop()


def test_answers_and_errors_come_back(worker):
    assert worker.about == {"offset": 10}
    assert worker("add", 1, seconds=60) == 11
    with pytest.raises(ValueError, match="5 is wrong"):
        worker("mistake", 5, seconds=60)
    with pytest.raises(RuntimeError, match="KeyError: 'defect'"):
        worker("defect", 0, seconds=60)


def test_after_a_call_without_end_others_go_on(worker):
    first = worker.process.pid
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        worker("wait", 0, seconds=0.2)
    assert time.monotonic() - begin < 30
    assert worker("add", 2, seconds=60) == 12
    assert worker.process.pid != first
    assert first not in [process.pid for process in multiprocessing.active_children()]


def test_after_a_call_that_ends_the_process_others_go_on(worker):
    with pytest.raises(RuntimeError, match="exit code 3"):
        worker("exit", 0, seconds=60)
    assert worker("add", 3, seconds=60) == 13


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound a process")
def test_a_call_that_takes_too_much_memory_is_an_error_and_others_go_on(worker):
    """Nothing bounded it: a picture or a model that swells took the memory of the whole machine."""
    pid = worker.process.pid
    with pytest.raises(RuntimeError, match="MemoryError"):
        worker("take", 16 * 2**30, seconds=60)
    assert worker("take", 2**30, seconds=60) == 2**30
    assert worker.process.pid == pid


def load(model_path):
    return "", Captioner.load(model_path, num_threads=2)


def test_a_model_captions_within_the_bound(model_files, pictograms_dir):
    picture = str(next(pictograms_dir.rglob("*.jpg")))
    for path in (model_files.int8, model_files.checkpoint):
        worker = Worker(load, path)
        assert worker(picture, seconds=120)[0].text
        worker.stop()


def test_what_cannot_be_built_is_told():
    with pytest.raises(ValueError, match="no such model"):
        Worker(refuse)

"""A function in another process: its answers, its errors, and what happens when it does not answer."""

import multiprocessing
import os
import time

import pytest

from captioning.page.worker import Worker


def build(offset):
    """For a Worker: a function that obeys words."""

    def function(word, value):
        if word == "add":
            return value + offset
        if word == "wait":
            time.sleep(3600)
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


def test_what_cannot_be_built_is_told():
    with pytest.raises(ValueError, match="no such model"):
        Worker(refuse)

"""Benchmarks run by hand; here they are held to what they import from the project."""

from pathlib import Path

import numpy as np
import processes
import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_answers_help(path):
    done = processes.run([str(path), "--help"], ROOT)
    assert done.returncode == 0, done.stderr
    assert "python benchmarks/" in done.stdout


def test_noise_calibrates_as_pictures_do(monkeypatch):
    """The benchmarks of exported models stopped when calibration began to be read twice."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from bench_export import RandomImages

    pixels = np.zeros((2, 3, 4, 4), np.float32)
    noise = RandomImages(pixels, 3)
    assert [batch["images"] is pixels for batch in noise.batches()] == [True] * 3
    assert [noise.get_next() is None for _ in range(4)] == [False, False, False, True]

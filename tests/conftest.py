"""Fixtures that several test modules use."""

from pathlib import Path

import pytest

from captioning.pictograms import write_dataset


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip("no real data beside the repository")
    return path


@pytest.fixture(scope="session")
def pictograms_dir(tmp_path_factory) -> Path:
    """180 drawn pictures, one of each of 60 classes in train, val and test; tests that change files copy them."""
    folder = tmp_path_factory.mktemp("drawn") / "pictograms"
    write_dataset(folder, per_class=3, progress=False)
    return folder

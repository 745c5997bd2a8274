"""Fixtures that several test modules use."""

from captioning import process

process.set_up()  # before torch loads, as the scripts do

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from caption import Captioner, TorchModel
from captioning.checkpoint import load_checkpoint
from captioning.data.annotations import load_examples
from captioning.data.pictograms import write_dataset
from captioning.deploy.onnx_export import CalibrationImages, export_onnx
from captioning.metadata import dump_metadata
from model import CNNtoRNN, load_captioner


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Downloads, and which ONNX files were probed, are noted in a folder of the tests' own, also by their processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_power_cut():
    """No test cuts the power, so no file has to be on the disk before it takes its place: 90 ms for a resume file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip("no real data beside the repository")
    return path


@pytest.fixture(scope="session")
def first_files(tmp_path_factory) -> Path:
    """Files that commit 56669ee wrote, with the data they were made from; see tests/fixtures/make_v1.py."""
    folder = tmp_path_factory.mktemp("first")
    with tarfile.open(Path(__file__).parent / "fixtures" / "files_v1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def first_run(first_files, tmp_path) -> Path:
    """A folder in which `train.py *flags.json --train.resume` goes on with a stopped run of commit 56669ee."""
    folder = shutil.copytree(first_files, tmp_path / "first")
    for name in ("tiny.safetensors", "tiny_last.pt"):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / name).rename(folder / "checkpoints" / name)
    return folder


@dataclass(frozen=True)
class ModelFiles:
    """The shipped model in the three forms that Captioner.load reads."""

    checkpoint: Path
    onnx: Path
    int8: Path


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Return a function (name, fill) -> a folder that is filled by `fill(folder)`, once for all workers."""
    parent = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # pytest-xdist gives each worker a folder within
        parent = parent.parent

    def filled(name, fill):
        folder, begun = parent / name, parent / f"{name}.begun"
        with FileLock(parent / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(begun, ignore_errors=True)  # of a worker that failed
                begun.mkdir()
                fill(begun)
                begun.rename(folder)
        return folder

    return filled


@pytest.fixture(scope="session")
def pictograms_dir(once) -> Path:
    """180 drawn pictures, one of each of 60 classes in train, val and test; tests that change files copy them."""
    return once("pictograms", lambda folder: write_dataset(folder, per_class=3, num_workers=1, progress=False))


@pytest.fixture(scope="session")
def model_files(once, pictograms_dir) -> ModelFiles:
    """The shipped checkpoint with its exported files; int8 is calibrated on the 60 train pictures."""
    shipped = Path(__file__).resolve().parents[1] / "checkpoints" / "pictograms.safetensors"
    names = ("pictograms.onnx", "pictograms_int8.onnx")

    def export(folder):
        network, _, checkpoint = load_captioner(shipped)
        train_images = [example.image for example in load_examples(pictograms_dir, "train")]
        export_onnx(
            network,
            dump_metadata(vars(checkpoint)),
            checkpoint.transform["image_size"],
            folder / names[0],
            int8_path=folder / names[1],
            calibration=CalibrationImages(train_images, checkpoint.transform),
        )

    folder = once("models", export)
    return ModelFiles(shipped, *(folder / name for name in names))


@pytest.fixture(scope="session")
def looking(model_files):
    """A Captioner with attention, of random weights."""
    torch.manual_seed(0)
    vocab = load_checkpoint(model_files.checkpoint).vocab
    network = CNNtoRNN(len(vocab), embed_size=8, hidden_size=8, decoder="attention", attention_size=4)
    transform = {"image_size": 64, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    return Captioner(TorchModel(network, vocab, transform, {}))

"""Fixtures that several test modules use."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import data_loader
import model
from captioning.annotations import load_examples
from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.images import load_image, to_pixels
from captioning.metadata import dump_metadata
from captioning.onnx_export import CalibrationImages, export_onnx
from captioning.pictograms import write_dataset
from vocab import build_vocabulary, count_words


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


@dataclass(frozen=True)
class ModelFiles:
    """One model of random weights that captions 32-pixel pictures, in the three forms that Captioner.load reads."""

    checkpoint: Path
    onnx: Path
    int8: Path


@pytest.fixture(scope="session")
def model_files(tmp_path_factory, pictograms_dir) -> ModelFiles:
    """A tiny decoder on MobileNetV2; its captions differ from picture to picture."""
    torch.manual_seed(0)
    examples = load_examples(pictograms_dir, "train")
    vocabulary = build_vocabulary(count_words(caption for e in examples for caption in e.captions)[0], 1)
    config = model.CONFIG | {"embed_size": 8, "hidden_size": 8}
    network = model.build_model(len(vocabulary), config)
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(3)
        network.decoder.output.bias[vocabulary.end_id] += 4  # so that captions end
        transform = {"image_size": 32, "mean": list(data_loader.MEAN), "std": list(data_loader.STD)}
        pixels = [to_pixels(load_image(example.image), **transform) for example in examples]
        for module in network.encoder.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # the statistics become those of one pass
        # Without them the random layers would shrink every picture to the same embedding.
        network.encoder.train()(torch.from_numpy(np.stack(pixels)))
    network.eval()
    folder = tmp_path_factory.mktemp("models")
    checkpoint = Checkpoint(
        network.state_dict(), {"model": config}, vocabulary.itos, transform, classes=sorted({e.label for e in examples})
    )
    files = ModelFiles(folder / "tiny.safetensors", folder / "tiny.onnx", folder / "tiny_int8.onnx")
    save_checkpoint(files.checkpoint, checkpoint)
    calibration = CalibrationImages([example.image for example in examples], transform)
    export_onnx(network, dump_metadata(vars(checkpoint)), 32, files.onnx, int8_path=files.int8, calibration=calibration)
    return files

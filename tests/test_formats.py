"""Files that commit 56669ee wrote, the first version of each format, do today what they did then."""

import json
from pathlib import Path

import pandas as pd
import processes
import pytest

from caption import Captioner
from captioning.checkpoint import load_checkpoint
from captioning.data.annotations import load_examples
from captioning.deploy.onnx_model import OnnxModel
from vocab import SPECIALS, load_vocabulary

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("tiny.safetensors", "tiny.onnx", "tiny_int8.onnx")


def test_the_vocabulary_loads(first_files):
    vocabulary = load_vocabulary(first_files / "vocab_1.pkl")
    assert vocabulary.itos[:4] == SPECIALS
    assert {"a", "ball", "box"} <= set(vocabulary.itos)


def test_the_metadata_of_all_models_is_that_of_the_checkpoint(first_files):
    checkpoint = load_checkpoint(first_files / "tiny.safetensors")
    assert checkpoint.config["model"]["embed_size"] == 4
    assert checkpoint.classes == ["ball", "box"]
    assert checkpoint.vocab == load_vocabulary(first_files / "vocab_1.pkl").itos
    for name in MODELS[1:]:
        model = OnnxModel(first_files / name)
        assert (model.vocab, model.classes) == (checkpoint.vocab, checkpoint.classes)
        assert (model.transform, model.config) == (checkpoint.transform, checkpoint.config)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_captions_that_it_gave(first_files, name):
    expected = json.loads((first_files / "expected.json").read_text())[name]
    pictures = [example.image for example in load_examples(first_files / "data")]
    captioner = Captioner.load(first_files / name, device="cpu")
    # Kernels of int8 round differently from processor to processor, so that there a near second may come first.
    size, tolerance = (4, 0.02) if "int8" in name else (2, 1e-4)
    captions = captioner(pictures, beam_size=size, num_best=size if "int8" in name else 1, max_len=8)
    given = [{one.text: one.confidence for one in (caption, *caption.alternatives)} for caption in captions]
    for picture, confidences in zip(pictures, given, strict=True):
        text, confidence = expected[picture.name]
        assert confidences[text] == pytest.approx(confidence, abs=tolerance)


def test_caption_py_reads_the_checkpoint(first_files):
    command = [str(ROOT / "caption.py"), "data/test/box/cyan.jpg", "--model_path", "tiny.safetensors"]
    result = processes.run(command, first_files)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_training_goes_on_from_the_resume_file(first_run):
    """The run of 60 epochs was stopped after 59."""
    flags = json.loads((first_run / "flags.json").read_text())
    result = processes.run([str(ROOT / "train.py"), *flags, "--train.resume"], first_run, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert "after epoch 59" in result.stdout
    history = pd.read_csv(first_run / "runs/tiny/history.csv")
    assert list(history["epoch"]) == [*range(1, 61)]
    assert load_checkpoint(first_run / "checkpoints/tiny.safetensors").best["epoch"] in range(1, 61)

"""Familiarity: pictures of another kind are told from those that a model was trained on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from caption import Captioner
from captioning.checkpoint import save_checkpoint
from captioning.deploy.downloads import SHIPPED
from captioning.familiarity import UNLIKE, Familiarity, fit_familiarity, unlike_warning
from captioning.runtime import Machine
from captioning.training.features import learn_familiarity
from data_loader import EvalTransform
from model import EncoderCNN, load_captioner

WIDTHS = [6, 8, 8, 10]


def describe(random, number, away=0.0):
    """Descriptions that lie near a plane of each block's space, `away` = how far off it."""
    blocks = []
    for width in WIDTHS:
        plane = np.random.default_rng(width).normal(size=(2, width))
        off = np.random.default_rng(width + 100).normal(size=width)
        near = 5 + random.normal(size=(number, 2)) @ plane + 0.05 * random.normal(size=(number, width))
        blocks.append(near + away * off)
    return np.concatenate(blocks, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def familiarity():
    random = np.random.default_rng(0)
    return fit_familiarity(describe(random, 400), describe(random, 1000), WIDTHS)


def test_five_per_cent_of_new_pictures_of_the_same_kind_are_unlike(familiarity):
    found = familiarity(describe(np.random.default_rng(1), 4000))
    assert (found < UNLIKE).mean() == pytest.approx(0.05, abs=0.02)
    assert np.quantile(found, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)  # a share, so even


def test_pictures_of_another_kind_are_unlike_and_the_further_the_more(familiarity):
    near, far = (familiarity(describe(np.random.default_rng(2), 500, away)) for away in (0.1, 2.0))
    assert (far < UNLIKE).all()
    assert far.mean() < near.mean() < 0.5


def test_by_hand():
    """One block of two channels whose component is (1, 0): the residual is the second coordinate of the unit vector."""
    one = Familiarity(
        [np.zeros(2, np.float32)], [np.ones(1, np.float32)], [np.array([[1, 0]], np.int8)],
        centres=np.array([np.log(0.6)]), spreads=np.array([2.0]), quantiles=np.linspace(-1, 1, 101),
    )  # fmt: skip
    found = one(np.array([[4.0, 3.0], [3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]]))
    distance = np.log(0.8 / 0.6) / 2
    assert found[:2] == pytest.approx([0.5, 0.5 - distance / 2])
    assert found[2] == 1.0  # a residual of 0 is the most typical there is
    assert found[3] == 0.0


def test_it_survives_json(familiarity):
    text = json.dumps(familiarity.to_json())
    again = Familiarity.from_json(json.loads(text))
    some = describe(np.random.default_rng(3), 50, 0.02)
    np.testing.assert_allclose(again(some), familiarity(some), atol=2e-3)
    assert Familiarity.from_json({}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [True, 8, 8, 10]}, "widths"),
        ({"widths": []}, "widths"),
        ({"means": ["AAAA"]}, "4 means"),
        ({"scales": ["@", "@", "@", "@"]}, "base64"),
        ({"bases": ["AAAA"] * 4}, "do not fit"),
        ({"means": ["AHwAfAB8AHwAfAB8"] * 4}, "NaN or infinity"),
        ({"spreads": [0, 1, 1, 1]}, "spreads of 0"),
        ({"spreads": ["1", 1, 1, 1]}, "no numbers"),
        ({"spreads": [True, 1, 1, 1]}, "no numbers"),
        ({"quantiles": [1.0] * 100 + [0.0]}, "quantiles that fall"),
        ({"quantiles": [float("nan")] * 101}, "no numbers"),
    ],
)
def test_a_damaged_one_is_refused(familiarity, change, message):
    with pytest.raises(ValueError, match=message):
        Familiarity.from_json(familiarity.to_json() | change)
    parts = familiarity.to_json()
    del parts["means"]
    with pytest.raises(ValueError, match="must have"):
        Familiarity.from_json(parts)


def test_too_few_pictures_tell_nothing():
    random = np.random.default_rng(0)
    assert fit_familiarity(describe(random, 99), describe(random, 100), WIDTHS) is None
    assert fit_familiarity(describe(random, 100), describe(random, 19), WIDTHS) is None


def test_an_encoder_describes_what_its_blocks_put_out():
    """The description of its definition; the embedding is that of forward; with a grid too, and for ResNet-18."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 64, 64)
    for name, grid in (("mobilenet_v2", False), ("mobilenet_v2", True), ("resnet18", False)):
        encoder = EncoderCNN(name, 12, grid=grid).eval()
        with torch.inference_mode():
            embeddings, parts = encoder.describe(images)
            torch.testing.assert_close(embeddings, encoder(images))
            outputs = [images]
            for block in encoder.blocks():
                outputs.append(block(outputs[-1]))
        blocks = [outputs[-place].flatten(2) for place in (9, 5, 2, 1)]
        for part, block in zip(parts, blocks, strict=True):
            expected = torch.cat([block.mean(2), block.var(2, correction=0).sqrt()], dim=1)
            torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


def pictures_of(folder):
    return sorted(folder.glob("*/*/*.jpg"))


def test_the_shipped_models_know_noise_and_their_own_kind(model_files, pictograms_dir):
    own = Captioner.load(model_files.checkpoint)(pictures_of(pictograms_dir), beam_size=1)
    assert np.mean([caption.unlike for caption in own]) < 0.15
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in SHIPPED:
        (caption,) = Captioner.load(name)(noise, beam_size=1)
        assert caption.unlike
        assert caption.record()["familiarity"] == round(caption.familiarity, 4) < UNLIKE


def test_onnx_knows_it_too(model_files, pictograms_dir):
    """In float32 as in torch, in int8 near it."""
    pictures = pictures_of(pictograms_dir)[:40]
    expected, whole, int8 = (
        np.array([caption.familiarity for caption in Captioner.load(path)(pictures, beam_size=1)])
        for path in (model_files.checkpoint, model_files.onnx, model_files.int8)
    )
    np.testing.assert_allclose(whole, expected, atol=1e-3)
    assert np.abs(int8 - expected).mean() < 0.15


def test_training_learns_it(model_files, pictograms_dir, tmp_path):
    """From the files of both splits; of a model without it nothing is said."""
    network, _, checkpoint = load_captioner(model_files.checkpoint)
    pictures = pictures_of(pictograms_dir)
    transform, machine = EvalTransform(checkpoint.transform["image_size"]), Machine(torch.device("cpu"))
    checkpoint.familiarity = learn_familiarity(network, pictures[:120], pictures[120:], transform, machine)
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    found = Captioner.load(tmp_path / "a.safetensors")(pictures[120:], beam_size=1)
    assert np.mean([caption.unlike for caption in found]) == pytest.approx(0.05, abs=0.02)  # these are its quantiles
    checkpoint.familiarity = {}
    save_checkpoint(tmp_path / "b.safetensors", checkpoint)
    (caption,) = Captioner.load(tmp_path / "b.safetensors")(pictures[0], beam_size=1)
    assert (caption.familiarity, caption.unlike, caption.record()["familiarity"]) == (None, False, None)
    assert learn_familiarity(network, pictures[:20], pictures[:20], transform, machine) == {}


def test_the_warning_counts():
    assert unlike_warning(0, 3, "photos") == ""
    assert unlike_warning(1, 1, "photos").startswith("the picture is unlike the training pictures of photos")
    assert unlike_warning(1, 3, "photos").startswith("1 of 3 pictures is")
    assert unlike_warning(2, 3, "photos").startswith("2 of 3 pictures are")

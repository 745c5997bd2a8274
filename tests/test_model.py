"""The model: its published size, and that step by step it says what it says at once."""

import os

import pytest
import torch
import torchvision

from captioning.checkpoint import Checkpoint, save_checkpoint
from model import (
    CONFIG,
    IMAGE_INPUTS,
    CNNtoRNN,
    DecoderRNN,
    EncoderCNN,
    build_model,
    count_macs,
    load_captioner,
    load_encoder_weights,
)
from vocab import SPECIALS


@pytest.mark.parametrize(
    ("name", "embed_size", "params_m", "macs_g"),
    [("mobilenet_v2", 300, 2.61, 0.327), ("resnet18", 300, 11.33, 1.824), ("resnet18", 512, 11.44, 1.824)],
)
def test_size_and_macs_are_the_published_ones(name, embed_size, params_m, macs_g):
    macs, parameters = count_macs(EncoderCNN(name, embed_size), 224)
    assert round(parameters / 1e6, 2) == params_m
    assert round(macs / 1e9, 3) == macs_g


def test_counting_leaves_the_model_as_it_was():
    encoder = EncoderCNN()
    before = set(encoder.state_dict())
    count_macs(encoder, 64)
    assert set(encoder.state_dict()) == before


@pytest.mark.parametrize("image_input", IMAGE_INPUTS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_step_by_step_equals_teacher_forcing(image_input, num_layers):
    torch.manual_seed(0)
    decoder = DecoderRNN(11, 6, 8, num_layers, image_input).eval()
    image, tokens = torch.randn(3, 6), torch.randint(1, 11, (3, 5))
    at_once = decoder(image, tokens).log_softmax(dim=2)
    state = decoder.start(image)
    for t in range(tokens.shape[1]):
        log_probs, state = decoder.step(tokens[:, t], state)
        torch.testing.assert_close(log_probs, at_once[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_input", IMAGE_INPUTS)
def test_the_image_matters_and_padding_does_not(image_input):
    torch.manual_seed(0)
    decoder = DecoderRNN(11, 6, 8, 1, image_input).eval()
    image, tokens = torch.randn(2, 6), torch.randint(1, 11, (2, 4))
    logits = decoder(image, tokens)
    padded = decoder(image, torch.nn.functional.pad(tokens, (0, 3)))
    torch.testing.assert_close(padded[:, :4], logits)
    assert not torch.allclose(decoder(image.flip(0), tokens), logits)


def test_each_caption_sees_its_own_image():
    torch.manual_seed(0)
    model = CNNtoRNN(11, embed_size=6, hidden_size=8).eval()
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 11, (3, 4))
    logits, embeddings = model(images, tokens, torch.tensor([1, 0, 1])), model.encoder(images)
    assert embeddings.shape == (2, 6)
    alone = model(images[1:], tokens[[0, 2]], torch.tensor([0, 0]))
    torch.testing.assert_close(logits[[0, 2]], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="2 image embeddings for 3 captions"):
        model.decoder(embeddings, tokens)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_a_torchvision_state_dict_fills_the_encoder(tmp_path, name):
    network = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    encoder = EncoderCNN(name).eval()
    assert load_encoder_weights(encoder, name, str(tmp_path / "w.pth")) == 224
    images = torch.randn(2, 3, 64, 64)
    if name == "mobilenet_v2":
        expected = network.features(images).mean(dim=(2, 3))
    else:
        network.fc = torch.nn.Identity()
        expected = network(images)
    torch.testing.assert_close(encoder.backbone(images), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: has no weights"):
        load_encoder_weights(EncoderCNN(), "mobilenet_v2", str(tmp_path / "w.pth"))


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_weights_that_carry_code_are_refused(tmp_path):
    torch.save({"features.0": Code(f"touch {tmp_path}/ran")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not a readable state_dict"):
        load_encoder_weights(EncoderCNN(), "mobilenet_v2", str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


def test_without_a_network_imagenet_says_three_ways_on_in_two_lines(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.__class__, "get_state_dict", offline)
    with pytest.raises(ValueError, match="imagenet could not be downloaded") as error:
        load_encoder_weights(EncoderCNN(), "mobilenet_v2", "imagenet")
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert all(way in lines[1] for way in ("online", "state_dict or one of our checkpoints", "none"))


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ValueError, match="got 'vgg', allowed are mobilenet_v2, resnet18"):
        EncoderCNN("vgg")
    with pytest.raises(ValueError, match="got 'last', allowed are first, state, every"):
        DecoderRNN(10, image_input="last")


@pytest.fixture
def ours(tmp_path):
    """Return (model, path of its checkpoint): a MobileNetV2 captioner of random weights."""
    torch.manual_seed(0)
    config = {**CONFIG, "embed_size": 8, "hidden_size": 6}
    vocab = [*SPECIALS, "a", "red", "sun"]
    network = build_model(len(vocab), config).eval()
    transform = {"image_size": 96, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(network.state_dict(), {"model": config}, vocab, transform))
    return network, tmp_path / "a.safetensors"


def test_our_checkpoint_fills_the_whole_encoder(ours):
    """Backbone, Linear and BatchNorm; the size it was trained at comes back, so that a new run can use it."""
    network, path = ours
    encoder = EncoderCNN("mobilenet_v2", 8).eval()
    assert load_encoder_weights(encoder, "mobilenet_v2", str(path)) == 96
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), network.encoder(images))


def test_our_checkpoint_of_another_encoder_names_both(ours):
    _, path = ours
    with pytest.raises(ValueError, match="its encoder is mobilenet_v2, this model's is resnet18"):
        load_encoder_weights(EncoderCNN("resnet18", 8), "resnet18", str(path))


def test_our_checkpoint_of_another_width_names_both_shapes(ours):
    _, path = ours
    with pytest.raises(ValueError, match=r"has shape \(8, 1280\), this model needs \(16, 1280\)|\(8,\).*\(16,\)"):
        load_encoder_weights(EncoderCNN("mobilenet_v2", 16), "mobilenet_v2", str(path))


def test_load_captioner_gives_the_same_model_back(ours):
    """Weights, vocabulary and settings from one file; ready to caption, so without dropout."""
    network, path = ours
    loaded, vocabulary, checkpoint = load_captioner(path)
    assert not loaded.training
    assert vocabulary.itos == [*SPECIALS, "a", "red", "sun"]
    assert checkpoint.transform["image_size"] == 96
    images, tokens, owner = torch.randn(2, 3, 32, 32), torch.randint(1, 7, (3, 4)), torch.tensor([0, 0, 1])
    torch.testing.assert_close(loaded(images, tokens, owner), network(images, tokens, owner))


def test_a_state_dict_with_one_wrong_shape_is_named_with_both_shapes(tmp_path):
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    state["features.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth: .* has shape \(16, 3, 3, 3\), this model needs \(32, 3, 3, 3\)"):
        load_encoder_weights(EncoderCNN(), "mobilenet_v2", str(tmp_path / "w.pth"))


@pytest.mark.parametrize(("name", "num_blocks"), [("mobilenet_v2", 19), ("resnet18", 9)])
def test_a_split_backbone_is_the_backbone(name, num_blocks):
    encoder = EncoderCNN(name, 8).eval()
    images = torch.randn(2, 3, 64, 64)
    assert len(encoder.blocks()[0]) == num_blocks
    with torch.inference_mode():
        whole = encoder.backbone(images)
        for last in (0, 1, 5, num_blocks):
            trunk, head = encoder.split(last)
            torch.testing.assert_close(head(trunk(images)), whole)

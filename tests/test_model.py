"""The model: its published size, and that step by step it says what it says at once."""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torchvision

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.mobilenet import mobilenet_v2
from model import (
    CONFIG,
    ENCODERS,
    IMAGE_INPUTS,
    AttentionRNN,
    CNNtoRNN,
    DecoderRNN,
    EncoderCNN,
    build_model,
    load_captioner,
    load_encoder_weights,
    match_init,
    start_model,
)
from model import DECODERS as DECODERS_BY_NAME
from vocab import SPECIALS, Vocabulary

DECODERS = [
    *(partial(DecoderRNN, image_input=way, num_layers=layers) for way in IMAGE_INPUTS for layers in (1, 2)),
    partial(DecoderRNN, tie_weights=True),
    partial(AttentionRNN, attention_size=5),
    partial(AttentionRNN, attention_size=5, tie_weights=True),
]


def build_small(kind):
    """Return (decoder in eval(), image embeddings of 3 captions)."""
    torch.manual_seed(0)
    decoder = kind(11, 6, 8).eval()
    return decoder, torch.randn(3, 4, 6) if isinstance(decoder, AttentionRNN) else torch.randn(3, 6)


@pytest.mark.parametrize("kind", DECODERS)
def test_step_by_step_equals_teacher_forcing(kind):
    decoder, image = build_small(kind)
    tokens = torch.randint(1, 11, (3, 5))
    at_once = decoder(image, tokens).log_softmax(dim=2)
    for step in (decoder.step, decoder.make_step()):
        state = decoder.start(image)
        for t in range(tokens.shape[1]):
            log_probs, state = step(tokens[:, t], state)
            torch.testing.assert_close(log_probs, at_once[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_image_matters_and_padding_does_not(kind):
    decoder, image = build_small(kind)
    tokens = torch.randint(1, 11, (3, 4))
    logits = decoder(image, tokens)
    padded = decoder(image, torch.nn.functional.pad(tokens, (0, 3)))
    torch.testing.assert_close(padded[:, :4], logits)
    assert not torch.allclose(decoder(image.flip(0), tokens), logits)


def test_attention_by_hand():
    """One step of Xu et al. 2015 in numpy: equation 6's weights by the comparison of Bahdanau, the gate, equation 7."""
    decoder, image = build_small(partial(AttentionRNN, attention_size=5))
    with torch.no_grad():
        _, attention = decoder.attend(image, torch.tensor([[7], [2], [9]]))
        logits = decoder(image, torch.tensor([[7], [2], [9]]))[1, 0].numpy()
    w = {name: value.detach().numpy().astype(float) for name, value in decoder.named_parameters()}
    places, word = image[1].numpy().astype(float), w["embedding.weight"][2]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h, c = np.split(np.tanh(w["initial.weight"] @ places.mean(0) + w["initial.bias"]), 2)
    compared = np.tanh(places @ w["key.weight"].T + w["key.bias"] + w["query.weight"] @ h) @ w["compare.weight"][0]
    weights = np.exp(compared) / np.exp(compared).sum()
    np.testing.assert_allclose(attention[1, 0], weights, rtol=1e-5)
    seen = sigmoid(w["gate.weight"] @ h + w["gate.bias"]) * (weights @ places)
    gates = w["lstm.weight_ih"] @ np.concatenate([word, seen]) + w["lstm.bias_ih"]
    i, f, g, o = np.split(gates + w["lstm.weight_hh"] @ h + w["lstm.bias_hh"], 4)
    h = sigmoid(o) * np.tanh(sigmoid(f) * c + sigmoid(i) * np.tanh(g))
    output = word + w["from_hidden.weight"] @ h + w["from_hidden.bias"] + w["from_image.weight"] @ seen
    np.testing.assert_allclose(logits, w["output.weight"] @ output + w["output.bias"], rtol=1e-4, atol=1e-5)


def test_attention_depends_on_what_the_places_show_and_not_on_their_order():
    decoder, image = build_small(partial(AttentionRNN, attention_size=5))
    tokens, order = torch.randint(1, 11, (3, 5)), torch.tensor([2, 0, 3, 1])
    logits, attention = decoder.attend(image, tokens)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 5))
    moved_logits, moved = decoder.attend(image[:, order], tokens)
    torch.testing.assert_close(moved_logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved, attention[:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_the_mean_of_the_positions_is_the_pooled_feature(name):
    """The grid's features are those that the pool averages, and a Linear of their mean is the mean of the Linears."""
    torch.manual_seed(0)
    pooled, grid = EncoderCNN(name, 8).eval(), EncoderCNN(name, 8, grid=True).eval()
    grid.load_state_dict(pooled.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        places = grid(images)
        assert places.shape == (2, 6, 8)
        torch.testing.assert_close(places.mean(dim=1), pooled(images), rtol=1e-4, atol=1e-5)


def test_tied_weights_are_one_parameter_that_both_sides_train():
    decoder, image = build_small(partial(DecoderRNN, tie_weights=True))
    names = [name for name, value in decoder.named_parameters() if 11 in value.shape]
    assert names == ["bias", "embedding.weight"]
    decoder(image, torch.tensor([[4], [4], [4]])).sum().backward()
    assert (decoder.embedding.weight.grad.abs().sum(dim=1) > 0).all()  # an embedding alone would reach word 4


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


def test_mobilenet_is_torchvisions():
    """The same weights under the same names give the same maps and the same gradients, in training mode too."""
    theirs, ours = torchvision.models.mobilenet_v2(weights=None).features, mobilenet_v2()
    assert [(name, p.shape) for name, p in ours.state_dict().items()] == [
        (name, p.shape) for name, p in theirs.state_dict().items()
    ]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.std().item() == pytest.approx(other.std().item(), rel=0.3)  # drawn from the same distribution
    ours.load_state_dict(theirs.state_dict())
    images, gradients = torch.randn(2, 3, 64, 64), []
    for network in (ours, theirs):
        maps = network(images)
        maps.square().mean().backward()
        gradients.append([maps, *(parameter.grad for parameter in network.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    named = r"w.pth: its weights \(bn1.bias, .*not those of MobileNetV2; model.encoder chooses .*, resnet18"
    with pytest.raises(ValueError, match=named):
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
    with pytest.raises(ValueError, match="got 'gru', allowed are lstm, attention"):
        CNNtoRNN(10, decoder="gru")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"decoder": "attention", "num_layers": 2}, "model.num_layers: got 2, with decoder attention it must be 1"),
        ({"decoder": "attention", "image_input": "state"}, "model.image_input: got 'state', with decoder attention"),
        ({"layer_dropout": 0.5}, "model.layer_dropout: got 0.5, with num_layers 1 it must be 0"),
    ],
)
def test_options_that_contradict_each_other_are_named(options, line):
    with pytest.raises(ValueError, match=line):
        CNNtoRNN(10, **options)


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


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(("name", "num_blocks"), [("mobilenet_v2", 19), ("resnet18", 9)])
def test_a_split_backbone_is_the_backbone(name, num_blocks, grid):
    encoder = EncoderCNN(name, 8, grid).eval()
    images = torch.randn(2, 3, 64, 64)
    assert len(encoder.blocks()) == num_blocks
    with torch.inference_mode():
        whole = encoder.backbone(images)
        for last in (0, 1, 5, num_blocks):
            trunk, head = encoder.cut(last)
            torch.testing.assert_close(head(trunk(images)), whole)


@pytest.mark.parametrize("decoder", ["lstm", "attention"])
def test_each_dropout_is_where_its_name_says(decoder):
    """The words that are read, and what is scored: without both, training mode changes nothing."""
    image = torch.randn(2, 4, 8) if decoder == "attention" else torch.randn(2, 8)
    tokens = torch.tensor([[1, 5, 6, 4], [1, 4, 4, 2]])

    def changes(**rates):
        torch.manual_seed(0)
        network = CNNtoRNN(9, embed_size=8, hidden_size=16, decoder=decoder, **rates).decoder
        read, scored = [], []
        for mode in (False, True):
            network.train(mode)
            outputs, _ = network.unroll(tokens, network.start(image))
            read.append(outputs)
            scored.append(network.score(read[0]))
        return not torch.equal(*read), not torch.equal(*scored)

    assert changes(input_dropout=0.0, dropout=0.0) == (False, False)
    assert changes(input_dropout=0.5, dropout=0.0) == (True, False)
    assert changes(input_dropout=0.0, dropout=0.5) == (False, True)


@pytest.mark.parametrize("name", DECODERS_BY_NAME)
def test_a_decoder_answers_for_itself(name):
    """What training, decoding and the export ask of a decoder is an attribute or a method that each of them has."""
    network = CNNtoRNN(9, embed_size=8, hidden_size=16, decoder=name)
    decoder, batch = network.decoder, 2
    image = torch.randn(batch, 4, 8) if decoder.reads_grid else torch.randn(batch, 8)
    tokens = torch.tensor([[1, 5], [1, 4]])
    network.eval()
    if decoder.has_attention:
        logits, attention = decoder.attend(image, tokens)
        torch.testing.assert_close(logits, decoder(image, tokens))
        log_probs, weights, _ = decoder.step_and_attend(tokens[:, 0], decoder.start(image))
        torch.testing.assert_close(weights, attention[:, 0])
        torch.testing.assert_close(log_probs, logits[:, 0].log_softmax(dim=1))
    else:
        assert not hasattr(decoder, "attend")
    log_probs, _ = decoder.make_step()(tokens[:, 0], decoder.start(image))
    assert log_probs.shape == (batch, 9)


@pytest.mark.parametrize("name", DECODERS_BY_NAME)
@pytest.mark.parametrize("stage", ["decoder", "everything", "finetune", "self-critical"])
def test_each_stage_has_its_training_mode(name, stage):
    """Self-critical training has no dropout, and only training everything moves the backbone's BatchNorm."""
    network = CNNtoRNN(9, embed_size=8, hidden_size=16, decoder=name).eval()
    network.train_mode(stage)
    assert network.decoder.dropout.training == network.decoder.input_dropout.training == (stage != "self-critical")
    assert network.encoder.norm.training == (stage != "self-critical")
    assert network.encoder.backbone.training == (stage == "everything")


def test_between_layers_there_is_no_dropout_in_self_critical_training_either():
    """The LSTM is in train() all the same: cuDNN has no gradient for one in eval()."""
    decoder = CNNtoRNN(9, embed_size=8, hidden_size=16, num_layers=2, layer_dropout=0.5).decoder
    for stage, dropout in (("self-critical", 0.0), ("decoder", 0.5)):
        decoder.train_mode(stage)
        assert decoder.lstm.training
        assert decoder.lstm.dropout == dropout


def test_a_new_encoder_and_decoder_need_an_entry_in_their_tables_alone(monkeypatch):
    """Also where names were listed outside the tables: the split of the backbone, the training mode, the weights."""

    class Bag(DecoderRNN):
        """A decoder of its own."""

    kind = replace(
        ENCODERS["resnet18"],
        feature_dim=6,
        build=lambda pooling, grid: torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), *pooling),
        blocks=lambda network: [network[0]],
        rename=lambda name: name,
    )
    monkeypatch.setitem(ENCODERS, "tiny", kind)
    monkeypatch.setitem(DECODERS_BY_NAME, "bag", Bag)
    network = build_model(9, {**CONFIG, "encoder": "tiny", "decoder": "bag", "embed_size": 4, "hidden_size": 5}).eval()
    assert isinstance(network.decoder, Bag)
    images = torch.randn(2, 3, 8, 8)
    trunk, head = network.encoder.cut(1)
    torch.testing.assert_close(head(trunk(images)), network.encoder.backbone(images))
    network.train_mode("decoder")
    assert not network.encoder.backbone.training


def test_a_checkpoint_without_a_later_setting_takes_its_default(tmp_path, ours):
    """A config of a version that did not have tie_weights, attention_size or layer_dropout yet."""
    network, path = ours
    old = load_checkpoint(path)
    for key in ("tie_weights", "attention_size", "layer_dropout", "image_input"):
        del old.config["model"][key]
    save_checkpoint(tmp_path / "old.safetensors", old)
    loaded, _, _ = load_captioner(tmp_path / "old.safetensors")
    images, tokens, owner = torch.randn(2, 3, 32, 32), torch.randint(1, 7, (2, 4)), torch.tensor([0, 1])
    torch.testing.assert_close(loaded(images, tokens, owner), network(images, tokens, owner))


def save_captioner(path, words, **settings):
    """Write the checkpoint of a small captioner with random weights."""
    config = CONFIG | {"embed_size": 8, "hidden_size": 12} | settings
    network = build_model(len(SPECIALS) + len(words), config)
    transform = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    kept = {name: tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(path, Checkpoint(kept, {"model": config}, [*SPECIALS, *words], transform))
    return kept, config


@pytest.mark.parametrize("settings", [{}, {"tie_weights": True}, {"decoder": "attention"}])
def test_words_that_two_vocabularies_share_keep_their_weights(tmp_path, settings, capsys):
    """Another number of words, in another order; every other weight is taken as it is."""
    path = tmp_path / "first.safetensors"
    old, config = save_captioner(path, ["cat", "dog", "sits"], **settings)
    vocabulary = Vocabulary([*SPECIALS, "sits", "bird", "cat"])
    run = {"init": str(path), "class_loss": 0, "word_loss": 0}
    model, size = start_model(vocabulary, [], run, config)
    new = model.state_dict()
    assert size == 32
    assert "init: 6 of 7 words keep their weights" in capsys.readouterr().out
    rows = {f"decoder.{name}" for name in model.decoder.word_weights}
    assert rows <= new.keys()
    for name in new.keys() - rows:
        assert torch.equal(new[name], old[name]), name
    for name in rows:
        for word, row in {"<pad>": 0, "<unk>": 3, "sits": 4, "cat": 6}.items():
            there = {"<pad>": 0, "<unk>": 3, "cat": 4, "sits": 6}[word]
            assert torch.equal(new[name][row], old[name][there]), (name, word)


def test_a_run_takes_the_settings_of_the_model_that_it_starts_from(tmp_path):
    path = tmp_path / "first.safetensors"
    save_captioner(path, ["cat"], tie_weights=True)
    matched = match_init(CONFIG | {"dropout": 0.1}, str(path))
    assert (matched["embed_size"], matched["hidden_size"], matched["tie_weights"]) == (8, 12, True)
    assert matched["dropout"] == 0.1  # of training alone, and free
    with pytest.raises(ValueError, match=r"--model.embed_size: got 9, .*first.safetensors, which .* has 8"):
        match_init(CONFIG | {"embed_size": 9}, str(path))


def test_another_embed_size_takes_the_cnn_of_a_checkpoint_and_starts_its_linear_afresh(tmp_path, capsys):
    """The most natural experiment, --model.embed_size 256 with the shipped encoder, ended in a shape error."""
    old, _ = save_captioner(tmp_path / "first.safetensors", ["cat"])
    encoder = EncoderCNN(embed_size=6)
    fresh = encoder.linear.weight.detach().clone()
    assert load_encoder_weights(encoder, "mobilenet_v2", str(tmp_path / "first.safetensors")) == 32
    assert "has embed_size 8, this model 6; its Linear starts afresh" in capsys.readouterr().out
    assert torch.equal(encoder.linear.weight, fresh)
    for name, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(tensor, old[f"encoder.backbone.{name}"]), name

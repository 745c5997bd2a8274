"""Losses equal a loop by hand, captions do not depend on the batch, and damaged images are named."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
import torch

from caption import Captioner, TorchModel
from captioning.data.annotations import load_examples
from captioning.evaluation import attention_maps, caption_examples, decode_embeddings, encode_images, teacher_forced
from captioning.runtime import Machine
from captioning.search.options import SearchOptions
from data_loader import MEAN, STD, EvalTransform, load_image
from model import IMAGE_INPUTS, CNNtoRNN
from vocab import build_vocabulary, count_words

CPU = torch.device("cpu")
SIZE = {"image_size": 32, "mean": MEAN, "std": STD}
TRANSFORM = EvalTransform(**SIZE)
OPTIONS = {"options": SearchOptions(max_len=6), "progress": False}


@pytest.fixture(scope="module")
def examples(pictograms_dir):
    """30 pictures with their captions."""
    return load_examples(pictograms_dir, "train")[:30]


@pytest.fixture(scope="module")
def vocabulary(examples):
    return build_vocabulary(count_words(caption for e in examples for caption in e.captions)[0], 1)


def tiny_model(vocabulary, image_input="first"):
    """A model of random weights; larger than the usual ones, so that captions differ from image to image."""
    torch.manual_seed(0)
    model = CNNtoRNN(len(vocabulary), embed_size=8, hidden_size=8, image_input=image_input)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def model(vocabulary):
    return tiny_model(vocabulary)


def captioner(model, vocabulary):
    return Captioner(TorchModel(model, vocabulary.itos, SIZE, config={}))


@pytest.fixture
def damaged(examples, tmp_path):
    """The 30 examples on copies of their pictures, and a function that damages the copy of one."""
    copies = []
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.jpg"
        shutil.copy(example.image, path)
        copies.append(dataclasses.replace(example, image=path))

    def damage(number):
        copies[number].image.write_bytes(copies[number].image.read_bytes()[:300])

    return copies, damage


@pytest.mark.parametrize("image_input", IMAGE_INPUTS)
def test_teacher_forced_loss_equals_a_loop_by_hand(vocabulary, image_input):
    """One caption and one word at a time, nothing padded; every word and <end> counts once."""
    model = tiny_model(vocabulary, image_input)
    embeddings = torch.randn(3, 8)
    captions = [["a red sun", "sun"], ["two suns on a blue background"], ["a", "on a", "on a red background"]]
    tokens = [[torch.tensor(vocabulary.encode(text)) for text in texts] for texts in captions]
    result = teacher_forced(model, embeddings, tokens, vocabulary.pad_id)

    total, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for embedding, sequences in zip(embeddings, tokens, strict=True):
            for ids in sequences:
                state = model.decoder.start(embedding[None])
                for now, following in itertools.pairwise(ids):
                    log_probs, state = model.decoder.step(now[None], state)
                    total -= log_probs[0, following].item()
                    correct += int(log_probs[0].argmax() == following)
                    count += 1
    assert result["loss"] == pytest.approx(total / count, rel=1e-5)
    assert result["token_accuracy"] == pytest.approx(correct / count)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_teacher_forced_loss_does_not_depend_on_the_batch(model, vocabulary, examples, batch_size):
    """A mean of the means of batches would: captions differ in length, and the last batch is smaller."""
    tokens = [[torch.tensor(vocabulary.encode(text)) for text in e.captions] for e in examples[:5]]
    embeddings = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    whole = teacher_forced(model, embeddings, tokens, vocabulary.pad_id)
    parts = teacher_forced(model, embeddings, tokens, vocabulary.pad_id, batch_size=batch_size)
    assert parts == pytest.approx(whole, rel=1e-5)


def test_encode_images_equals_the_network_and_leaves_its_statistics(model, examples):
    """Validation in training mode would move the BatchNorm statistics, and mix the images of a batch."""
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()
    kept, embeddings = encode_images(
        model.encoder, [e.image for e in examples[:5]], TRANSFORM, Machine(CPU, batch_size=2)
    )
    assert kept.tolist() == [0, 1, 2, 3, 4]
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.inference_mode():
        alone = [model.encoder.eval()(TRANSFORM(load_image(e.image))[None])[0] for e in examples[:5]]
    torch.testing.assert_close(embeddings, torch.stack(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_captions_do_not_depend_on_the_batch(model, vocabulary, examples, beam_size):
    options = {**OPTIONS, "options": SearchOptions(beam_size=beam_size, max_len=6)}
    whole = caption_examples(captioner(model, vocabulary), examples[:9], **options)
    parts = caption_examples(captioner(model, vocabulary), examples[:9], batch_size=2, **options)
    assert [p.example for p in whole] == examples[:9]
    assert [p.caption for p in whole] == [p.caption for p in parts]
    assert [p.log_prob for p in whole] == pytest.approx([p.log_prob for p in parts], abs=1e-3)


@pytest.mark.parametrize(("end_bias", "finished"), [(4.0, True), (-20.0, False)])
def test_log_prob_is_the_sum_over_the_caption(vocabulary, end_bias, finished):
    """Not the normalised score, for captions that ended (<end> counts) and for those cut off."""
    model, max_len = tiny_model(vocabulary).eval(), 6
    with torch.no_grad():
        model.decoder.output.bias[vocabulary.end_id] += end_bias
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    found = decode_embeddings(model, embeddings, vocabulary, SearchOptions(beam_size=2, max_len=max_len))
    lengths = set()
    for embedding, (caption, log_prob) in zip(embeddings, found, strict=True):
        ids = [vocabulary.stoi[word] for word in caption.split()]
        lengths.add(len(ids))
        spoken = [*ids, vocabulary.end_id] if finished else ids
        total, state = 0.0, model.decoder.start(embedding[None])
        for now, following in itertools.pairwise([vocabulary.start_id, *spoken]):
            log_probs, state = model.decoder.step(torch.tensor([now]), state)
            total += log_probs[0, following].item()
        assert log_prob == pytest.approx(total, abs=1e-3)
    assert max(lengths) < max_len if finished else lengths == {max_len}


def test_captions_hold_words_alone(vocabulary):
    """A model that would say <unk>, <pad> and <start> above all says something else."""
    model = tiny_model(vocabulary)
    with torch.no_grad():
        model.decoder.output.bias[[vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id]] += 50
    for caption, log_prob in decode_embeddings(model, torch.randn(4, 8), vocabulary, SearchOptions(max_len=6)):
        assert "<" not in caption
        assert log_prob > -float("inf")


def test_an_unreadable_image_is_named_and_skipped(model, vocabulary, damaged, capsys):
    """1 of 30 is below the share that stops: the others keep their own captions."""
    examples, damage = damaged
    before = caption_examples(captioner(model, vocabulary), examples, **OPTIONS)
    damage(4)
    after = caption_examples(captioner(model, vocabulary), examples, batch_size=5, **OPTIONS)
    assert [p.example for p in after] == examples[:4] + examples[5:]
    assert [p.caption for p in after] == [p.caption for p in before[:4] + before[5:]]
    warnings = capsys.readouterr().out.splitlines()
    assert len(warnings) == 1
    assert str(examples[4].image) in warnings[0]


def test_a_batch_without_a_readable_image_is_skipped(model, vocabulary, damaged):
    examples, damage = damaged
    damage(4)
    assert len(caption_examples(captioner(model, vocabulary), examples, batch_size=1, **OPTIONS)) == 29


def test_too_many_unreadable_images_are_an_error(model, vocabulary, damaged):
    """2 of 30 are more than 5 %."""
    examples, damage = damaged
    damage(4)
    damage(20)
    with pytest.raises(ValueError, match="2 of 30 images cannot be read, at most 5% may be") as error:
        caption_examples(captioner(model, vocabulary), examples, **OPTIONS)
    assert str(examples[4].image) in str(error.value)
    assert "\n" not in str(error.value)


def test_attention_maps_are_what_each_step_looked_at(vocabulary):
    """Captions of other lengths, one after another, against the decoder run word by word on its own image."""
    torch.manual_seed(0)
    model = CNNtoRNN(len(vocabulary), embed_size=8, hidden_size=8, decoder="attention", attention_size=4).eval()
    embeddings = torch.randn(2, 9, 8)
    captions = [" ".join(vocabulary.itos[4:7]), vocabulary.itos[9]]
    maps = attention_maps(model, embeddings, captions, vocabulary)
    assert [one.shape for one in maps] == [(3, 3, 3), (1, 3, 3)]
    for embedding, caption, found in zip(embeddings, captions, maps, strict=True):
        state = model.decoder.start(embedding[None])
        for word, expected in zip(vocabulary.encode(caption), found, strict=False):
            with torch.no_grad():
                _, weights, state = model.decoder.unroll_and_attend(torch.tensor([[word]]), state)
            np.testing.assert_allclose(weights[0, 0].view(3, 3).numpy(), expected, rtol=1e-5, atol=1e-6)

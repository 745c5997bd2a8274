"""The losses by hand, and that each term of them trains what it should."""

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from captioning.data.sequences import Captions
from captioning.scores.metrics import cider_d
from captioning.search.beam import beam_search, sample
from captioning.search.options import SamplingOptions, SearchOptions
from captioning.training.losses import (
    CaptionLoss,
    LossTerms,
    SelfCritical,
    attention_penalty,
    image_words,
    mix_guesses,
    word_detection_loss,
)
from data_loader import CachedBatches
from model import CNNtoRNN

VOCABULARY = SimpleNamespace(start_id=1, end_id=2, banned=(0, 1, 3))
SPECIAL = {"start": 1, "end": 2, "banned": (0, 1, 3)}
CAPTIONS = [
    [torch.tensor([1, 4, 5, 6, 2]), torch.tensor([1, 4, 5, 2])],
    [torch.tensor([1, 7, 8, 6, 2])],
    [torch.tensor([1, 9, 4, 8, 2])],
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CNNtoRNN(10, embed_size=8, hidden_size=16).eval()


@pytest.mark.parametrize("baseline", ["greedy", "samples"])
def test_loss_equals_a_loop_by_hand(model, baseline):
    """Rewards, baseline, <end> and the mean over words, for several samples of several images in another order."""
    embeddings, images = torch.randn(2, 8), torch.tensor([2, 0])
    critic = SelfCritical(CAPTIONS, VOCABULARY, SamplingOptions(3, max_len=6), baseline=baseline)
    torch.manual_seed(5)
    loss, reward = critic.policy_gradient(model, embeddings, images)

    torch.manual_seed(5)
    drawn = sample(model.decoder.step, model.decoder.start(embeddings), SamplingOptions(3, max_len=6), **SPECIAL)
    greedy = beam_search(model.decoder.step, model.decoder.start(embeddings), SearchOptions(1, max_len=6), **SPECIAL)
    references = [[ids[1:].tolist() for ids in group] for group in CAPTIONS]

    def score(ids, image):
        """CIDEr-D with the document frequencies of all images, by giving the others their own first reference."""
        hypotheses = [ids if i == image else group[0] for i, group in enumerate(references)]
        return cider_d(hypotheses, references)[1][image]

    total, words, rewards = 0.0, 0, []
    for row, image in enumerate(images.tolist()):
        said = greedy[row][0].ids
        lengths = drawn.lengths[row].tolist()
        scores = [score(drawn.tokens[row, i, : lengths[i]].tolist(), image) for i in range(3)]
        for i, length in enumerate(lengths):
            if baseline == "greedy":
                expected = score([*said, 2] if len(said) < 6 else said, image)
            else:
                expected = sum(scores[:i] + scores[i + 1 :]) / 2
            total += (scores[i] - expected) * float(drawn.log_probs[row, i, :length].sum())
            words += length
        rewards += scores
    assert loss.item() == pytest.approx(-total / words, rel=1e-4)
    assert reward == pytest.approx(sum(rewards) / len(rewards))


def test_naming_the_images_class_is_rewarded():
    """Word 5 names class 0 and word 6 class 1; image 1 has no class, so a caption that names none earns nothing."""

    def class_of(ids):
        return next((word - 5 for word in ids if word in (5, 6)), -1)

    options = SamplingOptions(1, max_len=6)
    plain = SelfCritical(CAPTIONS, VOCABULARY, options)
    labels = torch.tensor([0, -1, 1])
    critic = SelfCritical(CAPTIONS, VOCABULARY, options, class_reward=3, class_of=class_of, labels=labels)
    said, images = [[4, 5, 2], [5, 6, 2], [6, 2], [4, 2], [7, 8, 2]], [0, 2, 2, 0, 1]
    assert (critic.reward(said, images) - plain.reward(said, images)).tolist() == [3, 0, 3, 0, 0]


@pytest.mark.parametrize(
    ("baseline", "num_samples", "message"),
    [
        ("mean", 5, "self_critical_baseline: got 'mean', allowed are greedy, samples"),
        ("samples", 1, "self_critical_samples: got 1, baseline samples needs 2 or more"),
    ],
)
def test_baselines_that_cannot_be_are_refused(baseline, num_samples, message):
    with pytest.raises(ValueError, match=message):
        SelfCritical(CAPTIONS, VOCABULARY, SamplingOptions(num_samples, max_len=6), baseline=baseline)


@pytest.mark.parametrize("baseline", ["greedy", "samples"])
def test_training_on_it_raises_the_reward_of_greedy_captions(model, baseline):
    """A sign error would lower it."""
    embeddings, images = torch.eye(3, 8) * 4, torch.arange(3)
    critic = SelfCritical(CAPTIONS, VOCABULARY, SamplingOptions(8, max_len=6), baseline=baseline)
    references = [[ids[1:].tolist() for ids in group] for group in CAPTIONS]

    def greedy_score():
        state = model.decoder.start(embeddings)
        found = beam_search(model.decoder.step, state, SearchOptions(1, max_len=6), **SPECIAL)
        return cider_d([[*row[0].ids, 2] for row in found], references)[0]

    before, optimizer = greedy_score(), torch.optim.Adam(model.decoder.parameters(), lr=0.01)
    for _ in range(120):
        loss, _ = critic.policy_gradient(model, embeddings, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert greedy_score() > before + 2


def test_scheduled_sampling_replaces_words_but_not_start_or_padding():
    logits = torch.zeros(1, 4, 5)
    logits[0, :, 4] = 1.0  # the model always guesses word 4
    tokens = torch.tensor([[1, 2, 3, 0]])
    assert mix_guesses(logits, tokens, 1.0).tolist() == [[1, 4, 4, 0]]
    assert mix_guesses(logits, tokens, 0.0).tolist() == tokens.tolist()


def test_attention_penalty_by_hand():
    """Evenly spread it costs 0; all on one of 4 places 3 squares of 1 and one of 3, halved where half is padding."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert attention_penalty(torch.full((1, 2, 4), 0.25), mask).item() == pytest.approx(0)
    turns = torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]])
    assert attention_penalty(turns, mask).item() == pytest.approx(0)
    assert attention_penalty(turns, torch.tensor([[True, False]])).item() == pytest.approx(1)
    stuck = torch.tensor([[[1.0, 0, 0, 0]] * 2])
    assert attention_penalty(stuck, mask).item() == pytest.approx((3 + 9) / 4)


def make_batch(rows=(0, 1, 2), labels=(1, 0)):
    """A batch of two images; the first two captions belong to image 0 and name its class, the third to image 1."""
    tokens = torch.tensor([[1, 4, 5, 2, 0], [1, 6, 2, 0, 0], [1, 4, 6, 5, 2]])
    rows = list(rows)
    return SimpleNamespace(
        tokens=tokens[rows],
        owner=torch.tensor([0, 0, 1])[rows],
        labels=torch.tensor(labels),
        index=torch.tensor([0, 1]),
        names_class=torch.tensor([True, True, False])[rows],
    )


IMAGES = Captions([[[1, 4, 5, 2], [1, 6, 2]], [[1, 4, 6, 5, 2]]])  # the captions of make_batch


@pytest.fixture(params=["lstm", "attention"])
def small(request):
    """Return (CNNtoRNN with both auxiliary heads and no dropout, embeddings of two images)."""
    torch.manual_seed(0)
    network = CNNtoRNN(
        8, 3, True, embed_size=6, hidden_size=7, decoder=request.param, attention_size=5, input_dropout=0, dropout=0
    ).eval()
    return network, torch.randn(2, 4, 6) if request.param == "attention" else torch.randn(2, 6)


def objective(network, embeddings, batch, **terms):
    return CaptionLoss(IMAGES, LossTerms(**terms))(network, embeddings, batch)[0]


def test_without_terms_the_objective_is_what_is_logged(small):
    network, embeddings = small
    batch = make_batch()
    loss, logged = CaptionLoss(IMAGES, LossTerms())(network, embeddings, batch)
    log_probs = network.decoder(embeddings[batch.owner], batch.tokens[:, :-1]).log_softmax(dim=2)
    targets = batch.tokens[:, 1:]
    per_token = -log_probs.gather(2, targets[:, :, None])[:, :, 0][targets != 0]
    assert loss.item() == pytest.approx(per_token.mean().item(), rel=1e-5)
    assert logged == {"train_loss": pytest.approx(loss.item(), rel=1e-5)}


@pytest.mark.parametrize("term", [field.name for field in fields(LossTerms)])
def test_each_term_changes_the_objective_and_not_what_is_logged(small, term):
    """With the term deleted from the loss nothing else would notice."""
    network, embeddings = small
    torch.manual_seed(0)
    plain = CaptionLoss(IMAGES, LossTerms())(network, embeddings, make_batch())
    loss, logged = CaptionLoss(IMAGES, LossTerms(**{term: 0.9}))(network, embeddings, make_batch())
    if term == "attention_penalty" and not network.decoder.has_attention:
        assert loss.item() == plain[0].item()
    else:
        assert loss.item() != pytest.approx(plain[0].item(), rel=1e-4)
    if term != "scheduled_sampling":  # whose inputs are others
        assert logged["train_loss"] == pytest.approx(plain[1]["train_loss"], rel=1e-5)


def test_class_emphasis_is_seeing_captions_that_name_the_class_more_often(small):
    """An emphasis of 2 equals a batch in which each of them stands three times."""
    network, embeddings = small
    emphasised = objective(network, embeddings, make_batch(), class_emphasis=2.0, label_smoothing=0.1)
    repeated = objective(network, embeddings, make_batch([0, 1, 2, 0, 1, 0, 1]), label_smoothing=0.1)
    assert emphasised.item() == pytest.approx(repeated.item(), rel=1e-5)


def test_the_class_loss_leaves_out_images_without_a_class(small):
    """Label -1: the loss is that of the other images; where no image of a batch has a class there is none."""
    network, embeddings = small
    plain = objective(network, embeddings, make_batch())
    one = objective(network, embeddings, make_batch(labels=(-1, 2)), class_loss=1.0)
    expected = F.cross_entropy(network.class_logits(embeddings)[1:], torch.tensor([2]))
    assert (one - plain).item() == pytest.approx(expected.item(), rel=1e-4)
    assert objective(network, embeddings, make_batch(labels=(-1, -1)), class_loss=1.0).item() == plain.item()


def train_on(network, embeddings, steps=150, **terms):
    """Train all but the embeddings on the batch of make_batch."""
    loss, optimizer = CaptionLoss(IMAGES, LossTerms(**terms)), torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network, embeddings, make_batch(labels=(2, 0)))[0].backward()
        optimizer.step()


def test_the_class_loss_trains_the_classifier(small):
    network, embeddings = small
    train_on(network, embeddings, class_loss=1.0)
    assert network.class_logits(embeddings).argmax(dim=1).tolist() == [2, 0]
    assert F.cross_entropy(network.class_logits(embeddings), torch.tensor([2, 0])).item() < 0.1


def test_the_word_loss_trains_the_word_detector(small):
    network, embeddings = small
    specials = network.word_detector.weight[:4].clone()
    train_on(network, embeddings, word_loss=1.0)
    assert (network.word_logits(embeddings)[:, 4:] > 0).tolist() == [[True, True, True, False]] * 2
    assert torch.equal(network.word_detector.weight[:4], specials)


def test_the_attention_penalty_evens_the_attention_out():
    penalties = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        network = CNNtoRNN(8, embed_size=6, hidden_size=7, decoder="attention", attention_size=5, dropout=0).eval()
        embeddings, batch = 3 * torch.randn(2, 4, 6), make_batch()
        train_on(network, embeddings, attention_penalty=weight)
        _, attention = network.decoder.attend(embeddings[batch.owner], batch.tokens[:, :-1])
        penalties[weight] = attention_penalty(attention, batch.tokens[:, 1:] != 0).item()
    assert penalties[10.0] < 0.1 * penalties[0.0]


def test_class_emphasis_decides_between_captions_that_contradict_each_other(small):
    """Of image 0's two captions, which begin with words 4 and 6, the emphasised one becomes the likelier."""
    network, embeddings = small
    batch = make_batch([0, 1])
    batch.names_class = torch.tensor([False, True])
    loss = CaptionLoss(IMAGES, LossTerms(class_emphasis=3.0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network, embeddings, batch)[0].backward()
        optimizer.step()
    first_word = network.decoder(embeddings[:1], torch.tensor([[1]]))[0, 0].softmax(dim=0)
    assert first_word[6].item() == pytest.approx(4 / 5, abs=0.03)  # a weight of 1 + 3 against 1
    assert first_word[4].item() == pytest.approx(1 / 5, abs=0.03)


def test_word_detection_by_hand():
    """Image 0 has words 4 and 5 over two captions, image 1 word 6; at logit 0 each of the 3 words costs log 2.

    <pad>, <start>, <end> and <unk> once counted as words that every image has.
    """
    words, images = image_words(Captions([[[1, 4, 5, 2], [1, 4, 3, 2]], [[1, 6, 6, 2]]])), torch.tensor([0, 1])
    assert [found.tolist() for found in words] == [[4, 5], [6]]
    assert word_detection_loss(torch.zeros(2, 7), words, images).item() == pytest.approx(3 * math.log(2))
    sure = torch.tensor([[9.0, -9, 9, -9, 50, 50, -50], [-9, 9, 9, 9, -50, -50, 50]])
    assert word_detection_loss(sure, words, images).item() == pytest.approx(0, abs=1e-6)
    assert word_detection_loss(-sure, words, images).item() == pytest.approx(3 * 50)
    assert word_detection_loss(sure.flip(0), words, images.flip(0)).item() == pytest.approx(0, abs=1e-6)


def test_with_one_caption_a_row_the_words_of_the_images_other_captions_are_present():
    """In stage 1 the words of an image's other captions once were its negatives."""
    captions = Captions([[[1, 4, 2], [1, 5, 2]], [[1, 6, 7, 2]]])
    batches = CachedBatches(torch.randn(2, 1, 1280), captions, torch.zeros(2).long(), 1, by_caption=True)
    network = CNNtoRNN(8, 0, True, embed_size=6, hidden_size=7).eval()
    loss = CaptionLoss(captions, LossTerms(word_loss=1.0))
    for batch in batches.epoch(0):
        embeddings = torch.randn(1, 6)
        network.word_detector.weight.data.zero_()
        network.word_detector.bias.data = torch.tensor(
            [0.0] * 4 + ([50.0, 50, -50, -50], [-50.0, -50, 50, 50])[batch.index]
        )
        value, logged = loss(network, embeddings, batch)
        assert value.item() == pytest.approx(logged["train_loss"], rel=1e-5)

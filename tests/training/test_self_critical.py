"""Self-critical training: the loss against a loop by hand, and that it teaches what is rewarded."""

from types import SimpleNamespace

import pytest
import torch

from captioning.scores.metrics import cider_d
from captioning.search.beam import SamplingOptions, beam_search, sample
from captioning.search.options import SearchOptions
from captioning.training.losses import SelfCritical
from model import CNNtoRNN

VOCABULARY = SimpleNamespace(pad_id=0, start_id=1, end_id=2, unk_id=3)
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


def test_loss_equals_a_loop_by_hand(model):
    """Rewards, baseline, <end> and the mean over words, for several samples of several images in another order."""
    embeddings, images = torch.randn(2, 8), torch.tensor([2, 0])
    critic = SelfCritical(CAPTIONS, VOCABULARY, num_samples=3, max_len=6)
    torch.manual_seed(5)
    loss, reward = critic.loss(model, embeddings, images)

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
        baseline = score([*said, 2] if len(said) < 6 else said, image)
        for number in range(3):
            length = int(drawn.lengths[row, number])
            ids = drawn.tokens[row, number, :length].tolist()
            rewards.append(score(ids, image))
            total += (rewards[-1] - baseline) * float(drawn.log_probs[row, number, :length].sum())
            words += length
    assert loss.item() == pytest.approx(-total / words, rel=1e-4)
    assert reward == pytest.approx(sum(rewards) / len(rewards))


def test_naming_the_images_class_is_rewarded():
    """Word 5 names class 0 and word 6 class 1; image 1 has no class, so a caption that names none earns nothing."""

    def named(ids):
        return next((word - 5 for word in ids if word in (5, 6)), -1)

    options = {"num_samples": 1, "max_len": 6}
    plain = SelfCritical(CAPTIONS, VOCABULARY, **options)
    labels = torch.tensor([0, -1, 1])
    critic = SelfCritical(CAPTIONS, VOCABULARY, **options, class_reward=3, named=named, labels=labels)
    said, images = [[4, 5, 2], [5, 6, 2], [6, 2], [4, 2], [7, 8, 2]], [0, 2, 2, 0, 1]
    assert (critic.reward(said, images) - plain.reward(said, images)).tolist() == [3, 0, 3, 0, 0]


def test_training_on_it_raises_the_reward_of_greedy_captions(model):
    """A sign error would lower it."""
    embeddings, images = torch.eye(3, 8) * 4, torch.arange(3)
    critic = SelfCritical(CAPTIONS, VOCABULARY, num_samples=8, max_len=6)
    references = [[ids[1:].tolist() for ids in group] for group in CAPTIONS]

    def greedy_score():
        state = model.decoder.start(embeddings)
        found = beam_search(model.decoder.step, state, SearchOptions(1, max_len=6), **SPECIAL)
        return cider_d([[*row[0].ids, 2] for row in found], references)[0]

    before, optimizer = greedy_score(), torch.optim.Adam(model.decoder.parameters(), lr=0.01)
    for _ in range(120):
        loss, _ = critic.loss(model, embeddings, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert greedy_score() > before + 2

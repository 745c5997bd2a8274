"""The losses of training: cross-entropy with auxiliary terms, and self-critical training.

A loss is called with (model, embeddings, batch), a CNNtoRNN, its image embeddings (B, E) or (B, P, E) with gradient and
a Batch on the same device. It returns (the objective to minimise, {name: what is logged}); every loss logs
"train_loss", the plain cross-entropy of the reference captions in nats per token.

Where several ranks train, each calls its loss with its own rows of the batch. The objectives of all ranks add up to
that of the whole batch; what is logged is of the whole batch, on all ranks.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

from captioning.data.sequences import NUM_SPECIALS, PAD_ID, Sequences
from captioning.runtime import share_of_mean, shared_draws, total
from captioning.scores.metrics import CiderD
from captioning.search.beam import beam_search, sample
from captioning.search.options import SearchOptions

# ---- cross-entropy -------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossTerms:
    """What a CaptionLoss is made of beside the cross-entropy; named as in train.CONFIG, 0 = without."""

    label_smoothing: float = 0.0
    scheduled_sampling: float = 0.0
    attention_penalty: float = 0.0
    class_emphasis: float = 0.0
    class_loss: float = 0.0
    word_loss: float = 0.0


class CaptionLoss:
    """Cross-entropy of the reference captions under teacher forcing, and the auxiliary terms.

    captions: Captions of the images that `batch.index` points into
    terms:    LossTerms
    """

    def __init__(self, captions, terms):
        self.terms = terms
        self.words = image_words(captions) if terms.word_loss else None

    def __call__(self, model, embeddings, batch):
        """Return (objective, {"train_loss"}), see the module's docstring."""
        terms = self.terms
        inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]  # (M, T)
        images = embeddings[batch.owner]  # (M, E)
        penalty = 0.0
        with shared_draws(inputs.shape, inputs.device):
            if terms.scheduled_sampling:
                with torch.no_grad():
                    guesses = model.decoder(images, inputs)
                inputs = mix_guesses(guesses, inputs, terms.scheduled_sampling)
            if model.decoder.has_attention:
                logits, attention = model.decoder.attend(images, inputs)
                penalty = terms.attention_penalty * attention_penalty(attention, targets != PAD_ID)
            else:
                logits = model.decoder(images, inputs)
        weights = 1 + terms.class_emphasis * batch.names_class.float() if terms.class_emphasis else None  # (M,)
        objective = cross_entropy(logits, targets, weights, terms.label_smoothing) + penalty
        num_labels = (batch.labels >= 0).sum()
        if terms.class_loss and total(num_labels):
            classes = in_full(model.class_logits(embeddings))  # (B, C)
            mean = F.cross_entropy(classes, batch.labels, ignore_index=-1)
            objective = objective + terms.class_loss * share_of_mean(mean, num_labels)
        if terms.word_loss:
            detected = in_full(model.word_logits(embeddings))  # (B, V)
            objective = objective + terms.word_loss * word_detection_loss(detected, self.words, batch.index)
        return objective, {"train_loss": total(cross_entropy(logits.detach(), targets)).item()}


def in_full(logits):
    """Return logits in float32 or more: autocast may have made them less."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(logits, targets, weights=None, label_smoothing=0.0):
    """Return the mean cross-entropy of the tokens in nats, padding left out; of several ranks, this one's part of it.

    logits: (M, T, V); targets: (M, T); weights: (M,) of the captions, None = all alike
    """
    logits, flat = in_full(logits.flatten(0, 1)), targets.flatten()
    smoothing = {"ignore_index": PAD_ID, "label_smoothing": label_smoothing}
    if weights is None:
        return share_of_mean(F.cross_entropy(logits, flat, **smoothing), (flat != PAD_ID).sum())
    weights = weights.repeat_interleave(targets.shape[1]) * (flat != PAD_ID)  # (M * T,)
    return (F.cross_entropy(logits, flat, reduction="none", **smoothing) * weights).sum() / total(weights.sum())


@torch.no_grad()
def mix_guesses(logits, tokens, share):
    """Scheduled sampling: replace a share of the input words by the model's own guesses.

    logits: (M, T, V) on `tokens` (M, T); <start> and <pad> stay
    Source: Bengio et al. 2015 (arXiv:1506.03099), all words at once as Mihaylova and Martins 2019 (arXiv:1906.07651).
    """
    guesses = torch.cat([tokens[:, :1], logits[:, :-1].argmax(dim=2)], dim=1)
    replaced = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens != PAD_ID)
    return torch.where(replaced, guesses, tokens)


def attention_penalty(attention, mask):
    """Return the mean over captions and positions of (1 - P * mean weight over the words)^2; uniform attention gives 0.

    attention: (M, T, P) attention weights; mask: (M, T), True = a word

    Source: the "doubly stochastic" term of Xu et al. 2015, equation 14. Here the sum over positions is a mean, and the
    sum over words is divided by their number and multiplied by P, so that neither the size of the grid nor the length
    of a caption changes the target.
    """
    mask = mask.to(attention.dtype)
    share = (attention * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (M, P), sums to 1
    return share_of_mean(((1 - share * share.shape[1]) ** 2).mean(), len(share))


def image_words(captions):
    """Return, as Sequences, the ids of the different words in all captions of each image; specials are no words."""
    ids = captions.ids
    bounds = ids.starts[captions.starts]  # where the tokens of each image begin
    words = (np.unique(ids.values[begin:end]) for begin, end in pairwise(bounds))
    return Sequences(found[found >= NUM_SPECIALS].tolist() for found in words)


def word_detection_loss(logits, words, images):
    """Return the binary cross-entropy of detecting the words of images, summed over words, mean over images.

    logits: (B, V); the columns of specials, <unk> among them, count for nothing
    words:  `image_words` of N images; images: (B,) long, which of them the rows of `logits` are

    A word counts as present if any caption of the image has it, whether or not that caption is in the batch.
    """
    present = torch.from_numpy(words.padded(images.cpu().numpy(), PAD_ID)).to(logits.device)  # (B, words), padded
    target = torch.zeros_like(logits).scatter_(1, present, 1.0)
    logits, target = logits[:, NUM_SPECIALS:], target[:, NUM_SPECIALS:]  # without <pad> of the padding, too
    summed = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return share_of_mean(summed / max(1, len(logits)), len(logits))


# ---- self-critical -------------------------------------------------------------------------------

BASELINES = ("greedy", "samples")


def check_baseline(baseline, num_samples):
    """Raise ValueError for a baseline of self-critical training that is unknown, or needs more samples of an image."""
    if baseline not in BASELINES:
        raise ValueError(f"--train.self_critical_baseline: got {baseline!r}, allowed are {', '.join(BASELINES)}")
    if baseline == "samples" and num_samples < 2:
        raise ValueError(f"--train.self_critical_samples: got {num_samples}, baseline samples needs 2 or more")


class SelfCritical:
    """The loss of self-critical training on N images: reward = CIDEr-D(sample) - CIDEr-D(baseline).

    captions:     for each image the token ids of its references, <start> ... <end>
    vocabulary:   its start_id, end_id and banned
    sampling:     SamplingOptions: captions drawn for each image, their longest, the vocabulary's pieces
    baseline:     greedy: the greedy caption of the image; samples: the mean of the image's other samples
    class_reward: added to the CIDEr-D of a caption that names the class of its image
    class_of:     ids of a caption, a tuple -> the class that it names, -1 = none; with class_reward
    labels:       (N,) long, the classes of the images, -1 = none; with class_reward

    Cross-entropy trains the next word after the reference's words; this trains the score of whole captions that the
    model generates. References and samples keep their <end>, else a caption that breaks off would lose nothing.
    CIDEr-D alone favours captions that fit many similar images over the word that tells their class, which
    class_reward can balance; Luo et al. 2018 (arXiv:1803.04376) add a reward for telling images apart.

    Source: Rennie et al. 2017 (arXiv:1612.00563), equations 6 to 8; the baseline of samples: Luo 2020
    (arXiv:2003.09971).
    Raises ValueError for another baseline, and for a baseline of the other samples where there is one sample.
    """

    def __init__(
        self, captions, vocabulary, sampling, *, baseline="greedy", class_reward=0.0, class_of=None, labels=None
    ):  # fmt: skip
        check_baseline(baseline, sampling.num_samples)
        self.pieces = sampling.pieces
        self.cider_d = CiderD([[self.words(ids[1:].tolist()) for ids in group] for group in captions])
        self.class_reward, self.class_of, self.labels = class_reward, class_of, labels
        self.baseline, self.sampling = baseline, sampling
        self.greedy = SearchOptions(beam_size=1, max_len=sampling.max_len, pieces=self.pieces)
        self.special = {"start": vocabulary.start_id, "end": vocabulary.end_id, "banned": vocabulary.banned}

    def __call__(self, model, embeddings, batch):
        """Return (objective, {"train_loss", "reward": mean reward of the samples, baseline not subtracted})."""
        objective, reward = self.policy_gradient(model, embeddings, batch.index)
        with torch.no_grad():
            logits = model.decoder(embeddings[batch.owner], batch.tokens[:, :-1])
        return objective, {"train_loss": total(cross_entropy(logits, batch.tokens[:, 1:])).item(), "reward": reward}

    def policy_gradient(self, model, embeddings, images):
        """Return (policy-gradient loss, mean reward of the samples).

        model:      without dropout, which would make the sampled and the trained policy differ
        embeddings: (B, E), with gradient; images: (B,) positions of the images among the N
        """
        decoder, num_samples, indices = model.decoder, self.sampling.num_samples, images.tolist()
        state = tuple(part.detach() for part in decoder.start(embeddings))
        with torch.no_grad():
            step = decoder.make_step()
        with shared_draws((len(images) * num_samples,), embeddings.device):
            drawn = sample(step, state, self.sampling, **self.special)
        tokens, lengths = drawn.tokens.flatten(0, 1), drawn.lengths.flatten()  # (B*S, T), (B*S,)
        sampled = [ids[:length] for ids, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        reward = self.reward(sampled, [i for i in indices for _ in range(num_samples)])
        if self.baseline == "greedy":
            baseline = self.reward(self.greedy_captions(step, state), indices).repeat(num_samples)
        else:
            by_image = reward.reshape(-1, num_samples)
            baseline = ((by_image.sum(axis=1, keepdims=True) - by_image) / (num_samples - 1)).ravel()

        begin = torch.full_like(tokens[:, :1], self.special["start"])
        logits = decoder(embeddings.repeat_interleave(num_samples, dim=0), torch.cat([begin, tokens[:, :-1]], dim=1))
        log_probs = -F.cross_entropy(in_full(logits.transpose(1, 2)), tokens, reduction="none")  # (B*S, T)
        advantage = torch.from_numpy(reward - baseline).to(embeddings.device, log_probs.dtype)  # (B*S,)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        mean = share_of_mean(torch.tensor(reward.mean() if len(reward) else 0.0), len(reward))
        return -(advantage[:, None] * log_probs * mask).sum() / total(mask.sum()), total(mean).item()

    def words(self, ids):
        """Return token ids, <end> among them, as what CIDEr-D counts."""
        return self.pieces.words(ids) if self.pieces else ids

    def greedy_captions(self, step, state):
        """Return the ids of each row's greedy caption, with <end> unless it was cut at max_len."""
        found = [hypotheses[0].ids for hypotheses in beam_search(step, state, self.greedy, **self.special)]
        return [[*ids, self.special["end"]] if len(ids) < self.greedy.max_tokens else ids for ids in found]

    def reward(self, sequences, images):
        """Return the rewards (M,) of M captions as ids, <end> included; images: the position of each one's image."""
        reward = self.cider_d.score([self.words(ids) for ids in sequences], images)
        if self.class_reward:
            named, labels = np.array([self.class_of(tuple(ids)) for ids in sequences]), self.labels[images].numpy()
            reward = reward + self.class_reward * ((named == labels) & (labels >= 0))
        return reward

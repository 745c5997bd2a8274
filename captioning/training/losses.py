"""Self-critical training: a caption is worth by how much its CIDEr-D beats that of the model's own greedy caption.

The cross-entropy teaches one word after another on the references' words; this trains what is measured, whole captions
that the model says by itself. Source: Rennie et al. 2017 (arXiv:1612.00563), equations 6 to 8.

CIDEr-D alone drives captions towards what fits many images of a kind, and away from the word that tells their class.
Where the data have classes, naming the image's own can be worth something too, as Luo et al. 2018 (arXiv:1803.04376)
add a reward for telling images apart.
"""

import numpy as np
import torch
from torch.nn import functional as F

from captioning.data.sequences import PAD_ID
from captioning.scores.metrics import CiderD
from captioning.search.beam import SamplingOptions, beam_search, sample
from captioning.search.options import SearchOptions


class SelfCritical:
    """The loss of self-critical training on N images.

    captions:     for each image the token ids of its references, <start> ... <end>
    num_samples:  captions drawn for each image
    max_len:      tokens of the longest caption, <end> included
    vocabulary:   its start_id, end_id, pad_id and unk_id
    class_reward: what is added to the CIDEr-D of a caption that names its image's class
    named:        of grounding.remember_named; with class_reward
    labels:       (N,) long, the classes of the images, -1 = none; with class_reward

    References and samples keep their <end>: without it a caption that breaks off is never punished.
    """

    def __init__(self, captions, vocabulary, *, num_samples, max_len, class_reward=0.0, named=None, labels=None):
        self.cider_d = CiderD([[ids[1:].tolist() for ids in group] for group in captions])
        self.class_reward, self.named, self.labels = class_reward, named, labels
        self.sampling = SamplingOptions(num_samples=num_samples, max_len=max_len)
        self.greedy = SearchOptions(beam_size=1, max_len=max_len)
        banned = (vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id)
        self.special = {"start": vocabulary.start_id, "end": vocabulary.end_id, "banned": banned}

    def reward(self, sequences, images):
        """Return the rewards (M,) of M captions as ids, <end> included; images: the position of each one's image."""
        reward = self.cider_d.score(sequences, images)
        if self.class_reward:
            named, labels = np.array([self.named(tuple(ids)) for ids in sequences]), self.labels[images].numpy()
            reward = reward + self.class_reward * ((named == labels) & (labels >= 0))
        return reward

    def loss(self, model, embeddings, images):
        """Return (policy-gradient loss, mean reward of the samples).

        model:      a CNNtoRNN without dropout, which would make the sampled and the trained policy differ
        embeddings: (B, E), with gradient; images: (B,) positions of the images among the N
        """
        decoder, end, indices = model.decoder, self.special["end"], images.tolist()
        state = tuple(part.detach() for part in decoder.start(embeddings))
        with torch.no_grad():
            step = decoder.make_step()
        drawn = sample(step, state, self.sampling, **self.special)
        tokens, lengths = drawn.tokens.flatten(0, 1), drawn.lengths.flatten()  # (B*S, T), (B*S,)
        num_samples = self.sampling.num_samples
        sequences = [ids[:length] for ids, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        reward = self.reward(sequences, [i for i in indices for _ in range(num_samples)])
        greedy = [found[0].ids for found in beam_search(step, state, self.greedy, **self.special)]
        greedy = [[*ids, end] if len(ids) < self.greedy.max_len else ids for ids in greedy]
        baseline = self.reward(greedy, indices).repeat(num_samples)
        advantage = torch.from_numpy(reward - baseline).float().to(embeddings.device)  # (B*S,)

        begin = torch.full_like(tokens[:, :1], self.special["start"])
        logits = decoder(embeddings.repeat_interleave(num_samples, dim=0), torch.cat([begin, tokens[:, :-1]], dim=1))
        log_probs = -F.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")  # (B*S, T)
        said = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return -(advantage[:, None] * log_probs * said).sum() / said.sum(), float(reward.mean())


def word_detection_loss(logits, tokens, owner):
    """Return the binary cross-entropy of detecting each image's words, summed over words, mean over images.

    logits: (B, V); tokens: (M, T); owner: (M,) the image of each caption
    """
    present = torch.zeros_like(logits)
    present[owner[:, None].expand_as(tokens), tokens] = 1.0
    return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / len(logits)


@torch.no_grad()
def mix_guesses(logits, tokens, share):
    """Replace a share of the input words by what the model guessed in their place: scheduled sampling.

    logits: (M, T, V) on `tokens` (M, T); <start> and <pad> stay
    Source: Bengio et al. 2015 (arXiv:1506.03099), all words at once as Mihaylova and Martins 2019 (arXiv:1906.07651).
    """
    guesses = torch.cat([tokens[:, :1], logits[:, :-1].argmax(dim=2)], dim=1)
    replaced = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens != PAD_ID)
    return torch.where(replaced, guesses, tokens)


def attention_penalty(attention, mask):
    """Return the mean over captions and places of (1 - what the place got over all words)^2, 0 if all got as much.

    attention: (M, T, P); mask: (M, T), True = a word

    Source: the "doubly stochastic" term of Xu et al. 2015, equation 14, whose sum over places is a mean here, and
    whose 1 is a caption's number of words over P, so that neither the grid nor the length changes what is asked for.
    """
    mask = mask.to(attention.dtype)
    share = (attention * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (M, P), sums to 1
    return ((1 - share * share.shape[1]) ** 2).mean()

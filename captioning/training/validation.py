"""The scores of a model on the validation split, after every epoch."""

import itertools
from dataclasses import dataclass, replace
from functools import partial

import torch

from captioning.data.tokenizer import tokenize
from captioning.evaluation import decode_embeddings, teacher_forced
from captioning.runtime import from_first
from captioning.scores.grounding import Grounder
from captioning.scores.recipes import caption_scores
from captioning.scores.variety import commonest
from captioning.search.options import SearchOptions

LENGTH_PENALTIES = (0.7, 0.0, 1.0, 1.5, 2.0)  # what choose_decoding tries, the default first
CONSENSUS = (0.6, 0.0, 0.3)
DECODED_IMAGES = 500


@dataclass(frozen=True)
class Validation:
    """Scores a model on the validation split, decoding freely.

    vocabulary:     Vocabulary
    grounder:       Grounder of the classes, None = data without classes
    decoding:       SearchOptions
    class_reward:   as in CONFIG; an epoch is then judged by val_reward = cider_d + class_reward * class_accuracy
    by_loss:        judge an epoch by val_loss instead, since there are too few images for scores of captions
    """

    vocabulary: object
    grounder: Grounder | None
    decoding: SearchOptions
    class_reward: float = 0.0
    by_loss: bool = False

    @property
    def metric(self):
        """The score by which the best epoch is chosen."""
        return "val_loss" if self.by_loss else "val_reward" if self.class_reward else "cider_d"

    def __call__(self, model, embeddings, examples):
        """Score captions of image embeddings (N, E) or (N, P, E).

        All ranks call it; they share the decoding, and score once.

        returns: {"val_loss", "token_accuracy", "bleu4", "cider_d", "commonest"}, with classes "class_accuracy", with
                 class_reward "val_reward"; commonest is the share of the caption that is said most often, 0..1
        """
        tokens = [[torch.tensor(self.vocabulary.encode(text)) for text in e.captions] for e in examples]
        forced = teacher_forced(model, embeddings, tokens, self.vocabulary.pad_id)
        captions = self.caption(model, embeddings)
        return from_first(partial(self.score, captions, examples, forced))

    def score(self, captions, examples, forced):
        """Return the scores of captions; forced: of evaluation.teacher_forced."""
        unit = self.vocabulary.unit
        references = [[tokenize(text, unit) for text in example.captions] for example in examples]
        scores = caption_scores([self.vocabulary.words(caption) for caption in captions], references)
        result = {"val_loss": forced["loss"], "token_accuracy": forced["token_accuracy"]}
        result |= {"bleu4": scores["bleu4"], "cider_d": scores["cider_d"], "commonest": commonest(captions)[1]}
        # An image without a class is neither right nor wrong.
        pairs = [(caption, e.label) for caption, e in zip(captions, examples, strict=True) if e.label]
        if self.grounder and pairs:
            named = sum(self.grounder.name(caption) == label for caption, label in pairs)
            result["class_accuracy"] = named / len(pairs)
        if self.class_reward:
            reward = self.class_reward * result.get("class_accuracy", 0.0)
            result["val_reward"] = result["cider_d"] + reward
        return result

    def choose_decoding(self, model, embeddings, examples):
        """Return the {"length_penalty", "consensus"} with which beam search scores best on (a part of) the split.

        At most DECODED_IMAGES images are captioned, evenly spread; an epoch's own score decides, and where two tie the
        default stays. With `by_loss` nothing is chosen: {}.
        """
        if self.by_loss:
            return {}
        rows = torch.linspace(0, len(examples) - 1, min(len(examples), DECODED_IMAGES)).long()
        embeddings, examples = embeddings[rows], [examples[row] for row in rows.tolist()]
        default = SearchOptions(beam_size=max(self.decoding.beam_size, SearchOptions.beam_size))
        best, chosen = -float("inf"), default
        for penalty, consensus in itertools.product(LENGTH_PENALTIES, CONSENSUS):
            options = replace(default, length_penalty=penalty, consensus=consensus, max_len=self.decoding.max_len)
            score = replace(self, decoding=options)(model, embeddings, examples)[self.metric]
            if score > best:
                best, chosen = score, options
        return {"length_penalty": chosen.length_penalty, "consensus": chosen.consensus}

    def caption(self, model, embeddings):
        """Return the captions of image embeddings (N, E) or (N, P, E)."""
        return [text for text, _ in decode_embeddings(model, embeddings, self.vocabulary, self.decoding)]

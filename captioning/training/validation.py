"""The scores of a model on the validation split, after every epoch."""

from dataclasses import dataclass

import torch

from captioning.data.tokenizer import tokenize
from captioning.evaluation import decode_embeddings, teacher_forced
from captioning.scores.grounding import Grounder
from captioning.scores.recipes import caption_scores
from captioning.search.options import SearchOptions


@dataclass(frozen=True)
class Validation:
    """Scores a model on the validation split, decoding freely.

    vocabulary:     Vocabulary
    grounder:       Grounder of the classes, None = data without classes
    decoding:       SearchOptions
    caption_metric: cider_d | bleu4
    class_reward:   as in CONFIG; an epoch is then judged by val_reward = caption_metric + class_reward * class_accuracy
    """

    vocabulary: object
    grounder: Grounder | None
    decoding: SearchOptions
    caption_metric: str = "cider_d"
    class_reward: float = 0.0

    @property
    def metric(self):
        """The score by which the best epoch is chosen."""
        return "val_reward" if self.class_reward else self.caption_metric

    def __call__(self, model, embeddings, examples):
        """Score captions of image embeddings (N, E).

        returns: {"val_loss", "token_accuracy", "bleu4", "cider_d"}, with classes "class_accuracy", with class_reward
                 "val_reward"
        """
        tokens = [[torch.tensor(self.vocabulary.encode(text)) for text in e.captions] for e in examples]
        forced = teacher_forced(model, embeddings, tokens, self.vocabulary.pad_id)
        captions = [text for text, _ in decode_embeddings(model, embeddings, self.vocabulary, self.decoding)]
        references = [[tokenize(text) for text in example.captions] for example in examples]
        scores = caption_scores([caption.split() for caption in captions], references)
        result = {"val_loss": forced["loss"], "token_accuracy": forced["token_accuracy"]}
        result |= {"bleu4": scores["bleu4"], "cider_d": scores["cider_d"]}
        # An image without a class is neither right nor wrong.
        pairs = [(caption, e.label) for caption, e in zip(captions, examples, strict=True) if e.label]
        if self.grounder and pairs:
            named = sum(self.grounder.name(caption) == label for caption, label in pairs)
            result["class_accuracy"] = named / len(pairs)
        if self.class_reward:
            reward = self.class_reward * result.get("class_accuracy", 0.0)
            result["val_reward"] = result[self.caption_metric] + reward
        return result

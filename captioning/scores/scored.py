"""Captions with all that their scores are made of: the one value that every table and sentence of a report reads."""

from dataclasses import dataclass

from captioning.data.tokenizer import Tokens, split_text
from captioning.scores.bootstrap import Counts, count


@dataclass(frozen=True)
class Scored:
    """N captions with their references: tokenised once, their n-grams counted once, their class names found once.

    predictions:        evaluation.Prediction of each image
    hypotheses:         the token list of each caption
    references:         the token lists of each image's references
    has_classes:        False: data without classes, and what is about classes below is empty
    mentions:           Mentions of each caption
    reference_mentions: Mentions of each reference of each image
    said_by_name:       the class that each caption names first without the help of aliases; [] where there are none
    num_others:         how many classes beyond the data's a caption may name, those that the model knows
    counts:             what the scores are made of
    unit:               words | characters, what a token is
    """

    predictions: list
    hypotheses: list
    references: list
    has_classes: bool
    mentions: list
    reference_mentions: list
    said_by_name: list
    num_others: int
    counts: Counts
    unit: str

    @property
    def examples(self):
        """The Example of each caption."""
        return [prediction.example for prediction in self.predictions]

    @property
    def labels(self):
        """The true class of each image, "" = none."""
        return [prediction.example.label for prediction in self.predictions]

    @property
    def said(self):
        """The class that each caption names first, "" = none."""
        return [mentions.first for mentions in self.mentions]

    @property
    def reference_said(self):
        """The class that each reference of each image names first, "" = none."""
        return [[mentions.first for mentions in group] for group in self.reference_mentions]

    @property
    def labelled(self):
        """The positions of the images that have a class."""
        return [row for row, label in enumerate(self.labels) if label]


def score(predictions, grounder=None, name_grounder=None, tokens=None):
    """Return predictions as Scored.

    grounder:      Grounder over the classes; None = data without classes
    name_grounder: one without the aliases, where `grounder` has some
    tokens:        Tokens of captions that were tokenised already; its unit is what the scores count
    """
    tokens = Tokens() if tokens is None else tokens
    hypotheses = [split_text(prediction.caption, tokens.unit) for prediction in predictions]
    texts = [prediction.example.captions for prediction in predictions]
    references = [[tokens[text] for text in group] for group in texts]
    mentions, reference_mentions, said_by_name = [], [], []
    labels = said = None
    if grounder:
        captions = [prediction.caption for prediction in predictions]
        mentions = [grounder.read(text, words) for text, words in zip(captions, hypotheses, strict=True)]
        reference_mentions = [[grounder.read(text, tokens[text]) for text in group] for group in texts]
        labels, said = [p.example.label for p in predictions], [found.first for found in mentions]
        if name_grounder:
            read = zip(captions, hypotheses, strict=True)
            said_by_name = [name_grounder.read(text, words).first for text, words in read]
    classes = sorted({*(labels or ()), *(said or ())} - {""})
    counts = count(hypotheses, references, classes, labels, said)
    return Scored(
        predictions,
        hypotheses,
        references,
        has_classes=bool(grounder),
        mentions=mentions,
        reference_mentions=reference_mentions,
        said_by_name=said_by_name,
        num_others=grounder.num_others if grounder else 0,
        counts=counts,
        unit=tokens.unit,
    )

"""Hand-made predictions and the tables, texts and Markdown of the report on them."""

import string
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from captioning.data.annotations import Dataset, Example
from captioning.evaluation import Prediction
from captioning.report import document, provenance, sections, sentences, yardsticks
from captioning.report import tables as report
from captioning.scores.grounding import build_grounders
from captioning.scores.scored import Scored, score
from captioning.search.options import SearchOptions


def predict(label, caption, *references, name="1.jpg", root="data"):
    example = Example(Path(root, "val", label, name), list(references), label, "val")
    return Prediction(example, caption, -1.5)


HAND_MADE = [
    predict("cat", "a cat on a mat", "A cat on a mat.", "a cat"),
    predict("cat", "a dog on a mat", "a cat on a rug", name="2.jpg"),
    predict("dog", "a dog in the sun", "a dog in the sun"),
    predict("dog", "", "one dog", name="2.jpg"),
]


class Study(NamedTuple):
    """The tables of a report on some predictions, and what they are made of."""

    tables: dict
    subject: report.Subject
    scored: Scored

    def texts(self, skipped=None):
        return sentences.build_texts(
            *self, skipped=skipped or {}, about_yardsticks=[], about_memory="", about_data=["one line about the data"]
        )

    def notes(self, **more):
        return sentences.reservations(*self, **more)


def study(predictions, classes=("cat", "dog"), aliases=None, *, probed=None, java=None, words=("a",)):
    """Score predictions and build their tables; `words` is the model's vocabulary."""
    scored = score(predictions, *build_grounders(classes, [], aliases or {}))
    dataset = Dataset("data", Path("data"), {"val": [p.example for p in predictions]}, aliases or {})
    subject = report.Subject("mobile", dataset, "val", SearchOptions(), frozenset(words), list(classes))
    rows = yardsticks.yardstick_rows(scored, probed, [])
    return Study(report.build_tables(scored, subject, probed=probed, yardsticks=rows, java=java), subject, scored)


def build(predictions, *args, **more):
    return study(predictions, *args, **more).tables


def many_classes(number, images=5):
    """Classes c00, c01, ..., whose captions share more and more words with their references."""
    letters = list(string.ascii_lowercase)
    predictions = []
    for index in range(number):
        shared = letters[: 4 + index % 20]
        caption = " ".join([*shared, *["z"] * (24 - len(shared))])
        for image in range(images):
            predictions.append(predict(f"c{index:02}", caption, " ".join(letters[:24]), name=f"{image}.jpg"))
    return predictions


def repeated(predictions, times=5):
    """The same predictions for several images."""
    return [
        replace(one, example=replace(one.example, image=one.example.image.with_name(f"{time}_{number}.jpg")))
        for time in range(times)
        for number, one in enumerate(predictions)
    ]


CANNON = [  # no caption names the cannon, whose references hardly do either; they are perfect otherwise
    *(predict("cannon", "an old gun on wheels", "an old gun on wheels", "a gun", name=f"{n}.jpg") for n in range(9)),
    predict("cannon", "an old gun on wheels", "an old gun on wheels", "a cannon", name="9.jpg"),
    *(predict("dog", "one brown dog in the sun", "a dog in the sun", "a brown dog", name=f"{n}.jpg") for n in range(9)),
    predict("dog", "one brown dog in the cannon", "a dog in the sun", "a brown dog", name="9.jpg"),
]


def provenance_of(studied):
    """The provenance of a report by a model without a file."""
    return provenance.build_provenance(studied.subject, [], torch.device("cpu"), {"captioning": 1.25})


def text_of(studied):
    galleries = sections.build_galleries(studied.tables, [Path("1.jpg")] * len(studied.tables["images"]))
    parts = sections.build_sections(studied.tables, studied.texts(), galleries, provenance_of(studied))
    return document.markdown("mobile on data", [*parts, sections.file_section(sections.FILES)])

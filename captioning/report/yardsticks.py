"""The baselines of the captions: of what they say, and as a classifier.

The caption of the most similar train image measures how much of a score is memory. The majority class is the floor of
the classifiers. A logistic regression on the encoder's features measures what the encoder separates, without the
decoder. ImageNet's own classifier was not trained on this data.
"""

import random
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision import models

from captioning.checkpoint import load_state_dict, load_weights
from captioning.cli import counted
from captioning.evaluation import Prediction
from captioning.report.tables import METRICS
from captioning.scores.bootstrap import paired_differences
from captioning.search.consensus import closeness

IMAGENET_SIZE = 224  # pixels a side that the weights were trained at
NETWORKS = {"mobilenet_v2": models.MobileNet_V2_Weights, "resnet18": models.ResNet18_Weights}


def majority_class(labels):
    """Return the most frequent class of a list, the first by name of equally frequent ones; "" counts for nothing."""
    counts = Counter(label for label in labels if label)
    return min(counts, key=lambda label: (-counts[label], label)) if counts else ""


def draw_per_class(examples, most, seed=0):
    """Return at most `most` examples of each class, drawn at random, in order of class; without a class none."""
    groups = defaultdict(list)
    for example in examples:
        if example.label:
            groups[example.label].append(example)
    generator = random.Random(seed)
    return [
        example
        for label in sorted(groups)
        for example in generator.sample(groups[label], min(most, len(groups[label])))
    ]


def linear_probe(train_features, train_labels, features):
    """Name the class of each feature vector by a logistic regression on standardised features.

    train_features: (M, D) float tensor, train_labels: M class names; features: (N, D)
    returns:        N class names; the only class there is, where train has one
    """
    if len(set(train_labels)) == 1:
        return [train_labels[0]] * len(features)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy has settled long before the weights
        probe.fit(train_features.numpy(), train_labels)
    return probe.predict(features.numpy()).tolist()


def probe_classes(encode, train, examples):
    """Return the class of each example by a plain classifier on the encoder's features; "" = its image is unreadable.

    encode: function (paths, what the progress bar says) -> ((R,) positions of the readable images, (R, D) features)
    train:  examples with a class, from which the classifier learns
    """
    kept, features = encode([example.image for example in train], "features of train")
    labels = [train[row].label for row in kept.tolist()]
    rows, found = encode([example.image for example in examples], "features of the split")
    probed = [""] * len(examples)
    for row, label in zip(rows.tolist(), linear_probe(features, labels, found), strict=True):
        probed[row] = label
    return probed


class Features:
    """The features of images, each computed once: called as the function `encode` of probe_classes."""

    def __init__(self, encode):
        self.encode, self.known = encode, {}  # path -> (D,) features, None = unreadable

    def __call__(self, paths, bar):
        new = [path for path in dict.fromkeys(paths) if path not in self.known]
        if new:
            kept, rows = self.encode(new, bar)
            self.known |= dict.fromkeys(new) | {new[place]: row for place, row in zip(kept.tolist(), rows, strict=True)}
        kept = [place for place, path in enumerate(paths) if self.known[path] is not None]
        return torch.tensor(kept), torch.stack([self.known[paths[place]] for place in kept])


# ---- the nearest caption ---------------------------------------------------------------------------------


def draw_neighbors(train, first, most, seed=0):
    """Return `first`, examples of train, and others drawn at random until there are `most`, if train has so many."""
    chosen = {example.image for example in first}
    others = [example for example in train if example.image not in chosen]
    more = max(0, min(most - len(first), len(others)))
    return [*first, *random.Random(seed).sample(others, more)]


def nearest_captions(encode, train, examples, tokens):
    """Caption examples by the train image whose features have the largest cosine with theirs: a Prediction of each.

    encode: as in probe_classes; train: examples with captions; tokens: Tokens

    Of its captions the one is taken that agrees most with the others.
    Source: after Devlin et al. 2015 (arXiv:1505.04467), with one neighbour.
    """
    kept, features = encode([example.image for example in train], "features of train")
    rows, found = encode([example.image for example in examples], "features of the split")
    features, found = (torch.nn.functional.normalize(part, dim=1) for part in (features, found))
    nearest = dict(zip(rows.tolist(), kept[(found @ features.T).argmax(dim=1)].tolist(), strict=True))
    return [
        Prediction(example, typical_caption(train[nearest[row]], tokens) if row in nearest else "", 0.0)
        for row, example in enumerate(examples)
    ]


def typical_caption(example, tokens):
    """Return the caption of an example that agrees most with its others, as words joined by spaces."""
    captions = [tokens[caption] for caption in example.captions]
    return " ".join(captions[int(closeness(captions).sum(axis=1).argmax())])


def memory_table(scored, nearest):
    """The model beside the nearest captions: metric, model, nearest, difference, low, high, p.

    scored, nearest: the Scored of the same images
    """
    differences = paired_differences(scored.counts, nearest.counts)
    rows = [(label, *differences[name]) for name, label in METRICS.items() if name in differences]
    return pd.DataFrame(rows, columns=["metric", "model", "nearest", "difference", "low", "high", "p"])


# ---- rows of the table -----------------------------------------------------------------------------------


def yardstick_rows(scored, probed, trained_labels):
    """Return the rows of tables.yardstick_table that need no further network; [] without classes.

    probed:         the class that a plain classifier names for each image, None = there is none
    trained_labels: the classes of train's images
    """
    if not scored.has_classes:
        return []
    labelled, said, reference_said = scored.labelled, scored.said, scored.reference_said
    true = [scored.labels[row] for row in labelled]
    rows = [("the captions", true, [said[row] for row in labelled], None, "")]
    groups = [reference_said[row] for row in labelled]
    each = [label for label, group in zip(true, groups, strict=True) for _ in group]
    owner = [image for image, group in enumerate(groups) for _ in group]
    flat = [name for group in groups for name in group]
    rows.append(("reference captions", each, flat, owner, "how often people's captions name it first"))
    if probed:
        names = [probed[row] for row in labelled]
        rows.append(("plain classifier", true, names, None, "logistic regression on the encoder's pooled features"))
    if majority := majority_class(trained_labels):
        rows.append(("majority class", true, [majority] * len(true), None, f"the floor: always {majority}"))
    return rows


def imagenet_rows(encode, grounder, examples):
    """Return ([the row of ImageNet's own classifier], [a note]); no row below two classes.

    encode: function as in probe_classes, whose features are the (R, 1000) logits of ImageNet's categories
    """
    categories = imagenet_classes(grounder)
    known = sorted(set(categories) & {example.label for example in examples} - {""})
    number = counted(len(known), "class")
    if len(known) < 2:
        return [], [f"ImageNet's own classifier was left out: it tells two or more classes apart, and knows {number}."]
    shown = [example for example in examples if example.label in known]
    columns = [index for index, label in enumerate(categories) if label in known]
    rows, logits = encode([example.image for example in shown], "ImageNet's classifier")
    said = [categories[columns[best]] for best in logits[:, columns].argmax(dim=1).tolist()]
    true = [shown[row].label for row in rows.tolist()]
    note = f"among the {number} that are ImageNet categories: {', '.join(known)}"
    return [("ImageNet's own classifier", true, said, None, note)], []


# ---- ImageNet's own classifier ---------------------------------------------------------------------------


def imagenet_classes(grounder, name="mobilenet_v2"):
    """Map ImageNet's categories to the data's classes: (1000,) list of class names, "" = none of them.

    grounder: Grounder over the data's classes

    A category is of the class that its last words name: an "Egyptian cat" is a cat, a "tennis ball" no tennis court.
    The rule knows words alone: a "Madagascar cat", which is a lemur, is a cat too.
    """
    mapped = []
    for category in NETWORKS[name].IMAGENET1K_V1.meta["categories"]:
        words = category.split()
        labels = (grounder.label(" ".join(words[start:])) for start in range(len(words)))
        mapped.append(next(filter(None, labels), ""))
    return mapped


def load_imagenet(path, name="mobilenet_v2"):
    """Return the whole torchvision network, its classifier included, from a state_dict file, in eval().

    Raises ValueError if the file is missing, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"imagenet_weights: {path}: no such file; give a torchvision {name} state_dict")
    network = getattr(models, name)(weights=None)
    load_weights(network, load_state_dict(path, f"imagenet_weights: {path}"), path)
    return network.eval()

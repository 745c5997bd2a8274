"""Is a dataset clean? Copies and captions shared between its splits, gaps, imbalance, words that train lacks.

    python prepare_data.py --audit data/photos

A test image, or its caption, that stands in train too flatters every score on the test split.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from captioning.cli import counted
from captioning.data.copies import describe_image, find_copies, process_map
from captioning.data.splits import SPLITS
from captioning.data.tokenizer import Tokens, pick_unit
from captioning.progress import Progress

UNLIKE = 1.3  # ratio of the different captions per image of two splits; from here on their scores do not compare
FEW = 20  # images of a split; of fewer, such a mean is chance
SELDOM = 0.1  # share of captions that name their class; below it, class scores say little
LEAK = 0.05  # a larger share of the split that is scored, known from train, is worth a warning

MEASURES = {  # key in the audit -> as printed; shares are 0..1
    "images": "images",
    "silent": "images without a caption",
    "unreadable": "images that cannot be read",
    "exact_copies": "images whose file stands in an earlier split too",
    "near_copies": "images that nearly equal one of an earlier split",
    "captions": "captions",
    "captions_per_image": "captions per image, mean",
    "different_per_image": "different captions per image, mean",
    "words_mean": "words in a caption, mean",
    "words_min": "words in a caption, least",
    "words_max": "words in a caption, most",
    "captions_in_train": "share of captions that stand word for word in train",
    "images_in_train": "share of images all of whose captions stand word for word in train",
    "new_words": "different words that train lacks",
    "new_word_share": "share of all words that train lacks",
    "naming": "share of captions that name the class of their image",
    "classes": "classes",
    "class_min": "images of the smallest class",
    "class_max": "images of the largest class",
}


@dataclass
class Audit:
    """What an audit found.

    table:  measure (key in MEASURES), split, value; a row for each that applies; attrs["unit"]: words | characters
    copies: kind (exact, near), image, split, copy_of, copy_split; paths as the examples have them
    silent: names of the images without a caption
    """

    table: pd.DataFrame
    copies: pd.DataFrame
    silent: list = field(default_factory=list)


# ---- captions and classes ------------------------------------------------------------------------------


def caption_measures(captions, trained_captions, trained_words):
    """Return measure -> value of one split's captions: for each image the token tuples of its captions.

    trained_captions, trained_words: sets of the token tuples and of the words of train
    """
    flat = [tokens for group in captions for tokens in group]
    lengths = [len(tokens) for tokens in flat]
    words = Counter(word for tokens in flat for word in tokens)
    new = {word: number for word, number in words.items() if word not in trained_words}
    return {
        "images": len(captions),
        "captions": len(flat),
        "captions_per_image": len(flat) / len(captions),
        "different_per_image": sum(len(set(group)) for group in captions) / len(captions),
        "words_mean": float(np.mean(lengths)),
        "words_min": min(lengths),
        "words_max": max(lengths),
        "captions_in_train": sum(tokens in trained_captions for tokens in flat) / len(flat),
        "images_in_train": sum(trained_captions.issuperset(group) for group in captions) / len(captions),
        "new_words": len(new),
        "new_word_share": sum(new.values()) / max(1, words.total()),
    }


# ---- the whole -----------------------------------------------------------------------------------------


def audit_examples(examples, silent=(), *, num_workers=1, progress=True, tokens=None, naming_share=None):
    """Return the Audit of a dataset's examples, all splits together.

    silent:       names of its images without a caption, which are no examples
    tokens:       Tokens of captions that were tokenised already
    naming_share: function (examples of a split) -> share of captions that name their class; None = it is not asked
    """
    if tokens is None:
        tokens = Tokens(pick_unit([caption for example in examples for caption in example.captions])[0])
    splits = [split for split in SPLITS if any(example.split == split for example in examples)]
    texts = {split: [[tuple(tokens[c]) for c in e.captions] for e in examples if e.split == split] for split in splits}
    trained = {caption for group in texts.get("train", []) for caption in group}
    trained_words = {word for caption in trained for word in caption}
    rows = {}
    for split in splits:
        rows[split] = caption_measures(texts[split], trained, trained_words)
        sizes = Counter(example.label for example in examples if example.split == split and example.label)
        if sizes:
            sizes = sizes.values()
            rows[split] |= {"classes": len(sizes), "class_min": min(sizes), "class_max": max(sizes)}
            if naming_share:
                rows[split]["naming"] = naming_share([example for example in examples if example.split == split])
        if split == "train" or not trained:
            for measure in ("captions_in_train", "images_in_train", "new_words", "new_word_share"):
                del rows[split][measure]

    paths = [example.image for example in examples]
    with process_map(num_workers) as run:
        pictures = run(describe_image, paths)
        described = list(Progress(pictures, total=len(paths), desc="auditing", unit=" images", disable=not progress))
    readable = [number for number, picture in enumerate(described) if picture]
    order = np.array([SPLITS.index(examples[number].split) for number in readable])
    found = find_copies([described[number] for number in readable], order) if readable else []
    copies = []
    for kind, image, copy in found:
        image, copy = examples[readable[image]], examples[readable[copy]]
        copies.append((kind, image.image, image.split, copy.image, copy.split))
    copies = pd.DataFrame(copies, columns=["kind", "image", "split", "copy_of", "copy_split"])

    for split in splits:
        rows[split]["unreadable"] = sum(
            example.split == split and not description for example, description in zip(examples, described, strict=True)
        )
        if split != splits[0]:
            for kind in ("exact", "near"):
                rows[split][f"{kind}_copies"] = int(((copies["kind"] == kind) & (copies["split"] == split)).sum())
    table = [
        (measure, split, rows[split][measure]) for measure in MEASURES for split in splits if measure in rows[split]
    ]
    if silent:
        table.insert(0, ("silent", "", len(silent)))
    # As objects: counts stay whole numbers beside shares.
    table = pd.DataFrame(table, columns=["measure", "split", "value"], dtype=object)
    table.attrs["unit"] = tokens.unit
    return Audit(table, copies, list(silent))


def overview(table):
    """Return an Audit's table as it is printed: a row for each measure, a column for each split, values as text."""
    splits = [split for split in SPLITS if split in set(table["split"])]
    values = {(row.measure, row.split): row.value for row in table.itertuples()}
    rows = []
    for measure, printed in MEASURES.items():
        printed = printed.replace("words", table.attrs["unit"])
        if (measure, "") in values:
            rows.append([printed, f"{values[measure, '']:,.0f}", *[""] * (len(splits) - 1)])
        elif any((measure, split) in values for split in splits):
            rows.append([printed, *(measure_text(measure, values.get((measure, split))) for split in splits)])
    return pd.DataFrame(rows, columns=["measure", *splits])


def measure_text(measure, value):
    """Write one value of an audit; "" for None."""
    if value is None:
        return ""
    if measure in ("captions_in_train", "images_in_train", "new_word_share", "naming"):
        return f"{value:.1%}"
    return f"{value:.1f}" if measure.endswith(("mean", "per_image")) else f"{value:,.0f}"


def shared_captions(audit):
    """Return in words how many captions a split shares with train, where they are too few to warn of."""
    shares = audit.table[audit.table["measure"] == "captions_in_train"]["value"]
    return f"{shares.max():.1%} of a split's captions in train at most" if shares.sum() else "no shared captions"


def warnings(audit, split):
    """Return a sentence for each thing that flatters the scores of a split, or makes them say less."""
    values = {row.measure: row.value for row in audit.table.itertuples() if row.split == split}
    lines, images = [], values.get("images", 0)
    for measure, what in (("exact_copies", "have the same file as"), ("near_copies", "nearly equal")):
        if number := int(values.get(measure, 0)):
            lines.append(
                f"{number:,} of the {images:,.0f} images of the {split} split ({number / images:.1%}) {what} an image "
                "of an earlier split: the scores flatter the model."
            )
    if (share := values.get("captions_in_train", 0)) > LEAK:
        lines.append(
            f"{share:.1%} of the {split} split's captions stand word for word in train: a model that repeats what it "
            "has read scores well here, so BLEU and CIDEr-D flatter it."
        )
    sizes = {row.split: row.value for row in audit.table.itertuples() if row.measure == "images"}
    different = {row.split: row.value for row in audit.table.itertuples() if row.measure == "different_per_image"}
    other = max(different, key=lambda name: max(different[name] / different[split], different[split] / different[name]))
    unlike = max(different[other], different[split]) >= UNLIKE * min(different[other], different[split])
    if unlike and min(sizes[other], sizes[split]) >= FEW:
        lines.append(
            f"Images of the {split} split have {different[split]:.1f} different captions, those of {other} "
            f"{different[other]:.1f}: scores of the two do not compare, since each further reference raises BLEU and "
            "changes CIDEr-D."
        )
    if values.get("naming", 1) < SELDOM:
        lines.append(
            f"{values['naming']:.1%} of the {split} split's captions name the class of their image: accuracy says "
            "little, until aliases.csv has the words that mean a class."
        )
    if number := int(values.get("unreadable", 0)):
        lines.append(f"{number:,} of the {images:,.0f} images of the {split} split cannot be read.")
    if audit.silent:
        lines.append(f"{counted(len(audit.silent), 'image')} without a caption, the first is {audit.silent[0]}.")
    return lines

"""The columns of the report's tables: how each is called on the page, what it holds, and which end is the best.

Files have short names (`sentence_bleu4`), the page, its sentences and LaTeX have those that papers use (mean sentence
BLEU-4). Every table takes its heads from here, so that a column is called the same everywhere.
"""

from typing import NamedTuple


class Column(NamedTuple):
    """A column as it is shown: its name, what it holds, and whether a click sorts the largest value first."""

    name: str
    text: str
    largest_first: bool = False


INTERVAL = "95 % interval"  # head of the column behind a score, with the bounds of its interval
BOUNDS = "percentiles of 1,000 bootstrap draws over the images; – where there is none"

COLUMNS = {  # column of a table, or table.column where tables differ -> Column
    # scores
    "accuracy": Column("accuracy", "share of the images whose caption names the true class first, 0 to 1", True),
    "bleu1": Column("BLEU-1", "corpus BLEU of single words, 0 to 1", True),
    "bleu2": Column("BLEU-2", "corpus BLEU up to 2-grams, 0 to 1", True),
    "bleu3": Column("BLEU-3", "corpus BLEU up to 3-grams, 0 to 1", True),
    "bleu4": Column("BLEU-4", "corpus BLEU up to 4-grams, as COCO computes it, 0 to 1", True),
    "sentence_bleu4": Column("mean sentence BLEU-4", "mean of each caption's own smoothed BLEU-4, 0 to 1", True),
    "rouge_l": Column("ROUGE-L", "longest common subsequence with a reference, F-measure, mean, 0 to 1", True),
    "cider_d": Column("CIDEr-D", "weighted n-grams shared with the references, mean, 0 to 10", True),
    "precision": Column("precision", "share of the captions naming a class that are of it, mean of the classes", True),
    "recall": Column("recall", "share of a class's images whose caption names it, mean of the classes", True),
    "f1": Column("F1", "harmonic mean of precision and recall, mean of the classes", True),
    "weighted_precision": Column("weighted precision", "precision, classes weighted by their images", True),
    "weighted_recall": Column("weighted recall", "recall, classes weighted by their images", True),
    "weighted_f1": Column("weighted F1", "F1, classes weighted by their images", True),
    # summary
    "metric": Column("metric", "name of the score"),
    "value": Column("value", "the score of all images", True),
    "low": Column("low", "lower bound of the 95 % interval"),
    "high": Column("high", "upper bound of the 95 % interval", True),
    "recipe": Column("recipe", "all that the score depends on"),
    # classes
    "class": Column("class", "the true class"),
    "rank": Column("rank", "1 is the most extreme class; equal BLEU-4 is one rank"),
    "count": Column("images", "images of the class in this split", True),
    "group": Column("group", "top: the best BLEU-4, bottom: the worst"),
    "classes": Column("classes", "number of classes", True),
    "best_classes": Column("best classes", "classes in the group with the best BLEU-4", True),
    "worst_classes": Column("worst classes", "classes in the group with the worst BLEU-4", True),
    "best": Column("accuracy of the best", "mean accuracy of the classes with the best BLEU-4", True),
    "worst": Column("accuracy of the worst", "mean accuracy of the classes with the worst BLEU-4", True),
    "difference": Column("difference", "the first minus the second", True),
    "agreement": Column("reference agreement", "BLEU-4 of the class's references against each other, 0 to 1", True),
    "reference_naming": Column(
        "references naming it", "share of the class's references that name it first, 0 to 1", True
    ),
    "probe": Column("plain classifier", "accuracy of logistic regression on the encoder's features, 0 to 1", True),
    # which class a caption names
    "named": Column("class named", "the class that the caption names first; (none) if it names none"),
    "images": Column("images", "number of images", True),
    "share": Column("share", "share of the images of the class, 0 to 1", True),
    "case": Column("classes named", "how the classes that a caption names stand to the true one"),
    "captions": Column("captions", "the model's captions", True),
    "captions_share": Column("share of captions", "share of the model's captions, 0 to 1", True),
    "references": Column("references", "the reference captions", True),
    "references_share": Column("share of references", "share of the reference captions, 0 to 1", True),
    "image": Column("image", "file, relative to the dataset's folder"),
    "caption": Column("caption", "what the model says"),
    "inside": Column("name inside", "the class whose name is part of the name of the class named"),
    "named_instead": Column("named instead", "what captions of the class name instead, with the number of images"),
    "unnamed_bleu4": Column("BLEU-4 without it", "mean sentence BLEU-4 of the captions that do not name it", True),
    "words": Column("words", "the words most typical of the class's references"),
    # baselines
    "classifier": Column("classifier", "what names the class"),
    "note": Column("note", "how it was made"),
    "model": Column("model", "score of the model's captions", True),
    "nearest": Column("nearest caption", "score of the captions of the most similar train images", True),
    "p": Column("p", "two-sided; chance of such a difference if there were none"),
    # comparisons
    "comparison.model": Column("model", "the name of its file"),
    "comparison.difference": Column("difference", "the first model minus the second", True),
    "first": Column("first", "the first model"),
    "second": Column("second", "the second model"),
    "first_value": Column("score of the first", "of the first model", True),
    "second_value": Column("score of the second", "of the second model", True),
    "p_holm": Column("corrected p", "p after Holm's correction for the number of pairs"),
    # correlations
    "x": Column("score", "the one score of each class"),
    "y": Column("other score", "the other score of each class"),
    "rho": Column("rank correlation", "Spearman's, -1 to 1", True),
    "question": Column("question", "what the correlation answers"),
    # references, language, confidence
    "references.references": Column("references", "references of each image that the captions are scored against"),
    "reference_bleu4": Column("BLEU-4 of a reference", "of a reference against others of its image, 0 to 1", True),
    "reference_cider_d": Column("CIDEr-D of a reference", "of a reference against others of its image", True),
    "measure": Column("measure", "what is counted"),
    "bin": Column("bin", "1 has the lowest confidence"),
    "confidence": Column("confidence", "mean confidence of the bin, 0 to 1", True),
    "lowest": Column("lowest", "lowest confidence of the bin"),
    "highest": Column("highest", "highest confidence of the bin", True),
    # audit
    "train": Column("train", "of the train split", True),
    "val": Column("val", "of the validation split", True),
    "test": Column("test", "of the test split", True),
    "kind": Column("kind", "exact: the same file; near: nearly the same picture"),
    "split": Column("split", "of the image"),
    "copy_of": Column("copy of", "the image that it equals"),
    "copy_split": Column("split of that", "of the image that it equals"),
}


def column_of(table, name):
    """Return the Column of a table's column; one that is not in COLUMNS is called as in the file.

    `<score>_low` and `<score>_high` are bounds of a score's interval, `<score> 95 %` both of them as text.
    """
    if name.endswith(" 95 %"):
        return Column(INTERVAL, f"{column_of(table, name.removesuffix(' 95 %')).name}: {BOUNDS}")
    for end, bound in (("_low", "lower"), ("_high", "upper")):
        if name.endswith(end):
            score = column_of(table, name.removesuffix(end)).name
            return Column(f"{score}, {bound} bound", f"{bound} bound of the 95 % interval", end == "_high")
    return COLUMNS.get(f"{table}.{name}") or COLUMNS.get(name) or Column(name, "")

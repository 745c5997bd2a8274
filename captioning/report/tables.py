"""The tables of the analysis report: scored captions in, one DataFrame for each question out.

The images (image_table), the whole split (summary_table), the classes (class_table), the best and the worst of them
(extreme_classes, average_table), confusion pairs (frequent_mistakes), how captions name classes (case_table,
nested_table), classifiers beside the captions (yardstick_table), why classes fail (diagnosis_table), rank correlations
over the classes (relation_table), the number of references (reference_table), the language (language_table), and the
calibration of the confidence (calibration_table). captioning/scores/bootstrap.py makes every interval.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from captioning.data.annotations import Dataset
from captioning.scores import bootstrap
from captioning.scores.grounding import CASES, NONE, classification_scores, confusion, name_words, naming_case
from captioning.scores.metrics import CiderD, bleu_counts, bleu_of_counts, corpus_bleu
from captioning.scores.recipes import TOKENIZERS, recipe
from captioning.search.options import SearchOptions

METRICS = {  # as in summary.csv and the recipes -> as printed
    "accuracy": "average accuracy",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "sentence_bleu4": "mean sentence BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "weighted_precision": "weighted precision",
    "weighted_recall": "weighted recall",
    "weighted_f1": "weighted F1",
}
JAVA_METRICS = {"meteor": "METEOR", "spice": "SPICE"}  # where asked for and possible, after the others
CLASS_METRICS = ("accuracy", *(f"{mean}{name}" for mean in ("", "weighted_") for name in ("precision", "recall", "f1")))
MOST_EXTREME = 10  # classes in the group of the best, and of the worst
FEWEST_IN_CLASS = 5  # images; a class with fewer gets no rank and no verdict
RARELY = 0.5  # a class that its captions name in a smaller share of its images gets a sentence
FEWEST_IN_BIN = 10  # images of a bin of confidence
CLASS_COLUMNS = ["class", "bleu4", "sentence_bleu4", "cider_d", "accuracy", "precision", "recall", "f1", "count"]
CLASS_SCORES = CLASS_COLUMNS[1:-1]  # each has an interval


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    run:        the model's name
    dataset:    all its splits; split: the one that is captioned
    options:    SearchOptions that the captions were found with
    vocabulary: set of the words that the model can say
    classes:    the classes that the model was trained on
    tokenizer:  as recipes name it
    """

    run: str
    dataset: Dataset
    split: str
    options: SearchOptions
    vocabulary: frozenset
    classes: list
    tokenizer: str = TOKENIZERS["words"]

    @property
    def title(self):
        """The report's title."""
        return f"{self.run} on {self.dataset.name}, {self.split} split"

    @property
    def taught(self):
        """The set of the classes of train's images; None = the data has no train split, or none with classes."""
        return {example.label for example in self.dataset.splits.get("train") or ()} - {""} or None


def build_tables(scored, subject, *, trained=frozenset(), probed=None, yardsticks=(), java=None):
    """Return the DataFrames of the report by name; without classes those about captions alone.

    trained:    set of the token tuples of train's captions
    probed:     the class that a plain classifier names for each image, None = there is none
    yardsticks: rows of yardstick_table
    java:       name in JAVA_METRICS -> value
    """
    recipe_of = recipe_writer(scored, subject)
    images = image_table(scored, subject.dataset.root)
    tables = {
        "images": images,
        "summary": summary_table(scored, recipe_of, java),
        "references": reference_table(scored.hypotheses, scored.references),
        "language": language_table(scored.hypotheses, scored.references, trained, subject.vocabulary),
        "calibration": calibration_table(images),
    }
    if not scored.has_classes:
        return tables
    values, drawn = bootstrap.draw_class_scores(scored.counts)
    classes = class_table(scored, values, drawn)
    if probed:
        right, taught = class_accuracy(scored.labels, probed), subject.taught
        right = {name: share for name, share in right.items() if taught is None or name in taught}
        classes["probe"] = classes["class"].map(right)
    matrix = confusion(*true_and_said(scored))
    judged = judged_classes(classes)
    extremes = extreme_classes(judged)
    return {
        **tables,
        "classes": classes,
        "top_bottom": extremes,
        "averages": average_table(extremes),
        "groups": group_table(extremes, scored.counts, drawn),
        "confusion": matrix,
        "mistakes": frequent_mistakes(matrix),
        "cases": case_table(scored),
        "nested": nested_table(scored, images),
        "relations": relation_table(judged),
        "diagnosis": diagnosis_table(judged, images, scored.references),
        "yardsticks": yardstick_table(yardsticks),
    }


def recipe_writer(scored, subject):
    """Return a function (metric, number of images, aliases "yes" or "no") -> what a score of it depends on.

    Class metrics depend on aliases, where the data have some, and on the classes that the model alone knows.
    """
    sizes = set(map(len, scored.references))
    number = "-".join(map(str, sorted({min(sizes), max(sizes)})))

    def recipe_of(metric, count, aliases="yes"):
        text = recipe(metric, references=number, options=subject.options, count=count, tokenizer=subject.tokenizer)
        if metric in CLASS_METRICS:
            text += f"|others:{scored.num_others}" if scored.num_others else ""
            text += f"|aliases:{aliases}" if scored.said_by_name else ""
        return text

    return recipe_of


# ---- images, the split, the classes ----------------------------------------------------------------------


def image_table(scored, root):
    """One row for each image: image, class, caption, references, [named, correct, mentions, case,] scores, confidence.

    root: the image's path is written relative to this folder where it lies below it

    `named` is the first class that the caption names, "(none)" = none of them, `mentions` all of them, and `case`
    the key in CASES of how they stand to the true one; data without classes have none of the four columns. CIDEr-D
    takes its document frequencies from the references of all these images.
    """
    examples, labels = scored.examples, scored.labels
    table = pd.DataFrame(
        {
            "image": [relative_path(example.image, root) for example in examples],
            "class": labels,
            "caption": [prediction.caption for prediction in scored.predictions],
            "references": [" | ".join(example.captions) for example in examples],
        }
    )
    if scored.has_classes:
        mentions = [found.classes for found in scored.mentions]
        table["named"] = [said or NONE for said in scored.said]
        # An image without a class is neither right nor wrong.
        table["correct"] = [said == label if label else "" for said, label in zip(scored.said, labels, strict=True)]
        table["mentions"] = [" | ".join(names) for names in mentions]
        pairs = zip(labels, mentions, strict=True)
        table["case"] = [naming_case(label, names) if label else "" for label, names in pairs]
    for name, values in scored.counts.means.items():
        table[name] = values
    table["log_prob"] = [prediction.log_prob for prediction in scored.predictions]
    table["confidence"] = [prediction.confidence for prediction in scored.predictions]
    if all(prediction.familiarity is not None for prediction in scored.predictions):
        table["familiarity"] = [prediction.familiarity for prediction in scored.predictions]
    return table


def relative_path(path, root):
    """Return `path` as text with forward slashes, relative to `root` where it lies below it."""
    path = path.relative_to(root) if path.is_relative_to(root) else path
    return path.as_posix()


def true_and_said(scored):
    """Return the (true, said, all) classes of the images that have one, as grounding.py takes them."""
    said = scored.said
    pairs = [(scored.labels[row], said[row]) for row in scored.labelled]
    true, said = (list(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    return true, said, sorted({*true, *said} - {""})


def summary_table(scored, recipe_of, java=None):
    """The scores of the whole split: metric, value, recipe, low, high.

    recipe_of: function (name in METRICS or JAVA_METRICS, number of images, aliases) -> what the value depends on
    java:      name in JAVA_METRICS -> value; these have no interval

    Where images have classes, these count too; precision, recall and F1 are means over the split's classes, plain
    and weighted by their images. Data with aliases have two accuracies, the second without the aliases' help.
    """
    count = dict.fromkeys(CLASS_METRICS, len(scored.labelled))
    estimates = bootstrap.estimate_scores(scored.counts)
    estimates |= {name: bootstrap.Estimate(value, np.nan, np.nan) for name, value in (java or {}).items()}
    rows = []
    for name, label in (METRICS | JAVA_METRICS).items():
        if name in estimates:
            value, low, high = estimates[name]
            rows.append((label, value, recipe_of(name, count.get(name, len(scored.hypotheses))), low, high))
        if name == "accuracy" and name in estimates and scored.said_by_name:
            right = [scored.said_by_name[row] == scored.labels[row] for row in scored.labelled]
            strata = scored.counts.strata[scored.labelled]
            value, low, high = bootstrap.estimate_mean(right, strata)
            rows.append((label, value, recipe_of(name, len(right), "no"), low, high))
    return pd.DataFrame(rows, columns=["metric", "value", "recipe", "low", "high"])


def class_table(scored, values, drawn):
    """One row for each class that has an image, by name: CLASS_COLUMNS, intervals, agreement, reference_naming.

    values, drawn: bootstrap.draw_class_scores

    bleu4 is the corpus BLEU-4 of the class's images, sentence_bleu4 and cider_d are means of theirs. `<score>_low`
    and `<score>_high` bound each score's interval; a class of one image has none. `agreement` is the corpus BLEU-4 of
    one reference of each image against its others, how alike reference captions of this class are; NaN where an image
    has a single one. `reference_naming` is the share of its reference captions that name it first.
    """
    counts = scored.counts
    sizes = np.bincount(counts.true[counts.true >= 0], minlength=len(counts.classes))
    present = np.flatnonzero(sizes)
    table = pd.DataFrame({"class": [counts.classes[place] for place in present]})
    bounds = {}
    for name in CLASS_SCORES:
        table[name] = values[name][present]
        low, high = bootstrap.interval(values[name], drawn[name])
        bounds |= {f"{name}_low": low[present], f"{name}_high": high[present]}
    table = table.assign(count=sizes[present], **bounds)
    members = [np.flatnonzero(counts.true == place) for place in present]
    table["agreement"] = reference_agreement(scored.references, members)
    said = [(label, said) for label, group in zip(scored.labels, scored.reference_said, strict=True) for said in group]
    right = pd.Series([label == name for label, name in said]).groupby([label for label, _ in said]).mean()
    table["reference_naming"] = table["class"].map(right)
    return table


def reference_agreement(references, groups):
    """Corpus BLEU-4 of one reference of each image against the others, for groups of images: (G,), the mean over which.

    groups: the positions of the images of each group; the image with the fewest references decides how many each has
            in its group. NaN where it has one
    """
    fewest = [min(len(references[row]) for row in rows) for rows in groups]
    agreement = np.full(len(groups), np.nan)
    for number in sorted(set(fewest) - {1}):
        chosen = [group for group, size in enumerate(fewest) if size == number]
        rows = np.concatenate([groups[group] for group in chosen])
        ends = np.cumsum([len(groups[group]) for group in chosen])[:-1]
        values = []
        for left_out in range(number):
            texts = [references[row][left_out] for row in rows]
            counts = bleu_counts(texts, [take(references[row], left_out + 1, number - 1) for row in rows])
            sums = [[part.sum(axis=0) for part in np.split(count, ends)] for count in counts]
            values.append(bleu_of_counts(*map(np.array, sums))[:, 3])
        agreement[chosen] = np.mean(values, axis=0)
    return agreement


MOST_STARTS = 10  # of reference_table; bounds its time where an image has thousands of references


def take(group, start, number):
    """Return `number` of the entries of a list from `start` on, going on at its beginning after its end."""
    return [group[(start + step) % len(group)] for step in range(number)]


def rank_classes(classes):
    """Return the class table, best BLEU-4 first; ties go by the mean sentence BLEU-4, then by name."""
    columns = ["bleu4", "sentence_bleu4", "class"]
    order = classes[columns].round(bootstrap.DIGITS).sort_values(columns, ascending=[False, False, True])
    return classes.loc[order.index]


def judged_classes(classes):
    """Return the rows of the class table with enough images for a verdict."""
    return classes[classes["count"] >= FEWEST_IN_CLASS]


def extremes(values, most):
    """Return the places of the highest and of the lowest of n values, at most `most` each, the most extreme first.

    values: sorted, the highest first

    No place and no value is on both sides: where they would share a value it stays where it is the extreme one. Values
    that are all alike have no extremes.
    """
    values = np.round(np.asarray(values, float), bootstrap.DIGITS)
    size = min(most, len(values) // 2)
    best, worst = list(range(size)), list(range(len(values) - 1, len(values) - 1 - size, -1))
    if size and values[size - 1] == values[-size]:
        shared, highest, lowest = values[size - 1], values[0], values[-1]
        best = [place for place in best if values[place] > shared or lowest < shared == highest]
        worst = [place for place in worst if values[place] < shared or lowest == shared < highest]
    return best, worst


def extreme_classes(classes, most=MOST_EXTREME):
    """The best and the worst classes by BLEU-4: group (top, bottom), rank, CLASS_COLUMNS; equal BLEU-4 is one rank.

    The groups are those of `extremes`: of fewer than 2 * most classes each has at most half, of a single class or of
    classes that all tie there are none.
    """
    ranked = rank_classes(classes).reset_index(drop=True)
    best, worst = extremes(ranked["bleu4"], most)
    groups = [("top", ranked.iloc[best], False), ("bottom", ranked.iloc[worst], True)]
    rows = []
    for name, group, ascending in groups:
        group = group[CLASS_COLUMNS]
        rank = group["bleu4"].round(bootstrap.DIGITS).rank(method="min", ascending=ascending)
        group.insert(0, "rank", rank.astype(int))
        group.insert(0, "group", name)
        rows.append(group)
    return pd.concat(rows, ignore_index=True)


def average_table(extreme):
    """The mean scores of each group of extreme_classes: group, classes (how many), the scores of CLASS_COLUMNS."""
    means = extreme.groupby("group", sort=False)[CLASS_SCORES].mean()
    means.insert(0, "classes", extreme.groupby("group", sort=False).size())
    return means.reset_index()


def frequent_mistakes(matrix, most=10):
    """The largest counts off the diagonal of a confusion matrix: class, named, images, share of the class.

    most: rows; None = all
    """
    counts = matrix.rename_axis(index="class", columns="named").stack().rename("images").reset_index()
    counts["share"] = counts["images"] / counts.groupby("class")["images"].transform("sum").clip(lower=1)
    wrong = counts[(counts["class"] != counts["named"]) & (counts["images"] > 0)]
    return wrong.sort_values(["images", "share"], ascending=False, kind="stable", ignore_index=True)[:most]


def listed(names, most=10):
    """Return the first names joined by commas, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest


# ---- which class a caption names -------------------------------------------------------------------------


def case_table(scored):
    """How often captions name classes in each way: case, captions, captions_share, references, references_share."""
    ours, theirs = Counter(), Counter()
    for row in scored.labelled:
        label = scored.labels[row]
        ours[naming_case(label, scored.mentions[row].classes)] += 1
        theirs.update(naming_case(label, found.classes) for found in scored.reference_mentions[row])
    rows = [
        (printed, ours[case], ours[case] / max(1, ours.total()), theirs[case], theirs[case] / max(1, theirs.total()))
        for case, printed in CASES.items()
    ]
    return pd.DataFrame(rows, columns=["case", "captions", "captions_share", "references", "references_share"])


def nested_table(scored, images):
    """The captions in which a class's name stands inside another's: image, class, caption, named, inside."""
    captions = images[["image", "class", "caption"]].itertuples(index=False)
    rows = [
        (*caption, outer, inner)
        for caption, found in zip(captions, scored.mentions, strict=True)
        for outer, inner in found.nested
    ]
    return pd.DataFrame(rows, columns=["image", "class", "caption", "named", "inside"])


def yardstick_table(rows):
    """Classifiers beside each other: classifier, images, accuracy, low, high, precision, recall, f1, weighted_f1, note.

    rows: (what classifies, true classes, classes said, "" = none, the image of each, note); the images are numbers from
          0, None = each is of its own; the interval is over images, drawn within each class
    """
    table = []
    for classifier, true, said, owner, note in rows:
        classes = sorted({*true, *said} - {""})
        scores = classification_scores(true, said, classes)
        owner = np.arange(len(true)) if owner is None else np.asarray(owner)
        right, number = np.bincount(owner, np.array(true) == np.array(said)), np.bincount(owner)
        _, first = np.unique(owner, return_index=True)
        accuracy, low, high = bootstrap.estimate_share(right, number, [classes.index(true[place]) for place in first])
        kept = {name: scores[name] for name in ("precision", "recall", "f1", "weighted_f1")}
        row = {"classifier": classifier, "images": len(number), "accuracy": accuracy, "low": low, "high": high}
        table.append({**row, **kept, "note": note})
    return pd.DataFrame(table)


def class_accuracy(true, said):
    """Return class -> share of its images for which `said` has it; both (N,) class names, "" = none."""
    right = pd.Series(np.array(true) == np.array(said)).groupby(np.array(true)).mean()
    return right.drop("", errors="ignore").to_dict()


def diagnosis_table(classes, images, references, most=8):
    """Why the classes that captions name least often are not named: DIAGNOSIS_COLUMNS, the lowest accuracy first.

    classes: class_table with the columns `reference_naming` and, where there is a plain classifier, `probe`
    images:  image_table; references: the token lists of each image's references

    Every class below RARELY is there, and the lowest `most` of the others with a mistake. `unnamed_bleu4` is the
    mean sentence BLEU-4 of its captions that do not name it; `words` are those most typical of its references.
    """
    low = classes[classes["accuracy"] < 1].sort_values(["accuracy", "bleu4"])
    low = low.head(max(most, int((low["accuracy"] < RARELY).sum())))
    words = typical_words(images["class"], references, low["class"].tolist())
    rows = []
    for row in low.to_dict("records"):
        missed = images[(images["class"] == row["class"]) & (images["named"] != row["class"])]
        instead = ", ".join(f"{name} {number}" for name, number in missed["named"].value_counts().head(3).items())
        kept = {name: row[name] for name in ("class", "count", "bleu4", "accuracy", "accuracy_low", "accuracy_high")}
        rows.append(
            {
                **kept,
                "reference_naming": row["reference_naming"],
                "probe": row.get("probe", np.nan),
                "named_instead": instead,
                "unnamed_bleu4": missed["sentence_bleu4"].mean(),
                "words": " ".join(words[row["class"]]),
            }
        )
    return pd.DataFrame(rows, columns=DIAGNOSIS_COLUMNS)


DIAGNOSIS_COLUMNS = [
    "class",
    "count",
    "bleu4",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "reference_naming",
    "probe",
    "named_instead",
    "unnamed_bleu4",
    "words",
]


def typical_words(labels, references, classes, most=4):
    """Return class -> words in more of its images' references than in the others', the most different first.

    labels: the class of each image; references: the token lists of each image's references
    The words of the class's name are left out.
    """
    words = [{word for tokens in group for word in tokens} for group in references]
    everywhere, size = Counter(word for found in words for word in found), len(words)
    typical = {}
    for label in classes:
        rows = np.flatnonzero(labels == label)
        here = Counter(word for row in rows for word in words[row])
        rest = max(1, size - len(rows))
        gap = {word: here[word] / len(rows) - (everywhere[word] - here[word]) / rest for word in here}
        own = [word for word in gap if gap[word] > 0 and word not in name_words(label)]
        typical[label] = sorted(own, key=lambda word: (-gap[word], word))[:most]
    return typical


# ---- relations between scores ---------------------------------------------------------------------------------

RELATIONS = {  # (column, column) of the class table -> the question that their correlation answers
    ("bleu4", "accuracy"): "are classes with better captions named more often?",
    ("cider_d", "accuracy"): "the same for CIDEr-D, which weighs rare words more",
    ("bleu4", "agreement"): "is BLEU-4 high where reference captions are alike?",
    ("accuracy", "agreement"): "is the class named where reference captions are alike?",
    ("accuracy", "reference_naming"): "is the class named where the references name it?",
    ("accuracy", "probe"): "is the class named where the plain classifier recognises it?",
}


def relation_table(classes):
    """Spearman's rank correlation over the classes of pairs of columns: x, y, rho, low, high, classes, question.

    The interval is over samples of the classes: it is that of the correlation over all classes of this kind.
    """
    rows = []
    for (x, y), question in RELATIONS.items():
        if x in classes and y in classes:
            pairs = classes[[x, y]].dropna()
            rows.append((x, y, *bootstrap.estimate_correlation(pairs[x], pairs[y]), len(pairs), question))
    return pd.DataFrame(rows, columns=["x", "y", "rho", "low", "high", "classes", "question"])


def group_table(extreme, counts, drawn):
    """The accuracy of the classes with the best and the worst BLEU-4, and the interval of its difference.

    extreme: extreme_classes; counts: bootstrap.Counts; drawn: of bootstrap.draw_class_scores

    One row, none without two groups: best_classes, worst_classes (how many), best, worst (mean accuracy), difference,
    low, high. The interval is over the images of each class.
    """
    groups = [extreme[extreme["group"] == group] for group in ("top", "bottom")]
    rows = []
    if all(map(len, groups)):
        best, worst = (
            drawn["accuracy"][:, [counts.classes.index(name) for name in group["class"]]] for group in groups
        )
        means = [group["accuracy"].mean() for group in groups]
        difference = means[0] - means[1]
        low, high = bootstrap.interval(difference, best.mean(axis=1) - worst.mean(axis=1))
        rows.append((*map(len, groups), *means, difference, low, high))
    columns = ["best_classes", "worst_classes", "best", "worst", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def price_of_a_class(images):
    """Mean sentence BLEU-4 of the captions with the right and with a wrong class: (right, wrong, low, high), or None.

    The interval is that of right - wrong. None if one of the two occurs fewer than FEWEST_IN_CLASS times.
    """
    labelled = images[images["class"] != ""]
    right, scores = labelled["correct"].to_numpy(bool), labelled["sentence_bleu4"].to_numpy()
    if min(right.sum(), (~right).sum()) < FEWEST_IN_CLASS:
        return None
    gap = bootstrap.estimate_gap(scores, right)
    return float(scores[right].mean()), float(scores[~right].mean()), gap.low, gap.high


def reference_table(hypotheses, references):
    """The scores with fewer references: references, bleu4, cider_d, reference_bleu4, reference_cider_d.

    The `reference_` columns score a reference against others of its image. Every number is the mean over choices of
    the references, up to as many as the image with the fewest has. The choices begin at each reference of an image
    equally often; where that takes more than MOST_STARTS choices, at references that are evenly apart.
    """
    lengths = sorted({len(group) for group in references})
    fewest, most = lengths[0], min(MOST_STARTS, math.lcm(*lengths))
    rows, images = [], np.arange(len(references))
    for number in range(1, fewest + 1):
        scores = defaultdict(list)
        choices = 1 if number == lengths[-1] else most
        for choice in range(choices):
            starts = [choice * len(group) // choices for group in references]
            chosen = [take(group, start, number) for group, start in zip(references, starts, strict=True)]
            cider = CiderD(chosen)
            scores["bleu4"].append(corpus_bleu(hypotheses, chosen)[3])
            scores["cider_d"].append(cider.score(hypotheses, images).mean())
            if number < fewest:
                others = [group[start - 1] for group, start in zip(references, starts, strict=True)]
                scores["reference_bleu4"].append(corpus_bleu(others, chosen)[3])
                scores["reference_cider_d"].append(cider.score(others, images).mean())
        rows.append({"references": number} | {name: float(np.mean(values)) for name, values in scores.items()})
    columns = ["references", "bleu4", "cider_d", "reference_bleu4", "reference_cider_d"]
    return pd.DataFrame(rows, columns=columns)


# ---- language and confidence -----------------------------------------------------------------------------


def language_table(hypotheses, references, trained, vocabulary):
    """Repetition, vocabulary and length: measure, captions, references (one of each image).

    trained:    set of the token tuples of train's captions
    vocabulary: the words that the model can say
    """
    # A different position for each image, because the first reference of all images often follows one pattern.
    theirs = [group[row % len(group)] for row, group in enumerate(references)]
    columns = [language_measures(texts, trained) for texts in (hypotheses, theirs)]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    table = pd.DataFrame(rows, columns=["measure", "captions", "references"], dtype=object)  # counts stay whole
    said = len({word for tokens in hypotheses for word in tokens})
    table.loc[len(table)] = ["share of the model's vocabulary used", said / max(1, len(vocabulary)), np.nan]
    return table


def language_measures(texts, trained):
    """Return measure -> value of token lists. Distinct-n: different n-grams / all of them (Li et al. 2016)."""
    lengths, times = [len(tokens) for tokens in texts], Counter(map(tuple, texts))
    measures = {
        "share that stands word for word in train": float(np.mean([tuple(tokens) in trained for tokens in texts])),
        "share that is said of several images": sum(number for number in times.values() if number > 1) / len(texts),
        "different captions": len(times),
        "different words": len({word for tokens in texts for word in tokens}),
    }
    for n in (1, 2):
        ngrams = [tuple(tokens[i : i + n]) for tokens in texts for i in range(len(tokens) - n + 1)]
        measures[f"distinct-{n}"] = len(set(ngrams)) / max(1, len(ngrams))
    measures |= {"words, mean": float(np.mean(lengths)), "words, standard deviation": float(np.std(lengths))}
    return measures


def calibration_table(images, most=10):
    """Images in bins of confidence, as many in each: bin, images, confidence, and scores with their intervals.

    Columns: bin, images, confidence (the bin's mean), lowest, highest, then `sentence_bleu4`, `cider_d` and, where
    images have classes, `accuracy`, each with `_low` and `_high`. Images without a class are left out if others have.
    """
    if "named" in images:
        images = images[images["class"] != ""]
    number = int(np.clip(len(images) // FEWEST_IN_BIN, 1, most))
    scores = {name: images[name].to_numpy(float) for name in ("sentence_bleu4", "cider_d")}
    if "named" in images:
        scores["accuracy"] = images["correct"].to_numpy(float)
    confidence = images["confidence"].to_numpy()
    rows = []
    for place, members in enumerate(np.array_split(np.argsort(confidence, kind="stable"), number), 1):
        inside = confidence[members]
        row = {"bin": place, "images": len(members), "confidence": inside.mean()}
        row |= {"lowest": inside.min(), "highest": inside.max()}
        for name, values in scores.items():
            value, low, high = bootstrap.estimate_mean(values[members])
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def calibration_error(calibration):
    """Return the expected calibration error: the mean distance of a bin's accuracy from its confidence (Guo 2017)."""
    distance = (calibration["accuracy"] - calibration["confidence"]).abs()
    return float(np.average(distance, weights=calibration["images"]))


def discrimination(images):
    """Return the area under the ROC curve of the confidence for correct captions; NaN if all are alike."""
    labelled = images[images["class"] != ""]
    right = labelled["correct"].to_numpy(bool)
    return float(roc_auc_score(right, labelled["confidence"])) if 0 < right.sum() < len(right) else np.nan

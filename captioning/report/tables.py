"""The tables of the analysis report: captioned images in, one DataFrame for each question out.

The images (image_table), the whole split (summary_table), the classes (class_table), the best and the worst of them
(extreme_classes), what is taken for what (frequent_mistakes), how captions name classes (case_table, nested_table),
classifiers beside the captions (yardstick_table), why classes fail (diagnosis_table), what goes with what
(relation_table), the number of references (reference_table), the language (language_table), and whether the
captions' confidence can be trusted (calibration_table). Intervals hold 95 % of a thousand bootstrap draws.
"""

from collections import Counter

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from captioning.data.tokenizer import tokenize
from captioning.scores import bootstrap
from captioning.scores.grounding import (
    CASES,
    NONE,
    Grounder,
    classification_scores,
    name_words,
    naming_case,
    per_class_scores,
)
from captioning.scores.metrics import cider_d, corpus_bleu, rouge_l, sentence_bleu

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
RARELY = 0.5  # a class that its captions name in a smaller share of its images is told of
FEWEST_IN_BIN = 10  # images of a bin of confidence
CLASS_COLUMNS = [
    "class",
    "bleu4",
    "sentence_bleu4",
    "cider_d",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "count",
]


def build_grounders(labels, trained_classes, aliases):
    """Return two Grounders over the classes of data and checkpoint: with the aliases, and without.

    labels: of the data, "" = none; without any the result is (None, None)
    aliases: class -> further words; where there are none the second is None
    """
    classes = sorted(set(labels) - {""})
    if not classes:
        return None, None
    # Of a class that both spell differently ("Tennis court", tennis_court) the data's spelling counts.
    known = Grounder(classes, aliases)
    classes += {name_words(name): name for name in trained_classes if not known.label(name)}.values()
    return Grounder(classes, aliases), Grounder(classes) if aliases else None


def image_table(predictions, root, grounder=None):
    """One row for each image: image, class, caption, references, [named, correct, mentions, case,] scores, confidence.

    root:     the image's path is written relative to this folder where it lies below it
    grounder: Grounder; without it there are no columns `named`, `correct`, `mentions` and `case`

    `named` is the first class that the caption names, "(none)" = none of them, `mentions` all of them, and `case`
    the key in CASES of how they stand to the true one. CIDEr-D takes its document frequencies from the references
    of all these images.
    """
    hypotheses, references = token_lists(predictions)
    table = pd.DataFrame(
        {
            "image": [relative_path(p.example.image, root) for p in predictions],
            "class": [p.example.label for p in predictions],
            "caption": [p.caption for p in predictions],
            "references": [" | ".join(p.example.captions) for p in predictions],
        }
    )
    if grounder:
        mentions = [grounder.find(p.caption) for p in predictions]
        table["named"] = [next(iter(names), NONE) for names in mentions]
        # An image without a class is neither right nor wrong.
        pairs = zip(table["named"], table["class"], strict=True)
        table["correct"] = [named == label if label else "" for named, label in pairs]
        table["mentions"] = [" | ".join(names) for names in mentions]
        pairs = zip(table["class"], mentions, strict=True)
        table["case"] = [naming_case(label, names) if label else "" for label, names in pairs]
    table["sentence_bleu4"] = sentence_bleu(hypotheses, references)
    table["rouge_l"] = rouge_l(hypotheses, references)[1]
    table["cider_d"] = cider_d(hypotheses, references)[1]
    table["log_prob"] = [p.log_prob for p in predictions]
    table["confidence"] = [p.confidence for p in predictions]
    return table


def token_lists(predictions):
    """Return (hypotheses, references) as the metrics take them."""
    hypotheses = [p.caption.split() for p in predictions]
    return hypotheses, [[tokenize(caption) for caption in p.example.captions] for p in predictions]


def relative_path(path, root):
    """Return `path` as text with forward slashes, relative to `root` where it lies below it."""
    path = path.relative_to(root) if path.is_relative_to(root) else path
    return path.as_posix()


def count_scores(images, hypotheses, references, classes=None):
    """Return the bootstrap.Counts of the rows of an image_table, with their classes where it has `named`.

    classes: what can be named; None = the classes in the table
    """
    if "named" not in images:
        return bootstrap.count(hypotheses, references)
    classes = true_and_named(images)[2] if classes is None else classes
    named = images["named"].replace(NONE, "").tolist()
    return bootstrap.count(hypotheses, references, classes, images["class"].tolist(), named)


def draw_class_scores(counts):
    """Return name -> (draws, C) of bootstrap.class_scores: the images of each class are drawn for themselves."""
    return bootstrap.resample(lambda weights: bootstrap.class_scores(counts, weights), len(counts.true), counts.true)


def class_table(images, hypotheses, references, counts, draws):
    """One row for each class that has an image, in order of name: CLASS_COLUMNS, intervals, agreement.

    images: image_table with the columns `named` and `correct`; hypotheses and references belong to its rows
    counts: count_scores of them; draws: draw_class_scores of these

    bleu4 is the corpus BLEU-4 of the class's images, sentence_bleu4 and cider_d are means of theirs. `<score>_low`
    and `<score>_high` bound each score's interval. `agreement` is the corpus BLEU-4 of one reference of each image
    against its others, how alike reference captions of this class are; NaN where an image has a single one.
    """
    labelled, rows = images[images["class"] != ""], []
    for name, group in labelled.groupby("class"):
        theirs = [references[i] for i in group.index]
        bleu = corpus_bleu([hypotheses[i] for i in group.index], theirs)
        means = group[["sentence_bleu4", "cider_d"]].mean()
        row = {"class": name, "bleu4": bleu[3], **means}
        for score, drawn in draws.items():
            low, high = bootstrap.interval(drawn[:, counts.classes.index(name)])
            row |= {f"{score}_low": low, f"{score}_high": high}
        fewest = min(map(len, theirs))
        row["agreement"] = reference_bleu(theirs, fewest - 1) if fewest > 1 else np.nan
        rows.append(row)
    table = pd.DataFrame(rows).merge(per_class_scores(*true_and_named(images)), on="class")
    return table[[*CLASS_COLUMNS, *table.columns.difference(CLASS_COLUMNS, sort=False)]]


def reference_bleu(references, most):
    """Corpus BLEU-4 of one reference of each image against `most` of its others, the mean over which one it is."""
    fewest = min(map(len, references))
    values = []
    for left_out in range(fewest):
        others = [take(group, left_out + 1, most) for group in references]
        values.append(corpus_bleu([group[left_out] for group in references], others)[3])
    return float(np.mean(values))


def take(group, start, number):
    """Return `number` of the entries of a list from `start` on, going on at its beginning after its end."""
    return [group[(start + step) % len(group)] for step in range(number)]


def true_and_named(images):
    """Return the (true, named, all) classes of the images that have one, as grounding.py takes them."""
    labelled = images[images["class"] != ""]
    true, named = labelled["class"].tolist(), labelled["named"].replace(NONE, "").tolist()
    return true, named, sorted({*true, *named} - {""})


def summary_table(images, caption_scores, recipe, draws=None):
    """The scores of the whole split: metric, value, recipe, low, high.

    caption_scores: name in METRICS or JAVA_METRICS -> value
    recipe:         function (that name, number of images) -> what the value depends on
    draws:          name -> (draws,) of bootstrap.all_scores; a score without draws has no interval

    Where images have classes, these count too; precision, recall and F1 are means over the split's classes, plain
    and weighted by their images.
    """
    scores, count, draws = dict(caption_scores), {}, draws or {}
    if "named" in images:
        true, named, classes = true_and_named(images)
        scores |= classification_scores(true, named, classes)
        count = dict.fromkeys(CLASS_METRICS, len(true))
    rows = []
    for name, label in (METRICS | JAVA_METRICS).items():
        if name in scores:
            low, high = bootstrap.interval(draws[name]) if name in draws else (np.nan, np.nan)
            rows.append((label, scores[name], recipe(name, count.get(name, len(images))), low, high))
    return pd.DataFrame(rows, columns=["metric", "value", "recipe", "low", "high"])


def rank_classes(classes):
    """Return the class table, best BLEU-4 first; ties go by the mean sentence BLEU-4, then by name."""
    return classes.sort_values(["bleu4", "sentence_bleu4", "class"], ascending=[False, False, True])


def extreme_classes(classes, most=MOST_EXTREME):
    """The best and the worst classes by BLEU-4: group (top, bottom), rank (0 = average), CLASS_COLUMNS.

    No class stands in both groups: of fewer than 2 * most each group has half, a single class is in none.
    """
    ranked = rank_classes(classes)
    size = min(most, len(ranked) // 2)
    groups = []
    for name, group in (("top", ranked.head(size)), ("bottom", ranked.tail(size)[::-1])):
        if size:
            group = group[CLASS_COLUMNS]
            average = {"class": "(average)", **group.drop(columns="class").mean()}
            group = pd.concat([group, pd.DataFrame([average])], ignore_index=True)
            group.insert(0, "rank", [*range(1, size + 1), 0])
            group.insert(0, "group", name)
            groups.append(group)
    columns = ["group", "rank", *CLASS_COLUMNS]
    return pd.concat(groups, ignore_index=True) if groups else pd.DataFrame(columns=columns)


def frequent_mistakes(matrix, most=10):
    """The largest counts off the diagonal of a confusion matrix: class, named, images, share of the class."""
    counts = matrix.rename_axis(index="class", columns="named").stack().rename("images").reset_index()
    counts["share"] = counts["images"] / counts.groupby("class")["images"].transform("sum").clip(lower=1)
    wrong = counts[(counts["class"] != counts["named"]) & (counts["images"] > 0)]
    return wrong.sort_values(["images", "share"], ascending=False, kind="stable", ignore_index=True).head(most)


def counted(number, noun):
    """Return "1 image", "2,100 images", "3 classes"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def listed(names, most=10):
    """Return the first names joined by commas, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest


# ---- which class a caption names -------------------------------------------------------------------------


def case_table(predictions, grounder):
    """How often captions name classes in each way: case, captions, captions_share, references, references_share."""
    labelled = [p for p in predictions if p.example.label]
    ours = Counter(naming_case(p.example.label, grounder.find(p.caption)) for p in labelled)
    theirs = Counter(
        naming_case(p.example.label, grounder.find(caption)) for p in labelled for caption in p.example.captions
    )
    rows = [
        (printed, ours[case], ours[case] / max(1, ours.total()), theirs[case], theirs[case] / max(1, theirs.total()))
        for case, printed in CASES.items()
    ]
    return pd.DataFrame(rows, columns=["case", "captions", "captions_share", "references", "references_share"])


def nested_table(images, grounder):
    """The captions in which a class's name stands inside another's: image, class, caption, named, inside."""
    rows = [
        (image, label, caption, named, inside)
        for image, label, caption in images[["image", "class", "caption"]].itertuples(index=False)
        for named, inside in grounder.nested(caption)
    ]
    return pd.DataFrame(rows, columns=["image", "class", "caption", "named", "inside"])


def reference_naming(predictions, grounder):
    """Return class -> share of its images' reference captions that name it first: what its captions allow."""
    named, total = Counter(), Counter()
    for prediction in predictions:
        example = prediction.example
        named[example.label] += sum(grounder.name(caption) == example.label for caption in example.captions)
        total[example.label] += len(example.captions)
    return {label: named[label] / total[label] for label in total if label}


def yardstick_table(rows):
    """Classifiers beside each other: classifier, images, accuracy, low, high, precision, recall, f1, weighted_f1, note.

    rows: (what classifies, true classes, classes named, "" = none, shares, note); `shares` is the share of each image's
          captions that is right where an image has several, else None: the interval is over images
    """
    table = []
    for classifier, true, named, shares, note in rows:
        classes = sorted({*true, *named} - {""})
        scores = classification_scores(true, named, classes)
        shares = np.array(true) == np.array(named) if shares is None else shares
        low, high = bootstrap.mean_interval(shares.astype(float))
        kept = {name: scores[name] for name in ("precision", "recall", "f1", "weighted_f1")}
        row = {
            "classifier": classifier,
            "images": len(shares),
            "accuracy": scores["accuracy"],
            "low": low,
            "high": high,
        }
        table.append({**row, **kept, "note": note})
    return pd.DataFrame(table)


def class_accuracy(true, named):
    """Return class -> share of its images for which `named` has it; both (N,) class names, "" = none."""
    right = pd.Series(np.array(true) == np.array(named)).groupby(np.array(true)).mean()
    return right.drop("", errors="ignore").to_dict()


def diagnosis_table(classes, images, most=8):
    """Why the classes that captions name least often are not named: DIAGNOSIS_COLUMNS, the lowest accuracy first.

    classes: class_table with the columns `reference_naming` and, where there is a plain classifier, `probe`
    images:  image_table

    Every class below RARELY is there, and the lowest `most` of the others with a mistake. `unnamed_bleu4` is the
    mean sentence BLEU-4 of its captions that do not name it; `words` are those of its references that set it apart.
    """
    low = classes[classes["accuracy"] < 1].sort_values(["accuracy", "bleu4"])
    low = low.head(max(most, int((low["accuracy"] < RARELY).sum())))
    words = typical_words(images, low["class"].tolist())
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


def typical_words(images, classes, most=4):
    """Return class -> words in more of its images' references than in the others', the most different first.

    The words of the class's name are left out.
    """
    words = [set(tokenize(text)) for text in images["references"]]
    everywhere, size = Counter(word for found in words for word in found), len(words)
    typical = {}
    for label in classes:
        rows = np.flatnonzero(images["class"] == label)
        here = Counter(word for row in rows for word in words[row])
        rest = max(1, size - len(rows))
        gap = {word: here[word] / len(rows) - (everywhere[word] - here[word]) / rest for word in here}
        own = [word for word in gap if gap[word] > 0 and word not in name_words(label)]
        typical[label] = sorted(own, key=lambda word: (-gap[word], word))[:most]
    return typical


# ---- what goes with what ---------------------------------------------------------------------------------

RELATIONS = {  # (column, column) of the class table -> what their correlation tells
    ("bleu4", "accuracy"): "do classes with better captions have their names said more often?",
    ("cider_d", "accuracy"): "the same for CIDEr-D, which weighs rare words more",
    ("bleu4", "agreement"): "is BLEU-4 high where reference captions are alike?",
    ("accuracy", "agreement"): "is the class named where reference captions are alike?",
    ("accuracy", "reference_naming"): "is the class named where the references name it?",
    ("accuracy", "probe"): "is the class named where the encoder's features tell it?",
}


def relation_table(classes):
    """Spearman's rank correlation over the classes of pairs of columns: x, y, rho, low, high, classes, question.

    The interval is over samples of the classes: it tells how sure the correlation is for classes of this kind.
    """
    rows = []
    for (x, y), question in RELATIONS.items():
        if x in classes and y in classes:
            pairs = classes[[x, y]].dropna()
            rows.append((x, y, *bootstrap.correlation_interval(pairs[x], pairs[y]), len(pairs), question))
    return pd.DataFrame(rows, columns=["x", "y", "rho", "low", "high", "classes", "question"])


def group_table(classes, counts, draws, most=MOST_EXTREME):
    """The accuracy of the classes with the best and the worst BLEU-4: classes, best, worst, difference, low, high.

    One row, the groups as in extreme_classes, with the interval of the difference over the images of each class; no
    row where there are not two classes. `classes` is the size of a group.
    """
    ranked = rank_classes(classes)
    size = min(most, len(ranked) // 2)
    rows = []
    if size:
        groups = ranked[:size], ranked[-size:]
        best, worst = (
            draws["accuracy"][:, [counts.classes.index(name) for name in group["class"]]] for group in groups
        )
        low, high = bootstrap.interval(best.mean(axis=1) - worst.mean(axis=1))
        means = [group["accuracy"].mean() for group in groups]
        rows.append((size, *means, means[0] - means[1], low, high))
    return pd.DataFrame(rows, columns=["classes", "best", "worst", "difference", "low", "high"])


def price_of_a_class(images):
    """Mean sentence BLEU-4 of the captions with the right and with a wrong class: (right, wrong, low, high), or None.

    The interval is that of right - wrong. None if one of the two does not occur.
    """
    labelled = images[images["class"] != ""]
    right, scores = labelled["correct"].to_numpy(bool), labelled["sentence_bleu4"].to_numpy()
    if right.all() or not right.any():
        return None

    def difference(weights):
        means = [weights[:, side] @ scores[side] / weights[:, side].sum(axis=1) for side in (right, ~right)]
        return {"gap": means[0] - means[1]}

    low, high = bootstrap.interval(bootstrap.resample(difference, len(labelled), right)["gap"]).tolist()
    return float(scores[right].mean()), float(scores[~right].mean()), low, high


def reference_table(hypotheses, references):
    """The scores with fewer references: references, bleu4, cider_d, reference_bleu4, reference_cider_d.

    The `reference_` columns score a reference against others of its image. Every number is the mean over which
    references are taken, up to as many as the image with the fewest has.
    """
    fewest, rows = min(map(len, references)), []
    for number in range(1, fewest + 1):
        row, starts = {"references": number}, range(fewest if number < fewest else 1)
        chosen = [[take(group, start, number) for group in references] for start in starts]
        row["bleu4"] = float(np.mean([corpus_bleu(hypotheses, groups)[3] for groups in chosen]))
        row["cider_d"] = float(np.mean([cider_d(hypotheses, groups)[0] for groups in chosen]))
        row["reference_bleu4"] = row["reference_cider_d"] = np.nan
        if number < fewest:
            row["reference_bleu4"] = reference_bleu(references, number)
            ours = [[group[start - 1] for group in references] for start in starts]
            scores = [cider_d(texts, theirs)[0] for texts, theirs in zip(ours, chosen, strict=True)]
            row["reference_cider_d"] = float(np.mean(scores))
        rows.append(row)
    return pd.DataFrame(rows)


# ---- language and confidence -----------------------------------------------------------------------------


def language_table(hypotheses, references, trained, vocabulary_size):
    """What the captions are like beside the references': measure, captions, references (one of each image).

    trained:         set of the token tuples of train's captions
    vocabulary_size: words that the model can say
    """
    # In turn, because the first of each image is often written after one pattern.
    theirs = [group[row % len(group)] for row, group in enumerate(references)]
    columns = [language_measures(texts, trained) for texts in (hypotheses, theirs)]
    table = pd.DataFrame([(name, *(column[name] for column in columns)) for name in columns[0]])
    table.columns = ["measure", "captions", "references"]
    said = len({word for tokens in hypotheses for word in tokens})
    table.loc[len(table)] = ["share of the model's vocabulary used", said / max(1, vocabulary_size), np.nan]
    return table


def language_measures(texts, trained):
    """Return measure -> value of token lists. Distinct-n: different n-grams / all of them (Li et al. 2016)."""
    lengths, times = [len(tokens) for tokens in texts], Counter(map(tuple, texts))
    measures = {
        "share that stands word for word in train": float(np.mean([tuple(tokens) in trained for tokens in texts])),
        "share that is said of several images": sum(number for number in times.values() if number > 1) / len(texts),
        "different captions": float(len(times)),
        "different words": float(len({word for tokens in texts for word in tokens})),
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
            chosen = values[members]
            drawn = bootstrap.resample(
                lambda weights, values=chosen: {"mean": weights @ values / len(values)}, len(chosen)
            )["mean"]
            low, high = bootstrap.interval(drawn)
            row |= {name: chosen.mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def calibration_error(calibration):
    """Return the expected calibration error: the mean distance of a bin's accuracy from its confidence (Guo 2017)."""
    distance = (calibration["accuracy"] - calibration["confidence"]).abs()
    return float(np.average(distance, weights=calibration["images"]))


def discrimination(images):
    """Return how often a right caption is surer than a wrong one (the area under the ROC curve), NaN without both."""
    labelled = images[images["class"] != ""]
    right = labelled["correct"].to_numpy(bool)
    return float(roc_auc_score(right, labelled["confidence"])) if 0 < right.sum() < len(right) else np.nan


# ---- two models ------------------------------------------------------------------------------------------


def count_both(images, first, second):
    """Return the bootstrap.Counts of two models on the same images, with the classes that either names.

    images: an image_table of each; first, second: (hypotheses, references) of each
    """
    classes = None
    if "named" in images[0]:
        classes = sorted({name for table in images for name in true_and_named(table)[2]})
    return [count_scores(table, *texts, classes) for table, texts in zip(images, (first, second), strict=True)]


def comparison_table(differences, images, recipe):
    """bootstrap.paired_differences as a DataFrame: metric, first, second, difference, low, high, p, recipe.

    images: image_table of either model; recipe: as in summary_table
    """
    labelled = int((images["class"] != "").sum())
    rows = [
        (label, *differences[name], recipe(name, labelled if name in CLASS_METRICS else len(images)))
        for name, label in METRICS.items()
        if name in differences
    ]
    return pd.DataFrame(rows, columns=["metric", "first", "second", "difference", "low", "high", "p", "recipe"])

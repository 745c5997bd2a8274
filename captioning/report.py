"""The tables and the text of the analysis report: captioned images in, DataFrames and Markdown out.

One DataFrame per question: the images (image_table), the whole split (summary_table), the classes
(class_table), the best and the worst of them (extreme_classes), what is taken for what (frequent_mistakes).
"""

import re

import pandas as pd

from captioning.evaluation import FEWEST_FOR_CIDER
from captioning.grounding import NONE, Grounder, classification_scores, per_class_scores
from captioning.metrics import cider_d, corpus_bleu, rouge_l, sentence_bleu
from captioning.tokenizer import tokenize

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
}
JAVA_METRICS = {"meteor": "METEOR", "spice": "SPICE"}  # where asked for and possible, after the others
CLASS_METRICS = ("accuracy", "precision", "recall", "f1")
MOST_EXTREME = 10  # classes in the group of the best, and of the worst
FEW_WORDS = 0.95  # a vocabulary that holds a smaller share of the references' words is worth a sentence
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
    known = {class_words(name) for name in classes}
    classes += [name for name in trained_classes if class_words(name) not in known]
    return Grounder(classes, aliases), Grounder(classes) if aliases else None


def class_words(name):
    """Return the words of a class name, without regard to case, underscores and hyphens."""
    return tuple(tokenize(name.replace("_", " ").replace("-", " ")))


def image_table(predictions, root, grounder=None):
    """One row for each image: image, class, caption, references, [named, correct,] its own scores, log_prob.

    root:     the image's path is written relative to this folder where it lies below it
    grounder: Grounder; without it there are no columns `named` and `correct`

    `named` is the first class that the caption names, "(none)" = none of them. CIDEr-D takes its document
    frequencies from the references of all these images.
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
        table["named"] = [grounder.name(p.caption) or NONE for p in predictions]
        # An image without a class is neither right nor wrong.
        pairs = zip(table["named"], table["class"], strict=True)
        table["correct"] = [named == label if label else "" for named, label in pairs]
    table["sentence_bleu4"] = sentence_bleu(hypotheses, references)
    table["rouge_l"] = rouge_l(hypotheses, references)[1]
    table["cider_d"] = cider_d(hypotheses, references)[1]
    table["log_prob"] = [p.log_prob for p in predictions]
    return table


def token_lists(predictions):
    """Return (hypotheses, references) as the metrics take them."""
    hypotheses = [p.caption.split() for p in predictions]
    return hypotheses, [[tokenize(caption) for caption in p.example.captions] for p in predictions]


def relative_path(path, root):
    """Return `path` as text with forward slashes, relative to `root` where it lies below it."""
    path = path.relative_to(root) if path.is_relative_to(root) else path
    return path.as_posix()


def class_table(images, hypotheses, references):
    """One row for each class that has an image, in order of name: CLASS_COLUMNS.

    images: image_table with the columns `named` and `correct`; hypotheses and references belong to its rows

    bleu4 is the corpus BLEU-4 of the class's images, sentence_bleu4 and cider_d are means of theirs.
    """
    labelled, rows = images[images["class"] != ""], []
    for name, group in labelled.groupby("class"):
        bleu = corpus_bleu([hypotheses[i] for i in group.index], [references[i] for i in group.index])
        means = group[["sentence_bleu4", "cider_d"]].mean()
        rows.append({"class": name, "bleu4": bleu[3], **means})
    return pd.DataFrame(rows).merge(per_class_scores(*true_and_named(images)), on="class")[CLASS_COLUMNS]


def true_and_named(images):
    """Return the (true, named, all) classes of the images that have one, as grounding.py takes them."""
    labelled = images[images["class"] != ""]
    true, named = labelled["class"].tolist(), labelled["named"].replace(NONE, "").tolist()
    return true, named, sorted({*true, *named} - {""})


def summary_table(images, caption_scores, recipe):
    """The scores of the whole split: metric, value, recipe.

    caption_scores: name in METRICS or JAVA_METRICS -> value
    recipe:         function (that name, number of images) -> what the value depends on

    Where images have classes, these count too; precision, recall and F1 are means over the split's classes.
    """
    scores, count = dict(caption_scores), {}
    if "named" in images:
        true, named, classes = true_and_named(images)
        scores |= classification_scores(true, named, classes)
        count = dict.fromkeys(CLASS_METRICS, len(true))
    rows = [
        (label, scores[name], recipe(name, count.get(name, len(images))))
        for name, label in (METRICS | JAVA_METRICS).items()
        if name in scores
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "recipe"])


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
    return wrong.sort_values(["images", "share"], ascending=False, kind="stable").head(most)


def markdown_table(table, digits=3):
    """Write a DataFrame as a Markdown table; fractions get `digits` digits, a bar in a cell is escaped."""

    def cell(value):
        text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
        return re.sub(r"\s+", " ", text).replace("|", "\\|")

    rules = ["---:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in table.dtypes]
    rows = [table.columns, rules, *table.astype(object).itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in rows)


FILES = {  # every file of a report -> what it holds; data without classes has the first three alone
    "report.md": "the results in words and tables",
    "summary.csv": "one row per metric: `metric`, `value`, and `recipe`, what the value depends on",
    "images.csv": (
        "one row per image: `class` is the true one, `caption` the model's, `references` are joined by "
        "` | `, `named` is the class that the caption names first, `correct` whether it is the true one; "
        "`sentence_bleu4`, `rouge_l` and `cider_d` are the caption's own scores, `log_prob` is in nats"
    ),
    "classes.csv": (
        "one row per class: `bleu4` is the corpus BLEU-4 of its images, `sentence_bleu4` and `cider_d` are "
        "means, `accuracy` is the share of its images whose caption names it first, `count` its images"
    ),
    "classes.png": "the same as bars",
    "top_bottom.csv": "the best and the worst classes by `bleu4`; `rank` 0 is the group's average",
    "confusion.csv": "images by true class (rows) and class named (columns, `(none)`: no class is named)",
    "confusion.png": "the same as a picture, shaded by the share of the true class",
}
FILES_WITHOUT_CLASSES = list(FILES)[:3]


def counted(number, noun):
    """Return "1 image", "2,100 images", "3 classes"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def listed(names, most=10):
    """Return the first names joined by commas, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest


def findings(tables, *, subject, reference_accuracy):
    """Return the sentences that open the report.

    subject:            what captioned what, as "mobile captioned the val split of pictograms with beam 5"
    reference_accuracy: share of the reference captions that name the class of their own image first
    """
    score = tables["summary"].drop_duplicates("metric").set_index("metric")["value"]
    facts = [
        f"{subject}: {counted(len(tables['images']), 'image')}. Against the references the captions have "
        f"BLEU-4 {score['BLEU-4']:.3f}, ROUGE-L {score['ROUGE-L']:.3f} and CIDEr-D {score['CIDEr-D']:.2f}."
    ]
    if "classes" not in tables:
        return facts
    ranked = rank_classes(tables["classes"])
    facts.append(
        f"For {score['average accuracy']:.1%} of the images the caption names the true one of "
        f"{counted(len(ranked), 'class')} first; of the reference captions {reference_accuracy:.1%} do."
    )
    if len(ranked) > 1:
        best, worst = ranked.iloc[0], ranked.iloc[-1]
        facts.append(
            f"By BLEU-4 the best class is {best['class']} ({best['bleu4']:.3f}), "
            f"the worst {worst['class']} ({worst['bleu4']:.3f})."
        )
    if len(tables["mistakes"]):
        first = tables["mistakes"].iloc[0]
        named = "no class" if first["named"] == NONE else first["named"]
        times = counted(first["images"], "time")
        facts.append(f"The most frequent mistake is to name {named} where {first['class']} is true: {times}.")
    return facts


def reservations(tables, *, unreadable=(), unseen=(), known_words=1.0, skipped=None):
    """Return what a reader has to know before he trusts a number, a sentence each.

    unreadable:  paths of the images left out
    unseen:      classes of the data that the checkpoint was not trained on
    known_words: share of the references' words that the model's vocabulary holds
    skipped:     name in JAVA_METRICS that was asked for -> why there is no such score
    """
    images, notes = tables["images"], []
    if unreadable:
        notes.append(f"Left out, not readable: {counted(len(unreadable), 'image')} ({listed(unreadable)}).")
    if known_words < FEW_WORDS:
        notes.append(f"{1 - known_words:.1%} of the references' words are not in the model's vocabulary.")
    if len(images) < FEWEST_FOR_CIDER:
        notes.append(
            f"CIDEr-D says little here: it weighs a word by how rare it is in the split, and this has "
            f"{counted(len(images), 'image')}."
        )
    notes += [f"{JAVA_METRICS[name]} was skipped: {reason}." for name, reason in (skipped or {}).items()]
    if "classes" not in tables:
        return [*notes, "The data has no classes: the report is about the captions alone."]
    without = int((images["class"] == "").sum())
    if without:
        notes.append(f"{counted(without, 'image')} without a class: counted in the caption scores alone.")
    if unseen:
        notes.append(f"The checkpoint never saw {counted(len(unseen), 'class')} of the data: {listed(unseen)}.")
    number = len(tables["classes"])
    if number < 2 * MOST_EXTREME:
        notes.append(
            f"{counted(number, 'class')}, fewer than {2 * MOST_EXTREME}: the best and the worst group have "
            f"{number // 2} each, so that no class stands in both."
        )
    return notes


def report_text(title, facts, notes, tables):
    """Write the report in Markdown: findings, reservations, tables, and what the files beside it hold."""
    parts = [f"# {title}", " ".join(facts)]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += ["## Results", markdown_table(tables["summary"], digits=4)]
    if "classes" in tables:
        for group, word in (("top", "Best"), ("bottom", "Worst")):
            rows = tables["top_bottom"]
            rows = rows[rows["group"] == group].drop(columns="group")
            if len(rows):
                rows = rows.assign(
                    rank=[rank or "" for rank in rows["rank"]],
                    count=[f"{count:g}" for count in rows["count"]],
                )
                parts += [f"## {word} {counted(len(rows) - 1, 'class')} by BLEU-4", markdown_table(rows)]
        mistakes = tables["mistakes"]
        none = "None: every caption names the true class first."
        parts += ["## Most frequent mistakes", markdown_table(mistakes) if len(mistakes) else none]
    files = [name for name in FILES if "classes" in tables or name in FILES_WITHOUT_CLASSES]
    parts += ["## Files", "\n".join(f"- [`{name}`]({name}): {FILES[name]}" for name in files)]
    return "\n\n".join(parts) + "\n"

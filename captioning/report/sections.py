"""The sections of the report, from its tables and sentences, in the same order for every run.

If the data has no classes, the sections about classes stay and say so: reports can be compared section by section.
"""

import random

from captioning.cli import counted
from captioning.data import audit
from captioning.plots import caption_lines
from captioning.report.columns import column_of
from captioning.report.document import Facts, Figure, Gallery, Matrix, Section, Table, Text
from captioning.report.provenance import provenance_rows
from captioning.report.tables import FEWEST_IN_CLASS, extremes, judged_classes
from captioning.scores.bootstrap import DIGITS
from captioning.scores.grounding import NONE

GALLERY_IMAGES = 10  # of the best, and of the worst captions
MISTAKES_SHOWN, IMAGES_OF_A_MISTAKE = 10, 2
ROWS_SHOWN = 10  # of tables whose CSV may have thousands
NO_CLASSES = Text(["The data has no classes."])

APOSTROPHES = (
    "In the CSV files, text that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@` or a tab), "
    "or that begins with an apostrophe, has an apostrophe before it; in pandas, "
    '`table[column].str.removeprefix("\'")` gives back what it was.'
)
FILES = {  # every file of a report -> what it holds; some are there only where the data has classes, or mistakes
    "report.md": "the results in words, tables and figures",
    "report.html": "the same as one self-contained page; a click on a column head sorts its table",
    "tables.tex": "the scores of the split and of the classes for LaTeX",
    "report.json": (
        "every number for programs: where the report comes from (`provenance`), the `sentences`, and each of the "
        "`tables` with the name, the meaning and the recipe of its columns"
    ),
    "summary.csv": (
        "one row per metric: `metric`, `value`, `recipe`, what the value depends on, and `low` and `high`, its 95 % "
        "interval over the images: percentiles of 1,000 stratified bootstrap draws (the images of each class are drawn "
        "among themselves), moved so that the median of the draws is the value; no interval for macro scores where a "
        "class has one image"
    ),
    "images.csv": (
        "one row per image: `class` is the true one, `caption` the model's, `references` are joined by "
        "` | `, `named` is the class that the caption names first, `correct` whether it is the true one, `mentions` "
        "all the classes named, `case` how they stand to the true one (alone, first, later, other, none); "
        "`sentence_bleu4`, `rouge_l` and `cider_d` are the caption's own scores, `log_prob` is in nats, `confidence` "
        "the geometric mean of the probabilities of its tokens, `familiarity` the share of the model's validation "
        "pictures that are less like its training pictures"
    ),
    "classes.csv": (
        "one row per class: `bleu4` is the corpus BLEU-4 of its images, `sentence_bleu4` and `cider_d` are "
        "means, `accuracy` is the share of its images whose caption names it first, `count` its images, `_low` and "
        "`_high` bound 95 % bootstrap intervals over its images, as in summary.csv (a class of one image has none); "
        "`agreement` is the BLEU-4 of its reference captions against each other, `reference_naming` the share of them "
        "that name it first, `probe` the plain classifier's accuracy"
    ),
    "classes.png": "the same as a bar chart",
    "training.png": "losses and validation scores over the epochs of the training",
    "top_bottom.csv": (
        f"the best and the worst classes by `bleu4`, of those with {FEWEST_IN_CLASS} images or more; classes of equal "
        "`bleu4` share a `rank`"
    ),
    "averages.csv": "the mean scores of the two groups of top_bottom.csv",
    "yardsticks.csv": "accuracy on the same images of the captions, the reference captions and the baselines",
    "yardsticks.png": "their accuracies",
    "cases.csv": "how captions name classes, and how the reference captions do",
    "nested.csv": "captions in which a class's name (`inside`) is part of another's (`named`)",
    "confusion.csv": "images by true class (rows) and class named (columns, `(none)`: no class is named)",
    "confusion.png": "the same as a heat map of the shares of the true class",
    "mistakes.csv": "confusion pairs, the most frequent first: `images`, and their `share` of the class",
    "mistakes.png": "pictures of the most frequent ones",
    "groups.csv": (
        "the accuracy of the classes with the best and the worst BLEU-4, and the difference with its interval over the "
        "images, as in summary.csv"
    ),
    "relations.csv": (
        "Spearman's rank correlations (`rho`) over the classes of two columns of classes.csv, with 95 % intervals over "
        "the classes by Fisher's transformation (variance of Bonett and Wright 2000)"
    ),
    "scatter.png": "BLEU-4 against accuracy",
    "diagnosis.csv": (
        "the classes that captions name least often: what they name instead, `unnamed_bleu4`, the mean sentence BLEU-4 "
        "of the captions that do not name it, and `words`, those most typical of its reference captions"
    ),
    "references.csv": (
        "the scores against fewer references; `reference_` columns score one reference against others of its image"
    ),
    "references.png": "the same as a line plot",
    "sample.png": "captions drawn at random, the same ones of the same images",
    "best.png": "the captions with the highest CIDEr-D, one of each class",
    "worst.png": "the captions with the lowest CIDEr-D, one of each class",
    "language.csv": (
        "repetition, vocabulary and length of captions and references; distinct-n = different n-grams / all n-grams"
    ),
    "memory.csv": (
        "the scores of the model and of the captions of the most similar train images, their difference with its "
        "interval (each draw takes the same images of both), and `p`, two-sided"
    ),
    "lengths.png": "histogram of the lengths of captions and references",
    "calibration.csv": "equal-size bins of confidence with their scores and their bootstrap intervals",
    "calibration.png": "the same as a reliability diagram",
    "audit.csv": "the whole dataset: `measure`, `split`, `value`",
    "copies.csv": "images that an earlier split has, too",
}
FIGURES = {
    "classes.png": "Scores of every class with 95 % intervals, best BLEU-4 on top",
    "training.png": "Losses and validation scores over the epochs of the training",
    "yardsticks.png": "Accuracy of the captions and of the baselines",
    "confusion.png": "Confusion matrix: true class in rows, class named in columns",
    "scatter.png": "BLEU-4 against accuracy, one point for each class",
    "references.png": "Scores against the number of references",
    "lengths.png": "Lengths of the captions and of the references",
    "calibration.png": "Scores against confidence",
    "mistakes.png": "The most frequent confusion pairs",
    "sample.png": "Captions drawn at random",
    "best.png": "The captions with the highest CIDEr-D, one of each class",
    "worst.png": "The captions with the lowest CIDEr-D, one of each class",
}


# ---- galleries -------------------------------------------------------------------------------------------


def image_lines(row):
    """Return the plots.caption_lines of one row of the image table."""
    scores = f"BLEU-4 {row['sentence_bleu4']:.2f}, CIDEr-D {row['cider_d']:.2f}, confidence {row['confidence']:.2f}"
    reference = row["references"].split(" | ")[0]
    return caption_lines(row["class"], row["caption"], row.get("correct", ""), scores, reference)


def gallery_of(file, images, rows, paths):
    """Return the Gallery of some rows of the image_table; paths: the picture of each row."""
    lines = [image_lines(images.loc[row].to_dict()) for row in rows]
    text = FIGURES[file] if "named" in images else FIGURES[file].removesuffix(", one of each class")
    return Gallery(file, text, [paths[row] for row in rows], lines)


def extreme_rows(images):
    """Return (rows with the highest, rows with the lowest CIDEr-D), one of each class and none in both."""
    ranked = images.sort_values(["cider_d", "sentence_bleu4"], ascending=False, kind="stable")
    sides = []
    for places in extremes(ranked["cider_d"], len(ranked)):
        rows = ranked.iloc[places]
        sides.append(rows[~rows["class"].duplicated() | (rows["class"] == "")].index[:GALLERY_IMAGES].tolist())
    return sides


def sample_rows(images, seed=0):
    """Return rows drawn at random, in order."""
    return sorted(random.Random(seed).sample(range(len(images)), min(GALLERY_IMAGES, len(images))))


def mistake_gallery(mistakes, images, paths):
    """Return the Gallery of the most frequent confusion pairs, None if there are none."""
    chosen, lines = [], []
    for pair in mistakes.head(MISTAKES_SHOWN).to_dict("records"):
        rows = images[(images["class"] == pair["class"]) & (images["named"] == pair["named"])].head(IMAGES_OF_A_MISTAKE)
        named = "no class" if pair["named"] == NONE else pair["named"]
        head = f"{pair['class']} → {named}: {pair['images']} ({pair['share']:.0%})"
        chosen += [paths[index] for index in rows.index]
        lines += [[(head, "label"), *image_lines(row)[1:]] for row in rows.to_dict("records")]
    return Gallery("mistakes.png", FIGURES["mistakes.png"], chosen, lines) if chosen else None


def chosen_rows(images):
    """Return name of a gallery -> rows of the image_table that it shows; no best and worst where all tie."""
    best, worst = extreme_rows(images)
    chosen = {"sample": sample_rows(images), "best": best, "worst": worst}
    return {name: rows for name, rows in chosen.items() if rows}


def build_galleries(tables, paths):
    """Return name -> Gallery: a random sample and, where there are some, the best, the worst, the confused captions.

    paths: the picture of each row of the image_table
    """
    images = tables["images"]
    chosen = chosen_rows(images).items()
    galleries = {name: gallery_of(f"{name}.png", images, rows, paths) for name, rows in chosen}
    if len(tables.get("mistakes", ())):
        galleries["mistakes"] = mistake_gallery(tables["mistakes"], images, paths)
    return galleries


# ---- sections --------------------------------------------------------------------------------------------


def interval_cells(frame, names, digits=3):
    """Return a DataFrame with each score's `_low` and `_high` as one column of text behind it, "0.6 to 0.7" or "–"."""
    shown = frame.copy()
    for name in names:
        low, high = shown.pop(f"{name}_low" if name else "low"), shown.pop(f"{name}_high" if name else "high")
        cells = [f"{a:.{digits}f} to {b:.{digits}f}" if a == a else "–" for a, b in zip(low, high, strict=True)]
        name = name or "value"
        shown.insert(shown.columns.get_loc(name) + 1, f"{name} 95 %", cells)
    return shown


def figure(file):
    """Return the Figure of a file in FIGURES."""
    return Figure(file, FIGURES[file])


def build_sections(tables, texts, galleries, provenance):
    """Return the Sections of the report.

    tables:     name -> DataFrame, as FILES tells; without classes those about classes are missing
    texts:      section -> sentences, as sentences.build_texts makes them
    galleries:  name -> Gallery, as of build_galleries
    provenance: of provenance.build_provenance
    """
    classed = "classes" in tables
    return [
        Section(
            "Summary",
            [
                Text(texts["warnings"], warning=True),
                Text([" ".join(texts["facts"])]),
                Text(texts["notes"], points=True),
            ],
        ),
        Section("Where this comes from", [Facts(provenance_rows(provenance))]),
        Section("Results", [Table(interval_cells(tables["summary"], [""], 4), 4)]),
        Section("Classes", class_blocks(tables, texts) if classed else [NO_CLASSES]),
        Section("Which class a caption names", naming_blocks(tables, galleries) if classed else [NO_CLASSES]),
        Section("BLEU-4 and accuracy", relation_blocks(tables, texts) if classed else [NO_CLASSES]),
        Section(
            "Number of references",
            [Text(texts["references"]), figure("references.png"), Table(tables["references"], name="references")],
        ),
        Section("Random, best and worst captions", gallery_blocks(galleries)),
        Section(
            "Repeated and copied captions",
            [Text(texts["language"]), figure("lengths.png"), Table(tables["language"])],
        ),
        Section("How much is memory", memory_blocks(tables, texts)),
        Section("Confidence", confidence_blocks(tables, texts)),
        Section("Training", training_blocks(provenance)),
        Section("Data audit", data_blocks(tables, texts)),
    ]


def gallery_blocks(galleries):
    """Return the galleries of single captions, or why there are no best and worst ones."""
    shown = [galleries[name] for name in ("sample", "best", "worst") if name in galleries]
    if len(shown) > 1:
        return shown
    return [*shown, Text(["No caption is best or worst: all have the same CIDEr-D, or there is only one."])]


def extreme_blocks(extreme, averages, classes):
    """Return the tables of the best and the worst classes with their averages, or why there are none."""
    scores = judged_classes(classes)["bleu4"].round(DIGITS)
    blocks = []
    for group, word in (("top", "Best"), ("bottom", "Worst")):
        rows = extreme[extreme["group"] == group].drop(columns="group")
        if len(rows):
            ties = "; equal BLEU-4 is one rank" if rows["rank"].duplicated().any() else ""
            last = rows["bleu4"].round(DIGITS).iloc[-1]
            if left_out := int((scores == last).sum() - (rows["bleu4"].round(DIGITS) == last).sum()):
                are = "is" if left_out == 1 else "are"
                ties += f"; {counted(left_out, 'more class')} with that of the last {are} left out"
            average = averages[averages["group"] == group].to_dict("records")[0]
            foot = {name: average[name] for name in rows.columns if name in average} | {"class": "average"}
            blocks += [Text([f"{word} {counted(len(rows), 'class')} by BLEU-4{ties}:"]), Table(rows, foot=(foot,))]
    return blocks or [
        Text(
            [
                f"No class is best or worst: it takes two or more with {FEWEST_IN_CLASS} images or more and different "
                "BLEU-4."
            ]
        )
    ]


def class_blocks(tables, texts):
    """Return the blocks about the classes: the best and worst, all of them, and the yardsticks."""
    blocks = extreme_blocks(tables["top_bottom"], tables["averages"], tables["classes"])
    classes = tables["classes"]
    kept = ["class", "count", "bleu4", "sentence_bleu4", "cider_d", "accuracy", "f1"]
    kept += ["agreement", "reference_naming", "probe"]
    shown = classes[[name for name in kept if name in classes]]
    for name in ("bleu4", "accuracy", "f1"):
        place = shown.columns.get_loc(name) + 1
        for end in ("high", "low"):
            shown.insert(place, f"{name}_{end}", classes[f"{name}_{end}"])
    blocks += [
        figure("classes.png"),
        Text(["All classes, with 95 % intervals over the images of each class:"]),
        Table(interval_cells(shown, ["bleu4", "accuracy", "f1"], 2)),
        Text(["The captions as a classifier, beside baselines:"]),
        figure("yardsticks.png"),
        Table(
            interval_cells(
                tables["yardsticks"].rename(columns={"low": "accuracy_low", "high": "accuracy_high"}), ["accuracy"]
            )
        ),
    ]
    return [*blocks, Text(texts["yardsticks"], points=True)]


def naming_blocks(tables, galleries):
    """Return the blocks about the classes that captions name: cases, nested names, confusion."""
    nested, mistakes = tables["nested"], tables["mistakes"]
    blocks = [Table(tables["cases"])]
    if len(nested):
        number = counted(nested["image"].nunique(), "caption")
        text = f"In {number} a class's name is part of another's; the longest name counts."
        blocks += [Text([text]), Table(nested.head(ROWS_SHOWN))]
    else:
        blocks.append(Text(["No caption has a class's name that is part of another's."]))
    blocks.append(Matrix(tables["confusion"], "confusion.png", FIGURES["confusion.png"]))
    if not len(mistakes):
        return [*blocks, Text(["Mistakes: none, every caption names the true class first."])]
    return [
        *blocks,
        Text(["Confusion pairs, the most frequent first:"]),
        Table(mistakes.head(ROWS_SHOWN)),
        galleries["mistakes"],
    ]


def relation_blocks(tables, texts):
    """Return the blocks about BLEU-4 and accuracy: the verdict, the scatter, the classes that are not named."""
    blocks = [
        Text(texts["bleu"]),
        figure("scatter.png"),
        Table(relation_rows(tables["relations"]), 2),
    ]
    if not texts["diagnoses"]:
        return [*blocks, Text([nothing_to_diagnose(tables["classes"])])]
    return [
        *blocks,
        Text(["Why the classes with the lowest accuracy are not named:"]),
        Text(texts["diagnoses"], points=True),
    ]


def relation_rows(relations):
    """Return the table of correlations as it is shown, the scores by their names."""
    shown = relations.assign(**{side: [column_of("classes", name).name for name in relations[side]] for side in "xy"})
    return interval_cells(shown.rename(columns={"low": "rho_low", "high": "rho_high"}), ["rho"], 2)


def nothing_to_diagnose(classes):
    """Return why no class is diagnosed."""
    if (classes["accuracy"] == 1).all():
        return "Every caption names the true class."
    return f"Every caption of the classes with {FEWEST_IN_CLASS} images or more names the true class."


def memory_blocks(tables, texts):
    """Return the blocks about the captions of the most similar train images, or why there are none."""
    blocks = [Text(texts["memory"])]
    if "memory" in tables:
        shown = tables["memory"].rename(columns={"low": "difference_low", "high": "difference_high"})
        blocks.append(Table(interval_cells(shown, ["difference"], 3), 3))
    return blocks


def confidence_blocks(tables, texts):
    """Return the blocks about the captions' confidence."""
    explained = "The confidence is the geometric mean of the tokens' probabilities, with `<end>` if it was said."
    calibration = tables["calibration"]
    names = [name for name in ("accuracy", "sentence_bleu4", "cider_d") if name in calibration]
    return [
        Text([" ".join([explained, *texts["confidence"]])]),
        figure("calibration.png"),
        Table(interval_cells(calibration, names, 2)),
    ]


def training_blocks(provenance):
    """Return the curves of the training, or that the model has none."""
    if any(model["epochs"] for model in provenance["models"][:1]):
        return [figure("training.png")]
    return [Text(["The model's file holds no history of its training."])]


def data_blocks(tables, texts):
    """Return the blocks of the audit, or why there is none."""
    blocks = [Text(texts["data"], points=True)]
    if "audit" in tables:
        blocks.append(Table(audit.overview(tables["audit"])))
        if len(tables["copies"]):
            blocks.append(Table(tables["copies"].head(ROWS_SHOWN)))
    return blocks


def file_section(names):
    """Return the Section that tells what the files beside the report hold."""
    files = [f"[`{name}`]({name}): {FILES[name]}" for name in FILES if name in names]
    return Section("Files", [Text(files, points=True), Text([APOSTROPHES])])

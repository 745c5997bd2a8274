"""The comparison of several models on the same images: its tables, its sentences and its sections.

One score, the primary one, decides: each pair of models is tested by it, and the p-values are corrected by Holm's
procedure, since of many tests some are significant by chance. All other differences are told without a verdict.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from captioning.cli import counted
from captioning.report.document import Facts, Figure, Section, Table, Text
from captioning.report.provenance import provenance_rows
from captioning.report.sentences import between, split_reservations
from captioning.report.tables import CLASS_METRICS, METRICS, image_table, listed, recipe_writer
from captioning.scores import bootstrap
from captioning.scores.variety import sameness

FEWEST_MODELS, MOST_MODELS = 2, 10
SIGNIFICANT = 1 - bootstrap.LEVEL
IMAGES_SHOWN = 5
COMPARISON_FILES = {
    "report.md": "the comparison in words, tables and a figure",
    "report.html": "the same as one self-contained page",
    "report.json": "every number for programs, and where the comparison comes from",
    "comparison.csv": (
        "one row per model and metric: `value` with its 95 % interval `low` and `high` (1,000 bootstrap draws within "
        "each class), and `recipe`, what the value depends on"
    ),
    "pairs.csv": (
        "one row per pair of models and metric: the values of both, their `difference` (the first minus the second) "
        "with its 95 % interval (each draw takes the same images of all models), and `p`, two-sided: twice (k + 1) / "
        "(draws + 1), with k draws on the other side of 0; `p_holm`, of the primary score alone, is corrected by "
        "Holm's procedure for the number of pairs"
    ),
    "comparison.png": "the differences of the primary score",
    "images.csv": (
        "one row per image: the caption of each model, the class it names, its CIDEr-D, and their `spread`, the "
        "highest minus the lowest CIDEr-D; the largest first"
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Several models on the same images.

    names:   of the models
    title:   of the report; about: what was compared, in a sentence
    primary: the name in METRICS of the score that decides
    scores:  score_table; pairs: pair_table; images: all_captions; lines: the sentences, the verdict first
    """

    names: list
    title: str
    about: str
    primary: str
    scores: pd.DataFrame
    pairs: pd.DataFrame
    images: pd.DataFrame
    lines: list


def compare_models(scored, subjects, primary):
    """Return the Comparison of models: the Scored and the tables.Subject of each, of the same images.

    primary: name in METRICS of the score that decides. Raises ValueError for a score that the data does not have.
    """
    subject, names = subjects[0], distinct([subject.run for subject in subjects])
    if primary in CLASS_METRICS and not scored[0].has_classes:
        raise ValueError(f"primary: got {primary}, which needs classes; {subject.dataset.name} has none")
    decodings = list(dict.fromkeys(one.options for one in subjects))
    images = [image_table(side, subject.dataset.root) for side in scored]
    said = [f"{name} with {one.options.text()}" for name, one in zip(names, subjects, strict=True)]
    how = f"with {decodings[0].text()}" if len(decodings) == 1 else f"each as it decodes best: {'; '.join(said)}"
    pairs = pair_table([side.counts for side in scored], names, primary)
    label, number = METRICS[primary], len(names) * (len(names) - 1) // 2
    about = (
        f"{'Both' if len(names) == 2 else f'All {len(names)} models'} captioned the same "
        f"{counted(len(images[0]), 'image')}, {how}. The primary score is {label}: its p-values come from "
        f"{bootstrap.draws_for(number):,} paired bootstrap draws and are corrected for {counted(number, 'pair')} by "
        "Holm's procedure. All intervals are 95 % intervals over the images, without correction."
    )
    alike = [
        f"{name}: {same}"
        for name, table in zip(names, images, strict=True)
        if (same := sameness(table["caption"].tolist()))
    ]
    return Comparison(
        names=names,
        title=f"{listed(names, 3)} on {subject.dataset.name}, {subject.split} split",
        about=about,
        primary=primary,
        scores=score_table(scored, subjects, names),
        pairs=pairs,
        images=all_captions(images, names),
        lines=[
            *alike,
            *verdicts(pairs, label),
            *disagreement(images, names),
            *split_reservations(subject, scored[0]),
        ],
    )


def distinct(names):
    """Return names of models, no two of them alike; those that occur more than once get a number."""
    found = []
    for place, name in enumerate(names, 1):
        shown = name
        while (shown in found or shown in names) and names.count(name) > 1:
            shown = f"{shown} ({place})"
        found.append(shown)
    return found


def score_table(scored, subjects, names):
    """The scores of each model: model, metric, value, low, high, recipe."""
    rows = []
    for name, side, subject in zip(names, scored, subjects, strict=True):
        recipe_of = recipe_writer(side, subject)
        count = dict.fromkeys(CLASS_METRICS, len(side.labelled))
        estimates = bootstrap.estimate_scores(side.counts)
        rows += [
            (name, label, *estimates[metric], recipe_of(metric, count.get(metric, len(side.hypotheses))))
            for metric, label in METRICS.items()
            if metric in estimates
        ]
    return pd.DataFrame(rows, columns=["model", "metric", "value", "low", "high", "recipe"])


def pair_table(sides, names, primary):
    """The differences of each pair of models: first, second, metric, first_value, second_value, ..., p, p_holm.

    sides: bootstrap.Counts of each model; primary: the score whose p-values are corrected, and have draws enough for it
    """
    pairs = list(combinations(range(len(names)), 2))
    drawn = bootstrap.draw_together(sides)
    many = bootstrap.draw_together(sides, (primary,), bootstrap.draws_for(len(pairs)))
    rows = []
    for metric, label in METRICS.items():
        values, draws = (part.get(metric) for part in (many if metric == primary else drawn))
        if values is None:
            continue
        found = [bootstrap.difference_of(values[[*pair]], draws[:, [*pair]]) for pair in pairs]
        p_holm = bootstrap.holm([one.p for one in found]) if metric == primary else [np.nan] * len(pairs)
        for (first, second), one, corrected in zip(pairs, found, p_holm, strict=True):
            rows.append((names[first], names[second], label, *one, corrected))
    columns = ["first", "second", "metric", "first_value", "second_value", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=columns)


def all_captions(images, names):
    """Return the image_tables of the models as one, the images on which they differ most first."""
    table = images[0][["image", "class"]].copy()
    for column in (name for name in ("caption", "named", "cider_d") if name in images[0]):
        for name, one in zip(names, images, strict=True):
            table[f"{name}: {column}"] = one[column]
    scores = np.stack([one["cider_d"] for one in images])
    table["spread"] = scores.max(axis=0) - scores.min(axis=0)
    return table.sort_values("spread", ascending=False, kind="stable")


# ---- sentences -------------------------------------------------------------------------------------------


def p_text(p):
    """Write a p-value: "0.012", "<0.001" or "–"."""
    return "–" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def verdicts(pairs, label):
    """Return a sentence for the whole, then one for each pair, of the primary score.

    pairs: pair_table; label: the primary score as printed
    """
    rows = pairs[pairs["metric"] == label]
    lines, better, untold = [], [], 0
    for row in rows.itertuples(index=False):
        numbers = (
            f"{row.first_value:.4f} and {row.second_value:.4f}, difference {row.difference:+.4f} "
            f"({between(row.low, row.high, 4)}), p {p_text(row.p)}, corrected {p_text(row.p_holm)}"
        )
        if row.difference == 0 and np.isnan(row.low):
            lines.append(f"{row.first} and {row.second}: no difference, both have {row.first_value:.4f}.")
        elif np.isnan(row.low):
            lines.append(f"{row.first} and {row.second}: no verdict, no draw changes the difference: {numbers}.")
            untold += 1
        elif row.p_holm < SIGNIFICANT:
            winner, loser = (row.first, row.second) if row.difference > 0 else (row.second, row.first)
            better.append(f"{winner} is better than {loser}")
            lines.append(f"{winner} is better than {loser}: {numbers}.")
        else:
            lines.append(f"{row.first} and {row.second}: no significant difference: {numbers}.")
    if better:
        whole = f"{'; '.join(better)} in {label}."
    elif (rows["difference"] == 0).all() and rows["low"].isna().all():
        whole = f"no difference: {'both' if len(rows) == 1 else 'all'} models have the same {label} on these images."
    elif untold == len(rows):
        whole = f"none in {label}: no draw from the images of each class changes the difference."
    else:
        rest = f"; {counted(untold, 'pair')} without a verdict" if untold else ""
        whole = f"no significant difference in {label} on these images{rest}."
    return [f"Verdict: {whole}", *lines]


def disagreement(images, names):
    """Return on how many images only one of two models names the true class; [] without classes or of more models.

    images: the image_table of each
    """
    if len(images) > 2 or "named" not in images[0]:
        return []
    labelled = images[0]["class"] != ""
    ours, theirs = (one.loc[labelled, "correct"].astype(bool) for one in images)
    return [
        f"Only {names[0]} names the true class of {counted(int((ours & ~theirs).sum()), 'image')}, only {names[1]} of "
        f"{counted(int((theirs & ~ours).sum()), 'image')}; both of {int((ours & theirs).sum()):,}, neither of "
        f"{int((~ours & ~theirs).sum()):,}."
    ]


# ---- sections --------------------------------------------------------------------------------------------


def wide_scores(scores):
    """Return the scores with a row for each model and a column for each metric."""
    labels = {label: name for name, label in METRICS.items()}
    wide = scores.pivot(index="model", columns="metric", values="value")
    wide = wide.loc[scores["model"].unique(), [label for label in METRICS.values() if label in wide]]
    return wide.rename(columns=labels).rename_axis(columns=None).reset_index()


def differing_images(images, names):
    """Return the captions of the images on which the models differ most: image, model, caption, CIDEr-D."""
    rows = [
        (row["image"], name, row[f"{name}: caption"], row[f"{name}: cider_d"])
        for row in images.head(IMAGES_SHOWN).to_dict("records")
        for name in names
    ]
    return pd.DataFrame(rows, columns=["image", "model", "caption", "cider_d"])


def pair_rows(pairs):
    """Return pairs as they are shown: intervals and p-values as text."""
    shown = pairs.drop(columns=["low", "high"])
    bounds = [between(low, high, 4) for low, high in zip(pairs["low"], pairs["high"], strict=True)]
    shown.insert(shown.columns.get_loc("difference") + 1, "difference 95 %", bounds)
    return shown.assign(p=[p_text(p) for p in pairs["p"]], p_holm=[p_text(p) for p in pairs["p_holm"]])


def comparison_sections(comparison, provenance):
    """Return the document.Sections of a Comparison; provenance: of provenance.build_provenance."""
    files = [f"[`{name}`]({name}): {text}" for name, text in COMPARISON_FILES.items()]
    label = METRICS[comparison.primary]
    primary = comparison.pairs["metric"] == label
    figure = Figure("comparison.png", f"Differences in {label} with 95 % intervals")
    others = [
        Text(["The other scores, without a verdict: of twenty intervals one misses the true difference by chance."]),
        Table(pair_rows(comparison.pairs[~primary]).drop(columns="p_holm"), 4, name="comparison"),
    ]
    return [
        Section("Summary", [Text([comparison.about]), Text(comparison.lines, points=True)]),
        Section("Where this comes from", [Facts(provenance_rows(provenance))]),
        Section("Results", [Table(wide_scores(comparison.scores), 4, name="comparison")]),
        Section(f"Pairs by {label}", [figure, Table(pair_rows(comparison.pairs[primary]), 4, name="comparison")]),
        Section("Pairs by the other scores", others),
        Section("Where they differ most", [Table(differing_images(comparison.images, comparison.names), 2)]),
        Section("Files", [Text(files, points=True)]),
    ]

"""The comparison of two models on the same images: its table, its sentences and its sections."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from captioning.cli import counted
from captioning.report.document import Figure, Section, Table, Text
from captioning.report.sections import ROWS_SHOWN
from captioning.report.sentences import told
from captioning.report.tables import CLASS_METRICS, METRICS, image_table, listed, recipe_writer
from captioning.scores.bootstrap import LEAST_P, paired_differences

COMPARISON_FILES = {
    "report.md": "the comparison in words, tables and a figure",
    "report.html": "the same as one self-contained page",
    "comparison.csv": (
        "one row per metric: both values, their `difference` with its 95 % interval `low` and `high` (1,000 bootstrap "
        "draws within each class, as in a report's summary.csv; each draw takes the same images of both models), `p`, "
        "two-sided: twice (k + 1) / 1001, with k draws on the other side of 0, so a value below 0.002 means that no "
        "draw lies there; and `recipe`, what the values depend on"
    ),
    "comparison.png": "the differences; CIDEr-D, whose scale is another, is in the table alone",
    "images.csv": "one row per image: both captions, the classes they name, and their CIDEr-D and its `difference`",
}


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    names:  of the models
    title:  of the report; about: what was compared, in a sentence
    table:  comparison_table; images: both_captions; lines: the sentences, the verdict first
    """

    names: list
    title: str
    about: str
    table: pd.DataFrame
    images: pd.DataFrame
    lines: list


def compare_models(scored, subjects):
    """Return the Comparison of two models: the Scored and the tables.Subject of each, of the same images."""
    subject, names = subjects[0], [subject.run for subject in subjects]
    if names[0] == names[1]:
        names = [f"{name} ({place})" for name, place in zip(names, ("first", "second"), strict=True)]
    decodings = list(dict.fromkeys(subject.options for subject in subjects))  # one where both have the same
    table = comparison_table(*scored, decodings)
    images = [image_table(side, subject.dataset.root) for side in scored]
    said = [f"{name} with {one.options.text()}" for name, one in zip(names, subjects, strict=True)]
    how = f"with {decodings[0].text()}" if len(decodings) == 1 else f"each as it decodes best: {'; '.join(said)}"
    about = (
        f"Both captioned the same {counted(len(images[0]), 'image')} {how}. Differences are "
        f"{names[0]} minus {names[1]}, with 95 % intervals of a paired bootstrap over the images; p is two-sided."
    )
    return Comparison(
        names=names,
        title=f"{names[0]} against {names[1]} on {subject.dataset.name}, {subject.split} split",
        about=about,
        table=table,
        images=both_captions(*images),
        lines=[*verdicts(table, *names), *disagreement(*images, *names)],
    )


def comparison_table(first, second, decodings):
    """Two models' Scored of the same images: metric, first, second, difference, low, high, p, recipe.

    decodings: the SearchOptions that both captioned with, or those of the first and of the second
    """
    has_aliases = bool(first.said_by_name)
    writers = [recipe_writer(first.references, options, has_aliases=has_aliases) for options in decodings]

    def recipe_of(name, count):
        return " vs ".join(write(name, count) for write in writers)

    count = dict.fromkeys(CLASS_METRICS, len(first.labelled))
    differences = paired_differences(first.counts, second.counts)
    rows = [
        (label, *differences[name], recipe_of(name, count.get(name, len(first.hypotheses))))
        for name, label in METRICS.items()
        if name in differences
    ]
    return pd.DataFrame(rows, columns=["metric", "first", "second", "difference", "low", "high", "p", "recipe"])


def both_captions(first, second):
    """Return the image_tables of two models as one, the images on which they differ most first."""
    both = first[["image", "class"]].copy()
    columns = [name for name in ("caption", "named", "cider_d") if name in first]
    for name in columns:
        both[f"first_{name}"], both[f"second_{name}"] = first[name], second[name]
    both["difference"] = first["cider_d"] - second["cider_d"]
    return both.sort_values("difference", key=abs, ascending=False, kind="stable")


# ---- sentences -------------------------------------------------------------------------------------------


def p_value(p):
    """Write a two-sided p: "p 0.012", or "p < 0.002" where the draws cannot tell it from 0."""
    return f"p < {LEAST_P:g}" if p < LEAST_P else f"p {p:.3f}"


def verdicts(comparison, first, second):
    """Return a sentence for each row of a comparison, and one for the whole before them.

    comparison: metric, first, second, difference, low, high, p
    """
    lines, better = [], {first: [], second: []}
    for row in comparison.itertuples(index=False):
        if row.difference == 0 and np.isnan(row.low):
            lines.append(f"{row.metric}: no difference, both have {row.first:.4f}.")
            continue
        winner = told(row.low, row.high, first, second, "")
        bounds = "no interval" if np.isnan(row.low) else f"{row.low:+.4f} to {row.high:+.4f}, {p_value(row.p)}"
        interval = f"{row.difference:+.4f} ({bounds})"
        if winner == "no verdict":
            lines.append(f"{row.metric}: no verdict, {interval}.")
        elif winner:
            better[winner].append(row.metric)
            lines.append(f"{row.metric}: {winner} is better, {interval}.")
        else:
            lines.append(f"{row.metric}: no significant difference, {interval}.")
    parts = [f"{name} is better in {listed(metrics, 20)}" for name, metrics in better.items() if metrics]
    if parts:
        whole = "; ".join(parts) + ". One of twenty 95 % intervals misses the true difference by chance."
    elif (comparison["difference"] == 0).all() and comparison["low"].isna().all():
        whole = "no difference: both models score the same on these images."
    else:
        whole = "no significant difference on these images."
    return [f"Verdict: {whole}", *lines]


def disagreement(first_images, second_images, first, second):
    """Return on how many images only one of two models names the true class; [] without classes.

    first_images, second_images: the image_table of each
    """
    if "named" not in first_images:
        return []
    labelled = first_images["class"] != ""
    ours, theirs = (images.loc[labelled, "correct"].astype(bool) for images in (first_images, second_images))
    return [
        f"Only {first} names the true class of {counted(int((ours & ~theirs).sum()), 'image')}, only {second} of "
        f"{counted(int((theirs & ~ours).sum()), 'image')}; both of {int((ours & theirs).sum()):,}, neither of "
        f"{int((~ours & ~theirs).sum()):,}."
    ]


def comparison_sections(comparison):
    """Return the document.Sections of a Comparison."""
    files = [f"[`{name}`]({name}): {text}" for name, text in COMPARISON_FILES.items()]
    shown = comparison.table.rename(columns=dict(zip(("first", "second"), comparison.names, strict=True)))
    shown["p"] = ["–" if np.isnan(p) else p_value(p).removeprefix("p ") for p in shown["p"]]
    return [
        Section("Summary", [Text([comparison.about]), Text(comparison.lines, points=True)]),
        Section("Results", [Figure("comparison.png", "Differences with 95 % intervals"), Table(shown, 4)]),
        Section("Where they differ most", [Table(comparison.images.head(ROWS_SHOWN), 2)]),
        Section("Files", [Text(files, points=True)]),
    ]

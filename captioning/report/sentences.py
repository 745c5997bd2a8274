"""The sentences of the analysis report: its tables in, what they say out.

A sentence claims no more than its interval allows: where the interval of a difference holds 0, the images do not tell.
"""

import numpy as np

from captioning.evaluation import FEWEST_FOR_CIDER
from captioning.report.tables import (
    JAVA_METRICS,
    MOST_EXTREME,
    RARELY,
    calibration_error,
    counted,
    discrimination,
    listed,
    price_of_a_class,
    rank_classes,
)
from captioning.scores.bootstrap import correlation_interval
from captioning.scores.grounding import NONE

FEW_WORDS = 0.95  # a vocabulary that holds a smaller share of the references' words is worth a sentence
HIGH_BLEU = 0.5  # of the whole split's BLEU-4: a class that is not named above it has captions that only sound right
RELIABLE = 0.7  # area under the ROC curve from which on the confidence tells right captions from wrong ones
CAN_NAME = 0.5  # share of the references, or of the plain classifier's answers, that name a class that can be named


def between(low, high, digits=3):
    """Write an interval: "0.603 to 0.691"."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def score_of(tables):
    """Return metric as printed -> its row of the summary, the first where aliases give it two."""
    return {row.metric: row for row in tables["summary"].drop_duplicates("metric").itertuples(index=False)}


def findings(tables, *, subject, reference_accuracy):
    """Return the sentences that open the report.

    subject:            what captioned what, as "mobile captioned the val split of pictograms with beam 5"
    reference_accuracy: share of the reference captions that name the class of their own image first
    """
    score = score_of(tables)
    bleu, rouge, cider = (score[name] for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"))
    facts = [
        f"{subject}: {counted(len(tables['images']), 'image')}. Against the references the captions have "
        f"BLEU-4 {bleu.value:.3f} ({between(bleu.low, bleu.high)}), ROUGE-L {rouge.value:.3f} "
        f"({between(rouge.low, rouge.high)}) and CIDEr-D {cider.value:.2f} ({between(cider.low, cider.high, 2)}); "
        "in brackets 95 % bootstrap intervals over the images."
    ]
    if "classes" not in tables:
        return facts
    ranked, accuracy = rank_classes(tables["classes"]), score["average accuracy"]
    facts.append(
        f"For {accuracy.value:.1%} of the images the caption names the true one of "
        f"{counted(len(ranked), 'class')} first ({accuracy.low:.1%} to {accuracy.high:.1%}); of the reference captions "
        f"{reference_accuracy:.1%} do."
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


def reservations(tables, *, unreadable=(), unseen=(), absent=(), known_words=1.0, skipped=None):
    """Return what a reader has to know before he trusts a number, a sentence each.

    unreadable:  paths of the images left out
    unseen:      classes of the data that the checkpoint was not trained on
    absent:      classes of the data without an image in the split
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
    if len(images) == 1:
        notes.append("One image has no spread: an interval from a single image says nothing.")
    notes += [f"{JAVA_METRICS[name]} was skipped: {reason}." for name, reason in (skipped or {}).items()]
    if "classes" not in tables:
        return [*notes, "The data has no classes: the report is about the captions alone."]
    without = int((images["class"] == "").sum())
    if without:
        notes.append(f"{counted(without, 'image')} without a class: counted in the caption scores alone.")
    if unseen:
        notes.append(f"The checkpoint never saw {counted(len(unseen), 'class')} of the data: {listed(unseen)}.")
    if absent:
        notes.append(f"The split has no image of {counted(len(absent), 'class')} of the data: {listed(absent)}.")
    classes = tables["classes"]
    number = len(classes)
    if number < 2 * MOST_EXTREME:
        notes.append(
            f"{counted(number, 'class')}, fewer than {2 * MOST_EXTREME}: the best and the worst group have "
            f"{number // 2} each, so that no class stands in both."
        )
    certain = classes[classes["accuracy"] == 1]
    if len(certain):
        # With the share p of images right, all n are right with probability p ** n.
        size = int(certain["count"].max())
        notes.append(
            f"The interval of an accuracy of 1 is 1 to 1, because draws repeat no mistake that was not seen: after "
            f"{size} right of {size} the true accuracy may still be {0.05 ** (1 / size):.2f}."
        )
    return notes


NAMES = {  # column of the class table -> as written in sentences
    "bleu4": "BLEU-4",
    "accuracy": "Accuracy",
    "agreement": "the BLEU-4 of reference captions against each other",
    "reference_naming": "the share of reference captions that name the class",
    "probe": "the plain classifier's accuracy",
}


# ---- BLEU-4 and accuracy -------------------------------------------------------------------------------


def told(low, high, positive, negative, neither):
    """Return the text for an interval above 0, below 0, or around it (NaN is around it)."""
    return positive if low > 0 else negative if high < 0 else neither


def bleu_and_accuracy(tables):
    """Return the sentences about what BLEU-4 and the class accuracy have to do with each other."""
    price = price_of_a_class(tables["images"])
    relations = {(row.x, row.y): row for row in tables["relations"].itertuples(index=False)}
    relation, facts = relations["bleu4", "accuracy"], []
    if np.isnan(relation.rho):
        facts.append(
            f"Whether classes with better captions are named more often cannot be told here: there is no rank "
            f"correlation over {counted(relation.classes, 'class')}, too few or all with the same score."
        )
    else:
        verdict = told(
            relation.low,
            relation.high,
            "classes with better captions are named more often",
            "classes with better captions are named less often",
            "the classes do not tell whether the two go together",
        )
        facts.append(
            f"Over the {counted(relation.classes, 'class')} BLEU-4 and accuracy have the rank correlation "
            f"{relation.rho:.2f} (95 % interval {between(relation.low, relation.high, 2)}): {verdict}."
        )
    for row in tables["groups"].itertuples(index=False):
        verdict = told(
            row.low,
            row.high,
            "the best captions name their class more often",
            "the best captions name their class less often",
            "the images do not tell which group names its class more often",
        )
        points = [f"{100 * value:.1f}" for value in (row.difference, row.low, row.high)]
        facts.append(
            f"The {counted(row.classes, 'class')} with the best BLEU-4 have the accuracy {row.best:.1%}, those with "
            f"the worst {row.worst:.1%}, a difference of {points[0]} points ({points[1]} to {points[2]}): {verdict}."
        )
    if price:
        right, wrong, low, high = price
        facts.append(
            f"The class is one word of many: a caption that names the true class has the mean sentence BLEU-4 "
            f"{right:.3f}, one that does not still {wrong:.3f} (difference {between(low, high)}), so a class can have "
            "good captions that do not name it."
        )
    for pair, positive, negative in (
        (
            ("bleu4", "agreement"),
            "BLEU-4 is high where reference captions are alike",
            "BLEU-4 is low where they are alike",
        ),
        (
            ("accuracy", "reference_naming"),
            "the class is named where the references name it",
            "the class is named where they do not",
        ),
        (
            ("accuracy", "probe"),
            "the class is named where the features tell it",
            "the class is named where they do not",
        ),
    ):
        if pair in relations and not np.isnan(relations[pair].rho):
            row = relations[pair]
            verdict = told(row.low, row.high, positive, negative, "no relation that these classes could tell")
            correlation = f"{row.rho:.2f} ({between(row.low, row.high, 2)})"
            facts.append(f"{NAMES[row.x]} and {NAMES[row.y]}: {correlation}, {verdict}.")
    return facts


def diagnoses(tables):
    """Return a sentence for each row of the diagnosis table: what is said instead, and where the fault lies."""
    split_bleu, lines = score_of(tables)["BLEU-4"].value, []
    for row in tables["diagnosis"].itertuples(index=False):
        instead = row.named_instead.replace(NONE, "no class")
        line = (
            f"{row[0]}: accuracy {row.accuracy:.2f} ({between(row.accuracy_low, row.accuracy_high, 2)}) at BLEU-4 "
            f"{row.bleu4:.3f}. Reference captions of this class name it in {row.reference_naming:.0%} of cases, "
            f"predictions name instead: {instead}."
        )
        if row.accuracy < RARELY and row.bleu4 >= HIGH_BLEU * split_bleu:
            line += " Its captions score well without naming it: BLEU-4 does not see the mistake."
        lines.append(f"{line} {fault(row)}".rstrip())
    return lines


def fault(row):
    """Return where the fault of a row of the diagnosis table lies: in the captions, the encoder, or the decoder."""
    if row.reference_naming < CAN_NAME:
        known = (
            "" if np.isnan(row.probe) else f" A plain classifier on the encoder's features has {row.probe:.0%} of them."
        )
        return (
            f"The captions do not teach the name: the words that set them apart are {', '.join(row.words.split())}; "
            f"those that stand for the class belong into aliases.csv.{known}"
        )
    if row.accuracy >= RARELY:
        return ""
    if np.isnan(row.probe):
        return "The captions name it, so the model does not see it, or does not say it."
    if row.probe < CAN_NAME:
        return f"The encoder does not tell it from others: a plain classifier on its features has {row.probe:.0%}."
    return f"The encoder knows it, a plain classifier on its features has {row.probe:.0%}: the decoder does not say it."


# ---- references, language, confidence --------------------------------------------------------------------


def reference_effect(table):
    """Return what the number of references does to the scores."""
    if len(table) < 2:
        return ["Every image is scored against one reference, so the effect of their number cannot be told."]
    first, last = table.iloc[0], table.iloc[-1]
    fewer = table.iloc[-2]
    return [
        f"The same captions have BLEU-4 {first['bleu4']:.3f} against one reference and {last['bleu4']:.3f} against "
        f"{last['references']:.0f}, CIDEr-D {first['cider_d']:.2f} and {last['cider_d']:.2f}: scores with another "
        "number of references cannot be compared.",
        f"A reference against {counted(int(fewer['references']), 'other')} of its image has BLEU-4 "
        f"{fewer['reference_bleu4']:.3f} and CIDEr-D {fewer['reference_cider_d']:.2f}, where the model has "
        f"{fewer['bleu4']:.3f} and {fewer['cider_d']:.2f}.",
    ]


def language_findings(table):
    """Return what the captions are like beside the references'."""
    ours, theirs = (dict(zip(table["measure"], table[column], strict=True)) for column in ("captions", "references"))
    copied, repeated = "share that stands word for word in train", "share that is said of several images"
    return [
        f"{ours[copied]:.1%} of the captions stand word for word in train (of reference captions of these images "
        f"{theirs[copied]:.1%}), and {ours[repeated]:.1%} are said of several images ({theirs[repeated]:.1%}).",
        f"They use {ours['different words']:.0f} different words where the references use "
        f"{theirs['different words']:.0f}, and have {ours['words, mean']:.1f} words on average where theirs have "
        f"{theirs['words, mean']:.1f}.",
    ]


def confidence_findings(images, calibration):
    """Return whether the confidence of a caption can be trusted: of an image_table and its calibration_table."""
    rho, low, high = correlation_interval(images["confidence"], images["cider_d"])
    facts = []
    if not np.isnan(rho):
        verdict = told(
            low,
            high,
            "surer captions are better",
            "surer captions are worse",
            "it does not tell good captions from bad ones",
        )
        facts.append(
            f"Confidence and CIDEr-D have the rank correlation {rho:.2f} ({between(low, high, 2)}): {verdict}."
        )
    if "accuracy" not in calibration:
        return facts
    least, most = calibration.iloc[0], calibration.iloc[-1]
    if len(calibration) > 1:
        facts.append(
            f"Of the least sure {counted(int(least['images']), 'image')} {least['accuracy']:.1%} name their class, of "
            f"the surest {most['images']:.0f} {most['accuracy']:.1%}."
        )
    surer = discrimination(images)
    if not np.isnan(surer):
        verdict = "tells right captions from wrong ones" if surer >= RELIABLE else "hardly tells right from wrong"
        facts.append(f"A right caption is surer than a wrong one in {surer:.0%} of the pairs, so it {verdict}.")
    mean = float(np.average(calibration["confidence"], weights=calibration["images"]))
    accuracy = float(np.average(calibration["accuracy"], weights=calibration["images"]))
    side = "less" if mean < accuracy else "more"
    facts.append(
        f"Read as the probability of naming the class it promises {side} than it keeps: mean confidence {mean:.3f}, "
        f"accuracy {accuracy:.3f}, expected calibration error {calibration_error(calibration):.3f}."
    )
    return facts


def section_texts(tables):
    """Return section -> its sentences, of the report's tables."""
    classed = "classes" in tables
    return {
        "bleu": bleu_and_accuracy(tables) if classed else [],
        "diagnoses": diagnoses(tables) if classed else [],
        "references": reference_effect(tables["references"]),
        "language": language_findings(tables["language"]),
        "confidence": confidence_findings(tables["images"], tables["calibration"]),
    }


# ---- two models ------------------------------------------------------------------------------------------


def verdicts(comparison, first, second):
    """Return a sentence for each row of a comparison, and one for the whole before them.

    comparison: metric, first, second, difference, low, high, p
    """
    lines, better = [], {first: [], second: []}
    for row in comparison.itertuples(index=False):
        if row.difference == row.low == row.high == 0:
            lines.append(f"{row.metric}: no difference, both have {row.first:.4f}.")
            continue
        winner = told(row.low, row.high, first, second, "")
        interval = f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f}, p {row.p:.3f})"
        if winner:
            better[winner].append(row.metric)
            lines.append(f"{row.metric}: {winner} is better, {interval}.")
        else:
            lines.append(f"{row.metric}: no difference can be told, {interval}.")
    parts = [f"{name} is better in {listed(metrics, 20)}" for name, metrics in better.items() if metrics]
    if parts:
        whole = "; ".join(parts) + ". Of twenty such intervals one misses the truth by chance."
    elif (comparison["difference"] == 0).all() and (comparison["low"] == 0).all() and (comparison["high"] == 0).all():
        whole = "no difference: the two caption these images alike."
    else:
        whole = "no difference can be told from these images."
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

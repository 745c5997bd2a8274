"""The sentences of the analysis report, made from its tables.

No sentence claims more than its interval supports: a difference or a correlation whose interval contains 0 is called
not significant, and one without an interval gets no verdict. Classes of fewer than tables.FEWEST_IN_CLASS images are
neither ranked nor judged.
"""

from collections import Counter

import numpy as np

from captioning.cli import counted
from captioning.data.class_names import spoken_names
from captioning.evaluation import FEWEST_FOR_CIDER
from captioning.familiarity import UNLIKE
from captioning.report.tables import (
    FEWEST_IN_CLASS,
    JAVA_METRICS,
    METRICS,
    MOST_EXTREME,
    RARELY,
    calibration_error,
    discrimination,
    frequent_mistakes,
    judged_classes,
    listed,
    price_of_a_class,
    rank_classes,
    relative_path,
)
from captioning.scores.bootstrap import DIGITS, estimate_correlation, estimate_mean
from captioning.scores.grounding import NONE, Grounder
from captioning.scores.variety import one_for_all, sameness

FEW_WORDS = 0.95  # a vocabulary that holds a smaller share of the references' words is worth a sentence
HIGH_BLEU = 0.5  # share of the whole split's BLEU-4 above which captions of a class that is not named score well
ANY_BLEU = 0.05  # a lower BLEU-4 is never said to be good
RELIABLE = 0.7  # least area under the ROC curve at which the confidence separates correct captions from wrong ones
CAN_NAME = 0.5  # least share of the references, or of the classifier's answers, that name a class that can be named


def between(low, high, digits=3):
    """Write an interval: "0.603 to 0.691", or "no interval" where there is none."""
    return "no interval" if np.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def percent_between(low, high):
    """Write an interval of shares: "60.3% to 69.1%", or "no interval"."""
    return "no interval" if np.isnan(low) else f"{low:.1%} to {high:.1%}"


def score_of(tables):
    """Return metric as printed -> its row of the summary, the first where aliases give it two."""
    return {row.metric: row for row in tables["summary"].drop_duplicates("metric").itertuples(index=False)}


def findings(tables, subject):
    """Return the sentences that open the report on a tables.Subject."""
    score = score_of(tables)
    bleu, rouge, cider = (score[name] for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"))
    facts = [
        f"{subject.run} captioned the {subject.split} split of {subject.dataset.name} with {subject.options.text()}: "
        f"{counted(len(tables['images']), 'image')}. Against the references the captions have "
        f"BLEU-4 {bleu.value:.3f} ({between(bleu.low, bleu.high)}), ROUGE-L {rouge.value:.3f} "
        f"({between(rouge.low, rouge.high)}) and CIDEr-D {cider.value:.2f} ({between(cider.low, cider.high, 2)}); "
        "in brackets 95 % bootstrap intervals over the images."
    ]
    if "classes" not in tables:
        return facts
    accuracy = score["average accuracy"]
    yardsticks = tables["yardsticks"].set_index("classifier")["accuracy"]
    reference_accuracy = yardsticks["reference captions"]
    facts.append(
        f"For {accuracy.value:.1%} of the images the caption names the true one of "
        f"{counted(len(tables['classes']), 'class')} first ({percent_between(accuracy.low, accuracy.high)}); of the "
        f"reference captions {reference_accuracy:.1%} do."
    )
    return [
        *facts,
        *class_range(tables["classes"]),
        *frequent_mistake(frequent_mistakes(tables["confusion"], most=None)),
    ]


def familiarity_findings(images):
    """Return a sentence on how many pictures are unlike the training pictures, and how they do; [] = not known."""
    if "familiarity" not in images:
        return []
    unlike = images["familiarity"] < UNLIKE
    sentence = (
        f"{unlike.mean():.1%} of the images are unlike the model's training pictures, as {UNLIKE:.0%} of its "
        "validation split are"
    )
    if min(unlike.sum(), (~unlike).sum()) >= FEWEST_IN_CLASS:
        scores = [images.loc[rows, "cider_d"].mean() for rows in (unlike, ~unlike)]
        sentence += f"; the mean CIDEr-D of their captions is {scores[0]:.2f}, that of the others {scores[1]:.2f}"
    return [f"{sentence}."]


def class_range(classes):
    """Return a sentence on the best and the worst class by BLEU-4, all of them where several tie; [] below two."""
    ranked = rank_classes(judged_classes(classes))
    if len(ranked) < 2:
        return []
    scores = ranked["bleu4"].round(DIGITS)
    if scores.min() == scores.max():
        return [f"All {len(ranked):,} classes have the same BLEU-4 ({scores.max():.3f}): none is best or worst."]
    said = []
    for word, value in (("best", scores.max()), ("worst", scores.min())):
        names = ranked.loc[scores == value, "class"].tolist()
        said.append(
            f"the {word} class is {names[0]} ({value:.3f})"
            if len(names) == 1
            else f"the {word} classes are {listed(names, 3)} ({value:.3f} each)"
        )
    return [f"By BLEU-4 {said[0]}, {said[1]}."]


def frequent_mistake(mistakes):
    """Return a sentence on the most frequent mistake, or on all that are as frequent; [] where there is none."""
    most = mistakes[mistakes["images"] == mistakes["images"].max()]
    pairs = [
        f"{'no class' if row['named'] == NONE else row['named']} where {row['class']} is true"
        for row in most.to_dict("records")
    ]
    if not pairs:
        return []
    times = counted(int(most["images"].iloc[0]), "time")
    if len(pairs) == 1:
        return [f"The most frequent mistake is to name {pairs[0]}: {times}."]
    more = f", and {counted(len(pairs) - 3, 'more pair')}" if len(pairs) > 3 else ""
    return [f"The most frequent mistakes are to name {'; '.join(pairs[:3])}{more}: {times} each."]


def known_words(scored, vocabulary):
    """Return the share of the references' running words, 0 to 1, that the model can say."""
    words = [word for group in scored.references for tokens in group for word in tokens]
    return sum(word in vocabulary for word in words) / max(1, len(words))


def reservations(tables, subject, scored, skipped=None):
    """Return what limits the numbers of a report on a tables.Subject, a sentence each.

    skipped: name in JAVA_METRICS that was asked for -> why there is no such score
    """
    images, notes = tables["images"], split_reservations(subject, scored)
    known = known_words(scored, subject.vocabulary)
    if known < FEW_WORDS:
        notes.append(f"{1 - known:.1%} of the references' words are not in the model's vocabulary.")
    empty = int((images["caption"] == "").sum())
    if empty:
        notes.append(f"{counted(empty, 'caption')} of {len(images):,} {'is' if empty == 1 else 'are'} empty.")
    notes += [f"{JAVA_METRICS[name]} was skipped: {reason}." for name, reason in (skipped or {}).items()]
    if not scored.has_classes:
        return [*notes, "The data has no classes: the report is about the captions alone."]
    return notes + class_reservations(tables, subject)


def split_reservations(subject, scored):
    """Return what the images and their references limit, whatever the model, a sentence each."""
    dataset, number, notes = subject.dataset, len(scored.examples), []
    read = {example.image for example in scored.examples}
    unreadable = [relative_path(e.image, dataset.root) for e in dataset.splits[subject.split] if e.image not in read]
    if unreadable:
        notes.append(f"Left out, not readable: {counted(len(unreadable), 'image')} ({listed(unreadable)}).")
    if alike := one_for_all([" ".join(tokens) for group in scored.references for tokens in group], subject.split):
        notes.append(f"{alike}.")
    if number < FEWEST_FOR_CIDER:
        notes.append(
            f"CIDEr-D is unreliable here: its document frequencies come from the split, which has only "
            f"{counted(number, 'image')}."
        )
    if number == 1:
        notes.append("One image has no spread: an interval from a single image says nothing.")
    if not scored.has_classes:
        return notes
    sizes = Counter(scored.labels)
    if without := sizes.pop("", 0):
        notes.append(f"{counted(without, 'image')} without a class: counted in the caption scores alone.")
    if single := sum(size == 1 for size in sizes.values()):
        notes.append(
            f"{counted(single, 'class')} with one image: such a class has no interval, and neither have macro "
            "precision, recall and F1."
        )
    return notes


def class_reservations(tables, subject):
    """Return what limits the numbers about classes, a sentence each."""
    classes, notes = tables["classes"], []
    labels = {example.label for example in subject.dataset.splits[subject.split]}
    trained = Grounder(subject.classes)
    spoken = spoken_names(sorted(labels - {""}))
    unseen = sorted(label for label in spoken if not (trained.label(label) or trained.label(spoken[label])))
    absent = sorted(set(subject.dataset.classes) - labels)
    if unseen and subject.classes:  # of a model that was trained without classes nothing is known
        notes.append(f"The checkpoint never saw {counted(len(unseen), 'class')} of the data: {listed(unseen)}.")
    if absent:
        notes.append(f"The split has no image of {counted(len(absent), 'class')} of the data: {listed(absent)}.")
    number = len(judged_classes(classes))
    if few := len(classes) - number:
        notes.append(
            f"{counted(few, 'class')} with fewer than {FEWEST_IN_CLASS} images: their scores are in the table of all "
            "classes, but they are neither ranked nor judged."
        )
    if 1 < number < 2 * MOST_EXTREME:
        notes.append(
            f"{counted(number, 'class')}, fewer than {2 * MOST_EXTREME}: the best and the worst group have at most "
            f"{number // 2} each, so that no class stands in both."
        )
    return notes + missing_intervals(tables)


def missing_intervals(tables):
    """Return why accuracies have no interval, a sentence each."""
    classes, notes = tables["classes"], []
    summary = tables["summary"].set_index("metric")["low"]
    if np.isnan(summary.loc[[METRICS["accuracy"]]].iloc[0]) and len(tables["images"]) > 1:
        notes.append(
            "Within each class the captions are all right or all wrong, so the accuracy and what is made of it have no "
            "interval: draws from the images of each class do not vary."
        )
    certain = classes[(classes["accuracy"] == 1) & (classes["count"] > 1)]
    if len(certain):
        # With the share p of images right, all n are right with probability p ** n.
        size = int(certain["count"].max())
        notes.append(
            "A class with the accuracy 1 has no interval, because no draw contains a mistake (of the accuracy 0 "
            f"likewise). After {size} correct of {size} the true accuracy may still be {0.05 ** (1 / size):.2f} "
            "(one-sided 95 % bound)."
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
    """Return the text for an interval above 0, below 0, or around it; without an interval there is no verdict."""
    if np.isnan(low):
        return "no verdict"
    return positive if low > 0 else negative if high < 0 else neither


def bleu_and_accuracy(tables):
    """Return the sentences about the relation between BLEU-4 and the class accuracy."""
    price = price_of_a_class(tables["images"])
    relations = {(row.x, row.y): row for row in tables["relations"].itertuples(index=False)}
    relation, facts = relations["bleu4", "accuracy"], []
    if np.isnan(relation.rho):
        facts.append(
            f"The rank correlation of BLEU-4 and accuracy is undefined: {counted(relation.classes, 'class')} with "
            f"{FEWEST_IN_CLASS} images or more {'is' if relation.classes == 1 else 'are'} too few, or all have the "
            "same score."
        )
    else:
        verdict = told(
            relation.low,
            relation.high,
            "classes with better captions are named more often",
            "classes with better captions are named less often",
            "no significant correlation",
        )
        facts.append(
            f"Over the {counted(relation.classes, 'class')} BLEU-4 and accuracy have the rank correlation "
            f"{relation.rho:.2f} (95 % interval {between(relation.low, relation.high, 2)}): {verdict}."
        )
    facts += [group_sentence(row) for row in tables["groups"].itertuples(index=False)]
    if price:
        facts.append(price_sentence(*price))
    for pair, positive, negative in (
        (
            ("bleu4", "agreement"),
            "BLEU-4 is higher where reference captions are alike",
            "BLEU-4 is lower where reference captions are alike",
        ),
        (
            ("accuracy", "reference_naming"),
            "classes that the references name are named more often",
            "classes that the references name are named less often",
        ),
        (
            ("accuracy", "probe"),
            "classes that the plain classifier recognises are named more often",
            "classes that the plain classifier recognises are named less often",
        ),
    ):
        if pair in relations and not np.isnan(relations[pair].rho):
            row = relations[pair]
            verdict = told(row.low, row.high, positive, negative, "no significant correlation")
            correlation = f"{row.rho:.2f} ({between(row.low, row.high, 2)})"
            facts.append(f"{NAMES[row.x]} and {NAMES[row.y]}: {correlation}, {verdict}.")
    return facts


def group_sentence(row):
    """Return the sentence on a row of the group table."""
    verdict = told(
        row.low,
        row.high,
        "the best captions name their class more often",
        "the best captions name their class less often",
        "no significant difference",
    )
    if np.isnan(row.low):
        verdict = "no verdict, because all draws are alike: the captions of each class are all right or all wrong"
    best = "The class" if row.best_classes == 1 else f"The {row.best_classes} classes"
    have = "has" if row.best_classes == 1 else "have"
    worst = "that" if row.worst_classes == 1 else f"the {row.worst_classes}"
    bounds = between(100 * row.low, 100 * row.high, 1)
    return (
        f"{best} with the best BLEU-4 {have} the accuracy {row.best:.1%}, {worst} with the worst {row.worst:.1%}, a "
        f"difference of {100 * row.difference:.1f} points ({bounds}): {verdict}."
    )


def price_sentence(right, wrong, low, high):
    """Return the sentence on tables.price_of_a_class."""
    verdict = told(
        low,
        high,
        "captions that name the class score higher",
        "captions that name the class score lower",
        "no significant difference",
    )
    if wrong >= HIGH_BLEU * right and wrong >= ANY_BLEU:
        verdict += "; the class is one word of many, so captions score without it"
    return (
        f"Captions that name the true class have a mean sentence BLEU-4 of {right:.3f}, the others {wrong:.3f} "
        f"(difference {between(low, high)}): {verdict}."
    )


def diagnoses(tables, taught=None):
    """Return a sentence for each row of the diagnosis table: what is named instead, and which part is at fault.

    taught: the classes of train's images; None = there is no train split
    """
    split_bleu, lines = score_of(tables)["BLEU-4"].value, []
    for row in tables["diagnosis"].itertuples(index=False):
        instead = row.named_instead.replace(NONE, "no class")
        line = (
            f"{row[0]}: accuracy {row.accuracy:.2f} ({between(row.accuracy_low, row.accuracy_high, 2)}) at BLEU-4 "
            f"{row.bleu4:.3f}. Reference captions of this class name it in {row.reference_naming:.0%} of cases, "
            f"predictions name instead: {instead}."
        )
        if row.accuracy < RARELY and row.bleu4 >= max(ANY_BLEU, HIGH_BLEU * split_bleu):
            share = row.bleu4 / split_bleu
            line += f" That is {share:.0%} of the split's: BLEU-4 does not measure this mistake."
        lacking = taught is not None and row[0] not in taught
        lines.append(f"{line} {'Train has no image of it.' if lacking else fault(row)}".rstrip())
    return lines


def fault(row):
    """Return which part is at fault in a row of the diagnosis table: the captions, the encoder or the decoder."""
    if row.reference_naming < CAN_NAME:
        known = (
            "" if np.isnan(row.probe) else f" A plain classifier on the encoder's features gets {row.probe:.0%} right."
        )
        words = (
            f"The words most typical of them are {', '.join(row.words.split())}; add those that mean the class to "
            "aliases.csv."
            if row.words
            else "No word is typical of them, so aliases.csv cannot help."
        )
        return f"Too few reference captions name it. {words}{known}"
    if row.accuracy >= RARELY:
        return ""
    if np.isnan(row.probe):
        return "The reference captions name it, so the fault is in the encoder or the decoder."
    share = f"a plain classifier on its features gets {row.probe:.0%} right"
    if row.probe < CAN_NAME:
        return f"The encoder does not separate it from others: {share}."
    return f"The encoder separates it ({share}): the decoder does not name it."


# ---- references, language, confidence --------------------------------------------------------------------


def reference_effect(table, most):
    """Return how the scores depend on the number of references; most: of one image."""
    if len(table) < 2:
        who = "Every image has one reference" if most == 1 else "Some images have one reference, others more"
        return [f"{who}, so the effect of their number is unknown."]
    first, last = table.iloc[0], table.iloc[-1]
    fewer = table.iloc[-2]
    return [
        f"The same captions have BLEU-4 {first['bleu4']:.3f} against one reference and {last['bleu4']:.3f} against "
        f"{last['references']:.0f}, CIDEr-D {first['cider_d']:.2f} and {last['cider_d']:.2f}: scores "
        "against different numbers of references are not comparable.",
        f"A reference against {counted(int(fewer['references']), 'other')} of its image has BLEU-4 "
        f"{fewer['reference_bleu4']:.3f} and CIDEr-D {fewer['reference_cider_d']:.2f}, where the model has "
        f"{fewer['bleu4']:.3f} and {fewer['cider_d']:.2f}.",
    ]


def language_findings(table, unit):
    """Return how the captions differ from the references in repetition, vocabulary and length; unit: of Scored."""
    ours, theirs = (dict(zip(table["measure"], table[column], strict=True)) for column in ("captions", "references"))
    copied, repeated = "share that stands word for word in train", "share that is said of several images"
    return [
        f"{ours[copied]:.1%} of the captions occur word for word in train (of the reference captions "
        f"{theirs[copied]:.1%}), and {ours[repeated]:.1%} are given to several images ({theirs[repeated]:.1%}).",
        f"They use {ours['different words']:.0f} different {unit} where the references use "
        f"{theirs['different words']:.0f}, and have {ours['words, mean']:.1f} {unit} on average where theirs have "
        f"{theirs['words, mean']:.1f}.",
    ]


def memory_findings(table, about):
    """Return what yardsticks.memory_table says; table: None = there is none; about: how it was made, or why not."""
    if table is None:
        return [about]
    rows = {row.metric: row for row in table.itertuples(index=False)}
    bleu, cider = rows["BLEU-4"], rows["CIDEr-D"]
    shares = [f"{row.nearest / row.model:.0%}" for row in (bleu, cider) if row.model > ANY_BLEU]
    share = f", {' and '.join(shares)} of the model's" if len(shares) == 2 else ""
    verdict = told(
        cider.low, cider.high, "the model is better than its memory", "the model is worse than its memory",
        "no significant difference",
    )  # fmt: skip
    return [
        about,
        f"These captions have BLEU-4 {bleu.nearest:.3f} and CIDEr-D {cider.nearest:.2f}{share}: so much of its scores "
        f"is to be had without a decoder. Its CIDEr-D minus theirs is {cider.difference:.2f} "
        f"({between(cider.low, cider.high, 2)}): {verdict}.",
    ]


def confidence_findings(images, calibration):
    """Return whether the confidence ranks captions and is calibrated: of an image_table and its calibration_table."""
    rho, low, high = estimate_correlation(images["confidence"], images["cider_d"])
    facts = []
    if not np.isnan(rho):
        verdict = told(
            low,
            high,
            "captions with higher confidence are better",
            "captions with higher confidence are worse",
            "no significant correlation",
        )
        facts.append(
            f"Confidence and CIDEr-D have the rank correlation {rho:.2f} ({between(low, high, 2)}): {verdict}."
        )
    if "accuracy" not in calibration:
        return facts
    least, most = calibration.iloc[0], calibration.iloc[-1]
    if len(calibration) > 1:
        facts.append(
            f"In the bin with the lowest confidence ({counted(int(least['images']), 'image')}) {least['accuracy']:.1%} "
            f"of the captions name the class, in the bin with the highest {most['accuracy']:.1%}."
        )
    right = images.loc[images["class"] != "", "correct"].astype(bool)
    area = discrimination(images)
    if not np.isnan(area) and min(right.sum(), (~right).sum()) >= FEWEST_IN_CLASS:
        verdict = "separates" if area >= RELIABLE else "hardly separates"
        facts.append(
            f"The confidence {verdict} correct captions from wrong ones: the correct one has the higher confidence in "
            f"{area:.0%} of the pairs (area under the ROC curve)."
        )
    confidence = images.loc[images["class"] != "", "confidence"].to_numpy()
    gap = estimate_mean(confidence - right)
    verdict = told(gap.low, gap.high, "it is too high on average", "it is too low on average", "no significant gap")
    facts.append(
        f"As a probability of naming the class the confidence is {confidence.mean():.3f} in the mean, the accuracy "
        f"{right.mean():.3f}, the gap {gap.value:.3f} ({between(gap.low, gap.high)}): {verdict}. The expected "
        f"calibration error is {calibration_error(calibration):.3f}."
    )
    return facts


def build_texts(tables, subject, scored, *, skipped, about_yardsticks, about_memory, about_data):
    """Return section -> its sentences.

    skipped:          name in JAVA_METRICS -> why there is no such score
    about_yardsticks: what to say of the classifiers beside the captions
    about_memory:     how the nearest captions were found, or why they were not
    about_data:       what the audit warns of; None = there was no audit
    """
    classed = scored.has_classes
    same = sameness(tables["images"]["caption"].tolist())
    return {
        "warnings": [same[0].upper() + same[1:]] if same else [],
        "facts": [*findings(tables, subject), *familiarity_findings(tables["images"])],
        "notes": [*reservations(tables, subject, scored, skipped), *(about_data or [])],
        "yardsticks": about_yardsticks,
        "bleu": bleu_and_accuracy(tables) if classed else [],
        "diagnoses": diagnoses(tables, subject.taught) if classed else [],
        "references": reference_effect(tables["references"], max(map(len, scored.references))),
        "language": language_findings(tables["language"], scored.unit),
        "memory": memory_findings(tables.get("memory"), about_memory),
        "confidence": confidence_findings(tables["images"], tables["calibration"]),
        "data": data_findings(about_data),
    }


def data_findings(about_data):
    """Return what the audit found."""
    if about_data is None:
        return ["The data was not audited: audit is off."]
    return about_data or ["No copies of earlier splits' images, and few captions that also occur in train."]

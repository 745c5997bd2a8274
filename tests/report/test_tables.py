"""The tables of a report against hand-worked numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import spearmanr
from studies import CANNON, HAND_MADE, build, many_classes, predict, study

from captioning.data.annotations import Example
from captioning.evaluation import Prediction
from captioning.report import sentences
from captioning.report import tables as report
from captioning.scores.grounding import build_grounders
from captioning.scores.metrics import cider_d, corpus_bleu
from captioning.scores.scored import score


def test_each_reference_of_an_image_counts_the_same():
    """Those of an image with fewer counted double: BLEU-4 0.333 instead of half of 0.5 and half of 0."""
    hypotheses = [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    references = [[hypotheses[0], ["x"] * 4], [["y"] * 4] * 3]
    assert report.reference_table(hypotheses, references)["bleu4"].iloc[0] == pytest.approx(0.25, abs=1e-6)


def test_more_references_score_no_less():
    """From ten references on one choice stood for all of them: BLEU-4 fell to 0 there, and rose again at the last."""
    hypotheses = [["a", "b", "c", "d"]]
    table = report.reference_table(hypotheses, [[*[["x"] * 4] * 13, hypotheses[0]]])
    assert table["bleu4"].is_monotonic_increasing
    assert table["bleu4"].iloc[9] == pytest.approx(10 / 14, abs=0.1)
    assert table["bleu4"].iloc[13] == pytest.approx(1)


def test_class_table_is_the_hand_worked_one():
    cat, dog = build(HAND_MADE)["classes"].to_dict("records")
    # n-grams of both cats: 5+3 of 10 words, 4+1 of 8 pairs, 3+0 of 6 triples, 2+0 of 4; lengths 10 and 10
    assert cat["bleu4"] == pytest.approx((8 / 10 * 5 / 8 * 3 / 6 * 2 / 4) ** 0.25, abs=1e-6)
    # all n-grams of one dog match, the other caption is empty: 5 words for 5 + 2 costs exp(1 - 7/5)
    assert dog["bleu4"] == pytest.approx(math.exp(1 - 7 / 5), abs=1e-6)
    assert [cat[key] for key in ("accuracy", "precision", "recall", "count")] == [0.5, 1.0, 0.5, 2]
    assert [dog[key] for key in ("accuracy", "precision", "recall", "count")] == [0.5, 0.5, 0.5, 2]
    assert [cat["f1"], dog["f1"]] == pytest.approx([2 / 3, 1 / 2])
    assert dog["sentence_bleu4"] == pytest.approx(1 / 2)  # of a perfect caption and an empty one


def test_class_cider_is_the_mean_of_the_whole_splits_scores():
    tables = build(HAND_MADE)
    means = tables["images"].groupby("class")["cider_d"].mean()
    assert tables["classes"]["cider_d"].tolist() == pytest.approx(means.tolist())
    summary = tables["summary"].set_index("metric")["value"]
    assert summary["CIDEr-D"] == pytest.approx(means.mean())  # as many images in each class
    alone = build(HAND_MADE[:2])["classes"]["cider_d"][0]
    assert alone != pytest.approx(means["cat"]), "its document frequencies are those of one class"


def test_summary_names_each_metric_with_its_recipe():
    summary = build(HAND_MADE)["summary"]
    assert summary["metric"].tolist() == list(report.METRICS.values())
    values = dict(zip(summary["metric"], summary["value"], strict=True))
    assert values["average accuracy"] == 0.5
    assert [values["precision"], values["recall"]] == [0.75, 0.5]
    assert values["F1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert summary["recipe"].is_unique
    assert all("beam:5" in text and "n:4" in text for text in summary["recipe"])
    assert summary.set_index("metric")["recipe"]["BLEU-4"].startswith("bleu4|corpus|refs:1-2|")


def test_images_name_the_first_class_of_the_caption():
    images = build([*HAND_MADE, predict("dog", "a cat and a dog", "a dog", name="3.jpg")])["images"]
    assert images["named"].tolist() == ["cat", "dog", "dog", "(none)", "cat"]
    assert images["correct"].tolist() == [True, False, True, False, False]
    assert images["image"][0] == "val/cat/1.jpg"
    assert images["references"][0] == "A cat on a mat. | a cat"
    assert images["sentence_bleu4"][0] == 1.0


def test_confusion_and_mistakes():
    tables = build([*HAND_MADE, predict("cat", "a big dog", "a cat", name="3.jpg")])
    assert tables["confusion"].loc["cat"].to_dict() == {"cat": 1, "dog": 2, "(none)": 0}
    mistakes = tables["mistakes"][["class", "named", "images"]].to_numpy().tolist()
    assert mistakes == [["cat", "dog", 2], ["dog", "(none)", 1]]
    assert tables["mistakes"]["share"].tolist() == pytest.approx([2 / 3, 1 / 2])


def test_aliases_are_reported_with_and_without():
    predictions = [predict("cat", "a kitten", "a kitten"), predict("dog", "a dog", "a dog")]
    summary = build(predictions, aliases={"cat": ["kitten"]})["summary"]
    rows = summary[summary["metric"] == "average accuracy"]
    assert rows["value"].tolist() == [1.0, 0.5]
    assert [text.rsplit("|", 1)[1] for text in rows["recipe"]] == ["aliases:yes", "aliases:no"]
    assert summary["recipe"].is_unique


def test_a_class_that_only_the_checkpoint_knows_can_be_named():
    grounder, plain = build_grounders(["cat"], ["tennis_court", "Cat"], {})
    assert plain is None
    assert grounder.find("a cat on a tennis court") == ["cat", "tennis_court"]
    tables = build([predict("cat", "a bird", "a cat")], classes=("cat", "bird"))
    assert tables["classes"]["class"].tolist() == ["cat"]
    assert tables["confusion"].loc["cat", "bird"] == 1
    assert tables["summary"].set_index("metric")["value"]["precision"] == 0.0


def test_a_class_that_data_and_checkpoint_spell_differently_is_one():
    """Spelling once made two of it, which no grounder takes, or told that the checkpoint never saw it."""
    trained = ["carpenter's kit", "cafe\u0301", "hound", "buildings", "Carpenter_s-kit", "river"]
    labels = ["carpenter_s_kit", "caf\u00e9", "dog", "building"]
    grounder, plain = build_grounders(labels, trained, {"dog": ["hound"]})
    for text, named in (
        ("a carpenter's kit in a cafe\u0301", ["carpenter_s_kit", "caf\u00e9"]),
        ("two buildings by a river", ["building", "river"]),
    ):
        assert grounder.find(text) == plain.find(text) == named
    assert grounder.find("a hound") == ["dog"]
    assert plain.find("a hound") == []


def test_top_and_bottom_have_ten_classes_and_their_average():
    tables = build(many_classes(25), classes=[f"c{index:02}" for index in range(25)])
    ranked = report.rank_classes(tables["classes"])
    assert ranked["bleu4"].is_monotonic_decreasing
    rows = tables["top_bottom"]
    for group, expected in (("top", ranked.head(10)), ("bottom", ranked.tail(10)[::-1])):
        part = rows[rows["group"] == group]
        assert part["class"].tolist() == expected["class"].tolist()
        average = tables["averages"].set_index("group").loc[group]
        assert average["bleu4"] == pytest.approx(expected["bleu4"].mean())
        assert average["classes"] == 10
    top = rows[rows["group"] == "top"]
    # c00 to c04 share their words with c20 to c24.
    assert top["rank"].tolist() == [*range(1, 11)]
    bottom = rows[rows["group"] == "bottom"]
    assert bottom["rank"].tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
    assert rows["count"].tolist() == [5] * 20, "a whole number"


@pytest.mark.parametrize(
    ("values", "best", "worst"),
    [
        ([9, 8, 7, 3, 2, 1], [0, 1, 2], [5, 4, 3]),
        ([9, 8, 7, 2, 1], [0, 1], [4, 3]),
        ([9, 9, 9, 9, 9, 1], [0, 1, 2], [5]),
        ([9, 1, 1, 1, 1, 1], [0], [5, 4, 3]),
        ([9, 5, 5, 5, 5, 1], [0], [5]),
        ([5, 5, 5, 5], [], []),
        ([0.1 + 0.2, 0.3], [], []),
        ([5], [], []),
        ([], [], []),
    ],
)
def test_extremes_share_no_value(values, best, worst):
    assert report.extremes(values, 3) == (best, worst)


def test_classes_of_few_images_are_not_ranked():
    tables = build([*many_classes(4), *many_classes(9, images=4)[16:]], classes=[f"c{index:02}" for index in range(9)])
    assert len(tables["classes"]) == 9
    assert sorted(tables["top_bottom"]["class"]) == ["c00", "c01", "c02", "c03"]
    assert tables["relations"]["classes"].max() == 4
    assert sorted(tables["diagnosis"]["class"]) == ["c00", "c01", "c02", "c03"]
    nothing = build(HAND_MADE)
    assert not len(nothing["top_bottom"])
    assert not len(nothing["groups"])
    assert not len(nothing["averages"])
    assert not len(nothing["diagnosis"])


@pytest.mark.parametrize(("number", "size"), [(1, 0), (2, 1), (5, 2), (19, 9), (20, 10)])
def test_no_class_is_both_best_and_worst(number, size):
    studied = study(many_classes(number), classes=[f"c{index:02}" for index in range(number)])
    rows = studied.tables["top_bottom"]
    assert rows["class"].is_unique
    assert rows["group"].tolist() == ["top"] * size + ["bottom"] * size
    notes = " ".join(studied.notes())
    assert ("fewer than 20" in notes) == (1 < number < 20)


def test_intervals_hold_their_values_and_a_class_of_one_image_has_none():
    """Macro F1 of a perfect model with one image a class once had the interval 0.50 to 0.75."""
    names = [f"c{index:02}" for index in range(25)]
    more = [predict("c03", "a b c", "a b c d"), predict("c04", "a c03", "a c04"), predict("c04", "a c04", "a c04")]
    tables = build([*many_classes(25, images=1), *more], classes=names)
    summary = tables["summary"].set_index("metric")
    macro = ["precision", "recall", "F1"]
    assert summary.loc[macro, ["low", "high"]].isna().all(axis=None)
    assert summary.drop(macro)[["low", "high"]].notna().all(axis=None)
    assert (summary["low"].fillna(-1) <= summary["value"]).all()
    assert (summary["value"] <= summary["high"].fillna(99)).all()
    classes = tables["classes"].set_index("class")
    several = classes["count"] > 1
    for name in ("bleu4", "sentence_bleu4", "cider_d", "accuracy", "precision", "recall", "f1"):
        assert classes.loc[~several, [f"{name}_low", f"{name}_high"]].isna().all(axis=None)
        held = classes[several & classes[f"{name}_low"].notna()]
        assert ((held[f"{name}_low"] <= held[name]) & (held[name] <= held[f"{name}_high"])).all()
    assert (classes.loc[several, "accuracy_high"] - classes.loc[several, "accuracy_low"]).max() > 0


def test_cases_of_captions_and_of_references():
    predictions = [*HAND_MADE, predict("cat", "a dog and a cat", "a cat and a dog", "a bird", name="3.jpg")]
    cases = build(predictions)["cases"].set_index("case")
    assert cases["captions"].tolist() == [2, 0, 1, 1, 1]
    assert cases["captions_share"].tolist() == pytest.approx([0.4, 0, 0.2, 0.2, 0.2])
    assert cases["references"].tolist() == [5, 1, 0, 0, 1]


def test_captions_with_a_name_inside_another_are_listed():
    predictions = [predict("spider", "a garden spider", "a spider"), predict("spider", "a spider", "a spider")]
    nested = build(predictions, classes=("spider", "garden_spider"))["nested"]
    assert nested[["named", "inside"]].to_numpy().tolist() == [["garden_spider", "spider"]]
    assert nested["caption"].tolist() == ["a garden spider"]


def test_yardsticks_stand_beside_the_captions():
    rows = build(HAND_MADE, probed=["cat", "cat", "dog", "cat"])["yardsticks"].set_index("classifier")
    assert rows["accuracy"].to_dict() == {"the captions": 0.5, "reference captions": 1.0, "plain classifier": 0.75}
    assert rows["images"].tolist() == [4, 4, 4]
    classes = build(HAND_MADE, probed=["cat", "cat", "dog", "cat"])["classes"]
    assert classes["probe"].tolist() == [1.0, 0.5]


def test_a_class_that_train_lacks_has_no_probe():
    """A classifier cannot answer what it never learned: its 0 was taken for the encoder's fault."""
    studied = study(HAND_MADE, probed=["cat", "cat", "cat", "cat"])
    splits = studied.subject.dataset.splits | {"train": [HAND_MADE[0].example]}
    subject = replace(studied.subject, dataset=replace(studied.subject.dataset, splits=splits))
    classes = report.build_tables(studied.scored, subject, probed=["cat"] * 4, yardsticks=[])["classes"]
    assert classes.set_index("class")["probe"].dropna().to_dict() == {"cat": 1.0}


def test_scores_that_differ_by_rounding_alone_are_ties():
    """A perfect BLEU-4 is 1 less some 1e-11, by the length of the captions: such classes were ranked by it."""
    names = [f"c{n}" for n in range(6)]
    bleu = [1 - 4e-11, 1 - 5e-11, 1 - 2e-11, 1 - 6e-11, 0.5, 0.4]
    accuracy = [0.1, 0.9, 0.3, 0.8, 0.2, 0.1]
    table = pd.DataFrame({"class": names, "bleu4": bleu, "accuracy": accuracy, "sentence_bleu4": [0.9] * 6})
    (row,) = report.relation_table(table).itertuples()
    assert row.rho == pytest.approx(spearmanr([1, 1, 1, 1, 0.5, 0.4], accuracy).statistic)
    assert report.rank_classes(table)["class"].tolist() == names, "ties go by name"


def test_with_references_of_different_number_each_is_the_first_in_turn():
    """Where an image had one reference, only the first ones of the others counted."""
    hypotheses = [["a", "cat", "on", "a", "mat"], ["a", "dog", "in", "the", "sun"]]
    references = [[["a", "cat", "on", "a", "mat"]], [["a", "dog", "in", "the", "sun"], ["one", "big", "dog", "sat"]]]
    (row,) = report.reference_table(hypotheses, references).itertuples()
    chosen = [[references[0], [reference]] for reference in references[1]]
    assert row.bleu4 == pytest.approx(sum(corpus_bleu(hypotheses, one)[3] for one in chosen) / 2)
    assert row.cider_d == pytest.approx(sum(cider_d(hypotheses, one)[0] for one in chosen) / 2)


def test_a_recipe_tells_of_the_classes_that_the_model_alone_knows():
    """ "a race car" names no car for a model that knows race cars."""
    predictions = [predict("car", "a race car", "a car"), predict("cat", "a cat", "a cat")]
    recipes = []
    for known in ([], ["race car"]):
        scored = score(predictions, *build_grounders(["car", "cat"], known, {}))
        summary = report.summary_table(scored, report.recipe_writer(scored, study(predictions).subject))
        recipes.append(summary.set_index("metric").loc["average accuracy", ["value", "recipe"]].tolist())
    (alone, plain), (both, told) = recipes
    assert (alone, both) == (1, 0.5)
    assert told == f"{plain}|others:1"


def test_fewer_references_give_lower_scores_and_all_the_scores_of_the_summary():
    predictions = [
        predict("cat", "a cat on a mat", "a cat on a mat", "one small cat sat there", name=f"{n}.jpg") for n in range(3)
    ]
    tables = build([*predictions, predict("dog", "a dog in the sun", "a dog in the sun", "the dog likes the sun")])
    table, summary = tables["references"], tables["summary"].set_index("metric")["value"]
    assert table["references"].tolist() == [1, 2]
    assert table["bleu4"].is_monotonic_increasing
    assert table["bleu4"].iloc[-1] == pytest.approx(summary["BLEU-4"])
    assert table["cider_d"].iloc[-1] == pytest.approx(summary["CIDEr-D"])
    # With one reference each: either it is the caption, or shares few words with it.
    perfect, far = (
        corpus_bleu([p.caption.split() for p in predictions], [[p.example.captions[k].split()] for p in predictions])[3]
        for k in (0, 1)
    )
    assert perfect == pytest.approx(1)
    assert far < table["bleu4"].iloc[0] < perfect


def test_language_counts_copies_and_repetitions():
    hypotheses = [["a", "cat"], ["a", "cat"], ["a", "dog"], ["one", "big", "dog"]]
    references = [[["a", "cat"]], [["the", "cat"]], [["a", "dog"]], [["x"], ["big", "dog"]]]
    trained, words = {("a", "cat"), ("a", "dog")}, {f"word {number}" for number in range(10)}
    table = report.language_table(hypotheses, references, trained, words).set_index("measure")
    ours, theirs = table["captions"], table["references"]
    assert ours["share that stands word for word in train"] == 0.75
    assert theirs["share that stands word for word in train"] == 0.5
    assert ours["share that is said of several images"] == 0.5
    assert [ours["different captions"], ours["different words"]] == [3, 5]
    assert ours["distinct-1"] == pytest.approx(5 / 9)
    assert ours["distinct-2"] == pytest.approx(4 / 5)
    assert theirs["words, mean"] == 2  # the last image's second reference: they are taken in turn
    assert ours["share of the model's vocabulary used"] == 0.5


def confident(confidence, right):
    """A prediction of four words with this confidence, that names its class or not."""
    example = Example(Path("data/val/cat/1.jpg"), ["a red cat"], "cat", "val")
    return Prediction(example, "a red cat here" if right else "a red dog here", 5 * math.log(confidence))


def test_calibration_bins_and_their_error():
    predictions = [confident(0.5 + 0.01 * k, right=k >= 20) for k in range(40)]
    tables = build(predictions)
    table = tables["calibration"]
    assert table["images"].tolist() == [10] * 4
    assert table["accuracy"].tolist() == [0, 0, 1, 1]
    assert table["confidence"].tolist() == pytest.approx([0.545, 0.645, 0.745, 0.845])
    assert report.calibration_error(table) == pytest.approx((0.545 + 0.645 + 0.255 + 0.155) / 4)
    assert report.discrimination(tables["images"]) == 1
    text = " ".join(sentences.confidence_findings(tables["images"], table))
    assert "CIDEr-D" not in text, "it is the same for all these captions, and has no correlation"
    assert (
        "separates correct captions from wrong ones: the correct one has the higher confidence in 100% of the pairs"
        in text
    )
    reverse = build([confident(0.9 - 0.01 * k, right=k >= 20) for k in range(40)])
    assert report.discrimination(reverse["images"]) == 0


def test_a_class_word_costs_what_it_costs():
    images = build(CANNON, classes=("cannon", "dog"))["images"]
    right, wrong, low, high = report.price_of_a_class(images)
    assert right == pytest.approx(images["sentence_bleu4"][images["correct"].astype(bool)].mean())
    assert low <= right - wrong <= high
    assert report.price_of_a_class(build([HAND_MADE[0]])["images"]) is None


def test_images_without_a_class_count_for_the_captions_alone():
    studied = study([*HAND_MADE, predict("", "a cat", "a cat")])
    tables = studied.tables
    assert tables["images"]["correct"].tolist() == [True, False, True, False, ""]
    assert tables["classes"]["count"].sum() == 4
    recipes = tables["summary"].set_index("metric")["recipe"]
    assert recipes["BLEU-4"].endswith("n:5")
    assert recipes["F1"].endswith("n:4")
    assert any("1 image without a class" in note for note in studied.notes())


def test_java_metrics_are_rows_with_their_recipe_or_reservations():
    studied = study(HAND_MADE, java={"meteor": 0.25, "spice": 0.5})
    rows = studied.tables["summary"].set_index("metric")
    assert rows["value"][["METEOR", "SPICE"]].tolist() == [0.25, 0.5]
    assert rows["recipe"]["METEOR"] == (
        "meteor|corpus|refs:1-2|tok:nltk-coco|version:1.5-en-norm|"
        "beam:5|length_penalty:0.7|max_len:30|consensus:0.6|n:4"
    )
    notes = studied.notes(skipped={"spice": "there is no java that runs"})
    assert "SPICE was skipped: there is no java that runs." in notes

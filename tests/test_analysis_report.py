"""The report's numbers against hand-worked ones, its files read back, and the script on a tiny model."""

import math
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from PIL import Image

import analysis_report
import model as model_script
from captioning import plots
from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.data import tokenizer
from captioning.data.annotations import Dataset, Example
from captioning.evaluation import Prediction
from captioning.report import comparison, document, sections, sentences, yardsticks
from captioning.report import tables as report
from captioning.scores import bootstrap, grounding, metrics
from captioning.scores.grounding import build_grounders
from captioning.scores.metrics import corpus_bleu
from captioning.scores.scored import Scored, score
from captioning.search.options import SearchOptions
from vocab import SPECIALS


def predict(label, caption, *references, name="1.jpg", root="data"):
    example = Example(Path(root, "val", label, name), list(references), label, "val")
    return Prediction(example, caption, -1.5)


HAND_MADE = [
    predict("cat", "a cat on a mat", "A cat on a mat.", "a cat"),
    predict("cat", "a dog on a mat", "a cat on a rug", name="2.jpg"),
    predict("dog", "a dog in the sun", "a dog in the sun"),
    predict("dog", "", "one dog", name="2.jpg"),
]


class Study(NamedTuple):
    """The tables of a report on some predictions, and what they are made of."""

    tables: dict
    subject: report.Subject
    scored: Scored

    def texts(self, skipped=None):
        return sentences.build_texts(
            *self, skipped=skipped or {}, about_yardsticks=[], about_data=["one line about the data"]
        )

    def notes(self, **more):
        return sentences.reservations(*self, **more)


def study(predictions, classes=("cat", "dog"), aliases=None, *, probed=None, java=None, words=("a",)):
    """Score predictions and build their tables; `words` is the model's vocabulary."""
    scored = score(predictions, *build_grounders(classes, [], aliases or {}))
    dataset = Dataset("data", Path("data"), {"val": [p.example for p in predictions]}, aliases or {})
    subject = report.Subject("mobile", dataset, "val", SearchOptions(), frozenset(words), list(classes))
    rows = yardsticks.yardstick_rows(scored, probed, [])
    return Study(report.build_tables(scored, subject, probed=probed, yardsticks=rows, java=java), subject, scored)


def build(predictions, *args, **more):
    return study(predictions, *args, **more).tables


def write(folder, studied):
    """Write a report in which every image is the same grey picture, which stands beside its folder."""
    picture = folder.parent / "grey.png"
    Image.new("RGB", (40, 30), "grey").save(picture)
    galleries = sections.build_galleries(studied.tables, [picture] * len(studied.tables["images"]))
    shown = analysis_report.Report(studied.tables, studied.texts(), galleries)
    analysis_report.write_report(folder, "mobile on data", shown, studied.scored)


def many_classes(number):
    """Classes c00, c01, ..., whose captions share more and more words with their references."""
    letters = list(string.ascii_lowercase)
    predictions = []
    for index in range(number):
        shared = letters[: 4 + index % 20]
        caption = " ".join([*shared, *["z"] * (24 - len(shared))])
        predictions.append(predict(f"c{index:02}", caption, " ".join(letters[:24])))
    return predictions


# ---- numbers


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


def test_references_are_a_yardstick():
    blind = [predict("cat", "a cat", "a cat", "an animal"), predict("dog", "a dog", "a dog", "a dog")]
    studied = study(blind)
    rows = studied.tables["yardsticks"].set_index("classifier")["accuracy"]
    assert rows["reference captions"] == 0.75
    assert "of the reference captions 75.0% do" in " ".join(studied.texts()["facts"])


# ---- best and worst classes


def test_top_and_bottom_have_ten_classes_and_their_average():
    tables = build(many_classes(25), classes=[f"c{index:02}" for index in range(25)])
    ranked = report.rank_classes(tables["classes"])
    assert ranked["bleu4"].is_monotonic_decreasing
    rows = tables["top_bottom"]
    for group, expected in (("top", ranked.head(10)), ("bottom", ranked.tail(10)[::-1])):
        part = rows[rows["group"] == group]
        assert part["class"].tolist() == [*expected["class"], "(average)"]
        assert part["rank"].tolist() == [*range(1, 11), 0]
        assert part["bleu4"].iloc[-1] == pytest.approx(expected["bleu4"].mean())


@pytest.mark.parametrize(("number", "size"), [(1, 0), (2, 1), (5, 2), (19, 9), (20, 10)])
def test_no_class_is_both_best_and_worst(number, size):
    studied = study(many_classes(number), classes=[f"c{index:02}" for index in range(number)])
    rows = studied.tables["top_bottom"].query("rank > 0")
    assert rows["class"].is_unique
    assert rows["group"].tolist() == ["top"] * size + ["bottom"] * size
    notes = " ".join(studied.notes())
    assert ("fewer than 20" in notes) == (number < 20)


# ---- what the scores mean


def test_intervals_hold_their_values_and_a_class_of_one_image_has_none():
    """Macro F1 of a perfect model with one image a class once had the interval 0.50 to 0.75."""
    names = [f"c{index:02}" for index in range(25)]
    more = [predict("c03", "a b c", "a b c d"), predict("c04", "a c03", "a c04"), predict("c04", "a c04", "a c04")]
    tables = build([*many_classes(25), *more], classes=names)
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
        held = classes[several]
        assert ((held[f"{name}_low"] <= held[name]) & (held[name] <= held[f"{name}_high"])).all()
    assert (classes.loc[several, "accuracy_high"] - classes.loc[several, "accuracy_low"]).max() > 0


def test_what_has_no_interval_is_a_dash_in_the_report():
    studied = study(many_classes(4), classes=[f"c{index:02}" for index in range(4)])
    text = text_of(studied)
    assert "nan" not in text.lower()
    assert "| F1 | 0.0000 | – |" in text
    assert "4 classes with one image: such a class has no interval" in text


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


CANNON = [  # no caption names the cannon, whose references hardly do either; they are perfect otherwise
    *(predict("cannon", "an old gun on wheels", "an old gun on wheels", "a gun", name=f"{n}.jpg") for n in range(9)),
    predict("cannon", "an old gun on wheels", "an old gun on wheels", "a cannon", name="9.jpg"),
    *(predict("dog", "one brown dog in the sun", "a dog in the sun", "a brown dog", name=f"{n}.jpg") for n in range(9)),
    predict("dog", "one brown dog in the cannon", "a dog in the sun", "a brown dog", name="9.jpg"),
]


def test_a_class_whose_captions_do_not_name_it_is_diagnosed():
    tables = build(CANNON, classes=("cannon", "dog"))
    row = tables["diagnosis"].iloc[0]
    assert [row["class"], row["accuracy"], row["named_instead"]] == ["cannon", 0, "(none) 10"]
    assert row["bleu4"] == pytest.approx(1)
    assert row["reference_naming"] == pytest.approx(1 / 20)
    assert "gun" in row["words"].split()
    assert "cannon" not in row["words"].split()
    (line,) = sentences.diagnoses(tables)
    for part in (
        "name it in 5% of cases",
        "name instead: no class 10",
        "BLEU-4 does not measure",
        "gun",
        "aliases.csv",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("naming", "probe", "fault"),
    [
        (0.1, 0.9, "Too few reference captions name it"),
        (0.9, 0.2, "encoder does not separate it from others"),
        (0.9, 0.8, "the decoder does not name it"),
        (0.9, float("nan"), "in the encoder or the decoder"),
    ],
)
def test_the_fault_is_in_captions_encoder_or_decoder(naming, probe, fault):
    row = pd.DataFrame([{"accuracy": 0.1, "reference_naming": naming, "probe": probe, "words": "gun"}])
    assert fault in sentences.fault(next(row.itertuples()))


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (lambda rank: rank < 30, "named more often"),
        (lambda rank: rank >= 30, "named less often"),
        (lambda rank: rank % 2, "no significant correlation"),
    ],
)
def test_bleu_against_accuracy_over_the_classes(accuracy, verdict):
    """Sixty classes whose captions get better; which of them are named decides the sign of the correlation."""
    predictions = []
    for index, prediction in enumerate(many_classes(60)):
        rank = 59 - (index % 20 * 3 + index // 20)  # 0 = the most shared words
        caption = f"{prediction.caption} {prediction.example.label if accuracy(rank) else 'zzz'}"
        predictions.append(Prediction(prediction.example, caption, -1.5))
    tables = build(predictions, classes=[f"c{index:02}" for index in range(60)])
    assert verdict in sentences.bleu_and_accuracy(tables)[0]


def test_too_few_classes_have_no_rank_correlation():
    assert "is undefined" in sentences.bleu_and_accuracy(build(HAND_MADE))[0]


def test_yardsticks_stand_beside_the_captions():
    rows = build(HAND_MADE, probed=["cat", "cat", "dog", "cat"])["yardsticks"].set_index("classifier")
    assert rows["accuracy"].to_dict() == {"the captions": 0.5, "reference captions": 1.0, "plain classifier": 0.75}
    assert rows["images"].tolist() == [4, 4, 4]
    classes = build(HAND_MADE, probed=["cat", "cat", "dog", "cat"])["classes"]
    assert classes["probe"].tolist() == [1.0, 0.5]


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


# ---- words


def text_of(studied):
    galleries = sections.build_galleries(studied.tables, [Path("1.jpg")] * len(studied.tables["images"]))
    parts = sections.build_sections(studied.tables, studied.texts(), galleries)
    return document.markdown("mobile on data", [*parts, sections.file_section(sections.FILES)])


def test_report_says_what_the_tables_say():
    text = text_of(study(HAND_MADE))
    assert "50.0% of the images the caption names the true one of 2 classes" in text
    assert "- one line about the data" in text
    assert "Best 1 class by BLEU-4:" in text
    assert "\\|refs:1-2\\|" in text, "a bar would end the cell"
    assert "is to name dog where cat is true: 1 time." in text
    for name in sections.FILES:
        assert f"[`{name}`]({name})" in text


def test_every_row_of_a_markdown_table_has_its_cells():
    tables = build([predict("cat", "a cat", "a | cat\nin two lines"), *HAND_MADE])
    lines = document.table_markdown(document.Table(tables["images"])).splitlines()
    assert len(lines) == 2 + 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(tables["images"].columns) + 1}


def test_without_classes_the_report_is_about_captions():
    studied = study([predict("", p.caption, *p.example.captions) for p in HAND_MADE], classes=())
    tables = studied.tables
    assert set(tables) == {"images", "summary", "references", "language", "calibration"}
    assert "named" not in tables["images"]
    assert tables["summary"]["metric"].tolist() == [
        *(f"BLEU-{n}" for n in range(1, 5)),
        "mean sentence BLEU-4",
        "ROUGE-L",
        "CIDEr-D",
    ]
    assert "no classes" in studied.notes()[-1]
    text = text_of(studied)
    assert "confusion.png)" not in text.split("## Files")[0]
    with_classes = text_of(study(HAND_MADE))
    heads = [[line for line in part.splitlines() if line.startswith("## ")] for part in (text, with_classes)]
    assert heads[0] == heads[1], "two reports can be laid side by side"


def test_images_without_a_class_count_for_the_captions_alone():
    studied = study([*HAND_MADE, predict("", "a cat", "a cat")])
    tables = studied.tables
    assert tables["images"]["correct"].tolist() == [True, False, True, False, ""]
    assert tables["classes"]["count"].sum() == 4
    recipes = tables["summary"].set_index("metric")["recipe"]
    assert recipes["BLEU-4"].endswith("n:5")
    assert recipes["F1"].endswith("n:4")
    assert any("1 image without a class" in note for note in studied.notes())


def test_reservations_name_what_is_missing():
    tables, subject, scored = study(HAND_MADE)
    unread = Example(Path("data/val/cat/9.jpg"), ["a cat"], "cat", "val")
    never = Example(Path("data/train/owl/1.jpg"), ["an owl"], "owl", "train")
    splits = {"train": [never], "val": [*subject.dataset.splits["val"], unread]}
    subject = replace(subject, dataset=replace(subject.dataset, splits=splits), classes=["cat"])
    notes = sentences.reservations(tables, subject, scored)
    text = " ".join(notes)
    # words of the references: 19, of which "a" stands 6 times
    for part in ("1 image (val/cat/9.jpg)", "68.4%", "never saw 1 class of the data: dog", "CIDEr-D is unreliable"):
        assert part in text
    assert "The split has no image of 1 class of the data: owl." in text
    assert not any("\n" in note for note in notes)


def test_one_image_is_enough():
    studied = study(HAND_MADE[:1])
    assert studied.tables["summary"].set_index("metric")["value"]["BLEU-4"] == pytest.approx(1.0)
    assert studied.tables["summary"]["low"].isna().all()
    text = text_of(studied)
    assert "# mobile on data" in text
    assert "nan" not in text


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


def test_each_text_is_tokenised_once_and_its_ngrams_counted_once(monkeypatch):
    """A report of 20 images once tokenised 484 times, with 58 set-ups of BLEU and 44 of CIDEr-D."""
    tokenised, counted_ngrams, ciders = Counter(), [], []
    plain, count, cider = tokenizer.tokenize, metrics.bleu_counts, metrics.CiderD.__init__

    def tokenize(text):
        tokenised[text] += 1
        return plain(text)

    def bleu_counts(*args):
        counted_ngrams.append(args)
        return count(*args)

    def count_cider(self, references):
        ciders.append(references)
        cider(self, references)

    for module in (tokenizer, grounding):
        monkeypatch.setattr(module, "tokenize", tokenize)
    for module in (metrics, bootstrap, report):
        monkeypatch.setattr(module, "bleu_counts", bleu_counts)
    monkeypatch.setattr(metrics.CiderD, "__init__", count_cider)
    monkeypatch.setattr(report, "reference_table", lambda *args: study_table)  # counts its own
    study_table = pd.DataFrame({"references": [1]})
    predictions = [
        predict(label, f"a {label} number {n}", f"one {label} {n}", f"the {label} {n} here", name=f"{n}.jpg")
        for label in ("cat", "dog")
        for n in range(10)
    ]
    scored = study(predictions, aliases={"cat": ["kitten"]}).scored
    texts = {text for p in predictions for text in p.example.captions}
    assert {text: number for text, number in tokenised.items() if text in texts} == dict.fromkeys(texts, 1)
    assert not any(p.caption in tokenised for p in predictions), "a caption is its tokens already"
    own = [args for args in counted_ngrams if args[0] == scored.hypotheses]
    assert len(own) == 1
    assert len(counted_ngrams) == 1 + 2, (
        "and each of two references against the other, for the agreement of the classes"
    )
    assert len(ciders) == 1


# ---- files


def test_csv_files_read_back(tmp_path):
    studied = study(HAND_MADE)
    tables = studied.tables
    write(tmp_path / "r", studied)
    absent = {"audit.csv", "copies.csv"}  # no dataset was looked through
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(sections.FILES) - absent
    images = pd.read_csv(tmp_path / "r/images.csv", keep_default_na=False)
    assert images["caption"].tolist() == [p.caption for p in HAND_MADE]
    assert images["correct"].tolist() == [True, False, True, False]
    for name in (path.stem for path in (tmp_path / "r").glob("*.csv") if path.stem not in ("images", "confusion")):
        read = pd.read_csv(tmp_path / f"r/{name}.csv")
        for column in tables[name].select_dtypes(exclude="number"):
            read[column] = read[column].fillna("")
        pd.testing.assert_frame_equal(read, tables[name], atol=1e-6, check_dtype=False)
    confusion = pd.read_csv(tmp_path / "r/confusion.csv", index_col="class")
    assert (confusion.to_numpy() == tables["confusion"].to_numpy()).all()
    assert confusion.columns.tolist() == ["cat", "dog", "(none)"]
    for name in (name for name in sections.FILES if name.endswith(".png")):
        with Image.open(tmp_path / "r" / name) as image:
            assert min(image.size) > 150


def test_an_interrupted_report_leaves_the_old_one(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    write(tmp_path / "r", study(HAND_MADE))
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    monkeypatch.setattr(plots, "confusion_figure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r", study(HAND_MADE[:2]))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "other", study(HAND_MADE))
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grey.png", "r"]


def test_a_report_without_classes_removes_the_tables_of_an_earlier_one(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/test_inference.png").write_bytes(b"of another script")
    write(tmp_path / "r", study(HAND_MADE))
    write(tmp_path / "r", study(HAND_MADE, classes=()))
    left = {path.name for path in (tmp_path / "r").iterdir()}
    kept = {"report.md", "report.html", "test_inference.png", "best.png", "worst.png", "lengths.png"}
    kept |= {"references.png", "calibration.png"}
    assert left == kept | {f"{name}.csv" for name in ("summary", "images", "references", "language", "calibration")}


def test_report_folder(tmp_path):
    assert analysis_report.report_folder("", "birds", "val") == Path("reports/birds")
    assert analysis_report.report_folder("", "birds", "test") == Path("reports/birds_test")
    assert analysis_report.report_folder("out", "birds", "test") == Path("out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        analysis_report.report_folder(tmp_path / "file" / "below", "birds", "val")


# ---- the script


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A working directory with a dataset of two classes and a random model that was trained on one of them."""
    monkeypatch.chdir(tmp_path)
    rows = ["image,caption"]
    for split in ("train", "val", "test"):
        for label, color in (("cat", "red"), ("dog", "blue")):
            for number in range(2):
                image = tmp_path / "data/tiny" / split / label / f"{number}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 30 + number), color).save(image)
                rows += [f"{split}/{label}/{number}.jpg,a {color} {label}"] * 2
    (tmp_path / "data/tiny/captions.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    config = {**model_script.CONFIG, "embed_size": 8, "hidden_size": 8}
    vocab = [*SPECIALS, "a", "red", "cat", "bird"]
    network = model_script.build_model(len(vocab), config)
    transform = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    checkpoint = Checkpoint(network.state_dict(), {"model": config}, vocab, transform, classes=["bird", "cat"])
    save_checkpoint("checkpoints/mobile.safetensors", checkpoint)
    return {**analysis_report.CONFIG, "data_dir": "data/tiny", "num_workers": 0, "device": "cpu", "max_len": 5}


def test_script_writes_a_report(tiny, capsys):
    analysis_report.main({"report": tiny})
    out = capsys.readouterr().out
    assert "note: The checkpoint never saw 1 class of the data: dog." in out
    assert "next: python test_inference.py" in out
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert (
        "mobile captioned the val split of tiny with beam 5, length_penalty 0.7, max_len 5, consensus 0.6: 4 images"
        in text
    )
    assert len(pd.read_csv("reports/mobile/images.csv")) == 4
    # words of the references: a (known), color (red is), class (cat is)
    assert "33.3% of the references' words are not in the model's vocabulary" in text


def test_script_reports_the_test_split_beside(tiny):
    analysis_report.main({"report": {**tiny, "split": "test", "beam_size": 1}})
    assert "test split" in Path("reports/mobile_test/report.md").read_text(encoding="utf-8")
    assert not Path("reports/mobile").exists()


def test_script_writes_every_file_that_it_names(tiny):
    analysis_report.main({"report": tiny})
    files = {path.name for path in Path("reports/mobile").iterdir()}
    assert files == set(sections.FILES)
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "The plain classifier learned from 4 images of train" in text
    assert "checkpoints do not hold it, and imagenet_weights is empty" in text
    assert "occur word for word in train" in text
    yardstick = pd.read_csv("reports/mobile/yardsticks.csv").set_index("classifier")["accuracy"]
    assert yardstick["reference captions"] == 1
    assert yardstick["majority class"] == 0.5
    audit = pd.read_csv("reports/mobile/audit.csv").set_index(["measure", "split"])["value"]
    assert audit["exact_copies", "val"] == 4, "the tiny pictures of a class are the same file in each split"
    assert "have the same file as an image of an earlier split" in text


def test_script_can_leave_out_what_takes_time(tiny):
    analysis_report.main({"report": {**tiny, "audit": False, "probe_images": 0}})
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "audit is off" in text
    assert "plain classifier was left out: probe_images is 0" in text
    assert not Path("reports/mobile/audit.csv").exists()


def test_script_on_one_image(tiny):
    Path("data/tiny/captions.csv").write_text("image,caption\nval/cat/0.jpg,a red cat\n")
    for path in [
        *Path("data/tiny").glob("t*/*/*.jpg"),
        *Path("data/tiny/val").glob("dog/*"),
        Path("data/tiny/val/cat/1.jpg"),
    ]:
        path.unlink()
    analysis_report.main({"report": tiny})
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "consensus 0.6: 1 image." in text
    assert "an interval from a single image says nothing" in text
    assert "plain classifier was left out: no images with a class in train" in text
    with pytest.raises(ValueError, match="split 'test' has no example"):
        analysis_report.main({"report": {**tiny, "split": "test"}})


def test_script_names_classes_without_an_image_in_the_split(tiny):
    rows = Path("data/tiny/captions.csv").read_text().splitlines()
    Path("data/tiny/captions.csv").write_text("\n".join(row for row in rows if not row.startswith("val/dog")) + "\n")
    for path in Path("data/tiny/val/dog").iterdir():
        path.unlink()
    analysis_report.main({"report": tiny})
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "The split has no image of 1 class of the data: dog." in text
    assert pd.read_csv("reports/mobile/classes.csv")["class"].tolist() == ["cat"]


def test_a_classifier_is_not_asked_about_what_it_learned_from(tiny):
    analysis_report.main({"report": {**tiny, "split": "train"}})
    text = Path("reports/mobile_train/report.md").read_text(encoding="utf-8")
    assert "plain classifier was left out: it would be asked about the images that it learned from" in text


def test_comparing_a_checkpoint_with_itself_tells_no_difference(tiny, capsys):
    path = "checkpoints/mobile.safetensors"
    analysis_report.main({"report": {**tiny, "compare": [path, path]}})
    assert "Verdict: no difference: both models score the same on these images." in capsys.readouterr().out
    table = pd.read_csv("reports/mobile_vs_mobile/comparison.csv")
    assert (table[["difference", "low", "high"]] == 0).all(axis=None), "two images a class"
    assert (table["p"] == 1).all()
    files = {path.name for path in Path("reports/mobile_vs_mobile").iterdir()}
    assert files == set(comparison.COMPARISON_FILES)
    assert not Path("reports/mobile").exists()


def test_comparing_two_checkpoints(tiny, capsys):
    network, vocabulary, checkpoint = model_script.load_captioner("checkpoints/mobile.safetensors")
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights["decoder.output.bias"][vocabulary.stoi["bird"]] += 9  # says "bird" of everything
    weights["decoder.output.bias"][vocabulary.end_id] -= 9
    checkpoint.weights = weights
    save_checkpoint("checkpoints/birds.safetensors", checkpoint)
    pair = ["checkpoints/mobile.safetensors", "checkpoints/birds.safetensors"]
    analysis_report.main({"report": {**tiny, "compare": pair, "split": "test", "min_len": 2}})
    out = capsys.readouterr().out
    assert "Verdict:" in out
    assert "Only mobile names the true class of" in out
    images = pd.read_csv("reports/mobile_vs_birds_test/images.csv", keep_default_na=False)
    assert images["second_caption"].str.contains("bird").all()
    assert len(images) == 4
    rows = pd.read_csv("reports/mobile_vs_birds_test/comparison.csv")
    recipes = rows.set_index("metric")["recipe"]
    assert recipes["BLEU-4"] == (
        "bleu4|corpus|refs:2|tok:nltk-coco|smooth:none|beam:5|length_penalty:0.7|max_len:5|min_len:2|consensus:0.6|n:4"
    )
    assert (rows["first"] - rows["second"]).tolist() == pytest.approx(rows["difference"].tolist(), abs=2e-6)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "a is better in BLEU-4"),
        (-0.3, -0.1, "b is better in BLEU-4"),
        (-0.1, 0.3, "no significant difference"),
    ],
)
def test_verdicts_claim_what_the_interval_allows(low, high, verdict):
    row = {
        "metric": "BLEU-4",
        "first": 0.5,
        "second": 0.4,
        "difference": (low + high) / 2,
        "low": low,
        "high": high,
        "p": 0.1,
    }
    assert verdict in comparison.verdicts(pd.DataFrame([row]), "a", "b")[0]


def test_script_takes_aliases_and_foreign_classes(tiny):
    Path("data/tiny/aliases.csv").write_text("class,alias\ndog,hound\n")
    analysis_report.main({"report": tiny})
    summary = pd.read_csv("reports/mobile/summary.csv")
    assert summary["recipe"].str.contains("aliases:no").sum() == 1


def test_script_names_the_java_metrics_that_it_skipped(tiny, monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", str(tmp_path))  # no java
    analysis_report.main({"report": {**tiny, "java_metrics": True}})
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    for name in ("METEOR", "SPICE"):
        assert f"- {name} was skipped: there is no java that runs." in text
    analysis_report.main({"report": tiny})
    assert "METEOR" not in Path("reports/mobile/report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_path": "checkpoints/none.safetensors"}, "no such checkpoint"),
        ({"data_dir": "data/none"}, "none"),
        ({"split": "validation"}, "split"),
        ({"beam_size": 0}, "beam_size"),
        ({"max_len": 5, "min_len": 5}, "min_len: got 5"),
        ({"compare": ["checkpoints/mobile.safetensors"]}, "compare: got 1 checkpoint, allowed are two"),
        ({"compare": ["checkpoints/mobile.safetensors", "none.safetensors"]}, "no such checkpoint"),
        ({"imagenet_weights": "none.pth"}, "imagenet_weights: none.pth: no such file"),
    ],
)
def test_script_refuses_what_it_cannot_do(tiny, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        analysis_report.main({"report": {**tiny, **change}})
    assert not Path("reports").exists()

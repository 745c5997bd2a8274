"""The report's numbers against hand-worked ones, its files read back, and the script on a tiny model."""

import math
import string
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

import analysis_report
import model as model_script
from captioning import plots, report
from captioning.annotations import Example
from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.evaluation import Prediction
from captioning.grounding import Grounder
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


def build(predictions, classes=("cat", "dog"), aliases=None):
    grounder, plain = report.build_grounders(classes, [], aliases or {})
    return analysis_report.build_tables(
        predictions, root=Path("data"), beam_size=5, grounder=grounder, plain_grounder=plain
    )


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
    grounder, plain = report.build_grounders(["cat"], ["tennis_court", "Cat"], {})
    assert plain is None
    assert grounder.find("a cat on a tennis court") == ["cat", "tennis_court"]
    tables = build([predict("cat", "a bird", "a cat")], classes=("cat", "bird"))
    assert tables["classes"]["class"].tolist() == ["cat"]
    assert tables["confusion"].loc["cat", "bird"] == 1
    assert tables["summary"].set_index("metric")["value"]["precision"] == 0.0


def test_references_are_a_yardstick():
    assert analysis_report.reference_accuracy(HAND_MADE, Grounder(["cat", "dog"])) == 1.0
    blind = [predict("cat", "a cat", "a cat", "an animal")]
    assert analysis_report.reference_accuracy(blind, Grounder(["cat", "dog"])) == 0.5


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
    tables = build(many_classes(number), classes=[f"c{index:02}" for index in range(number)])
    rows = tables["top_bottom"].query("rank > 0")
    assert rows["class"].is_unique
    assert rows["group"].tolist() == ["top"] * size + ["bottom"] * size
    notes = " ".join(report.reservations(tables))
    assert ("fewer than 20" in notes) == (number < 20)


# ---- words


def text_of(tables, notes=()):
    facts = report.findings(tables, subject="mobile captioned the val split", reference_accuracy=0.9)
    return report.report_text("mobile on data", facts, notes, tables)


def test_report_says_what_the_tables_say():
    text = text_of(build(HAND_MADE), ["one note"])
    assert "50.0% of the images the caption names the true one of 2 classes" in text
    assert "- one note" in text
    assert "## Best 1 class by BLEU-4" in text
    assert "\\|refs:1-2\\|" in text, "a bar would end the cell"
    assert "is to name dog where cat is true: 1 time." in text
    for name in report.FILES:
        assert f"[`{name}`]({name})" in text


def test_every_row_of_a_markdown_table_has_its_cells():
    tables = build([predict("cat", "a cat", "a | cat\nin two lines"), *HAND_MADE])
    lines = report.markdown_table(tables["images"]).splitlines()
    assert len(lines) == 2 + 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(tables["images"].columns) + 1}


def test_without_classes_the_report_is_about_captions():
    tables = build([predict("", p.caption, *p.example.captions) for p in HAND_MADE], classes=())
    assert set(tables) == {"images", "summary"}
    assert "named" not in tables["images"]
    assert tables["summary"]["metric"].tolist() == [
        *(f"BLEU-{n}" for n in range(1, 5)),
        "mean sentence BLEU-4",
        "ROUGE-L",
        "CIDEr-D",
    ]
    notes = report.reservations(tables)
    assert "no classes" in notes[-1]
    assert "confusion" not in text_of(tables, notes)


def test_images_without_a_class_count_for_the_captions_alone():
    tables = build([*HAND_MADE, predict("", "a cat", "a cat")])
    assert tables["images"]["correct"].tolist() == [True, False, True, False, ""]
    assert tables["classes"]["count"].sum() == 4
    recipes = tables["summary"].set_index("metric")["recipe"]
    assert recipes["BLEU-4"].endswith("n:5")
    assert recipes["F1"].endswith("n:4")
    assert any("1 image without a class" in note for note in report.reservations(tables))


def test_reservations_name_what_is_missing():
    notes = report.reservations(build(HAND_MADE), unreadable=["val/cat/9.jpg"], unseen=["dog"], known_words=0.25)
    text = " ".join(notes)
    for part in ("1 image (val/cat/9.jpg)", "75.0%", "never saw 1 class of the data: dog", "CIDEr-D says little"):
        assert part in text
    assert not any("\n" in note for note in notes)


def test_one_image_is_enough():
    tables = build(HAND_MADE[:1])
    assert tables["summary"].set_index("metric")["value"]["BLEU-4"] == pytest.approx(1.0)
    assert "# mobile on data" in text_of(tables, report.reservations(tables))


def test_java_metrics_are_rows_with_their_recipe_or_reservations():
    tables = analysis_report.build_tables(
        HAND_MADE, root=Path("data"), beam_size=5, more_scores={"meteor": 0.25, "spice": 0.5}
    )
    rows = tables["summary"].set_index("metric")
    assert rows["value"][["METEOR", "SPICE"]].tolist() == [0.25, 0.5]
    assert rows["recipe"]["METEOR"] == "meteor|corpus|refs:1-2|tok:nltk-coco|version:1.5-en-norm|beam:5|n:4"
    notes = report.reservations(tables, skipped={"spice": "there is no java that runs"})
    assert "SPICE was skipped: there is no java that runs." in notes


# ---- files


def test_csv_files_read_back(tmp_path):
    tables = build(HAND_MADE)
    analysis_report.write_report(tmp_path / "r", "text", tables, "title")
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(report.FILES)
    images = pd.read_csv(tmp_path / "r/images.csv", keep_default_na=False)
    assert images["caption"].tolist() == [p.caption for p in HAND_MADE]
    assert images["correct"].tolist() == [True, False, True, False]
    for name in ("classes", "summary", "top_bottom"):
        read = pd.read_csv(tmp_path / f"r/{name}.csv")
        pd.testing.assert_frame_equal(read, tables[name], atol=1e-6, check_dtype=False)
    confusion = pd.read_csv(tmp_path / "r/confusion.csv", index_col="class")
    assert (confusion.to_numpy() == tables["confusion"].to_numpy()).all()
    assert confusion.columns.tolist() == ["cat", "dog", "(none)"]
    for name in ("confusion.png", "classes.png"):
        with Image.open(tmp_path / "r" / name) as image:
            assert min(image.size) > 150


def test_an_interrupted_report_leaves_the_old_one(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    analysis_report.write_report(tmp_path / "r", "old", build(HAND_MADE), "title")
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    monkeypatch.setattr(plots, "confusion_figure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        analysis_report.write_report(tmp_path / "r", "new", build(HAND_MADE[:2]), "title")
    with pytest.raises(KeyboardInterrupt):
        analysis_report.write_report(tmp_path / "other", "new", build(HAND_MADE), "title")
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_report_without_classes_removes_the_tables_of_an_earlier_one(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/test_inference.png").write_bytes(b"of another script")
    analysis_report.write_report(tmp_path / "r", "text", build(HAND_MADE), "title")
    analysis_report.write_report(tmp_path / "r", "text", build(HAND_MADE, classes=()), "title")
    left = {path.name for path in (tmp_path / "r").iterdir()}
    assert left == {"report.md", "summary.csv", "images.csv", "test_inference.png"}


def test_report_folder(tmp_path):
    assert analysis_report.report_folder("", "checkpoints/birds.safetensors", "val") == Path("reports/birds")
    assert analysis_report.report_folder("", "birds.safetensors", "test") == Path("reports/birds_test")
    assert analysis_report.report_folder("out", "birds.safetensors", "test") == Path("out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        analysis_report.report_folder(tmp_path / "file" / "below", "birds.safetensors", "val")


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
    assert "mobile captioned the val split of tiny with beam 5: 4 images" in text
    assert len(pd.read_csv("reports/mobile/images.csv")) == 4
    # words of the references: a (known), color (red is), class (cat is)
    assert "33.3% of the references' words are not in the model's vocabulary" in text


def test_script_reports_the_test_split_beside(tiny):
    analysis_report.main({"report": {**tiny, "split": "test", "beam_size": 1}})
    assert "test split" in Path("reports/mobile_test/report.md").read_text(encoding="utf-8")
    assert not Path("reports/mobile").exists()


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
    ],
)
def test_script_refuses_what_it_cannot_do(tiny, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        analysis_report.main({"report": {**tiny, **change}})
    assert not Path("reports").exists()

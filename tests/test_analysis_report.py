"""The files of a report read back, and the script on a tiny model."""

import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from studies import HAND_MADE, provenance_of, repeated, study

import analysis_report
import model as model_script
from captioning import __version__, plots
from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.report import comparison, sections
from vocab import SPECIALS


def write(folder, studied):
    """Write a report in which every image is the same grey picture, which stands beside its folder."""
    picture = folder.parent / "grey.png"
    Image.new("RGB", (40, 30), "grey").save(picture)
    galleries = sections.build_galleries(studied.tables, [picture] * len(studied.tables["images"]))
    shown = analysis_report.Report(studied.tables, studied.texts(), galleries, provenance_of(studied), [])
    analysis_report.write_report(folder, "mobile on data", shown, studied.scored)


# ---- files


def test_csv_files_read_back(tmp_path):
    studied = study(HAND_MADE)
    tables = studied.tables
    write(tmp_path / "r", studied)
    absent = {
        "audit.csv",
        "copies.csv",
        "training.png",
        "memory.csv",
    }  # no dataset was looked through, no training is known
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(sections.FILES) - absent
    images = pd.read_csv(tmp_path / "r/images.csv", keep_default_na=False)
    assert images["caption"].tolist() == [p.caption for p in HAND_MADE]
    assert images["correct"].tolist() == [True, False, True, False]
    for name in (path.stem for path in (tmp_path / "r").glob("*.csv") if path.stem not in ("images", "confusion")):
        read = pd.read_csv(tmp_path / f"r/{name}.csv")
        for column in tables[name].select_dtypes(exclude="number"):
            read[column] = read[column].fillna("") if name != "language" else read[column].astype(object)
        pd.testing.assert_frame_equal(read, tables[name], atol=1e-6, check_dtype=False)
    confusion = pd.read_csv(tmp_path / "r/confusion.csv", index_col="class")
    assert (confusion.to_numpy() == tables["confusion"].to_numpy()).all()
    assert confusion.columns.tolist() == ["cat", "dog", "(none)"]
    for path in (tmp_path / "r").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 150


def test_the_json_file_has_every_number_with_its_interval_and_recipe(tmp_path):
    studied = study(repeated(HAND_MADE), probed=["cat", "dog"] * 10)
    write(tmp_path / "r", studied)
    read = json.loads((tmp_path / "r/report.json").read_text(encoding="utf-8"))
    assert list(read) == ["format", "title", "provenance", "sentences", "tables", "captions"]
    assert read["format"] == 1
    assert set(read["tables"]) == studied.tables.keys() - {"images"}
    for name, table in studied.tables.items():
        if name in ("images", "confusion"):
            continue
        rows = pd.DataFrame(read["tables"][name]["rows"], columns=list(read["tables"][name]["columns"]))
        pd.testing.assert_frame_equal(rows.astype(table.dtypes.to_dict()), table, rtol=0, atol=0)
        assert all(column["text"] for column in read["tables"][name]["columns"].values()), name
    (bleu,) = [row for row in read["tables"]["summary"]["rows"] if row["metric"] == "BLEU-4"]
    assert bleu["low"] < bleu["value"] < bleu["high"]
    columns = read["tables"]["classes"]["columns"]
    assert columns["bleu4"] == {
        "name": "BLEU-4",
        "text": "corpus BLEU up to 4-grams, as COCO computes it, 0 to 1",
        "recipe": bleu["recipe"].replace("|n:20", ""),
    }
    assert read["tables"]["confusion"]["rows"][0] == {"class": "cat", "cat": 5, "dog": 5, "(none)": 0}
    assert [row["caption"] for row in read["captions"]["worst"]]
    assert "NaN" not in (tmp_path / "r/report.json").read_text(encoding="utf-8")


def test_the_json_file_of_the_same_data_is_the_same(tmp_path):
    texts = []
    for folder in ("r", "s"):
        write(tmp_path / folder, study(HAND_MADE))
        texts.append(
            re.sub(r'"(date|figures)": .*', "", (tmp_path / folder / "report.json").read_text(encoding="utf-8"))
        )
    assert texts[0] == texts[1]


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
    kept = {
        "report.md",
        "report.json",
        "tables.tex",
        "report.html",
        "test_inference.png",
        "best.png",
        "worst.png",
        "sample.png",
    }
    kept |= {"references.png", "calibration.png", "lengths.png"}
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


def test_a_report_says_where_it_comes_from(tiny, monkeypatch):
    path = Path("checkpoints/mobile.safetensors")
    network, _, checkpoint = model_script.load_captioner(path)
    checkpoint.weights = network.state_dict()
    checkpoint.history = [
        {"epoch": 1, "stage": "decoder", "train_loss": 2.0, "val_loss": 2.5, "cider_d": 0.5, "bleu4": 0.1},
        {"epoch": 2, "stage": "finetune", "train_loss": 1.0, "val_loss": 2.0, "cider_d": 0.7, "bleu4": 0.2},
    ]
    checkpoint.best = {"metric": "cider_d", "value": 0.7, "epoch": 2}
    checkpoint.data = {"name": "tiny", "fingerprint": "0123456789ab"}
    save_checkpoint(path, checkpoint)
    monkeypatch.setattr("sys.argv", ["somewhere/analysis_report.py", "--split", "test", "--data_dir", "data/ti ny"])
    analysis_report.main({"report": {**tiny, "split": "test", "beam_size": 1}})
    found = json.loads(Path("reports/mobile_test/report.json").read_text(encoding="utf-8"))["provenance"]
    assert found["command"] == "python analysis_report.py --split test --data_dir 'data/ti ny'"
    (model,) = found["models"]
    assert model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model["architecture"]["embed_size"] == 8
    assert (model["data"], model["best"], model["epochs"]) == (checkpoint.data, checkpoint.best, 2)
    assert model["decoding"]["beam_size"] == 1
    assert (found["data"]["split"], found["data"]["images"]) == ("test", 4)
    assert re.fullmatch(r"[0-9a-f]{12}", found["data"]["fingerprint"])
    assert found["versions"]["captioning"] == __version__
    assert found["seconds"].keys() == {"captioning", "baselines", "audit", "scores", "figures"}
    text = Path("reports/mobile_test/report.md").read_text(encoding="utf-8")
    first_page = text[text.index("## Where this comes from") : text.index("## Results")]
    versions = found["versions"]
    for part in (found["command"], model["sha256"], "0123456789ab", found["date"], "2 of 2", versions["torch"]):
        assert part in first_page
    with Image.open("reports/mobile_test/training.png") as image:
        assert min(image.size) > 150
    assert "training.png)" in text.split("## Files")[0]


def test_a_history_that_is_none_does_not_stop_the_report(tiny):
    """The header of a file from elsewhere may hold anything in its history."""
    path = Path("checkpoints/mobile.safetensors")
    checkpoint = load_checkpoint(path)
    checkpoint.history = [3, {}, {"epoch": "x"}, {"epoch": 1, "val_loss": "much", "stage": ["y"]}, {"epoch": 2}]
    checkpoint.best, checkpoint.data = {"epoch": "\x1b[2J"}, {"name": ["<b>"], "fingerprint": 3}
    checkpoint.versions = {"torch": {"a": 1}}
    save_checkpoint(path, checkpoint)
    analysis_report.main({"report": tiny})
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert len(json.loads(Path("reports/mobile/report.json").read_text())["provenance"]["models"]) == 1


def test_script_reports_the_test_split_beside(tiny):
    analysis_report.main({"report": {**tiny, "split": "test", "beam_size": 1}})
    assert "test split" in Path("reports/mobile_test/report.md").read_text(encoding="utf-8")
    assert not Path("reports/mobile").exists()


def test_script_writes_every_file_that_it_names(tiny):
    analysis_report.main({"report": tiny})
    files = {path.name for path in Path("reports/mobile").iterdir()}
    assert files == set(sections.FILES) - {"best.png", "worst.png", "training.png"}, "all captions are empty"
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "The plain classifier learned from 4 images of train" in text
    assert "classifier was left out: imagenet_weights is empty" in text
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


def test_the_nearest_captions_are_scored_beside_the_models(tiny):
    """Every picture of a class is the same in train and val: its nearest caption is a perfect one."""
    analysis_report.main({"report": tiny})
    table = pd.read_csv("reports/mobile/memory.csv").set_index("metric")
    assert table.loc["BLEU-1", "nearest"] == pytest.approx(1)
    assert table.loc["average accuracy", "nearest"] == 1
    assert table["model"].tolist() == pytest.approx(pd.read_csv("reports/mobile/summary.csv")["value"].tolist())
    text = Path("reports/mobile/report.md").read_text(encoding="utf-8")
    assert "a caption of the most similar of 4 train images by the encoder's features" in text
    analysis_report.main({"report": {**tiny, "neighbor_images": 0}})
    assert not Path("reports/mobile/memory.csv").exists()
    assert "left out: neighbor_images is 0" in Path("reports/mobile/report.md").read_text(encoding="utf-8")


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
    assert "plain classifier was left out: the data has no train split" in text
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
    assert "Verdict: no difference: both models have the same CIDEr-D on these images." in capsys.readouterr().out
    table = pd.read_csv("reports/mobile_vs_mobile/pairs.csv")
    assert (table["difference"] == 0).all()
    assert table[["low", "high"]].isna().all(axis=None), "no draw differs"
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
    assert images["birds: caption"].str.contains("bird").all()
    assert len(images) == 4
    rows = pd.read_csv("reports/mobile_vs_birds_test/comparison.csv").set_index(["model", "metric"])
    assert rows.loc[("birds", "BLEU-4"), "recipe"] == (
        "bleu4|corpus|refs:2|tok:nltk-coco|smooth:none|beam:5|length_penalty:0.7|max_len:5|min_len:2|consensus:0.6|n:4"
    )
    pairs = pd.read_csv("reports/mobile_vs_birds_test/pairs.csv").set_index("metric")
    difference = rows.loc["mobile"]["value"] - rows.loc["birds"]["value"]
    assert pairs["difference"].to_dict() == pytest.approx(difference.to_dict(), abs=2e-6)
    read = json.loads(Path("reports/mobile_vs_birds_test/report.json").read_text(encoding="utf-8"))
    assert [model["path"] for model in read["provenance"]["models"]] == pair
    assert len(read["tables"]["pairs"]["rows"]) == len(pairs)


def test_comparing_several_checkpoints(tiny, capsys):
    path = "checkpoints/mobile.safetensors"
    analysis_report.main({"report": {**tiny, "compare": [path] * 4, "primary": "accuracy"}})
    assert "Verdict: no difference: all models have the same average accuracy" in capsys.readouterr().out
    folder = Path("reports/mobile_vs_3_others")
    assert {path.name for path in folder.iterdir()} == set(comparison.COMPARISON_FILES)
    assert "corrected for 6 pairs" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_comparison_and_a_report_take_each_others_place(tiny):
    """The confusion matrix of an earlier report stood beside the comparison of others."""
    path = "checkpoints/mobile.safetensors"
    kinds = {"report": {"model_path": path}, "comparison": {"compare": [path, path]}}
    left = {}
    for kind in ("report", "comparison", "report"):
        analysis_report.main({"report": {**tiny, "output": "both", **kinds[kind]}})
        left[kind] = {path.name for path in Path("both").iterdir()}
    assert left["comparison"] == set(comparison.COMPARISON_FILES)
    assert left["report"].isdisjoint(set(comparison.COMPARISON_FILES) - set(sections.FILES))


def test_a_comparison_scores_each_model_as_its_own_report_does(tiny):
    """A model's accuracy fell when it stood beside one that knows a class "red cat"."""
    network, vocabulary, checkpoint = model_script.load_captioner("checkpoints/mobile.safetensors")
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    for place, word in enumerate(("red", "cat", "a")):  # says "red", as "red cat" needs more than a bias
        weights["decoder.output.bias"][vocabulary.stoi[word]] = 9 - 3 * place
    checkpoint.weights, checkpoint.classes = weights, ["red"]
    save_checkpoint("checkpoints/one.safetensors", checkpoint)
    checkpoint.classes = ["red red"]
    save_checkpoint("checkpoints/two.safetensors", checkpoint)
    Path("data/tiny/aliases.csv").write_text("class,alias\ncat,red\n")
    paths = [f"checkpoints/{name}.safetensors" for name in ("one", "two")]
    settings = {**tiny, "beam_size": 1, "min_len": 2}
    analysis_report.main({"report": {**settings, "model_path": paths[0]}})
    analysis_report.main({"report": {**settings, "compare": paths}})
    alone = pd.read_csv("reports/one/summary.csv").drop_duplicates("metric").set_index("metric")
    beside = pd.read_csv("reports/one_vs_two/comparison.csv").set_index(["model", "metric"]).loc["one"]
    for metric in beside.index:
        assert tuple(beside.loc[metric, ["value", "recipe"]]) == tuple(alone.loc[metric, ["value", "recipe"]])


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
        ({"compare": ["checkpoints/mobile.safetensors"]}, "compare: got 1 model, allowed are 2 to 10"),
        ({"compare": ["a.safetensors"] * 11}, "compare: got 11 models, allowed are 2 to 10"),
        ({"primary": "bleu"}, "primary: got 'bleu', allowed are accuracy, bleu1"),
        ({"compare": ["checkpoints/mobile.safetensors", "none.safetensors"]}, "no such checkpoint"),
        ({"imagenet_weights": "none.pth"}, "imagenet_weights: none.pth: no such file"),
    ],
)
def test_script_refuses_what_it_cannot_do(tiny, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        analysis_report.main({"report": {**tiny, **change}})
    assert not Path("reports").exists()

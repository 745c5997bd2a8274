"""The scripts in their order, as a user runs them, from nothing to a captioned picture and a model to deploy."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import processes
import pytest
from PIL import Image

import app
from captioning.page import results
from captioning.page.labels import TEXT
from captioning.scores.grounding import Grounder

ROOT = Path(__file__).resolve().parents[1]
SMALLER = {  # flags behind the printed command, which make its work small
    "data_loader.py": "--num_workers 0",
    "model.py": "--embed_size 512",  # two rows instead of three
    "train.py": "--train.epochs 3 --train.lr 0.01 --train.feature_views 2 --train.wandb off --data.batch_size 32 "
    "--data.num_workers 0 --model.hidden_size 256 --model.dropout 0 --train.label_smoothing 0",
    "analysis_report.py": "--num_workers 0",
    "test_inference.py": "--dpi 60",
}
pytestmark = pytest.mark.timeout(900)  # all the scripts, on a busy machine
WRITTEN = {
    "prepare_data.py": ["data/pictograms/captions.csv", "data/pictograms/preview.png"],
    "vocab.py": ["vocab_2.pkl", "graphs/vocabulary.png"],
    "data_loader.py": ["graphs/batch.png"],
    "model.py": ["graphs/complexity.csv", "graphs/complexity.png"],
    "train.py": ["checkpoints/mobile.safetensors", "checkpoints/mobile_last.pt", "graphs/va_mobile.png"],
    "analysis_report.py": ["reports/mobile/report.html", "reports/mobile/confusion.png"],
    "test_inference.py": ["reports/mobile/test_inference.png"],
    "export.py": ["exports/mobile.onnx", "exports/mobile_int8.onnx"],
}


FEWER_PASSES = """
import runpy, sys
from captioning import complexity
complexity.RUNS = {1: 2, 32: 1}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(folder, command):
    """Run a command as a script prints it, and return (script, what it printed)."""
    python, script, *flags = shlex.split(command)
    assert python == "python", command
    command = [str(ROOT / script), *flags, *SMALLER.get(script, "").split()]
    if script == "model.py":
        command = ["-c", FEWER_PASSES, *command]
    result = processes.run(command, folder, OMP_NUM_THREADS="1")
    assert result.returncode == 0, f"{script}: {result.stderr[-2000:]}"
    for name in WRITTEN.get(script, ()):
        assert (folder / name).is_file(), f"{script} did not write {name}: {result.stdout}"
    return script, result.stdout


@pytest.fixture(scope="module")
def folder(once):
    """A folder in which the first command was given, and then each that the one before named as the next."""
    return once("user", follow_commands)


def follow_commands(folder):
    """Give the first command in a folder, and then each that the one before named as the next."""
    (folder / "checkpoints").mkdir()
    shutil.copy(ROOT / "checkpoints/pictograms.safetensors", folder / "checkpoints")  # what a clone has
    command, scripts = "python prepare_data.py --per_class 20", []
    while command:
        script, printed = run(folder, command)
        scripts.append(script)
        found = re.search(r"next: (python .*)", printed)
        command = found[1] if found and "caption.py" not in found[1] else ""
    assert scripts == list(WRITTEN)[:7]


def test_every_picture_can_be_looked_at(folder):
    pictures = sorted(folder.glob("*/**/*.png"))
    assert len(pictures) > 15
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 100, path


def test_the_report_says_that_the_model_has_learned(folder):
    summary = pd.read_csv(folder / "reports/mobile/summary.csv").set_index("metric")
    images = pd.read_csv(folder / "reports/mobile/images.csv", keep_default_na=False)
    assert len(images) == 120
    assert len(pd.read_csv(folder / "reports/mobile/classes.csv")) == 60
    accuracy = summary["value"]["average accuracy"]
    assert accuracy == pytest.approx((images["class"] == images["named"]).mean(), abs=1e-6)
    assert accuracy > 6 / 60, "six times chance"
    assert summary["value"]["BLEU-4"] > 0.3
    history = pd.read_csv(folder / "runs/mobile/history.csv")
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]


def test_twenty_classes_are_shown_with_their_captions(folder):
    _, printed = run(folder, "python test_inference.py --model_path checkpoints/mobile.safetensors")
    classes = {path.name for path in (folder / "data/pictograms/test").iterdir()}
    rows = [line.split() for line in printed.splitlines() if line.split()[0] in classes]
    assert len({row[0] for row in rows}) == len(rows) == 20
    grounder = Grounder(sorted(classes))
    assert sum(grounder.name(" ".join(row[2:])) == row[0] for row in rows) >= 1


def test_every_door_captions_the_trained_model(folder, monkeypatch):
    """caption.py, an exported model, and the page's function name the class of most test pictures of four classes."""
    monkeypatch.chdir(folder)
    _, printed = run(
        folder, "python export.py --model_path checkpoints/mobile.safetensors --num_images 60 --num_runs 2"
    )
    shutil.copy(sorted(Path("data/pictograms/test").rglob("*.jpg"))[0], "photo.jpg")
    script, text = run(folder, re.search(r"next: (python .*)", printed)[1])
    assert script == "caption.py"
    assert text.startswith("photo.jpg\t")

    grounder = Grounder(sorted(path.name for path in Path("data/pictograms/test").iterdir()))
    run(
        folder,
        "python caption.py data/pictograms/test --model_path exports/mobile.onnx --format jsonl --output c.jsonl",
    )
    captions = {row["image"]: row["caption"] for row in map(json.loads, Path("c.jsonl").read_text().splitlines())}
    assert len(captions) == 120
    right = [grounder.name(caption) == Path(image).parent.name for image, caption in captions.items()]
    assert sum(right) / len(right) > 6 / 60
    path = next(image for (image, _), ok in zip(captions.items(), right, strict=True) if ok)
    _, caption_pictures = app.load_models({"mobile": "exports/mobile.onnx"}, num_threads=1)
    (result,) = caption_pictures("mobile", [path], {}, max_pixels=10**6)
    page = results.show([{"name": "photo.jpg", **result}], TEXT["en"])
    assert captions[path] in page

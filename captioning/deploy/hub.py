"""A model folder as Hugging Face shows it: weights in every form, config, model card, licence, example pictures."""

import csv
import json
import re
import shutil
from pathlib import Path

from PIL import ImageOps

from captioning.cli import one_line
from captioning.data.images import load_image
from captioning.files import replace_folder
from captioning.markup import markdown_table

NUM_EXAMPLES = 4
EXAMPLE_SIDE = 256  # pixels
LICENCE = Path(__file__).resolve().parents[2] / "LICENSE"
TITLES = {"mobilenet_v2": "MobileNetV2", "resnet18": "ResNet-18"}  # of encoders; another is shown by its name
FILES = {".safetensors": "model.safetensors", ".onnx": "model.onnx", "_int8.onnx": "model_int8.onnx"}
WRITTEN = (*FILES.values(), "LICENSE", "README.md", "config.json", "examples")  # what else is in the folder stays

CARD = """---
license: mit
library_name: pytorch
pipeline_tag: image-to-text
tags: [image-captioning, onnx, mobilenet, lstm]
---

# {name}

{encoder} + LSTM, trained on {data}. It captions pictures of {size} x {size} pixels with {words} words.

{examples}

## Use

```sh
python caption.py photo.jpg --model_path hf://{owner_name}
python caption.py photo.jpg --model_path hf://{owner_name}/model_int8.onnx    # {int8_mb:.1f} MB, without torch
```

{files}

## Scores

{scores}

It says what it has seen: {classes}. On other pictures its captions are fluent and wrong. Do not decide anything about
people with it.
"""


def check_name(owner_name):
    """Raise ValueError unless a name is owner/name as Hugging Face allows it."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", owner_name):
        raise ValueError(f"--export.hub: got {owner_name!r}, must be owner/name of letters, digits, - _ .")


def read_scores(folder):
    """Return the rows (metric, value, recipe) of a report. Raises ValueError if there is none in `folder`."""
    path = Path(folder, "summary.csv")
    if not folder or not path.is_file():
        raise ValueError(
            f"--export.report: {path} is not there; the model card shows the numbers of a report, "
            f"which `python analysis_report.py --split test` writes"
        )
    with open(path, encoding="utf-8", newline="") as file:
        try:
            rows = [(row["metric"], float(row["value"]), row["recipe"]) for row in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError):
            rows = []
    if not rows:
        raise ValueError(f"{path}: must have the columns metric, value (a number) and recipe of a report")
    return rows


def write_folder(folder, owner_name, paths, checkpoint, *, scores, examples):
    """Write the model folder and return its path; an older one is replaced when the new one is complete.

    paths:    the checkpoint, its ONNX file and its int8 ONNX file
    scores:   rows of read_scores; examples: (picture, caption) pairs
    """
    config = {"config": checkpoint.config, "transform": checkpoint.transform, "vocab": checkpoint.vocab}
    config["tokenizer"] = checkpoint.tokenizer
    config |= {"classes": checkpoint.classes, "best": checkpoint.best, "data": checkpoint.data}
    with replace_folder(folder, WRITTEN) as new:
        (new / "examples").mkdir()
        for path, name in zip(paths, FILES.values(), strict=True):
            shutil.copyfile(path, new / name)
        shutil.copyfile(LICENCE, new / "LICENSE")
        text = json.dumps(config, ensure_ascii=False, indent=1)
        (new / "config.json").write_text(f"{text}\n", encoding="utf-8")
        for number, (picture, _) in enumerate(examples, start=1):
            ImageOps.contain(load_image(picture), (EXAMPLE_SIDE, EXAMPLE_SIDE)).save(new / example_name(number))
        card = model_card(new, owner_name, checkpoint, scores, examples)
        (new / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def example_name(number):
    """Return the name of an example picture inside the folder."""
    return f"examples/{number}.jpg"


def model_card(folder, owner_name, checkpoint, scores, examples):
    """Return the text of README.md of a model folder whose model files are there."""
    data = checkpoint.data.get("name") or "data without a name"
    kinds = ("PyTorch", "ONNX, float32", "ONNX, int8")
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in FILES.values()}
    files = [[f"`{name}`", kind, f"{size:.1f}"] for (name, size), kind in zip(sizes.items(), kinds, strict=True)]
    values = [[metric, f"{value:.4f}", f"`{recipe}`"] for metric, value, recipe in scores]
    classes = checkpoint.classes
    some = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more classes" if len(classes) > 12 else "")
    return CARD.format(
        name=owner_name.partition("/")[2],
        owner_name=owner_name,
        encoder=TITLES.get(name := checkpoint.config["model"]["encoder"], name),
        data=data,
        size=checkpoint.transform["image_size"],
        words=len(checkpoint.vocab),
        examples="\n".join(
            f"![{text}]({example_name(number)}) {text}\n" for number, (_, text) in enumerate(examples, start=1)
        ).strip(),
        int8_mb=sizes["model_int8.onnx"],
        files=markdown_table(["file", "format", "MB"], files),
        scores=markdown_table(["metric", "value", "recipe"], values),
        classes=some or f"the pictures of {data}",
    )


def upload(folder, owner_name):
    """Upload a model folder where the user is logged in. Returns a sentence that tells what was done.

    Raises ValueError, one line, if the upload fails.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ModuleNotFoundError:
        return "not uploaded: huggingface_hub is not installed"
    if not get_token():
        return f"not uploaded: log in with `hf auth login`, then `hf upload {owner_name} {folder}`"
    try:
        api = HfApi()
        address = api.create_repo(owner_name, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=owner_name, commit_message="Model exported by export.py")
    except Exception as error:  # it raises classes of its own, of httpx, OSError and ValueError
        raise ValueError(f"{owner_name}: not uploaded ({one_line(error, 200)}); {folder} is whole") from None
    return f"uploaded to {address}"

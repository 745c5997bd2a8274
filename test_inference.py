"""Script 6: caption one image each of 20 classes drawn at random, and show them in one picture.

    python test_inference.py             # test split of data/pictograms -> reports/mobile/test_inference.png
    python test_inference.py --seed 1    # other classes, other images
    python test_inference.py --model_path checkpoints/pictograms.safetensors --no-show

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/test_inference.png, <run> being the checkpoint's name: under each image its true class,
        the caption and one reference. It is shown where there is a display.

A check marks a caption that names the true class, a cross and a dashed frame one that does not. Data with
fewer classes shows all of them, data without classes 20 random images.
"""

import os
import random
import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image

from caption import Captioner
from captioning import cli, decoding, plots
from captioning.annotations import check_split, dataset_name, load_aliases, load_examples
from captioning.decoding import SETTINGS, SearchOptions
from captioning.evaluation import caption_examples
from captioning.images import load_image
from captioning.report import build_grounders

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # .safetensors | .onnx | https://... | hf://owner/name
    "data_dir": "data/pictograms",  # folder or annotation file
    "split": "test",  # train | val | test
    "num_classes": 20,  # one image of each; as many images where the data has no classes
    "seed": 0,  # of the draw: the same seed draws the same images
    "output": "",  # PNG; "" = reports/<run>/<split>_inference.png
    "show": True,  # open the picture, where there is a display
    # decoding: beam_size, max_len, min_len, length_penalty, no_repeat_ngram, as captioning/decoding.py tells
    **SETTINGS,
    # machine
    "device": "",  # "" = cuda, mps or cpu, the first there is
}

COLUMNS = 5  # pictures in a row


def draw_examples(examples, num_classes, seed):
    """Draw one readable example each of `num_classes` classes at random; without classes as many examples.

    returns: the examples in order of class; fewer than `num_classes` where there are not as many
    Raises ValueError if num_classes is below 1 or no image can be read.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, allowed is 1 or more")
    groups = defaultdict(list)  # what one image is drawn from
    labelled = [example for example in examples if example.label]
    for example in labelled or examples:
        groups[example.label or str(example.image)].append(example)
    generator = random.Random(seed)
    drawn = []
    for name in generator.sample(sorted(groups), len(groups)):
        candidates = sorted(groups[name], key=lambda example: str(example.image))
        readable = first_readable(generator.sample(candidates, len(candidates)))
        if readable:
            drawn.append(readable)
        if len(drawn) == num_classes:
            break
    if not drawn:
        raise ValueError(f"{examples[0].image.parent}: none of its images can be read")
    return sorted(drawn, key=lambda example: (example.label, str(example.image)))


def first_readable(examples):
    """Return the first example whose image can be read, None if there is none; the others are named."""
    for example in examples:
        try:
            load_image(example.image)
            return example
        except ValueError as error:
            print(f"warning: {error}; skipped")
    return None


def describe(prediction, grounder):
    """Return the lines (text, style) under one picture: true class, caption, reference."""
    example = prediction.example
    # Some datasets put a blank before every mark, which would begin a line of its own.
    reference = (f"ref: {example.captions[0].replace(' .', '.').replace(' ,', ',')}", "reference")
    if not example.label:
        return [(prediction.caption, "caption"), reference]
    right = grounder.name(prediction.caption) == example.label
    return [(example.label, "label"), (prediction.caption, "right" if right else "wrong"), reference]


def has_display():
    """True if a window can be opened."""
    if sys.platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_picture(path):
    """Open a picture in the machine's viewer; a machine without one goes on without."""
    try:
        with Image.open(path) as image:
            image.show(title=path.name)
    except OSError as error:
        print(f"note: the picture could not be shown ({cli.one_line(error)})")


def main(config):
    """Draw the images, caption them, and save and show the picture."""
    config = config["inference"]
    model_path, data_dir, split = Path(config["model_path"]), config["data_dir"], config["split"]
    options = SearchOptions(**{name: config[name] for name in SETTINGS})
    check_split(split)
    captioner = Captioner.load(config["model_path"], device=config["device"])
    examples = load_examples(data_dir, split)
    labels = {example.label for example in load_examples(data_dir)}
    grounder, _ = build_grounders(labels, captioner.model.classes, load_aliases(data_dir))
    drawn = draw_examples(examples, config["num_classes"], config["seed"])
    predictions = caption_examples(captioner, drawn, options=options, progress=False)

    lines = [describe(prediction, grounder) for prediction in predictions]
    classes = any(example.label for example in drawn)
    what = f"{len(lines)} {'classes' if classes else 'images'}"
    title = f"{what} of the {split} split of {dataset_name(data_dir)}, captioned by {model_path.stem}"
    title += " (✓ names the true class, ✗ does not)" if classes else ""
    path = Path(config["output"] or Path("reports", model_path.stem, f"{split}_inference.png"))
    images = [load_image(prediction.example.image) for prediction in predictions]
    plots.caption_grid(images, lines, path, columns=COLUMNS, title=title)

    for prediction in predictions:
        print(f"{prediction.example.label or prediction.example.image.name:<22} {prediction.caption}")
    if not classes:
        print(f"note: {data_dir} has no classes, so these are {len(lines)} random images")
    elif len(lines) < config["num_classes"]:
        print(f"note: {len(lines)} classes instead of {config['num_classes']}: the {split} split has no more")
    print(f"wrote {path}; this was the last script")
    if config["show"] and has_display():
        show_picture(path)


if __name__ == "__main__":
    limits = decoding.LIMITS | {"num_classes": (1, 10_000), "seed": (0, 2**32 - 1)}
    cli.run(main, {"inference": limits}, inference=CONFIG)

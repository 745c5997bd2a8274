"""What the shipped models say about a few pictures: docs/captions.png, the picture of the README.

    python benchmarks/shipped_models.py --aerial <ucm_captions> --pictograms data/pictograms

The photographs are all those of docs/photos; of the other two datasets four random test images each, drawn by `seed`.
None is chosen for its caption.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import random

from PIL import Image

from caption import Captioner
from captioning import cli, plots
from captioning.data.annotations import load_dataset
from captioning.data.images import load_image

CONFIG = {
    "photos": "docs/photos",  # folder of photographs
    "aerial": "data/ucm_captions",  # dataset with a test split
    "pictograms": "data/pictograms",  # dataset with a test split
    "seed": 0,
    "output": "docs/captions.png",
}
COLUMNS = 4


def draw(data_dir, seed):
    """Return the paths of COLUMNS random test images."""
    return [
        example.image for example in random.Random(seed).sample(load_dataset(data_dir, "test").splits["test"], COLUMNS)
    ]


def main(config):
    """Caption the pictures and draw them."""
    config = config["shipped"]
    pictures = {
        "photos": sorted(Path(config["photos"]).glob("*.jpg"))[:COLUMNS],
        "aerial": draw(config["aerial"], config["seed"]),
        "pictograms": draw(config["pictograms"], config["seed"]),
    }
    images, lines = [], []
    for model, paths in pictures.items():
        captions = Captioner.load(model)(paths)
        images += [load_image(path, 512) for path in paths]
        for caption in captions:
            note = [("(unlike its training pictures)", "reference")] if caption.unlike else []
            lines.append([(model, "label"), (caption.text, "caption"), *note])
        for path, caption in zip(paths, captions, strict=True):
            print(f"{model:<12} {path.name:<24} {caption.text}")
    plots.caption_grid(images, lines, config["output"], columns=COLUMNS, dpi=75)
    with Image.open(config["output"]) as picture:  # 256 colours, so that the page loads quickly
        picture.convert("RGB").quantize(256).save(config["output"], optimize=True)


if __name__ == "__main__":
    cli.run(main, {"shipped": {"seed": (0, 2**32 - 1)}}, shipped=CONFIG)

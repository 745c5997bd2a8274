"""What share of pictures of another kind each shipped model takes for unlike its training pictures.

    python benchmarks/familiarity.py --photos <flickr8k> --aerial <ucm_captions> --pictograms data/pictograms
    python benchmarks/familiarity.py --fit photos --photos <flickr8k>     # write `familiarity` into a checkpoint

A picture is unlike if its familiarity is below 0.05, which 5 % of the model's validation pictures are. Beside it stands
the confidence of the caption as the detector, with the threshold that 5 % of the validation pictures lie below. The
columns are the test splits, photographs of another collection if `others` names one, and drawn pictures: noise, pages
of text, one colour. `most familiar` is the share of a test split's pictures whose familiarity is highest for the model
of their kind. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json

import numpy as np
import torch
from PIL import Image, ImageDraw

from caption import Captioner
from captioning import cli
from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.data.annotations import load_dataset
from captioning.deploy.downloads import SHIPPED, fetch_model
from captioning.familiarity import UNLIKE
from captioning.markup import markdown_table
from captioning.runtime import Machine
from captioning.training.features import learn_familiarity
from data_loader import EvalTransform
from model import load_captioner

CONFIG = {
    # data that the shipped models were trained on
    "photos": "data/flickr8k",
    "aerial": "data/ucm_captions",
    "pictograms": "data/pictograms",
    "others": "",  # dataset of other photographs, of which the train split is taken; "" = none
    # what is measured
    "num_images": 500,  # most of a split
    "form": "",  # model files instead of the checkpoints, as exports/{}_int8.onnx; "" = the checkpoints
    "fit": "",  # shipped model whose checkpoint gets a new `familiarity`; nothing is measured then
}
DRAWN = 100  # pictures of each drawn kind
SIDE = 256  # pixels


def draw_noise(random):
    """Return a picture whose pixels are independent."""
    return Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def draw_text(random):
    """Return a white page of random words in the font that Pillow has."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    pen, letters = ImageDraw.Draw(page), list("abcdefghijklmnopqrstuvwxyz      ")
    for top in range(8, SIDE - 8, 14):
        pen.text((8, top), "".join(random.choice(letters, 40)), fill="black")
    return page


def draw_blank(random):
    """Return a picture of one colour."""
    return Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in random.integers(0, 256, 3)))


def spread(items, number):
    """Return at most `number` items, evenly spread."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(len(items), number))]


def split_images(data_dir, split, number):
    """Return the paths of at most `number` images of a split."""
    return spread([example.image for example in load_dataset(data_dir, split).splits[split]], number)


def fit(name, data_dir):
    """Learn what the training pictures of a shipped model look like, and write it into its checkpoint."""
    path = fetch_model(name)
    network, _, checkpoint = load_captioner(path)
    splits = load_dataset(data_dir, "train", "val").splits
    train, val = ([example.image for example in splits[split]] for split in ("train", "val"))
    transform = EvalTransform(checkpoint.transform["image_size"])
    found = learn_familiarity(network, train, val, transform, Machine(torch.device("cpu")))
    checkpoint.familiarity = found
    half = any(tensor.dtype == torch.float16 for tensor in load_checkpoint(path).weights.values())
    save_checkpoint(path, checkpoint, half=half)
    print(f"wrote familiarity, {len(json.dumps(found)) / 1e3:.0f} kB, into {path}")


def caption_all(captioner, images):
    """Return the familiarity and the confidence of the captions of images: (2, N)."""
    captions = captioner(images, num_workers=1)
    return np.array([[c.familiarity for c in captions], [c.confidence for c in captions]])


def main(config):
    """Print the table of the shares, then the JSON."""
    config = config["familiarity"]
    if config["fit"]:
        return fit(config["fit"], config[config["fit"]])
    number, random = config["num_images"], np.random.default_rng(0)
    images = {f"{name} (test)": split_images(config[name], "test", number) for name in SHIPPED}
    if config["others"]:
        images["other photographs"] = split_images(config["others"], "train", number)
    for title, draw in (("noise", draw_noise), ("pages of text", draw_text), ("one colour", draw_blank)):
        images[title] = [draw(random) for _ in range(DRAWN)]
    rows, result, familiarities = [], {}, {}
    for name in SHIPPED:
        captioner = Captioner.load(config["form"].format(name) if config["form"] else name)
        own = caption_all(captioner, split_images(config[name], "val", number))
        thresholds = np.array([UNLIKE, np.quantile(own[1], UNLIKE)])
        found = {title: caption_all(captioner, some) for title, some in images.items()}
        familiarities[name] = {title: values[0] for title, values in found.items()}
        shares = {title: np.less(values.T, thresholds).mean(axis=0) for title, values in found.items()}
        for place, detector in enumerate(("familiarity", "confidence")):
            result[f"{name}, {detector}"] = {title: float(share[place]) for title, share in shares.items()}
            rows.append([name, detector, *(f"{share[place]:.3f}" for share in shares.values())])
            print(rows[-1], flush=True)
    print(markdown_table(["model", "detector", *images], rows))
    for name in SHIPPED:
        of_all = np.stack([familiarities[other][f"{name} (test)"] for other in SHIPPED])
        # A tie between models that know nothing like it is no right answer.
        right = (of_all.max(axis=0) > 0) & (of_all.argmax(axis=0) == SHIPPED.index(name))
        result[f"{name}, most familiar"] = float(right.mean())
        print(f"most familiar to {name}: {right.mean():.3f} of its test split")
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, {"familiarity": {"num_images": (20, 100_000)}}, familiarity=CONFIG)

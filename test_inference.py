"""Script 6: caption one image each of 20 classes drawn at random, and show them in one picture.

    python test_inference.py             # test split of data/pictograms -> reports/mobile/test_inference.png
    python test_inference.py --seed 1    # other classes, other images
    python test_inference.py --split val --num_classes 60
    python test_inference.py --model_path checkpoints/pictograms.safetensors --no-show
    python test_inference.py --attention true    # of a model with --model.decoder attention

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/<split>_inference.png, <run> being the checkpoint's name: under each image its true class,
        the caption, its confidence and one reference. If there is a display, the picture is opened.
        reports/<run>/<split>_inference_attention.png: the attention map of each word, with --attention true

The confidence is the geometric mean of the probabilities of the caption's tokens. A caption that names the true class
first gets a check mark, any other a cross and a dashed frame. If the data has fewer classes, all are shown; without
classes, 20 random images.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "torch", "tyro")

import os
import random
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

from PIL import Image

from caption import Captioner, model_name
from captioning import cli, plots
from captioning.data.annotations import load_dataset, picture_settings
from captioning.data.images import load_image
from captioning.data.splits import check_split
from captioning.evaluation import caption_examples
from captioning.familiarity import unlike_warning
from captioning.scores.grounding import build_grounders
from captioning.scores.variety import sameness
from captioning.search import options as search_options
from captioning.search.options import SETTINGS

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # .safetensors (a,b = ensemble) | .onnx | https://... | hf://owner/name
    "data_dir": "data/pictograms",  # dataset folder or annotation file
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the dataset's folder
    "split": "test",  # train | val | test
    "num_classes": 20,  # random classes, one image each; for data without classes the number of images
    "seed": 0,  # of the random choice
    # the picture
    "output": "",  # PNG; "" = reports/<run>/<split>_inference.png
    "dpi": 300,  # pixels per inch: 300 for print, 120 for a screen
    "attention": False,  # a second picture with the attention map of each word (decoder attention)
    "show": True,  # open the picture if there is a display
    # decoding, see captioning/search/options.py
    **SETTINGS,
    # machine
    "device": "",  # cuda | mps | cpu; "" = the first of these that is available
}

# Of the settings that are no numbers.
TYPES = dict.fromkeys(("model_path", "data_dir", "images_dir", "split", "output", "device"), str)
TYPES |= dict.fromkeys(("allow_missing", "allow_links", "attention", "show"), bool)

COLUMNS = 5  # pictures in a row


def draw_examples(examples, num_classes, seed):
    """Draw one readable example from each of `num_classes` random classes; without classes, `num_classes` examples.

    returns: the examples, sorted by class; fewer than `num_classes` if the data has fewer
    Raises ValueError if num_classes is below 1 or no image can be read.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, allowed is 1 or more")
    groups = defaultdict(list)  # one image is drawn from each
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
    """Return the first example whose image can be read, or None; print a warning for each that cannot."""
    for example in examples:
        try:
            load_image(example.image)
            return example
        except ValueError as error:
            print(f"warning: {error}; skipped")
    return None


def prediction_lines(prediction, grounder):
    """Return the plots.caption_lines of a prediction: true class, caption, confidence, reference."""
    example = prediction.example
    correct = grounder.name(prediction.caption) == example.label if example.label else ""
    # Some datasets put a space before punctuation, which a line break would move to the next line.
    reference = example.captions[0].replace(" .", ".").replace(" ,", ",")
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in reference):
        reference = f"\u2068{reference}\u2069"  # a text of its own: "ref:" would set its stop at the wrong end
    reference = f"ref: {reference}"
    note = f"confidence {prediction.confidence:.2f}"
    note += ", unlike the training pictures" if prediction.unlike else ""
    return plots.caption_lines(example.label, prediction.caption, correct, note, reference)


def draw_captions(path, subject, predictions, lines, dpi):
    """Draw the predictions with their prediction_lines as a grid; subject: whose captions these are, in words."""
    classes = any(prediction.example.label for prediction in predictions)
    right = sum(style == "right" for texts in lines for _, style in texts)
    title = f"{len(lines)} {'classes' if classes else 'images'} of {subject}"
    title += f" (✓ names the true class, ✗ does not: {right} of {len(lines)} do)" if classes else ""
    images = [load_image(prediction.example.image) for prediction in predictions]
    plots.caption_grid(images, lines, path, columns=COLUMNS, title=title, dpi=dpi)


def draw_attention(path, run, captioner, predictions):
    """Draw the attention map of each word of each caption."""
    captions = [prediction.caption for prediction in predictions]
    pictures, maps = zip(*captioner.attend([p.example.image for p in predictions], captions), strict=True)
    words = [captioner.vocabulary.words(caption) for caption in captions]
    plots.attention_figure(pictures, words, maps, path, title=f"Attention of {run} for each word")


def print_captions(run, predictions, num_classes, split):
    """Print a line for each caption of the model `run`, and why there are fewer classes than were asked for."""
    for prediction in predictions:
        name = prediction.example.label or prediction.example.image.name
        print(f"{name:<22} {prediction.confidence:.2f}  {prediction.caption}")
    num_unlike = sum(prediction.unlike for prediction in predictions)
    same = sameness([prediction.caption for prediction in predictions])
    for warning in filter(None, (same, unlike_warning(num_unlike, len(predictions), run))):
        print(f"warning: {warning}")
    if not any(prediction.example.label for prediction in predictions):
        print(f"note: the data has no classes; drawn at random: {cli.counted(len(predictions), 'image')}")
    elif len(predictions) < num_classes:
        got = cli.counted(len(predictions), "class")
        print(f"note: {got} instead of {num_classes}: the {split} split has no more")


def has_display():
    """True if a window can be opened."""
    if sys.platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_picture(path):
    """Open a picture in the system's viewer; if there is none, print a note."""
    try:
        with Image.open(path) as image:
            image.show(title=path.name)
    except OSError as error:
        print(f"note: the picture could not be opened ({cli.one_line(error)})")


def main(config):
    """Draw the examples, caption them, save the picture and open it."""
    config = cli.settings_of(config, "inference")
    run, split = model_name(config["model_path"]), config["split"]
    settings = {name: config[name] for name in SETTINGS}
    search_options.search_options({}, **settings)  # what is impossible is refused before anything is read
    check_split(split)
    path = Path(config["output"] or Path("reports", run, f"{split}_inference.png"))
    plots.check_figure(path)
    captioner = Captioner.load(config["model_path"], device=config["device"])
    options = captioner.search_options(**settings)
    if config["attention"] and not captioner.has_attention:
        raise ValueError(f"attention: {config['model_path']} has none; train one with --model.decoder attention")

    dataset = load_dataset(config["data_dir"], split, **picture_settings(config))
    grounder, _ = build_grounders(dataset.classes, captioner.model.classes, dataset.aliases)
    examples = draw_examples(dataset.splits[split], config["num_classes"], config["seed"])
    predictions = caption_examples(captioner, examples, options=options, progress=False)
    lines = [prediction_lines(prediction, grounder) for prediction in predictions]

    subject = f"the {split} split of {dataset.name}, captioned by {run}"
    draw_captions(path, subject, predictions, lines, config["dpi"])
    print_captions(run, predictions, config["num_classes"], split)
    written = str(path)
    if config["attention"]:
        attention_path = path.with_name(f"{path.stem}_attention.png")
        draw_attention(attention_path, run, captioner, predictions)
        written += f" and {attention_path}"
    print(f"wrote {written}; this was the last script")
    if config["show"] and has_display():
        show_picture(path)


if __name__ == "__main__":
    limits = search_options.LIMITS | {"num_classes": (1, 10_000), "seed": (0, 2**32 - 1), "dpi": (40, 1200)}
    cli.run(main, {"inference": limits | TYPES}, inference=CONFIG)

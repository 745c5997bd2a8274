"""Script 0: make a captioned dataset, drawn by the project itself or from folders of photographs.

    python prepare_data.py                           # -> data/pictograms, 60 classes x 300 drawn pictures
    python prepare_data.py --per_class 20            # a small one
    python prepare_data.py --source photos --captions photos.csv           # photos/<class>/*.jpg -> data/photos
    python prepare_data.py --source photos --classes 60 --captioner Salesforce/blip-image-captioning-base

Reads   nothing, or <source>/<class>/<image> with a CSV (image,caption) or a captioning model
Writes  <output>/{train,val,test}/<class>/<image>.jpg, <output>/captions.csv and <output>/preview.png

Photographs are cropped to their central square and resized. Unreadable ones are dropped, and of copies (equal files,
or nearly equal pictures) one is kept, so that no picture is in two splits.
"""

import csv
import itertools
import os
from pathlib import Path

from tqdm import tqdm

from captioning import class_folders, cli, pictograms, plots
from captioning.annotations import DEFAULT_DATA_DIR, SPLITS, load_examples
from captioning.images import load_image

CONFIG = {
    # what
    "source": "",  # "" = pictograms, drawn; or a folder of <class>/<image>.jpg
    "output": "",  # folder; "" = data/pictograms or data/<name of source>; an older dataset there is replaced
    "seed": 0,  # of the drawing, or of the choice of images
    "num_workers": 0,  # processes; 0 = one per core
    # how many
    "per_class": 300,  # images of each class, split 8:1:1; 0 = all there are (not for pictograms)
    "train": 0,  # images of each class in this split; 0 = from per_class
    "val": 0,
    "test": 0,
    # class folders only
    "classes": "",  # "" = all; "20" = the first 20 by name; "cat,dog" = these
    "captions": "",  # CSV with the header image,caption; image relative to source, as in cat/1.jpg
    "captioner": "",  # instead: image-to-text model, a Hugging Face hub name or a local folder
    "captioner_batch": 16,  # images
    "device": "",  # of the captioner: cuda, mps, cpu; "" = the best there is
    "image_size": 256,  # pixels a side
    "near_copies": 4,  # perceptual hashes (64 bits) differing in so many bits are copies; -1 = equal files only
}

PREVIEW_IMAGES = 60


def split_sizes(available, per_class, wanted):
    """Return split -> number of images of a class.

    available: usable images in the class; counts if per_class is 0
    wanted:    split -> number, 0 = an 8:1:1 share of per_class
    """
    if all(wanted.values()):
        return wanted
    shares = pictograms.split_sizes(per_class or available)
    return {split: wanted[split] or shares[split] for split in SPLITS}


def class_sizes(found, per_class, wanted):
    """Return class -> split_sizes. Raises ValueError naming a class that has too few.

    found: class -> (usable images, images in the folder)
    """
    sizes = {}
    for label, (usable, total) in found.items():
        sizes[label] = split_sizes(max(3, usable), per_class, wanted)
        need = sum(sizes[label].values())
        if usable < need:
            numbers = "/".join(str(count) for count in sizes[label].values())
            raise ValueError(
                f"class {label!r}: {usable} usable of {total} images, needs {need} ({numbers} for train/val/test); "
                "set --per_class (0 = all there are) or --train, --val, --test, or leave the class out"
            )
    return sizes


def load_captioner(name, device):
    """Return a function from PIL images to one caption each, by a model of the transformers library.

    name: Hugging Face hub name or local folder
    Raises ValueError if the library or the model is not there.
    """
    try:
        # Optional, and slow to import in each of the processes that only decode images.
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from captioning import runtime
    except ImportError:
        raise ValueError("--captioner needs more libraries: pip install -r requirements-captioner.txt") from None
    device = runtime.pick_device(device)
    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"--captioner {name}: no image-to-text model in such a folder or on the hub, or no network ({reason:.120})"
        ) from None

    def describe(images):
        inputs = processor(images=images, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=30)
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return describe


def describe_images(describe, paths, batch_size):
    """Return the captions of the images at `paths`, one each; a caption without words is ""."""
    captions = []
    with tqdm(total=len(paths), desc="describing", unit="image") as bar:
        for start in range(0, len(paths), batch_size):
            images = [load_image(path) for path in paths[start : start + batch_size]]
            captions += [text if any(c.isalnum() for c in text) else "" for text in describe(images)]
            bar.update(len(images))
    return captions


def draw_preview(folder):
    """Write preview.png, pictures of all classes in turn with their captions. Returns the folder's examples."""
    examples = load_examples(folder)
    by_class = [list(group) for _, group in itertools.groupby(sorted(examples, key=label_of), key=label_of)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_class))
    shown = list(itertools.islice((example for example in in_turn if example), PREVIEW_IMAGES))
    texts = [[(e.label, "label"), *((caption, "caption") for caption in e.captions[:2])] for e in shown]
    images = [load_image(example.image) for example in shown]
    plots.caption_grid(images, texts, folder / "preview.png", columns=10, title=f"{len(examples):,} images")
    return examples


def label_of(example):
    """The class of an example."""
    return example.label


def write_captions(path, rows):
    """Write captions.csv from (image, caption) rows."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "caption"), *rows])


def report_choice(gathered, uncaptioned):
    """Print what was dropped, and why."""
    for line in gathered.unreadable[:5]:
        print(f"warning: {line}; dropped")
    if uncaptioned:
        print(f"skipped          {uncaptioned:,} images without a caption")
    print(
        f"looked at        {gathered.looked_at:,} images, dropped {len(gathered.unreadable):,} unreadable, "
        f"{gathered.exact:,} exact and {gathered.near:,} near copies"
    )


def write_photographs(source, output, *, classes, captions_path, describe, batch_size, per_class, wanted, **reading):
    """Write the dataset of a folder of classes, and return its examples.

    describe: function from PIL images to captions, used where there is no captions_path
    wanted:   split -> images of a class, 0 = from per_class
    reading:  size, distance, seed and num_workers of class_folders.gather_photos

    Raises ValueError if a class has too few images; then nothing is written.
    """
    found = class_folders.list_photos(source)
    captions = class_folders.read_captions(captions_path, found) if captions_path else {}
    found = {label: found[label] for label in class_folders.choose_classes(list(found), classes)}
    candidates = {
        label: [name for name in names if name in captions or not captions_path] for label, names in found.items()
    }
    class_sizes({label: (len(candidates[label]), len(found[label])) for label in found}, per_class, wanted)
    fixed = per_class or all(wanted.values())
    need = sum(split_sizes(0, per_class, wanted).values()) if fixed else 0
    with class_folders.replace_folder(output) as folder, tempfile.TemporaryDirectory(dir=folder) as pool:
        gathered = class_folders.gather_photos(source, candidates, Path(pool), need=need, **reading)
        usable = {label: (len(gathered.photos[label]), len(found[label])) for label in found}
        placed = [
            place
            for label, sizes in class_sizes(usable, per_class, wanted).items()
            for place in class_folders.place_photos(gathered.photos[label], sizes, folder)
        ]
    return placed

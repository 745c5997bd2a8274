"""The embedded dataset: 60 captioned classes, drawn from glyphs of the DejaVu Sans font inside matplotlib.

A picture shows one to three objects of one class and one colour on a coloured, textured background. Everything is
drawn from a generator of its own, seeded by (seed, class, split, number), so a picture does not depend on how many
others are drawn or on how many processes draw them.
"""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from captioning.data import pictograms_ko
from captioning.data.class_folders import check_replaceable
from captioning.data.copies import process_map
from captioning.data.splits import SPLITS, split_sizes
from captioning.files import replace_folder
from captioning.progress import Progress
from captioning.untrusted import csv_writer

IMAGE_SIZE = 256  # pixels a side
MASK_SIZE = 320  # pixels; a glyph is drawn once at this size, then rotated and shrunk

# class word -> glyph; chosen to differ from one another at 96 pixels, tilted and mirrored
GLYPHS = {
    "airplane": "\u2708", "ampersand": "&", "anchor": "\u2693", "arrow": "\u27a4", "biohazard sign": "\u2623",
    "bishop": "\u265d", "cat": "\U0001f431", "check mark": "\u2714", "cloud": "\u2601", "club": "\u2663",
    "cow": "\U0001f42e", "cross": "\u271d", "cup": "\u2615", "diamond": "\u2666", "dice": "\u2684",
    "dollar sign": "$", "envelope": "\u2709", "flag": "\u2691", "flower": "\u2698", "gear": "\u2699",
    "hammer": "\u2692", "heart": "\u2665", "hexagram": "\u2721", "house": "\u2302", "infinity sign": "\u221e",
    "keyboard": "\u2328", "king": "\u265a", "knight": "\u265e", "leaf": "\u2766", "lightning bolt": "\u26a1",
    "monkey": "\U0001f435", "moon": "\u263e", "music note": "\u266b", "pawn": "\u265f", "peace sign": "\u262e",
    "pencil": "\u270f", "queen": "\u265b", "question mark": "?", "radiation sign": "\u2622", "rat": "\U0001f42d",
    "recycling sign": "\u267b", "rook": "\u265c", "scale": "\u2696", "scissors": "\u2702", "shamrock": "\u2618",
    "skull": "\u2620", "smiley": "\u263a", "snowflake": "\u2744", "snowman": "\u2603", "spade": "\u2660",
    "star": "\u2605", "sun": "\u2600", "swords": "\u2694", "telephone": "\u260e", "umbrella": "\u2602",
    "urn": "\u26b1", "warning sign": "\u26a0", "wheel": "\u2638", "wheelchair": "\u267f", "yin yang": "\u262f",
}  # fmt: skip
CLASSES = tuple(word.replace(" ", "_") for word in GLYPHS)
THIN = (
    "cup",
    "house",
    "infinity sign",
    "lightning bolt",
    "moon",
    "scale",
    "snowman",
    "swords",
    "umbrella",
    "hexagram",
)

# {} stands where the adjectives go; every other word takes an s
SINGULAR = {"hammer": "pair of {}hammers", "scissors": "pair of {}scissors", "swords": "pair of {}swords"}
PLURAL = {
    "hammer": "pairs of {}hammers", "scissors": "pairs of {}scissors", "swords": "pairs of {}swords",
    "dice": "{}dice", "leaf": "{}leaves", "cross": "{}crosses", "snowman": "{}snowmen",
}  # fmt: skip
NUMBERS = {1: "", 2: "two", 3: "three"}

COLOURS = {
    "red": (205, 30, 35), "orange": (245, 135, 20), "yellow": (250, 220, 40), "green": (40, 150, 60),
    "blue": (40, 85, 205), "purple": (120, 40, 165), "pink": (248, 150, 195), "brown": (115, 68, 32),
    "black": (22, 22, 22), "white": (243, 243, 243),
}  # fmt: skip
COLOUR_JITTER = 10  # of 255 per channel: never enough to reach another name
LEAST_CONTRAST = 70  # difference in luminance, of 255
SIZES = {"small": (70, 84), "": (98, 114), "large": (150, 200)}  # pixels, the longer side
TEXTURES = ("plain", "striped", "dotted", "checked")
WORDINGS = (
    "there {is_are} {objects} against a {ground} background",
    "the picture shows {sized} on a {textured} background",
    "{sized} in front of a {textured} background",
    "a picture of {sized} on a {ground} ground",
    "on a {textured} background {is_are} {objects}",
)
NUM_WORDINGS = 3  # of these beside the canonical one


def phrase(word, number, *adjectives):
    """Return the noun phrase of `number` objects: "a small red umbrella", "two pairs of red scissors"."""
    told = "".join(f"{adjective} " for adjective in adjectives if adjective)
    if number == 1:
        noun = SINGULAR.get(word, f"{{}}{word}").format(told)
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    return f"{NUMBERS[number]} {PLURAL.get(word, f'{{}}{word}s').format(told)}"


class Scene(NamedTuple):
    """What a picture shows: `number` objects of a class, of one size and colour, on a background, in English."""

    word: str
    number: int
    size: str
    figure: str
    ground: str
    texture: str


def describe(scene, wordings):
    """Return the captions of a Scene: the canonical one, then those of WORDINGS at the places `wordings`."""
    objects, ground = phrase(scene.word, scene.number, scene.figure), scene.ground
    parts = {
        "objects": objects,
        "sized": phrase(scene.word, scene.number, scene.size, scene.figure),
        "ground": ground,
        "textured": f"{scene.texture} {ground}",
        "is_are": "is" if scene.number == 1 else "are",
    }
    captions = [WORDINGS[index].format(**parts).replace(" a orange", " an orange") for index in wordings]
    return [f"{objects} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background", *captions]


LANGUAGES = {  # name -> (class word -> class name, the function that describes a Scene)
    "en": ({word: word for word in GLYPHS}, describe),
    "ko": ({word: noun for word, (noun, _) in pictograms_ko.NOUNS.items()}, pictograms_ko.describe),
}


def luminance(rgb):
    """Return the luma of a colour, 0..255 (ITU-R BT.601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


COLOUR_PAIRS = tuple(
    (figure, ground)
    for figure in COLOURS
    for ground in COLOURS
    if abs(luminance(COLOURS[figure]) - luminance(COLOURS[ground])) >= LEAST_CONTRAST
)


def font_path():
    """Return the path of DejaVu Sans, which ships inside matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def glyph_mask(word):
    """Return the glyph as a greyscale picture, cropped to its ink."""
    font = ImageFont.truetype(str(font_path()), MASK_SIZE)
    canvas = Image.new("L", (3 * MASK_SIZE, 3 * MASK_SIZE))
    stroke = 8 if word in THIN else 2
    middle = (1.5 * MASK_SIZE, 1.5 * MASK_SIZE)
    ImageDraw.Draw(canvas).text(middle, GLYPHS[word], font=font, fill=255, anchor="mm", stroke_width=stroke)
    return canvas.crop(canvas.getbbox())


def draw_texture(rng, texture, colour):
    """Return a (256, 256, 3) uint8 background of one named colour in two shades."""
    light = luminance(colour) < 128
    shade = np.clip(np.array(colour, dtype=float) + (26 if light else -26), 0, 255)
    period = int(rng.integers(20, 41))
    x = np.arange(IMAGE_SIZE) + int(rng.integers(period))
    y = x[:, None]
    if texture == "striped":
        along = (x, y, x + y)[int(rng.integers(3))]
        mark = (along // (period // 2)) % 2
    elif texture == "dotted":
        mark = ((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2) < (0.28 * period) ** 2
    elif texture == "checked":
        mark = (x // period + y // period) % 2
    else:
        mark = np.zeros(1)
    shades = np.array([colour, shade], dtype=np.uint8)
    return shades[np.broadcast_to(mark, (IMAGE_SIZE, IMAGE_SIZE)).astype(np.intp)]


def jittered(rng, name):
    """Return the named colour, a little off."""
    return tuple(int(v) for v in np.clip(np.array(COLOURS[name]) + rng.integers(-COLOUR_JITTER, 11, 3), 0, 255))


def draw_example(word, rng, describe=describe):
    """Draw one picture: (PIL RGB 256x256, list of captions); the same generator state gives the same picture.

    describe: of LANGUAGES
    """
    number = int(rng.integers(1, 4))
    sizes = list(SIZES) if number == 1 else ["small", ""]
    size = sizes[int(rng.integers(len(sizes)))]
    figure, ground = COLOUR_PAIRS[int(rng.integers(len(COLOUR_PAIRS)))]
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
    picture = Image.fromarray(draw_texture(rng, texture, jittered(rng, ground)))
    colour = jittered(rng, figure)
    # One object may lie anywhere; several share out the quarters, so that they never overlap.
    half = IMAGE_SIZE // 2
    corners = [(0, 0), (half, 0), (0, half), (half, half)]
    cells = [(0, 0)] if number == 1 else [corners[i] for i in rng.permutation(4)[:number]]
    room = IMAGE_SIZE if number == 1 else half
    for left, top in cells:
        mask = glyph_mask(word).rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True)
        mask = mask.crop(mask.getbbox())
        side = int(rng.integers(*SIZES[size]))
        ratio = side / max(mask.size)
        mask = mask.resize([max(1, round(ratio * v)) for v in mask.size], Image.Resampling.BOX)
        x = left + int(rng.integers(4, room - mask.width - 3))
        y = top + int(rng.integers(4, room - mask.height - 3))
        picture.paste(colour, (x, y), mask)
    wordings = sorted(rng.permutation(len(WORDINGS))[:NUM_WORDINGS].tolist())
    return picture, describe(Scene(word, number, size, figure, ground, texture), wordings)


def write_class(folder, class_name, sizes, seed, language="en"):
    """Draw one class of the dataset: rows of (image path relative to `folder`, caption)."""
    place, word, (names, describe) = CLASSES.index(class_name), class_name.replace("_", " "), LANGUAGES[language]
    name_of_folder, rows = names[word].replace(" ", "_"), []
    for split, count in sizes.items():
        (folder / split / name_of_folder).mkdir(parents=True)
        for number in range(1, count + 1):
            rng = np.random.default_rng([seed, place, SPLITS.index(split), number])
            picture, captions = draw_example(word, rng, describe)
            name = f"{split}/{name_of_folder}/{number:04d}.jpg"
            picture.save(folder / name, quality=90)
            rows += [(name, caption) for caption in captions]
    return rows


def write_dataset(
    out_dir, *, per_class=300, seed=0, num_workers=0, progress=True, language="en", finish=lambda folder: None
):
    """Draw the dataset into `out_dir` and return the number of images.

    per_class:   images of each class, split 8:1:1 (300 = 240/30/30)
    num_workers: processes; 0 = one per core
    language:    of captions and class names, a key of LANGUAGES; the pictures are the same
    finish:      called with the drawn folder, before it takes its place

    An older dataset there is replaced when the new one is complete.
    Raises ValueError if `out_dir` holds something that is not a dataset, or a dataset and something else.
    """
    if per_class < len(SPLITS):
        raise ValueError(f"per_class: got {per_class}, allowed is 3 or more (one image for each split)")
    out_dir, sizes = Path(out_dir), split_sizes(per_class)
    if language not in LANGUAGES:
        raise ValueError(f"language: got {language!r}, allowed are {', '.join(LANGUAGES)}")
    for key, value in (("seed", seed), ("num_workers", num_workers)):
        if value < 0:
            raise ValueError(f"{key}: got {value}, allowed is 0 or more")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / "captions.csv").is_file():
        raise ValueError(f"{out_dir}: exists and is not a dataset (no captions.csv); give another --output")
    check_replaceable(out_dir, [])
    with replace_folder(out_dir) as folder:
        workers = min(num_workers or os.cpu_count() or 1, len(CLASSES))
        draw = functools.partial(write_class, folder, sizes=sizes, seed=seed, language=language)
        with Progress(total=per_class * len(CLASSES), desc="drawing", unit=" images", disable=not progress) as bar:
            rows = []
            with process_map(workers, chunksize=1) as draw_all:
                for class_rows in draw_all(draw, CLASSES):
                    rows += class_rows
                    bar.update(per_class)
        rows.sort(key=lambda row: SPLITS.index(row[0].partition("/")[0]))
        with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
            csv_writer(file).writerows([("image", "caption"), *rows])
        finish(folder)
    return per_class * len(CLASSES)

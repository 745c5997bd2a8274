"""Captioned images on disk to a list of Example; the format is chosen by looking at the path given.

    captions.csv                        the project's own layout, {train,val,test}/<class>/<image> beside it
    dataset.json, dataset_*.json        Karpathy's JSON (COCO, Flickr8k/30k, UCM-Captions, RSICD)
    captions_*.json, annotations/...    COCO captions; instances_*.json beside them gives the classes
    captions.txt, Flickr8k.token.txt    Flickr8k, with Flickr_8k.{train,dev,test}Images.txt

Each reader lists a directory once instead of asking for every image, so COCO's 120,000 images take seconds.
"""

import csv
import gc
import hashlib
import json
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from captioning.cli import counted
from captioning.data.names import Folders, folded, normalised
from captioning.files import check_regular

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
DEFAULT_DATA_DIR = "data/pictograms"
ACCEPTED = (
    "accepted are a folder with captions.csv, dataset.json (Karpathy), captions_*.json (COCO) or "
    "captions.txt / Flickr8k.token.txt (Flickr8k), or such a file itself"
)

_IMAGE_FOLDERS = ("", "images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_SPLIT_NAMES = {"train": "train", "restval": "train", "val": "val", "dev": "val", "test": "test"}
MAX_CAPTION = 5000  # characters, about 900 words; one long caption makes its whole batch as long
MAX_AREA = 10**10  # pixels of an object; a number too large for a float would end in an error of its own
_ID = int | str  # COCO's ids are numbers, those of sets made after its pattern often text


@dataclass(frozen=True, slots=True)
class Example:
    """One image with all its captions (at least one, as written in the file).

    label: the class, "" = none;  split: "train", "val" or "test"
    """

    image: Path
    captions: list[str]
    label: str
    split: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A captioned dataset, parsed once and handed on.

    name:    of its folder
    root:    the folder that paths in a report are written relative to
    splits:  split -> its Examples, in file order; only the splits that were loaded, and never an empty one
    aliases: class -> further words that name it, {} = none
    """

    name: str
    root: Path
    splits: dict[str, list[Example]]
    aliases: dict[str, list[str]]

    @property
    def examples(self):
        """The Examples of all loaded splits."""
        return [example for examples in self.splits.values() for example in examples]

    @property
    def classes(self):
        """The class names of all loaded splits, sorted; [] = data without classes."""
        return sorted({example.label for example in self.examples} - {""})

    def fingerprint(self, split):
        """Return twelve hex digits that tell this split from every other; see `fingerprint`."""
        return fingerprint(self.splits[split])


# ---- what the scripts call -----------------------------------------------------------------------


def load_dataset(data_dir, *needed):
    """Read a dataset, once for a process.

    data_dir: a dataset folder or its annotation file, in one of the formats above
    needed:   splits that must have examples; the others are loaded where they are there

    Raises what `load_examples` raises.
    """
    for split in needed:
        check_split(split)
    examples = load_examples(data_dir)
    splits = {name: [e for e in examples if e.split == name] for name in SPLITS}
    splits = {name: group for name, group in splits.items() if group}
    for split in needed:
        if split not in splits:
            present = ", ".join(splits)
            raise ValueError(f"{data_dir}: split {split!r} has no example; the splits there are {present}")
    return Dataset(dataset_name(data_dir), dataset_root(Path(data_dir)), splits, load_aliases(data_dir))


def load_examples(data_dir, split="", silent=None):
    """Every captioned image of a dataset in file order, or those of one split.

    data_dir: a dataset folder or its annotation file, in one of the formats above
    split:    "train", "val", "test" or "" = all
    silent:   a list that takes the names of images without a caption, which are an error otherwise
    Raises ValueError or FileNotFoundError, in one line that names the file (and row or key): unknown format,
    malformed file, image that is not there or has two entries, image without caption, empty or endless caption,
    split without an example.
    """
    if split:
        check_split(split)
    files, reader = find_annotations(Path(data_dir))
    if reader is read_coco and split:  # one file per split, and a large one
        files = [path for path in files if coco_split(path) == split] or files
    examples = reader(files, silent)
    if not examples:
        raise ValueError(f"{files[0]}: holds no captioned image")
    refuse_second_entries(files[0], examples)
    if not split:
        return examples
    chosen = [example for example in examples if example.split == split]
    if not chosen:
        present = [name for name in SPLITS if any(example.split == name for example in examples)]
        raise ValueError(f"{data_dir}: split {split!r} has no example; the splits there are {', '.join(present)}")
    return chosen


def check_split(split):
    """Raise ValueError unless `split` is the name of one."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, allowed are {', '.join(SPLITS)}")


def refuse_second_entries(path, examples):
    """Raise ValueError if two examples have one image file, as two spellings of its name: it may be in two splits."""
    splits = {}
    for example in examples:
        if example.image in splits:
            both = f"one in {splits[example.image]}, one in {example.split}"
            raise ValueError(f"{path}: {example.image} has two entries ({both}); allowed is one for each image")
        splits[example.image] = example.split


def dataset_name(data_dir):
    """The name of a dataset: that of its folder, also when the annotation file is given."""
    return dataset_root(Path(data_dir)).resolve().name


def load_aliases(data_dir):
    """Words that name a class without saying its label, from the optional aliases.csv (class,alias).

    returns: class -> aliases in file order; {} when the dataset has no such file
    """
    path = dataset_root(Path(data_dir)) / "aliases.csv"
    aliases = defaultdict(list)
    if path.is_file():
        for row, (label, alias) in read_csv(path, ("class", "alias")):
            if not label.strip() or not alias.strip():
                raise ValueError(f"{path}: row {row}: empty class or alias")
            aliases[label.strip()].append(alias.strip())
    return dict(aliases)


def fingerprint(examples):
    """Twelve hex digits of a sha256 over image names, labels, splits and captions.

    Neither the folder's place nor the order of the images changes it.
    """
    lines = sorted(json.dumps([e.image.name, e.label, e.split, e.captions]) for e in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


# ---- which file, which format --------------------------------------------------------------------


def find_annotations(path):
    """Return ([annotation files], reader) for a dataset folder or an annotation file."""
    if path.is_file():
        return [path], reader_of_file(path)
    if not path.is_dir():
        if path.resolve() == Path(DEFAULT_DATA_DIR).resolve():
            raise FileNotFoundError(f"{path}: no such folder; `python prepare_data.py` makes it")
        raise FileNotFoundError(f"{path}: no such file or folder; {ACCEPTED}")
    for patterns, reader in FORMATS:
        files = sorted(chain.from_iterable(path.glob(pattern) for pattern in patterns))
        if len(files) > 1 and reader is not read_coco:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{path}: holds {names}; give the path of one of them")
        if files:
            return files, reader
    raise ValueError(
        f"{path}: no known caption file in it; {ACCEPTED}; for folders of images without captions see "
        "`python prepare_data.py --help`"
    )


def reader_of_file(path):
    """Return the reader of one annotation file, by suffix; a JSON file is told by its keys."""
    match path.suffix.lower():
        case ".csv":
            return read_project
        case ".txt":
            return read_flickr8k
        case ".json":
            return read_coco if "annotations" in read_json(path) else read_karpathy
    raise ValueError(f"{path}: not a known caption file; {ACCEPTED}")


def dataset_root(path):
    """The dataset's folder: `path` itself or what holds the file; COCO's annotations/ is a part of it."""
    folder = path.parent if path.is_file() else path
    return folder.parent if folder.name == "annotations" else folder


# ---- one reader per format, each (annotation files) -> list[Example] -----------------------------


def read_project(files, silent=None):
    """captions.csv with the columns image,caption; the image's path gives split and class."""
    (path,) = files
    captions = defaultdict(list)
    for row, (name, caption) in read_csv(path, ("image", "caption")):
        name = unicodedata.normalize("NFC", normalised(name))
        split = name.split("/")[0]
        if split not in SPLITS or "/" not in name:
            raise ValueError(f"{path}: row {row}: image {name!r} must begin with train/, val/ or test/")
        captions[name].append(checked_caption(caption, path, f"row {row}"))
    images = locate(captions, path, [path.parent])
    check_all_captioned(path, captions, silent)
    examples = []
    for name, texts in captions.items():
        split, *folders, _ = name.split("/")
        examples.append(Example(images[name], texts, folders[0] if folders else "", split))
    return examples


def check_all_captioned(path, captions, silent=None):
    """Raise ValueError if train/, val/ or test/ hold an image that the caption file does not name."""
    present = []
    for split in SPLITS:
        for folder, folders, names in os.walk(path.parent / split):
            folders.sort()
            prefix = Path(folder).relative_to(path.parent).as_posix()
            present += [f"{prefix}/{name}" for name in sorted(names) if is_image_name(name)]
    named = set(map(folded, captions))
    refuse_silent([name for name in present if folded(name) not in named], path, silent)


def is_image_name(name):
    """True for a file name with an image's suffix that is not hidden (macOS leaves ._1.jpg beside 1.jpg)."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def refuse_silent(names, path, silent):
    """Raise ValueError naming the first of the images without a caption, and their count, or add them to `silent`."""
    if silent is not None:
        silent += names
    elif names:
        raise ValueError(f"{path}: no caption for {names[0]} ({counted(len(names), 'image')} without a caption)")


def read_karpathy(files, silent=None):
    """Karpathy's dataset.json: images with filename, split and sentences[].raw; `restval` counts as train.

    `filepath` is the class if there are several and none is like train2014 (COCO's folders are not classes).
    Source: Karpathy and Fei-Fei 2015 (arXiv:1412.2306).
    """
    (path,) = files
    entries = {}  # name -> (folder, captions, split)
    for index, image in enumerate(read_list(path, read_json(path), "images")):
        where = f"images[{index}]"
        name, split = (read_key(image, key, str, path, where) for key in ("filename", "split"))
        if split not in _SPLIT_NAMES:
            raise ValueError(f"{path}: {where}: split {split!r}, allowed are {', '.join(_SPLIT_NAMES)}")
        texts = [
            checked_caption(read_key(sentence, "raw", str, path, f"{where}.sentences[{number}]"), path, where)
            for number, sentence in enumerate(read_key(image, "sentences", list, path, where))
        ]
        folder = read_key(image, "filepath", str, path, where).strip("/") if "filepath" in image else ""
        name = f"{folder}/{name}" if folder else name
        if name in entries:
            raise ValueError(f"{path}: {where}: {name} stands in it twice")
        entries[name] = (folder, texts, _SPLIT_NAMES[split])
    refuse_silent([name for name, (_, texts, _) in entries.items() if not texts], path, silent)
    entries = {name: entry for name, entry in entries.items() if entry[1]}

    folders = {folder for folder, _, _ in entries.values()}
    has_classes = len(folders) > 1 and not any(re.fullmatch(r"|(train|val|test)\d*", name) for name in folders)
    images = locate(entries, path, [dataset_root(path)], bare=True)
    return [
        Example(images[name], texts, folder if has_classes else "", split)
        for name, (folder, texts, split) in entries.items()
    ]


def read_coco(files, silent=None):
    """COCO's captions_<split><year>.json; the split is read from the file's name.

    With instances_<split><year>.json beside it, the label is the category with the largest total area in the
    image (the first of equals; "" for an image without an object); without it there are no labels.
    Source: Chen et al. 2015 (arXiv:1504.00325).
    """
    paths = {}
    for path in files:
        split = coco_split(path)
        if not split:
            raise ValueError(f"{path}: the file's name must say which split it is: {', '.join(SPLITS)}")
        if split in paths:
            raise ValueError(f"{path}: {paths[split].name} is {split}, too; give the path of one of them")
        paths[split] = path
    return [example for split, path in paths.items() for example in read_coco_file(path, split, silent)]


def coco_split(path):
    """The split in a COCO file's name, a whole part of it: captions_val2017, captions_latest_train; "" = none.

    Raises ValueError if two splits are named.
    """
    parts = re.findall("[a-z]+", path.stem.lower())
    found = list(dict.fromkeys(_SPLIT_NAMES[part] for part in parts if part in _SPLIT_NAMES))
    if len(found) > 1:
        raise ValueError(f"{path}: its name has {' and '.join(found)}; one split must be left")
    return found[0] if found else ""


def read_coco_file(path, split, silent=None):
    """The examples of one COCO caption file."""
    content = read_json(path)
    names = {}
    for index, image in enumerate(read_list(path, content, "images")):
        where = f"images[{index}]"
        image_id = read_key(image, "id", _ID, path, where)
        if image_id in names:
            raise ValueError(f"{path}: {where}: id {image_id} is that of {names[image_id]}, too")
        names[image_id] = read_key(image, "file_name", str, path, where)
    captions = defaultdict(list)
    for index, annotation in enumerate(read_list(path, content, "annotations")):
        where = f"annotations[{index}]"
        image_id = read_key(annotation, "image_id", _ID, path, where)
        if image_id not in names:
            raise ValueError(f"{path}: {where}: image_id {image_id} is not among its images")
        captions[image_id].append(checked_caption(read_key(annotation, "caption", str, path, where), path, where))
    refuse_silent([name for image_id, name in names.items() if image_id not in captions], path, silent)
    names = {image_id: name for image_id, name in names.items() if image_id in captions}

    folder = path.stem.removeprefix("captions_")  # train2017
    root = dataset_root(path)
    images = locate(names.values(), path, [root / folder, root / "images" / folder, root / split, root])
    labels = read_coco_labels(path.with_name(path.name.replace("captions", "instances", 1)))
    return [Example(images[name], captions[i], labels.get(i, ""), split) for i, name in names.items()]


def read_coco_labels(path):
    """Return image id -> name of the category with the largest total area; {} if the file is not there."""
    if not path.is_file() or not path.name.startswith("instances"):
        return {}
    content = read_json(path, unread=("segmentation",))  # nine tenths of the file
    categories = {}
    for index, category in enumerate(read_list(path, content, "categories")):
        where = f"categories[{index}]"
        categories[read_key(category, "id", _ID, path, where)] = read_key(category, "name", str, path, where)
    areas = defaultdict(lambda: defaultdict(float))
    for index, annotation in enumerate(read_list(path, content, "annotations")):
        where = f"annotations[{index}]"
        category = read_key(annotation, "category_id", _ID, path, where)
        if category not in categories:
            raise ValueError(f"{path}: {where}: category_id {category} is not among its categories")
        area = read_key(annotation, "area", int | float, path, where)
        if not 0 <= area < MAX_AREA:
            raise ValueError(f"{path}: {where}: area is {area!r:.80}, allowed is 0 to {MAX_AREA:,} pixels")
        areas[read_key(annotation, "image_id", _ID, path, where)][category] += area
    return {image_id: categories[max(sums, key=sums.get)] for image_id, sums in areas.items()}


def read_flickr8k(files, silent=None):
    """captions.txt (image,caption) or Flickr8k.token.txt (image#number<tab>caption), with three split files.

    Images outside the split files are left out (92 of the original's). There are no labels.
    Source: Hodosh, Young and Hockenmaier 2013 (doi:10.1613/jair.3994).
    """
    path = files[0]
    captions = defaultdict(list)
    rows = read_tokens(path) if path.name.endswith(".token.txt") else read_csv(path, ("image", "caption"))
    for row, (name, caption) in rows:
        captions[name.strip()].append(checked_caption(caption, path, f"row {row}"))

    splits = {}
    for name in ("train", "dev", "test"):
        split_path = path.with_name(f"Flickr_8k.{name}Images.txt")
        if not split_path.is_file():
            raise FileNotFoundError(
                f"{split_path}: no such file; Flickr8k needs its three split files beside {path.name}"
            )
        for row, line in enumerate(read_lines(split_path), 1):
            image = line.strip()
            if not image:
                continue
            if image not in captions:
                if silent is None:
                    raise ValueError(f"{split_path}: row {row}: {image} has no caption in {path.name}")
                silent.append(image)
                continue
            if splits.setdefault(image, _SPLIT_NAMES[name]) != _SPLIT_NAMES[name]:
                raise ValueError(f"{split_path}: row {row}: {image} is in the {splits[image]} split, too")
    images = locate(splits, path, [path.parent])
    return [Example(images[name], texts, "", splits[name]) for name, texts in captions.items() if name in splits]


FORMATS = (
    (("captions.csv",), read_project),
    (("dataset.json", "dataset_*.json"), read_karpathy),
    (("captions_*.json", "annotations/captions_*.json"), read_coco),
    (("captions.txt", "Flickr8k.token.txt"), read_flickr8k),
)


# ---- files, rows and keys ------------------------------------------------------------------------


def locate(names, path, roots, bare=False):
    """Return name -> path of the image file, for the relative `names` in the annotation file `path`.

    roots: folders to look in, each with its usual image folders; the last one is the dataset's
    bare:  where the folders of a name are not there, look for the file alone, if no two names share it

    A name may be spelt otherwise than on disk, see captioning.data.names.
    Raises ValueError for a name that leads out of the dataset, and for images that are not there (naming the
    first, with their count and the nearest name on disk).
    """
    folders = [os.path.join(root, folder) for root in roots for folder in _IMAGE_FOLDERS]
    bare = bare and len({os.path.basename(name) for name in names}) == len(names)
    disk, found, missing = Folders(), {}, []
    for name in names:
        if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
            raise ValueError(f"{path}: image {name!r}: allowed is a path inside the dataset's folder")
        spellings = (name, posixpath.basename(normalised(name))) if bare else (name,)
        there = (disk.find(folder, spelling) for spelling in spellings for folder in folders)
        image = next(filter(None, there), None)
        if image:
            found[name] = Path(image)
        else:
            missing.append(name)
    if missing:
        nearest = disk.nearest(folders, missing[0])
        told = f"; the nearest name there is {nearest}" if nearest else ""
        count = counted(len(missing), "image")
        raise ValueError(f"{path}: names {missing[0]}, which is not in {roots[-1]}{told} ({count} missing)")
    return found


def checked_caption(caption, path, where):
    """Return the caption without outer blanks.

    Raises ValueError if it has no letter or digit, half a character, or more of them than MAX_CAPTION.
    """
    if len(caption) > MAX_CAPTION:
        got = f"{caption[:40]!r}... has {len(caption):,} characters"
        raise ValueError(f"{path}: {where}: caption {got}, allowed are {MAX_CAPTION:,}")
    if not any(character.isalnum() for character in caption):
        raise ValueError(f"{path}: {where}: empty caption {caption!r}")
    if any("\ud800" <= character <= "\udfff" for character in caption):  # JSON can spell it; no file can hold it
        raise ValueError(f"{path}: {where}: caption {caption!r:.80} has half of a surrogate pair, which is no text")
    return caption.strip()


def read_csv(path, columns):
    """Yield (row number, values of `columns`) of a CSV; the header is row 1, and may have further columns."""
    check_regular(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            if not set(columns) <= set(header):
                raise ValueError(f"{path}: row 1: {','.join(header)!r}, must be the header {','.join(columns)}")
            places = [header.index(column) for column in columns]
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise ValueError(
                        f"{path}: row {reader.line_num}: {len(values)} columns, the header has {len(header)} "
                        "(a caption with a comma needs quotes)"
                    )
                yield reader.line_num, tuple(values[place] for place in places)
        except csv.Error as error:
            raise ValueError(f"{path}: row {reader.line_num}: malformed CSV ({error})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error.reason} after row {reader.line_num})") from None


def read_tokens(path):
    """Yield (row number, (image, caption)) of Flickr8k.token.txt."""
    for row, line in enumerate(read_lines(path), 1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab:
                raise ValueError(f"{path}: row {row}: no tab between image and caption")
            yield row, (name.rpartition("#")[0] or name, caption)


def read_lines(path):
    """The lines of a UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path, unread=()):
    """The object in a JSON file; the keys `unread` of all objects in it are dropped as soon as they are parsed."""

    def drop(entry):
        for key in unread:
            entry.pop(key, None)
        return entry

    collecting = gc.isenabled()
    gc.disable()  # millions of new objects, none to free: COCO's instances load a third faster
    try:
        content = json.loads(path.read_bytes(), object_hook=drop if unread else None)
    except (ValueError, RecursionError) as error:  # of JSON, of its text, or of a number with thousands of digits
        raise ValueError(f"{path}: malformed JSON ({error})") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, must be an object")
    return content


def read_list(path, content, key):
    """The list under a top-level key of a JSON file."""
    if not isinstance(content.get(key), list):
        raise ValueError(f"{path}: no list under the key {key!r}")
    return content[key]


def read_key(entry, key, kind, path, where):
    """One value, of the type `kind`, of a JSON object inside the file."""
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{path}: {where}: no key {key!r}")
    if not isinstance(entry[key], kind):
        raise ValueError(f"{path}: {where}: {key} is {entry[key]!r:.80}, which has the wrong type")
    return entry[key]

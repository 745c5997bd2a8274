"""Captions in JSON: Karpathy's, COCO's, and lists of records as many tools write them."""

import gc
import json
import re
from collections import defaultdict

from captioning.data.caption_tables import CAPTION_COLUMNS, IMAGE_COLUMNS
from captioning.data.entries import Entry
from captioning.data.splits import SPLIT_NAMES, split_of_folder
from captioning.files import check_regular, read_bytes, read_lines, read_text

MAX_AREA = 10**10  # pixels of an object; a number too large for a float would end in an error of its own
_ID = int | str  # COCO's ids are numbers, those of sets made after its pattern often text


def read_json_captions(path, omissions):
    """Return the entries of a JSON file; what it holds says which reader it needs."""
    content = read_json(path)
    for recognised, reader in JSON_LAYOUTS:
        if recognised(content):
            return reader(path, content, omissions)
    raise ValueError(f"{path}: its keys are {', '.join(content)!r:.80}; needed are images, or images and annotations")


# ---- one reader for each layout, each (path, content, omissions) -> list[Entry] -------------------


def read_karpathy(path, content, omissions):
    """Karpathy's dataset.json: images with filename, split and sentences[].raw; `restval` counts as train.

    `filepath` is the class if there are several and none is like train2014 (COCO's folders are not classes). A file
    whose images have no key `split` has no splits.
    Source: Karpathy and Fei-Fei 2015 (arXiv:1412.2306).
    """
    entries, folders = {}, {}
    images = read_list(path, content, "images")
    has_splits = any(isinstance(image, dict) and "split" in image for image in images)
    for index, image in enumerate(images):
        where = f"images[{index}]"
        name = read_key(image, "filename", str, path, where)
        if has_splits and "split" not in image:
            read_key(image, "split", str, path, where)
        split = read_split(image, path, where)
        texts = []
        for number, sentence in enumerate(read_key(image, "sentences", list, path, where)):
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            if not isinstance(raw, str):  # names the place, which takes longer than all else
                read_key(sentence, "raw", str, path, f"{where}.sentences[{number}]")
            texts.append(omissions.caption(raw, path, where))
        folder = read_key(image, "filepath", str, path, where).strip("/") if "filepath" in image else ""
        name = f"{folder}/{name}" if folder else name
        if name in entries:
            raise ValueError(f"{path}: {where}: {name} stands in it twice")
        entries[name] = Entry(name, list(filter(None, texts)), "", split, where)
        folders[name] = folder
    if len(set(folders.values())) > 1 and not any(map(split_of_folder, folders.values())):
        for name, entry in entries.items():
            entry.label = folders[name]
    return list(entries.values())


def read_coco(path, content, omissions):
    """COCO's captions_<split><year>.json; the split is read from the file's name.

    With instances_<split><year>.json beside it, the label is the category with the largest total area in the
    image (the first of equals; "" for an image without an object); without it there are no labels. Ids may be
    numbers in one place and the same numbers as text in another.
    Source: Chen et al. 2015 (arXiv:1504.00325).
    """
    names = {}
    for index, image in enumerate(read_list(path, content, "images")):
        where = f"images[{index}]"
        image_id = read_id(image, "id", path, where)
        if image_id in names:
            raise ValueError(f"{path}: {where}: id {image_id} is that of {names[image_id]}, too")
        names[image_id] = read_key(image, "file_name", str, path, where)
    captions = defaultdict(list)
    for index, annotation in enumerate(read_list(path, content, "annotations")):
        where = f"annotations[{index}]"
        image_id = read_id(annotation, "image_id", path, where)
        if image_id not in names:
            raise ValueError(f"{path}: {where}: image_id {image_id} is not among its images")
        if text := omissions.caption(read_key(annotation, "caption", str, path, where), path, where):
            captions[image_id].append(text)
    labels = read_coco_labels(instances_path(path))
    return [
        Entry(name, captions.get(image_id, []), labels.get(image_id, ""), "", f"images[{index}]")
        for index, (image_id, name) in enumerate(names.items())
    ]


def instances_path(path):
    """Return where the classes of COCO's captions stand, if they are there."""
    return path.with_name(path.name.replace("captions", "instances", 1))


def read_coco_labels(path):
    """Return image id -> name of the category with the largest total area; {} if the file is not there."""
    if not path.is_file() or not path.name.startswith("instances"):
        return {}
    content = read_json(path, unread=("segmentation",))  # nine tenths of the file
    categories = {}
    for index, category in enumerate(read_list(path, content, "categories")):
        where = f"categories[{index}]"
        categories[read_id(category, "id", path, where)] = read_key(category, "name", str, path, where)
    areas = defaultdict(lambda: defaultdict(float))
    for index, annotation in enumerate(read_list(path, content, "annotations")):
        where = f"annotations[{index}]"
        category = read_id(annotation, "category_id", path, where)
        if category not in categories:
            raise ValueError(f"{path}: {where}: category_id {category} is not among its categories")
        area = read_key(annotation, "area", int | float, path, where)
        if not 0 <= area < MAX_AREA:
            raise ValueError(f"{path}: {where}: area is {area!r:.80}, allowed is 0 to {MAX_AREA:,} pixels")
        areas[read_id(annotation, "image_id", path, where)][category] += area
    return {image_id: categories[max(sums, key=sums.get)] for image_id, sums in areas.items()}


def read_records(path, records, omissions):
    """Objects {"image": name, "caption": text or list of texts}, under any of the names that tables use, too.

    records: place in the file -> object
    """
    entries = {}
    for where, record in records.items():
        if not isinstance(record, dict):
            raise ValueError(f"{path}: {where}: {record!r:.40} is no object with the keys image and caption")
        keys = {re.sub(r"[\W_]", "", key.lower()): key for key in record}
        image = next((keys[name] for name in IMAGE_COLUMNS if name in keys), "image")
        caption = next((keys[one] for word in CAPTION_COLUMNS for one in (word, f"{word}s") if one in keys), "caption")
        name, texts = read_key(record, image, str, path, where), read_key(record, caption, str | list, path, where)
        split = read_split(record, path, where)
        entry = entries.setdefault(name, Entry(name, [], None, split, where))
        if entry.split != split:
            raise ValueError(f"{path}: {where}: {name} is in the {entry.split} split, too")
        for text in [texts] if isinstance(texts, str) else texts:
            text = text.get("raw", text.get("caption")) if isinstance(text, dict) else text
            if not isinstance(text, str):
                raise ValueError(f"{path}: {where}: {caption} holds {text!r:.40}, which is no text")
            entry.captions += filter(None, [omissions.caption(text, path, where)])
    return list(entries.values())


def read_record_list(path, content, omissions):
    """A list of the objects of read_records."""
    return read_records(path, {f"[{index}]": record for index, record in enumerate(content)}, omissions)


def read_mapping(path, content, omissions):
    """An object of image name -> caption or list of captions."""
    records = [{"image": name, "caption": texts} for name, texts in content.items()]
    return read_record_list(path, records, omissions)


def read_groups(path, content, omissions):
    """An object of lists of records: one list under a key of any name, or one for each split under the split's."""
    records = {}
    for key, group in content.items():
        split = {"split": key} if len(content) > 1 else {}
        for index, record in enumerate(group):
            records[f"{key}[{index}]"] = {**split, **record}
    return read_records(path, records, omissions)


def is_mapping(content):
    """True for an object that is no layout with keys of its own."""
    return bool(content) and all(isinstance(texts, str | list) and "." in name for name, texts in content.items())


def is_groups(content):
    """True for an object of one list of objects, or of one for each split."""
    lists = all(isinstance(group, list) and all(isinstance(one, dict) for one in group) for group in content.values())
    return lists and (len(content) == 1 or (bool(content) and all(name.lower() in SPLIT_NAMES for name in content)))


def is_coco(content):
    """True for an object with annotations beside its images or of image ids, or whose images have a file_name."""
    if "annotations" in content:
        return "images" in content or "image_id" in first_record(content["annotations"])
    return "file_name" in first_record(content.get("images"))


def first_record(records):
    """The first object of a list, {} = it has none."""
    return records[0] if isinstance(records, list) and records and isinstance(records[0], dict) else {}


JSON_LAYOUTS = (
    (lambda content: isinstance(content, list), read_record_list),
    (is_coco, read_coco),
    (lambda content: "images" in content, read_karpathy),
    (is_groups, read_groups),
    (is_mapping, read_mapping),
)


def read_json_lines(path, omissions):
    """Return the entries of a file with a JSON object in each line, as Hugging Face's metadata.jsonl."""
    records = {}
    for number, line in enumerate(read_lines(path), 1):
        try:
            if line.strip():
                records[f"line {number}"] = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number}: malformed JSON ({error})") from None
    return read_records(path, records, omissions)


# ---- files and keys ------------------------------------------------------------------------------


def read_json(path, unread=()):
    """The object or list in a JSON file; the keys `unread` of all objects in it are dropped as they are parsed."""

    def drop(entry):
        for key in unread:
            entry.pop(key, None)
        return entry

    check_regular(path)
    collecting = gc.isenabled()
    gc.disable()  # millions of new objects, none to free: COCO's instances load a third faster
    try:
        content = json.loads(read_bytes(path), object_hook=drop if unread else None)
    except (ValueError, RecursionError) as error:  # of JSON, of its text, or of a number with thousands of digits
        if not read_text(path).strip():  # which names the line that is no UTF-8
            raise ValueError(f"{path}: is empty") from None
        raise ValueError(f"{path}: malformed JSON ({error})") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict | list):
        raise ValueError(f"{path}: holds a {type(content).__name__}, must be an object or a list")
    return content


def read_list(path, content, key):
    """The list under a top-level key of a JSON file."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"{path}: no list under the key {key!r}")
    return content[key]


def read_split(entry, path, where):
    """The split of a JSON object, "" = it has none. Raises ValueError if it is none that is known."""
    split = entry.get("split", "")
    known = SPLIT_NAMES.get(split) or SPLIT_NAMES.get(split.lower()) if isinstance(split, str) else None
    if split and not known:
        raise ValueError(f"{path}: {where}: split {split!r:.40}, allowed are {', '.join(SPLIT_NAMES)}")
    return known or ""


def read_id(entry, key, path, where):
    """An id as text; the zeros before a number are left out, which some files write in one place alone."""
    value = str(read_key(entry, key, _ID, path, where))
    return str(int(value)) if value.isascii() and value.isdigit() and len(value) < 40 else value


def read_key(entry, key, kind, path, where):
    """One value, of the type `kind`, of a JSON object inside the file; true, an int to Python, is no number."""
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{path}: {where}: no key {key!r}")
    if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
        raise ValueError(f"{path}: {where}: {key} is {entry[key]!r:.80}, which has the wrong type")
    return entry[key]

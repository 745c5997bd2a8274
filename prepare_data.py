"""Script 0: make a captioned dataset, drawn by the project itself or from folders of photographs.

    python prepare_data.py                           # -> data/pictograms, 60 classes x 300 drawn pictures
    python prepare_data.py --per_class 20            # a small one
    python prepare_data.py --language ko             # the same pictures, in Korean -> data/pictograms_ko
    python prepare_data.py --source photos --captions photos.csv           # photos/<class>/*.jpg -> data/photos
    python prepare_data.py --source photos --captioner photos              # captions by a shipped model
    python prepare_data.py --source photos --caption_template "a photo of a {class}"    # captions from class names
    python prepare_data.py --source photos --classes 60 --captioner Salesforce/blip-image-captioning-base
    python prepare_data.py --source flickr8k         # an annotated dataset, its pictures made square and small
    python prepare_data.py --audit data/photos       # makes nothing: is this dataset clean?
    python prepare_data.py --source data/photos --shards 100 --output data/shards    # tar shards, from any layout

Reads   nothing, or photos in folders of classes, of splits, or in one, with a CSV (image,caption) or a captioning
        model, or a dataset in any layout that captioning/data/annotations.py knows
Writes  <output>/{train,val,test}/<class>/<image>.jpg, <output>/captions.csv and <output>/preview.png;
        with --shards the train split is <output>/train/00000.tar and so on, see docs/scale.md;
        an audit <output>/audit.csv and <output>/copies.csv, <output> being reports/<name>_audit

Photographs are cropped to their central square and resized. Unreadable ones are dropped, and of copies (equal
files, or nearly equal pictures) one is kept, so that no picture is in two splits.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "numpy", "tyro")

import itertools
import json
import os
import random
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from captioning import cli, plots
from captioning.data import audit, class_folders, copies, korean, pictograms
from captioning.data.annotations import (
    DEFAULT_DATA_DIR,
    NoAnnotationsError,
    dataset_name,
    dataset_root,
    load_aliases,
    load_dataset,
    load_examples,
    picture_settings,
    read_examples,
)
from captioning.data.class_names import spoken_names
from captioning.data.images import load_image
from captioning.data.names import check_links, listed, other_ending
from captioning.data.spelling import folder_names
from captioning.data.splits import SPLITS, split_sizes
from captioning.data.tars import is_shards, read_picture, write_shard
from captioning.deploy.downloads import SHIPPED, SUFFIXES
from captioning.files import check_folder, replace_file, replace_folder
from captioning.metadata import MAX_IMAGE_SIZE
from captioning.progress import Progress
from captioning.scores.grounding import Grounder, name_words, naming_share
from captioning.untrusted import csv_writer, write_table

CONFIG = {
    # what
    "source": "",  # folder of photos, best in one folder per class, or annotated dataset; "" = draw the pictograms
    "language": "en",  # of the drawn pictures' captions and classes: en | ko
    "output": "",  # folder; "" = data/pictograms or data/<name of source>; an older one of this script is replaced
    "shards": 0,  # tar shards to write the train split of the dataset `source`, of any layout, into; 0 = none
    "audit": "",  # dataset to audit instead of making one; "" = none
    "seed": 0,  # of the drawing, or of the random choice of photos
    "num_workers": 0,  # processes; 0 = one per core
    # number of images
    "per_class": -1,  # images per class, split 8:1:1; 0 = all there are (photos only); -1 = 300 drawn, or all photos
    # photos
    "train": 0,  # train images per class; 0 = from per_class
    "val": 0,  # val images per class; 0 = from per_class
    "test": 0,  # test images per class; 0 = from per_class
    "classes": "",  # "" = all | N = the first N by name | a,b,c = these
    "captions": "",  # CSV with the header image,caption; images relative to source, as cat/1.jpg; "" = in source
    "images_dir": "",  # folder of the pictures of an annotated dataset; "" = its own
    "allow_missing": False,  # go on without captioned pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the folder of photos or of the dataset
    "captioner": "",  # instead of captions: photos, .safetensors, .onnx, or a Hugging Face image-to-text model
    "caption_template": "",  # caption from the class name, before the captioner's words if both are given
    "captioner_batch": 16,  # images per batch of the captioner
    "device": "",  # of the captioner: cuda | mps | cpu; "" = the first of these that is available
    "image_size": 256,  # pixels a side
    "near_copies": 4,  # near copies: most differing bits of two 64-bit perceptual hashes; -1 = drop equal files only
}

LIMITS = {
    "seed": (0, 2**32 - 1),
    "num_workers": (0, 256),
    "shards": (0, 100_000),
    "per_class": (-1, 1_000_000),
    "train": (0, 1_000_000),
    "val": (0, 1_000_000),
    "test": (0, 1_000_000),
    "captioner_batch": (1, 65536),
    "image_size": (32, MAX_IMAGE_SIZE),
    "near_copies": (-1, copies.HASH_BITS),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(
    (
        "source",
        "language",
        "output",
        "audit",
        "classes",
        "captions",
        "images_dir",
        "captioner",
        "caption_template",
        "device",
    ),
    str,
)
TYPES |= {"allow_missing": bool, "allow_links": bool}
PREVIEW_IMAGES = 60
# Words of templates in languages that write `a` before a noun: Portuguese, Spanish, Italian, Catalan, Hungarian, Irish.
_FOREIGN = """
al amb com con da de del della des di dos em en es foto fotografia fotos il imagem imagen immagine junto la las los
na nas nos os para por que sobre su sul sulla um uma un una uno vista y
az egy ez kep grianghraf
"""
FOREIGN = frozenset(_FOREIGN.split())
CONSONANT_SOUNDS = ("uni", "use", "euro", "one")  # a unicycle, a European
ADVICE_ON_FILES = {ending: "unpack it" for ending in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")}
PHOTO_KEYS = ("train", "val", "test", "classes", "captions", "images_dir", "captioner", "caption_template")
DRAWN_PER_CLASS = 300


# ---- how many images of each class -----------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How many images of a class a dataset has.

    per_class: split 8:1:1; 0 = all usable images
    wanted:    split -> images; 0 = its share of per_class
    """

    per_class: int
    wanted: dict

    def of(self, per_class):
        """Return split -> images of a class, of which `per_class` are shared out."""
        if all(self.wanted.values()):
            return self.wanted
        shares = split_sizes(per_class)
        return {split: self.wanted[split] or shares[split] for split in SPLITS}

    @property
    def need(self):
        """The images of a class that are needed; 0 = all there are."""
        return sum(self.of(self.per_class).values()) if self.per_class or all(self.wanted.values()) else 0


def group_sizes(usable, sizes):
    """Return (split, class) -> {split: images}.

    usable: (split, class) -> number of images, all of which stay in their split if it is not ""; sizes: Sizes
    Raises ValueError naming the first class that has too few.
    """
    found = {}
    for (split, label), number in usable.items():
        found[split, label] = {split: number} if split else sizes.of(sizes.per_class or number)
        need = sum(found[split, label].values())
        if number < need:
            numbers = "/".join(str(count) for count in found[split, label].values())
            name = f"class {label!r}" if label else "the photos"
            raise ValueError(
                f"{name}: {number} usable images, {need} are needed ({numbers} for train/val/test); lower "
                "--per_class (0 = all there are) or --train, --val and --test, or choose other --classes"
            )
    return found


# ---- captions by a model ---------------------------------------------------------------------------


def load_describer(name, device):
    """Return a function from PIL images to their captions.

    name: a captioner of this project (a shipped name, .safetensors or .onnx, by path, https:// or hf://), or a model of
          the transformers library (Hugging Face hub name or local folder)

    Raises ValueError if the library or the model is not there.
    """
    if name in SHIPPED or Path(name).suffix in SUFFIXES or "://" in name:
        from caption import Captioner  # imports onnxruntime or torch, as the model needs

        captioner = Captioner.load(name, device=device)
        return lambda images: [caption.text for caption in captioner(images, num_workers=1)]
    try:  # optional, and slow to import, which every process that decodes images would pay for
        import huggingface_hub
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from captioning import runtime
    except ImportError:
        raise ValueError("--captioner needs one more library: pip install -r requirements-captioner.txt") from None
    device = runtime.pick_device(device)
    try:
        cached = Path(name).is_dir() or isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str)
        if not cached:
            huggingface_hub.model_info(name, timeout=10)  # from_pretrained tries a dead network for three minutes
        # A repository may bring code of its own, which would run here: never, whatever the library's default becomes.
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False).to(device).eval()
    except Exception as error:  # the hub's, the network's, the file formats': all mean that there is no such model
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"--captioner {name}: neither a folder with an image-to-text model nor one to be had from the "
            f"Hugging Face hub ({type(error).__name__}: {reason:.160})"
        ) from None

    def describe(images):
        inputs = processor(images=images, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=30)
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return describe


def describe_images(describe, folder, names, batch_size):
    """Return image name -> [caption] by the captioner. Raises ValueError if it says nothing about an image."""
    captions = {}
    with Progress(total=len(names), desc="describing", unit=" images") as bar:
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            for name, text in zip(batch, describe([load_image(folder / name) for name in batch]), strict=True):
                if not any(character.isalnum() for character in text):
                    raise ValueError(f"{name}: the captioner gives {text!r}; take another --captioner")
                captions[name] = [text]
            bar.update(len(batch))
    return captions


# ---- writing ---------------------------------------------------------------------------------------


def fill_template(template, label):
    """Return the caption of a class: "a photo of a {class}" -> "a photo of an airplane", "a photo of scissors".

    In an English template the article before {class} becomes "an" before a vowel, and is left out before a plural. In
    a Korean one the particle behind it is the one that the name takes. Underscores are blanks.
    """
    name = label.replace("_", " ").replace("-", " ").strip()
    template = korean.fit_particles(template, "{class}", name)
    if not is_english(template):
        return template.replace("{class}", name)
    head = name.split(" ")[-1].lower()
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is"))
    vowel = name[:1].lower() in "aeiou" and not name.lower().startswith(CONSONANT_SOUNDS)
    article = "" if plural else r"\g<1>n " if vowel else r"\g<1> "
    filled = re.sub(r"\b([Aa])n? (?=\{class\})", article, template)
    return filled.replace("{class}", name)


def is_english(template):
    """True if what stands around {class} is English: `a` and `an` are words of other languages, too."""
    words = set(re.findall(r"[^\W\d_]+", template.lower().replace("{class}", "")))
    return all(word.isascii() for word in words) and not words & FOREIGN


def write_captions(path, captions):
    """Write captions.csv from image name -> captions."""
    rows = [(name, caption) for name, texts in captions.items() for caption in texts]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv_writer(file).writerows([("image", "caption"), *rows])


def write_preview(folder):
    """Draw <folder>/preview.png, the classes in turn, and return the folder's examples."""
    examples = read_examples(folder)
    by_class = itertools.groupby(sorted(examples, key=attrgetter("label")), key=attrgetter("label"))
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*(list(group) for _, group in by_class)))
    shown = list(itertools.islice(filter(None, in_turn), PREVIEW_IMAGES))
    texts = [[(e.label, "label"), *((caption, "caption") for caption in e.captions[:2])] for e in shown]
    images = [load_image(example.image) for example in shown]
    plots.caption_grid(images, texts, folder / "preview.png", columns=10)
    return examples


def write_photographs(chosen, output, captions_of, sizes, gathering, num_workers):
    """Write the dataset of photographs; return (its examples, what became of the images).

    chosen:      Chosen
    captions_of: function (folder, image in the dataset -> image in the source) -> image in the dataset -> captions
    sizes:       Sizes; gathering: class_folders.Gathering

    Raises ValueError if no image can be used, or a class has too few; nothing is written then.
    """
    paths = {name: example.image for name, example in chosen.examples.items()}
    class_folder = name_class_folders(label for _, label in chosen.groups)
    with replace_folder(output) as folder:
        with class_folders.scratch_folder(folder) as scratch:
            gathered = class_folders.gather_photos(paths, chosen.groups, scratch, gathering, num_workers)
            if len(gathered.unreadable) == gathered.looked_at:
                told = f"none of {cli.counted(gathered.looked_at, 'image')} can be read, the first is"
                raise ValueError(f"{chosen.source}: {told} {gathered.unreadable[0]}")
            usable = {group: len(photos) for group, photos in gathered.photos.items()}
            origin = {}
            for group, numbers in group_sizes(usable, sizes).items():
                photos = gathered.photos[group]
                origin |= class_folders.place_photos(photos, class_folder[group[1]], numbers, folder)
        names = sorted(origin, key=lambda name: (SPLITS.index(name.partition("/")[0]), name))
        write_captions(folder / "captions.csv", captions_of(folder, {name: origin[name] for name in names}))
        write_aliases(folder / "aliases.csv", added_aliases(output, chosen.aliases), class_folder)
        return write_preview(folder), gathered


def name_class_folders(labels):
    """Return class -> the name of its folder, see spelling.folder_names; say which differ."""
    found = folder_names(set(labels))
    pairs = [(unicodedata.normalize("NFC", label), name) for label, name in sorted(found.items())]
    if changed := [(label, name) for label, name in pairs if name != label]:
        label, name = changed[0]
        more = f", and {len(changed) - 1:,} more alike" if len(changed) > 1 else ""
        print(f"note: class {label!r} is called {name!r}, a name that every disk can hold{more}; captions may say both")
    return found


def added_aliases(output, aliases):
    """Return the aliases of a dataset and those of one that it replaces, to which the user may have added."""
    before = load_aliases(output) if (output / "aliases.csv").is_file() else {}
    names = dict.fromkeys([*aliases, *before])
    return {name: list(dict.fromkeys([*aliases.get(name, ()), *before.get(name, ())])) for name in names}


def write_aliases(path, aliases, class_folder):
    """Write aliases.csv from class, however it is spelt, -> words, if there are any for the classes of the dataset.

    A class whose folder has another name keeps its own as an alias, by which its captions may call it.
    """
    spelt = {name_words(label): name for label, name in class_folder.items()}
    known = [(spelt[name_words(label)], words) for label, words in aliases.items() if name_words(label) in spelt]
    rows = [(name, word) for name, words in known for word in words]
    taken = {name_words(text) for text in (*class_folder.values(), *(word for _, word in rows))} | {()}
    rows += [(name, label) for label, name in class_folder.items() if name_words(label) not in taken]
    if rows:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv_writer(file).writerows([("class", "alias"), *rows])


# ---- the two sources -------------------------------------------------------------------------------


def drawn_dir(language):
    """Return the folder of the pictograms in a language."""
    return DEFAULT_DATA_DIR if language == "en" else f"{DEFAULT_DATA_DIR}_{language}"


def prepare_pictograms(output, **settings):
    """Draw the pictograms into `output`, settings as of pictograms.write_dataset, and return their examples."""
    examples = []

    def finish(folder):
        examples.extend(write_preview(folder))
        write_aliases(folder / "aliases.csv", added_aliases(output, {}), {e.label: e.label for e in examples})

    pictograms.write_dataset(output, finish=finish, **settings)
    return examples


@dataclass(frozen=True)
class CaptionSource:
    """Where the captions of photos come from: a file, or a model that looks at them, or class names.

    path:          CSV with image,caption, or the source itself if it is annotated; None = the others
    captioner:     of load_describer, "" = none; batch_size: images that it describes at a time
    template:      of fill_template, "" = none
    device:        cuda, mps or cpu; "" = the first of these that is there
    pictures:      images_dir, allow_missing and allow_links, as annotations.load_examples takes them
    """

    path: Path | None
    captioner: str
    batch_size: int
    device: str
    template: str = ""
    pictures: dict = field(default_factory=dict)

    def check(self, source):
        """Raise an error unless there is one source of captions, and the template has a place for the class."""
        if not source.exists():
            raise FileNotFoundError(
                f"{source}: no such folder; --source takes a folder of photos, or an annotated dataset"
            )
        if self.path and not source.is_dir():
            told = ADVICE_ON_FILES.get(source.suffix.lower(), "with --captions it is the folder of the pictures")
            raise ValueError(f"--source: {source} is a file; {told}")
        by_model = bool(self.captioner or self.template)
        if self.pictures.get("images_dir") and (self.path or by_model):
            told = f"got {self.pictures['images_dir']}, but with --captions, --captioner and --caption_template"
            raise ValueError(f"--images_dir: {told} the pictures are those of --source; leave it out")
        if bool(self.path) and by_model:
            raise ValueError(f"{source}: captions come from a CSV, or from a captioner or template; give one of them")
        if self.template and "{class}" not in self.template:
            raise ValueError(f"--caption_template: got {self.template!r}, it must have {{class}} in it")

    def pictures_folder(self, source):
        """Return the folder that the pictures lie in or below."""
        if self.path or self.captioner or self.template:
            return source
        images_dir = self.pictures.get("images_dir")
        return Path(images_dir) if images_dir else dataset_root(source)

    def read(self, source):
        """Return the captioned Examples of a file or of an annotated source, without splits if it has none."""
        if self.path:
            return read_examples(self.path, **{**self.pictures, "images_dir": source})
        try:
            return read_examples(source, **self.pictures)
        except NoAnnotationsError:
            raise ValueError(
                f"{source}: its images need captions: give --captions <CSV with image,caption>, or --captioner "
                "<model>, or --caption_template <text with {class}>"
            ) from None


@dataclass(frozen=True)
class Chosen:
    """The photographs that a dataset may be made of.

    source:   as the user named it
    examples: name -> Example; its captions are empty where a model or a template will write them
    groups:   (split, class) -> names, "" = not known; in the order of the splits, so that of copies the one in train
              stays
    silent:   how many photographs have no caption; outside: how many lie in no folder of a class, where one is needed
    others:   Counter of the endings of files that are not read
    aliases:  class -> further words that name it
    """

    source: Path
    examples: dict
    groups: dict
    silent: int
    outside: int
    others: Counter
    aliases: dict


def choose_photos(source, captions, classes):
    """Return the Chosen photographs of a source; captions: CaptionSource; classes: as CONFIG has them."""
    examples, silent, outside, others, aliases = list_examples(source, captions, classes)
    folder = captions.pictures_folder(source)
    named = {os.path.relpath(example.image, folder): example for example in examples}
    groups = defaultdict(list)
    for name, example in named.items():
        groups[example.split, example.label].append(name)
    groups = {group: groups[group] for split in ("", *SPLITS) for group in sorted(groups) if group[0] == split}
    return Chosen(source, named, groups, silent, outside, others, aliases)


def list_examples(source, captions, classes):
    """Return what Chosen has of a source: (Examples to choose from, silent, outside, others, aliases)."""
    captions.check(source)
    if captions.captioner or captions.template:
        examples, others = class_folders.list_photos(source)
        if not captions.pictures.get("allow_links"):
            check_links((example.image for example in examples), source)
        silent = 0
    else:
        folder = captions.pictures_folder(source)
        names, others = class_folders.list_files(folder)
        examples = captions.read(source)
        silent = len({folder / name for name in names} - {example.image for example in examples})
        others -= Counter(other_ending(example.image) for example in examples)  # read, since captions name them
    labels = sorted({example.label for example in examples} - {""})
    aliases = load_aliases(source) if labels else {}
    Grounder(labels, aliases)  # refuses those of unknown classes before anything is read
    if not labels and (captions.template or classes.strip()):
        raise ValueError(f"{source}: has no folders of classes, which --caption_template and --classes need")
    if not captions.template and not classes.strip():
        return examples, silent, 0, others, aliases  # those outside of the folders of classes, too
    chosen, outside = class_folders.choose_classes(labels, classes), sum(not example.label for example in examples)
    return [example for example in examples if example.label in chosen], silent, outside, others, aliases


def prepare_photographs(source, output, classes, captions, sizes, gathering, num_workers):
    """Choose, read and write the photographs of `source`; say what was dropped; return the examples.

    classes:  "" = all, "N" = the first N, "a,b" = these
    captions: CaptionSource; sizes: Sizes; gathering: class_folders.Gathering
    """
    chosen = choose_photos(source, captions, classes)
    given = chosen.examples
    has_splits = any(split for split, _ in chosen.groups)
    if has_splits and (sizes.per_class or any(sizes.wanted.values())):
        raise ValueError(f"{source}: its images have splits; leave out --per_class, --train, --val and --test")
    # Known before any image is read: whether there are enough, and whether the captioner is there.
    group_sizes({group: len(names) for group, names in chosen.groups.items()}, sizes)
    describe = load_describer(captions.captioner, captions.device) if captions.captioner else None

    def captions_of(folder, origin):
        if not describe and not captions.template:
            return {name: given[original].captions for name, original in origin.items()}
        said = describe_images(describe, folder, list(origin), captions.batch_size) if describe else {}
        if not captions.template:
            return said
        spoken = spoken_names({example.label for example in given.values()})
        texts = {name: fill_template(captions.template, spoken[given[one].label]) for name, one in origin.items()}
        return {name: [", ".join([text, *said.get(name, [])])] for name, text in texts.items()}

    examples, gathered = write_photographs(chosen, output, captions_of, sizes, gathering, num_workers)
    for line in gathered.unreadable[:5]:
        print(f"warning: {line}; dropped")
    if chosen.others:
        print(f"not read         {listed(chosen.others)}: other kinds of files; make pictures JPEG, ending in .jpg")
    if chosen.silent:
        print(f"without caption  {cli.counted(chosen.silent, 'image')}, skipped")
    if chosen.outside:
        print(f"without class    {cli.counted(chosen.outside, 'image')} in no folder of a class, skipped")
    print(
        f"looked at        {cli.counted(gathered.looked_at, 'image')}; "
        f"dropped {len(gathered.unreadable):,} unreadable, {gathered.exact:,} exact copies, "
        f"{gathered.near:,} near copies"
    )
    dropped = len(gathered.unreadable) + gathered.exact + gathered.near
    if left := len(given) - dropped - len(examples):
        print(f"not used         {cli.counted(left, 'image')}: more than --per_class, --train, --val, --test ask for")
    if empty := [split for split in SPLITS if not any(example.split == split for example in examples)]:
        reason = "a class of one or two images has none to spare"
        if has_splits or sizes.per_class:
            reason = f"{source} has none" if has_splits else f"--per_class {sizes.per_class} leaves none"
        print(f"note: there is no image for {' and '.join(empty)}; {reason}")
    return examples


def prepare_shards(source, output, number, seed, **settings):
    """Write a dataset of any layout as `number` tar shards of its train split, beside its other splits as folders.

    The images are copied as they are, the train images in a random order. Raises ValueError if a shard were empty.
    """
    dataset = load_dataset(source, "train", **settings)
    Grounder(dataset.classes, dataset.aliases)  # refuses aliases of unknown classes
    train = list(dataset.splits["train"])
    if number > len(train):
        raise ValueError(f"--shards: got {number}, the train split has {cli.counted(len(train), 'image')}")
    random.Random(seed).shuffle(train)
    captions, class_folder = {}, name_class_folders({*dataset.classes, ""})
    with replace_folder(output) as folder:
        for shard in Progress(range(number), total=number, desc="writing", unit=" shards"):
            samples = (
                as_sample(replace(example, label=class_folder[example.label]), f"{shard:05}{place:05}")
                for place, example in enumerate(train[shard::number])
            )
            write_shard(folder / "train" / f"{shard:05}.tar", samples)
        for example in dataset.examples:
            if example.split == "train":
                continue
            name = f"{len(captions):06}{example.image.suffix.lower()}"
            place = Path(example.split, class_folder[example.label], name)
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(read_picture(example.image))
            captions[place.as_posix()] = example.captions
        write_captions(folder / "captions.csv", captions)
        write_aliases(folder / "aliases.csv", added_aliases(output, dataset.aliases), class_folder)
    return dataset.examples


def as_sample(example, key):
    """Return (key, {suffix: bytes}) of an Example, as a shard holds it."""
    known = {"captions": example.captions, "label": example.label, "image": example.image.name}
    suffix = example.image.suffix.lower().removeprefix(".")
    texts = {"txt": "\n".join(example.captions), "json": json.dumps(known, ensure_ascii=False)}
    return key, {suffix: read_picture(example.image)} | {name: text.encode() for name, text in texts.items()}


# ---- the audit -------------------------------------------------------------------------------------


def audit_dataset(data_dir, output, num_workers, **settings):
    """Look through a dataset, print what an evaluation has to know, and write it as CSV.

    settings: images_dir, allow_missing and allow_links, as load_examples takes them
    """
    check_folder(output)
    silent = []
    examples = load_examples(data_dir, silent=silent, **settings)
    grounder = Grounder(sorted({example.label for example in examples} - {""}), load_aliases(data_dir))
    naming = partial(naming_share, grounder=grounder)
    found = audit.audit_examples(examples, silent, num_workers=num_workers, naming_share=naming)
    print(audit.overview(found.table).to_string(index=False))
    for copy in found.copies.head(10).itertuples():
        print(f"{copy.kind} copy: {copy.image} of {copy.copy_of}")
    splits = [split for split in SPLITS if split in set(found.table["split"])]
    lines = [line for split in splits for line in audit.warnings(found, split)]
    for line in dict.fromkeys(lines):
        print(f"warning: {line}")
    if not lines:
        print(f"clean: no copies, {audit.shared_captions(found)} and no image without a caption")
    for name, table in (("audit", found.table), ("copies", found.copies)):
        with replace_file(output / f"{name}.csv") as temporary:
            write_table(temporary, table, index=False)
    print(f"wrote {output / 'audit.csv'} and {output / 'copies.csv'}; the report repeats the warnings")


def main(config):
    """Make the dataset, and say what it holds and what comes next."""
    config = cli.settings_of(config, "prepare")
    num_workers = config["num_workers"] or os.cpu_count() or 1
    if config["audit"]:
        name = dataset_name(config["audit"])
        output = Path(config["output"] or Path("reports", f"{name}_audit"))
        audit_dataset(config["audit"], output, num_workers, **picture_settings(config))
        return
    if is_shards(config["source"]) and not config["shards"]:
        raise ValueError(f"--source: {config['source']} is of tar shards, which only --shards takes")
    source = Path(config["source"])
    captions_path = Path(config["captions"]) if config["captions"] else None
    name = f"{dataset_name(source)}_shards" if is_shards(source) else dataset_name(source)
    default = f"data/{name}" if config["source"] else drawn_dir(config["language"])
    output = Path(config["output"] or default)
    inputs = [Path(config[key]) for key in ("source", "captions", "images_dir") if config[key]]
    class_folders.check_replaceable(output, inputs)
    class_folders.check_own(output)

    per_class = config["per_class"]
    if per_class == -1:
        per_class = 0 if config["source"] else DRAWN_PER_CLASS
    if config["source"] and config["language"] != CONFIG["language"]:
        raise ValueError("--language: is for drawn pictures; photos have the captions that are given")
    if config["shards"]:
        if not config["source"]:
            raise ValueError("--shards: needs --source, the dataset to write as shards")
        examples = prepare_shards(
            config["source"], output, config["shards"], config["seed"], **picture_settings(config)
        )
        num_train = sum(example.split == "train" for example in examples)
        pattern = f"{output}/train/{{00000..{config['shards'] - 1:05}}}.tar"
        print(f"wrote {num_train:,} train images into {cli.counted(config['shards'], 'shard')}")
        print(f"next: {cli.command('vocab.py', {'data_dir': pattern})}")
        return
    if config["source"]:
        sizes = Sizes(per_class, {split: config[split] for split in SPLITS})
        gathering = class_folders.Gathering(sizes.need, config["image_size"], config["near_copies"], config["seed"])
        captions = CaptionSource(
            captions_path,
            config["captioner"],
            config["captioner_batch"],
            config["device"],
            config["caption_template"],
            picture_settings(config),
        )
        examples = prepare_photographs(source, output, config["classes"], captions, sizes, gathering, num_workers)
    else:
        given = [f"--{key}" for key in PHOTO_KEYS if config[key]]
        if given:
            raise ValueError(f"{given[0]}: is for photos, which --source names; pictograms take --per_class")
        if config["image_size"] != pictograms.IMAGE_SIZE:
            raise ValueError(f"--image_size: pictograms have {pictograms.IMAGE_SIZE} pixels a side")
        examples = prepare_pictograms(
            output, per_class=per_class, seed=config["seed"], num_workers=num_workers, language=config["language"]
        )

    counts = Counter(example.split for example in examples)
    print(f"classes          {len({example.label for example in examples} - {''}):,}")
    print("images           " + ", ".join(f"{counts[split]:,} {split}" for split in SPLITS))
    print(f"captions         {sum(len(example.captions) for example in examples):,}")
    other = {} if output == Path(DEFAULT_DATA_DIR) else {"data_dir": output}
    print(f"wrote {output} with captions.csv and preview.png; next: {cli.command('vocab.py', other)}")


if __name__ == "__main__":
    cli.run(main, {"prepare": LIMITS | TYPES}, prepare=CONFIG)

"""Caption your own pictures: one checkpoint in, captions out.

    python caption.py photo.jpg                                     # a caption by the shipped model of photographs
    python caption.py photo.jpg --model_path pictograms             # by another shipped model
    python caption.py photos/ 'more/*.png' --num_best 3             # folders and globs, three captions each
    find . -name '*.jpg' | python caption.py - --format jsonl --output captions.jsonl
    python caption.py photo.jpg --model_path pictograms.onnx        # what export.py wrote; runs without torch
    python caption.py photo.jpg --model_path hf://owner/name        # or https://host/model.safetensors#sha256=...
    python caption.py photos/ --format txt                          # photo.txt beside photo.jpg
    python caption.py 'data/{00000..00099}.tar' --output captions/ --format parquet    # millions, see docs/scale.md

Reads   the checkpoint (.safetensors or .onnx; see captioning/deploy/downloads.py for addresses) and the pictures
Writes  standard output or `output`; a picture that cannot be read is named on standard error and skipped. The same
        command goes on where a run was stopped, but for text: JSON lines and CSV grow

    from caption import Captioner
    captioner = Captioner.load("photos")
    for caption in captioner(["a.jpg", Image.open("b.png"), array], beam_size=5, num_best=3):
        print(caption.text, caption.confidence, [other.text for other in caption.alternatives])
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "numpy", "tyro")

import glob
import itertools
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from captioning import cli
from captioning.data.images import MAX_PIXELS, read_image, to_pixels
from captioning.data.names import IMAGE_SUFFIXES, OTHER_PICTURES, is_image_name, listed, other_ending
from captioning.data.tars import find_shards, is_shards
from captioning.data.tokenizer import WORDS, tokenizer_name
from captioning.deploy.downloads import fetch_model, loading
from captioning.deploy.onnx_model import OnnxModel
from captioning.deploy.writers import EXISTING, FORMATS, identify, open_writer
from captioning.familiarity import Familiarity, is_unlike, unlike_warning
from captioning.metadata import ORIGIN
from captioning.search import options as search_options
from captioning.search.options import SETTINGS, SamplingOptions, confidence
from vocab import Vocabulary

CONFIG = {
    # what
    "images": ["-"],  # files, folders or globs; - = paths on standard input, one per line
    "model_path": "photos",  # photos | aerial | pictograms | .safetensors (a,b = ensemble) | .onnx | https://... | hf://...
    "output": "",  # file, for parquet a folder; "" = standard output
    "format": "text",  # text | jsonl | csv | txt: a file beside each image | parquet: a file for each tar shard
    "existing": "skip",  # of jsonl, csv and txt: skip images that have captions | overwrite
    # decoding, see captioning/search/options.py
    **SETTINGS,
    "num_best": 1,  # captions per image, at most beam_size
    "groups": 1,  # diverse beam search: groups of beams that avoid each other's words; divides beam_size
    "diversity": 0.0,  # with groups: penalty in nats for a word that an earlier group uses at the same position
    # random sampling instead of beam search; the settings of beams do not apply
    "sample": 0,  # captions drawn per image, the likeliest first; 0 = beam search
    "temperature": 1.0,  # log-probabilities are divided by this before drawing
    "top_k": 0,  # draw from this many likeliest words; 0 = from all
    "top_p": 1.0,  # draw from the fewest likeliest words with this total probability
    "seed": 0,  # of the drawing; the same image and seed give the same captions
    # speed
    "batch_size": 16,  # images per batch; more take more memory
    "num_workers": 2,  # threads that read images
    "num_threads": 0,  # threads of onnxruntime; 0 = one per core
    "device": "",  # cuda | mps | cpu, for PyTorch; "" = the first of these that is available
    # several processes and machines, see docs/scale.md
    "num_processes": 0,  # that caption tar shards, with one thread each; 0 = one per core
    "num_shards": 1,  # jobs that the shards, or the images, are shared out to
    "shard_index": 0,  # which of these jobs this is, from 0
    "engine": "processes",  # of tar shards: processes, on this machine | ray
}

LIMITS = search_options.LIMITS | {
    "num_best": (1, 100),
    "groups": (1, 100),
    "diversity": (0.0, 1000),
    "sample": (0, 1000),
    "temperature": (0.01, 100),
    "top_k": (0, 1_000_000),
    "top_p": (0.001, 1),
    "seed": (0, 2**32 - 1),
    "batch_size": (1, 65536),
    "num_workers": (1, 256),
    "num_threads": (0, 256),
    "num_processes": (0, 1024),
    "num_shards": (1, 10_000_000),
    "shard_index": (0, 10_000_000),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(("model_path", "output", "format", "existing", "device", "engine"), str)
TYPES |= {"images": list}
LISTED = 100_000  # images that are listed beforehand, so that the progress bar has an end


@dataclass(frozen=True)
class Caption:
    """What a model says about an image.

    text:         as the language writes it
    log_prob:     nats, of all its tokens, <end> included where it was said
    tokens:       their ids, without <start> and <end>
    ended:        False = cut at max_len, so <end> was not said
    score:        what it is ranked by, captioning.search.options.Hypothesis.score; an alternative never has a higher
                  one, but may have a higher confidence, since with a consensus the score is the agreement
    alternatives: other Captions of the same image, the next best first
    familiarity:  share of the model's validation pictures that are less like its training pictures than this image,
                  0..1; None = the model does not know
    """

    text: str
    log_prob: float
    tokens: tuple
    ended: bool = True
    score: float = 0.0
    alternatives: tuple = ()
    familiarity: float | None = None

    @property
    def unlike(self):
        """True if the image is unlike the model's training pictures, so that its captions say little."""
        return is_unlike(self.familiarity)

    @property
    def confidence(self):
        """The model's mean probability of a token, 0..1, as captioning.search.options.confidence."""
        return confidence(self.log_prob, len(self.tokens) + self.ended)

    def record(self):
        """Return what is written of a caption, name -> value; the alternatives have records of their own."""
        return {
            "caption": self.text,
            "log_prob": round(self.log_prob, 4),
            "confidence": round(self.confidence, 4),
            "score": round(self.score, 4),
            "familiarity": None if self.familiarity is None else round(self.familiarity, 4),
        }


class TorchModel:
    """A CNNtoRNN behind `search`, as captioning.deploy.onnx_model.OnnxModel is."""

    def __init__(self, network, vocab, transform, config, classes=(), **parts):
        """parts: decoding, familiarity and tokenizer, as in captioning.checkpoint.Checkpoint."""
        import torch  # takes seconds, and an .onnx model needs none

        self.network = network.eval()
        with torch.inference_mode():
            self.step = network.decoder.make_step()
        self.vocab, self.transform, self.config, self.classes = vocab, transform, config, list(classes)
        self.decoding, self.familiarity = parts.get("decoding", {}), Familiarity.from_json(parts.get("familiarity"))
        self.tokenizer = parts.get("tokenizer", WORDS)
        self.origin = {}  # its history, best, versions and data; {} = not from a file

    @classmethod
    def load(cls, path, device=""):
        """Read a checkpoint. Raises ValueError, one line naming the file, if that cannot be done."""
        try:
            from captioning.runtime import pick_device
            from model import load_captioner
        except ModuleNotFoundError as error:
            raise cli.UnavailableError(f"{path}: needs torch ({error}); an .onnx model does not") from None
        network, vocabulary, checkpoint = load_captioner(path, pick_device(device))
        parts = {name: getattr(checkpoint, name) for name in ("decoding", "familiarity", "tokenizer")}
        model = cls(network, vocabulary.itos, checkpoint.transform, checkpoint.config, checkpoint.classes, **parts)
        model.origin = {name: getattr(checkpoint, name) for name in ORIGIN}
        return model

    def search(self, images, options, *, start, end, banned):
        """Caption images (B, 3, S, S) float32: B lists of Hypothesis, and (B,) familiarity, None = not known."""
        return search_together([self], images, options, start=start, end=end, banned=banned)

    def encode(self, images):
        """Images (B, 3, S, S), a tensor -> their embeddings, and (B,) familiarity, None = not known."""
        if not self.familiarity:
            return self.network.encoder(images), None
        embeddings, descriptions = self.network.encoder.describe(images)
        return embeddings, self.familiarity(np.concatenate([part.cpu().numpy() for part in descriptions], axis=1))

    @property
    def has_attention(self):
        """True if `attend` can show where the model looked."""
        return self.network.decoder.has_attention

    def attend(self, images, captions, vocabulary):
        """Return where it looked for each word of its captions of images (B, 3, S, S): arrays (words, h, w), square."""
        import torch

        from captioning.evaluation import attention_maps

        with torch.inference_mode():
            embeddings = self.network.encoder(torch.from_numpy(images).to(next(self.network.parameters()).device))
        return attention_maps(self.network, embeddings, captions, vocabulary)


class Ensemble:
    """Several TorchModels that caption as one: each word has the mean of the probabilities that they give it.

    Raises ValueError, naming what differs, unless they have one vocabulary and one transform.
    """

    has_attention = False  # each model looks elsewhere

    def __init__(self, models):
        first = models[0]
        self.models = models
        self.vocab, self.transform, self.config = first.vocab, first.transform, first.config
        self.decoding, self.tokenizer = first.decoding, first.tokenizer
        for number, model in enumerate(models[1:], start=2):
            if model.tokenizer != first.tokenizer:
                names = tokenizer_name(model.tokenizer), tokenizer_name(first.tokenizer)
                raise ValueError(f"the tokenizer of model {number} is {names[0]}, the first model's {names[1]}")
            if model.vocab != first.vocab:
                sizes = f"{len(model.vocab)} words, the first model's has {len(first.vocab)}"
                raise ValueError(f"the vocabulary of model {number} is another ({sizes})")
            if model.transform != first.transform:
                raise ValueError(
                    f"the transform of model {number} is {model.transform}, the first's is {first.transform}"
                )
        self.classes = list(dict.fromkeys(name for model in models for name in model.classes))

    def search(self, images, options, *, start, end, banned):
        """As TorchModel.search; the familiarity is the mean of the models', None if one does not know it."""
        return search_together(self.models, images, options, start=start, end=end, banned=banned)


def search_together(models, images, options, **special):
    """Caption images (B, 3, S, S) float32 by one TorchModel or by several as one, as their `search` says."""
    import torch

    from captioning.search.beam import beam_search, ensemble, sample_captions

    networks = [model.network for model in models]
    device = next(networks[0].parameters()).device
    with torch.inference_mode():
        images = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
        embeddings, familiarity = zip(*(model.encode(images) for model in models), strict=True)
        states = [network.decoder.start(one) for network, one in zip(networks, embeddings, strict=True)]
        step, state = models[0].step, states[0]
        if len(models) > 1:
            step, state = ensemble([model.step for model in models], states)
        decode = sample_captions if isinstance(options, SamplingOptions) else beam_search
        found = decode(step, state, options, **special)
    return found, None if any(one is None for one in familiarity) else np.mean(familiarity, axis=0)


class Captioner:
    """Images in, captions out. Every door of the project captions through it: command, page, report.

    model: TorchModel, Ensemble or OnnxModel
    """

    def __init__(self, model):
        self.model, self.vocabulary = model, Vocabulary(model.vocab, model.tokenizer)

    @classmethod
    def load(cls, source, *, device="", num_threads=0):
        """Read a model: a path to .safetensors or .onnx, the name of a shipped one, https://..., hf://owner/name.

        Several .safetensors, with commas between, caption as one.
        Raises ValueError, one line, if one cannot be had or is not a captioner.
        """
        paths = model_paths(source)
        models = []
        for path in paths:
            if path.suffix == ".pte":
                raise ValueError(f"{path}: no script reads ExecuTorch programs; allowed are .safetensors and .onnx")
            if path.suffix == ".onnx" and len(paths) > 1:
                raise ValueError(f"{path}: several models caption as one if all are .safetensors")
            with loading(path):
                is_onnx = path.suffix == ".onnx"
                models.append(OnnxModel(path, num_threads) if is_onnx else TorchModel.load(path, device))
        try:
            return cls(models[0] if len(models) == 1 else Ensemble(models))
        except ValueError as error:
            raise ValueError(f"{','.join(map(str, paths))}: {error}") from None

    def __call__(self, images, *, batch_size=16, num_workers=2, **settings):
        """Caption one image or many: a list of Captions, in order.

        images:   path, binary file, PIL picture or array (see captioning.data.images), or an iterable of these
        settings: of SearchOptions: beam_size, num_best, max_len ...; the rest is the model's own, or the default

        Raises ValueError naming the first image that cannot be read, or a setting.
        """
        options = self.search_options(**settings)
        if is_one(images):
            images = [images]
        captions = []
        for _, caption in self.stream(images, options, batch_size=batch_size, num_workers=num_workers):
            if isinstance(caption, ValueError):
                raise caption
            captions.append(caption)
        return captions

    def search_options(self, **settings):
        """Return the SearchOptions of `settings`; length_penalty and consensus are the model's own where not given."""
        return search_options.search_options(self.model.decoding, **settings)

    def stream(self, images, options, *, batch_size=16, num_workers=2, max_pixels=MAX_PIXELS):
        """Yield (image, Caption) of each of any number of images in order; a ValueError instead of an unreadable one's.

        An image of more than `max_pixels` is not read, and large ones are decoded one at a time. Two batches of pixels
        are held at a time, one being read while the other is captioned.
        """
        for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, allowed is 1 or more")
        images = iter(images)
        with ThreadPoolExecutor(num_workers) as pool:

            def read_batch():
                chunk = list(itertools.islice(images, batch_size))
                return [(image, pool.submit(self.read, image, max_pixels)) for image in chunk]

            batch = read_batch()
            while batch:
                following = read_batch()
                yield from self.caption_batch([(image, future.result()) for image, future in batch], options)
                batch = following

    def read(self, image, max_pixels=MAX_PIXELS):
        """Return the pixels (3, S, S) of an image, or the ValueError that tells why there are none."""
        try:
            return to_pixels(read_image(image, max_pixels), **self.model.transform)
        except ValueError as error:
            return error

    def caption_batch(self, batch, options):
        """(image, pixels or ValueError) pairs -> (image, Caption or ValueError) pairs."""
        pixels = [result for _, result in batch if isinstance(result, np.ndarray)]
        if not pixels:
            return batch
        words = self.vocabulary
        options = replace(options, pieces=words.pieces)
        found, familiarity = self.model.search(
            np.stack(pixels), options, start=words.start_id, end=words.end_id, banned=words.banned
        )
        familiarity = [None] * len(found) if familiarity is None else familiarity.tolist()
        captions = iter([self.to_caption(*one) for one in zip(found, familiarity, strict=True)])
        return [(image, result if isinstance(result, ValueError) else next(captions)) for image, result in batch]

    @property
    def has_attention(self):
        """True if `attend` can show where the model looked."""
        return self.model.has_attention

    def attend(self, images, captions):
        """Show where the model looked for each word of its captions of images, as many of each: (picture, maps) pairs.

        picture: (S, S, 3) float, 0..1, what the model sees of the image; maps: (words, h, w), each sums to 1

        Raises ValueError if the model has no attention.
        """
        if not self.has_attention:
            raise ValueError("attention: this model has none; train one with --model.decoder attention")
        transform = self.model.transform
        pixels = np.stack([to_pixels(read_image(image), **transform) for image in images])
        maps = self.model.attend(pixels, captions, self.vocabulary)
        pictures = pixels.transpose(0, 2, 3, 1) * transform["std"] + transform["mean"]
        return list(zip(pictures.clip(0, 1), maps, strict=True))

    def to_caption(self, hypotheses, familiarity):
        """Hypotheses, best first -> Caption."""
        best, *others = (
            Caption(
                self.vocabulary.decode(found.ids), found.log_prob, tuple(found.ids), found.ended, found.score,
                familiarity=familiarity,
            )
            for found in hypotheses
        )  # fmt: skip
        return replace(best, alternatives=tuple(others))


def split_sources(source):
    """Return the sources in a text with commas between; a file that has a comma in its name is one."""
    return [source] if Path(source).exists() else str(source).split(",")


def model_paths(source):
    """Return the Paths of the files of a model, downloaded if need be."""
    return [fetch_model(part) for part in split_sources(source)]


def model_name(source):
    """Return what a report calls the model: the file's name without its ending, a + b for several."""
    return "+".join(Path(part).stem for part in split_sources(source))


def is_one(images):
    """True for one image, False for several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    several = hasattr(images, "__iter__") and not isinstance(images, str | bytes | os.PathLike)
    return not several or hasattr(images, "read") or hasattr(images, "getpixel")


def find_images(names):
    """Yield the paths that the command line names, in order; a folder stands for the pictures below it.

    Raises ValueError if a name is empty, a folder has no picture, or nothing fits a glob.
    """
    for name in names:
        path = Path(name)
        if not name:
            raise ValueError("the name of a picture is empty")
        if name == "-":
            sys.stdin.reconfigure(errors="surrogateescape")  # a name on a disk may be any bytes
            # Windows puts a mark before the first line of a text.
            yield from (line for line in (line.removeprefix("\ufeff").rstrip() for line in sys.stdin) if line)
        elif path.is_dir():
            others = Counter()
            paths = pictures_below(path, others)
            first = next(paths, None)
            if not first:
                raise ValueError(f"{name}: no picture in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
            yield from itertools.chain([first], paths)
            if others:
                print(f"warning: {name}: {listed(others)}, other kinds of files; skipped", file=sys.stderr)
        elif glob.has_magic(name) and not path.exists():
            paths = sorted(glob.glob(name, recursive=True))
            if not paths:
                raise ValueError(f"{name}: no file fits this pattern")
            yield from paths
        else:
            yield name


def pictures_below(folder, others):
    """Yield the paths of the pictures below a folder, sorted; what cannot be listed is named on standard error.

    others: Counter, to which the endings of other files are added, but for texts
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=attrgetter("name"))
    except OSError as error:
        print(f"warning: {cli.message(error)}; skipped", file=sys.stderr)
        return
    for entry in found:
        try:
            is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file()
        except OSError as error:  # a link in a circle
            print(f"warning: {cli.message(error)}; skipped", file=sys.stderr)
            continue
        if is_folder:
            yield from pictures_below(os.path.join(folder, entry.name), others)
        elif is_file and is_image_name(entry.name):  # a pipe would be waited for
            yield os.path.join(folder, entry.name)
        elif is_file and (ending := other_ending(entry.name)):
            others[ending] += 1


BEAM_SETTINGS = ("beam_size", "length_penalty", "consensus", "diversity")
SAMPLE_SETTINGS = ("temperature", "top_k", "top_p", "seed")
SHARD_SETTINGS = ("num_processes", "engine")
IMAGE_SETTINGS = ("num_workers", "num_threads")


def check_idle(config, names, reader):
    """Raise ValueError if one of the settings, which `reader` alone reads, is not its default."""
    for name in names:
        if config[name] != CONFIG[name]:
            raise ValueError(f"--{name}: got {config[name]}, but {reader} alone reads it; leave it out")


def decoding_options(config, decoding):
    """Return the SearchOptions or, with `sample`, the SamplingOptions of a CONFIG; decoding: the model's own."""
    check_idle(config, *((BEAM_SETTINGS, "beam search") if config["sample"] else (SAMPLE_SETTINGS, "--sample")))
    if not config["sample"]:
        names = (*SETTINGS, "num_best", "groups", "diversity")
        return search_options.search_options(decoding, **{name: config[name] for name in names})
    for name in ("num_best", "groups"):
        if config[name] != 1:
            raise ValueError(f"--{name}: got {config[name]}, allowed is 1 with --sample, which has no beams")
    names = ("max_len", "min_len", "no_repeat_ngram", "temperature", "top_k", "top_p", "seed")
    return SamplingOptions(num_samples=config["sample"], **{name: config[name] for name in names})


def decoding_settings(config):
    """Return the settings of a CONFIG that decide the captions of a model."""
    names = (*SETTINGS, "num_best", "groups", "diversity", "sample", "temperature", "top_k", "top_p", "seed")
    return {name: config[name] for name in names}


def load_alone(config):
    """Return the (Captioner, options) of a process that is one of many."""
    captioner = Captioner.load(config["model_path"], device=config["device"], num_threads=1)
    return captioner, decoding_options(config, captioner.model.decoding)


def caption_tars(config):
    """Caption tar shards, each to files of its own; see captioning.deploy.shards."""
    from captioning.deploy import shards

    if not config["output"]:
        raise ValueError("--output: got none, --format parquet needs a folder")
    if config["existing"] != "skip":
        raise ValueError(f"--existing: got {config['existing']!r}, allowed is skip with --format parquet")
    if config["engine"] not in shards.ENGINES:
        raise ValueError(f"--engine: got {config['engine']!r}, allowed are {', '.join(shards.ENGINES)}")
    shards.import_parquet()
    if config["images"] == ["-"]:
        raise ValueError("no shards given: --format parquet is for tar shards, name them")
    everything = find_shards(config["images"])
    chosen = shards.share(everything, config["shard_index"], config["num_shards"])
    model_files = model_paths(config["model_path"])
    identity = identify(model_name(config["model_path"]), model_files, decoding_settings(config))
    output = Path(config["output"])
    shards.check_output(output, everything, identity)
    load = partial(load_alone, config | {"model_path": ",".join(map(str, model_files))})
    job = shards.Job(load, output, identity, Caption("", 0.0, ()).record(), config["batch_size"])
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: they are as many as cores
    shards.caption_shards(job, chosen, config["engine"], config["num_processes"] or os.cpu_count() or 1)


def without_captions(images, writer, counts):
    """Yield the images that `writer` has no captions of and can write some of, and count the others."""
    for image in images:
        if problem := writer.problem(image):
            print(f"warning: {image}: {problem}; skipped", file=sys.stderr)
            counts["unwritable"] += 1
        elif writer.has(image):
            counts["before"] += 1
        else:
            yield image


def caption_files(config):
    """Caption the pictures and write the captions as they come."""
    from captioning.progress import Progress  # needs tqdm; the class Captioner needs numpy and Pillow alone

    counts, total = Counter(), None
    images = itertools.islice(find_images(config["images"]), config["shard_index"], None, config["num_shards"])
    files = model_paths(config["model_path"])
    identity = identify(model_name(config["model_path"]), files, decoding_settings(config))
    with open_writer(config["format"], config["output"], config["existing"], identity) as writer:
        images = without_captions(images, writer, counts)
        if "-" not in config["images"]:
            listed = list(itertools.islice(images, LISTED))
            total = len(listed) if len(listed) < LISTED else None
            images = itertools.chain(listed, images)
        captioner = Captioner.load(config["model_path"], device=config["device"], num_threads=config["num_threads"])
        options = decoding_options(config, captioner.model.decoding)
        results = captioner.stream(images, options, batch_size=config["batch_size"], num_workers=config["num_workers"])
        # On a terminal the captions themselves show how far it is.
        hidden = sys.stdout.isatty() and not config["output"]
        for image, caption in Progress(results, total=total, desc="captioning", unit=" images", disable=hidden):
            if isinstance(caption, ValueError):
                Progress.write(f"warning: {cli.one_line(caption)}; skipped", file=sys.stderr)
                counts["skipped"] += 1
            else:
                writer.write(image, [one.record() for one in (caption, *caption.alternatives)])
                counts["captioned"] += 1
                counts["unlike"] += caption.unlike
        if not counts:
            raise ValueError("no pictures given")
        if counts["skipped"] == counts.total():
            raise ValueError(f"none of {counts['skipped']} pictures could be read")
    told = f"captioned {cli.counted(counts['captioned'], 'picture')}"
    told += f", skipped {counts['skipped']} that cannot be read" if counts["skipped"] else ""
    told += f", skipped {counts['unwritable']} without a text file of their own" if counts["unwritable"] else ""
    told += f", left out {counts['before']} that have captions (--existing)" if counts["before"] else ""
    told += f"; wrote {config['output']}" if config["output"] else ""
    print(told, file=sys.stderr)
    warning = unlike_warning(counts["unlike"], counts["captioned"], model_name(config["model_path"]))
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


def main(config):
    """Caption pictures, or shards of pictures."""
    config = cli.settings_of(config, "caption")
    for name, allowed in (("format", FORMATS), ("existing", EXISTING)):
        if config[name] not in allowed:
            raise ValueError(f"--{name}: got {config[name]!r}, allowed are {', '.join(allowed)}")
    if config["shard_index"] >= config["num_shards"]:
        most = config["num_shards"] - 1
        raise ValueError(f"--shard_index: got {config['shard_index']}, allowed is 0 to {most}: --num_shards less 1")
    decoding_options(config, {})  # what is impossible is refused before the model is read
    of_shards = config["format"] == "parquet"
    check_idle(config, *((IMAGE_SETTINGS, "a run on pictures") if of_shards else (SHARD_SETTINGS, "--format parquet")))
    if config["format"] == "text":
        check_idle(config, ["existing"], "--format jsonl, csv or txt")
    if of_shards:
        caption_tars(config)
        return
    if config["images"] == ["-"] and (sys.stdin is None or sys.stdin.isatty()):
        raise ValueError("no pictures given: name files, folders or globs, or - for paths on standard input")
    if any(map(is_shards, config["images"])):
        raise ValueError(f"--format: got {config['format']!r}, allowed is parquet for tar shards")
    if config["format"] == "txt" and config["output"]:
        raise ValueError("--output: --format txt writes beside each picture; leave it out")
    if is_image_name(config["output"]) or config["output"].lower().endswith(OTHER_PICTURES):
        raise ValueError(f"--output: got {config['output']}, the name of a picture; captions are a text")
    caption_files(config)


if __name__ == "__main__":
    cli.run(main, {"caption": LIMITS | TYPES}, positional="caption.images", caption=CONFIG)

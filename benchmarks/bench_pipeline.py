"""How much the pipeline adds to what it stands on: each rate beside its baseline, measured in the same run.

    python benchmarks/bench_pipeline.py                           # data/pictograms, 128 px
    python benchmarks/bench_pipeline.py --data_dir data/birds --image_size 224
    python benchmarks/bench_pipeline.py --datasets coco data/birds --checkout ../before     # how fast are they read?

tokenizer   captions/s of the vocabulary's tokenizer            baseline: NLTK's word tokenizer on the same captions
accents     the same for ACCENTED, in seven languages           baseline: the same
loading     images/s of data_loader with workers                baseline: torchvision's ImageFolder and transforms
640x480     the same for JPEGs of that size, made of four       baseline: the same
features    images/s of the frozen encoder over files           baseline: the bare encoder on tensors in memory
decoder     tokens/s of decoder training from cached features   baseline: captions padded to the longest of the set
report      captions/s of beam 5, 64 images at a time           baseline: one image at a time
datasets    images/s of load_dataset, alone if it is asked for  baseline: load_dataset of another commit, in turn

The last line is JSON. Times are the median of several runs after a warm-up.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import contextlib
import json
import platform
import subprocess
import tempfile
from dataclasses import replace
from functools import partial
from statistics import median
from subprocess import PIPE

import torch
from nltk.tokenize import NLTKWordTokenizer
from PIL import Image, ImageOps
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import data_loader
from captioning import cli
from captioning.data.annotations import load_examples
from captioning.data.images import load_image
from captioning.data.sequences import Captions
from captioning.data.tokenizer import tokenize
from captioning.evaluation import decode_embeddings, encode_images
from captioning.runtime import Machine, pick_workers
from captioning.search.options import SearchOptions
from data_loader import CachedBatches
from model import CNNtoRNN
from timing import rate, rates
from vocab import Vocabulary, build_vocabulary, count_words

CONFIG = {
    "data_dir": "data/pictograms",  # the project's own layout, so that ImageFolder can read it too
    "image_size": 128,  # pixels
    "num_images": 1024,
    "parts": ["tokenizer", "accents", "loading", "640x480", "features", "decoder", "report"],  # what is measured
    "num_workers": 2,
    "runs": 3,
    "datasets": [""],  # datasets to read instead of all other measurements; "" = none
    "checkout": "",  # folder with another commit, in which the same datasets are read
}

# Run in either checkout; answers each line, a dataset, with the seconds of CPU time and the number of images.
READER = """
import contextlib, gc, os, sys, time
sys.path.insert(0, os.getcwd())
try:
    from captioning.data.annotations import load_dataset, load_examples
except ImportError:  # commit 56669ee and before
    from captioning.annotations import load_examples
    load_dataset = load_examples
for line in sys.stdin:
    with contextlib.redirect_stdout(None):
        images = len(load_examples(line.strip()))
        gc.collect()
        began = time.process_time()
        load_dataset(line.strip())
        seconds = time.process_time() - began
    print(seconds, images, flush=True)
"""

ACCENTED = [
    "Un homme âgé est assis à l'ombre d'un arbre près de la forêt.",
    "Deux garçons jouent au football sur la pelouse d'été.",
    "Ein Mädchen läuft über die grüne Wiese.",
    "¿Qué hace el niño? Está comiendo una manzana.",
    "Một con mèo đang nằm trên ghế sô pha.",
    "말을 탄 남자가 해변을 달리고 있다.",
    "एक बिल्ली सोफे पर बैठी है।",
    "قطة سوداء تجلس على الأريكة، وتنام.",
]


def exhaust(iterable):
    """Run through an iterable."""
    for _ in iterable:
        pass


def bench_tokenizer(captions, runs):
    """Return (ours, baseline) in captions/s."""
    nltk_tokenize = NLTKWordTokenizer().tokenize
    ours = rate(lambda: [tokenize(caption) for caption in captions], len(captions), runs)
    return ours, rate(lambda: [nltk_tokenize(caption.lower()) for caption in captions], len(captions), runs)


def bench_loading(examples, vocabulary, config):
    """Return (ours, baseline) in images/s, in turns: the machine may be busier at one time than at another."""
    size, num_workers = config["image_size"], config["num_workers"]
    transform = data_loader.TrainTransform(size)
    dataset = data_loader.CaptionDataset(examples, vocabulary, transform, image_size=size)
    loader = data_loader.build_loader(dataset, batch_size=64, num_workers=num_workers, shuffle=True)
    jitter = transform.jitter
    augment = v2.Compose(
        [
            v2.PILToTensor(),  # first, as torchvision advises
            v2.RandomResizedCrop(size, scale=(transform.crop_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(transform.flip),
            v2.ColorJitter(jitter, jitter, jitter),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(transform.mean, transform.std),
        ]
    )
    folder = ImageFolder(examples[0].image.parents[1], augment)
    folder.samples = [(str(example.image), 0) for example in examples]
    plain = DataLoader(folder, batch_size=64, num_workers=num_workers, shuffle=True)

    def ours():
        for batch in loader:
            transform.normalize(batch.inputs)  # as training does, which the baseline does in its workers

    return rates(ours, partial(exhaust, plain), len(examples), config["runs"])


def make_photos(examples, folder):
    """Return examples of 640 x 480 JPEGs, each of four pictures side by side, so that its detail is that of photos."""
    width, height = 320, 240
    photos = []
    for first in range(0, len(examples) // 4 * 4, 4):
        photo = Image.new("RGB", (2 * width, 2 * height))
        for number, example in enumerate(examples[first : first + 4]):
            picture = ImageOps.fit(load_image(example.image), (width, height))
            photo.paste(picture, (number % 2 * width, number // 2 * height))
        path = folder / "photos" / f"{first}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo.save(path, quality=90)
        photos.append(replace(examples[first], image=path))
    return photos


def bench_features(model, examples, config):
    """Return (ours, baseline) in images/s."""
    transform = data_loader.EvalTransform(config["image_size"])
    device, network = torch.device("cpu"), model.encoder.backbone
    images = torch.stack([transform(load_image(example.image)) for example in examples[:256]])
    images = images.contiguous(memory_format=torch.channels_last)
    num_workers = pick_workers(config["num_workers"], device)  # as train.py and analysis_report.py do

    @torch.inference_mode()
    def bare():
        for chunk in images.split(64):
            network(chunk)

    def ours():
        encode_images(
            network,
            [example.image for example in examples],
            transform,
            Machine(device, num_workers=num_workers),
        )

    return rate(ours, len(examples), config["runs"]), rate(bare, len(images), config["runs"])


def bench_decoder(model, examples, vocabulary, runs):
    """Return (ours, baseline) in tokens/s, <end> included and padding not counted."""
    tokens = Captions(map(vocabulary.encode, example.captions) for example in examples)
    longest = int(tokens.ids.lengths.max())
    features = torch.randn(len(examples), 1, model.encoder.feature_dim)
    labels = torch.zeros(len(examples), dtype=torch.long)
    batches = CachedBatches(features, tokens, labels, 64, by_caption=True)
    optimizer = torch.optim.AdamW(model.decoder.parameters())
    amount = int((tokens.ids.lengths - 1).sum())

    def epoch(pad_to):
        for batch in batches.epoch(seed=0):
            ids = F.pad(batch.tokens, (0, max(0, pad_to - batch.tokens.shape[1])), value=vocabulary.pad_id)
            logits = model.decoder(model.encoder.embed(batch.inputs)[batch.owner], ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=vocabulary.pad_id)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.train()
    return rate(lambda: epoch(0), amount, runs), rate(lambda: epoch(longest), amount, runs)


def bench_report(model, vocabulary, runs):
    """Return (ours, baseline) in captions/s."""
    embeddings = torch.randn(128, model.decoder.embedding.embedding_dim)

    def decode(batch_size):
        options = SearchOptions(beam_size=5, max_len=20)
        decode_embeddings(model, embeddings, vocabulary, options, batch_size=batch_size)

    return rate(lambda: decode(64), len(embeddings), runs), rate(lambda: decode(1), len(embeddings), runs)


def bench_datasets(datasets, checkout, runs):
    """Return dataset -> (ours, baseline) in images/s of CPU time, the medians of runs in which both take turns."""
    roots = (Path(__file__).resolve().parents[1], Path(checkout).resolve())
    found = {}
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", READER], cwd=root, stdin=PIPE, stdout=PIPE, text=True)
            )
            for root in roots
        ]

        def read(reader, dataset):
            print(Path(dataset).resolve(), file=reader.stdin, flush=True)
            seconds, images = reader.stdout.readline().split()
            return int(images) / float(seconds)

        for dataset in datasets:
            rates = [[read(reader, dataset) for reader in readers] for _ in range(runs + 1)][1:]  # the first warms up
            found[f"{Path(dataset).name} images/s"] = tuple(median(column) for column in zip(*rates, strict=True))
        for reader in readers:
            reader.stdin.close()
    return found


def bench_all(config):
    """Return name -> (ours, baseline) of all that needs one dataset of images."""
    torch.manual_seed(0)
    examples = load_examples(config["data_dir"], "train")[: config["num_images"]]
    captions = [caption for example in examples for caption in example.captions]
    vocabulary: Vocabulary = build_vocabulary(count_words(captions)[0], 1)
    model = CNNtoRNN(len(vocabulary))
    model.encoder.to(memory_format=torch.channels_last)
    runs = config["runs"]
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "tokenizer captions/s": lambda: bench_tokenizer(captions, runs),
            "accents captions/s": lambda: bench_tokenizer(ACCENTED * 500, runs),
            "loading images/s": lambda: bench_loading(examples, vocabulary, config),
            "640x480 images/s": lambda: bench_loading(make_photos(examples, Path(folder)), vocabulary, config),
            "features images/s": lambda: bench_features(model.eval(), examples, config),
            "decoder tokens/s": lambda: bench_decoder(model, examples, vocabulary, runs),
            "report captions/s": lambda: bench_report(model, vocabulary, runs),
        }
        return {name: bench() for name, bench in parts.items() if name.split()[0] in config["parts"]}


def main(config):
    """Print a line per rate, and all of them as JSON."""
    config = config["bench"]
    if any(config["datasets"]):
        if not config["checkout"]:
            raise ValueError("--datasets: needs --checkout, a folder with the commit to compare with")
        results = bench_datasets(config["datasets"], config["checkout"], config["runs"])
    else:
        results = bench_all(config)
    for name, (ours, baseline) in results.items():
        print(f"{name:<24}{ours:>12,.0f}   baseline {baseline:>12,.0f}   ratio {ours / baseline:>6.2f}")
    ratios = {name: round(ours / baseline, 3) for name, (ours, baseline) in results.items()}
    rates = {name: round(ours, 1) for name, (ours, _) in results.items()}
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({"bench": "pipeline", "ratio": ratios, "rate": rates, "machine": machine}))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

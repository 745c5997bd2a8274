"""How fast the stages of training are, beside the loop that most tutorials have.

    python benchmarks/bench_train.py                                                     # data/pictograms, 128 px
    python benchmarks/bench_train.py --data_dir data/birds --image_size 224 --finetune_blocks 5

plain      the baseline: every batch of captions loads its images, runs them through the frozen encoder, and pads its
           captions to the longest of the set
stage 1    train.py's epoch on cached features, captions of like length together; what the cache costs, `feature_views`
           passes of the encoder, is counted in `with cache`, spread over `epochs`
untrimmed  stage 1 with captions padded to the longest of the set
stage 2    train.py's epoch on cached maps, with gradients in the last blocks
files      fine-tuning of the whole encoder from image files; `waits` is the share of its time in which a step waited
           for the workers' next batch

Images/s counts an image once an epoch, tokens/s <end> but no padding. Times are the median of several epochs after a
warm-up. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import platform
import time
from functools import partial

import torch
from torch.nn import functional as F

import data_loader
import train
from captioning import cli
from captioning.data.annotations import load_examples
from captioning.evaluation import encode_images
from captioning.runtime import Machine, autocast, flush_denormals, pick_precision, pick_workers
from captioning.training.features import as_input
from captioning.training.losses import CaptionLoss, LossTerms
from captioning.training.optimisation import start_run
from captioning.training.stages import Stage
from data_loader import CachedBatches, ImageBatches
from model import CNNtoRNN
from timing import rate
from vocab import build_vocabulary, count_words

CONFIG = {
    "data_dir": "data/pictograms",  # folder or annotation file
    "image_size": 128,  # pixels
    "num_images": 512,
    "batch_size": 64,  # captions; images of the fine-tuning: half as many
    "finetune_blocks": 5,
    "feature_views": 4,
    "epochs": 20,  # over which the cache is spread
    "num_workers": 2,
    "runs": 3,
}
# Without what needs classes: the tutorials' loop has none of it.
TERMS = LossTerms(label_smoothing=0.1)


class Padded:
    """Batches whose captions are padded to the longest of the set, as they are where a dataset pads its items."""

    def __init__(self, batches, longest):
        self.batches, self.longest = batches, longest

    def __len__(self):
        return len(self.batches)

    @property
    def num_rows(self):
        """Rows of all batches of an epoch."""
        return self.batches.num_rows

    def epoch(self, seed, first=0):
        """Yield the batches."""
        for batch in self.batches.epoch(seed, first):
            batch.tokens = F.pad(batch.tokens, (0, self.longest - batch.tokens.shape[1]), value=data_loader.PAD_ID)
            yield batch


class Waiting:
    """Batches that note in `seconds` how long each of them let the training wait."""

    def __init__(self, batches):
        self.batches, self.seconds = batches, 0.0

    def __len__(self):
        return len(self.batches)

    @property
    def num_rows(self):
        """Rows of all batches of an epoch."""
        return self.batches.num_rows

    def epoch(self, seed, first=0):
        """Yield the batches."""
        began = time.perf_counter()
        for batch in self.batches.epoch(seed, first):
            self.seconds += time.perf_counter() - began
            yield batch
            began = time.perf_counter()


def one_epoch(model, name, data, machine, num_blocks):
    """Train as the stage `name` of train.py does, for an epoch, with gradients in the last `num_blocks` blocks."""
    encoder_lr = 1e-4 if num_blocks else 0.0
    stage = Stage(name, lr=1e-4, encoder_lr=encoder_lr, num_blocks=num_blocks, warmup=0.0)
    run = start_run(model, stage, len(data.batches), machine)
    train.train_one_epoch(run, stage, data, CaptionLoss(data.captions, TERMS), machine, seed=0)


def plain_epoch(model, dataset, longest, config, dtype):
    """The tutorials' loop for an epoch: an item is one caption with its image, so an image is read for each of them."""
    pairs = [(int(image), row) for row, image in enumerate(dataset.tokens.owner)]
    optimizer = torch.optim.Adam(
        [*model.decoder.parameters(), *model.encoder.linear.parameters(), *model.encoder.norm.parameters()], lr=1e-4
    )

    def collate(items):
        images, tokens = zip(*items, strict=True)
        return torch.stack(images), torch.stack(tokens)

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, index):
            image, row = pairs[index]
            ids = torch.from_numpy(dataset.tokens.ids[row].astype("int64"))
            padded = F.pad(ids, (0, longest - len(ids)), value=data_loader.PAD_ID)
            return dataset.transform.normalize(dataset[image]["image"][None])[0], padded

    loader = torch.utils.data.DataLoader(
        Pairs(), config["batch_size"], shuffle=True, num_workers=config["num_workers"], collate_fn=collate
    )
    model.train()
    model.encoder.backbone.eval()
    for images, tokens in loader:
        with autocast(torch.device("cpu"), dtype):
            with torch.no_grad():
                features = model.encoder.backbone(images)
            logits = model.decoder(model.encoder.embed(features), tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=data_loader.PAD_ID)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(config):
    """Print a line per loop, and all of them as JSON."""
    config = config["bench"]
    flush_denormals()
    torch.manual_seed(0)
    device, runs, size = torch.device("cpu"), config["runs"], config["batch_size"]
    dtype = pick_precision("auto", device)
    machine = Machine(device, dtype, pick_workers(config["num_workers"], device))
    examples = load_examples(config["data_dir"], "train")
    examples = examples[:: max(1, len(examples) // config["num_images"])][: config["num_images"]]
    vocabulary = build_vocabulary(count_words(c for example in examples for c in example.captions)[0], 1)
    transform = data_loader.TrainTransform(config["image_size"])
    dataset = data_loader.CaptionDataset(examples, vocabulary, transform, image_size=config["image_size"])
    model = CNNtoRNN(len(vocabulary))
    model.encoder.to(memory_format=torch.channels_last)
    tokens, labels = dataset.tokens, torch.from_numpy(dataset.labels).long()
    longest = int(tokens.ids.lengths.max())
    num_tokens, num_images = int((tokens.ids.lengths - 1).sum()), len(dataset)

    def cache(blocks):
        trunk = model.encoder.eval().cut(blocks)[0]
        return encode_images(trunk, dataset.paths, transform, machine)[1][:, None]

    def decoder_batches():
        return CachedBatches(features, tokens, labels, size, by_caption=True)

    def stage_epoch(name, batches, encode, num_blocks):
        return one_epoch(model, name, data_loader.StageData(batches, encode, tokens, labels), machine, num_blocks)

    def embed(model, features):
        return model.encoder.embed(features)

    def embed_pixels(model, pixels):
        return model.encoder(as_input(transform.normalize(pixels), device))

    def embed_maps(model, maps):
        return model.encoder.embed(model.encoder.cut(cut)[1](maps))

    seconds = {}  # of an epoch, by loop
    cut = config["finetune_blocks"]
    features, maps = cache(0), cache(cut).half()
    maps_batches = CachedBatches(maps, tokens, labels, size // 2, by_caption=False)
    files = Waiting(ImageBatches(dataset, size // 2, config["num_workers"]))
    work = {
        "plain": partial(plain_epoch, model, dataset, longest, config, dtype),
        "cache": lambda: cache(0),
        "stage 1": lambda: stage_epoch("decoder", decoder_batches(), embed, 0),
        "untrimmed": lambda: stage_epoch("decoder", Padded(decoder_batches(), longest), embed, 0),
        "stage 2": lambda: stage_epoch("finetune", maps_batches, embed_maps, cut),
        "files": lambda: stage_epoch("everything", files, embed_pixels, len(model.encoder.blocks())),
    }
    for name, epoch in work.items():
        seconds[name] = 1 / rate(epoch, 1, runs)
    waits = files.seconds / (runs + 1) / seconds["files"]
    seconds["with cache"] = seconds["stage 1"] + seconds.pop("cache") * config["feature_views"] / config["epochs"]

    for name, time_taken in seconds.items():
        print(
            f"{name:<12}{num_images / time_taken:>10,.0f} images/s{num_tokens / time_taken:>12,.0f} tokens/s   "
            f"{seconds['plain'] / time_taken:>7.2f} x plain"
        )
    trimmed = seconds["untrimmed"] / seconds["stage 1"]
    print(f"stage 1 is {trimmed:.2f} times as fast as untrimmed; a step of `files` waits {waits:.1%} of its time")
    result = {
        "bench": "train",
        "ratio": {name: round(seconds["plain"] / time_taken, 2) for name, time_taken in seconds.items()},
        "images_per_second": {name: round(num_images / time_taken, 1) for name, time_taken in seconds.items()},
        "tokens_per_second": {name: round(num_tokens / time_taken, 1) for name, time_taken in seconds.items()},
        "trimmed_over_untrimmed": round(trimmed, 2),
        "waits": round(waits, 4),
        "precision": str(dtype).removeprefix("torch."),
        "machine": {
            "processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__
        },
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

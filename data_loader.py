"""Script 2: images and captions become padded batches.

    python data_loader.py                                              # -> graphs/batch.png, one augmented batch
    python data_loader.py --data_dir data/birds --vocab_path vocab_5.pkl

Reads   the images and captions of `data_dir` and the vocabulary
Writes  graphs/batch.png, augmented images as the model receives them

One item is one image with all its captions, decoded once. A batch keeps them apart: `inputs` has a row per image,
`tokens` a row per caption, and `owner` says which image each caption belongs to. TrainingData holds the images of a
training run, and opens them for each of its stages.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "torch", "tyro")

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from captioning import cli, plots
from captioning.data.annotations import data_flags, load_dataset, picture_settings
from captioning.data.images import load_image
from captioning.data.sequences import PAD_ID, Captions, Paths
from captioning.evaluation import ImageDataset, encode_together, stack_batches
from captioning.metadata import MAX_IMAGE_SIZE
from captioning.runtime import LONGEST_WAIT, autocast, fit_workers, gather_list, random_numbers, share, start_workers
from captioning.training.features import as_input, compute_views, head_views
from captioning.training.presets import LARGE_BATCH
from vocab import load_vocabulary

CONFIG = {
    # what
    "data_dir": "data/pictograms",  # dataset folder, annotation file, or tar shards, see docs/scale.md
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the dataset's folder
    "vocab_path": "vocab_2.pkl",  # vocabulary, written by vocab.py
    "image_size": 0,  # pixels a side; 0 = the size that the encoder's weights were trained at (imagenet: 224)
    # augmentation of the train split
    "crop_scale": 0.6,  # smallest share of the area that a random crop keeps; 1 = no cropping
    "flip": 0.5,  # probability of a horizontal flip; 0 where captions say left and right
    "vertical_flip": 0.0,  # probability of a vertical flip; 0.5 suits aerial images
    "quarter_turn": 0.0,  # probability of a rotation by 90 degrees; with both flips all eight orientations occur
    "jitter": 0.2,  # brightness, contrast and saturation change by up to this share
    "hue": 0.0,  # hue changes by up to this share of the colour circle; 0 where captions name colours
    # loading
    "batch_size": 0,  # captions per batch with a frozen encoder, else images; 0 = 64, in training 16 for small data
    "samples_per_epoch": 0,  # rows of batch_size in an epoch of training, drawn anew for each; 0 = all
    "captions_per_image": 0,  # captions drawn per image and epoch when training reads image files; 0 = all
    "num_workers": 2,  # processes that read images; 0 = none; the batches do not depend on it
    "seed": 0,  # of the batch that this script shows; train.py has its own
}

LIMITS = {
    "image_size": (0, MAX_IMAGE_SIZE),
    "crop_scale": (0.01, 1),
    "flip": (0.0, 1),
    "vertical_flip": (0.0, 1),
    "quarter_turn": (0.0, 1),
    "jitter": (0.0, 1),
    "hue": (0.0, 0.5),
    "batch_size": (0, 65536),
    "samples_per_epoch": (0, 10**11),
    "captions_per_image": (0, 1000),
    "num_workers": (0, 256),
    "seed": (0, 2**32 - 1),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(("data_dir", "images_dir", "vocab_path"), str)
TYPES |= {"allow_missing": bool, "allow_links": bool}

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect
DEFAULT_IMAGE_SIZE = 224


class FastColorJitter(v2.ColorJitter):
    """v2.ColorJitter of a picture (3, H, W) uint8 -> float in whole numbers 0 to 255, the same numbers.

    torchvision turns the picture to float and back in each of its steps, which takes three times as long.
    """

    def forward(self, image):
        order, brightness, contrast, saturation, hue = self.get_params(
            self.brightness, self.contrast, self.saturation, self.hue
        )
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format)
        for step in order.tolist():
            if step == 0 and brightness is not None:
                blend(pixels, None, brightness)
            elif step == 1 and contrast is not None:
                blend(pixels, gray(pixels).mean(), contrast)
            elif step == 2 and saturation is not None:
                blend(pixels, gray(pixels), saturation)
            elif step == 3 and hue is not None:
                pixels = v2.functional.adjust_hue(pixels.to(torch.uint8), hue).float()
        return pixels


def gray(pixels):
    """Return (H, W) float, the brightness of pixels (3, H, W) in whole numbers, as torchvision weighs the colours."""
    red, green, blue = pixels
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def blend(pixels, others, share):
    """Make pixels share * pixels + (1 - share) * others, in place, in whole numbers 0 to 255; others None = zeros."""
    pixels.mul_(share)
    if others is not None:
        pixels.add_(others, alpha=1 - share)
    if share > 1:  # else none leaves the range
        pixels.clamp_(0, 255)
    pixels.floor_()


class Transform:
    """Base of the transforms, PIL -> (3, S, S) float: their `steps`, then normalised by their fields `mean` and `std`.

    Between processes an image is its pixels, a quarter of the bytes; a batch of them is normalised where it is used.
    """

    def pixels(self, image):
        """PIL -> (3, S, S) uint8."""
        return self.steps(image).to(torch.uint8, memory_format=torch.contiguous_format)

    def normalize(self, pixels):
        """(B, 3, S, S) uint8 -> float32, divided by 255, less `mean`, divided by `std`."""
        images = torch.empty(pixels.shape, device=pixels.device)
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        for image, one in zip(images, pixels, strict=True):  # one at a time stays in the processor's cache
            image.copy_(one).mul_(1 / 255).sub_(mean).div_(std)
        return images

    def __call__(self, image):
        return self.normalize(self.pixels(image)[None])[0]


@dataclass(frozen=True)
class TrainTransform(Transform):
    """Random crop, flips, a turn and colour jitter, then normalised.

    The fields are its settings, as in CONFIG; cached features are named by them, not by the transform's repr. Random
    numbers are torch's; see captioning.runtime.random_numbers.
    """

    image_size: int
    crop_scale: float = 0.6
    flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turn: float = 0.0
    jitter: float = 0.2
    hue: float = 0.0
    mean: tuple = MEAN
    std: tuple = STD

    @cached_property
    def steps(self):
        """PIL -> (3, S, S) in whole numbers 0 to 255, of torchvision's transforms."""
        steps = [v2.PILToTensor()]
        if self.crop_scale < 1:
            steps.append(v2.RandomResizedCrop(self.image_size, scale=(self.crop_scale, 1.0), antialias=True))
        else:
            steps.append(v2.Resize((self.image_size, self.image_size), antialias=True))
        steps += [v2.RandomHorizontalFlip(self.flip), v2.RandomVerticalFlip(self.vertical_flip)]
        if self.quarter_turn:
            steps.append(v2.RandomApply([v2.RandomRotation((90, 90))], self.quarter_turn))
        if self.jitter or self.hue:
            steps.append(FastColorJitter(self.jitter, self.jitter, self.jitter, self.hue))
        return v2.Compose(steps)

    def load(self, path):
        """Return the PIL picture of a file, of a large JPEG no more pixels than the random crops need.

        A crop of mean size has as many pixels as the view, the smallest one with crop_scale 0.6 three quarters of them.
        """
        return load_image(path, smallest_area=2 * self.image_size**2 / (1 + self.crop_scale))


AUGMENTATION = tuple(field.name for field in fields(TrainTransform) if field.name in CONFIG.keys() - {"image_size"})


@dataclass(frozen=True)
class EvalTransform(Transform):
    """Resize the shorter side, centre crop, normalise.

    Pillow resizes, so that a captioner without torch sees the same pixels.
    """

    image_size: int
    mean: tuple = MEAN
    std: tuple = STD

    @cached_property
    def steps(self):
        """PIL -> (3, S, S) uint8, of torchvision's transforms."""
        return v2.Compose(
            [v2.Resize(self.image_size, antialias=True), v2.CenterCrop(self.image_size), v2.PILToTensor()]
        )

    def load(self, path):
        """Return the PIL picture of a file."""
        return load_image(path)


def pick_image_size(image_size, native_size):
    """Return the pixels a side that a model is trained at: `image_size`, or where it is 0 the size of the weights.

    native_size: what the encoder's weights were trained at, 0 = not known
    """
    return image_size or native_size or DEFAULT_IMAGE_SIZE


@dataclass
class Batch:
    """B images with M captions.

    inputs:      (B, ...), what the network reads of each image; `kind` says which
    kind:        "images": (B, 3, S, S) uint8, which Transform.normalize makes float
                 "feature maps": (B, C, h, w), the output of the encoder's frozen blocks
                 "grid features": (B, P, D), one vector per place of the image, for a decoder with attention
                 "pooled features": (B, D)
    tokens:      (M, T) long, <start> w1 ... <end>, right-padded to the longest of the batch
    owner:       (M,) long, the row of `inputs` that each caption describes
    labels:      (B,) long, class index; -1 = no class
    index:       (B,) long, position in the dataset
    names_class: (M,) bool, True where a caption names the class of its image first
    failed:      error lines of the images that could not be read, which are left out
    """

    inputs: torch.Tensor
    kind: str
    tokens: torch.Tensor
    owner: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    names_class: torch.Tensor
    failed: list

    def pin_memory(self):
        """Called by the DataLoader where the device is CUDA."""
        return self._each(torch.Tensor.pin_memory)

    def to(self, device):
        """Return the batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change):
        tensors = {name: change(value) for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **tensors)


def captions_that_name_their_class(examples, vocabulary, grounder):
    """Return (M,) bool for the captions of all examples: True where the first class named is the image's own.

    grounder: Grounder of the classes

    A caption is judged by the words that the vocabulary knows, because the model reads and writes no others: a class
    name of which a word became <unk> is not named.
    """

    @lru_cache(2**16)  # captions repeat
    def first_class(caption):
        return grounder.name(vocabulary.decode(vocabulary.encode(caption)))

    flags = (bool(e.label) and first_class(caption) == e.label for e in examples for caption in e.captions)
    return np.fromiter(flags, dtype=bool)


class CaptionDataset(Dataset):
    """Images with the ids of their captions.

    grounder: Grounder that finds class names in captions; None = no caption counts as naming its class
    captions_per_image: how many captions an item draws at random; 0 = all
    random_key: whole numbers, such as (seed, epoch), that decide with the index what an item draws
    paths:  Paths of the N images; tokens: Captions of them; labels: (N,) int32, class index, -1 = no class

    A worker gets these arrays and nothing else: 27 MB for the 591,753 captions of COCO's train split.
    An unreadable image is an item with `image` None and the error line in `failed`.
    """

    def __init__(
        self, examples, vocabulary, transform, *, classes=(), grounder=None, captions_per_image=0, image_size=0
    ):
        self.transform, self.image_size = transform, image_size
        self.paths = Paths(example.image for example in examples)
        names_class = captions_that_name_their_class(examples, vocabulary, grounder) if grounder else None
        self.tokens = Captions((map(vocabulary.encode, example.captions) for example in examples), names_class)
        position = {name: index for index, name in enumerate(classes)}
        self.labels = np.array([position.get(example.label, -1) for example in examples], dtype=np.int32)
        self.captions_per_image = captions_per_image
        self.random_key = (0,)

    def __len__(self):
        return len(self.paths)

    def keyed(self, *random_key):
        """Return this dataset with another `random_key`; the arrays are shared."""
        dataset = copy.copy(self)
        dataset.random_key = random_key
        return dataset

    def __getitem__(self, index):
        with random_numbers(*self.random_key, index):
            return self.draw(index)

    def draw(self, index):
        """Return the item of an image, with torch's next random numbers."""
        tokens, names_class = self.tokens[index], self.tokens.names_class[self.tokens.rows(index)]
        if 0 < self.captions_per_image < len(tokens):
            chosen = torch.randperm(len(tokens))[: self.captions_per_image].tolist()
            tokens, names_class = [tokens[i] for i in chosen], names_class[chosen]
        image, failed = None, ""
        try:
            image = self.transform.load(self.paths[index])
        except ValueError as error:
            failed = str(error)
        return {
            "image": None if failed else self.transform.pixels(image),
            "tokens": tokens,
            "names_class": names_class,
            "label": int(self.labels[index]),
            "index": index,
            "failed": failed,
        }


def pad_tokens(sequences):
    """Return (M, T) long, right-padded to the longest of `sequences`."""
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD_ID)


def length_buckets(lengths, batch_size, generator, window=50):
    """Return batches of captions of like length, as a list of (B,) long positions; each position stands in one batch.

    lengths:   (M,) integers, what a batch would be padded to
    generator: torch.Generator; the same state gives the same batches, and each call gives new ones
    window:    batches; captions are sorted within this many of a shuffled order, then the batches are shuffled

    A larger window pads less and mixes less. As without buckets there are ceil(M / batch_size) batches, of which one
    may be smaller.
    """
    lengths = torch.as_tensor(lengths)
    batches = []
    for rows in torch.randperm(len(lengths), generator=generator).split(window * batch_size):
        # Stable: equal lengths stay in the shuffled order.
        batches += rows[lengths[rows].argsort(stable=True)].split(batch_size)
    return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]


NO_TOKENS = torch.empty(0, 2, dtype=torch.long)  # of a batch without captions; a word to read and one to predict


def collate(items, image_size=0):
    """Put items of a CaptionDataset together into a Batch; unreadable images are left out and named.

    image_size: of a batch without images
    """
    good = [item for item in items if item["image"] is not None]
    no_images = torch.empty(0, 3, image_size, image_size, dtype=torch.uint8)
    tokens = [tokens for item in good for tokens in item["tokens"]]
    flags = [item["names_class"] for item in good]
    return Batch(
        inputs=default_collate([item["image"] for item in good]) if good else no_images,
        kind="images",
        tokens=pad_tokens(tokens) if tokens else NO_TOKENS,
        owner=torch.tensor([row for row, item in enumerate(good) for _ in item["tokens"]], dtype=torch.long),
        labels=torch.tensor([item["label"] for item in good], dtype=torch.long),
        index=torch.tensor([item["index"] for item in good], dtype=torch.long),
        names_class=torch.from_numpy(np.concatenate(flags)) if flags else torch.empty(0, dtype=torch.bool),
        failed=[item["failed"] for item in items if item["failed"]],
    )


def build_loader(dataset, *, batch_size, num_workers=0, shuffle=False, seed=0, first=0, samples=0):
    """Return a DataLoader of Batches of a CaptionDataset, from batch number `first` on, of `samples` images, 0 = all.

    The seed alone decides the order and the augmentation: any number of workers, forked or spawned, gives the same
    batches, and torch's own generator is neither read nor changed. Of several ranks each gets its rows of every batch.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator) if shuffle else torch.arange(len(dataset))
    order = order[: samples or len(order)]
    num_workers = fit_workers(num_workers, batch_size, dataset.image_size or dataset.transform.image_size)
    size = dataset.image_size or dataset.transform.image_size
    return DataLoader(
        dataset.keyed(seed),
        batch_sampler=[rows[share(len(rows))].tolist() for rows in order[first * batch_size :].split(batch_size)],
        num_workers=num_workers,
        timeout=LONGEST_WAIT if num_workers else 0,
        collate_fn=partial(collate, image_size=size),
        generator=generator,  # else the workers' seeds are drawn from torch's own
        pin_memory=torch.cuda.is_available(),
    )


CACHED_KINDS = {3: "pooled features", 4: "grid features", 5: "feature maps"}  # by dimensions, (N, W, ...)


class CachedBatches:
    """Batches of cached inputs in a new order, and with new views, each epoch.

    inputs: (N, W, ...), W views of each image: pooled features, or feature maps; tokens: Captions of the N images
    labels: (N,) long; by_caption: a row is one caption with its image (True), or one image with all its captions
    samples: rows of an epoch, drawn at random; 0 = all
    """

    def __init__(self, inputs, tokens, labels, batch_size, *, by_caption, samples=0):
        self.inputs, self.tokens, self.labels, self.batch_size = inputs, tokens, labels, batch_size
        self.by_caption, self.samples = by_caption, samples
        self.kind = CACHED_KINDS[inputs.ndim]
        self.image = torch.from_numpy(tokens.owner) if by_caption else torch.arange(len(tokens))

    def __len__(self):
        return math.ceil(self.num_rows / self.batch_size)

    @property
    def num_rows(self):
        """Rows of all batches of an epoch."""
        return min(self.samples or len(self.image), len(self.image))

    def epoch(self, seed, first=0):
        """Yield the Batches of an epoch, from number `first` on; of several ranks each gets its rows of every batch."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.arange(len(self.image))
        if self.num_rows < len(drawn):
            drawn = torch.randperm(len(drawn), generator=generator)[: self.num_rows]
        if self.by_caption:  # like lengths together, so that little padding is multiplied
            batches = length_buckets(self.tokens.ids.lengths[drawn.numpy()], self.batch_size, generator)
        else:
            batches = torch.randperm(self.num_rows, generator=generator).split(self.batch_size)
        for number, rows in enumerate(batches):
            view = torch.randint(self.inputs.shape[1], (len(rows),), generator=generator)
            if number < first:
                continue
            rows = drawn[rows]
            rows, view = rows[share(len(rows))], view[share(len(rows))]
            image = self.image[rows]
            captions = [[row] if self.by_caption else list(self.tokens.rows(row)) for row in rows.tolist()]
            captions_in_row = torch.tensor([len(group) for group in captions])
            captions = np.concatenate(captions) if captions else np.empty(0, dtype=np.int64)
            yield Batch(
                inputs=self.inputs[image, view],
                kind=self.kind,
                tokens=torch.from_numpy(self.tokens.ids.padded(captions, PAD_ID)) if len(captions) else NO_TOKENS,
                owner=torch.arange(len(rows)).repeat_interleave(captions_in_row),
                labels=self.labels[image],
                index=image,
                names_class=torch.from_numpy(self.tokens.names_class[captions]),
                failed=[],
            )


class ImageBatches:
    """Batches of augmented images with their captions, for training the whole encoder.

    samples: images of an epoch, drawn at random; 0 = all
    """

    def __init__(self, dataset, batch_size, num_workers, samples=0):
        self.dataset, self.batch_size, self.num_workers, self.samples = dataset, batch_size, num_workers, samples

    def __len__(self):
        return math.ceil(self.num_rows / self.batch_size)

    @property
    def num_rows(self):
        """Rows of all batches of an epoch, those of unreadable images among them."""
        return min(self.samples or len(self.dataset), len(self.dataset))

    def epoch(self, seed, first=0):
        """Return an iterator over the Batches of an epoch, from number `first` on."""
        loader = build_loader(
            self.dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            shuffle=True,
            seed=seed,
            first=first,
            samples=self.samples,
        )
        return start_workers(loader)


@dataclass(frozen=True)
class StageData:
    """What a stage reads.

    batches:    CachedBatches or ImageBatches of the train split
    encode:     (model, `inputs` of a batch) -> (B, E) embeddings, for attention (B, P, E)
    captions:   Captions of the images that `index` of a batch points into; labels: (N,) long, their classes
    val_inputs: cached inputs of the validation split (N, ...); None = its image files
    """

    batches: CachedBatches | ImageBatches
    encode: Callable
    captions: Captions
    labels: torch.Tensor
    val_inputs: torch.Tensor | None = None


class TrainingData:
    """The images of a run: as files, or as the cached output of the trunk, the blocks that no stage trains.

    train_set:    CaptionDataset
    val_examples: Examples of the validation split
    views:        a transform for each cached view of a train image; the first is the plain one, as in inference
    cut:          how many blocks are behind the cache
    seed:         of the augmentation
    samples:      rows of an epoch; 0 = all
    """

    def __init__(self, train_set, val_examples, views, machine, *, cut, seed, samples=0):
        self.train_set, self.val_examples, self.views, self.machine = train_set, val_examples, views, machine
        self.cut, self.seed, self.samples = cut, seed, samples
        # Computed when a stage opens, with the weights that it begins with.
        self.cache = self.val_cache = self.captions = self.labels = None

    def open(self, stage, model):
        """Return the StageData of a stage that begins with the weights of `model`."""
        encoder = model.encoder
        if stage.reads_files:
            self.cache = None  # of a backbone that is about to change
            batches = ImageBatches(self.train_set, stage.batch_size, self.machine.num_workers, self.samples)
            labels = torch.from_numpy(self.train_set.labels).long()
            normalize = self.train_set.transform.normalize

            def encode(model, pixels):
                return model.encoder(as_input(normalize(pixels), pixels.device))

            return StageData(batches, encode, self.train_set.tokens, labels)
        if self.cache is None:
            self.fill_cache(encoder)
        inputs, val_inputs = self.cache, self.val_cache
        if stage.num_blocks:

            def encode(model, maps):
                return model.encoder.embed(model.encoder.cut(stage.num_blocks)[1](maps))
        else:

            def encode(model, features):
                return model.encoder.embed(features)

            if self.cut:  # else they are pooled already
                head = encoder.eval().cut(self.cut)[1]
                inputs, val_inputs = head_views(head, inputs, self.run), self.run(head, val_inputs)
        by_caption = stage.name == "decoder"
        batches = CachedBatches(
            inputs, self.captions, self.labels, stage.batch_size, by_caption=by_caption, samples=self.samples
        )
        return StageData(batches, encode, self.captions, self.labels, val_inputs)

    def fill_cache(self, encoder):
        """Run the trunk over all views of all images; those that cannot be read are left out."""
        trunk, machine = encoder.eval().cut(self.cut)[0], self.machine
        # The smaller first: where room is needed, what was used last stays.
        paths = [example.image for example in self.val_examples]
        kept, val_views = compute_views(trunk, paths, self.views[:1], machine, self.seed, "val images")
        self.val_examples, self.val_cache = [self.val_examples[i] for i in kept], val_views[:, 0]
        kept, self.cache = compute_views(trunk, self.train_set.paths, self.views, machine, self.seed, "train images")
        self.captions = self.train_set.tokens.take(kept)
        self.labels = torch.from_numpy(self.train_set.labels).long()[kept]

    def val_embeddings(self, stage_data, model):
        """Return the embeddings (N, E) or (N, P, E) of the validation images, and the examples they belong to."""
        if stage_data.val_inputs is None:
            return self.embed_val_files(model)
        return self.run(partial(stage_data.encode, model), stage_data.val_inputs), self.val_examples

    def embed_val_files(self, model):
        """As val_embeddings, from the image files."""
        images = ImageDataset([example.image for example in self.val_examples], self.views[0])
        kept, embeddings = encode_together(model.encoder, images, range(len(images)), self.machine)
        return embeddings, [self.val_examples[i] for i in kept]

    def embed_val(self, model, *, from_files):
        """As val_embeddings, by the model of any epoch; from_files: some stage trained the blocks behind the cache."""
        if self.cache is None or from_files:
            return self.embed_val_files(model)
        head = model.encoder.eval().cut(self.cut)[1]
        return self.run(lambda inputs: model.encoder.embed(head(inputs)), self.val_cache), self.val_examples

    @torch.inference_mode()
    def run(self, network, inputs, kind=torch.float32, batch_size=256):
        """Run `network` over cached inputs (N, ...): (N, ...) of the type `kind` on the CPU. All ranks share it."""
        device, chunks = self.machine.device, inputs.split(batch_size)
        own = chunks[share(len(chunks))]

        def outputs():
            for chunk in own:
                with autocast(device, self.machine.dtype):
                    yield network(as_input(chunk, device))

        found = gather_list(stack_batches(outputs(), sum(map(len, own)), kind))
        return found[0] if len(found) == 1 else torch.cat(found)


def main(config):
    """Save a picture of one augmented batch with its captions."""
    from model import CONFIG as MODEL  # as edited in model.py, which train.py reads too
    from model import native_image_size

    config = cli.settings_of(config, "data")
    path = Path("graphs/batch.png")
    plots.check_figure(path)
    vocabulary = load_vocabulary(config["vocab_path"], data_flags(config))
    examples = load_dataset(config["data_dir"], "train", **picture_settings(config)).splits["train"]
    weights = MODEL["encoder_weights"]
    native_size = native_image_size(weights)
    size = pick_image_size(config["image_size"], native_size)
    transform = TrainTransform(size, **{key: config[key] for key in AUGMENTATION})
    dataset = CaptionDataset(
        examples, vocabulary, transform, captions_per_image=config["captions_per_image"], image_size=size
    )
    loader = build_loader(
        dataset,
        batch_size=min(config["batch_size"] or LARGE_BATCH, len(examples)),
        num_workers=config["num_workers"],
        shuffle=True,
        seed=config["seed"],
    )
    batch = next(start_workers(loader))
    for line in batch.failed:
        print(f"warning: {line}")
    if not len(batch.index):
        raise ValueError(f"{config['data_dir']}: none of the {len(batch.failed)} images of a batch can be read")
    reason = f"the size for encoder_weights {weights}"
    if config["image_size"]:
        reason = "data.image_size"
    elif not native_size:
        reason = f"the default, as the size of encoder_weights {weights} is not known here"
    print(f"train images   {len(examples):,} with {sum(len(e.captions) for e in examples):,} captions")
    print(f"image size     {size} pixels a side: {reason}")
    print(f"one batch      images {tuple(batch.inputs.shape)}, tokens {tuple(batch.tokens.shape)}")
    shown = batch.inputs[:12]
    first_caption = [(batch.owner == row).nonzero()[0, 0] for row in range(len(shown))]
    plots.caption_grid(
        [v2.functional.to_pil_image(image) for image in shown],
        [[(vocabulary.decode(batch.tokens[row].tolist()), "caption")] for row in first_caption],
        path,
        columns=4,
        title=f"One augmented batch of the train split at {size} px: {reason}",
    )
    print(f"wrote {path}; next: python model.py")


if __name__ == "__main__":
    cli.run(main, {"data": LIMITS | TYPES}, data=CONFIG)

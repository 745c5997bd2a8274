"""Script 4: train the captioner.

    python train.py                                                    # pictograms, on the shipped encoder, frozen
    python train.py --data.data_dir data/birds --data.vocab_path vocab_5.pkl --model.encoder_weights imagenet
    python train.py --train.finetune_epochs 6 --train.self_critical_epochs 4    # all stages
    python train.py --train.resume                                     # go on after an interruption
    python train.py --train.freeze_encoder false --model.encoder_weights none   # everything, from random weights

Reads   images and captions, the vocabulary, the encoder's weights
Writes  checkpoints/<run>.safetensors   the best epoch on the validation split, by free-running CIDEr-D, or by what
                                        stage 3 rewards, with class_reward: CIDEr-D + class_reward * class accuracy
        checkpoints/<run>_last.pt       what --train.resume reads
        runs/<run>/history.csv          one row per epoch; WandB's files beside it
        runs/features/                  what a frozen encoder computed, to be read again; at most 8 GB
        graphs/{tl,vl,va}_<run>.png     train loss, validation loss, validation accuracy

Stages, one after the other; each goes on from the end of the one before, or from the best epoch where that stopped
early; the checkpoint is the best epoch of all:
  1 decoder        a frozen encoder computes each image's features once, in a few augmented views, and the decoder
                   trains from them, which is what makes a CPU enough; or `everything`, with freeze_encoder false
  2 finetune       the encoder's last blocks too, from the cached output of the blocks before them
  3 self-critical  rewarded with the CIDEr-D of the captions that the model says itself
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data_loader
import model as model_script
from captioning import cli
from captioning.data.annotations import dataset_name, fingerprint, load_aliases, load_examples
from captioning.data.images import check_unreadable
from captioning.data.sequences import PAD_ID
from captioning.data.tokenizer import tokenize
from captioning.deploy.downloads import fetch_model
from captioning.evaluation import FEWEST_FOR_CIDER, decode_embeddings, encode_images, teacher_forced
from captioning.files import check_file, check_folder
from captioning.runtime import (
    TRACKER_MODES,
    Tracker,
    autocast,
    flush_denormals,
    pick_device,
    pick_precision,
    pick_workers,
    restore_random_state,
    seed_everything,
    versions,
)
from captioning.scores.grounding import Grounder, remember_named
from captioning.scores.recipes import caption_scores
from captioning.search.options import SETTINGS, SearchOptions
from captioning.training.features import as_input, compute_views
from captioning.training.history import Record, best_path, file_digest, last_path, load_run
from captioning.training.losses import SelfCritical, attention_penalty, mix_guesses, word_detection_loss
from data_loader import CachedBatches, ImageBatches
from model import ENCODERS, image_vector, kept_weights, start_model, training_heads
from vocab import count_words, coverage, load_vocabulary

CONFIG = {
    # the run
    "run": "",  # name of what it writes; "" = mobile or resnet, by the encoder
    "resume": False,  # go on from checkpoints/<run>_last.pt
    "init": "",  # one of our checkpoints (path, https://..., hf://...) that all the model starts from; "" = none
    "seed": 0,
    "device": "",  # cuda | mps | cpu; "" = the best there is
    # stage 1: the decoder on a frozen encoder
    "epochs": 20,
    "lr": 1e-3,  # peak of the schedule
    "freeze_encoder": True,  # features once, then the decoder alone; false = train everything
    "feature_views": 4,  # augmented views of each image that are computed once
    # stage 2: the encoder's last blocks too
    "finetune_epochs": 0,
    "finetune_blocks": 5,  # 1..19 for mobilenet_v2, 1..9 for resnet18
    "finetune_batch_size": 32,  # images with all their captions
    "finetune_lr": 5e-4,  # peak for the decoder
    "encoder_lr": 2e-4,  # peak for the blocks
    # stage 3: rewarded with the CIDEr-D of sampled captions; beam search gains the most from it
    "self_critical_epochs": 0,
    "self_critical_batch_size": 64,  # images
    "self_critical_samples": 5,  # captions drawn for each image
    "self_critical_lr": 2e-4,
    "class_reward": 0.0,  # added to the CIDEr-D of a caption that names its image's class, of an epoch too; 0 = none
    # optimisation
    "warmup": 0.05,  # share of a stage's steps in which the rate rises; then it falls as a cosine
    "weight_decay": 0.01,
    "grad_clip": 5.0,  # largest norm of the gradient
    "accumulate": 1,  # batches whose gradients are averaged for a step
    "ema": 0.99,  # decay of an average of the weights, which is validated and saved; 0 = the weights themselves
    "scheduled_sampling": 0.0,  # share of input words that the model's own guesses replace, 0..1
    "label_smoothing": 0.1,
    "attention_penalty": 0.1,  # weight of what keeps attention from staying at a few places; for decoder attention
    "class_emphasis": 2.0,  # captions that name their image's class weigh 1 + this, the others 1
    "class_loss": 1.0,  # weight of an auxiliary class loss on the image embedding; 0 = none
    "word_loss": 0.0,  # weight of an auxiliary loss that detects the captions' words in the embedding; 0 = none
    "patience": 8,  # epochs without a better validation score before stopping; 0 = never stop early
    "precision": "auto",  # auto | float32 | bfloat16 | float16 (CUDA)
    "compile": False,  # torch.compile the encoder where it reads image files: a minute's wait, then faster steps
    # validation
    "beam_size": 1,
    "consensus": SETTINGS["consensus"],  # with more than one beam, as captioning/search/options.py tells
    "max_len": 30,  # words, <end> included
    # results
    "half": False,  # store the checkpoint's weights as float16, to ship it
    "wandb": "auto",  # online when logged in, else offline | online | offline | off
    "wandb_project": "mobilenet-captioning",
}

LIMITS = {
    "seed": (0, 2**32 - 1),
    "epochs": (0, 100_000),
    "lr": (1e-12, 100),
    "feature_views": (1, 64),
    "finetune_epochs": (0, 100_000),
    "finetune_blocks": (1, 19),
    "finetune_batch_size": (2, 65536),
    "finetune_lr": (0, 100),
    "encoder_lr": (0, 100),
    "self_critical_epochs": (0, 100_000),
    "self_critical_batch_size": (2, 65536),
    "self_critical_samples": (1, 100),
    "self_critical_lr": (0, 100),
    "class_reward": (0, 100),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "grad_clip": (1e-9, 1e9),
    "accumulate": (1, 1024),
    "ema": (0, 0.99999),
    "scheduled_sampling": (0, 1),
    "label_smoothing": (0, 0.99),
    "attention_penalty": (0, 1000),
    "class_emphasis": (0, 1000),
    "class_loss": (0, 1000),
    "word_loss": (0, 1000),
    "patience": (0, 100_000),
    "beam_size": (1, 100),
    "consensus": (0, 10),
    "max_len": (1, 200),
}
RATES = {  # stage -> the settings of its rate
    "decoder": ["--train.lr"],
    "everything": ["--train.lr"],
    "finetune": ["--train.finetune_lr", "--train.encoder_lr"],
    "self-critical": ["--train.self_critical_lr"],
}
LEAST_COVERAGE = 0.5  # of the train captions' running words; a vocabulary of other data knows fewer


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    name:       decoder | everything | finetune | self-critical
    epochs:     the most it takes
    lr:         peak rate of the decoder and the embedding
    encoder_lr: peak rate of the encoder's blocks that train; 0 = the backbone is frozen
    """

    name: str
    epochs: int
    lr: float
    encoder_lr: float


def plan_stages(options):
    """Return the Stages of a run. Raises ValueError if they contradict each other, or there is none."""
    if options["freeze_encoder"]:
        first = Stage("decoder", options["epochs"], options["lr"], 0.0)
    else:
        first = Stage("everything", options["epochs"], options["lr"], options["lr"])
        if options["finetune_epochs"]:
            raise ValueError(
                "train.finetune_epochs: freeze_encoder false trains the whole encoder already; set it to 0"
            )
    stages = [
        first,
        Stage("finetune", options["finetune_epochs"], options["finetune_lr"], options["encoder_lr"]),
        Stage("self-critical", options["self_critical_epochs"], options["self_critical_lr"], 0.0),
    ]
    stages = [stage for stage in stages if stage.epochs]
    if not stages:
        raise ValueError("train.epochs: got 0, and no stage after it has epochs; nothing would be trained")
    return stages


def build_optimizer(model, lr, weight_decay, encoder_lr=0.0):
    """Return AdamW; the backbone has a rate of its own, and biases and normalisation are not decayed."""
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = encoder_lr if name.startswith("encoder.backbone.") else lr
            groups[rate, weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    groups = [{"params": g, "lr": rate, "weight_decay": decay} for (rate, decay), g in groups.items()]
    return torch.optim.AdamW(groups, fused=True)  # a step in one pass over the weights: five times as fast on a CPU


def build_scheduler(optimizer, num_steps, warmup):
    """Return a schedule per step: linear warm-up over a share of `num_steps`, then a cosine down to 0."""
    rise = max(1, int(warmup * num_steps))

    def rate(step):
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, num_steps - rise))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def moving_average(decay):
    """Return what AveragedModel averages with: an exponential average that at first looks back less far.

    With `decay` alone a run of fewer than 1 / (1 - decay) steps would hardly leave the weights that it began with. The
    cap on it, (1 + steps) / (10 + steps), is that of TensorFlow's ExponentialMovingAverage.
    """

    def update(averaged, current, num_averaged):
        steps = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, num_averaged)

    return update


def caption_loss(model, embeddings, batch, config):
    """Return (what is minimised, {"train_loss": cross-entropy in nats per token}) of a batch on the device.

    embeddings: (B, E), one a row of the batch; for attention (B, P, E)

    What is minimised is smoothed and weighted, and has the auxiliary losses added; what is measured is not.
    """
    inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
    images = embeddings[batch.owner]  # (M, E)
    if config["scheduled_sampling"]:
        with torch.no_grad():
            guesses = model.decoder(images, inputs)
        inputs = mix_guesses(guesses, inputs, config["scheduled_sampling"])
    penalty = 0.0
    if model.decoder.has_attention:
        logits, attention = model.decoder.attend(images, inputs)
        penalty = config["attention_penalty"] * attention_penalty(attention, targets != PAD_ID)
    else:
        logits = model.decoder(images, inputs)
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    smoothing = {"ignore_index": PAD_ID, "label_smoothing": config["label_smoothing"]}
    if config["class_emphasis"]:
        weight = 1 + config["class_emphasis"] * batch.names_class.float()
        weight = weight.repeat_interleave(inputs.shape[1]) * (targets != PAD_ID)
        loss = (F.cross_entropy(logits, targets, reduction="none", **smoothing) * weight).sum() / weight.sum()
    else:
        loss = F.cross_entropy(logits, targets, **smoothing)
    measured = F.cross_entropy(logits.detach(), targets, ignore_index=PAD_ID)
    objective = loss + penalty
    if config["class_loss"] and (batch.labels >= 0).any():
        classes = model.classifier(image_vector(embeddings)).float()
        objective = objective + config["class_loss"] * F.cross_entropy(classes, batch.labels, ignore_index=-1)
    if config["word_loss"]:
        words = model.word_detector(image_vector(embeddings)).float()
        objective = objective + config["word_loss"] * word_detection_loss(words, batch.tokens, batch.owner)
    return objective, {"train_loss": measured.item()}


def self_critical_loss(model, embeddings, batch, critic):
    """Return (what is minimised, {"train_loss" as in caption_loss, "reward": mean CIDEr-D of the samples})."""
    objective, reward = critic.loss(model, embeddings, batch.index)
    with torch.no_grad():
        logits = model.decoder(embeddings[batch.owner], batch.tokens[:, :-1]).flatten(0, 1).float()
        loss = F.cross_entropy(logits, batch.tokens[:, 1:].flatten(), ignore_index=PAD_ID)
    return objective, {"train_loss": loss.item(), "reward": reward}


def train_one_epoch(
    stage, source, model, optimizer, scheduler, scaler, averaged=None, *, config, device, dtype, seed, bar
):
    """Train over the train split once.

    averaged: an AveragedModel that follows the weights, or None
    returns:  ({name: mean over tokens} of what the stage's loss measures, rows of the batches a second, error lines)
    Raises ValueError if the loss is not finite.
    """
    model.train_mode(stage.name)
    totals, count, rows, failed, pending, began = Counter(), 0, 0, [], False, time.perf_counter()
    accumulate = config["accumulate"]
    rest = len(source.batches) % accumulate  # batches of the last group, where it is smaller
    with tqdm(desc=bar, unit="row", leave=False) as progress:  # closed before an error line is printed
        for number, batch in enumerate(source.batches.epoch(seed), start=1):
            failed += batch.failed
            progress.update(len(batch.index))
            if len(batch.index) > 1:  # BatchNorm has no statistics of one row
                batch = batch.to(device)
                with autocast(device, dtype):
                    embeddings = source.encode(model, as_input(batch.inputs, device))
                    objective, measured = source.loss(model, embeddings, batch)
                if not torch.isfinite(objective):
                    rates = " and ".join(RATES[stage.name])
                    raise ValueError(f"{stage.name}: the loss became {objective.item()}; lower {rates}")
                size = rest if number > len(source.batches) - rest else accumulate
                scaler.scale(objective / size).backward()
                num_tokens = int((batch.tokens[:, 1:] != PAD_ID).sum())
                totals.update({name: value * num_tokens for name, value in measured.items()})
                count, rows, pending = count + num_tokens, rows + len(batch.index), True
            if number % accumulate == 0 or number == len(source.batches):
                if pending:
                    scaler.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(model.parameters(), config["grad_clip"])
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                    if averaged:
                        averaged.update_parameters(model)
                scheduler.step()  # once a group, skipped or not, so that it ends where it was planned to
                pending = False
    if not count:
        raise ValueError("training: no batch of two images or more; the train split or --data.batch_size is too small")
    means = {name: total / count for name, total in totals.items()}
    return means, rows / (time.perf_counter() - began), failed


def validate(model, embeddings, examples, vocabulary, grounder, options):
    """Score the model on image embeddings (N, E): teacher-forced loss, and free-running captions.

    options: SearchOptions
    returns: {"val_loss", "token_accuracy", "bleu4", "cider_d"} and, with classes, "class_accuracy"
    """
    tokens = [[torch.tensor(vocabulary.encode(text)) for text in example.captions] for example in examples]
    forced = teacher_forced(model, embeddings, tokens, vocabulary.pad_id)
    captions = [caption for caption, _ in decode_embeddings(model, embeddings, vocabulary, options)]
    references = [[tokenize(text) for text in example.captions] for example in examples]
    scores = caption_scores([caption.split() for caption in captions], references)
    result = {"val_loss": forced["loss"], "token_accuracy": forced["token_accuracy"]}
    result |= {"bleu4": scores["bleu4"], "cider_d": scores["cider_d"]}
    # An image without a class is neither right nor wrong.
    pairs = [(caption, e.label) for caption, e in zip(captions, examples, strict=True) if e.label]
    if grounder and pairs:
        result["class_accuracy"] = sum(grounder.name(caption) == label for caption, label in pairs) / len(pairs)
    return result


def load_data(data_dir, vocabulary):
    """Return the train examples, the val examples and the classes of a dataset that fits the vocabulary."""
    train_examples, val_examples = load_examples(data_dir, "train"), load_examples(data_dir, "val")
    counts, _ = count_words(caption for example in train_examples for caption in example.captions)
    known = coverage(counts, vocabulary)
    if known < LEAST_COVERAGE:
        raise ValueError(
            f"data.vocab_path: the vocabulary knows {known:.0%} of the words of {data_dir}; "
            f"build its own: python vocab.py --data_dir {data_dir}"
        )
    return train_examples, val_examples, sorted({example.label for example in train_examples} - {""})


def check_options(options, data):
    """Raise ValueError for a setting that could only fail after the features are computed, naming its key."""
    if data["batch_size"] < 2:
        raise ValueError(f"--data.batch_size: got {data['batch_size']}, BatchNorm needs 2 or more")
    if options["wandb"] not in TRACKER_MODES:
        raise ValueError(f"--train.wandb: got {options['wandb']!r}, allowed are {', '.join(TRACKER_MODES)}")
    if data["captions_per_image"] and options["freeze_encoder"]:
        raise ValueError("--data.captions_per_image: a frozen encoder trains on all captions; set it to 0")
    if options["run"] and not re.fullmatch(r"\w[\w.-]*", options["run"]):
        raise ValueError(f"--train.run: got {options['run']!r}, allowed are letters, digits, and . _ - within")


def drop_class_terms(options, classes, data_dir):
    """Set what needs classes to 0, and say so, where the data have none."""
    keys = [key for key in ("class_loss", "class_emphasis", "class_reward") if options[key]]
    if keys and not classes:
        options.update(dict.fromkeys(keys, 0.0))
        print(f"note: {data_dir} has no classes, so train.{', train.'.join(keys)} are left out")


def describe_run(config, vocabulary, classes, train_examples):
    """Return what every checkpoint of a run holds beside its weights, history and best."""
    data = {"name": dataset_name(config["data"]["data_dir"]), "fingerprint": fingerprint(train_examples)}
    transform = {"image_size": config["data"]["image_size"], "mean": data_loader.MEAN, "std": data_loader.STD}
    return {
        "config": config,
        "vocab": vocabulary.itos,
        "transform": transform,
        "classes": classes,
        "versions": versions(),
        "data": data,
    }


@dataclass(frozen=True)
class Source:
    """What a stage reads.

    batches: CachedBatches or ImageBatches of the train split
    encode:  (model, images or cached inputs of a batch) -> (B, E) embeddings
    loss:    (model, embeddings, batch) -> (what is minimised, {name: what is measured})
    val:     cached inputs of the validation split (N, ...); None = its image files
    """

    batches: object
    encode: Callable
    loss: Callable
    val: torch.Tensor | None = None


class Sources:
    """What the stages of a run read: image files, or what a frozen trunk made of them once.

    The trunk is the part of the backbone that no stage trains. It runs over `feature_views` views of each train image,
    the first of them the plain one, which is what validation and users show the model.
    """

    def __init__(self, encoder, stages, train_set, val_examples, vocabulary, named, transforms, loading, config):
        """named: of grounding.remember_named; transforms: (augmenting, plain); loading: device, dtype and num_workers

        config: train and data
        """
        self.options, self.data = config["train"], config["data"]
        self.vocabulary, self.named = vocabulary, named
        self.train_set, self.val_examples, self.loading = train_set, val_examples, loading
        self.views_of, self.plain = (
            [transforms[1]] + [transforms[0]] * (self.options["feature_views"] - 1),
            transforms[1],
        )
        whole = self.options["finetune_blocks"] == len(encoder.blocks())
        self.from_files = {"everything"} | ({"finetune"} if whole else set())
        finetunes = any(stage.name == "finetune" for stage in stages)
        self.cut = self.options["finetune_blocks"] if finetunes and not whole else 0
        self.views = None  # computed when a stage opens, which knows the weights that it begins with

    def compute(self, encoder):
        """Run the trunk over all views of all images."""
        trunk, seed = encoder.eval().cut(self.cut)[0], self.options["seed"]
        kept, self.views = compute_views(trunk, self.train_set.paths, self.views_of, self.loading, seed, "train images")
        self.tokens = self.train_set.tokens.take(kept.tolist())
        self.labels = torch.from_numpy(self.train_set.labels).long()[kept]
        kept, val_views = compute_views(
            trunk, [e.image for e in self.val_examples], [self.plain], self.loading, seed, "val images"
        )
        self.val_examples, self.val_views = [self.val_examples[i] for i in kept], val_views[:, 0]

    def open(self, stage, model):
        """Return the Source of a stage that begins with the weights of `model`."""
        options, loss = self.options, partial(caption_loss, config=self.options)
        if stage.name in self.from_files:
            self.views = None  # of a backbone that is about to change
            size = self.data["batch_size"] if stage.name == "everything" else options["finetune_batch_size"]
            batches = ImageBatches(self.train_set, size, self.data["num_workers"])
            return Source(batches, lambda model, images: model.encoder(images), loss)
        if self.views is None:
            self.compute(model.encoder)
        cut = self.cut
        if stage.name == "finetune":
            batches = CachedBatches(
                self.views, self.tokens, self.labels, options["finetune_batch_size"], by_caption=False
            )
            return Source(batches, lambda m, maps: m.encoder.embed(m.encoder.cut(cut)[1](maps)), loss, self.val_views)
        head = model.encoder.eval().cut(cut)[1]
        features, val = self.views, self.val_views
        if cut:  # else they are pooled already
            features = self.run(head, features.flatten(0, 1)).unflatten(0, features.shape[:2])
            val = self.run(head, val)
        size = self.data["batch_size"]
        if stage.name == "self-critical":
            size = options["self_critical_batch_size"]
            critic = SelfCritical(
                self.tokens,
                self.vocabulary,
                num_samples=options["self_critical_samples"],
                max_len=options["max_len"],
                class_reward=options["class_reward"],
                named=self.named,
                labels=self.labels,
            )
            loss = partial(self_critical_loss, critic=critic)
        batches = CachedBatches(features, self.tokens, self.labels, size, by_caption=stage.name == "decoder")
        return Source(batches, lambda model, features: model.encoder.embed(features), loss, val)

    def val_embeddings(self, source, model):
        """Return the embeddings (N, E) of the validation images, and the examples they belong to."""
        if source.val is None:
            paths = [example.image for example in self.val_examples]
            kept, embeddings = encode_images(model.encoder, paths, self.plain, **self.loading)
            return embeddings, [self.val_examples[i] for i in kept]
        return self.run(partial(source.encode, model), source.val), self.val_examples

    @torch.inference_mode()
    def run(self, network, inputs, batch_size=256):
        """Run `network` over cached inputs (N, ...): (N, D) float32 on the CPU."""
        device, outputs = self.loading["device"], []
        for chunk in inputs.split(batch_size):
            with autocast(device, self.loading["dtype"]):
                outputs.append(network(as_input(chunk, device)).float().cpu())
        return torch.cat(outputs)


def train_stage(number, stage, model, sources, record, score, resumed, *, options, device, dtype):
    """Train one stage of a run to its end, and validate and save after every epoch.

    number:  of the stage in the run
    score:   function (model, Source) -> {name: validation score}
    resumed: what --train.resume read, {} = nothing; it goes on from there if it stopped within this stage
    """
    done = sum(row["stage"] == stage.name for row in record.history)
    if not done:
        # Each stage has random numbers of its own, so that resuming between two of them changes nothing.
        seed_everything(options["seed"] + number)
    blocks = model.encoder.blocks()
    num_trained = {"everything": len(blocks), "finetune": options["finetune_blocks"]}.get(stage.name, 0)
    for index, block in enumerate(blocks):
        block.requires_grad_(index >= len(blocks) - num_trained)
    source = sources.open(stage, model)
    optimizer = build_optimizer(model, stage.lr, options["weight_decay"], stage.encoder_lr)
    num_steps = stage.epochs * math.ceil(len(source.batches) / options["accumulate"])
    parts = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": build_scheduler(optimizer, num_steps, options["warmup"]),
        "scaler": torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
    }
    if options["ema"]:
        parts["averaged"] = AveragedModel(model, multi_avg_fn=moving_average(options["ema"]), use_buffers=True)
    if done:
        for name, part in parts.items():
            part.load_state_dict(resumed[name])
        restore_random_state(resumed["random"])

    for epoch in range(done, stage.epochs):
        began = time.perf_counter()
        seed = options["seed"] * 10_000 + len(record.history)
        bar = f"{stage.name} {epoch + 1}/{stage.epochs}"
        means, rate, failed = train_one_epoch(
            stage, source, **parts, config=options, device=device, dtype=dtype, seed=seed, bar=bar
        )
        check_unreadable(failed, len(sources.train_set), sources.data["data_dir"])
        judged = (parts["averaged"].module if options["ema"] else model).eval()
        scores = score(judged, source)
        row = {"epoch": len(record.history) + 1, "stage": stage.name, **means, **scores}
        row |= {"lr": optimizer.param_groups[-1]["lr"], "seconds": time.perf_counter() - began}
        improved = record.add(row, kept_weights(judged), half=options["half"])
        since_best = record.epochs_since_best(epoch + 1)
        stopped = epoch + 1 < stage.epochs and 0 < options["patience"] <= since_best
        finished = epoch + 1 == stage.epochs or stopped
        if finished:
            # By CIDEr-D epochs near each other differ by chance, and the end of a schedule has learned the most: the
            # best of them would often be one that has hardly begun. A stage that got worse for long goes back.
            model.load_state_dict(record.best_weights | training_heads(model) if stopped else judged.state_dict())
        record.save_last(parts, number + finished)
        record.show()
        shown = "  ".join(f"{key} {row[key]:.3f}" for key in (*means, *scores))
        rate = f"{rate:,.0f} {'captions' if stage.name == 'decoder' else 'images'}/s"
        print(f"{stage.name} {epoch + 1:>3}  {shown}  {rate}  {row['seconds']:.0f} s{'  *' if improved else ''}")
        if stopped:
            print(f"{stage.name} stopped: no better {record.metric} for {since_best} epochs")
            break


def main(config):
    """Train stage by stage, validate after every epoch, keep the best and the last."""
    flush_denormals()
    options, data, model_config = config["train"], config["data"], config["model"]
    device = pick_device(options["device"])
    dtype = pick_precision(options["precision"], device)
    check_options(options, data)
    decoding = SearchOptions(**{name: options[name] for name in ("beam_size", "max_len", "consensus")})
    stages = plan_stages(options)
    encoder = ENCODERS.get(model_config["encoder"])
    run = options["run"] or (encoder.run_name if encoder else "")
    start = options["init"] or model_config["encoder_weights"]
    if Path(start).resolve() == best_path(run).resolve():
        key = "train.init" if options["init"] else "model.encoder_weights"
        raise ValueError(f"--{key}: {start} is what this run writes; give another --train.run")
    check_file(best_path(run))
    check_file(last_path(run))
    for folder in ("graphs", f"runs/{run}"):
        check_folder(folder)
    seed_everything(options["seed"])

    # Data and model
    vocabulary = load_vocabulary(data["vocab_path"])
    train_examples, val_examples, classes = load_data(data["data_dir"], vocabulary)
    drop_class_terms(options, classes, data["data_dir"])
    model, native_size = start_model(vocabulary, classes, options, model_config)
    num_blocks = len(model.encoder.blocks())
    if not 1 <= options["finetune_blocks"] <= num_blocks:
        got = f"got {options['finetune_blocks']}, allowed is 1 to {num_blocks}"
        raise ValueError(f"train.finetune_blocks: {got} for {model_config['encoder']}")
    size = data["image_size"] = data["image_size"] or native_size or data_loader.DEFAULT_IMAGE_SIZE
    if options["precision"] == "auto" and device.type == "cpu" and stages[0].name == "everything" and size < 96:
        dtype = torch.float32  # so little work a layer that converting costs more than it saves: 200 ms, not 258
    fixed = describe_run(config, vocabulary, classes, train_examples)
    free = {"resume", "device", "half", "wandb", "wandb_project", "data_dir", "vocab_path", "num_workers"}
    identity = {f"{part}.{key}": v for part, keys in config.items() for key, v in keys.items() if key not in free}
    identity |= {"vocabulary": vocabulary.itos, "data": fixed["data"], "validation data": fingerprint(val_examples)}
    identity["first weights' sha256"] = file_digest(fetch_model(start))
    resumed = load_run(last_path(run), identity) if options["resume"] else {}
    if resumed:  # before anything is computed with the encoder
        model.load_state_dict(resumed["model"])
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)
    if options["compile"]:
        model.encoder.backbone.compile()

    # What it reads
    transforms = (
        data_loader.train_transform(size, **{key: data[key] for key in data_loader.AUGMENTATION}),
        data_loader.eval_transform(size),
    )
    # Of all splits: val may have classes that train lacks, and aliases may belong to them.
    labels = sorted({example.label for example in load_examples(data["data_dir"])} - {""}) if classes else []
    grounder = Grounder(labels, load_aliases(data["data_dir"])) if classes else None
    named = remember_named(grounder, vocabulary, classes) if classes else None
    train_set = data_loader.CaptionDataset(
        train_examples,
        vocabulary,
        transforms[0],
        classes=classes,
        grounder=grounder,
        captions_per_image=data["captions_per_image"],
        image_size=size,
    )
    del train_examples  # the batches hold all that an epoch needs, and much smaller
    loading = {"device": device, "dtype": dtype, "num_workers": pick_workers(data["num_workers"], device)}
    sources = Sources(model.encoder, stages, train_set, val_examples, vocabulary, named, transforms, loading, config)

    # What it writes
    language = "cider_d" if len(val_examples) >= FEWEST_FOR_CIDER else "bleu4"
    metric = "val_reward" if options["class_reward"] else language
    tracker = Tracker(options["wandb"], project=options["wandb_project"], run=run, folder=f"runs/{run}", config=config)
    record = Record(run, metric, tracker, identity, fixed)
    if resumed:
        record.history, record.best = resumed["history"], resumed["best"]
        record.best_weights = resumed["best_weights"]
        record.save_best(half=options["half"])  # a run of this name that began later may have written its own
        print(f"going on with {record.last_path}, after epoch {len(record.history)}")
    print(
        f"{run}: {len(train_set):,} train and {len(val_examples):,} val images at {size} px, "
        f"{f'{len(classes)} classes' if classes else 'no classes'}, {len(vocabulary)} words"
    )
    print(f"on {device} in {str(dtype).removeprefix('torch.')}; Ctrl-C keeps {record.last_path} for --train.resume")

    def score(judged, source):
        embeddings, seen = sources.val_embeddings(source, judged)
        scores = validate(judged, embeddings, seen, vocabulary, grounder, decoding)
        if options["class_reward"]:  # else an epoch that names fewer classes could be the best of a run that should
            scores["val_reward"] = scores[language] + options["class_reward"] * scores.get("class_accuracy", 0.0)
        return scores

    for number, stage in enumerate(stages):
        if number >= resumed.get("stage", 0):
            train_stage(
                number, stage, model, sources, record, score, resumed, options=options, device=device, dtype=dtype
            )
    tracker.finish()
    best = record.best
    print(f"best epoch {best['epoch']}: {best['metric']} {best['value']:.3f} on the validation split")
    print(f"wrote {record.best_path}, {record.last_path}, runs/{run}/history.csv and graphs/{{tl,vl,va}}_{run}.png")
    print(f"next: python analysis_report.py --model_path {record.best_path} --data_dir {data['data_dir']}")


if __name__ == "__main__":
    limits = {"train": LIMITS, "data": data_loader.LIMITS, "model": model_script.LIMITS}
    cli.run(main, limits, train=CONFIG, data=data_loader.CONFIG, model=model_script.CONFIG)

"""Script 4: train the captioner.

    python train.py                                                    # pictograms, on the shipped encoder, frozen
    python train.py --data.data_dir data/birds --data.vocab_path vocab_5.pkl --model.encoder_weights imagenet
    python train.py --train.recipe best                                # all stages
    python train.py --train.init photos --data.data_dir data/birds --data.vocab_path vocab_5.pkl    # from a model
    python train.py --train.resume                                     # go on after an interruption
    torchrun --standalone --nproc-per-node=2 train.py                  # several processes, see docs/scale.md
    python train.py --train.freeze_encoder false --model.encoder_weights none   # everything, from random weights

Reads   images and captions, the vocabulary, the encoder's weights
Writes  checkpoints/<run>.safetensors   the epoch with the highest validation CIDEr-D + class_reward * class accuracy;
                                        with fewer than 20 validation images, with the lowest validation loss
        checkpoints/<run>_last.pt       what --train.resume reads, after every epoch and every save_minutes
        runs/<run>/history.csv          one row per epoch; WandB's files beside it
        runs/features/                  cached features of a frozen encoder, at most 8 GB unless one run needs more
        graphs/{tl,vl,va}_<run>.png     train loss, validation loss, validation accuracy

The stages follow one another. Each begins with the last weights of the one before, or with the best epoch so far if
that one stopped early. The checkpoint is the best epoch of all stages:
  1 decoder        the decoder alone. The frozen encoder computes the features of each image once, in a few augmented
                   views, so that a CPU is enough. With freeze_encoder false this stage is `everything`
  2 finetune       the encoder's last blocks too, from the cached output of the blocks before them
  3 self-critical  policy gradient; the reward is the CIDEr-D of captions that the model samples
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "torch", "tyro")

import itertools
import re
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torch import nn

import data_loader
import model as model_script
from captioning import cli
from captioning.cli import counted
from captioning.data.annotations import PICTURE_SETTINGS, data_flags, dataset_name, load_dataset, picture_settings
from captioning.data.examples import CaptionTexts
from captioning.data.images import check_unreadable
from captioning.data.sequences import PAD_ID
from captioning.data.tokenizer import tokenizer_name
from captioning.deploy.downloads import CHECKPOINTS, SHIPPED, fetch_model
from captioning.evaluation import FEWEST_FOR_CIDER
from captioning.files import check_file, check_folder, file_digest, resolved
from captioning.progress import Progress
from captioning.runtime import (
    TRACKER_MODES,
    Machine,
    Tracker,
    autocast,
    flush_denormals,
    from_first,
    gather_list,
    is_first,
    join_ranks,
    launch,
    mix_seed,
    num_ranks,
    pick_device,
    pick_precision,
    pick_workers,
    restore_random_state,
    seed_everything,
    sum_gradients,
    total,
    total_counts,
    versions,
    was_restarted,
    whole_batch_norm,
)
from captioning.scores.grounding import Grounder, caption_classifier, naming_share, naming_warning
from captioning.scores.variety import one_for_all, sameness
from captioning.search.options import SamplingOptions, SearchOptions
from captioning.training.features import FEATURES_DIR, as_input, learn_familiarity
from captioning.training.history import Record, best_path, check_identity, hold_run, last_path, load_run
from captioning.training.losses import CaptionLoss, LossTerms, SelfCritical, check_baseline
from captioning.training.optimisation import Tally, start_run
from captioning.training.presets import Task, is_unset, pick_batch_size, preset
from captioning.training.stages import plan_stages
from captioning.training.validation import Validation
from data_loader import TrainingData
from model import ENCODERS, find_encoder, kept_weights, start_model, training_heads
from vocab import CONFIG as VOCAB_CONFIG
from vocab import count_words, coverage, length_warning, load_vocabulary

CONFIG = {
    # the run
    "run": "",  # name of the files that are written; "" = mobile or resnet, by the encoder
    "resume": False,  # continue the run from checkpoints/<run>_last.pt
    "init": "",  # checkpoint (path, photos, https://..., hf://...) that the whole model starts from; "" = none
    "seed": 0,  # of initialisation, order, augmentation, dropout and sampling
    "device": "",  # cuda | mps | cpu; "" = the first of these that is available
    "recipe": "quick",  # quick: stage 1 | full: stages 1, 2 | best: all; it decides what is "by the recipe" below
    # stage 1: train the decoder on a frozen encoder
    "epochs": -1,  # most epochs of stage 1; 0 = skip it; -1 = by the recipe and the number of captions
    "lr": 0.0,  # peak learning rate; 0 = by the recipe
    "freeze_encoder": True,  # compute features once and train the decoder alone; false = train the encoder too
    "feature_views": 0,  # cached views of each train image, the first without augmentation; 0 = by the recipe
    # stage 2: fine-tune the last blocks of the encoder as well
    "finetune_epochs": -1,  # most epochs of stage 2; 0 = skip it; -1 = by the recipe
    "finetune_blocks": 0,  # encoder blocks that train, counted from the last; resnet18 has 9; 0 = by the recipe
    "finetune_batch_size": 32,  # images per batch, each with all its captions
    "finetune_lr": 5e-4,  # peak learning rate of the decoder
    "encoder_lr": -1.0,  # peak learning rate of the encoder blocks; -1 = by the recipe, with freeze_encoder false as lr
    # stage 3: self-critical training, reward = CIDEr-D(sample) - CIDEr-D(baseline)
    "self_critical_epochs": -1,  # most epochs of stage 3; 0 = skip it; -1 = by the recipe
    "self_critical_batch_size": 64,  # images per batch
    "self_critical_samples": 5,  # captions sampled per image
    "self_critical_baseline": "samples",  # greedy: the greedy caption | samples: the mean of the image's other samples
    "self_critical_lr": -1.0,  # peak learning rate; -1 = by the recipe
    "class_reward": -1.0,  # bonus for naming the class, in reward and choice of the best epoch; -1 = by the recipe
    # optimisation
    "warmup": 0.05,  # share of a stage's steps with a linearly rising learning rate; a cosine decay follows
    "weight_decay": 0.01,  # of AdamW, on matrices alone
    "grad_clip": 5.0,  # largest norm of the gradient
    "accumulate": 1,  # batches per optimiser step
    "ema": 0.99,  # decay of the exponential moving average of the weights, which is validated and saved; 0 = off
    "scheduled_sampling": 0.0,  # share of input words replaced by the model's own predictions
    "label_smoothing": 0.1,  # probability mass spread over all words
    "attention_penalty": 0.1,  # weight of the doubly stochastic attention loss (decoder attention)
    "class_emphasis": 2.0,  # captions that name their image's class weigh 1 + this in the loss, others 1
    "class_loss": 1.0,  # weight of an auxiliary classification loss on the image embedding; 0 = off
    "word_loss": 0.0,  # weight of an auxiliary loss that predicts the captions' words from the embedding; 0 = off
    "patience": -1,  # early stopping: epochs without improvement; 0 = never stop early; -1 = by the recipe
    "rank_minutes": 30.0,  # torchrun: how long a process waits for the others before training ends
    "precision": "auto",  # auto | float32 | bfloat16 | float16 (CUDA)
    "compile": False,  # torch.compile the encoder when training reads image files: a minute to start, then faster
    # validation
    "beam_size": 1,  # beams; 1 = greedy
    "consensus": SearchOptions.consensus,  # candidates weigh probability ** this; 0 = plain beam search
    "max_len": 30,  # words of the longest caption, <end> counts as one
    # results
    "save_minutes": 10.0,  # minutes between two resume files inside an epoch; 0 = one after each epoch alone
    "half": False,  # store the checkpoint in float16
    "wandb": "auto",  # auto: as WANDB_MODE says, else online if logged in, else offline | online | offline | off
    "wandb_project": "mobilenet-captioning",  # project name in WandB
}

LIMITS = {
    "seed": (0, 2**32 - 1),
    "epochs": (-1, 100_000),
    "lr": (0.0, 100),
    "feature_views": (0, 64),
    "finetune_epochs": (-1, 100_000),
    "finetune_blocks": (0, max(kind.num_blocks for kind in ENCODERS.values())),
    "finetune_batch_size": (2, 65536),
    "finetune_lr": (0.0, 100),
    "encoder_lr": (-1.0, 100),
    "self_critical_epochs": (-1, 100_000),
    "self_critical_batch_size": (2, 65536),
    "self_critical_samples": (1, 100),
    "self_critical_lr": (-1.0, 100),
    "class_reward": (-1.0, 100),
    "warmup": (0.0, 1),
    "weight_decay": (0.0, 10),
    "grad_clip": (1e-9, 1e9),
    "accumulate": (1, 1024),
    "ema": (0.0, 0.99999),
    "scheduled_sampling": (0.0, 1),
    "label_smoothing": (0.0, 0.99),
    "attention_penalty": (0.0, 1000),
    "class_emphasis": (0.0, 1000),
    "class_loss": (0.0, 1000),
    "word_loss": (0.0, 1000),
    "patience": (-1, 100_000),
    "rank_minutes": (0.01, 10_000),
    "beam_size": (1, 100),
    "consensus": (0.0, 10),
    "max_len": (1, 200),
    "save_minutes": (0.0, 1_000_000),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(
    ("run", "init", "device", "recipe", "self_critical_baseline", "precision", "wandb", "wandb_project"), str
)
TYPES |= dict.fromkeys(("resume", "freeze_encoder", "compile", "half"), bool)
RATES = {  # stage -> its learning rates, to be named in an error
    "decoder": ["--train.lr"],
    "everything": ["--train.lr", "--train.encoder_lr"],
    "finetune": ["--train.finetune_lr", "--train.encoder_lr"],
    "self-critical": ["--train.self_critical_lr"],
}
LEAST_COVERAGE = 0.5  # of the train captions' running words; a vocabulary of other data knows fewer


# ---- the training loop ---------------------------------------------------------------------------


def train_one_epoch(run, stage, data, loss, machine, *, seed, save=lambda: None):
    """Train over the train split once, or over what `run.tally` says is left of it.

    data:    StageData; loss: of captioning.training.losses; save: called after every step
    returns: {name: average over the tokens} of what the loss logs

    Raises ValueError if the loss is not finite, if no batch has two images, if too many images cannot be read.
    """
    model, device, tally = run.model, machine.device, run.tally
    model.train_mode(stage.name)
    title = f"{stage.name} {tally.epoch + 1}/{stage.epochs}"
    unit = " captions" if stage.name == "decoder" else " images"
    batches, num_batches = iter(data.batches.epoch(seed, tally.batches)), len(data.batches)
    seen = tally.rows + len(tally.failed)
    with Progress(total=data.batches.num_rows, initial=seen, desc=title, unit=unit, leave=False) as progress:
        for first in range(tally.batches, num_batches, stage.accumulate):
            size = min(stage.accumulate, num_batches - first)  # the last group may be smaller
            has_gradient = False
            for batch in itertools.islice(batches, size):
                # Of several ranks each has its rows of the batch; what is counted is of the whole batch.
                num_tokens = (batch.tokens[:, 1:] != PAD_ID).sum()
                num_rows, num_failed, tokens = total_counts(len(batch.index), len(batch.failed), num_tokens)
                tally.failed += gather_list(batch.failed) if num_failed else []
                tally.rows += num_rows
                progress.update(num_rows + num_failed)
                if num_rows < 2:  # BatchNorm has no statistics of one row
                    continue
                batch = batch.to(device)
                with autocast(device, machine.dtype), whole_batch_norm():
                    embeddings = data.encode(model, as_input(batch.inputs, device))
                    objective, logged = loss(model, embeddings, batch)
                if not torch.isfinite(total(objective)):
                    rates = " and ".join(RATES[stage.name])
                    raise ValueError(f"{stage.name}: the loss became {total(objective).item()}; lower {rates}")
                run.scaler.scale(objective / size).backward()
                has_gradient = True
                tally.totals.update({name: value * tokens for name, value in logged.items()})
                tally.tokens += tokens
            if has_gradient:
                sum_gradients(model.parameters())
                run.scaler.unscale_(run.optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), stage.grad_clip)
                run.scaler.step(run.optimizer)
                run.scaler.update()
                run.optimizer.zero_grad(set_to_none=True)
                if run.averaged:
                    run.averaged.update_parameters(model)
            run.scheduler.step()  # also without a gradient, so that the schedule ends where it was planned to
            tally.batches += size
            save()
    check_unreadable(tally.failed, tally.rows + len(tally.failed), "train images")
    if not tally.tokens:
        raise ValueError("training: no batch of two images or more; the train split or --data.batch_size is too small")
    return {name: total / tally.tokens for name, total in tally.totals.items()}


def train_stage(stage, model, data, record, build_loss, validation, seed):
    """Train one stage of a run to its end, and validate and save after every epoch.

    data:       TrainingData
    record:     Record; a stage with epochs in it is resumed
    build_loss: (Stage, StageData) -> the loss of train_one_epoch
    """
    done = sum(row["stage"] == stage.name for row in record.history)
    # Each stage has random numbers of its own, so that resuming between two of them changes nothing.
    seed_everything(seed + stage.number)
    stage_data = data.open(stage, model)
    loss = build_loss(stage, stage_data)
    run = start_run(model, stage, len(stage_data.batches), data.machine)
    if record.stopped_in(stage):
        run.load_state_dict(record.resumed["state"])
        restore_random_state(record.resumed["random"])

    for epoch in range(done, stage.epochs):
        began = time.perf_counter() - run.tally.seconds

        def save(began=began):
            run.tally.seconds = time.perf_counter() - began
            record.save_if_due(run, stage.number)

        run.tally.epoch = epoch
        means = train_one_epoch(
            run, stage, stage_data, loss, data.machine, seed=mix_seed(seed, len(record.history)), save=save
        )
        run.tally = Tally()
        rate = stage_data.batches.num_rows / (time.perf_counter() - began)
        judged = run.judged.eval()
        scores = validation(judged, *data.val_embeddings(stage_data, judged))
        row = {"epoch": len(record.history) + 1, "stage": stage.name, **means, **scores}
        row |= {"lr": run.optimizer.param_groups[-1]["lr"], "seconds": time.perf_counter() - began}
        row["figure_seconds"] = 0.0  # until record.show draws
        improved = record.add(row, kept_weights(judged))
        since_best = record.epochs_since_best(epoch + 1)
        stopped = epoch + 1 < stage.epochs and 0 < stage.patience <= since_best
        finished = epoch + 1 == stage.epochs or stopped
        if finished:
            # The next stage goes on from the last epoch: near the end epochs differ by chance in CIDEr-D, and the best
            # of a short stage may be one of its first. After early stopping, restore the best epoch, of whatever stage.
            model.load_state_dict(record.best_weights | training_heads(model) if stopped else judged.state_dict())
        record.save_last(run.state_dict(), stage.number + finished)
        record.show()
        shown = "  ".join(f"{key} {row[key]:.3f}" for key in (*means, *scores))
        rate = f"{rate:,.0f} {'captions' if stage.name == 'decoder' else 'images'}/s"
        figures = f" + {row['figure_seconds']:.1f} s for figures" if row["figure_seconds"] else ""
        times = f"{row['seconds']:.0f} s{figures}"
        print(f"{stage.name} {epoch + 1:>3}  {shown}  {rate}  {times}{'  *' if improved else ''}")
        if stopped:
            print(f"{stage.name} stopped: no better {record.metric} for {since_best} epochs")
            break


def build_loss(stage, data, settings, vocabulary, class_of):
    """Return the loss of a stage.

    data: StageData; settings: train.CONFIG; class_of: of grounding.caption_classifier, None = data without classes
    """
    if stage.name != "self-critical":
        return CaptionLoss(data.captions, LossTerms(**{term.name: settings[term.name] for term in fields(LossTerms)}))
    return SelfCritical(
        data.captions,
        vocabulary,
        SamplingOptions(
            num_samples=settings["self_critical_samples"], max_len=settings["max_len"], pieces=vocabulary.pieces
        ),
        baseline=settings["self_critical_baseline"],
        class_reward=settings["class_reward"],
        class_of=class_of,
        labels=data.labels,
    )


# ---- the run -------------------------------------------------------------------------------------


def check_settings(settings, data):
    """Raise ValueError for a setting that could only fail after the features are computed, naming its key."""
    for key in ("batch_size", "samples_per_epoch"):
        if data[key] == 1:
            raise ValueError(f"--data.{key}: got 1, BatchNorm needs 2 or more")
    check_baseline(settings["self_critical_baseline"], settings["self_critical_samples"])
    for key in ("encoder_lr", "self_critical_lr", "class_reward"):
        if -1 < settings[key] < 0:
            raise ValueError(f"--train.{key}: got {settings[key]}, allowed are 0 to 100, and -1")
    if settings["wandb"] not in TRACKER_MODES:
        raise ValueError(f"--train.wandb: got {settings['wandb']!r}, allowed are {', '.join(TRACKER_MODES)}")
    if data["captions_per_image"] and settings["freeze_encoder"]:
        raise ValueError("--data.captions_per_image: a frozen encoder trains on all captions; set it to 0")
    if settings["run"] and not re.fullmatch(r"\w[\w.-]*", settings["run"]):
        raise ValueError(f"--train.run: got {settings['run']!r}, allowed are letters, digits, and . _ - within")
    if Path("runs", settings["run"]) == Path(FEATURES_DIR):
        raise ValueError(f"--train.run: got {settings['run']!r}, but {FEATURES_DIR} is the cache; give another name")


def check_ranks(settings, model_config):
    """Raise ValueError for what several ranks would not compute as one does."""
    if num_ranks() > 1 and model_config["layer_dropout"]:
        raise ValueError("--model.layer_dropout: is drawn inside the LSTM, of several processes by each; set it to 0")
    if num_ranks() > 1 and settings["compile"]:
        raise ValueError("--train.compile: hides BatchNorm, which sees the rows of all processes; set it to false")


def check_outputs(run, settings, start):
    """Raise ValueError if what a run writes cannot be written, ships, or is the file `start` that it begins with."""
    if run in SHIPPED and Path.cwd() == CHECKPOINTS.parent:
        raise ValueError(f"--train.run: checkpoints/{run}.safetensors ships with the project; give another --train.run")
    if resolved(start) == resolved(best_path(run)):
        key = "train.init" if settings["init"] else "model.encoder_weights"
        raise ValueError(f"--{key}: {start} is what this run writes; give another --train.run")
    check_file(best_path(run))
    check_file(last_path(run))
    for folder in ("graphs", f"runs/{run}"):
        check_folder(folder)


def fill_settings(settings, data, train, num_blocks, has_classes, saved):
    """Give the settings that are left to the recipe their values, in place, and print them.

    settings, data: train.CONFIG and data_loader.CONFIG; train: Examples of the train split
    num_blocks:     of the encoder; saved: identity of the run that is resumed, whose values are taken first; {} = none
    """
    num_captions = sum(len(example.captions) for example in train)
    batch_size = data["batch_size"] or saved.get("data.batch_size") or pick_batch_size(num_captions)
    task = Task(
        len(train), num_captions, batch_size, settings["finetune_batch_size"], num_blocks, settings["freeze_encoder"],
        has_classes,
    )  # fmt: skip
    chosen = preset(settings["recipe"], task)
    unset = [name for name in chosen if is_unset(name, settings[name])]
    settings.update({name: saved.get(f"train.{name}", chosen[name]) for name in unset})
    if "encoder_lr" in unset and not settings["freeze_encoder"]:
        settings["encoder_lr"] = settings["lr"]
    told = {name: settings[name] for name in unset}
    if not data["batch_size"]:
        data["batch_size"] = told["batch_size"] = batch_size
    idle = ["finetune_blocks"] * (not settings["finetune_epochs"])
    idle += ["encoder_lr"] * (not settings["finetune_epochs"] and settings["freeze_encoder"])
    idle += ["self_critical_lr"] * (not settings["self_critical_epochs"])  # of stages that are skipped
    values = ", ".join(f"{name} {value:g}" for name, value in told.items() if name not in idle)
    shown = f"{counted(len(train), 'image')} with {counted(num_captions, 'caption')}"
    print(f"recipe {settings['recipe']}, {shown}: {values or 'all settings are given'}")


def check_coverage(vocabulary, examples, data):
    """Return the Counter of the train captions' lengths in words.

    data: data_loader.CONFIG
    Raises ValueError if the vocabulary knows too few words of the train examples to be made for them.
    """
    counts, lengths = count_words(CaptionTexts(examples), vocabulary.unit)
    known = coverage(counts, vocabulary)
    if known < LEAST_COVERAGE:
        path, name = Path(data["vocab_path"]), dataset_name(data["data_dir"])
        path = path.with_name(f"{path.stem}_{name}{path.suffix}")  # the one that is there is of other data
        often = sum(count for count in counts.values() if count >= VOCAB_CONFIG["min_count"])
        every = {"min_count": 1} if often < LEAST_COVERAGE * counts.total() else {}
        advice = cli.command("vocab.py", {"vocab_path": path, **data_flags(data), **every})
        raise ValueError(
            f"data.vocab_path: {data['vocab_path']} knows {known:.0%} of the words of {data['data_dir']}; build one of "
            f"their words: {advice}"
        )
    return lengths


def train_classes(dataset):
    """Return the class names of the train split, sorted; [] = data without classes."""
    return sorted({example.label for example in dataset.splits["train"]} - {""})


def drop_class_terms(settings, classes, data_dir):
    """Set what needs classes to 0, and say so, where the data have none."""
    keys = [key for key in ("class_loss", "class_emphasis", "class_reward") if settings[key]]
    if keys and not classes:
        settings.update(dict.fromkeys(keys, 0.0))
        print(f"note: {data_dir} has no classes, so train.{', train.'.join(keys)} are left out")


def describe_run(config, vocabulary, classes, dataset):
    """Return what every checkpoint of a run holds beside its weights, history and best."""
    return {
        "config": config,
        "vocab": vocabulary.itos,
        "tokenizer": vocabulary.tokenizer,
        "transform": {"image_size": config["data"]["image_size"], "mean": data_loader.MEAN, "std": data_loader.STD},
        "classes": classes,
        "versions": versions(),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint("train")},
    }


def identify_run(fixed, dataset, start):
    """Return what must be the same for a run to be resumed.

    fixed: of `describe_run`; start: the file of its first weights
    """
    config = fixed["config"]
    free = {"run", "resume", "device", "half", "save_minutes", "rank_minutes", "wandb", "wandb_project"}
    free |= {"data_dir", *PICTURE_SETTINGS, "vocab_path", "num_workers"}
    identity = {f"{part}.{key}": v for part, keys in config.items() for key, v in keys.items() if key not in free}
    identity |= {
        "tokenizer": tokenizer_name(fixed["tokenizer"]),
        "vocabulary": fixed["vocab"],
        "validation data": dataset.fingerprint("val"),
        "data": fixed["data"],
    }
    no_file = start in ("none", "imagenet")
    return identity | {"first weights' sha256": "" if no_file else file_digest(fetch_model(start))}


def build_data(dataset, vocabulary, grounder, machine, cut, settings, data):
    """Return the TrainingData of a run; settings, data: train.CONFIG and data_loader.CONFIG.

    cut: how many blocks are behind the cache, as in TrainingData

    It holds all that an epoch needs, and is much smaller than the examples of the train split.
    """
    size = data["image_size"]
    augment = data_loader.TrainTransform(size, **{key: data[key] for key in data_loader.AUGMENTATION})
    train_set = data_loader.CaptionDataset(
        dataset.splits["train"],
        vocabulary,
        augment,
        classes=train_classes(dataset),
        grounder=grounder,
        captions_per_image=data["captions_per_image"],
        image_size=size,
    )
    views = [data_loader.EvalTransform(size)] + [augment] * (settings["feature_views"] - 1)
    seed, samples = settings["seed"], data["samples_per_epoch"]
    return TrainingData(train_set, dataset.splits["val"], views, machine, cut=cut, seed=seed, samples=samples)


def may_go_on(run):
    """True if torchrun has started this training again, and a resume file is of the part before.

    The first rank says so for all: it wrote the file, and torchrun of another machine is another launch.
    """

    def written_by_this_launch():
        return last_path(run).is_file() and load_run(last_path(run))["launch"] == launch()

    return was_restarted() and from_first(written_by_this_launch)


def open_record(run, metric, config, resumed, identity, fixed):
    """Return the Record of a run and its tracker, gone on with if `resumed` is not {}."""
    settings = config["train"]
    mode = settings["wandb"] if is_first() else "off"
    tracker = Tracker(
        mode, project=settings["wandb_project"], run=run, folder=f"runs/{run}", config=config,
        run_id=resumed.get("tracker_id", ""),
    )  # fmt: skip
    record = Record(run, metric, tracker, identity=identity, fixed=fixed, settings=settings)
    if resumed:
        record.resume(resumed)
        num_batches = resumed["state"]["tally"]["batches"]
        inside = f" and {counted(num_batches, 'batch')}" if num_batches else ""
        print(f"going on with {record.last_path}, after epoch {len(record.history)}{inside}")
    return record


def finish_checkpoint(record, validation, model, data, *, from_files):
    """Choose the best epoch's decoding, keep it and what the training pictures look like; warn if it learned nothing.

    model: with the weights of the best epoch; data: TrainingData; from_files: as in TrainingData.embed_val
    """
    embeddings, examples = data.embed_val(model, from_files=from_files)
    chosen = validation.choose_decoding(model, embeddings, examples)
    val_paths = [example.image for example in examples]
    describe = partial(learn_familiarity, model, data.train_set.paths, val_paths, data.views[0], data.machine)
    record.keep(decoding=chosen, familiarity=from_first(describe))
    if chosen:
        values = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        print(f"decoding chosen on the validation split, kept in the checkpoint: {values}")
    warning = sameness(validation.caption(model, embeddings))
    if warning:
        print(f"warning: {warning}")


def train(run, start, config):
    """Train stage by stage, validate after every epoch, keep the best and the last.

    run: name of the files; start: the file of the first weights, imagenet or none
    """
    settings, data, model_config = config["train"], config["data"], config["model"]
    decoding = SearchOptions(**{name: settings[name] for name in ("beam_size", "max_len", "consensus")})
    device = pick_device(settings["device"])
    dtype = pick_precision(settings["precision"], device)
    if settings["init"]:
        model_config = config["model"] = model_script.match_init(model_config, settings["init"])
    seed_everything(settings["seed"])

    # Data and model
    vocabulary = load_vocabulary(data["vocab_path"], data_flags(data))
    dataset = load_dataset(data["data_dir"], "train", "val", **picture_settings(data))
    if len(dataset.splits["train"]) < 2:  # BatchNorm has no statistics of one
        raise ValueError(f"{data['data_dir']}: its train split has 1 image, training needs 2 or more")
    lengths = check_coverage(vocabulary, dataset.splits["train"], data)
    classes = train_classes(dataset)
    resumed = load_run(last_path(run)) if settings["resume"] or may_go_on(run) else {}
    num_blocks = find_encoder(model_config["encoder"]).num_blocks
    saved = resumed.get("identity", {})
    fill_settings(settings, data, dataset.splits["train"], num_blocks, bool(classes), saved)
    stages = plan_stages(settings, data["batch_size"], model_config["encoder"], num_blocks)
    drop_class_terms(settings, classes, data["data_dir"])
    # The classes of all splits: val may have some that train lacks, and aliases may belong to them.
    grounder = Grounder(dataset.classes, dataset.aliases) if classes else None
    named = naming_share(dataset.splits["train"], grounder) if classes else 1.0
    warnings = [naming_warning(named, dataset.root), length_warning(lengths, settings["max_len"])]
    for split in ("train", "val"):
        warnings.append(one_for_all(CaptionTexts(dataset.splits[split]), split))
    for line in filter(None, warnings):
        print(f"warning: {line}")
    model, native_size = start_model(vocabulary, classes, settings, model_config)
    size = data["image_size"] = data_loader.pick_image_size(data["image_size"], native_size)
    if settings["precision"] == "auto" and device.type == "cpu" and stages[0].name == "everything" and size < 96:
        dtype = torch.float32  # converting layers this small costs more than it saves: 258 ms a step, not 200
    fixed = describe_run(config, vocabulary, classes, dataset)
    identity = identify_run(fixed, dataset, start)
    if resumed:  # before anything is computed with the encoder
        check_identity(resumed, identity, last_path(run))
        model.load_state_dict(resumed["state"]["model"])
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)
    if settings["compile"]:
        model.encoder.backbone.compile()
    reads_files = any(stage.reads_files for stage in stages)
    machine = Machine(device, dtype, pick_workers(data["num_workers"], device))
    cut = max((stage.num_blocks for stage in stages if not stage.reads_files), default=0)
    training_data = build_data(dataset, vocabulary, grounder, machine, cut, settings, data)
    del dataset  # millions of captions as text

    num_train, num_val = len(training_data.train_set), len(training_data.val_examples)
    by_loss = num_val < FEWEST_FOR_CIDER
    validation = Validation(vocabulary, grounder, decoding, settings["class_reward"], by_loss)
    record = open_record(run, validation.metric, config, resumed, identity, fixed)
    shown = counted(len(classes), "class") if classes else "no classes"
    images = f"{num_train:,} train and {num_val:,} val images at {size} px"
    print(f"{run}: {images}, {shown}, a vocabulary of {len(vocabulary):,}")
    print(f"on {device} in {str(dtype).removeprefix('torch.')}; Ctrl-C keeps {record.last_path} for --train.resume")
    reason = f", as {counted(num_val, 'validation image')} are too few for scores of captions" if by_loss else ""
    print(f"* marks the best epoch so far, by {record.metric}{reason}")
    class_of = caption_classifier(grounder, vocabulary, classes) if classes else None
    loss_of = partial(build_loss, settings=settings, vocabulary=vocabulary, class_of=class_of)
    for stage in stages[resumed.get("stage", 0) :]:
        train_stage(stage, model, training_data, record, loss_of, validation, settings["seed"])
    record.finish()
    best = record.best
    print(f"best epoch {best['epoch']}: {best['metric']} {best['value']:.3f} on the validation split")
    model.load_state_dict(record.best_weights | training_heads(model))
    finish_checkpoint(record, validation, model, training_data, from_files=reads_files)
    print(f"wrote {record.best_path}, {record.last_path}, runs/{run}/history.csv and graphs/{{tl,vl,va}}_{run}.png")
    flags = {"model_path": record.best_path, **data_flags(data)}
    print(f"next: {cli.command('analysis_report.py', flags)}")


def main(config):
    """Check what is asked, and train under a name that no other process holds."""
    flush_denormals()
    if not {"train", "data", "model"} <= config.keys():
        raise ValueError("train.main needs {'train': train.CONFIG, 'data': data_loader.CONFIG, 'model': model.CONFIG}")
    settings, model_config = config["train"], config["model"]
    check_settings(settings, config["data"])
    run = settings["run"] or find_encoder(model_config["encoder"]).run_name
    start = settings["init"] or model_config["encoder_weights"]
    if settings["init"] and model_config["encoder_weights"] not in ("none", model_script.CONFIG["encoder_weights"]):
        told = f"got {model_config['encoder_weights']}, but --train.init {settings['init']} brings an encoder"
        raise ValueError(f"--model.encoder_weights: {told}; leave one of them out")
    check_outputs(run, settings, start)
    with join_ranks(settings["rank_minutes"]), hold_run(run):
        check_ranks(settings, model_config)
        train(run, start, config)


if __name__ == "__main__":
    limits = {"train": LIMITS | TYPES, "data": data_loader.LIMITS | data_loader.TYPES}
    limits["model"] = model_script.LIMITS | model_script.TYPES
    cli.run(main, limits, ranks=True, train=CONFIG, data=data_loader.CONFIG, model=model_script.CONFIG)

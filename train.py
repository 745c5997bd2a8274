"""Script 4: train the captioner.

    python train.py                                                    # pictograms, on the shipped encoder, frozen
    python train.py --data.data_dir data/birds --data.vocab_path vocab_5.pkl --model.encoder_weights imagenet
    python train.py --train.resume                                     # go on after an interruption
    python train.py --train.freeze_encoder false --model.encoder_weights none   # everything, from random weights

Reads   images and captions, the vocabulary, the encoder's weights
Writes  checkpoints/<run>.safetensors   the best epoch on the validation split, by free-running CIDEr-D
        checkpoints/<run>_last.pt       what --train.resume reads
        runs/<run>/history.csv          one row per epoch
        graphs/{tl,vl,va}_<run>.png     train loss, validation loss, validation accuracy

A frozen encoder computes each image's features once, in a few augmented views; the decoder then trains from them,
which is what makes a CPU enough.
"""

import math
import time
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm

import data_loader
import model as model_script
from captioning import cli, plots
from captioning.annotations import dataset_name, fingerprint, load_aliases, load_examples
from captioning.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_resume,
    load_weights,
    save_checkpoint,
    save_resume,
)
from captioning.decoding import SearchOptions
from captioning.evaluation import (
    FEWEST_FOR_CIDER,
    caption_scores,
    decode_embeddings,
    encode_images,
    teacher_forced,
)
from captioning.files import replace_file
from captioning.grounding import Grounder
from captioning.images import check_unreadable
from captioning.runtime import (
    Tracker,
    autocast,
    flush_denormals,
    pick_device,
    pick_precision,
    random_state,
    restore_random_state,
    seed_everything,
    versions,
)
from captioning.tokenizer import tokenize
from vocab import load_vocabulary

CONFIG = {
    # the run
    "run": "",  # name of what it writes; "" = mobile or resnet, by the encoder
    "resume": False,  # go on from checkpoints/<run>_last.pt
    "init": "",  # one of our checkpoints, whose weights all the model starts from; "" = none
    "seed": 0,
    "device": "",  # cuda | mps | cpu; "" = the best there is
    # encoder
    "freeze_encoder": True,  # features once, then the decoder alone; false = train everything
    "feature_views": 4,  # augmented views of each image that a frozen encoder computes
    # optimisation
    "epochs": 20,
    "lr": 1e-3,  # peak of the schedule
    "warmup": 0.05,  # share of all steps in which the rate rises; then it falls as a cosine
    "weight_decay": 0.01,
    "grad_clip": 5.0,  # largest norm of the gradient
    "label_smoothing": 0.1,
    "class_loss": 0.0,  # weight of an auxiliary class loss on the image embedding; 0 = none
    "word_loss": 0.0,  # weight of an auxiliary loss that detects the captions' words in the embedding; 0 = none
    "patience": 8,  # epochs without a better validation score before stopping; 0 = never stop early
    "precision": "auto",  # auto | float32 | bfloat16 | float16 (CUDA)
    "compile": False,  # torch.compile the encoder: a minute's wait, then faster steps
    # validation
    "beam_size": 1,
    "max_len": 30,  # words, <end> included
    # results
    "half": False,  # store the checkpoint's weights as float16, to ship it
    "wandb": "auto",  # online when logged in, else offline | online | offline | off
    "wandb_project": "mobilenet-captioning",
}

RUN_NAMES = {"mobilenet_v2": "mobile", "resnet18": "resnet"}
LEAST_COVERAGE = 0.5  # of the train captions' running words; a vocabulary of other data knows fewer


class FeatureBatches:
    """Batches of cached features, one row per caption, in a new order and with new views each epoch.

    features: (N, W, D), W views of each image; tokens: N lists of id tensors; labels: (N,) long
    """

    def __init__(self, features, tokens, labels, batch_size):
        self.features, self.labels, self.batch_size = features, labels, batch_size
        self.tokens = [ids for captions in tokens for ids in captions]
        self.image = torch.tensor([row for row, captions in enumerate(tokens) for _ in captions])

    def __len__(self):
        return math.ceil(len(self.tokens) / self.batch_size)

    def epoch(self, seed):
        """Yield (features (M, D), tokens (M, T), owner (M,), labels (M,), error lines)."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.tokens), generator=generator)
        views = torch.randint(self.features.shape[1], (len(order),), generator=generator)
        for rows, view in zip(order.split(self.batch_size), views.split(self.batch_size), strict=True):
            image = self.image[rows]
            tokens = data_loader.pad_tokens([self.tokens[row] for row in rows.tolist()])
            yield self.features[image, view], tokens, torch.arange(len(rows)), self.labels[image], []


class ImageBatches:
    """Batches of augmented images with their captions, for training the encoder too."""

    def __init__(self, dataset, batch_size, num_workers):
        self.dataset, self.batch_size, self.num_workers = dataset, batch_size, num_workers

    def __len__(self):
        return math.ceil(len(self.dataset) / self.batch_size)

    def epoch(self, seed):
        """Yield (images (B, 3, S, S), tokens (M, T), owner (M,), labels (B,), error lines)."""
        loader = data_loader.build_loader(
            self.dataset, batch_size=self.batch_size, num_workers=self.num_workers, shuffle=True, seed=seed
        )
        for batch in loader:
            images = batch.images.contiguous(memory_format=torch.channels_last) if len(batch.index) else batch.images
            yield images, batch.tokens, batch.owner, batch.labels, batch.failed


def compute_features(encoder, examples, transforms, options):
    """Run the frozen backbone over each transform's view of the images.

    returns: (N,) positions of the readable images, (N, W, D) features, W = len(transforms)
    """
    views = []
    for number, transform in enumerate(transforms, start=1):
        kept, features = encode_images(
            encoder.backbone, examples, transform, bar=f"features, view {number}/{len(transforms)}", **options
        )
        views.append(features)
    return kept, torch.stack(views, dim=1)


def build_optimizer(model, lr, weight_decay):
    """Return AdamW; biases and normalisation are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def build_scheduler(optimizer, num_steps, warmup):
    """Return a schedule per step: linear warm-up over a share of `num_steps`, then a cosine down to 0."""
    rise = max(1, int(warmup * num_steps))

    def rate(step):
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, num_steps - rise))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def word_detection_loss(logits, tokens, owner):
    """Return the binary cross-entropy of detecting each image's words, summed over words, mean over images.

    logits: (B, V); tokens: (M, T); owner: (M,) the image of each caption
    """
    present = torch.zeros_like(logits)
    present[owner[:, None].expand_as(tokens), tokens] = 1.0
    return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / len(logits)


def train_mode(model, freeze_encoder):
    """Put the model into training; a frozen backbone stays in eval(), so that its BatchNorm does not drift."""
    model.train()
    if freeze_encoder:
        model.encoder.backbone.eval()


def train_one_epoch(model, forward, batches, optimizer, scheduler, scaler, *, config, device, dtype, pad_id, bar):
    """Train over `batches` once.

    forward: (images or features, tokens, owner) -> (logits, embeddings)
    returns: {"loss": mean nats per token, "rows_per_s": images or features a second, "failed": error lines}
    Raises ValueError if the loss is not finite.
    """
    train_mode(model, config["freeze_encoder"])
    total, count, rows, failed, began = 0.0, 0, 0, [], time.perf_counter()
    with tqdm(desc=bar, unit="row", leave=False) as progress:  # closed before an error line is printed
        for inputs, tokens, owner, labels, lines in batches:
            failed += lines
            progress.update(len(inputs))
            if len(inputs) < 2:  # BatchNorm has no statistics of one row
                continue
            inputs, tokens, owner, labels = (t.to(device, non_blocking=True) for t in (inputs, tokens, owner, labels))
            targets = tokens[:, 1:]
            with autocast(device, dtype):
                logits, embeddings = forward(inputs, tokens[:, :-1], owner)
                loss = F.cross_entropy(
                    logits.flatten(0, 1).float(),
                    targets.flatten(),
                    ignore_index=pad_id,
                    label_smoothing=config["label_smoothing"],
                )
                objective = loss
                if config["class_loss"] and model.classifier is not None and (labels >= 0).any():
                    class_loss = F.cross_entropy(model.classifier(embeddings).float(), labels, ignore_index=-1)
                    objective = objective + config["class_loss"] * class_loss
                if config["word_loss"]:
                    objective = objective + config["word_loss"] * word_detection_loss(
                        model.word_detector(embeddings).float(), tokens, owner
                    )
            if not torch.isfinite(objective):
                raise ValueError(f"training: the loss became {objective.item()}; lower --train.lr (now {config['lr']})")
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(objective).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["grad_clip"])
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            tokens_here = int((targets != pad_id).sum())
            total, count, rows = total + loss.item() * tokens_here, count + tokens_here, rows + len(inputs)
    if not count:
        raise ValueError("training: no batch of two images or more; the train split or --data.batch_size is too small")
    return {"loss": total / count, "rows_per_s": rows / (time.perf_counter() - began), "failed": failed}


def validate(model, embeddings, examples, tokens, vocabulary, grounder, *, beam_size, max_len):
    """Score the model on image embeddings (N, E): teacher-forced loss, and free-running captions.

    returns: {"val_loss", "token_accuracy", "bleu4", "cider_d"} and, with classes, "class_accuracy"
    """
    forced = teacher_forced(model, embeddings, tokens, vocabulary.pad_id)
    options = SearchOptions(beam_size=beam_size, max_len=max_len)
    captions = [caption for caption, _ in decode_embeddings(model, embeddings, vocabulary, options)]
    references = [[tokenize(text) for text in example.captions] for example in examples]
    scores = caption_scores([caption.split() for caption in captions], references)
    result = {"val_loss": forced["loss"], "token_accuracy": forced["token_accuracy"]}
    result |= {"bleu4": scores["bleu4"], "cider_d": scores["cider_d"]}
    if grounder:
        named = [grounder.name(caption) == e.label for caption, e in zip(captions, examples, strict=True)]
        result["class_accuracy"] = sum(named) / len(named)
    return result


def load_data(data_dir, vocabulary):
    """Return the train examples, the val examples and the classes of a dataset that fits the vocabulary."""
    train_examples, val_examples = load_examples(data_dir, "train"), load_examples(data_dir, "val")
    words = [word for example in train_examples for caption in example.captions for word in tokenize(caption)]
    known = sum(word in vocabulary.stoi for word in words) / len(words)
    if known < LEAST_COVERAGE:
        raise ValueError(
            f"data.vocab_path: the vocabulary knows {known:.0%} of the words of {data_dir}; "
            f"build its own: python vocab.py --data_dir {data_dir}"
        )
    return train_examples, val_examples, sorted({example.label for example in train_examples} - {""})


def save_graphs(history, suffix):
    """Draw train loss, validation loss and validation accuracy over the epochs."""
    columns = {key: [row[key] for row in history] for key in history[0]}
    plots.curve(
        {"train": columns["train_loss"]},
        f"graphs/tl_{suffix}.png",
        title="Train loss",
        ylabel="nats per token",
    )
    plots.curve(
        {"validation": columns["val_loss"]},
        f"graphs/vl_{suffix}.png",
        title="Validation loss",
        ylabel="nats per token",
    )
    accuracy = {"token (teacher-forced)": columns["token_accuracy"]}
    if "class_accuracy" in columns:
        accuracy["class named in the caption"] = columns["class_accuracy"]
    plots.curve(accuracy, f"graphs/va_{suffix}.png", title="Validation accuracy", ylabel="share correct")


def start_model(vocabulary, classes, options, model_config):
    """Build the model and fill it: (CNNtoRNN, image size its weights were trained at, 0 = not known)."""
    model = model_script.build_model(
        len(vocabulary),
        model_config,
        num_classes=len(classes) if options["class_loss"] else 0,
        detect_words=options["word_loss"] > 0,
    )
    if not options["init"]:
        name, source = model_config["encoder"], model_config["encoder_weights"]
        return model, model_script.load_encoder_weights(model.encoder, name, source)
    checkpoint = load_checkpoint(options["init"])
    if checkpoint.vocab != vocabulary.itos:
        sizes = f"{len(checkpoint.vocab)} words there, {len(vocabulary)} here"
        raise ValueError(f"{options['init']}: has another vocabulary ({sizes}); give the one it was trained with")
    heads = {k: v for k, v in model.state_dict().items() if k.startswith(model_script.TRAINING_HEADS)}
    load_weights(model, checkpoint.weights | heads, options["init"])
    return model, checkpoint.transform["image_size"]


def resume_run(path, parts, *, model_config, vocab, data, heads):
    """Put the parts of a run back where `path` left them: (history, best).

    parts: name -> model, optimizer, scheduler, scaler
    Raises ValueError naming both values if the run was of another model, vocabulary or dataset.
    """
    state = load_resume(path)
    expected = {*parts, "history", "best", "random", "model_config", "vocab", "data", "heads"}
    if not isinstance(state, dict) or set(state) != expected:
        raise ValueError(f"{path}: not a resume file of this project")
    for what, here in (("model_config", model_config), ("vocab", vocab), ("data", data), ("heads", heads)):
        if state[what] != here:
            was, now = (f"{len(value)} words" if what == "vocab" else value for value in (state[what], here))
            raise ValueError(f"{path}: its {what} was {was}, now it is {now}")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    restore_random_state(state["random"])
    return state["history"], state["best"]


def main(config):
    """Train, validate after every epoch, keep the best and the last."""
    flush_denormals()
    options, data, model_config = config["train"], config["data"], config["model"]
    device = pick_device(options["device"])
    dtype = pick_precision(options["precision"], device)
    for name, value, least in (
        ("train.epochs", options["epochs"], 1),
        ("train.feature_views", options["feature_views"], 1),
        ("data.batch_size", data["batch_size"], 2),
        ("data.num_workers", data["num_workers"], 0),
        ("data.image_size", data["image_size"], 0),
    ):
        if value < least:
            raise ValueError(f"{name}: got {value}, allowed is {least} or more")
    run = options["run"] or RUN_NAMES.get(model_config["encoder"], "")
    best_path, last_path = Path(f"checkpoints/{run}.safetensors"), Path(f"checkpoints/{run}_last.pt")
    seed_everything(options["seed"])

    # Data and model
    vocabulary = load_vocabulary(data["vocab_path"])
    train_examples, val_examples, classes = load_data(data["data_dir"], vocabulary)
    if options["class_loss"] and not classes:
        raise ValueError(f"train.class_loss: {data['data_dir']} has no classes; set it to 0")
    model, native_size = start_model(vocabulary, classes, options, model_config)
    data["image_size"] = data["image_size"] or native_size or data_loader.DEFAULT_IMAGE_SIZE
    size = data["image_size"]
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)
    if options["freeze_encoder"]:
        model.encoder.backbone.requires_grad_(False)
    if options["compile"]:
        model.encoder.backbone.compile()

    # Batches
    augment = data_loader.train_transform(size, **{key: data[key] for key in ("crop_scale", "flip", "jitter", "hue")})
    plain = data_loader.eval_transform(size)
    loading = {"device": device, "dtype": dtype, "num_workers": data["num_workers"]}
    train_set = data_loader.CaptionDataset(
        train_examples,
        vocabulary,
        augment,
        classes=classes,
        captions_per_image=data["captions_per_image"],
        image_size=size,
    )
    if options["freeze_encoder"]:
        # The first view is the plain one, which is what validation and users show the model.
        transforms = [plain] + [augment] * (options["feature_views"] - 1)
        kept, features = compute_features(model.encoder, train_examples, transforms, loading)
        labels = torch.tensor(train_set.labels)[kept]
        batches = FeatureBatches(features, [train_set.tokens[i] for i in kept], labels, data["batch_size"])
        forward = model.forward_features
        kept, val_features = compute_features(model.encoder, val_examples, [plain], loading)
        val_examples = [val_examples[i] for i in kept]
    else:
        batches = ImageBatches(train_set, data["batch_size"], data["num_workers"])
        forward = model

    # Optimisation
    optimizer = build_optimizer(model, options["lr"], options["weight_decay"])
    scheduler = build_scheduler(optimizer, options["epochs"] * len(batches), options["warmup"])
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    description = {"name": dataset_name(data["data_dir"]), "fingerprint": fingerprint(train_examples)}
    heads = sorted(name for name in model.state_dict() if name.startswith(model_script.TRAINING_HEADS))
    identity = {"model_config": model_config, "vocab": vocabulary.itos, "data": description, "heads": heads}
    history, best = resume_run(last_path, parts, **identity) if options["resume"] else ([], {})
    metric = "cider_d" if len(val_examples) >= FEWEST_FOR_CIDER else "bleu4"
    grounder = Grounder(classes, load_aliases(data["data_dir"])) if classes else None
    tracker = Tracker(options["wandb"], project=options["wandb_project"], run=run, folder=f"runs/{run}", config=config)
    print(
        f"{run}: {len(train_examples):,} train and {len(val_examples):,} val images at {size} px, "
        f"{f'{len(classes)} classes' if classes else 'no classes'}, {len(vocabulary)} words"
    )
    print(f"on {device} in {str(dtype).removeprefix('torch.')}; Ctrl-C keeps {last_path} for --train.resume")

    for epoch in range(len(history), options["epochs"]):
        began = time.perf_counter()
        trained = train_one_epoch(
            model,
            forward,
            batches.epoch(options["seed"] * 10_000 + epoch),
            optimizer,
            scheduler,
            scaler,
            config=options,
            device=device,
            dtype=dtype,
            pad_id=vocabulary.pad_id,
            bar=f"epoch {epoch + 1}/{options['epochs']}",
        )
        check_unreadable(trained["failed"], len(train_examples), data["data_dir"])
        model.eval()
        if options["freeze_encoder"]:
            seen = val_examples
            with torch.inference_mode():
                embeddings = model.encoder.embed(val_features[:, 0].to(device))
        else:
            kept, embeddings = encode_images(model.encoder, val_examples, plain, **loading)
            seen = [val_examples[i] for i in kept]
        scores = validate(
            model,
            embeddings,
            seen,
            [[torch.tensor(vocabulary.encode(text)) for text in example.captions] for example in seen],
            vocabulary,
            grounder,
            beam_size=options["beam_size"],
            max_len=options["max_len"],
        )
        row = {"epoch": epoch + 1, "train_loss": trained["loss"], **scores}
        row |= {"lr": scheduler.get_last_lr()[0], "seconds": time.perf_counter() - began}
        history.append(row)

        improved = not best or row[metric] > best["value"]
        if improved:
            best = {"metric": metric, "value": row[metric], "epoch": epoch + 1}
            weights = {k: v for k, v in model.state_dict().items() if not k.startswith(model_script.TRAINING_HEADS)}
            checkpoint = Checkpoint(
                weights=weights,
                config=config,
                vocab=vocabulary.itos,
                transform={"image_size": size, "mean": data_loader.MEAN, "std": data_loader.STD},
                classes=classes,
                history=history,
                best=best,
                versions=versions(),
                data=description,
            )
            save_checkpoint(best_path, checkpoint, half=options["half"])
        state = {name: part.state_dict() for name, part in parts.items()}
        save_resume(last_path, {**state, **identity, "history": history, "best": best, "random": random_state()})
        with replace_file(f"runs/{run}/history.csv") as temporary:
            pd.DataFrame(history).to_csv(temporary, index=False)
        save_graphs(history, run)
        tracker.log({("train/loss" if k == "train_loss" else f"val/{k}"): v for k, v in row.items()}, step=epoch + 1)
        shown = "  ".join(f"{key} {row[key]:.3f}" for key in ("train_loss", *scores))
        rate = f"{trained['rows_per_s']:,.0f} {'captions' if options['freeze_encoder'] else 'images'}/s"
        print(f"epoch {epoch + 1:>3}  {shown}  {rate}  {row['seconds']:.0f} s{'  *' if improved else ''}", flush=True)
        if options["patience"] and epoch + 1 - best["epoch"] >= options["patience"]:
            print(f"stopped: no better {metric} for {options['patience']} epochs")
            break

    tracker.finish()
    print(f"best epoch {best['epoch']}: {best['metric']} {best['value']:.3f} on the validation split")
    print(f"wrote {best_path}, {last_path}, runs/{run}/history.csv and graphs/{{tl,vl,va}}_{run}.png")
    print(f"next: python analysis_report.py --model_path {best_path} --data_dir {data['data_dir']}")


if __name__ == "__main__":
    cli.run(main, train=CONFIG, data=data_loader.CONFIG, model=model_script.CONFIG)

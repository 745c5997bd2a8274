"""The stages that a run has: what each trains, how long, how fast."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    name:        decoder | everything | finetune | self-critical
    number:      its position among the stages of the run, from 0
    epochs:      the most it takes
    lr:          peak rate of the decoder and the embedding
    encoder_lr:  peak rate of the encoder's blocks that train; 0 = the backbone is frozen
    num_blocks:  how many of the encoder's last blocks train
    batch_size:  captions in stage decoder, else images
    reads_files: the whole backbone trains, so that nothing can be cached in front of it

    The others are as in CONFIG.
    """

    name: str
    number: int = 0
    epochs: int = 1
    lr: float = 1e-3
    encoder_lr: float = 0.0
    num_blocks: int = 0
    batch_size: int = 64
    reads_files: bool = False
    warmup: float = 0.05
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    accumulate: int = 1
    ema: float = 0.0
    patience: int = 0


def plan_stages(settings, batch_size, encoder, num_blocks):
    """Return the Stages of a run.

    settings: train.CONFIG; encoder, num_blocks: its name, and how many blocks it has

    Raises ValueError if settings contradict each other, or there is no stage.
    """
    finetuned = settings["finetune_blocks"]
    if not 1 <= finetuned <= num_blocks:
        raise ValueError(f"train.finetune_blocks: got {finetuned}, allowed is 1 to {num_blocks} for {encoder}")
    if settings["freeze_encoder"]:
        first = Stage("decoder", epochs=settings["epochs"], lr=settings["lr"], batch_size=batch_size)
    elif settings["finetune_epochs"]:
        raise ValueError("train.finetune_epochs: freeze_encoder false trains the whole encoder already; set it to 0")
    else:
        first = Stage(
            "everything", epochs=settings["epochs"], lr=settings["lr"], encoder_lr=settings["encoder_lr"],
            num_blocks=num_blocks, batch_size=batch_size, reads_files=True,
        )  # fmt: skip
    finetune = Stage(
        "finetune", epochs=settings["finetune_epochs"], lr=settings["finetune_lr"], encoder_lr=settings["encoder_lr"],
        num_blocks=finetuned, batch_size=settings["finetune_batch_size"], reads_files=finetuned == num_blocks,
    )  # fmt: skip
    self_critical = Stage(
        "self-critical", epochs=settings["self_critical_epochs"], lr=settings["self_critical_lr"],
        batch_size=settings["self_critical_batch_size"],
    )  # fmt: skip
    planned = [stage for stage in (first, finetune, self_critical) if stage.epochs]
    if not planned:
        raise ValueError("train.epochs: got 0, and no stage after it has epochs; nothing would be trained")
    common = {key: settings[key] for key in ("warmup", "weight_decay", "grad_clip", "accumulate", "ema", "patience")}
    return [replace(stage, number=number, **common) for number, stage in enumerate(planned)]

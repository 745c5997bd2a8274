"""What a run trains with where its settings do not say: a named recipe, fitted to the number of images and captions."""

import math
from dataclasses import dataclass

UNSET = {  # setting of train.CONFIG -> the value that stands for "as the recipe says"
    "epochs": -1,
    "lr": 0.0,
    "feature_views": 0,
    "finetune_epochs": -1,
    "finetune_blocks": 0,
    "encoder_lr": -1.0,
    "self_critical_epochs": -1,
    "self_critical_lr": -1.0,
    "class_reward": -1.0,
    "patience": -1,
}
RECIPES = ("quick", "full", "best")
MANY_CAPTIONS = 2_000  # a train split with fewer is small: smaller batches, more epochs, more views
LARGE_BATCH, SMALL_BATCH = 64, 16  # captions
STEPS = 2_000  # of stage 1, within the limits of its epochs
FEWEST_EPOCHS, MOST_EPOCHS = 8, 150  # of stage 1
FINETUNE_STEPS = 1_000
FEWEST_FINETUNE_EPOCHS, MOST_FINETUNE_EPOCHS = 8, 30


@dataclass(frozen=True)
class Task:
    """What a recipe looks at.

    num_images, num_captions: of the train split
    batch_size:       captions of a step of stage 1; image_batch_size: images of a step of stage 2
    num_blocks:       of the encoder; freeze_encoder: as in train.CONFIG
    has_classes:      the images have classes
    """

    num_images: int
    num_captions: int
    batch_size: int
    image_batch_size: int
    num_blocks: int
    freeze_encoder: bool = True
    has_classes: bool = False


def within(value, least, most):
    """Return a number of epochs as a whole number from `least` to `most`."""
    return max(least, min(most, round(value)))


def preset(recipe, task):
    """Return {setting: value} of a recipe for a Task.

    recipe: quick (the decoder on the frozen encoder) | full (fine-tuned too) | best (self-critical too)

    The number of epochs follows from a number of optimiser steps, since a small split has few steps in an epoch.
    Raises ValueError for an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"train.recipe: got {recipe!r}, allowed are {', '.join(RECIPES)}")
    small = task.num_captions < MANY_CAPTIONS
    steps = math.ceil(task.num_captions / task.batch_size)
    image_steps = math.ceil(task.num_images / task.image_batch_size)
    found = {
        "epochs": within(STEPS / steps, FEWEST_EPOCHS, MOST_EPOCHS),
        "lr": 0.002 if task.freeze_encoder else 0.001,
        "feature_views": 16 if small else 4 if recipe == "quick" else 8,
        "finetune_epochs": 0,
        "finetune_blocks": min(8 if recipe == "best" else 5, task.num_blocks),
        "encoder_lr": 3e-4,
        "self_critical_epochs": 8 if recipe == "best" else 0,
        "self_critical_lr": 1e-4,
        "class_reward": 2.0 if recipe == "best" and task.has_classes else 0.0,
        "patience": (20 if small else 8) if recipe == "quick" else 0,
    }
    if recipe != "quick" and task.freeze_encoder:  # else all blocks are trained from the start
        found["finetune_epochs"] = within(FINETUNE_STEPS / image_steps, FEWEST_FINETUNE_EPOCHS, MOST_FINETUNE_EPOCHS)
    return found


def pick_batch_size(num_captions):
    """Return the captions of a step of stage 1."""
    return LARGE_BATCH if num_captions >= MANY_CAPTIONS else SMALL_BATCH


def is_unset(name, value):
    """True if a setting of train.CONFIG leaves its value to the recipe."""
    return name in UNSET and value == UNSET[name]

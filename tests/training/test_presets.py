"""The recipes that fill the settings which nobody gave."""

from dataclasses import replace

import pytest

from captioning.training.presets import (
    LARGE_BATCH,
    MOST_EPOCHS,
    RECIPES,
    SMALL_BATCH,
    UNSET,
    Task,
    is_unset,
    pick_batch_size,
    preset,
)


def fill(recipe, num_images, captions_each=5, **changes):
    num_captions = num_images * captions_each
    task = Task(num_images, num_captions, pick_batch_size(num_captions), 32, 19, has_classes=True)
    return preset(recipe, replace(task, **changes))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_has_a_value_that_says_something(recipe):
    found = fill(recipe, 6_000)
    assert found.keys() == UNSET.keys()
    assert not any(is_unset(name, value) for name, value in found.items())


def test_a_recipe_has_the_stages_that_it_is_named_for():
    stages = {recipe: fill(recipe, 1_680) for recipe in RECIPES}
    assert [stages[recipe]["finetune_epochs"] > 0 for recipe in RECIPES] == [False, True, True]
    assert [stages[recipe]["self_critical_epochs"] > 0 for recipe in RECIPES] == [False, False, True]
    assert stages["best"]["class_reward"] == 2
    assert fill("best", 1_680, has_classes=False)["class_reward"] == 0


def test_small_sets_get_small_batches_more_epochs_and_more_views():
    """With 40 photographs a batch of 64 captions is an epoch of one step."""
    small, large = fill("quick", 32, 2), fill("quick", 6_000)
    assert (pick_batch_size(64), pick_batch_size(30_000)) == (SMALL_BATCH, LARGE_BATCH)
    assert small["epochs"] == MOST_EPOCHS
    assert small["epochs"] > large["epochs"]
    assert small["feature_views"] > large["feature_views"]


def test_an_encoder_that_trains_from_the_start_is_not_fine_tuned_again():
    assert fill("full", 6_000, freeze_encoder=False)["finetune_epochs"] == 0


def test_blocks_that_an_encoder_lacks_are_not_asked_for():
    assert fill("best", 100, num_blocks=4)["finetune_blocks"] == 4


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="train.recipe: got 'fast', allowed are quick, full, best"):
        fill("fast", 100)

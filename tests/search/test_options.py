"""What a recipe names, and what a confidence is of."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from captioning.search import beam, numpy_beam
from captioning.search.options import SearchOptions, confidence

# num_best: how many captions are returned, the best of them is the same; pieces: of the model, named as its tokenizer
NOT_IN_A_RECIPE = {"num_best", "pieces"}
CHANGED = {  # a value unlike the one of BASE for each field
    "beam_size": 6,
    "max_len": 20,
    "min_len": 3,
    "length_penalty": 0.0,
    "no_repeat_ngram": 2,
    "consensus": 0.0,
    "groups": 1,
    "diversity": 0.5,
}
BASE = {"beam_size": 4, "groups": 2, "diversity": 1.0}


def test_whatever_changes_a_caption_is_in_the_recipe():
    """Recipes once left out length_penalty, min_len, no_repeat_ngram and max_len. A new field must be walked too."""
    fields = {field.name for field in dataclasses.fields(SearchOptions)} - NOT_IN_A_RECIPE
    assert fields == set(CHANGED)
    recipes = {SearchOptions(**BASE).recipe()}
    for name, value in CHANGED.items():
        more = {"diversity": 0.0} if name == "groups" else {}
        changed = SearchOptions(**(BASE | {name: value} | more))
        assert getattr(changed, name) != getattr(SearchOptions(**BASE), name)
        recipes.add(changed.recipe())
    assert len(recipes) == 1 + len(CHANGED)


def test_a_recipe_reads_as_a_sentence():
    assert SearchOptions().recipe() == "beam:5|length_penalty:0.7|max_len:30|consensus:0.6"
    assert SearchOptions(min_len=2, consensus=0).text() == "beam 5, length_penalty 0.7, max_len 30, min_len 2"
    assert SearchOptions(num_best=3).recipe() == SearchOptions().recipe()


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("ends", [True, False])
def test_the_confidence_is_of_the_tokens_that_were_scored(beam_size, ends):
    """A caption cut at max_len has no <end>; it once was divided by one all the same, 0.56 for 0.50."""
    words = np.array([0.01, 0.01, 0.49, 0.49] if ends else [0.0, 0.0, 0.5, 0.5])  # <start>, <end>, two words
    with np.errstate(divide="ignore"):
        table = np.log(words).astype(np.float32)
    options = SearchOptions(beam_size=beam_size, max_len=4, consensus=0.0, length_penalty=5.0 if ends else 0.7)
    found = numpy_beam.beam_search(
        lambda tokens, state: (np.tile(table, (len(tokens), 1)), state), (np.zeros((2, 1)),), options, start=0, end=1
    )
    with_torch = beam.beam_search(
        lambda tokens, state: (torch.from_numpy(np.tile(table, (len(tokens), 1))), state),
        (torch.zeros(2, 1),),
        options,
        start=0,
        end=1,
    )
    for ours in (*found, *with_torch):
        best = ours[0]
        assert best.ended == (len(best.ids) < 4)
        num_tokens = len(best.ids) + best.ended
        log_prob = sum(table[token] for token in best.ids) + (table[1] if best.ended else 0)
        assert best.log_prob == pytest.approx(log_prob, abs=1e-5)
        assert confidence(best.log_prob, num_tokens) == pytest.approx(math.exp(log_prob / num_tokens), abs=1e-6)
        if not ends:
            assert not best.ended
            assert confidence(best.log_prob, num_tokens) == pytest.approx(0.5)

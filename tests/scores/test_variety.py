"""Captions that do not tell pictures apart."""

import pytest

from captioning.scores.variety import commonest, sameness


def test_the_commonest_caption_and_its_share():
    assert commonest(["a cat", "a dog", "a cat", "a cat"]) == ("a cat", 0.75)


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        (["a a"] * 16, "the model says 'a a' about 16 of 16 pictures: it has not learned to tell them apart."),
        ([""] * 19 + ["a"], "the model says nothing about 19 of 20 pictures: it has not learned to caption."),
        (["a cat", "a dog"] * 8, ""),
        (["a cat"] * 3, ""),  # of three pictures all may be cats
        ([], ""),
    ],
)
def test_a_model_that_says_one_thing_for_everything_is_called_so(captions, sentence):
    assert sameness(captions) == sentence

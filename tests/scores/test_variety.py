"""Captions that do not tell pictures apart."""

import random
from collections import Counter

import pytest

from captioning.scores.variety import commonest, one_for_all, sameness, shared_caption


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


def test_what_nearly_all_captions_are_is_found_without_counting_all():
    """By one candidate and its lead; Counter as the independent count."""
    rng = random.Random(0)
    found = 0
    for _ in range(300):
        captions = rng.choices(["a", "b", "c"], (rng.choice((1, 20, 60)), 1, 1), k=rng.randrange(1, 40))
        caption, count = Counter(captions).most_common(1)[0]
        expected = (caption, count) if len(captions) >= 4 and count >= 0.9 * len(captions) else ("", 0)
        assert shared_caption(captions) == expected
        found += expected[1] > 0
    assert 50 < found < 250
    assert one_for_all(["a"] * 9 + ["b"], "val").startswith("9 of 10 captions of the val split are 'a'")

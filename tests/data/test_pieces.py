"""Words in pieces: as the library splits them, without the library."""

import random
import sys
from collections import Counter

import pytest

from captioning.data.pieces import MARK, Splitter, learn_pieces

WORDS = [
    "판다",
    "판다가",
    "판다는",
    "판다의",
    "곰",
    "곰이",
    "곰은",
    "고양이",
    "고양이가",
    "low",
    "lower",
    "lowest",
    "new",
    "newer",
    "newest",
    "wide",
    "wider",
]
COUNTS = Counter({word: 3 + place for place, word in enumerate(WORDS)})


def test_splitting_equals_the_library():
    from tokenizers import Tokenizer, models

    pieces, merges = learn_pieces(COUNTS, 60)
    splitter = Splitter(pieces, merges)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    library = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, pairs))
    generator, letters = random.Random(0), sorted(set("".join(WORDS)))
    made = ["".join(generator.choices(letters, k=generator.randint(1, 9))) for _ in range(2000)]
    for word in [*WORDS, *made]:
        assert list(splitter.split(word)) == library.encode(MARK + word).tokens
        assert "".join(splitter.split(word)) == MARK + word
    assert splitter.split("판다가") in {(f"{MARK}판다", "가"), (f"{MARK}판다가",)}


def test_learning_twice_gives_the_same():
    assert learn_pieces(COUNTS, 60) == learn_pieces(Counter(dict(reversed(COUNTS.items()))), 60)


def test_a_rare_character_is_no_piece():
    pieces, merges = learn_pieces(Counter({"low": 5, "lox": 1}), 50, min_count=2)
    assert "x" not in "".join(pieces)
    assert Splitter(pieces, merges).split("lox") == ()
    assert Splitter(pieces, merges).split("low") == (f"{MARK}low",)


def test_the_characters_are_kept_even_if_they_are_more_than_asked_for():
    pieces, merges = learn_pieces(COUNTS, 3)
    assert merges == []
    assert set(pieces) == {MARK, *"".join(WORDS)}


def test_a_merge_of_no_pieces_is_refused():
    for merge in ("a b", "a", "a b c", ""):
        with pytest.raises(ValueError, match="is not of two pieces that make a third"):
            Splitter(["a", "b"], [merge])


def test_a_missing_library_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"--tokenizer pieces needs one more library: pip install tokenizers$"):
        learn_pieces(COUNTS, 60)
    Splitter([MARK, "a"], []).split("a")  # nobody needs it to use a model

"""captioning.data.tokenizer: what the words of a caption are, and that the fast path agrees with NLTK's rules."""

import csv
import json
import random
import unicodedata

import pytest

from captioning.data import tokenizer
from captioning.data.tokenizer import tokenize


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man riding a horse.", "a man riding a horse"),
        ("There is a piece of farmland .", "there is a piece of farmland"),
        ("Plants on the ground. .", "plants on the ground"),
        ("A man sits. He reads.", "a man sits he reads"),
        ("red, green , and blue", "red green and blue"),
        ("He cannot swim, she's gonna try", "he can not swim she 's gon na try"),
        ("they wanna play", "they wan na play"),
        ("the dog's ball; two dogs' balls", "the dog 's ball two dogs balls"),
        ("I don't know, we'll see", "i do n't know we 'll see"),
        ("at five o'clock", "at five o'clock"),
        ('a sign that says "Stop!"', "a sign that says stop"),
        ("a “quoted” word, ‘single’ and «guillemets»", "a quoted word single and guillemets"),
        ("a `tick` and ''two'' quotes", "a tick and two quotes"),
        ("a cat (black) [small] {fat}", "a cat black small fat"),
        ("a black-and-white cat - on a t-shirt -- asleep", "a black-and-white cat on a t-shirt asleep"),
        ("a road — wet … dark", "a road wet dark"),
        ("3.5 metres and 1,000 people at 10:30", "3.5 metres and 1,000 people at 10:30"),
        ("50% of a fish & chips for $5", "50 % of a fish & chips for $ 5"),
        ("wait... what?!", "wait what"),
        ("Une CAFÉ à l'ombre", "une café à l'ombre"),
        ("말을 탄 남자.", "말을 탄 남자"),
        ("  two\tblanks \n", "two blanks"),
        ("", ""),
        (" . , ... '' ", ""),
    ],
)
def test_words_of_a_caption(caption, tokens):
    assert tokenize(caption) == tokens.split()


def test_plain_captions_do_not_reach_the_slow_path(monkeypatch):
    monkeypatch.setattr(tokenizer, "_tokenize_any", lambda text: pytest.fail(f"slow path for {text!r}"))
    assert tokenize("A woman's dog, 2 cats - and a t-shirt. They sleep .\n")[:3] == ["a", "woman", "'s"]


WORDS = """
a dog dog's dogs' s 's cannot cannot's can-not cannot-do gonna gimme wanna
d'ye more'n 'tis o'clock don't t-shirt
- -- , . .. ... ; : ? ! ' '' " ` `` ( ) [ ] { } < > & % 3.5 1,000 10:30 2 u.s. mr. ,,a ',
“ ” ‘ ’ « » — … é ß İ ſ _ 한국 남자 ² ٣
"""
PIECES = [*WORDS.split(), " ", "  ", "\n", "\t", "\u00a0", "\u2028", "\x1c"]


@pytest.mark.parametrize(
    ("pieces", "blanks", "longest"),
    [
        (PIECES, ["", " "], 8),  # words and signs, joined or not
        (list("as'-., 3nt\n"), [""], 9),  # characters of the fast path and a newline
        ([chr(code) for code in range(32, 0x2040)], [""], 6),
    ],
)
def test_fast_path_equals_nltk_on_random_strings(pieces, blanks, longest):
    generator = random.Random(0)
    for _ in range(8000):
        count = generator.randint(0, longest)
        caption = "".join(generator.choice(pieces) + generator.choice(blanks) for _ in range(count))
        composed = unicodedata.normalize("NFC", caption.lower())
        assert tokenize(caption) == tokenizer._tokenize_any(composed), repr(caption)


def test_fast_path_equals_nltk_on_real_captions(shared_dir):
    with open(shared_dir / "data/flickr8k_1000/captions.txt", encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert len(captions) > 4000
    for caption in captions:
        tokens = tokenize(caption)
        assert tokens == tokenizer._tokenize_any(caption.lower()), caption
        assert tokenize(" ".join(tokens)) == tokens, caption


def test_ucm_captions_give_the_tokens_that_the_data_set_publishes(shared_dir):
    images = json.loads((shared_dir / "data/ucm_captions/dataset.json").read_text())["images"]
    for image in images:
        for sentence in image["sentences"]:
            assert tokenize(sentence["raw"]) == sentence["tokens"]

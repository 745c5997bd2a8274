"""captioning.data.tokenizer: what the words of a caption are, and that the fast path agrees with NLTK's rules."""

import csv
import json
import random

import pytest

from captioning.data import tokenizer
from captioning.data.tokenizer import Tokens, join_tokens, pick_unit, split_text, tokenize


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


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("it’s the dog’s; don’t", "it 's the dog 's do n't"),
        ("¿Qué hace? ¡Corre!", "qué hace corre"),
        ("قطة سوداء، على الأريكة؟", "قطة سوداء على الأريكة"),
        ("ایک بلی بیٹھی ہے۔", "ایک بلی بیٹھی ہے"),
        ("एक बिल्ली सोफे पर बैठी है।", "एक बिल्ली सोफे पर बैठी है"),
        ("《两只猫》：「坐着」。走、跑！", "两只猫 坐着 走 跑"),
        ("ἕνα σπίτι· ένα δέντρο·", "ἕνα σπίτι ένα δέντρο"),
        ("un chat–noir… «dort» ‹ici› „da“ ‟dort”", "un chat noir dort ici da dort"),
        ("50％ of it, ‐well‐known‑", "50 % of it -well-known-"),
        ("col·lecció", "collecció"),
        ("\u202bقط\u200fة\u202c \u2067هنا\u2069", "قطة هنا"),  # marks of direction
        ("می\u200cخواهم soft\u00adly ब\u200dल", "میخواهم softly बल"),  # joiners, a soft hyphen
        ("a❤\ufe0fb ❤ cat😀😀 👍🏽 🇰🇷", "a ❤ b ❤ cat 😀 😀 👍🏽 🇰🇷"),
        ("cafe\u0301 \u1112\u1161\u11ab", "café 한"),
        ("แมว\u200bดำ", "แมว ดำ"),  # the zero-width space stands between words
        ("Der Mann　mit\u00a0Hut", "der mann mit hut"),
        ("l'homme qu’il aujourd'hui", "l'homme qu'il aujourd'hui"),
    ],
)
def test_words_of_every_script(caption, tokens):
    assert tokenize(caption) == tokens.split()


@pytest.mark.parametrize(
    ("caption", "tokens", "said"),
    [
        ("一只熊猫，在吃竹子。", "一 只 熊 猫 在 吃 竹 子", "一只熊猫在吃竹子"),
        ("穿着T恤的3个人", "穿 着 t 恤 的 3 个 人", "穿着t恤的3个人"),
        ("二人がiPad miniを見る。", "二 人 が ipad mini を 見 る", "二人がipad miniを見る"),
        ("สุนัข 2 ตัว", "สุ นั ข 2 ตั ว", "สุนัข 2 ตัว"),  # a vowel above belongs to its consonant
        ("ឆ្មា", "ឆ្មា", "ឆ្មា"),  # and so does a consonant below
        ("판다가 대나무를 먹는다.", "판다가 대나무를 먹는다", "판다가 대나무를 먹는다"),
        ("The dog's toys, 3.5 m", "the dog 's toys 3.5 m", "the dog 's toys 3.5 m"),
    ],
)
def test_characters_of_scripts_without_blanks(caption, tokens, said):
    assert tokenize(caption, "characters") == tokens.split()
    assert join_tokens(tokens.split(), "characters") == said
    assert split_text(said, "characters") == tokens.split()
    assert Tokens("characters")[caption] == tokens.split()


def test_characters_are_words_where_a_script_has_blanks():
    for caption in ("Un CAFÉ à l'ombre", "말을 탄 남자.", "a cat 😀 and ½ an apple", "एक बिल्ली"):
        assert tokenize(caption, "characters") == tokenize(caption)
        assert join_tokens(tokenize(caption), "characters") == join_tokens(tokenize(caption))


@pytest.mark.parametrize(
    ("captions", "unit"),
    [
        (["a cat", "a dog"], "words"),
        (["판다가 먹는다", "말을 탄 남자"], "words"),
        (["一只熊猫在吃竹子。", "两个男人坐在长椅上。"], "characters"),
        (["熊猫", "荷花"], "characters"),
        (["一 只 熊猫 在 吃 竹子", "两 个 男人 坐 在 长椅 上"], "words"),  # cut into words by somebody
        (["二人の男性が公園を歩いている。"], "characters"),
        (["ผู้ชายขี่ม้า"], "characters"),
        (["a cat"] * 99 + ["一只熊猫"], "words"),
        (["a cat"] * 9 + ["一只熊猫在吃竹子"], "characters"),
        ([""], "words"),
    ],
)
def test_the_unit_follows_the_captions(captions, unit):
    assert pick_unit(captions)[0] == unit


def test_what_nobody_sees_is_no_part_of_a_word():
    """Two captions that look alike are alike; half a character could not be written to a file."""
    assert tokenize("a\u200e do\u202eg\ud800, \u2067새\u2069") == ["a", "dog", "새"]


def test_plain_captions_do_not_reach_the_slow_path(monkeypatch):
    monkeypatch.setattr(tokenizer, "_tokenize_any", lambda text: pytest.fail(f"slow path for {text!r}"))
    assert tokenize("A woman's dog, 2 cats - and a t-shirt. They sleep .\n")[:3] == ["a", "woman", "'s"]
    assert tokenize("À l'ombre d'un chêne, où ? (ici !)")[:3] == ["à", "l'ombre", "d'un"]
    assert tokenize("एक बिल्ली सोफे पर बैठी है।", "characters")[-1] == "है"


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
        (list("aé가猫ि²😀'’s.,?!;:\"([)] -—。"), [""], 9),
    ],
)
def test_fast_path_equals_nltk_on_random_strings(pieces, blanks, longest):
    generator = random.Random(0)
    for _ in range(8000):
        count = generator.randint(0, longest)
        caption = "".join(generator.choice(pieces) + generator.choice(blanks) for _ in range(count))
        assert tokenize(caption) == tokenizer._tokenize_any(tokenizer.clean(caption)), repr(caption)


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


def test_turkish_has_one_small_letter_for_the_one_with_a_dot():
    """The first word of a sentence was another than inside it."""
    assert tokenize("İnek") == tokenize("inek") == ["inek"]
    assert tokenize("DİYARBAKIR") == ["diyarbakir"]

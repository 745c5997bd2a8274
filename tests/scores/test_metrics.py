"""captioning.scores.metrics: hand-worked values, pycocoevalcap and nltk, edge cases and invariances."""

import json
import math
import random

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_sentence_bleu

from captioning.data.tokenizer import tokenize
from captioning.scores.metrics import CiderD, cider_d, corpus_bleu, rouge_l, sentence_bleu

METRICS = [corpus_bleu, sentence_bleu, rouge_l, cider_d]


def split(*captions):
    return [caption.split() for caption in captions]


def random_captions(seed, images, words="abcdefgh", longest=9):
    """Short random captions over few words, so that n-grams repeat and match; some are empty."""
    generator = random.Random(seed)

    def caption():
        return generator.choices(words, k=generator.randint(0, longest))

    references = [[caption() for _ in range(generator.randint(1, 5))] for _ in range(images)]
    hypotheses = [generator.choice([caption(), generator.choice(group)]) for group in references]
    return hypotheses, references


def assert_equals_pycocoevalcap(hypotheses, references):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    gts = {i: [" ".join(reference) for reference in group] for i, group in enumerate(references)}
    res = {i: [" ".join(hypothesis)] for i, hypothesis in enumerate(hypotheses)}
    exact = {"rtol": 0, "atol": 1e-9}
    expected, _ = bleu.compute_score(gts, res, verbose=0)
    np.testing.assert_allclose(corpus_bleu(hypotheses, references), expected, **exact)
    for ours, theirs in ((rouge_l, rouge), (cider_d, cider)):
        mean, scores = ours(hypotheses, references)
        expected_mean, expected = theirs.compute_score(gts, res)
        np.testing.assert_allclose(scores, expected, **exact)
        assert mean == pytest.approx(expected_mean, abs=1e-9)


# ---- against other implementations ----


@pytest.mark.parametrize("seed", range(10))
def test_equals_pycocoevalcap_on_random_captions(seed):
    assert_equals_pycocoevalcap(*random_captions(seed, images=40))


@pytest.mark.parametrize("words", ["a", "ab", "abcdefghijklmnopqrstuvwxyz"])
def test_equals_pycocoevalcap_whatever_the_vocabulary(words):
    assert_equals_pycocoevalcap(*random_captions(0, images=40, words=words, longest=70))


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocoevalcap_with_a_vocabulary_larger_than_the_captions(seed):
    """Most words stand once: numbers of n-grams are large, and many of the hypotheses' are in no reference."""
    words = [f"w{number}" for number in range(100_000)]
    hypotheses, references = random_captions(seed, images=60, words=words, longest=40)
    generator = random.Random(seed)
    for tokens in hypotheses:
        if tokens:
            tokens[generator.randrange(len(tokens))] = generator.choice(words)
    assert_equals_pycocoevalcap(hypotheses, references)


def test_equals_pycocoevalcap_on_long_captions_that_repeat_words():
    """A caption longer than 64 words leaves a machine word's bits; counts beyond 1 meet BLEU's and CIDEr-D's clips."""
    generator = random.Random(0)
    references = [[generator.choices("abc", k=generator.randint(70, 130)) for _ in range(2)] for _ in range(4)]
    hypotheses = [["a"] * 100, list("ab") * 50, references[2][1][::-1], ["x"] * 70]
    assert_equals_pycocoevalcap(hypotheses, references)


def test_ngrams_of_the_same_numbers_are_not_mistaken_for_each_other():
    """Sums or products of the tokens' numbers would make "a d" equal "b c"; a caption ends where the next begins."""
    assert_equals_pycocoevalcap(split("a d", "b c", "c b", "d a"), [split(c) for c in ("b c", "a d", "d a", "c b")])
    # "b c" stands across the border of two captions only.
    assert_equals_pycocoevalcap(split("a b", "c d", "b c"), [split("a b", "c d"), split("c d", "a b"), split("b c d")])


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        ([[]], [split("a b c d e")]),
        ([[], []], [split("a b"), split("c")]),
        (split("x x x x x y x", "a"), [split("a b c d"), split("a b", "b a")]),
        ([[]], [[[], *split("a b")]]),
        (split("a"), [split("a b c d e")]),
        (split("a b c"), [split("a b c", "a b c d")]),
        (split("x y z"), [split("a b c d")]),
        (split("the the the the the"), [split("the cat is on the mat", "the the")]),
        (split("a b c d e", "a b c d e"), [split("a b c d e"), split("a b c d e")]),
        (split("a b c d", "", "e"), [split("a b c d"), split("a b"), split("e f g h i")]),
    ],
    ids=[
        "empty",
        "all empty",
        "words of no reference",
        "both empty",
        "one word",
        "shorter than n",
        "no match",
        "repeats",
        "same images",
        "mixed",
    ],
)
def test_equals_pycocoevalcap_at_the_edges(hypotheses, references):
    assert_equals_pycocoevalcap(hypotheses, references)


def test_equals_pycocoevalcap_on_real_captions(shared_dir):
    images = json.loads((shared_dir / "data/ucm_captions/dataset.json").read_text())["images"]
    images = [image for image in images if image["split"] == "test"]
    captions = [[tokenize(sentence["raw"]) for sentence in image["sentences"]] for image in images]
    generator = random.Random(0)
    others = [generator.choice(generator.choice(captions)) for _ in captions]
    assert_equals_pycocoevalcap(others, captions)
    assert_equals_pycocoevalcap([group[0] for group in captions], [group[1:] for group in captions])


@pytest.mark.parametrize("seed", range(5))
def test_sentence_bleu_equals_nltk_method_4(seed):
    hypotheses, references = random_captions(seed, images=100)
    smooth = SmoothingFunction().method4
    expected = [
        nltk_sentence_bleu(group, hypothesis, smoothing_function=smooth) if hypothesis else 0.0
        for hypothesis, group in zip(hypotheses, references, strict=True)
    ]
    np.testing.assert_allclose(sentence_bleu(hypotheses, references), expected, rtol=0, atol=1e-12)


# ---- by hand ----


def test_corpus_bleu_by_hand():
    # Matches 5 + 1 of 6 + 2 words, 3 + 0 of 5 + 1 pairs; 8 words against 6 + 3 in the closest references.
    hypotheses = split("the cat sat on the mat", "a dog")
    references = [split("the cat is on the mat", "there is a cat on the big red mat"), split("one dog runs")]
    bleu1, bleu2 = corpus_bleu(hypotheses, references, max_n=2)
    assert bleu1 == pytest.approx(math.exp(1 - 9 / 8) * 6 / 8, abs=1e-8)
    assert bleu2 == pytest.approx(math.exp(1 - 9 / 8) * math.sqrt(6 / 8 * 3 / 6), abs=1e-8)


def test_sentence_bleu_by_hand():
    # "a b c d" in "a b x c": 3 of 4 words, 1 of 3 pairs, then log(4) / 10 of 2 and log(4) / 20 of 1.
    expected = (3 / 4 * 1 / 3 * math.log(4) / 10 / 2 * math.log(4) / 20) ** 0.25
    assert sentence_bleu(split("a b c d"), [split("a b x c")]) == pytest.approx([expected], abs=1e-12)


def test_rouge_l_by_hand():
    # The longest common subsequence is "a c e", 3 of 4 words; "c x" has the better recall, 2 of 2.
    mean, scores = rouge_l(split("a c x e"), [split("a b c d e", "c x")])
    precision, recall = 3 / 4, 2 / 2
    assert scores == pytest.approx([(1 + 1.44) * precision * recall / (recall + 1.44 * precision)])
    assert mean == scores[0]


def test_cider_d_by_hand():
    # Two images that share only "a": every other n-gram weighs log 2, "a" nothing.
    # Image 1, "a b" for "a b b": the b counts min(1, 2) * 2 of norms 1 and 2, so 1; "a b" counts 1 of norms
    # 1 and sqrt 2; no longer n-grams; one bigram too few costs exp(-1 / 72). Image 2 has no match.
    _, scores = cider_d(split("a b", "x"), [split("a b b"), split("a c")])
    expected = 10 * math.exp(-1 / 72) * (1 + 1 / math.sqrt(2)) / 4
    assert scores == pytest.approx([expected, 0])


# ---- the reward of self-critical training ----


def training_batch(seed, images=30, size=40):
    """Return (references of all images, hypotheses, their images): images repeat, are missing and in any order."""
    generator = random.Random(seed)
    _, references = random_captions(seed, images)
    indices = [generator.randrange(images) for _ in range(size)]
    hypotheses = [generator.choices("abcdefghxyz", k=generator.randint(0, 12)) for _ in indices]
    return references, hypotheses, indices


@pytest.mark.parametrize("seed", range(3))
def test_rewards_are_the_scores_of_the_whole_set(seed):
    """One caption of the batch among the references' own: frequencies and so the score do not depend on the rest."""
    references, hypotheses, images = training_batch(seed)
    rewards = CiderD(references).score(hypotheses, images)
    assert rewards.shape == (40,)
    assert rewards.max() > 0
    for tokens, image, reward in zip(hypotheses, images, rewards, strict=True):
        captions = [group[0] for group in references]
        captions[image] = tokens
        assert cider_d(captions, references)[1][image] == pytest.approx(reward, abs=1e-12)


def test_rewards_equal_pycocoevalcap():
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    hypotheses, references = random_captions(7, images=50)
    gts = {i: [" ".join(tokens) for tokens in group] for i, group in enumerate(references)}
    _, expected = cider.compute_score(gts, {i: [" ".join(tokens)] for i, tokens in enumerate(hypotheses)})
    order = np.random.default_rng(0).permutation(50)
    rewards = CiderD(references).score([hypotheses[i] for i in order], order)
    np.testing.assert_allclose(rewards, expected[order], rtol=0, atol=1e-9)


def test_token_ids_are_as_good_as_words():
    references, hypotheses, images = training_batch(1)
    number = {word: 10**9 + 7 * index for index, word in enumerate("zyxabcdefgh")}
    id_references = [[[number[word] for word in tokens] for tokens in group] for group in references]
    id_hypotheses = [[number[word] for word in tokens] for tokens in hypotheses]
    rewards = CiderD(id_references).score(id_hypotheses, np.array(images))
    np.testing.assert_allclose(rewards, CiderD(references).score(hypotheses, images), rtol=0, atol=1e-12)


def test_a_batch_leaves_no_trace():
    """Words and n-grams that a batch brings get numbers for that batch alone."""
    references, hypotheses, images = training_batch(2)
    reward = CiderD(references)
    first = reward.score(hypotheses, images)
    reward.score([list("qrstuv"), list("vutsrq")], [0, 1])
    np.testing.assert_array_equal(reward.score(hypotheses, images), first)
    assert reward.score([], []).shape == (0,)
    assert reward.score([[], []], [0, 0]).tolist() == [0, 0]


def test_rewards_that_do_not_fit_are_refused():
    reward = CiderD([split("a b"), split("c")])
    with pytest.raises(ValueError, match=r"shape \(2,\) for 1 hypotheses"):
        reward.score(split("a"), [0, 1])
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"got {index} to {index}, allowed are 0 to 1"):
            reward.score(split("a"), [index])
    with pytest.raises(ValueError, match="image 1 has none"):
        CiderD([split("a"), []])
    with pytest.raises(ValueError, match="got none"):
        CiderD([])


# ---- edges ----


def test_a_perfect_caption_scores_the_top_of_the_scale():
    captions = split("a b c d e", "f g h i j k")
    references = [[caption] for caption in captions]
    assert corpus_bleu(captions, references) == pytest.approx([1, 1, 1, 1])
    assert sentence_bleu(captions, references) == pytest.approx([1, 1])
    assert rouge_l(captions, references)[0] == pytest.approx(1)
    assert cider_d(captions, references)[0] == pytest.approx(10)


def test_an_empty_caption_scores_zero():
    hypotheses, references = [[], *split("a b c d")], [split("a b"), split("a b c d")]
    assert corpus_bleu([[]], [split("a b")]) == [0, 0, 0, 0]
    for scores in (sentence_bleu(hypotheses, references), rouge_l(hypotheses, references)[1]):
        assert scores == pytest.approx([0, 1])
    assert cider_d(hypotheses, references)[1][0] == 0


def test_cider_d_of_one_image_is_zero():
    assert cider_d(split("a b c d"), [split("a b c d")])[0] == 0


def test_a_caption_shorter_than_n_has_no_bleu_n():
    bleu = corpus_bleu(split("a b"), [split("a b")])
    assert bleu[:2] == pytest.approx([1, 1])
    assert bleu[2] < 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_captions_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        metric(split("a"), [split("a"), split("b")])
    with pytest.raises(ValueError, match="image 1 has none"):
        metric(split("a", "b"), [split("a"), []])
    with pytest.raises(ValueError, match="got none"):
        metric([], [])


# ---- invariances ----


@pytest.mark.parametrize("metric", METRICS)
def test_neither_the_order_of_references_nor_of_images_counts(metric):
    hypotheses, references = random_captions(3, images=30)
    order = np.random.default_rng(0).permutation(len(hypotheses))

    def score(hypotheses, references):
        result = metric(hypotheses, references)
        return result if isinstance(result, tuple) else (np.mean(result), np.array(result))

    mean, scores = score(hypotheses, references)
    turned_mean, turned = score(hypotheses, [group[::-1] for group in references])
    assert turned_mean == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(turned, scores, atol=1e-12)
    moved_mean, moved = score([hypotheses[i] for i in order], [references[i] for i in order])
    assert moved_mean == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(moved, scores if metric is corpus_bleu else scores[order], atol=1e-12)

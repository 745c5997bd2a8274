"""Captions of many languages: from captions to a caption said, and what a model without torch or with pieces says."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from caption import Captioner, Ensemble, TorchModel
from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.data.annotations import Example
from captioning.deploy.onnx_export import export_onnx
from captioning.evaluation import decode_embeddings
from captioning.metadata import dump_metadata, parse_metadata
from captioning.scores.grounding import Grounder
from captioning.search.options import SearchOptions
from captioning.training.validation import Validation
from model import CNNtoRNN, start_model
from vocab import SPECIALS, Vocabulary, build_vocabulary, count_words, load_vocabulary, pick_tokenizer, save_vocabulary

# language -> the tokenizer that auto picks; captions of three images, and what a model that learned them says
LANGUAGES = {
    "Korean": ("words", ["판다가 대나무를 먹는다.", "말을 탄 남자.", "배 두 척이 있다!"],
               ["판다가 대나무를 먹는다", "말을 탄 남자", "배 두 척이 있다"]),
    "Chinese": ("characters", ["一只熊猫，在吃竹子。", "两个男人坐在长椅上。", "穿着T恤的3个人！"],
                ["一只熊猫在吃竹子", "两个男人坐在长椅上", "穿着t恤的3个人"]),
    "Japanese": ("characters", ["パンダが竹を食べている。", "馬に乗った「男性」。", "二人の子供、公園。"],
                 ["パンダが竹を食べている", "馬に乗った男性", "二人の子供公園"]),
    "Thai": ("characters", ["ผู้ชายขี่ม้า", "สุนัข 2 ตัว", "แมวสีดำ"], ["ผู้ชายขี่ม้า", "สุนัข 2 ตัว", "แมวสีดำ"]),
    "Lao": ("characters", ["ຜູ້ຊາຍຂີ່ມ້າ", "ໝາ 2 ໂຕ", "ແມວສີດຳ"], ["ຜູ້ຊາຍຂີ່ມ້າ", "ໝາ 2 ໂຕ", "ແມວສີດຳ"]),
    "Khmer": ("characters", ["បុរសម្នាក់ជិះសេះ។", "ឆ្កែ 2 ក្បាល", "ឆ្មាខ្មៅ"],
              ["បុរសម្នាក់ជិះសេះ", "ឆ្កែ 2 ក្បាល", "ឆ្មាខ្មៅ"]),
    "Chinese and English": ("characters", ["一个man穿着T恤，very cool", "a dog在公园里。", "Tesla牌car"],
                            ["一个man穿着t恤very cool", "a dog在公园里", "tesla牌car"]),
    "wide and narrow": ("characters",
                        ["\uff34シャツを着た\uff13人", "\uff8a\uff9f\uff9d\uff80\uff9eが寝る", "\uff23\uff24と本"],
                        ["tシャツを着た3人", "パンダが寝る", "cdと本"]),
    "Hebrew": ("words", ["כלב לבן, רץ בפארק.", "ילד־קטן וחתול", "שתי בנות"],
               ["כלב לבן רץ בפארק", "ילד-קטן וחתול", "שתי בנות"]),
    "Korean with Han": ("words", ["大熊猫가 대나무를 먹는다", "말을 탄 男子가 있다", "배 두 척"],
                        ["大熊猫가 대나무를 먹는다", "말을 탄 男子가 있다", "배 두 척"]),
    "Arabic": ("words", ["قطة سوداء، على الأريكة.", "رجل يركب حصانًا؟", "\u202bطفلان في الحديقة\u202c"],
               ["قطة سوداء على الأريكة", "رجل يركب حصانًا", "طفلان في الحديقة"]),
    "Hindi": ("words", ["एक बिल्ली सोफे पर बैठी है।", "दो कुत्ते", "लाल फूल।"],
              ["एक बिल्ली सोफे पर बैठी है", "दो कुत्ते", "लाल फूल"]),
    "Vietnamese": ("words", ["Một con mèo nằm trên ghế.", "Hai người đàn ông", "Hoa đỏ"],
                   ["một con mèo nằm trên ghế", "hai người đàn ông", "hoa đỏ"]),
    "French": ("words", ["Un homme à l’ombre d'un chêne.", "Où est-il ? Là !", "Deux garçons « jouent »"],
               ["un homme à l'ombre d'un chêne", "où est-il là", "deux garçons jouent"]),
    "German": ("words", ["Ein Mädchen läuft über die Straße.", "„Grüße“", "Zwei Männer"],
               ["ein mädchen läuft über die straße", "grüße", "zwei männer"]),
    "emoji": ("words", ["a cat 😺", "I ❤️ pizza🍕🍕", "👍🏽 ok"], ["a cat 😺", "i ❤ pizza 🍕 🍕", "👍🏽 ok"]),
}  # fmt: skip


def learn(vocabulary, captions, steps=250):
    """Return a small model that has learned a caption for each of N embeddings (N, 16), and these."""
    torch.manual_seed(0)
    model = CNNtoRNN(len(vocabulary), embed_size=16, hidden_size=64)
    embeddings = torch.randn(len(captions), 16)
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(vocabulary.encode(text)) for text in captions], True)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=0.01)
    model.decoder.train()
    for _ in range(steps):
        loss = F.cross_entropy(
            model.decoder(embeddings, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), embeddings


@pytest.mark.parametrize("name", ["auto", "pieces"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_from_captions_to_a_caption_said(language, name, tmp_path):
    expected, captions, said = LANGUAGES[language]
    tokenizer, _ = pick_tokenizer(name, captions)
    assert tokenizer == {"name": expected if name == "auto" else "pieces", "unit": expected}
    counts, _ = count_words(captions, tokenizer["unit"])
    save_vocabulary(tmp_path / "v.pkl", build_vocabulary(counts, 1, tokenizer, 60), counts, 1)
    vocabulary = load_vocabulary(tmp_path / "v.pkl")
    assert vocabulary.unk_id not in {index for text in captions for index in vocabulary.encode(text)}
    assert [vocabulary.decode(vocabulary.encode(text)) for text in captions] == said

    model, embeddings = learn(vocabulary, captions)
    options = SearchOptions(beam_size=1, max_len=16)
    found = [text for text, _ in decode_embeddings(model, embeddings, vocabulary, options)]
    assert found == said
    examples = [Example("x.jpg", [text], "", "val") for text in captions]
    scores = Validation(vocabulary, None, options)(model, embeddings, examples)
    assert scores["bleu4"] == pytest.approx(1)
    assert scores["cider_d"] > 1


@pytest.mark.parametrize(
    ("classes", "caption", "named"),
    [
        (["熊猫", "竹子"], "一只大熊猫在吃竹子", ["熊猫", "竹子"]),
        (["パンダ"], "ジャイアントパンダが二頭", ["パンダ"]),
        (["แมว"], "เธอมีแมวสองตัว", ["แมว"]),
        (["قطة"], "قطة، سوداء", ["قطة"]),
        (["Straße"], "auf der STRASSE, Straße", ["Straße"]),
        (["chêne"], "à l'ombre du che\u0302ne", ["chêne"]),
    ],
)
def test_a_class_is_named_in_every_script(classes, caption, named):
    assert Grounder(classes).find(caption) == named


@pytest.mark.parametrize("name", ["characters", "pieces"])
@pytest.mark.parametrize("decoder", ["attention"])
def test_a_model_without_torch_says_the_same(tmp_path, name, decoder):
    captions = LANGUAGES["Chinese" if name == "characters" else "Korean"][1]
    tokenizer, _ = pick_tokenizer(name, captions)
    vocabulary = build_vocabulary(count_words(captions, tokenizer["unit"])[0], 1, tokenizer, 40)
    torch.manual_seed(1)
    config = {"embed_size": 8, "hidden_size": 8, "decoder": decoder, "attention_size": 4}
    network = CNNtoRNN(len(vocabulary), **config).eval()
    transform = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint = Checkpoint(
        network.state_dict(), {"model": config}, vocabulary.itos, transform, tokenizer=vocabulary.tokenizer
    )
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    export_onnx(network, dump_metadata(vars(checkpoint)), 32, tmp_path / "a.onnx")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    settings = {"max_len": 7, "min_len": 5, "no_repeat_ngram": 1}
    models = [Captioner.load(tmp_path / file, device="cpu") for file in ("a.safetensors", "a.onnx")]
    theirs, ours = (model(picture, **settings)[0] for model in models)
    assert ours.text == theirs.text
    assert ours.tokens == theirs.tokens
    assert 5 <= len(vocabulary.words(ours.text)) <= 6
    if name == "characters":
        assert " " not in ours.text
    else:
        assert len(ours.tokens) > len(vocabulary.words(ours.text))  # limits count words
    for model in models:
        (_, maps), *_ = model.attend([picture], [ours.text])
        assert len(maps) == len(vocabulary.words(ours.text))
        assert maps.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-4)


def characters_of(words):
    return Vocabulary([*SPECIALS, *words], {"name": "characters", "unit": "characters"})


def test_a_model_of_another_tokenizer_is_refused_naming_both(tmp_path):
    config = {"embed_size": 8, "hidden_size": 8}
    network = CNNtoRNN(6, **config)
    transform = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    vocabulary = characters_of("熊猫")
    save_checkpoint(
        tmp_path / "a.safetensors", Checkpoint(network.state_dict(), {"model": config}, vocabulary.itos, transform)
    )
    settings = {"init": str(tmp_path / "a.safetensors"), "class_loss": 0, "word_loss": 0}
    with pytest.raises(
        ValueError, match="--train.init: .*a.safetensors has the tokenizer words, the vocabulary characters"
    ):
        start_model(vocabulary, [], settings, config)
    words, characters = (
        TorchModel(network, vocabulary.itos, transform, {}, tokenizer=tokenizer)
        for tokenizer in ({"name": "words", "unit": "words"}, vocabulary.tokenizer)
    )
    with pytest.raises(ValueError, match="the tokenizer of model 2 is characters, the first model's words"):
        Ensemble([words, characters])


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"name": "letters", "unit": "words"}, "tokenizer: got 'letters', allowed are words, characters, pieces"),
        ({"name": "words", "unit": "characters"}, "tokenizer: counts 'characters'"),
        ({"name": "pieces", "unit": "words"}, "tokenizer: allowed are name, unit and"),
        ({"name": "pieces", "unit": "words", "merges": [["a", "b"]]}, "tokenizer: allowed are name, unit and"),
        ({"name": "pieces", "unit": "words", "merges": ["a b"]}, "tokenizer: the merge 'a b' is not of two pieces"),
        ({"name": "words", "unit": "words", "code": 1}, "tokenizer: allowed are name, unit and"),
        ({}, "tokenizer: got 'None'"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(tokenizer, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary([*SPECIALS, "x"], tokenizer)


def test_metadata_without_a_tokenizer_is_of_words(tmp_path):
    checkpoint = Checkpoint({}, {"model": {}}, SPECIALS, {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3})
    metadata = dump_metadata(vars(checkpoint)) | {"format": "2"}
    del metadata["tokenizer"]
    assert parse_metadata("x", metadata)["tokenizer"] == {"name": "words", "unit": "words"}

"""Korean particles: taken by the sound before them, and found behind a class name without false hits."""

import pytest

from captioning.data.korean import particle, stems
from captioning.scores.grounding import Grounder


@pytest.mark.parametrize(
    ("word", "pair", "expected"),
    [
        ("판다", "이/가", "판다가"),
        ("곰", "이/가", "곰이"),
        ("판다", "은/는", "판다는"),
        ("별", "을/를", "별을"),
        ("개", "과/와", "개와"),
        ("연필", "으로/로", "연필로"),  # after ㄹ as after a vowel
        ("칼날", "이/가", "칼날이"),
        ("손", "으로/로", "손으로"),
    ],
)
def test_the_particle_that_a_word_takes(word, pair, expected):
    assert particle(word, pair) == expected
    assert word in stems(expected)


@pytest.mark.parametrize(
    "caption",
    [
        *(
            "판다가 먹는다",
            "판다는 곰이다",
            "판다의 집",
            "판다를 본다",
            "판다와 곰",
            "판다에게 준다",
            "판다에게는 없다",
        ),
        *("판다들이 논다", "판다들의 집", "판다만 있다", "판다도 있다", "판다까지도", "이것은 판다입니다", "판다이며"),
        *("판다처럼", "아기 판다로서", "큰 판다.", "판다"),
    ],
)
def test_a_class_with_a_particle_is_named(caption):
    assert "판다" in Grounder(["판다", "곰돌이"]).find(caption)


@pytest.mark.parametrize(
    ("classes", "caption"),
    [
        (["판다"], "판다이 판다을 판다은"),  # the form after a consonant
        (["곰"], "곰가 곰는 곰를 곰와"),
        (["소"], "소나무와 소년이 있다"),
        (["파"], "파도가 친다 파도"),
        (["차"], "차도와 차이"),
        (["종", "주", "길", "강", "문"], "종이 주의 길이 강의 문의"),
        (["나"], "나무가 나비를"),
        (["사"], "사과를 먹는다"),
        (["개"], "별 두 개가 있다 세 개의 별 여러 개"),
        (["판"], "판다가 판다의"),
        (["고양"], "고양이가"),
        (["cat"], "catalogue가"),
    ],
)
def test_other_words_are_not_taken_for_a_name_with_a_particle(classes, caption):
    assert Grounder(classes).find(caption) == []


def test_the_dog_is_named_beside_the_counter():
    grounder = Grounder(["개", "별", "사과", "사"])
    assert grounder.find("개가 달린다") == ["개"]
    assert grounder.find("두 개의 별과 개") == ["별", "개"]
    assert grounder.find("사과가 있다") == ["사과"]  # an exact name first


def test_names_of_several_words_and_of_other_letters():
    grounder = Grounder(["경고 표지", "SUV", "t-shirt"])
    assert grounder.find("빨간 경고 표지가 있다") == ["경고 표지"]
    assert grounder.find("SUV가 t-shirt를") == ["SUV", "t-shirt"]


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("건물", "건물들로 둘러싸인 공원"),
        ("사람", "사람들에게 둘러싸인 차"),
        ("나무", "나무들에 둘러싸인 집"),
        ("사람", "사람들처럼"),
        ("판다", "판다들에게는"),
        ("파도", "파도는 높다"),
    ],
)
def test_the_plural_may_have_any_particle(label, caption):
    """Everyday words of aerial captions named nothing."""
    assert Grounder([label]).find(caption) == [label]


@pytest.mark.parametrize(
    ("classes", "caption", "named"),
    [
        (["파", "하늘"], "파란 하늘", ["하늘"]),  # blue, not leek
        (["노", "꽃"], "노란 꽃", ["꽃"]),
        (["검", "고양이"], "검은 고양이", ["고양이"]),
        (["차", "소년"], "공을 차는 소년", ["소년"]),  # kicking, not car
        (["바"], "바다 위의 배", []),
        (["파"], "파도는 높다", []),  # a listed word with a particle of its own
        (["차"], "차도의 사람", []),
        (["차"], "빨간 차는 주차장에 있다", ["차"]),  # the car, as the topic
        (["소"], "이것은 소다", ["소"]),
        (["종"], "종이의 색", []),
        (["길"], "길이는 길다", []),
        (["개", "별"], "열두 개의 별", ["별"]),
        (["개", "사과"], "두세 개의 사과", ["사과"]),
        (["개", "사과"], "스무 개의 사과", ["사과"]),
    ],
)
def test_what_only_looks_like_a_name_comes_before_no_class(classes, caption, named):
    assert Grounder(classes).find(caption) == named

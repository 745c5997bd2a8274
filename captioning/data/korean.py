"""Korean words with their particles and without."""

import re
from functools import lru_cache

# Particles by what may stand before: a vowel or a consonant; nothing but a vowel; nothing but a consonant. After \u3139
# the particle of direction is that of vowels.
_ANY = "의 에 에서 에게 에게서 한테 께 도 만 까지 부터 처럼 보다 마다 조차 마저 밖에 같이 들 뿐 대로 씩 하고"
_VOWEL = "가 는 를 와 로 로서 로써 랑 라도 라는 란 나 든지 야 다"
_CONSONANT = "이 은 을 과 으로 으로서 으로써 이랑 이라도 이라는 이란 이나 이든지"
_COPULA = "이다 입니다 이며 이고 인 이었다 였다"
_AFTER_ANOTHER = "는 은 도 만 의 이 을 과 나 이나 부터 까지 밖에"  # 판다에게는, 판다들이, 판다만의
_PARTICLES = {
    **dict.fromkeys((_ANY + " " + _COPULA).split(), "any"),
    **dict.fromkeys(_VOWEL.split(), "vowel"),
    **dict.fromkeys(_CONSONANT.split(), "consonant"),
}
_LONGEST = max(map(len, _PARTICLES))
_PLURAL = "들"
# Forms of particles in a template -> the pair.
_PAIRS = ("이/가", "은/는", "을/를", "과/와", "이랑/랑", "으로/로")
_FORMS = {}
for _pair in _PAIRS:
    _one, _other = _pair.split("/")
    _FORMS |= dict.fromkeys((_one, _other, f"{_one}({_other})", f"{_other}({_one})", f"({_one}){_other}"), _pair)
_FORMS |= {"(으)로": "으로/로", "(이)랑": "이랑/랑"}

# Common words that look like a word of one syllable with a particle, and are none.
_TEXT = """
가는 가도 가로 각도 강도 강의 같은 같이 개인 거리 거의 거인 고의 공과 관의 국가 국도
국의 군인 기도 길이 깊은 깊이 나는 나만 나이 넓은 노인 논의 놀이 높은 높이 눈길 늙은
달다 대가 대로 도로 동의 되는 들은 따로 마다 만이 많은 많이 말다 매만 먹는 먹이 모의
모이 무의 무지 문의 물다 미로 미인 바로 반도 별로 보는 보도 본인 부인 사과 사이 살다
상의 상인 새로 서로 성과 성인 세로 속도 손의 수도 수로 수의 시도 시인 신은 신의 실로
아이 앉은 알다 애인 없는 연인 열의 오는 오이 온도 용이 우의 원의 원인 유도 음의 의도
이의 인도 인의 입은 있는 자의 작가 작은 장과 전과 젊은 정도 정의 제도 제의 종이 좋은
죄인 주로 주의 주인 죽도 지도 진로 차도 차이 채도 철도 초과 추가 치과 타는 태도 통로
파도 파이 팔다 포도 피로 하나 하는 하루 하의 하인 학과 할인 합의 해도 호의 화가 확인
회로 회의 효과 휴가
검은 굵은 까만 낮은 노란 늦은 맑은 바다 밝은 붉은 사는 얇은 얕은 옅은 우는 좁은 주는 지는
짙은 짧은 추는 치는 파란 피는
"""
_WHOLE = frozenset(_TEXT.split())
_VERBS = ("차는", "파는")  # kicking, digging; or the car and the leek as the topic
_TENS = "열|스물|서른|마흔|쉰|예순|일흔|여든|아흔"
_ONES = "한두|두세|두서너|서너|너댓|대여섯|한|두|세|네|다섯|여섯|일곱|여덟|아홉"
_NUMERAL = re.compile(rf"(?:(?:{_TENS})?(?:{_ONES})|{_TENS}|스무|몇|몇몇|여러|수십|\d+)\Z")


def has_final(word):
    """True if the last letter of a word is a Hangul syllable with a final consonant."""
    return bool(word) and _is_syllable(word[-1]) and (ord(word[-1]) - 0xAC00) % 28 > 0


def _is_syllable(letter):
    return "가" <= letter <= "힣"


def particle(word, pair):
    """Return a word with the particle that it takes: pair "이/가", the form after a consonant first.

    Raises ValueError if the last letter is no Hangul syllable, whose sound is not known.
    """
    if not _is_syllable(word[-1:]):
        raise ValueError(f"particle: got {word!r}, its last letter must be a Hangul syllable")
    after_consonant, after_vowel = pair.split("/")
    is_l = (ord(word[-1]) - 0xAC00) % 28 == 8  # ㄹ, after which it is 로
    return word + (after_consonant if has_final(word) and not (is_l and after_consonant == "으로") else after_vowel)


def fit_particles(template, place, word):
    """Return a template whose particles behind `place` are those that a word takes there.

    The template may have a particle in either form or in both: 가, 이 and 이(가) are one.
    """
    if not _is_syllable(word[-1:]):
        return template
    forms = "|".join(map(re.escape, sorted(_FORMS, key=len, reverse=True)))
    behind = rf"(?<={re.escape(place)})(?:{forms})(?!\w)"
    return re.sub(behind, lambda match: particle(word, _FORMS[match[0]])[len(word) :], template)


@lru_cache(2**16)
def stems(word):
    """Return what is left of a word without each particle, or two, that it may end in; the longest first.

    The plural's 들 may stand before them: 사람들에게는. A particle counts only if it has the form that the sound
    before it asks for: 판다가 and 곰이, not 판다이 or 곰가. Common words that only look so, such as 파도 (wave) beside
    파 (leek) and its particle 도, have none, and are what is left of 파도는.
    """
    if word in _WHOLE or not _is_syllable(word[-1:]):
        return ()
    found = []
    for end in range(len(word) - 1, max(1, len(word) - 3 * _LONGEST) - 1, -1):
        is_plural = bool(found) and found[-1] == word[: end + 1] and word[end] == _PLURAL
        if is_plural or _ends_in_particles(word, end):
            found.append(word[:end])
            if word[:end] in _WHOLE:
                break
    return tuple(found)


def _ends_in_particles(word, end):
    """True if what stands from `end` on is one particle, or two."""
    return _fits(word[:end], word[end:]) or any(
        _fits(word[:end], word[end:middle])
        and word[middle:] in _AFTER_ANOTHER.split()
        and _fits(word[:middle], word[middle:])
        for middle in range(end + 1, len(word))
    )


def is_verb(word, before):
    """True if a word is a verb behind its object: 공을 차는 (kicking a ball), and not 차는 (the car)."""
    return word in _VERBS and len(before) > 1 and before.endswith(("을", "를"))


def is_counter(word, before):
    """True if 개 (dog) is the counter of things, with or without a particle: 두 개의 별."""
    return (word == "개" or "개" in stems(word)) and bool(_NUMERAL.match(before))


def _fits(stem, ending):
    """True if `ending` is a particle in the form that it has after `stem`."""
    kind = _PARTICLES.get(ending)
    if kind is None or kind == "any" or not _is_syllable(stem[-1]):  # nobody knows how a Latin letter is read
        return kind is not None
    is_l = (ord(stem[-1]) - 0xAC00) % 28 == 8
    if is_l and ending.removeprefix("으").startswith("로"):
        return not ending.startswith("으")
    return has_final(stem) == (kind == "consonant")

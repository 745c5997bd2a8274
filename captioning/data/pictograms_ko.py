"""The pictograms in Korean: the names of their classes, and what is said of a picture."""

from captioning.data.korean import particle

# class word -> (its Korean name, the counter of such things)
NOUNS = {
    "airplane": ("비행기", "대"), "ampersand": ("앰퍼샌드", "개"), "anchor": ("닻", "개"), "arrow": ("화살표", "개"),
    "biohazard sign": ("생물 위험 표지", "개"), "bishop": ("비숍", "개"), "cat": ("고양이", "마리"),
    "check mark": ("체크 표시", "개"), "cloud": ("구름", "개"), "club": ("클로버", "개"), "cow": ("소", "마리"),
    "cross": ("십자가", "개"), "cup": ("찻잔", "개"), "diamond": ("다이아몬드", "개"), "dice": ("주사위", "개"),
    "dollar sign": ("달러 기호", "개"), "envelope": ("봉투", "장"), "flag": ("깃발", "개"), "flower": ("꽃", "송이"),
    "gear": ("톱니바퀴", "개"), "hammer": ("망치", "쌍"), "heart": ("하트", "개"), "hexagram": ("육각별", "개"),
    "house": ("집", "채"), "infinity sign": ("무한대 기호", "개"), "keyboard": ("키보드", "대"), "king": ("킹", "개"),
    "knight": ("나이트", "개"), "leaf": ("나뭇잎", "장"), "lightning bolt": ("번개", "개"),
    "monkey": ("원숭이", "마리"),
    "moon": ("초승달", "개"), "music note": ("음표", "개"), "pawn": ("폰", "개"), "peace sign": ("평화 기호", "개"),
    "pencil": ("연필", "자루"), "queen": ("퀸", "개"), "question mark": ("물음표", "개"),
    "radiation sign": ("방사능 표지", "개"), "rat": ("쥐", "마리"), "recycling sign": ("재활용 표시", "개"),
    "rook": ("룩", "개"), "scale": ("저울", "개"), "scissors": ("가위", "개"), "shamrock": ("토끼풀", "개"),
    "skull": ("해골", "개"), "smiley": ("웃는 얼굴", "개"), "snowflake": ("눈송이", "개"), "snowman": ("눈사람", "개"),
    "spade": ("스페이드", "개"), "star": ("별", "개"), "sun": ("태양", "개"), "swords": ("칼", "쌍"),
    "telephone": ("전화기", "대"), "umbrella": ("우산", "개"), "urn": ("항아리", "개"),
    "warning sign": ("경고 표지", "개"),
    "wheel": ("수레바퀴", "개"), "wheelchair": ("휠체어", "대"), "yin yang": ("태극무늬", "개"),
}  # fmt: skip
COLOURS = {
    "red": "빨간", "orange": "주황색", "yellow": "노란", "green": "초록색", "blue": "파란", "purple": "보라색",
    "pink": "분홍색", "brown": "갈색", "black": "검은", "white": "하얀",
}  # fmt: skip
SIZES = {"small": "작은", "": "", "large": "커다란"}
TEXTURES = {
    "plain": "무늬 없는",
    "striped": "줄무늬가 있는",
    "dotted": "물방울무늬가 있는",
    "checked": "바둑판무늬가 있는",
}
NUMBERS = {1: "한", 2: "두", 3: "세"}
WORDINGS = (
    "{objects_i} {ground} 배경 위에 있다",
    "그림에 {textured} 배경과 {sized_i} 보인다",
    "{textured} 배경 앞에 {sized_i} 있다",
    "{ground} 바탕에 {sized_eul} 그린 그림",
    "{objects_eun} {textured} 배경 위에 있다",
)


def phrase(word, number, *adjectives):
    """Return the noun phrase of `number` objects: 작은 빨간 우산, 빨간 고양이 두 마리, 빨간 망치 한 쌍."""
    noun, counter = NOUNS[word]
    told = " ".join([*filter(None, adjectives), noun])
    return told if number == 1 and counter != "쌍" else f"{told} {NUMBERS[number]} {counter}"


def describe(scene, wordings):
    """Return the captions of a pictograms.Scene: the canonical one, then those of WORDINGS at the places `wordings`."""
    figure, ground = COLOURS[scene.figure], COLOURS[scene.ground]
    objects = phrase(scene.word, scene.number, figure)
    sized = phrase(scene.word, scene.number, SIZES[scene.size], figure)
    parts = {
        "objects_i": particle(objects, "이/가"),
        "objects_eun": particle(objects, "은/는"),
        "sized_i": particle(sized, "이/가"),
        "sized_eul": particle(sized, "을/를"),
        "ground": ground,
        "textured": f"{TEXTURES[scene.texture]} {ground}",
    }
    canonical = "{ground} 배경에 {objects_i} 있다"
    return [wording.format(**parts) for wording in (canonical, *(WORDINGS[index] for index in wordings))]

"""Figures are written whole, at a size that holds what they show; how they look is for eyes."""

import itertools
import logging
import random
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import ft2font
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text
from PIL import Image

from captioning import fonts, plots

CLASSES = [f"pair of scissors {number}" for number in range(60)]


@pytest.fixture(autouse=True)
def _no_warnings(caplog):
    """A glyph that the font lacks or a layout that collapses is only a warning to matplotlib."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "matplotlib"):
        warnings.simplefilter("error")
        yield
    assert not caplog.records


def read(path):
    """Return the pixels of a PNG as (H, W, 3), read to the end."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 5, "an empty page"
    return pixels


def noise(width, height):
    generator = np.random.default_rng(width)
    return Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_attention_figure_is_bright_where_the_weight_is(tmp_path):
    """A white picture of 2 words: the first looked at the left upper quarter, the second everywhere alike."""
    maps = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.25, 0.25], [0.25, 0.25]]])
    white = np.ones((64, 64, 3))
    plots.attention_figure([white], [["$a$", "sun"]], [maps], tmp_path / "a.png", title="t")
    pixels = read(tmp_path / "a.png")[:, :, 0]
    third = pixels.shape[1] // 3
    first = pixels[-100:, third : 2 * third]  # below its title
    assert (first < 80).mean() > 0.2  # about a fifth of white where nothing was looked at
    assert (pixels[-100:, :third] < 80).mean() < 0.02
    assert (pixels[-100:, 2 * third :] < 80).mean() < 0.02


@pytest.mark.parametrize(
    "values", [{"a": [2.0, 1.5, float("nan"), 1.0], "b": [3.0, 2.0, 1.0, 0.5]}, {"a": [1.0]}, {"a": []}]
)
def test_curve(tmp_path, values):
    plots.curve(values, tmp_path / "new" / "c.png", title="Loss of $1 and $2", ylabel="nats")
    assert read(tmp_path / "new" / "c.png").shape[1] > 600


@pytest.mark.parametrize("lengths", [Counter({3: 10, 12: 2}), [3, 3, 12], []])
def test_vocabulary_figure(tmp_path, lengths):
    counts = {f"word{rank}": 1000 // rank for rank in range(1, 300)} if lengths else {}
    plots.vocabulary_figure(lengths, counts, tmp_path / "v.png", min_count=5)
    assert read(tmp_path / "v.png").shape[1] > 1000


def test_complexity_figure_with_a_latency_that_one_model_lacks(tmp_path):
    costs = {"params_m": 2.61, "macs_g": 0.327, "checkpoint_mb": 10.5}
    rows = [
        {"model": "MobileNetV2 (300)", **costs, "latency_ms": {"cpu batch 1": 20.0, "cuda batch 1": 2.0}},
        {"model": "ResNet-18 (512)", **costs, "latency_ms": {"cpu batch 1": 2500.0}},
    ]
    plots.complexity_figure(rows, tmp_path / "x.png")
    assert read(tmp_path / "x.png").shape[0] > 500


def test_numbers_keep_the_digits_of_the_complexity_table():
    shown = [plots.number(value) for value in (11.44, 0.327, 1.824, 1824.4, 3, float("nan"))]
    assert shown == ["11.44", "0.327", "1.824", "1,824", "3", "–"]


def test_caption_grid_grows_with_its_texts(tmp_path):
    images = [noise(256, 256), noise(100, 300), noise(300, 100)]
    short = [[("knight", "label"), ("a knight", "right")], [("sun", "label"), ("", "wrong")], [("x", "caption")]]
    long = [*short[:2], [("a very long caption " * 12 + "w" * 300, "reference")]]
    heights = []
    for texts in (short, long):
        plots.caption_grid(images, texts, tmp_path / "g.png", columns=2, title="A title that is too long " * 6)
        heights.append(read(tmp_path / "g.png").shape[0])
    assert heights[1] > heights[0] + 100


def test_caption_grid_stays_within_its_page(tmp_path):
    # Text that is cut off or runs over the edge would leave ink on the border of the page.
    texts = [[("mobile_home_park_" * 9, "label"), ("residential " * 30, "wrong")]] * 3
    plots.caption_grid([noise(64, 64)] * 3, texts, tmp_path / "g.png", columns=3)
    pixels = read(tmp_path / "g.png")
    assert all((edge == 255).all() for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]))


def test_caption_grid_tells_right_from_wrong_without_colour(tmp_path):
    grey = []
    for style in ("right", "wrong"):
        plots.caption_grid([Image.new("RGB", (64, 64), "grey")], [[("x", style)]], tmp_path / "g.png", columns=1)
        grey.append(np.asarray(Image.open(tmp_path / "g.png").convert("1")))
    assert (grey[0] != grey[1]).sum() > 200


def test_caption_grid_draws_as_fine_as_asked_and_as_fits(tmp_path, monkeypatch):
    sizes = []
    for dpi, most in ((60, 2**16), (240, 2**16), (240, 600)):
        monkeypatch.setattr(plots, "MAX_PIXELS", most)
        plots.caption_grid([noise(64, 64)] * 2, [[("a", "caption")]] * 2, tmp_path / "g.png", columns=1, dpi=dpi)
        sizes.append(read(tmp_path / "g.png").shape[0])
    assert sizes[1] == pytest.approx(4 * sizes[0], abs=4)
    assert 500 < sizes[2] <= 600
    monkeypatch.setattr(plots, "MAX_PIXELS", 200)
    with pytest.raises(ValueError, match="2 pictures are too many for one page"):
        plots.caption_grid([noise(64, 64)] * 2, [[("a", "caption")]] * 2, tmp_path / "g.png", columns=1)


@pytest.mark.parametrize("texts", [[], [[("a", "caption")]] * 2])
def test_caption_grid_refuses_unequal_lists(tmp_path, texts):
    with pytest.raises(ValueError, match="as many"):
        plots.caption_grid([noise(8, 8)] if texts else [], texts, tmp_path / "g.png", columns=2)


@pytest.mark.parametrize("count", [1, 21, 60])
def test_confusion_and_class_figures(tmp_path, count):
    names = CLASSES[:count]
    counts = np.eye(count, count + 1, dtype=int) * 30
    counts[0, -1] = 2
    plots.confusion_figure(
        pd.DataFrame(counts, index=names, columns=[*names, "(none)"]), tmp_path / "m.png", title="Classes"
    )
    height, width, _ = read(tmp_path / "m.png").shape
    assert min(height, width) > 20 * count  # 20 pixels hold a letter of a label

    scores = {"bleu4": 0.5, "cider_d": 3.0, "accuracy": 0.0, "f1": 1.0}
    plots.class_figure(pd.DataFrame({"class": names} | scores), tmp_path / "b.png", title="Classes")
    assert read(tmp_path / "b.png").shape[0] > 20 * count


def class_scores(names, **scores):
    """A class table with intervals: the same scores for each name, but for the values given as lists."""
    table = pd.DataFrame({"class": names} | {"bleu4": 0.5, "cider_d": 3.0, "accuracy": 0.9, "f1": 1.0} | scores)
    for score in ("bleu4", "cider_d", "accuracy", "f1"):
        table[f"{score}_low"], table[f"{score}_high"] = table[score] - 0.1, table[score] + 0.05
    return table


@pytest.mark.parametrize("count", [1, 21, 60])
def test_classes_with_intervals(tmp_path, count):
    table = class_scores(CLASSES[:count], accuracy=np.linspace(0, 1, count), reference_naming=0.8)
    plots.class_figure(table, tmp_path / "b.png", title="Classes")
    without = class_scores(CLASSES[:count], accuracy=np.linspace(0, 1, count))[
        ["class", "bleu4", "cider_d", "accuracy", "f1"]
    ]
    plots.class_figure(without, tmp_path / "w.png", title="Classes")
    assert read(tmp_path / "b.png").mean() != read(tmp_path / "w.png").mean(), "the whiskers are drawn"
    table["group"] = ["top", "", "bottom"][:count] + [""] * (count - 3)
    plots.class_scatter(table, tmp_path / "s.png", title="BLEU-4 against accuracy")
    assert read(tmp_path / "s.png").shape[1] > 900


def test_interval_figure_marks_zero_only_where_it_is_near(tmp_path):
    names = {"name": ["a", "b"], "value": [0.5, 0.6]}
    plots.interval_figure(
        pd.DataFrame({**names, "low": [0.4, 0.5], "high": [0.6, 0.7]}), tmp_path / "a.png", title="t", xlabel="x"
    )
    plots.interval_figure(
        pd.DataFrame({**names, "low": [-0.4, 0.5], "high": [0.6, 0.7]}), tmp_path / "b.png", title="t", xlabel="x"
    )
    assert read(tmp_path / "a.png").mean() != read(tmp_path / "b.png").mean()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_reference_figure(tmp_path, count):
    values = np.linspace(0.3, 0.6, count)
    theirs = [*values[:-1], np.nan]
    table = pd.DataFrame({"references": range(1, count + 1), "bleu4": values, "cider_d": values})
    plots.reference_figure(
        table.assign(reference_bleu4=theirs, reference_cider_d=theirs), tmp_path / "r.png", title="t"
    )
    assert read(tmp_path / "r.png").shape[1] > 800


def test_length_figure_of_captions_without_words(tmp_path):
    plots.length_figure({"the model's": [0, 0], "the references'": [3, 4, 4, 12]}, tmp_path / "l.png", title="t")
    assert read(tmp_path / "l.png").shape[1] > 800


@pytest.mark.parametrize("names", [("accuracy", "sentence_bleu4", "cider_d"), ("sentence_bleu4", "cider_d")])
def test_calibration_figure(tmp_path, names):
    table = pd.DataFrame({"confidence": [0.5, 0.7, 0.9]})
    for name in names:
        table = table.assign(**{name: [0.4, 0.6, 1.0], f"{name}_low": [0.3, 0.5, 1.0], f"{name}_high": [0.5, 0.7, 1.0]})
    plots.calibration_figure(table, tmp_path / "c.png", title="t")
    assert read(tmp_path / "c.png").shape[1] > 400 * len(names)


def test_the_names_of_a_scatter_lie_within_the_axes_and_apart(tmp_path):
    """They lay on the tick labels, on the axis title, and left of the axes."""
    rng = np.random.default_rng(0)
    names = [f"{'ein sehr langer Klassenname mit Nummer' if number % 2 else '고양이'} {number}" for number in range(40)]
    table = pd.DataFrame({"class": names, "bleu4": rng.random(40), "accuracy": rng.choice([0.0, 0.1, 1.0], 40)})
    with plots.new_figure(tmp_path / "s.png", 9.5, 6) as figure:
        axes = figure.add_subplot()
        axes.scatter(table["bleu4"], table["accuracy"])
        plots._label_points(axes, table.iloc[:24], table)
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
    assert len(boxes) > 15
    inside = axes.get_window_extent().padded(3)
    for box in boxes:
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1
    inner = [box.padded(-2) for box in boxes]
    assert not [pair for pair in itertools.combinations(inner, 2) if pair[0].overlaps(pair[1])]
    points = axes.transData.transform(table[["bleu4", "accuracy"]])
    assert not [point for point in points for box in inner if box.contains(*point)]


def test_a_long_word_stays_above_its_picture(tmp_path, monkeypatch):
    drawn = []
    save = plots.Figure.savefig
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *a, **k: (save(figure, *a, **k), drawn.append(figure)))
    word, white = "Donaudampfschifffahrtsgesellschaft", np.ones((8, 8, 3))
    maps = np.full((2, 2, 2), 0.25)
    plots.attention_figure([white], [[word, word]], [maps], tmp_path / "a.png", title="t")
    first, second = [axes.title.get_window_extent() for axes in drawn[0].axes[1:]]
    assert first.x1 < second.x0


@pytest.fixture
def _no_fonts(monkeypatch):
    """A machine without fonts but matplotlib's own, on which nothing was told yet."""
    own = [font for font in fontManager.ttflist if "matplotlib" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "installed_fallbacks", list)
    for name, value in (("_told", []), ("_found", []), ("_missing", set())):
        monkeypatch.setattr(fonts, name, value)


@pytest.mark.usefixtures("_no_fonts")
def test_characters_that_no_font_draws_are_told_in_one_line_in_all(tmp_path, capsys):
    image = noise(30, 30)
    plots.curve({"a": [1, 2], "熊": [1, 2]}, tmp_path / "c.png", title="판다 판다", ylabel="y")
    plots.vocabulary_figure({3: 2}, {"판다가": 3, "둘": 1}, tmp_path / "v.png")
    plots.caption_grid([image], [[("한국어 문장", "caption")]], tmp_path / "g.png", columns=1, title="한국어")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: no installed font has ")
    assert "apt install fonts-nanum fonts-noto-cjk" in line or "apt install fonts-noto-cjk fonts-nanum" in line
    assert str(tmp_path) not in line


@pytest.mark.parametrize(
    ("character", "package"),
    [
        ("가", "fonts-nanum"),
        ("猫", "fonts-noto-cjk"),
        ("あ", "fonts-noto-cjk"),
        ("क", "fonts-noto-core"),
        ("😀", "fonts-symbola"),
    ],
)
def test_the_package_of_a_character(character, package):
    assert fonts.package_of(character) == package


def test_hangul_is_drawn_where_a_font_has_it(tmp_path, capsys, monkeypatch):
    """The monospaced table too; a font that was installed after matplotlib first ran is found."""
    if not any(re.search("nanum|notosanscjk", Path(path).name, re.IGNORECASE) for path in findSystemFonts()):
        pytest.skip("no font for Hangul on this machine")
    monkeypatch.setattr(fonts, "_told", [])
    known = [font for font in fontManager.ttflist if "CJK" not in font.name and "Nanum" not in font.name]
    monkeypatch.setattr(fontManager, "ttflist", known)  # as in a list from before
    fonts.installed_fallbacks.cache_clear()
    plots.vocabulary_figure({3: 2}, {"판다가": 3, "둘": 1}, tmp_path / "v.png")
    plots.caption_grid([noise(30, 30)], [[("한국어 문장", "label")]], tmp_path / "g.png", columns=1, title="한국어")
    assert capsys.readouterr().out == ""
    assert fonts.installed_fallbacks()
    fonts.installed_fallbacks.cache_clear()


@pytest.mark.usefixtures("_no_fonts")
def test_any_installed_font_that_has_a_character_draws_it(tmp_path, capsys, monkeypatch):
    """Beside a list of names, installed fonts of other scripts were not used, and were said to be missing."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, x, y in (("moveTo", 0, 0), ("lineTo", 500, 0), ("lineTo", 500, 700), ("lineTo", 0, 700)):
        getattr(pen, move)((x, y))
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "yi"])
    builder.setupCharacterMap({0xA000: "yi"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "yi": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "yi": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Yi Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "yi.ttf")

    plots.curve({"a": [1, 2]}, tmp_path / "before.png", title="ꀀꀀꀀ", ylabel="y")
    assert "no installed font has ꀀ" in capsys.readouterr().out
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(tmp_path / "yi.ttf")])
    for name, value in (("_told", []), ("_missing", set())):
        monkeypatch.setattr(fonts, name, value)
    plots.curve({"a": [1, 2]}, tmp_path / "after.png", title="ꀀꀀꀀ", ylabel="y")
    assert capsys.readouterr().out == ""
    assert fonts.families() == ["DejaVu Sans", "Yi Test"]
    black = [int((read(tmp_path / f"{name}.png")[:40, :, :3] == 0).all(axis=2).sum()) for name in ("before", "after")]
    assert black[1] > 2 * black[0]  # filled signs, not the outlines of boxes
    plots.caption_grid([noise(30, 30)], [[("ꀀꀁ", "caption")]], tmp_path / "g.png", columns=1)
    assert "no installed font has ꀁ;" in capsys.readouterr().out


def test_other_warnings_pass(tmp_path):
    with pytest.raises(UserWarning, match="heed this"), plots.new_figure(tmp_path / "a.png", 2, 2):
        warnings.warn("heed this", UserWarning, stacklevel=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with plots.new_figure(tmp_path / "a.png", 2, 2):
            warnings.warn("heed this", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["heed this"]


@pytest.fixture
def written(monkeypatch):
    """The names that class_scatter writes, as matplotlib's texts."""
    texts = []
    annotate = plots.Figure().add_subplot().annotate.__func__

    def record(axes, *arguments, **options):
        texts.append(annotate(axes, *arguments, **options))
        return texts[-1]

    monkeypatch.setattr("matplotlib.axes.Axes.annotate", record)
    return texts


def overlapping(texts):
    """Pairs of texts of a drawn figure whose boxes have a point in common."""
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


def test_names_beside_points_do_not_run_into_each_other(tmp_path, written):
    """Eight classes, side by side and closer than their names are long."""
    table = class_scores(CLASSES[:8], accuracy=0.5).assign(group="", bleu4=0.5 + 0.003 * np.arange(8))
    plots.class_scatter(table, tmp_path / "s.png", title="t")
    assert len(written) == 8
    assert not overlapping(written)


def test_classes_on_one_spot_share_one_text(tmp_path, written):
    table = class_scores(CLASSES[:8], accuracy=0.5).assign(group="", bleu4=0.1 + np.array([0.2, 0.2 + 1e-16] * 4))
    plots.class_scatter(table, tmp_path / "s.png", title="t")
    assert [text.get_text() for text in written] == [f"{CLASSES[0]}, {CLASSES[1]} and 6 more"]
    written.clear()
    both_best = class_scores(CLASSES[:5], accuracy=1.0, bleu4=[1.0, 0.3, 0.2, 0.6, 1.0]).assign(group="")
    plots.class_scatter(both_best, tmp_path / "s.png", title="t")
    assert {text.get_text() for text in written} == {f"{CLASSES[0]}, {CLASSES[4]}", CLASSES[1], CLASSES[2]}
    written.clear()
    many_best = class_scores(CLASSES[:13], accuracy=1.0, bleu4=[1.0] * 11 + [0.2, 0.3]).assign(group="")
    plots.class_scatter(many_best, tmp_path / "s.png", title="t")
    assert f"{CLASSES[0]}, {CLASSES[1]} and 9 more" in [text.get_text() for text in written]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(self, path, **options):
        path.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    path = tmp_path / "c.png"
    plots.curve({"a": [1.0]}, path, title="t", ylabel="y")
    before = path.read_bytes()
    monkeypatch.setattr(plots.Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        plots.curve({"a": [2.0]}, path, title="t", ylabel="y")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("_no_fonts")
def test_scripts_that_matplotlibs_font_has_are_drawn_in_every_style(tmp_path, capsys):
    """Its slanted form has no Arabic, its monospaced one no Hebrew; boxes were drawn, and a font asked for."""
    lines = plots.caption_lines("كلب", "كلب أبيض", True, "BLEU-4 0.10", "قطة سوداء، على الأريكة.")
    plots.caption_grid([noise(30, 30)], [lines], tmp_path / "g.png", columns=1, title="קטה")
    plots.vocabulary_figure({3: 2}, {"כלב": 3, "قطة": 1}, tmp_path / "v.png")
    assert capsys.readouterr().out == ""


def test_a_font_without_a_bold_form_is_not_logged(tmp_path, monkeypatch, caplog):
    """With Noto Sans CJK installed, each report began with "findfont: Failed to find font weight bold", six times."""
    monkeypatch.setattr(fonts, "installed_fallbacks", lambda: ["cmr10"])
    plots.caption_grid([noise(30, 30)], [[("a cat", "label")]], tmp_path / "g.png", columns=1, title="t")
    assert caplog.text == ""


@pytest.mark.skipif(not hasattr(ft2font, "LayoutItem"), reason="before 3.11 matplotlib shapes no text")
def test_arabic_is_joined_and_hebrew_drawn_from_right_to_left():
    def drawn(text):
        font = get_font(findfont(FontProperties(family="DejaVu Sans")))
        font.set_text(text)
        font.draw_glyphs_to_bitmap()
        return np.asarray(font.get_image())

    assert drawn("\u0628\u0628\u0628").shape[1] < 2.5 * drawn("\u0628").shape[1]
    last = drawn("\u05e9")  # of the word, so that it stands at its left end
    word = drawn("\u05d9\u05d9\u05e9")
    assert np.abs(word[: len(last), : last.shape[1]].astype(int) - last).mean() < 20


@pytest.mark.parametrize("font", [{"size": 8.5}, {"size": 8.5, "weight": "bold"}, {"size": 8.5, "style": "italic"}])
def test_wrapped_lines_fit_and_lose_nothing(font):
    """Lines are as wide as their words and spaces; each is measured here as a whole, within two pixels."""
    rng = random.Random(0)
    words = ["a", "two", "girl", "trampoline", "Wi-Fi", "illustration", "is,", "AVATAR", "swimming"]
    with plots.figure_style():
        for _ in range(50):
            text = " ".join(rng.choices(words, k=rng.randint(1, 30)))
            lines = plots._wrap(text, 2.5, font)
            assert " ".join(lines) == text
            assert max(plots._text_width(line, **font) for line in lines) <= 2.5 + 2 / plots.DPI
            for line, following in itertools.pairwise(lines):
                longer = f"{line} {following.split()[0]}"
                assert plots._text_width(longer, **font) > 2.5 - 2 / plots.DPI, "the next word had room"
        assert "".join(plots._wrap("wide" * 30, 2.5, font)) == "wide" * 30

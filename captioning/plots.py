"""Every figure the project draws, as PNG files.

Each function takes data and a path, and returns nothing. The figures need no display and do not change matplotlib's
global state. Nothing is encoded by colour alone: a marker, a hatch, a frame or a number repeats it, so the figures can
be read in greyscale.
"""

import functools
import itertools
import logging
import math
import re
import unicodedata
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from captioning.data.images import highlight
from captioning.files import check_file, replace_file
from captioning.fonts import families, find_families, tell_missing

DPI = 120  # pixels per inch of every PNG, unless another number is asked for
# Okabe and Ito's colours, ordered so that neighbours differ in lightness as well.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#E69F00", "#009E73", "#000000"
COLORS = [BLUE, ORANGE, BLACK, "#CC79A7", GREEN, "#D55E00"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
DASHES = ["-", "--", "-.", ":"]
HATCHES = ["", "///", "...", "xxx", "\\\\\\", "+++"]
STYLE = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a caption may hold two dollar signs
    "text.hinting": "no_hinting",  # hinting tears letters apart, and takes a quarter of the time of a text
}
INSIDE = {"in_layout": False}  # of a text within its axes: the arrangement need not measure it
_SLANTED = re.compile("[\0-\u058f\u1d00-\u2bff]*")  # Latin, Greek, Cyrillic, Armenian: DejaVu's italics have no others
MAX_PIXELS = 2**16 - 1  # of a side: matplotlib's limit
LEAST_DPI = 40  # pixels per inch; below, text is illegible
MAX_SIDE = 60.0  # inches; bounds the memory of a figure with many classes


def check_figure(path):
    """Raise ValueError if no figure can be written to `path`."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: figures are written as PNG, give a name that ends in .png")
    check_file(path)


@contextmanager
def new_figure(path, width, height, layout="constrained", dpi=DPI):
    """Yield a Figure of width x height inches at `dpi` pixels per inch; save it to `path` unless the block raises."""
    check_figure(path)
    with figure_style():
        figure = Figure(figsize=(width, height), dpi=dpi, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        box = None
        if layout == "constrained" and figure.axes:
            # savefig(bbox_inches="tight") draws the figure twice more to find the same place and page.
            if len(figure.axes) > 1:  # one needs no arrangement: the page is what is drawn
                figure.get_layout_engine().execute(figure)
            figure.set_layout_engine(None)  # savefig lays out again for "none", too
            box = figure.get_tightbbox().padded(0.15)
        with replace_file(path) as temporary:
            # At Pillow's own level 6 the compression takes 1.8 times as long, for 8 % fewer bytes.
            figure.savefig(temporary, format="png", bbox_inches=box, pil_kwargs={"compress_level": 3})


@contextmanager
def figure_style():
    """Draw and measure as STYLE says, with the fonts that are installed.

    Fonts that have what is missing are added to families(), for the next figure; the first characters that no font has
    are told in one line, once in a process. matplotlib warns whenever it measures one, and logs each font that has no
    bold or slanted form, whose plain form it takes.
    """
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context(STYLE | {"font.family": families()}):
        warnings.filterwarnings("always", r"Glyph \d+ ")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
    missing = {}  # in order
    for warning in caught:
        if match := re.match(r"Glyph (\d+) ", str(warning.message)):
            missing[chr(int(match[1]))] = True
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    tell_missing(find_families(missing))


def with_all_fonts(draw):
    """Draw once more if it showed that characters are missing which an installed font has."""

    @functools.wraps(draw)
    def drawn(*arguments, **settings):
        known = families()
        draw(*arguments, **settings)
        if families() != known:
            _text_width.cache_clear()
            draw(*arguments, **settings)

    return drawn


def number(value):
    """Format a number with four significant digits: 0.327, 11.33, 1,824; "–" for NaN."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@with_all_fonts
def curve(values, path, *, title, ylabel, xlabel="epoch"):
    """Draw one line per entry of `values`, with a marker at each point.

    values: name -> one float for each epoch, the first is epoch 1; a NaN leaves a gap
    """
    with new_figure(path, 7, 4.2) as figure:
        axes = figure.add_subplot()
        for index, (name, line) in enumerate(values.items()):
            axes.plot(
                range(1, len(line) + 1),
                line,
                label=name,
                color=COLORS[index % len(COLORS)],
                linestyle=DASHES[index % len(DASHES)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=5 if len(line) <= 40 else 2.5,
            )
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(values) > 1:
            axes.legend()


@with_all_fonts
def training_figure(history, path, *, title, best):
    """Draw the losses (left) and the validation scores (right) over the epochs of a training.

    history: one dict per epoch: epoch, train_loss, val_loss, and where known cider_d, bleu4, class_accuracy, stage
    best:    the epoch that was kept, 0 = unknown; a line marks it, thin ones the beginnings of stages
    """
    epochs = [row["epoch"] for row in history]
    losses = {"train": "train_loss", "validation": "val_loss"}
    scores = {"CIDEr-D": "cider_d", "BLEU-4": "bleu4", "class accuracy": "class_accuracy"}
    stages = [row.get("stage", "") for row in history]
    begins = [place for place in range(1, len(history)) if stages[place] != stages[place - 1]]
    with new_figure(path, 9, 3.6) as figure:
        figure.suptitle(title)
        panels = (("loss, nats per token", losses), ("score on the validation split", scores))
        for axes, (label, lines) in zip(figure.subplots(1, 2), panels, strict=True):
            drawn = [(name, key) for name, key in lines.items() if any(key in row for row in history)]
            for index, (name, key) in enumerate(drawn):
                values = [row.get(key, math.nan) for row in history]
                style = {"color": COLORS[index], "marker": MARKERS[index], "ms": 4 if len(epochs) <= 40 else 2}
                axes.plot(epochs, values, DASHES[index], label=name, **style)
            for place in begins:
                axes.axvline(epochs[place] - 0.5, color="#999999", linewidth=0.8)
                where = {"xy": (epochs[place] - 0.4, 1), "xycoords": ("data", "axes fraction"), "va": "top"}
                axes.annotate(stages[place], size=7, **where)
            if best:
                axes.axvline(best, color=BLACK, linewidth=1, linestyle=":", label="epoch kept")
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.legend(fontsize=8)


@with_all_fonts
def vocabulary_figure(lengths, counts, path, *, min_count=0, num_words=12, unit="words"):
    """Draw the histogram of caption lengths (left) and the frequency of each word by rank (right).

    lengths:   {length in words: number of captions}, or one length per caption
    counts:    word -> number of occurrences
    min_count: above 1, a line marks the frequency below which words become <unk>
    num_words: most frequent words that are listed
    unit:      words | characters, what is counted
    """
    lengths = Counter(lengths)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    with new_figure(path, 12.5, 4.6) as figure:
        left, right, names = figure.subplots(1, 3, width_ratios=[5, 5, 2])
        names.set_axis_off()
        names.set_title("most frequent", loc="left", fontsize=9)
        left.bar(list(lengths), list(lengths.values()), width=0.9, color=BLUE, edgecolor="white", linewidth=0.3)
        left.set(title="Caption length", xlabel=f"{unit} in a caption", ylabel="captions")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

        right.set(title=f"Frequency of {unit}", xlabel="rank", ylabel="occurrences")
        if ranked:
            ranks = np.arange(1, len(ranked) + 1)
            frequencies = [count for _, count in ranked]
            right.loglog(ranks, frequencies, color=BLUE, marker="o", markersize=3, linewidth=1)
            right.set_ylim(bottom=0.8)
            for axis in (right.xaxis, right.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
                axis.set_minor_formatter(NullFormatter())
            width = max(sum(1 + wide(letter) for letter in word[:24]) for word, _ in ranked[:num_words])
            mono = {"va": "top", "family": families("DejaVu Sans Mono"), "fontsize": 8}
            for line, (word, count) in enumerate(ranked[:num_words]):  # apart: some scripts have wide characters
                y = 0.97 - 0.9 * line / num_words
                names.text(0, y, word[:24], **mono)
                names.text(0.068 * (width + 10), y, f"{count:,}", ha="right", **mono)
        if min_count > 1 and ranked:
            right.axhline(min_count, color=BLACK, linestyle="--", linewidth=1)
            right.text(1, min_count * 1.08, f"min_count {min_count}", fontsize=8)


def wide(letter):
    """True for a character that is as wide as two letters in a font of equal widths."""
    return unicodedata.east_asian_width(letter) in "WF"


@with_all_fonts
def complexity_figure(rows, path):
    """Draw one bar chart per cost of the models, with the value on each bar.

    rows: one dict per model: "model" name, "params_m" millions, "macs_g" 1e9 multiply-adds, "checkpoint_mb",
          "latency_ms" {"cpu batch 1": median, ...}; a missing value is drawn as "–"
    """
    panels = [("parameters, M", "params_m"), ("MACs, G", "macs_g"), ("checkpoint, MB", "checkpoint_mb")]
    charts = [(title, [row.get(key, math.nan) for row in rows]) for title, key in panels]
    for name in dict.fromkeys(name for row in rows for name in row["latency_ms"]):
        charts.append((f"{name}, ms", [row["latency_ms"].get(name, math.nan) for row in rows]))
    names = [row["model"].replace(" ", "\n") for row in rows]
    columns = min(4, len(charts))
    lines = math.ceil(len(charts) / columns)
    width = max(2.6, 0.9 + 0.85 * len(rows))
    with new_figure(path, width * columns, 2.7 * lines) as figure:
        grid = figure.subplots(lines, columns, squeeze=False).flat
        for axes, (title, heights) in zip(grid, charts, strict=False):
            bars = axes.bar(
                range(len(rows)),
                [height if math.isfinite(height) else 0 for height in heights],
                color=[("#9ECAE9", "#F2CF8D")[index % 2] for index in range(len(rows))],
                hatch=[HATCHES[index % len(HATCHES)] for index in range(len(rows))],
                edgecolor="#333333",
                width=0.62,
            )
            axes.bar_label(bars, [number(height) for height in heights], padding=2)
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(len(rows)), names, fontsize=8)
            axes.margins(x=0.15, y=0.18)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.grid(visible=False, axis="x")
        for axes in list(figure.axes)[len(charts) :]:
            axes.set_visible(False)


SIGNS = {"right": "✓ ", "wrong": "✗ "}
FRAMES = {"right": (BLUE, "-"), "wrong": ("#D55E00", (0, (4, 2)))}  # colour, line style
TEXTS = {
    "label": {"weight": "bold"},
    "caption": {},
    "reference": {"style": "italic", "color": "#555555"},
    "upright": {"color": "#555555"},  # a reference in a script without italics
    "right": {"color": "#00507D"},
    "wrong": {"color": "#A33C00"},
}


def caption_lines(label, caption, correct, details, reference):
    """Return the (text, style) lines of one picture in a caption_grid.

    label:     true class, "" = none, which leaves its line out
    correct:   True or False; "" for an image without a class, whose caption gets no mark
    details:   a line below the caption, such as its scores
    reference: one reference caption
    """
    style = "caption" if correct == "" else "right" if correct else "wrong"
    lines = [(label, "label")] if label else []
    return [*lines, (caption, style), (details, "caption"), (reference, "reference")]


@with_all_fonts
def caption_grid(images, texts, path, *, columns, title="", dpi=DPI):
    """Draw images in a grid, each with its wrapped lines of text underneath; the row height follows the text.

    images: PIL images of any size
    texts:  for each image its (text, style) lines, style one of label, caption, reference, right, wrong.
            A right line starts with a check mark and its image has a solid frame; a wrong one has a cross and a
            dashed frame.
    dpi:    pixels per inch; lowered where a side would exceed MAX_PIXELS

    Raises ValueError if the lists differ in length or are empty, or are too long for one page.
    """
    if not images or len(images) != len(texts):
        raise ValueError(f"caption_grid: {len(images)} images, {len(texts)} texts; needs as many of each")
    columns = min(columns, len(images))
    cell, gap, top, line_height, size = 2.5, 0.22, 0.12, 0.16, 8.5  # inches, inches, inches, inches, points
    width = columns * cell + (columns + 1) * gap

    with figure_style():
        cells = [_wrap_lines(lines, cell, size) for lines in texts]
        title_lines = _wrap(title, width - 2 * gap, {"size": 12, "weight": "bold"}) if title else []
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    # The height of the row's tallest image at full width, at most a square.
    pictures = [max(min(1.0, images[i].height / images[i].width) for i in row) * cell for row in rows]
    words = [max(len(cells[i]) for i in row) * line_height for row in rows]
    head = 0.24 * len(title_lines) + (0.1 if title else 0)
    height = head + sum(pictures) + sum(words) + len(rows) * (top + gap) + gap
    dpi = min(dpi, int(MAX_PIXELS / max(width, height)))
    if dpi < LEAST_DPI:
        raise ValueError(f"{path}: {len(images)} pictures are too many for one page; take fewer")

    with new_figure(path, width, height, layout="none", dpi=dpi) as figure:
        for index, line in enumerate(title_lines):
            figure.text(gap / width, 1 - (gap + 0.24 * index) / height, line, size=12, weight="bold", va="top")
        y = height - gap - head  # inches from the bottom to the upper edge of the row
        for row, picture, text in zip(rows, pictures, words, strict=True):
            for column, index in enumerate(row):
                x = gap + column * (cell + gap)
                _draw_picture(figure, images[index], texts[index], (x, y - picture, cell, picture))
                for number_of_line, (line, style) in enumerate(cells[index]):
                    line_y = y - picture - top - number_of_line * line_height
                    figure.text(x / width, line_y / height, line, size=size, va="top", **TEXTS[style])
            y -= picture + top + text + gap


def _wrap_lines(lines, width, size):
    """Return the (line, style) pairs of one picture, each line at most `width` inches wide."""
    wrapped = []
    for text, style in lines:
        if style == "reference" and not _SLANTED.fullmatch(text):
            style = "upright"
        text = SIGNS.get(style, "") + (text.strip() or "(empty)")
        font = {"size": size, **{key: value for key, value in TEXTS[style].items() if key != "color"}}
        wrapped += [(line, style) for line in _wrap(text, width, font)]
    return wrapped


def _wrap(text, width, font):
    """Wrap a text into lines of at most `width` inches in `font`; a wider word is split."""
    space = _text_width("n n", **font) - _text_width("nn", **font)
    lines, used = [""], 0.0  # used: inches of the last line
    for word in text.split():
        wide = _text_width(word, **font)
        if lines[-1] and used + space + wide <= width:
            lines[-1] += f" {word}"
            used += space + wide
            continue
        if lines[-1]:
            lines.append("")
        if wide > width:
            *full, word = _split_word(word, width, font)
            lines[-1:] = [*full, ""]
            wide = _text_width(word, **font)
        lines[-1], used = word, wide
    return lines


def _split_word(word, width, font):
    """Return the parts of a word, each at most `width` inches wide in `font`, or of one letter."""
    parts = [""]
    for letter in word:
        if parts[-1] and _text_width(parts[-1] + letter, **font) > width:
            parts.append("")
        parts[-1] += letter
    return parts


@functools.lru_cache(maxsize=10_000)
def _text_width(text, **font):
    """Return the width of a text in inches, as figure_style draws it; captions share their words."""
    properties = FontProperties(family=families(), **font)
    return _measuring_renderer().get_text_width_height_descent(text, properties, ismath=False)[0] / DPI


@functools.cache
def _measuring_renderer():
    """Return a renderer that measures texts and draws nothing."""
    return FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()


def _draw_picture(figure, image, lines, box):
    """Draw one image centred in box (x, y, width, height in inches), framed if one of its lines is right or wrong."""
    x, y, width, height = box
    scale = min(width / image.width, height / image.height)
    shown_width, shown_height = image.width * scale, image.height * scale
    x, y = x + (width - shown_width) / 2, y + (height - shown_height) / 2
    pixels = (max(1, round(shown_width * figure.dpi)), max(1, round(shown_height * figure.dpi)))
    figure.figimage(image.convert("RGB").resize(pixels), round(x * figure.dpi), round(y * figure.dpi), origin="upper")
    style = next((style for _, style in lines if style in FRAMES), "")
    color, dashes = FRAMES.get(style, ("#999999", "-"))
    size = (shown_width, shown_height)
    frame = {"fill": False, "edgecolor": color, "linestyle": dashes, "linewidth": 3 if style else 0.8}
    figure.add_artist(Rectangle((x, y), *size, transform=figure.dpi_scale_trans, zorder=3, **frame))


@with_all_fonts
def attention_figure(pictures, words, maps, path, *, title):
    """Draw one row per image: the image, then its attention map for each word, as brightness.

    pictures: (S, S, 3) float arrays in 0..1, the model's input
    words:    for each image its words
    maps:     for each image (words, h, w) attention weights, which sum to 1 over each map

    The position with the largest weight keeps its brightness; weight 0 is drawn at a fifth of it.
    """
    columns, cell = 1 + max(map(len, words)), 1.25  # inches
    with new_figure(path, columns * cell, len(pictures) * (cell + 0.2) + 0.4) as figure:
        figure.suptitle(title, weight="bold")
        grid = figure.subplots(len(pictures), columns, squeeze=False)
        for row, picture, caption, weights in zip(grid, pictures, words, maps, strict=True):
            for axes in row:
                axes.set_axis_off()
            row[0].imshow(picture)
            for axes, word, weight in zip(row[1:], caption, weights, strict=False):
                axes.imshow(highlight(picture, weight))
                width = _text_width(word, size=9)
                axes.set_title(word, size=9 * min(1, 0.95 * cell / width) if width else 9, pad=3)


@with_all_fonts
def confusion_figure(matrix, path, *, title):
    """Draw a confusion matrix: shade = share of the true class, number = image count.

    matrix: DataFrame of counts; rows are true classes, columns predicted classes and "(none)"
    """
    counts = matrix.to_numpy(dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(len(str(name)) for name in [*matrix.index, *matrix.columns])
    cell = min(0.34 if len(matrix) <= 25 else 0.22, MAX_SIDE / 2 / max(1, len(matrix)))  # inches
    size = min(9.0, 0.6 * cell * 72)  # points
    margin = 1.0 + longest * size * 0.62 / 72
    width = max(6.0, cell * counts.shape[1] + margin + 0.8)
    height = max(4.5, cell * counts.shape[0] + margin + 0.6)
    with new_figure(path, width, height) as figure:
        axes = figure.add_subplot()
        picture = axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="equal")
        axes.set_title(title)
        axes.set(xlabel="class named in the caption", ylabel="true class")
        axes.set_xticks(range(counts.shape[1]), matrix.columns, rotation=90, fontsize=size)
        axes.set_yticks(range(counts.shape[0]), matrix.index, fontsize=size)
        axes.grid(visible=False)
        rows, columns = (np.arange(number + 1) - 0.5 for number in counts.shape)  # the edges of the cells
        lines = {"color": "#CCCCCC", "linewidth": 0.5, "zorder": 0.5}
        axes.hlines(rows, columns[0], columns[-1], **lines)  # a grid of minor ticks takes longer
        axes.vlines(columns, rows[0], rows[-1], **lines)
        for row, column in zip(*np.nonzero(counts), strict=True):
            shade = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:.0f}"
            fitted = min(size, 1.35 * cell * 72 / max(2, len(text)))
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=fitted, **INSIDE)
        figure.colorbar(picture, ax=axes, shrink=0.5, aspect=40, pad=0.01, label="share of the true class")


@with_all_fonts
def class_figure(table, path, *, title):
    """Draw the scores of every class as bars with intervals, sorted by BLEU-4.

    table: DataFrame with the columns class, bleu4, cider_d, accuracy, f1. Optional columns: <score>_low and
           <score>_high for the interval, reference_naming for the accuracy of the reference captions
    """
    table = table.sort_values(["bleu4", "class"], ascending=[True, False])
    panels = [("bleu4", "BLEU-4"), ("cider_d", "CIDEr-D"), ("accuracy", "accuracy"), ("f1", "F1")]
    height = min(MAX_SIDE, 1.4 + 0.19 * len(table))
    size = min(7.5, 0.7 * 72 * height / len(table))  # points
    places = range(len(table))
    with new_figure(path, 12, height) as figure:
        figure.suptitle(title)
        for axes, (key, name) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            longest = table.get(f"{key}_high", table[key]).max()
            scale = max(1.0, longest)
            axes.barh(places, table[key], color="#9ECAE9", edgecolor="#333333", linewidth=0.5)
            if f"{key}_low" in table:
                axes.hlines(places, table[f"{key}_low"], table[f"{key}_high"], color=BLACK, linewidth=1)
            if key == "accuracy" and "reference_naming" in table:
                axes.plot(table["reference_naming"], places, "d", color=ORANGE, mec=BLACK, ms=4, clip_on=False)
                axes.set_xlabel("◆ reference captions", fontsize=8)
            for place, value in zip(places, table[key], strict=True):
                axes.text(1.28 * scale, place, f"{value:.2f}", ha="right", va="center", fontsize=size, **INSIDE)
            axes.set(title=name, xlim=(0, 1.3 * scale), ylim=(-0.6, len(table) - 0.4), yticks=[])
            axes.set_xticks([tick for tick in axes.get_xticks() if tick <= scale])
            axes.grid(visible=False, axis="y")
        figure.axes[0].set_yticks(places, table["class"], fontsize=size)


@with_all_fonts
def class_scatter(table, path, *, title, num_labels=8):
    """Draw BLEU-4 against accuracy, one point with intervals per class; extreme classes are labelled.

    table:      DataFrame with the columns class, bleu4, accuracy, their _low and _high, and group: top, bottom or ""
    num_labels: classes with the lowest accuracy that get a label, beside those with the highest and lowest BLEU-4
    """
    marks = {"top": ("^", BLUE, "best BLEU-4"), "": ("o", "#BBBBBB", "others"), "bottom": ("v", ORANGE, "worst BLEU-4")}
    with new_figure(path, 9.5, 6) as figure:
        axes = figure.add_subplot()
        axes.hlines(table["accuracy"], table["bleu4_low"], table["bleu4_high"], color="#BBBBBB", linewidth=0.7)
        axes.vlines(table["bleu4"], table["accuracy_low"], table["accuracy_high"], color="#BBBBBB", linewidth=0.7)
        for group, (mark, color, label) in marks.items():
            part = table[table["group"] == group]
            if len(part):
                axes.plot(part["bleu4"], part["accuracy"], mark, color=color, mec=BLACK, ms=7, label=label)
        bleu, accuracy = table["bleu4"].round(6), table["accuracy"].round(6)
        best = bleu == bleu.max()
        best &= accuracy == accuracy[best].max()  # one point, which several classes may share
        extremes = {*table.index[best], *bleu.nsmallest(2).index}
        low = table[table["accuracy"] < 1].nsmallest(num_labels, "accuracy")
        axes.set(title=title, xlabel="corpus BLEU-4 of the class", ylabel="accuracy of the class")
        axes.margins(0.06)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        _label_points(axes, table.loc[sorted({*low.index, *extremes})], table)


def _label_points(axes, table, drawn):
    """Write the class names beside the points of `table`, within the axes, apart, and beside all that are drawn.

    A name that is moved has a line to its point; one for which there is no room is left out.
    """
    axes.figure.get_layout_engine().execute(axes.figure)
    box = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())  # inches
    height, gap, radius = 0.15, 0.11, 0.06  # inches: of a label, between a point and its label, of a point

    def place(bleu4, accuracy):
        return axes.transData.transform((bleu4, accuracy)) / axes.figure.dpi - (box.x0, box.y0)

    # (left, right, bottom, top) of points and labels, in inches from the corner of the axes.
    centers = itertools.starmap(place, zip(drawn["bleu4"], drawn["accuracy"], strict=True))
    taken = [(x - radius, x + radius, y - radius, y + radius) for x, y in centers]
    # Rounded: equal scores of different classes may differ in their last bits.
    points = table.groupby([table["accuracy"].round(6), table["bleu4"].round(6)])["class"].apply(list)
    for (accuracy, bleu4), names in points.sort_index(ascending=[False, True]).items():
        text = ", ".join(map(_shortened, names[:2])) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        width = _text_width(text, size=8)
        x, y = place(bleu4, accuracy)
        lefts = (x + gap, x - gap - width, min(max(x - width / 2, 0), box.width - width))
        # Nearest rows first, below before above.
        levels = sorted(range(-20, 21), key=lambda level: (abs(level), level))
        free = (
            (left, bottom, level)
            for level in levels
            for left in lefts
            if 0 <= left <= box.width - width
            and 0 <= (bottom := y - gap - height / 2 + level * height) <= box.height - height
            and not any(
                left < end and start < left + width and bottom < top and low < bottom + height
                for start, end, low, top in taken
            )
        )
        left, bottom, level = next(free, (None, None, None))
        if left is None:
            continue
        taken.append((left, left + width, bottom, bottom + height))
        axes.annotate(
            text,
            (bleu4, accuracy),
            ((left - x) * 72, (bottom - y) * 72),
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#555555"} if level else None,
            **INSIDE,
        )


def _shortened(name, most=30):
    """Return a name of at most `most` letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@with_all_fonts
def interval_figure(table, path, *, title, xlabel):
    """Draw one value with its interval per row, the first row on top, with the number beside it.

    table: DataFrame with the columns name, value, low, high; a NaN is not drawn
    """
    with new_figure(path, 8.5, 1.3 + 0.36 * len(table)) as figure:
        axes = figure.add_subplot()
        places = range(len(table) - 1, -1, -1)
        axes.hlines(places, table["low"], table["high"], color=BLACK, linewidth=1.5)
        axes.plot(table["value"], places, "o", color=BLUE, mec=BLACK, ms=7)
        edge = np.nanmax([*table["high"], *table["value"]])
        for place, value in zip(places, table["value"], strict=True):
            axes.annotate(f"{value:.3f}", (edge, place), (14, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(places, table["name"])
        axes.set(title=title, xlabel=xlabel, ylim=(-0.6, len(table) - 0.4))
        if np.nanmin([*table["low"], *table["value"]]) <= 0:
            axes.axvline(0, color=BLACK, linewidth=1, linestyle="--")
        axes.grid(visible=False, axis="y")
        axes.spines["right"].set_visible(False)


@with_all_fonts
def reference_figure(table, path, *, title):
    """Draw BLEU-4 and CIDEr-D against the number of references, for the model and for a held-out reference.

    table: DataFrame with the columns references, bleu4, cider_d, reference_bleu4, reference_cider_d
    """
    with new_figure(path, 9, 3.6) as figure:
        figure.suptitle(title)
        for axes, (key, name) in zip(figure.subplots(1, 2), (("bleu4", "BLEU-4"), ("cider_d", "CIDEr-D")), strict=True):
            counts, held_out = table["references"], table[f"reference_{key}"]
            axes.plot(counts, table[key], "o-", color=BLUE, label="model")
            axes.plot(counts, held_out, "s--", color=ORANGE, mec=BLACK, label="held-out reference")
            top = 1.08 * np.nanmax([table[key], held_out])
            axes.set(title=name, xlabel="references per image", ylim=(0, top or 1))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.legend(loc="lower right")


@with_all_fonts
def length_figure(lengths, path, *, title, unit="words"):
    """Draw histograms of caption lengths side by side.

    lengths: name -> the length of each caption; the sets may differ in size
    unit:    words | characters, in which they are counted
    """
    longest = max(max(values, default=0) for values in lengths.values())
    width = 0.8 / len(lengths)
    with new_figure(path, 8.5, 3.6) as figure:
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(lengths.items()):
            shares = np.bincount(values, minlength=longest + 1) / max(1, len(values))
            places = np.arange(longest + 1) + (index - (len(lengths) - 1) / 2) * width
            color, hatch = ("#9ECAE9", "#F2CF8D")[index % 2], HATCHES[index % len(HATCHES)]
            axes.bar(places, shares, width, label=name, color=color, hatch=hatch, edgecolor="#333333", linewidth=0.5)
        axes.set(title=title, xlabel=f"{unit} in a caption", ylabel="share of the captions")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend()


@with_all_fonts
def calibration_figure(table, path, *, title):
    """Draw a reliability diagram: scores against confidence, one point with its interval per bin.

    table: DataFrame with the columns confidence, sentence_bleu4, cider_d and, for images with classes, accuracy;
           every score has _low and _high. The panel of the accuracy shows the line of perfect calibration.
    """
    names = {"accuracy": "accuracy", "sentence_bleu4": "mean sentence BLEU-4", "cider_d": "CIDEr-D"}
    panels = [(key, name) for key, name in names.items() if key in table]
    with new_figure(path, 4.2 * len(panels), 3.9) as figure:
        figure.suptitle(title)
        for axes, (key, name) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            axes.vlines(table["confidence"], table[f"{key}_low"], table[f"{key}_high"], color=BLACK, linewidth=1)
            axes.plot(table["confidence"], table[key], "o-", color=BLUE, mec=BLACK, ms=6)
            axes.set(title=name, xlabel="mean confidence of the bin", ylim=(0, None if key == "cider_d" else 1.03))
            if key == "accuracy":
                low, high = table["confidence"].min(), table["confidence"].max()
                ends = (max(0.0, low - 0.1), min(1.0, high + 0.1))
                axes.plot(ends, ends, "--", color="#666666", label="perfect calibration")
                axes.legend(loc="lower right")

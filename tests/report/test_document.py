"""A report as Markdown, and as a page that a browser opens without a network."""

import base64
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import HAND_MADE, build, predict

from captioning.report.document import (
    Facts,
    Figure,
    Gallery,
    Matrix,
    Section,
    Table,
    Text,
    code_split,
    html,
    markdown,
    table_markdown,
)

FRAME = pd.DataFrame(
    {
        "class": ["rook", "ox 10", "ox 9"],
        "bleu4": [0.5, np.nan, 0.25],
        "count": [3, 20, 100],
        "right": [True, False, True],
    }
)

COUNTS = pd.DataFrame([[9, 0, 1], [0, 4, 0]], index=["rook", "ox"], columns=["rook", "ox", "(none)"])


@pytest.fixture
def sections(tmp_path):
    """One section of each kind of block, and enough pictures below it that the last is far from the window."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "figure.png")
    lines = [("<b>rook</b>", "label"), ("a rook & a king", "right"), ("", "caption")]
    many = [[("knight", "label"), ("a horse", "wrong")]] * 60
    return [
        Section("Words & numbers", [Text(["Scores of `report.md` are in [`a.csv`](a.csv)."]), Text([], points=True)]),
        Section(
            "Tables",
            [
                Table(FRAME, 2, foot=({"class": "average", "bleu4": 0.375},)),
                Text(["one", "two"], points=True),
                Facts([("date", "2026"), ("command", "`python a.py`")]),
            ],
        ),
        Section("Figures", [Figure("figure.png", "What it shows"), Matrix(COUNTS, "figure.png", "Confusion")]),
        Section("Galleries", [Gallery("figure.png", "All", [tmp_path / "figure.png"] * 61, [lines, *many])]),
    ]


def test_markdown_has_every_block(sections):
    text = markdown("Title", sections)
    assert text.startswith("# Title\n\n## Words & numbers\n\nScores of `report.md`")
    assert "| class | BLEU-4 | images | right |" in text, "heads are named as in the text"
    assert "| ox 10 | – | 20 | False |" in text
    assert "- date: 2026" in text
    assert "- one\n- two" in text
    assert "![What it shows](figure.png)" in text
    assert "![All](figure.png)" in text
    assert "\n\n\n" not in text, "an empty text leaves no gap"


def test_code_in_a_sentence_is_told_from_its_words():
    assert code_split("see [`a.csv`](a.csv): `x`, y") == [
        ("see ", False),
        ("a.csv", True),
        (": ", False),
        ("x", True),
        (", y", False),
    ]


@pytest.mark.parametrize("name", ["[click](http://x)", "|pipe*`"])
def test_a_name_in_a_sentence_is_shown_as_it_is(name):
    """The name of a class lost its link or its backtick, and what followed it became code."""
    sentence = f"The best class is {name} (0.9), the worst x."
    assert code_split(sentence) == [(sentence, False)]


class Sources(HTMLParser):
    """Collects what a page would fetch, and its text."""

    def __init__(self, page):
        super().__init__()
        self.urls, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.urls += [value for name, value in attributes if name in ("src", "href", "data-source")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_but_itself(sections, tmp_path):
    page = html("Title <script>", sections, tmp_path)
    found = Sources(page)
    assert len(found.urls) == 1 + 4 + 1 + 61  # icon, links to the sections, figure, gallery
    assert all(url.startswith(("data:", "#")) for url in found.urls)
    assert "<b>rook</b>" in found.text, "what a dataset says is text, not markup"
    assert "Title <script>" in found.text
    assert "url(" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_pages_of_the_same_data_are_the_same(sections, tmp_path):
    assert html("Title", sections, tmp_path) == html("Title", sections, tmp_path)


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window and without a network; skipped where it or its driver is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1000,700",
    ):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # no name can be looked up
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser, sections, tmp_path):
    """The page of all the sections, opened from its file."""
    (tmp_path / "report.html").write_text(html("Title", sections, tmp_path), encoding="utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    yield browser
    assert browser.get_log("browser") == [], "the console has errors"


def column(page, number):
    return [row.find_elements("tag name", "td")[number].text for row in page.find_elements("css selector", "tbody tr")]


def test_a_click_on_a_head_sorts_and_a_second_one_reverses(page):
    heads = page.find_elements("css selector", "th")
    buttons = [head.find_element("tag name", "button") for head in heads]
    buttons[0].click()
    assert column(page, 0) == ["ox 9", "ox 10", "rook"], "numbers in names count as numbers"
    buttons[2].click()
    assert column(page, 2) == ["100", "20", "3"]
    buttons[2].click()
    assert column(page, 2) == ["3", "20", "100"]
    assert [head.get_attribute("aria-sort") for head in heads] == [None, None, "ascending", None]
    buttons[1].click()
    assert column(page, 1) == ["0.50", "0.25", "–"], "the best score first"
    buttons[1].click()
    assert column(page, 1) == ["0.25", "0.50", "–"], "a cell without a value is the last either way"
    foot = page.find_element("css selector", "tfoot").text
    assert foot.split() == ["average", "0.38"], "an average is not sorted among what it averages"


def test_a_head_says_what_its_column_holds(page):
    """On hover by its title, to a screen reader by its description, and below the table for touch and print."""
    button = page.find_elements("css selector", "th button")[1]
    assert button.text.startswith("BLEU-4")
    described = page.find_element("id", button.get_attribute("aria-describedby"))
    assert described.get_attribute("textContent") == button.get_attribute("title")
    assert "corpus BLEU" in button.get_attribute("title")
    assert not described.is_displayed()
    page.find_element("css selector", "details summary").click()
    assert described.is_displayed()
    identifiers = page.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(identifiers) == len(set(identifiers))


def test_the_confusion_matrix_names_the_cell_that_is_pointed_at(page):
    webdriver = pytest.importorskip("selenium.webdriver")
    matrix = page.find_element("css selector", "svg.matrix")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", matrix)
    assert [one.text for one in matrix.find_elements("css selector", ".count")] == ["9", "1", "4"]
    titles = page.execute_script("return [...document.querySelectorAll('svg title')].map((one) => one.textContent)")
    assert titles[1] == "true rook, named (none): 1 of 10"
    left, top, cell = (float(matrix.get_attribute(f"data-{name}")) for name in ("left", "top", "cell"))
    place = page.execute_script("const r = arguments[0].getBoundingClientRect(); return [r.x, r.y]", matrix)
    pointer = webdriver.ActionChains(page)
    pointer.w3c_actions.pointer_action.move_to_location(
        int(place[0] + left + 0.5 * cell), int(place[1] + top + 1.5 * cell)
    )
    pointer.perform()
    assert page.find_element("css selector", ".pointed").text == "true ox, named rook: 0 of 4", "an empty cell"
    assert [one.text for one in matrix.find_elements("css selector", ".here")] == ["rook", "ox"]


@pytest.mark.parametrize("width", [1000, 390])
def test_nothing_is_wider_than_the_window(page, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 0


def luminance(color):
    """Relative luminance of "rgb(r, g, b)" as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_styles(page, scheme):
    """A contrast of 4.5, which WCAG asks for, between each text and the colour behind it."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    script = """
    const texts = [...document.querySelectorAll("p, td, th button, figcaption, .card div, summary, h1, a")];
    return texts.map((one) => {
        let back = one;
        while (back && getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") { back = back.parentElement; }
        return [getComputedStyle(one).color, getComputedStyle(back || document.body).backgroundColor, one.textContent];
    })"""
    found = page.execute_script(script)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(found) > 10
    for color, back, text in found:
        light, dark = sorted([luminance(color), luminance(back)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (color, back, text)
    assert (luminance(found[0][1]) < 0.1) == (scheme == "dark")


def test_the_page_prints_on_a4(page):
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    content = base64.b64decode(printed["data"])
    (box,) = set(re.findall(rb"/MediaBox ?\[([^\]]*)\]", content))
    width, height = (float(number) for number in box.split()[2:])
    assert (round(width), round(height)) in {(595, 842), (594, 841), (595, 841), (596, 842)}, "points of A4"


def test_pictures_are_shown_when_they_come_near(page):
    def shown():
        return page.execute_script("return [...document.images].map((image) => image.src.startsWith('data:'))")

    before = shown()
    assert not before[-1]
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait = "const done = arguments[0]; setTimeout(done, 500)"
    page.execute_async_script(wait)
    assert shown()[-1]
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    page.execute_async_script(wait)
    assert all(shown())
    widths = page.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert min(widths) > 0, "a picture cannot be decoded"


def test_nothing_is_fetched(page):
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith("data:") for name in names)
    assert page.find_element("tag name", "h1").text == "Title"
    assert "<b>rook</b>" in page.find_element("css selector", ".card .label").text


def test_every_row_of_a_markdown_table_has_its_cells():
    tables = build([predict("cat", "a cat", "a | cat\nin two lines"), *HAND_MADE])
    lines = table_markdown(Table(tables["images"])).splitlines()
    assert len(lines) == 2 + 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(tables["images"].columns) + 1}

"""A report as Markdown, and as a page that a browser opens without a network."""

import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import HAND_MADE, build, predict

from captioning.report.document import (
    Figure,
    Gallery,
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


@pytest.fixture
def sections(tmp_path):
    """One section of each kind of block, and enough pictures below it that the last is far from the window."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "figure.png")
    lines = [("<b>rook</b>", "label"), ("a rook & a king", "right"), ("", "caption")]
    many = [[("knight", "label"), ("a horse", "wrong")]] * 60
    return [
        Section("Words & numbers", [Text(["Scores of `report.md` are in [`a.csv`](a.csv)."]), Text([], points=True)]),
        Section("Tables", [Table(FRAME, 2), Text(["one", "two"], points=True)]),
        Section("Figures", [Figure("figure.png", "What it shows")]),
        Section("Galleries", [Gallery("figure.png", "All", [tmp_path / "figure.png"] * 61, [lines, *many])]),
    ]


def test_markdown_has_every_block(sections):
    text = markdown("Title", sections)
    assert text.startswith("# Title\n\n## Words & numbers\n\nScores of `report.md`")
    assert "| ox 10 | – | 20 | False |" in text
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
    assert column(page, 2) == ["3", "20", "100"]
    buttons[2].click()
    assert column(page, 2) == ["100", "20", "3"]
    assert [head.get_attribute("aria-sort") for head in heads] == [None, None, "descending", None]
    buttons[1].click()
    assert column(page, 1) == ["0.25", "0.50", "–"]
    buttons[1].click()
    assert column(page, 1) == ["0.50", "0.25", "–"], "a cell without a value is the last either way"


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

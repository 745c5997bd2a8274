"""The page: what it says, what it refuses, what it hides; over HTTP, and in a real browser where there is one."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

import app
from caption import Captioner
from captioning.search.options import Hypothesis, SearchOptions

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = {"max_pixels": 1_000_000, "max_pictures": 3}


@pytest.fixture(scope="module")
def captioner(model_files):
    return Captioner.load(model_files.int8)


@pytest.fixture(scope="module")
def pictures(pictograms_dir):
    return [str(path) for path in sorted((pictograms_dir / "test").rglob("*.jpg"))[:5]]


def page_of(captioner, paths, language="en", **options):
    text = app.TEXT[language]
    return app.caption_pictures(captioner, paths, SearchOptions(**options), text=text, **BOUNDS)


def test_both_languages_say_the_same_things():
    """Every label there is, with the same values to fill in."""
    english, korean = app.TEXT["en"], app.TEXT["ko"]
    assert english.keys() == korean.keys()
    for name in english:
        assert re.findall(r"{.*?}", english[name]) == re.findall(r"{.*?}", korean[name]), name
        assert re.search("[가-힣]", korean[name]), name


@pytest.mark.parametrize(
    ("header", "language"),
    [("ko-KR,ko;q=0.9,en;q=0.8", "ko"), ("en-US,en;q=0.9,ko;q=0.8", "en"), ("fr,ko;q=0.5", "ko"), (None, "en")],
)
def test_the_language_is_the_browsers(header, language):
    assert app.language_of(header) == language


def test_captions_with_alternatives_and_confidence(captioner, pictures):
    page = page_of(captioner, pictures[:2], num_best=3)
    for path in pictures[:2]:
        [caption] = captioner(path, num_best=3)
        for one in (caption, *caption.alternatives):
            assert one.text in page
            assert f"confidence {one.confidence:.0%}" in page
    assert page.count("<article>") == 2
    assert page.count("<li>") == 4


def test_a_model_with_attention_shows_where_it_looked(looking, captioner, pictures, tmp_path):
    """A small picture for each word, beside its own caption, where another picture cannot be read."""
    (tmp_path / "text.png").write_text("text")
    page = page_of(looking, [pictures[0], str(tmp_path / "text.png"), pictures[1]], max_len=6)
    words = [caption.text.split() for caption in looking(pictures[:2], max_len=6)]
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == [word for caption in words for word in caption]
    assert page.count('<img src="data:image/jpeg;base64,') == sum(map(len, words)) > 0
    assert "looked" not in page_of(captioner, pictures[:1])


def test_what_cannot_be_read_is_a_sentence_without_a_path(captioner, pictures, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (2000, 600)).save(tmp_path / "large.png")
    page = page_of(captioner, [str(tmp_path / "text.png"), pictures[0], str(tmp_path / "large.png")], "ko")
    assert page.count("읽을 수 있는 사진이 아닙니다. 1메가픽셀 이하") == 2
    assert captioner(pictures[0])[0].text in page
    assert str(tmp_path) not in page
    assert "text.png" not in page


def test_too_many_and_no_pictures_are_sentences(captioner, pictures):
    page = page_of(captioner, pictures)
    assert page.count("<article>") == 3
    assert "At most 3 pictures at once" in page
    assert "Add a picture first." in page_of(captioner, [])


def test_pictures_of_one_request_are_not_held_together(model_files, tmp_path):
    """A dozen flat pictures of 25 megapixels are small files, and 1.2 GB of pixels."""
    pytest.importorskip("resource")  # Windows has no such measure
    for number in range(12):
        Image.new("RGB", (5000, 5000), (number, 9, 9)).save(tmp_path / f"{number}.png")
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import app
from caption import Captioner
from captioning.search.options import SearchOptions
captioner = Captioner.load({str(model_files.int8)!r})
paths = [{str(tmp_path)!r} + f"/{{number}}.png" for number in range(12)]
bounds = {{"max_pixels": 10**8, "max_pictures": 16, "text": app.TEXT["en"]}}
app.caption_pictures(captioner, paths[:1], SearchOptions(), **bounds)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
page = app.caption_pictures(captioner, paths, SearchOptions(), **bounds)
print(page.count("<article>"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    number, grown = map(int, result.stdout.split())
    assert number == 12
    assert grown * (1 if sys.platform == "darwin" else 1024) < 300e6


def test_words_of_a_vocabulary_are_no_html(captioner, pictures):
    """A checkpoint from a stranger may hold any words."""
    words = captioner.vocabulary.itos
    evil = ["<script>alert(1)</script>" if word in ("a", "on", "background") else word for word in words]

    class Evil:
        has_attention = False

        def stream(self, images, options, **bounds):
            found = list(captioner.stream(images, options, **bounds))
            captioner.vocabulary.itos = evil
            try:
                return [(path, captioner.to_caption([Hypothesis([*c.tokens], c.log_prob, 0.0)])) for path, c in found]
            finally:
                captioner.vocabulary.itos = words

    page = page_of(Evil(), pictures[:1])
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_examples_are_spread_over_the_folder(pictograms_dir):
    found = app.find_examples(pictograms_dir / "test")
    assert len(found) == app.NUM_EXAMPLES
    assert len({Path(path).parent for path in found}) == app.NUM_EXAMPLES
    assert app.find_examples("") == app.find_examples("nowhere") == []


def test_the_space_is_one_as_it_stands():
    """Its front matter names a file that starts the page, on settings of the page; its requirements hold no torch."""
    front = yaml.safe_load((ROOT / "space/README.md").read_text("utf-8").split("---\n")[1])
    start = (ROOT / "space" / front["app_file"]).read_text("utf-8")
    assert front["sdk"] == "gradio"
    assert front["python_version"] == "3.11"  # the Hub's own default is older
    assert set(re.findall(r'"(\w+)": "', start)) <= app.CONFIG.keys()
    requirements = (ROOT / "requirements-app.txt").read_text("utf-8")
    assert f"gradio>={front['sdk_version'].rpartition('.')[0]}" in requirements
    assert "torch" not in requirements
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"space/{front['app_file']}" in makefile
    assert "requirements-app.txt $(SPACE)/requirements.txt" in makefile


def test_make_app_has_example_pictures_to_show():
    """In a fresh clone there are none, and the shipped model knows no others."""
    [prerequisites] = re.findall("^app:(.*)", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert f"{Path(app.CONFIG['examples']).parent}/captions.csv" in prerequisites.split()


@pytest.fixture(scope="module")
def examples(pictograms_dir):
    return str(pictograms_dir / "test")


@pytest.fixture(scope="module")
def address(captioner, examples):
    """The address of the running page."""
    config = app.CONFIG | {"examples": examples, "max_megapixels": 1.0, "max_pictures": 3}
    page, launch = app.build_page(captioner, config | {"max_upload_mb": 1})
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch)
    yield url.rstrip("/")
    page.close()


def test_no_file_of_the_server_can_be_read_through_the_page(address, model_files, captioner, pictures):
    """By its path, by a path that climbs, or as the picture of a request."""
    for path in ("/etc/passwd", str(ROOT / "app.py"), str(model_files.int8), "../app.py", str(ROOT / "data")):
        for prefix in ("/gradio_api/file=", "/file="):
            answer = httpx.get(f"{address}{prefix}{path}")
            assert answer.status_code in (403, 404), path
            assert "root:" not in answer.text
    picture = {"image": {"path": pictures[0], "meta": {"_type": "gradio.FileData"}}, "caption": None}
    answer = call(address, [picture], 5, 3, 30, 0.7)
    assert "event: error" in answer
    assert captioner(pictures[0])[0].text not in answer


def call(address, *values):
    """What the page's function answers to a request by hand."""
    event = httpx.post(f"{address}/gradio_api/call/caption", json={"data": list(values)}).json()["event_id"]
    return httpx.get(f"{address}/gradio_api/call/caption/{event}").text


def test_controls_beyond_their_range_are_no_load_on_the_server(address):
    """A million beams would fill the memory: the sliders' ends hold for those who send requests by hand, too."""
    assert "event: complete" in call(address, [], 5, 3, 30, 0.7)
    assert "event: error" in call(address, [], 1_000_000, 3, 30, 0.7)
    assert "event: error" in call(address, [], 5, 3, 1_000_000, 0.7)


def test_an_upload_above_the_bound_is_refused(address):
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"x" * 3 * 2**20)})
    assert answer.status_code == 413


def test_the_page_asks_no_other_server(address):
    """Fonts, scripts and statistics come from here or not at all."""
    text = httpx.get(address).text
    loaded = re.findall(r"""(?:<script[^>]*src|<link[^>]*href)=["'](https?://[^"']+)""", text)
    assert [url for url in loaded if "fonts" in url or "analytics" in url] == []


@pytest.fixture
def browser(request):
    """A function that opens a headless browser of a given window and language."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    opened = []

    def start(width, height, language):
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
        options.add_argument(f"--lang={language}")
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        if width < 500:
            metrics = {"width": width, "height": height, "pixelRatio": 2}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        opened.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        return opened[-1]

    yield start
    for one in opened:
        one.quit()


def find(driver, selector, seconds=40):
    """The elements that fit a CSS selector, as soon as there are any."""
    deadline = time.monotonic() + seconds
    while not (found := driver.find_elements("css selector", selector)):
        assert time.monotonic() < deadline, f"{selector} did not appear"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(("width", "height", "language"), [(1200, 900, "en-US"), (390, 844, "ko-KR")])
def test_in_a_browser(browser, address, captioner, pictures, examples, tmp_path, width, height, language):
    """Upload, caption, an error, a narrow window: as a visitor does it."""
    text = app.TEXT[language[:2]]
    (tmp_path / "fake.png").write_text("no picture")
    driver = browser(width, height, language)
    driver.get(address)
    [upload, *_] = find(driver, "#pictures input[type=file]")
    time.sleep(0.5)  # Gradio binds its events after it has drawn
    assert text["intro"] in driver.find_element("tag name", "body").text
    assert text["submit"] in driver.find_element("css selector", "#submit").text

    upload.send_keys(pictures[0])
    [card] = find(driver, "#captions article")
    assert captioner(pictures[0])[0].text in card.text
    assert text["confidence"].format(value=captioner(pictures[0])[0].confidence) in card.text

    driver.get(address)
    [upload, *_] = find(driver, "#pictures input[type=file]")
    time.sleep(0.5)
    for source in ("Capture from camera", "Paste from clipboard"):
        assert driver.find_element("css selector", f"#pictures button[aria-label='{source}']").is_displayed()
    [example, *_] = find(driver, ".gallery button, button.gallery-item")
    example.click()
    [card] = find(driver, "#captions article")
    [caption] = captioner(app.find_examples(examples)[0])
    assert caption.text in card.text

    driver.get(address)
    [upload, *_] = find(driver, "#pictures input[type=file]")
    time.sleep(0.5)
    upload.send_keys(f"{tmp_path / 'fake.png'}\n{pictures[1]}")
    cards = find(driver, "#captions article")
    assert text["unreadable"].format(megapixels=1) in cards[0].text
    assert captioner(pictures[1])[0].text in cards[1].text
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert not [
        line for line in driver.get_log("browser") if line["level"] == "SEVERE" and "127.0.0.1" in line["message"]
    ]


def test_no_picture_of_the_server_is_captioned_for_a_request_that_names_it(address, pictures, captioner, tmp_path):
    """Gradio checks the paths that it marked itself; a path without a mark was opened, wherever it was."""
    outside = shutil.copy(pictures[0], tmp_path / "outside.jpg")  # of the examples, which everybody may see
    (tmp_path / "link.jpg").symlink_to(outside)
    climbing = f"/tmp/gradio/../..{outside}"
    os.mkfifo(tmp_path / "pipe.jpg")
    secret = captioner(pictures[0], beam_size=5, num_best=3)[0].text
    uploaded = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.jpg", Path(pictures[0]).read_bytes())})
    (mine,) = uploaded.json()
    named = [str(outside), climbing, str(tmp_path / "link.jpg"), str(tmp_path / "pipe.jpg"), "/dev/zero", "a\0.jpg"]
    named += [f"file://{outside}", "http://127.0.0.1:9/a.jpg", "hf://owner/name/a.jpg"]
    for path in named:
        for mark in ({}, {"_type": "other"}, {"meta": {"_type": "other"}}):
            answer = call(address, [{"image": {"path": path, **mark}, "caption": None}], 5, 3, 30, 0.7)
            assert secret not in answer, path
            assert "root" not in answer
    answer = call(address, [{"image": {"path": mine}, "caption": None}], 5, 3, 30, 0.7)
    assert secret in answer  # what was uploaded is captioned, and nobody waits for the pipe

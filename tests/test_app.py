"""The page: what it says, what it refuses, what it hides; over HTTP, and in a real browser where there is one."""

import importlib.resources
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import gradio_client
import httpx
import pytest
import yaml
from PIL import Image

import app
from caption import Captioner
from captioning.page.gate import HEADERS
from captioning.page.labels import TEXT
from captioning.page.service import Service
from captioning.page.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
BOUNDS = {"max_megapixels": 1.0, "max_pictures": 3, "max_seconds": 60.0}
SETTINGS = {"beam_size": 5, "num_best": 3, "max_len": 30, "length_penalty": -1}
CAT = EXAMPLES / "pictograms" / "cat.jpg"


class HereAndNow:
    """A Worker's answers from this process."""

    def __init__(self, *built):
        self.about, self.function = built

    def __call__(self, *arguments, seconds):
        return self.function(*arguments)


@pytest.fixture(scope="module")
def captioner(model_files):
    return Captioner.load(model_files.int8)


@pytest.fixture(scope="module")
def pictures(pictograms_dir):
    return [str(path) for path in sorted((pictograms_dir / "test").rglob("*.jpg"))[:5]]


@pytest.fixture(scope="module")
def service(model_files, pictures):
    worker = HereAndNow(*app.load_models({"model": str(model_files.int8)}, 0))
    return Service(worker, [(path, "model") for path in pictures], "/nowhere", BOUNDS)


def test_captions_with_alternatives_and_confidence(service, captioner, pictures):
    page = service.show(pictures[:2], "model", SETTINGS, "en")
    for path in pictures[:2]:
        [caption] = captioner(path, num_best=3)
        for one in (caption, *caption.alternatives):
            assert one.text in page
            assert f"confidence {one.confidence:.0%}" in page
    assert page.count("<article>") == 2
    assert page.count("<li>") == 4
    records = service.answer(pictures[:2], "model", SETTINGS)
    assert [record["caption"] for record in records] == [c.text for c in captioner(pictures[:2], num_best=3)]


def test_a_model_with_attention_shows_where_it_looked(looking, captioner, pictures):
    """A small picture for each word, beside its own caption."""
    options = looking.search_options(max_len=6)
    found = app.caption_picture(looking, pictures[0], options, 10**7)
    assert [word for word, _ in found["looked"]] == looking(pictures[0], max_len=6)[0].text.split()
    assert all(picture.startswith(b"\xff\xd8") for _, picture in found["looked"])
    assert "looked" not in app.caption_picture(captioner, pictures[0], options, 10**7)


def test_what_cannot_be_read_is_a_sentence_without_a_path(service, captioner, pictures, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (2000, 600)).save(tmp_path / "large.png")
    service = Service(service.worker, service.examples, tmp_path, BOUNDS)
    page = service.show([f"{tmp_path}/text.png", pictures[0], f"{tmp_path}/large.png"], "model", SETTINGS, "ko")
    assert page.count("읽을 수 있는 사진이 아닙니다. 1메가픽셀 이하") == 2
    assert captioner(pictures[0])[0].text in page
    assert str(tmp_path) not in page
    assert "2. 0" in page or "2. " in page


def test_an_upload_that_is_no_longer_kept_is_told_so(service, pictures, tmp_path):
    """A good picture that the server had removed was "not a picture that can be read"."""
    service = Service(service.worker, service.examples, tmp_path, BOUNDS)
    paths = [f"{tmp_path}/old.jpg", "/etc/old.jpg"]  # of a file elsewhere nobody learns whether it is there
    gone, elsewhere = service.answer(paths, "model", SETTINGS)
    assert gone == {"image": "old.jpg", "error": TEXT["en"]["gone"]}
    assert elsewhere["error"] == TEXT["en"]["unreadable"].format(megapixels=1)
    assert TEXT["ko"]["gone"] in service.show(paths[:1], "model", SETTINGS, "ko")


def test_too_many_and_no_pictures_are_sentences(service, pictures):
    page = service.show(pictures, "model", SETTINGS, "en")
    assert page.count("<article>") == 3
    assert "At most 3 pictures at once" in page
    assert TEXT["en"]["empty"] in service.show([], "model", SETTINGS, "en")
    with pytest.raises(ValueError, match="At most 3 pictures at once"):
        service.answer(pictures, "model", SETTINGS)


def test_pictures_of_one_request_are_not_held_together(model_files, tmp_path):
    """A dozen flat pictures of 25 megapixels are small files, and 1.2 GB of pixels."""
    pytest.importorskip("resource")  # Windows has no such measure
    for number in range(12):
        Image.new("RGB", (5000, 5000), (number, 9, 9)).save(tmp_path / f"{number}.png")
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import app
_, caption_pictures = app.load_models({{"model": {str(model_files.int8)!r}}}, 0)
paths = [{str(tmp_path)!r} + f"/{{number}}.png" for number in range(12)]
caption_pictures("model", paths[:1], {{}}, 10**8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = caption_pictures("model", paths, {{}}, 10**8)
print(sum("records" in one for one in found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    number, grown = map(int, result.stdout.split())
    assert number == 12
    assert grown * (1 if sys.platform == "darwin" else 1024) < 300e6


def test_models_have_the_names_that_the_choice_shows():
    models = app.find_models(["photos", "exports/mine_int8.onnx", "https://host/other.onnx#sha256=ab"])
    assert list(models) == ["photos", "mine_int8", "other"]
    assert models["photos"] == "checkpoints/photos_int8.onnx"  # needs no torch
    with pytest.raises(ValueError, match="both named 'a'"):
        app.find_models(["x/a.onnx", "y/a.onnx"])


def test_examples_belong_to_models_and_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = app.find_examples("examples", {"aerial": "", "pictograms": ""})
    assert [(Path(path).name, model) for path, model in found] == [
        ("airplanes.jpg", "aerial"),
        ("harbor.jpg", "aerial"),
        ("cat.jpg", "pictograms"),
        ("umbrella.jpg", "pictograms"),
    ]
    assert app.find_examples("", {"aerial": ""}) == app.find_examples("nowhere", {"aerial": ""}) == []


@pytest.mark.parametrize("name", app.SHIPPED)
def test_shipped_int8_models_are_small_and_are_those_of_their_checkpoints(name):
    """What `make app` installs and a Space holds; `make int8` makes them anew."""
    path = ROOT / "checkpoints" / f"{name}_int8.onnx"
    assert path.stat().st_size <= 6e6
    int8, checkpoint = Captioner.load(path), Captioner.load(path.with_name(f"{name}.safetensors"))
    for part in ("vocab", "transform", "decoding", "classes"):
        assert getattr(int8.model, part) == getattr(checkpoint.model, part), part
    pictures = [path for path, _ in app.find_examples("examples", {name: ""})]
    assert len(pictures) == 2
    said = [{word for one in found(pictures) for word in one.text.split()} for found in (int8, checkpoint)]
    assert len(said[0] & said[1]) > len(said[0] ^ said[1])


def test_the_space_is_one_as_it_stands():
    """Its front matter names the script of the page; its requirements hold no torch."""
    front = yaml.safe_load((ROOT / "space/README.md").read_text("utf-8").split("---\n")[1])
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert front["python_version"] == "3.11"  # the Hub's own default is older
    requirements = (ROOT / "requirements-app.txt").read_text("utf-8")
    assert f"gradio>={front['sdk_version'].rpartition('.')[0]}" in requirements
    assert "torch" not in requirements


# Over HTTP


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(*flags, **environment):
    """Start app.py: the process, its standard error going to its output."""
    command = [sys.executable, str(ROOT / "app.py"), *map(str, flags)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )


class Running:
    """The page as its own process: its address, and all that it has printed."""

    def __init__(self, *flags, **environment):
        self.process, self.lines = start("--port", free_port(), *flags, **environment), []
        self.opened = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        assert self.opened.wait(120)
        assert self.lines[0].startswith("the page is open: "), self.lines
        self.address = self.lines[0].split()[4].rstrip("/")

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self.opened.set()
        self.opened.set()

    def stop(self):
        """End it as a service manager does: its exit code."""
        self.process.terminate()
        self.process.wait(60)
        self.reader.join(60)
        self.process.stdout.close()
        return self.process.returncode


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")
    page = Running("--max_upload_mb", 1, "--max_megapixels", 1, "--max_pictures", 3, TMPDIR=str(folder))
    page.folder = folder
    yield page
    assert page.stop() == app.TERMINATED
    assert not list(folder.glob("captioning-page-*"))  # nothing that a visitor uploaded stays
    assert "Traceback" not in "".join(page.lines)


@pytest.fixture(scope="module")
def address(running):
    return running.address


def upload(address, path=CAT, name="a.jpg"):
    """Upload a file: the path that the page gives it."""
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, Path(path).read_bytes())})
    return answer.raise_for_status().json()[0]


def call(address, *values):
    """Return the endpoint's answer to a request by hand, as text."""
    answer = httpx.post(f"{address}/gradio_api/call/caption", json={"data": list(values)})
    if answer.status_code != 200:
        return answer.text
    return httpx.get(f"{address}/gradio_api/call/caption/{answer.json()['event_id']}", timeout=60).text


def captions_of(answer):
    """Return the captions in the endpoint's answer."""
    assert "event: complete" in answer, answer
    return [record.get("caption") for record in json.loads(answer.partition("data: ")[2])[0]]


@pytest.fixture(scope="module")
def shipped():
    return Captioner.load(ROOT / "checkpoints" / "pictograms_int8.onnx")


def test_the_endpoint_captions_what_was_uploaded(address, shipped):
    (caption,) = shipped(CAT)
    answer = call(address, [{"path": upload(address)}], "pictograms")  # what is left out has its default
    assert captions_of(answer) == [caption.text]
    (record,) = json.loads(answer.partition("data: ")[2])[0]
    assert record == {"image": "a.jpg", **caption.record(), "alternatives": []}


def test_the_endpoint_tells_its_types(address):
    told = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    assert list(told) == ["/caption"]  # the page's own calls are not offered
    names = [parameter["parameter_name"] for parameter in told["/caption"]["parameters"]]
    assert names == ["pictures", "model", *SETTINGS]
    defaults = [parameter["parameter_default"] for parameter in told["/caption"]["parameters"]]
    assert defaults == [None, "photos", 5, 1, 30, -1]


def test_the_examples_of_the_page_of_documentation_run(address, tmp_path):
    """In docs/deploy.md: Python with gradio_client, and curl."""
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    python = next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "gradio_client" in code)
    shell = next(code for code in re.findall(r"```sh\n(.*?)```", text, re.S) if "curl" in code)
    shutil.copy(CAT, tmp_path / "photo.jpg")
    environment = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 100}
    python = python.replace("http://127.0.0.1:7860", address)
    result = subprocess.run([sys.executable, "-c", python], **environment)
    assert len(result.stdout.split()) >= 4, result.stderr
    if not shutil.which("curl"):
        pytest.skip("no curl")
    result = subprocess.run(["bash", "-ec", shell.replace("http://127.0.0.1:7860", address)], **environment)
    assert captions_of(result.stdout)[0], result.stderr


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [("beam_size", 5000, "allowed is 1 to 10"), ("max_len", 100000, "allowed is"), ("model", "zzz", "allowed are")],
)
def test_the_client_of_the_documentation_gets_no_further_than_others(address, setting, value, told):
    """It calls the endpoint by its number, whose values were not checked."""
    client = gradio_client.Client(address, verbose=False)
    with pytest.raises(ValueError, match=f"{setting}: got .*{told}"):
        client.predict(pictures=[gradio_client.handle_file(str(CAT))], api_name="/caption", **{setting: value})


def test_no_file_of_the_server_can_be_read_through_the_page(address, model_files):
    for path in ("/etc/passwd", str(ROOT / "app.py"), str(model_files.int8), "../app.py", str(ROOT / "data")):
        for prefix in ("/gradio_api/file=", "/file="):
            answer = httpx.get(f"{address}{prefix}{path}")
            assert answer.status_code in (403, 404), path
            assert "root:" not in answer.text


def test_no_picture_of_the_server_is_captioned_for_a_request_that_names_it(address, shipped, tmp_path):
    """Gradio checks the paths that it marked itself; a path without a mark was opened, wherever it was."""
    outside = shutil.copy(CAT, tmp_path / "outside.jpg")  # of the examples, which everybody may see
    (tmp_path / "link.jpg").symlink_to(outside)
    os.mkfifo(tmp_path / "pipe.jpg")
    secret = shipped(CAT)[0].text
    mine = upload(address)
    named = [str(outside), f"{Path(mine).parent}/../../..{outside}", str(tmp_path / "link.jpg")]
    named += [os.path.relpath(outside), str(tmp_path / "pipe.jpg"), "/dev/zero", "/dev/zero.jpg", "a\0.jpg", ""]
    named += [f"file://{outside}", "http://127.0.0.1:9/a.jpg", "hf://owner/name/a.jpg", "~/a.jpg", "x" * 5000]
    for path in named:
        for mark in ({}, {"_type": "other"}, {"meta": {"_type": "other"}}, {"meta": {"_type": "gradio.FileData"}}):
            answer = call(address, [{"path": path, "url": f"file://{outside}", **mark}], "pictograms")
            assert secret not in answer, path
            assert "root" not in answer
            assert str(tmp_path) not in answer
    assert captions_of(call(address, [{"path": mine}], "pictograms")) == [secret]  # nobody waits for the pipe


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([None], "pictures: got None, a list is needed"),
        (["[]]"], "pictures: got '[]]', a list is needed"),
        ([["/etc/passwd"]], 'needed is {"path"'),
        ([[{"path": 3}]], 'needed is {"path"'),
        ([[{"image": {"path": "a.jpg"}}]], 'needed is {"path"'),
        ([[], 7], "model: got 7, allowed are photos, aerial, pictograms"),
        ([[], "../../etc"], "model: got"),
        ([[], "photos", "5"], "beam_size: got '5', allowed is 1 to 10"),
        ([[], "photos", 1_000_000], "beam_size: got 1000000"),
        ([[], "photos", True], "beam_size: got True"),
        ([[], "photos", 2.5], "beam_size: got 2.5, allowed is 1 to 10, whole numbers"),
        ([[], "photos", 5, 3, 2.7], "max_len: got 2.7, allowed is 2 to 60, whole numbers"),
        ([[], "photos", 5, 3, 30, -0.5], "length_penalty: got -0.5, allowed is 0 to 2, or -1 for the model's own"),
        ([[], "photos", 5, 3, 1_000_000], "max_len: got 1000000"),
        ([[], "photos", 5, 3, {"a": "\x1b[31m"}], "max_len: got"),
        ([[], "photos", 5, 3, 30, 1e999], "length_penalty: got inf"),
        ([[], "photos", 5, 3, 30, 0.7, 1], "data: got 7 values, needed are 6"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_sentence(address, running, values, sentence):
    """A million beams would fill the memory, a wrong type printed a traceback in the page's log."""
    printed = len(running.lines)
    body = json.dumps({"data": values})  # httpx refuses to write infinity
    answer = httpx.post(f"{address}/gradio_api/call/caption", content=body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert sentence in f"{detail['parameter_name']}: {detail['message']}"
    assert "\x1b" not in answer.text
    assert "\n" not in detail["message"]
    assert running.lines[printed:] == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"data": {}}', b'{"data": [], "fn_index": 99}',
        b'{"data": [], "fn_index": "0"}', b'{"data": [], "fn_index": {}}', b'{"data": [], "fn_index": true}', b"\xff",
    ],
)  # fmt: skip
def test_a_body_that_makes_no_sense_is_one_sentence(address, body):
    for path in ("call/caption", "queue/join"):
        answer = httpx.post(f"{address}/gradio_api/{path}", content=body)
        assert answer.status_code == 422
        assert "\n" not in answer.json()["detail"][0]["message"]


def test_a_body_that_is_too_large_is_refused(address):
    answer = httpx.post(f"{address}/gradio_api/call/caption", content=b"[" + b" " * 2**21)
    assert answer.status_code == 413


def test_an_upload_above_the_bound_is_refused_and_leaves_nothing(address, running):
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"x" * 3 * 2**20)})
    assert answer.status_code == 413
    answer = httpx.post(f"{address}/gradio_api/upload", content=iter([b"chunk"]))  # of any length
    assert answer.status_code == 411
    assert not list(running.folder.glob("captioning-page-*/tmp*"))


def test_an_upload_that_is_cut_leaves_nothing(address, running):
    before = set(running.folder.glob("captioning-page-*/**"))
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        client.sendall(b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + b"x" * 5000)
        wait_for(lambda: list(running.folder.glob("captioning-page-*/tmp*")))
    wait_for(lambda: not list(running.folder.glob("captioning-page-*/tmp*")))
    assert set(running.folder.glob("captioning-page-*/**")) == before


def wait_for(condition, seconds=60):
    """Return when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("path", ["call/caption/zzz", "queue/data?session_hash=a"])
def test_a_stream_that_is_refused_is_whole_and_fills_no_log(address, running, path):
    printed = len(running.lines)
    answer = httpx.get(f"{address}/gradio_api/{path}", timeout=60)  # raised: the peer closed the connection
    assert "error" in answer.text or answer.status_code == 404
    assert running.lines[printed:] == []


def test_only_what_the_page_needs_is_answered(address):
    """Gradio answers at many more addresses."""
    for path in ("openapi.json", "docs", "gradio_api/openapi.json", "monitoring", "gradio_api/runs", "login"):
        assert httpx.get(f"{address}/{path}").status_code == 404, path
    for path in ("component_server", "process_recording", "vibe-edit", "run/caption", "api/caption", "call/lambda"):
        answer = httpx.post(f"{address}/gradio_api/{path}", json={"data": []})
        assert answer.status_code == 404, path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1"])
def test_a_name_of_another_server_is_not_answered(address, host):
    """DNS rebinding: a foreign site lets its own name point to this machine, and reads the answers."""
    answer = httpx.get(address, headers={"Host": host})
    assert answer.status_code == 421
    assert "<html" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1", "[::1]:80", "192.168.1.7:7860"])
def test_a_name_of_this_server_is_answered(address, host):
    assert httpx.get(address, headers={"Host": host}).status_code == 200


def test_a_script_of_another_site_cannot_send_requests(address):
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = httpx.post(f"{address}/gradio_api/upload", headers=headers, files={"files": ("a.jpg", b"x")})
    assert answer.status_code == 403


def test_every_answer_has_the_security_headers(address):
    for path in ("", "config", "nothing", "gradio_api/upload"):
        headers = httpx.get(f"{address}/{path}").headers
        for name, value in HEADERS.items():
            assert headers[name] == value, path
    headers = httpx.get(f"{address}/gradio_api/file={upload(address, name='a.html')}").headers
    assert "sandbox" in headers["content-security-policy"]  # a page that a visitor uploaded runs no script


def test_the_page_asks_no_other_server(address):
    """Fonts, scripts and statistics come from here or not at all."""
    text = httpx.get(address).text
    loaded = re.findall(r"""(?:<script[^>]*src|<link[^>]*href)=["'](https?://[^"']+)""", text)
    assert [url for url in loaded if "fonts" in url or "analytics" in url] == []
    assert "default-src 'self'" in HEADERS["content-security-policy"]


def build_slow(folder):
    """For a Worker: captions no picture, and waits without end for the one named slow."""

    def caption_pictures(model, paths, settings, max_pixels):
        if any("slow" in path for path in paths):
            (Path(folder) / "waits").touch()
            time.sleep(3600)
        record = {"caption": "a cat", "log_prob": -1.0, "confidence": 0.9, "score": 1.0, "familiarity": None}
        return [{"records": [record], "thumbnail": b""} for _ in paths]

    return {"photos": {"classes": [], "length_penalty": 0.0}}, caption_pictures


def test_after_a_request_without_end_others_go_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    config = app.CONFIG | {"max_seconds": 5.0, "examples": "", "port": free_port()}
    worker = Worker(build_slow, tmp_path)
    try:
        page, address = app.serve(Service(worker, [], tmp_path, config), tmp_path, config)
        address = address.rstrip("/")
        slow = upload(address, name="slow.jpg")
        answers = []
        first = threading.Thread(target=lambda: answers.append(call(address, [{"path": slow}])))
        first.start()
        wait_for((tmp_path / "waits").exists)
        assert captions_of(call(address, [{"path": upload(address)}])) == ["a cat"]
        first.join()
        assert "longer than 5 seconds" in answers[0]
        page.close()
    finally:
        worker.stop()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model_path", "nowhere.onnx"], "nowhere.onnx: no such model"),
        (["--model_path", "fotos"], "did you mean photos"),
        (["--port", "1"], "port 1 of 192.0.2.1"),
        (["--port", "TAKEN"], "choose another with --port"),
        (["--port", "TAKEN", "--model_path", "nowhere.onnx"], "choose another with --port"),  # told before models load
    ],
)
def test_a_page_that_cannot_start_says_why_in_one_line(flags, sentence):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = [str(taken.getsockname()[1]) if flag == "TAKEN" else flag for flag in flags]
        host = ["--host", "192.0.2.1"] if "192" in sentence else []
        process = start(*flags, *host)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = output.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


# In a browser


@pytest.fixture
def browser():
    """A function that opens a headless browser of a given window, language and colour scheme."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    opened = []

    def start(width, height, language, scheme="light"):
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
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        opened[-1].execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return opened[-1]

    yield start
    for one in opened:
        one.quit()


def find(driver, selector, count=1, seconds=60):
    """Return the elements that fit a CSS selector, as soon as there are `count`."""
    wait_for(lambda: len(driver.find_elements("css selector", selector)) >= count, seconds)
    return driver.find_elements("css selector", selector)


def open_page(driver, address, text):
    """Open the page and wait until it is ready to be used."""
    driver.get(address)
    wait_for(lambda: text["empty"] in driver.find_element("tag name", "body").text)
    return find(driver, "#pictures input[type=file]")[0]


def cards(driver, *captions):
    """Wait until the cards show these captions."""
    shown = "return [...document.querySelectorAll('#captions h3')].map((one) => one.innerText)"
    wait_for(lambda: driver.execute_script(shown) == list(captions))
    return driver.find_elements("css selector", "#captions article")


def english(text):
    """Return the English words of a text."""
    return set(re.findall("[A-Za-z]{2,}", text))


def violations(driver):
    """Return what axe-core finds: (impact, rule, first element)."""
    wait_for(lambda: not driver.find_elements("css selector", ".pending"))  # Gradio dims what is about to change
    axe = importlib.resources.files("axe_core_python") / "axe.min.js"
    driver.execute_script(axe.read_text("utf-8"))
    found = driver.execute_async_script("const done = arguments[0]; axe.run(document).then((r) => done(r.violations))")
    return [(one["impact"], one["id"], one["nodes"][0]["html"][:200]) for one in found]


@pytest.mark.parametrize(
    ("width", "height", "language", "scheme"),
    [
        (1280, 900, "en-US", "light"),
        (390, 844, "ko-KR", "dark"),
        (390, 844, "en-US", "light"),
        (1280, 900, "ko-KR", "dark"),
    ],
)
def test_in_a_browser(browser, address, shipped, pictures, tmp_path, width, height, language, scheme):
    """Example, upload, a second picture, a file that is none, another model, a slider: as a visitor does it."""
    text = TEXT[language[:2]]
    (tmp_path / "fake.png").write_text("no picture")
    driver = browser(width, height, language, scheme)
    chooser = open_page(driver, address, text)
    body = driver.find_element("tag name", "body").text
    assert text["title"].removeprefix("# ") in body
    assert text["intro"] in body
    assert text["photos"] in body

    (cat,) = [one for one in find(driver, "#examples button", 6) if one.text == text["cat"]]
    driver.execute_script("arguments[0].click()", cat)
    caption, *others = [shipped(CAT, num_best=3)[0], *shipped(CAT, num_best=3)[0].alternatives]
    (card,) = cards(driver, caption.text)  # by the model that knows pictograms
    assert text["confidence"].format(value=caption.confidence) in card.text
    assert all(other.text in card.text for other in others)
    if width < 500:  # the caption comes first
        wait_for(lambda: 0 <= driver.execute_script(TOP_OF_CAPTION) < height / 2)

    chooser.send_keys(pictures[0])
    second = shipped(pictures[0])[0].text
    cards(driver, caption.text, second)  # the second does not hide the first
    (tmp_path / "notes.txt").write_text("no picture")
    chooser.send_keys(f"{tmp_path / 'notes.txt'}\n{tmp_path / 'fake.png'}")
    found = cards(driver, caption.text, second, text["unreadable"].format(megapixels=1))
    assert "fake.png" in found[2].text
    wait_for(lambda: f"{text['no_picture']} notes.txt" in driver.find_element("tag name", "body").text)
    assert violations(driver) == []

    settings = driver.find_element("css selector", "button.label-wrap")
    driver.execute_script("arguments[0].click()", settings)
    beams = find(driver, "input[type=range]", 4)[0]
    assert violations(driver) == []
    driver.execute_script(SET_SLIDER, beams, 1)
    greedy = [one.text for one in shipped([CAT, pictures[0]], beam_size=1)]
    wait_for(lambda: not driver.find_elements("css selector", "#captions li"))  # a changed slider captions again
    cards(driver, *greedy, text["unreadable"].format(megapixels=1))

    (photos, *_) = driver.find_elements("css selector", "#model input[type=radio]")
    driver.execute_script("arguments[0].click()", photos)
    photos = Captioner.load(ROOT / "checkpoints" / "photos_int8.onnx")
    other = [one.text for one in photos([CAT, pictures[0]], beam_size=1)]
    cards(driver, *other, text["unreadable"].format(megapixels=1))

    files = {link.get_attribute("download") for link in driver.find_elements("css selector", "#captions a.download")}
    assert files == {"captions.csv", "captions.json"}
    driver.execute_script("arguments[0].click()", driver.find_element("css selector", "#captions button[data-copy]"))
    wait_for(lambda: driver.find_element("css selector", "#captions button[data-copy]").text == text["copied"])
    driver.execute_script("arguments[0].click()", driver.find_element("css selector", "#clear"))
    wait_for(lambda: text["empty"] in driver.find_element("tag name", "body").text)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert driver.execute_script("return document.documentElement.lang") == language[:2]
    said = driver.find_element("tag name", "body").text + " ".join(driver.execute_script(SPOKEN))
    assert not re.search(r"\b[a-z]+\.[a-z_]+\b", said)  # common.webcam: a label's name instead of the label
    assert text["num_best"] in driver.execute_script(SPOKEN)
    if language == "ko-KR":
        assert english(said) <= {"MobileNetV", "LSTM"}
    assert not [
        line for line in driver.get_log("browser") if line["level"] == "SEVERE" and "127.0.0.1" in line["message"]
    ]


@pytest.fixture
def slow_page(tmp_path, monkeypatch):
    """The address of a page whose captions of slow.jpg do not end, with room for one in its queue; slow.jpg."""
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    Image.new("RGB", (64, 64)).save(tmp_path / "slow.jpg")
    config = app.CONFIG | {"max_seconds": 30.0, "examples": "", "port": free_port(), "queue_size": 1}
    worker = Worker(build_slow, tmp_path)
    page, address = app.serve(Service(worker, [], uploads, config), uploads, config)
    yield address.rstrip("/"), tmp_path / "slow.jpg"
    page.close()
    worker.stop()


def test_who_waits_or_is_refused_is_told_in_korean(browser, slow_page):
    """Gradio says "queue: 1/1" and "In queue: 1 of 1" to who waits, and "currently busy" where the queue is full."""
    address, picture = slow_page
    drivers, expected = [], ("로딩 중", "순서를 기다리는 중", "지금은 요청이 많습니다")
    for heard in expected:  # one whose picture is being looked at, one in the queue, one too many
        drivers.append(browser(1280, 900, "ko-KR"))
        chooser = open_page(drivers[-1], address, TEXT["ko"])  # a full queue does not stop it
        drivers[-1].execute_script(LISTEN)
        chooser.send_keys(str(picture))
        wait_for(lambda heard=heard: heard in "".join(drivers[-1].execute_script("return window.heard")))
        wait_for((picture.parent / "waits").exists)
    for driver in drivers:
        parts = [driver.find_element("tag name", "body").text, *driver.execute_script("return window.heard")]
        said = " ".join([*parts, *driver.execute_script(SPOKEN)])
        assert english(said) <= {"MobileNetV", "LSTM"}
    assert violations(drivers[-1]) == []


def test_an_upload_is_captioned_once_and_clear_forgets_it(browser, slow_page):
    """Each upload was captioned twice; and whoever cleared the page waited in the queue, for the empty page."""
    address, picture = slow_page
    driver = browser(1280, 900, "en-US")
    chooser = open_page(driver, address, TEXT["en"])
    calls = "return performance.getEntriesByType('resource').filter((one) => one.name.includes('queue/join')).length"
    assert driver.execute_script(calls) == 0
    chooser.send_keys(str(picture))
    wait_for((picture.parent / "waits").exists)
    driver.execute_script("arguments[0].click()", driver.find_element("css selector", "#clear"))
    wait_for(lambda: not driver.find_elements("css selector", "#captions .progress-text"))
    assert TEXT["en"]["empty"] in driver.find_element("css selector", "#captions").text
    time.sleep(1)  # a second call would have come by now
    assert driver.execute_script(calls) == 1


HOLD_UPLOADS = """
const [status] = arguments, fetch = window.fetch, hold = new Promise((done) => { window.release = done; });
window.fetch = async (...call) => {
  const address = String(call[0]?.url ?? call[0]);
  if (!address.includes('/upload') || address.includes('progress')) return fetch(...call);
  if (status) return new Response('{"detail": "no"}', {status});
  if (!window.held) { window.held = true; await hold; }
  return fetch(...call);
};
"""


def test_uploads_that_cross_lose_nothing(browser, address, shipped, pictures, tmp_path):
    """The slower of two uploads took the place of the other, and Clear was undone by what came after it."""
    text, status = TEXT["en"], ".picker-status"
    driver = browser(1280, 900, "en-US")
    chooser = open_page(driver, address, text)
    driver.execute_script("arguments[0].click()", find(driver, "#model input[type=radio]", 3)[2])  # pictograms
    driver.execute_script(HOLD_UPLOADS)
    chooser.send_keys(str(CAT))
    wait_for(lambda: driver.execute_script("return window.held"))
    chooser.send_keys(pictures[0])
    cat, first = shipped(CAT)[0].text, shipped(pictures[0])[0].text
    cards(driver, first)
    assert text["uploading"] in driver.find_element("css selector", status).text, "one is still coming"
    driver.execute_script("window.release()")
    cards(driver, first, cat)
    wait_for(lambda: driver.find_element("css selector", status).text == "")

    driver.execute_script("window.held = false")
    driver.execute_script(HOLD_UPLOADS)
    chooser.send_keys(str(CAT))
    wait_for(lambda: driver.execute_script("return window.held"))
    driver.execute_script("arguments[0].click()", driver.find_element("css selector", "#clear"))
    wait_for(lambda: text["empty"] in driver.find_element("tag name", "body").text)
    driver.execute_script("window.release()")
    cards(driver, cat)  # what was cleared does not come back


@pytest.mark.parametrize(("status", "reason"), [(507, "no_room"), (413, "too_large"), (500, "cut_off")])
def test_why_an_upload_was_refused(browser, address, status, reason):
    """Each was "no picture, too large, or cut off"."""
    driver = browser(1280, 900, "en-US")
    chooser = open_page(driver, address, TEXT["en"])
    driver.execute_script(HOLD_UPLOADS, status)
    chooser.send_keys(str(CAT))
    sentence = f"{TEXT['en'][reason]} {Path(CAT).name}"
    wait_for(lambda: driver.find_element("css selector", ".picker-status").text == sentence)


TOP_OF_CAPTION = "return document.querySelector('#captions h3').getBoundingClientRect().top"
SET_SLIDER = """
const [slider, value] = arguments;
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(slider, value);
slider.dispatchEvent(new Event('input', {bubbles: true}));
"""
# What is announced to a screen reader, from now on.
LISTEN = """
window.heard = [];
new MutationObserver((changes) => {
  for (const {target} of changes) {
    const live = (target.closest ? target : target.parentElement)?.closest('[aria-live]');
    if (live) window.heard.push(live.textContent);
  }
}).observe(document.body, {childList: true, characterData: true, subtree: true});
"""

SPOKEN = """
const names = ['aria-label', 'title', 'alt', 'placeholder'];
return [...document.body.querySelectorAll(names.map((name) => `[${name}]`).join())]
  .flatMap((one) => names.map((name) => one.getAttribute(name) || ''));
"""


def test_the_keyboard_alone_does_everything(browser, address, shipped):
    """Tab reaches every control in order, and Enter, Space and arrows work it."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    text = TEXT["en"]
    driver = browser(1280, 900, "en-US")
    open_page(driver, address, text)
    find(driver, "#examples button", 6)

    def press(key):
        ActionChains(driver).send_keys(key).perform()

    def reach(selector, most=40):
        for _ in range(most):
            press(Keys.TAB)
            if driver.execute_script("return document.activeElement.matches(arguments[0])", selector):
                return driver.switch_to.active_element
        raise AssertionError(f"{selector} is not reached by Tab")

    reach("#model input")
    reach("#pictures input[type=file]")
    reach("#clear")
    reach("#submit")
    while reach("#examples button").text != text["cat"]:
        pass
    press(Keys.ENTER)
    caption = shipped(CAT, num_best=3)[0].text
    cards(driver, caption)
    reach("button.label-wrap")
    press(Keys.SPACE)
    find(driver, "input[type=range]", 4)
    reach("input[type=range]")
    press(Keys.HOME)  # one beam
    wait_for(lambda: not driver.find_elements("css selector", "#captions li"))
    reach("#captions button[data-copy]")
    press(Keys.ENTER)
    wait_for(lambda: driver.switch_to.active_element.text == text["copied"])
    reach("#captions a.download")

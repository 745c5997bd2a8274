"""Models from a server on this machine: progress is kept, and what is wrong is one line and leaves nothing."""

import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioning.deploy import downloads
from captioning.deploy.downloads import fetch_model

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"\x08\x0a" + bytes(range(256)) * 4000  # begins as an ONNX model does, 1 MB


class Server(BaseHTTPRequestHandler):
    """Serves `files` with ranges and tags; cuts the connection as often as `cuts` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, state = self.path.partition("?")[0], self.server
        state.requests.append((path, self.headers.get("Range")))
        if path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path not in state.files:
            self.send_error(404)
            return
        if state.busy:
            self.send_error(state.busy)
            return
        content = state.files[path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        begin, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range") == tag:
            begin = int(wanted[1])
            if begin >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        if state.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", state.length or str(len(content) - begin))
        self.end_headers()
        self.close_connection = bool(state.length)
        if state.cuts:
            state.cuts -= 1
            self.wfile.write(content[begin : begin + len(content) // 4])
            self.close_connection = True
            return
        self.wfile.write(content[begin:])

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        found.files, found.redirects, found.requests, found.cuts, found.tags = {"/a.onnx": CONTENT}, {}, [], 0, True
        found.busy, found.length = 0, ""
        found.address = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache):
    """The files of the cache that are taken for models."""
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix in downloads.SUFFIXES]


def one_line(source, message):
    with pytest.raises(ValueError, match=message) as error:
        fetch_model(source)
    assert "\n" not in str(error.value)
    assert source.partition("#")[0] in str(error.value)


@pytest.fixture
def certificate(server, tmp_path):
    """The file of a certificate for 127.0.0.1 that no one has signed; `server` answers over TLS with it."""
    key, path = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, "-keyout", key, "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.address = server.address.replace("http:", "https:")
    return path


def test_a_path_is_itself(tmp_path):
    assert fetch_model("some/model.onnx") == Path("some/model.onnx")
    assert fetch_model(tmp_path / "a.onnx") == tmp_path / "a.onnx"


def test_a_file_comes_once(server, cache):
    digest = hashlib.sha256(CONTENT).hexdigest()
    for source in (f"{server.address}/a.onnx", f"{server.address}/a.onnx#sha256={digest}"):
        first, second = fetch_model(source), fetch_model(source)
        assert first == second
        assert first.read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {"a.onnx"}


def test_a_cut_connection_is_taken_up_where_it_was(server):
    server.cuts = 2
    assert fetch_model(f"{server.address}/a.onnx").read_bytes() == CONTENT
    quarter = len(CONTENT) // 4
    assert [begin for _, begin in server.requests] == [None, f"bytes={quarter}-", f"bytes={2 * quarter}-"]


def test_the_next_call_goes_on_where_the_last_gave_up(server, cache):
    """Three attempts bring three quarters."""
    server.cuts = 99
    source = f"{server.address}/a.onnx"
    one_line(source, "the download was cut .* call again to go on")
    assert not kept(cache)
    server.cuts, server.requests[:] = 0, []
    assert fetch_model(source).read_bytes() == CONTENT
    assert server.requests == [("/a.onnx", f"bytes={3 * (len(CONTENT) // 4)}-")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (503, "the download was cut .Service Unavailable.; call again to go on"),
        (429, "the download was cut .Too Many Requests.; call again to go on"),
        (403, "the server answers 403 Forbidden"),
    ],
)
def test_a_server_that_is_busy_or_refuses_costs_nothing_that_has_come(server, cache, code, message):
    server.cuts = 99
    source = f"{server.address}/a.onnx"
    one_line(source, "cut")
    server.cuts, server.busy = 0, code
    one_line(source, message)
    server.busy, server.requests[:] = 0, []
    assert fetch_model(source).read_bytes() == CONTENT
    assert server.requests == [("/a.onnx", f"bytes={3 * (len(CONTENT) // 4)}-")]


def test_a_piece_that_is_the_whole_file_already(server, cache):
    """As a process leaves it that is killed between the last byte and the renaming."""
    server.cuts = 99
    source = f"{server.address}/a.onnx"
    one_line(source, "cut")
    [part] = cache.rglob("*.part")
    part.write_bytes(CONTENT)
    server.cuts = 0
    assert fetch_model(source).read_bytes() == CONTENT


def test_a_full_disk_is_told_as_one(server, cache):
    """Under a limit on the size of files, which fails as a full disk does."""
    resource = pytest.importorskip("resource")  # Windows has no such limit
    source, limits = f"{server.address}/a.onnx", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"a\.onnx\.part: File too large; make room and call again to go on"):
            fetch_model(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(server.requests) == 1
    assert not kept(cache)
    assert fetch_model(source).read_bytes() == CONTENT


def test_two_processes_download_one_file_once(server, cache):
    pytest.importorskip("fcntl")  # Windows has no such locks
    code = f"from captioning.deploy.downloads import fetch_model; print(fetch_model('{server.address}/a.onnx'))"
    server.files["/a.onnx"] = CONTENT * 30
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[1] for process in both] == [b"", b""]
    assert [path.read_bytes() for path in kept(cache)] == [CONTENT * 30]
    assert len(server.requests) == 1


def test_a_length_that_is_no_number_is_none(server):
    server.length = "abc"
    assert fetch_model(f"{server.address}/a.onnx").read_bytes() == CONTENT


def test_an_address_as_a_person_writes_it(server):
    server.files["/my%20models/%EB%AA%A8%EB%8D%B8.onnx"] = CONTENT
    assert fetch_model(f"{server.address}/my models/모델.onnx").read_bytes() == CONTENT


def test_pieces_of_two_files_are_never_joined(server, cache):
    server.cuts = 99
    source = f"{server.address}/a.onnx"
    one_line(source, "cut")
    server.cuts, server.files["/a.onnx"] = 0, b"\x08\x0b" + CONTENT[:5000]
    assert fetch_model(source).read_bytes() == b"\x08\x0b" + CONTENT[:5000]


def test_a_server_without_tags_is_asked_anew(server):
    server.tags, server.cuts = False, 1
    assert fetch_model(f"{server.address}/a.onnx").read_bytes() == CONTENT
    assert [begin for _, begin in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing.onnx", "the server answers 404"),
        ("/circle.onnx", "the server answers 302"),
        ("/page.onnx", "what came is not a model"),
        ("/page.safetensors", "what came is not a model"),
        ("/empty.onnx", "what came is not a model"),
        (f"/a.onnx#sha256={'0' * 64}", "its SHA-256 is [0-9a-f]{64}; nothing was kept"),
        ("/a.onnx#sha256=12", "after # must stand sha256= and 64 hex digits"),
        ("/a.onnx#md5=12", "after # must stand sha256="),
        ("/a.pkl", "the name of a model ends in .safetensors or .onnx"),
        ("/", "the name of a model ends in"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_kept(server, cache, path, message):
    page = b"<!DOCTYPE html><html>please log in</html>"
    server.files |= {"/page.onnx": page, "/page.safetensors": page, "/empty.onnx": b""}
    server.redirects["/circle.onnx"] = "/circle.onnx"
    one_line(server.address + path, message)
    assert not [found for found in cache.rglob("*") if found.is_file()]


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl, which makes the certificate")
def test_https_takes_a_file_from_a_server_that_is_trusted_alone(server, certificate, cache):
    """The command itself: an untrusted certificate is not asked a second time, and "call again" would not help."""
    source = f"{server.address}/a.onnx#sha256={hashlib.sha256(CONTENT).hexdigest()}"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from captioning import cli\nfrom captioning.deploy import downloads\n"
        f"cli.run(lambda config: print(downloads.fetch_model({source!r})))\n"
    )
    for trusted, line in (
        (False, f"error: {source}: the server's certificate is not trusted ("),
        (True, str(cache)),
    ):
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)} if trusted else os.environ
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.returncode == (0 if trusted else 2), result.stderr
        [found] = (result.stdout if trusted else result.stderr).splitlines()
        assert found.startswith(line)
        assert len(kept(cache)) == len(server.requests) == trusted
    assert Path(found).read_bytes() == CONTENT


def test_too_large_a_file_is_refused_before_it_is_read(server, cache, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_BYTES", 1000)
    one_line(f"{server.address}/a.onnx", "at most 1000 are read")
    assert not [found for found in cache.rglob("*") if found.is_file()]


def test_nobody_listens(server):
    server.server_close()
    one_line(f"{server.address}/a.onnx", "the download was cut|refused")


@pytest.mark.parametrize("source", ["http://example.com/a.onnx", "ftp://127.0.0.1/a.onnx", "file:///etc/a.onnx"])
def test_other_ways_than_https_are_refused_without_a_connection(source, monkeypatch):
    monkeypatch.setattr(downloads, "receive", lambda *_: pytest.fail("connected"))
    one_line(source, "allowed")


def test_a_redirect_is_followed_only_to_where_one_may_go(server, cache):
    server.redirects = {"/b.onnx": "/a.onnx", "/c.onnx": "http://example.com/a.onnx"}
    assert fetch_model(f"{server.address}/b.onnx").read_bytes() == CONTENT
    with pytest.raises(ValueError, match="http://example.com/a.onnx: allowed is https"):
        fetch_model(f"{server.address}/c.onnx")
    assert len(kept(cache)) == 1


def test_a_name_cannot_leave_the_cache(server, cache):
    server.files["/x/..%2F..%2Fevil.onnx"] = CONTENT
    path = fetch_model(f"{server.address}/x/..%2F..%2Fevil.onnx")
    assert cache.resolve() in path.resolve().parents


def test_captioner_loads_from_an_address(server, model_files, pictograms_dir):
    from caption import Captioner

    server.files |= {"/m.onnx": model_files.onnx.read_bytes(), "/m.safetensors": model_files.checkpoint.read_bytes()}
    picture = next(iter(sorted((pictograms_dir / "test").rglob("*.jpg"))))
    expected = Captioner.load(model_files.checkpoint)(picture)[0].text
    for name in ("m.onnx", "m.safetensors"):
        assert Captioner.load(f"{server.address}/{name}")(picture)[0].text == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://", "must be hf://owner/name"),
        ("hf://owner", "must be hf://owner/name"),
        ("hf://owner/name/model.pkl", "the name of a model ends in"),
    ],
)
def test_an_address_of_the_hub_is_checked_first(source, message):
    one_line(source, message)


def test_a_file_of_the_hub(model_files, tmp_path):
    """huggingface_hub itself, against a server on this machine that answers as the Hub does."""

    class Hub(BaseHTTPRequestHandler):
        def answer(self, body):
            content = self.server.files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *arguments):
            """Say nothing."""

    content = model_files.onnx.read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        hub.files = {"/owner/name/resolve/main/model_int8.onnx": content}
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from captioning.deploy.downloads import fetch_model\n"
            "for name in ('hf://owner/name/model_int8.onnx', 'hf://owner/name'):\n"
            "    try:\n        print(fetch_model(name))\n    except ValueError as error:\n        print(error)\n"
        )
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path)}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        hub.shutdown()
    assert result.returncode == 0, result.stderr
    found, missing = result.stdout.splitlines()
    assert Path(found).read_bytes() == content
    assert missing.startswith("hf://owner/name: model.safetensors cannot be had (")


@pytest.mark.parametrize("name", downloads.SHIPPED)
@pytest.mark.parametrize("form", ["{}", "checkpoints/{}.safetensors"])
def test_shipped_models_are_found_by_name_and_from_any_folder(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    assert fetch_model(form.format(name)) == ROOT / "checkpoints" / f"{name}.safetensors"
    assert (ROOT / "checkpoints" / f"{name}.safetensors").is_file()


def test_a_file_of_ones_own_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").write_bytes(b"")
    assert fetch_model("photos") == Path("photos")


def test_a_folder_of_pictures_does_not_hide_the_model_of_its_name(tmp_path, monkeypatch):
    """The README's own photographs lie in a folder called photos."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    assert fetch_model("photos") == ROOT / "checkpoints/photos.safetensors"


def test_a_name_that_ships_nothing_is_refused_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="fotos: no such file, and no shipped model has this name; did you mean photos"
    ):
        fetch_model("fotos")
    assert fetch_model("other/fotos.safetensors") == Path("other/fotos.safetensors")  # its reader says what is missing

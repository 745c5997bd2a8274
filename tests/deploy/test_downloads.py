"""Models from a server on this machine: progress is kept, and what is wrong is one line and leaves nothing."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioning.deploy import downloads, onnx_model
from captioning.deploy.downloads import fetch_model

ROOT = Path(__file__).resolve().parents[2]


def onnx_file(version, size):
    """The bytes of an ONNX file with an empty graph, whose description has `size` bytes (a multiple of 128)."""
    length = [(size >> shift & 127) | 128 for shift in range(0, 28, 7)]
    length[-1] &= 127
    graph = b"\x52" + bytes(length) + b"x" * size
    whole = [(len(graph) >> shift & 127) | 128 for shift in range(0, 28, 7)]
    whole[-1] &= 127
    return bytes([8, version]) + b"\x3a" + bytes(whole) + graph + b"\x42\x02\x10\x12"


CONTENT = onnx_file(10, 2**20)


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
        if state.length != "none":
            self.send_header("Content-Length", state.length or str(len(content) - begin))
        self.end_headers()
        self.close_connection = bool(state.length)
        if state.drip:
            for byte in content:
                self.wfile.write(bytes([byte]))
                if state.over.wait(state.drip):
                    return
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
        found.busy, found.length, found.drip, found.over = 0, "", 0, threading.Event()
        found.address = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.over.set()
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
        (500, "the server answers 500 Internal Server Error; call again later to go on"),
        (503, "the server answers 503 Service Unavailable; call again later to go on"),
        (429, "the server answers 429 Too Many Requests; call again later to go on"),
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


@pytest.mark.parametrize("length", ["none", "5000"])
@pytest.mark.parametrize("name", ["a.onnx", "m.safetensors"])
def test_a_file_is_complete_where_its_format_says_so(server, cache, model_files, name, length):
    """A connection that ends early, and a length that is too short, look like the end of the file to HTTP."""
    content = model_files.checkpoint.read_bytes() if name.startswith("m") else CONTENT
    server.files[f"/{name}"], server.length = content, length
    if length == "none":
        server.cuts = 1
    one_line(f"{server.address}/{name}", "what came is not a whole model .*; nothing was kept")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    server.length = ""
    assert fetch_model(f"{server.address}/{name}").read_bytes() == content


def test_a_server_that_sends_byte_by_byte_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.drip = 0.01
    one_line(f"{server.address}/a.onnx", r"the download was cut \(\d+ bytes in 0 seconds\); call again to go on")
    assert not kept(cache)


def test_a_download_ends_after_a_total_time(server, cache, monkeypatch):
    """The server answers its head at once, and then nothing."""
    monkeypatch.setattr(downloads, "MAX_SECONDS", 0.3)
    server.drip = 30
    one_line(f"{server.address}/a.onnx", r"the download was cut \(not complete after 0 seconds\); call again to go on")
    assert len(server.requests) == 1
    assert not kept(cache)


def test_what_a_server_says_gives_no_orders_to_a_terminal(server):
    server.busy = 403
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "responses", {403: ("\x1b[2Jgo away", "")})
        one_line(f"{server.address}/a.onnx", r"the server answers 403 \\x1b\[2Jgo away")


def test_a_download_that_cannot_be_loaded_is_dropped_and_named(server, cache, pictograms_dir, model_files):
    """It is whole, and no captioner: the owner may mend it, so the next call asks for it anew."""
    from caption import Captioner

    source = f"{server.address}/a.onnx"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a\.onnx: not a checkpoint .* dropped: the next call downloads it anew"):
            Captioner.load(source)
    assert len(server.requests) == 2
    server.files["/a.onnx"] = model_files.onnx.read_bytes()
    picture = next(iter(sorted((pictograms_dir / "test").rglob("*.jpg"))))
    assert Captioner.load(source)(picture)[0].text
    damaged = fetch_model(source)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match="it is cut: .* dropped"):
        Captioner.load(source)
    assert Captioner.load(source)(picture)[0].text


def test_a_file_of_ones_own_is_never_dropped(tmp_path):
    from caption import Captioner

    (tmp_path / "a.onnx").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="not a checkpoint of this project") as error:
        Captioner.load(tmp_path / "a.onnx")
    assert "dropped" not in str(error.value)
    assert (tmp_path / "a.onnx").is_file()


def test_an_address_as_a_person_writes_it(server):
    server.files["/my%20models/%EB%AA%A8%EB%8D%B8.onnx"] = CONTENT
    assert fetch_model(f"{server.address}/my models/모델.onnx").read_bytes() == CONTENT


def test_pieces_of_two_files_are_never_joined(server, cache):
    server.cuts = 99
    source = f"{server.address}/a.onnx"
    one_line(source, "cut")
    server.cuts, server.files["/a.onnx"] = 0, onnx_file(11, 2**12)
    assert fetch_model(source).read_bytes() == onnx_file(11, 2**12)


def test_a_server_without_tags_is_asked_anew(server):
    server.tags, server.cuts = False, 1
    assert fetch_model(f"{server.address}/a.onnx").read_bytes() == CONTENT
    assert [begin for _, begin in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing.onnx", "the server answers 404"),
        ("/circle.onnx", "the server answers 302"),
        ("/page.onnx", "what came is not a whole model"),
        ("/page.safetensors", "what came is not a whole model"),
        ("/empty.onnx", "what came is not a whole model"),
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
            if body and "slow" in self.path:  # a byte a second
                with contextlib.suppress(OSError):
                    for byte in content:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(1)
            elif body:
                self.wfile.write(content)

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *arguments):
            """Say nothing."""

    content = model_files.onnx.read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        hub.files = {
            "/owner/name/resolve/main/model_int8.onnx": content,
            "/owner/name/resolve/main/cut.onnx": content[:-1000],
            "/owner/name/resolve/main/large.onnx": content,
            "/owner/name/resolve/main/slow.onnx": content + b"x",  # what it has already it does not ask for
        }
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from captioning.deploy.downloads import fetch_model\n"
            "from captioning.deploy import downloads\n"
            "names = ['model_int8.onnx', 'model.safetensors', 'cut.onnx', 'slow.onnx', 'large.onnx']\n"
            "for name in [f'hf://owner/name/{name}' for name in names]:\n"
            "    if 'large' in name: downloads.MAX_BYTES = 1000\n"
            "    if 'slow' in name: downloads.MAX_SECONDS = 3\n"
            "    try:\n        print(fetch_model(name))\n    except ValueError as error:\n        print(error)\n"
        )
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path)}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        hub.shutdown()
    assert result.returncode == 0, result.stderr
    found, missing, cut, slow, large = result.stdout.splitlines()
    assert Path(found).read_bytes() == content
    assert missing.startswith("hf://owner/name/model.safetensors: model.safetensors cannot be had (")
    assert cut.startswith("hf://owner/name/cut.onnx: what came is not a whole model (")
    assert slow == "hf://owner/name/slow.onnx: slow.onnx cannot be had (not complete after 3 seconds)"
    assert large == f"hf://owner/name/large.onnx: large.onnx has {len(content)} bytes, at most 1000 are read"
    assert {path.name for path in tmp_path.rglob("*.onnx")} == {"model_int8.onnx"}


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


def test_a_folder_and_a_resume_file_are_no_models_and_the_model_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("a.safetensors", "a_last.pt", "b_last.pt"):
        (tmp_path / "runs" / name).touch()
    with pytest.raises(ValueError, match=r"is a folder, a model is a file; the models in it are a\.safetensors$"):
        fetch_model(str(tmp_path / "runs"))
    with pytest.raises(ValueError, match=r"goes on from, no model; the model is .*runs/a\.safetensors$"):
        fetch_model(str(tmp_path / "runs/a_last.pt"))
    with pytest.raises(ValueError, match=r"is what --train\.resume goes on from, no model$"):
        fetch_model(str(tmp_path / "runs/b_last.pt"))


@pytest.mark.parametrize("name", ["circle.safetensors", "circle.onnx"])
def test_a_circle_of_links_is_no_model(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(name)
    with pytest.raises(ValueError, match=name), downloads.loading(fetch_model(name)):
        raise ValueError(f"{name}: no such model")  # as its reader does; Path.resolve raised RuntimeError before


def test_a_user_without_a_home_is_told_what_to_set(model_files, monkeypatch, tmp_path):
    """A container's user with a number alone: a traceback, also for a model that lies there."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CAPTIONING_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ValueError, match=r"^CAPTIONING_CACHE: got none, and this user has no home; name a folder"):
        downloads.cache_folder()
    path = shutil.copy(model_files.int8, tmp_path / "a.onnx")
    assert onnx_model.OnnxModel(path).vocab
    assert not downloads.is_cached(Path(path))

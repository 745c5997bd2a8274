"""More than two hundred files that mean harm: each is one line and exit code 2, within bounds, and nothing is run.

Each family is tried in one child process with a limit on its memory, each input with a limit on its time, so that a
family of a hundred costs one start of Python; the reader is called as a script calls it, through cli.run. A server's answers
are files as well, sent as they are to whoever asks. Raw calls of the page are in tests/test_app.py: they end in an
answer and no exit code.
"""

# ruff: noqa: E501 (a table of inputs, one family in a few lines)

import io
import json
import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from captioning.untrusted import on_one_line

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2  # of the processor for each input
MEGABYTES = 100  # above the child's own, at the end of its family
CHILD = """
import contextlib, io, resource, sys, time, traceback
sys.path.insert(0, {root!r})
from pathlib import Path
{setup}
from captioning import cli
sys.argv = ["script"]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
for path in sorted(Path('.').glob('good*')):
    read(path)
before = peak()
for path in sorted(Path('.').glob('bad*')):
    began, errors, code = time.process_time(), io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            cli.run(lambda config: read(path), of={{"setting": 1}})
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        errors.write('TRACEBACK ' + traceback.format_exc()[-300:])
    print(ascii((path.name, code, errors.getvalue(), time.process_time() - began)))
print(ascii(('memory', 0, peak() - before, 0)))
"""
READERS = {
    "pictures": "from captioning.data.images import load_image as read",
    "pickles": "from vocab import load_vocabulary as read",
    "safetensors": "from captioning.checkpoint import load_checkpoint as read",
    "resume": "from captioning.checkpoint import load_resume as read",
    "onnx": "from captioning.deploy.onnx_model import OnnxModel as read",
    "annotations": "from captioning.data.annotations import load_examples as read",
    "answers": """
import os, socket, threading
from captioning.deploy.downloads import fetch_model
os.environ["CAPTIONING_CACHE"] = os.path.abspath("../cache")
server = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer)
threading.Thread(target=serve, daemon=True).start()
def read(path):
    global answer
    answer = path.read_bytes()
    fetch_model(f"http://127.0.0.1:{server.getsockname()[1]}/{path.name}")
""",
    "special": """
from captioning.checkpoint import load_checkpoint, load_resume
from captioning.data.annotations import load_examples
from captioning.data.images import load_image
from captioning.deploy.onnx_model import OnnxModel
from vocab import load_vocabulary
BY_ENDING = {".jpg": load_image, ".pkl": load_vocabulary, ".safetensors": load_checkpoint, ".pt": load_resume}
BY_ENDING |= {".onnx": OnnxModel, ".csv": load_examples, ".json": load_examples}
def read(path): BY_ENDING[path.suffix](path)
""",
}


def png(width, height, data, *, depth=8, colour=2, extra=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(form, **settings):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(file, form, **settings)
    return file.getvalue()


def pictures():
    zeros = zlib.compress(b"\0" * 1000)
    sizes = [
        (1, 10**8),
        (10**8, 1),
        (60_000, 60_000),
        (2**31 - 1, 1),
        (0, 5),
        (5, 0),
        (9000, 9000),
        (2**31 - 1, 2**31 - 1),
    ]
    for size in sizes:
        yield png(*size, zeros)
        yield png(*size, zeros, depth=16, colour=6)
        yield struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 60, 0, 0, 54, 40, *[s - 2**32 * (s >= 2**31) for s in size],
                          1, 24, 0, 0, 0, 0, 0, 0)  # fmt: skip
        yield f"P6 {size[0]} {size[1]} 255\n".encode()
        yield f"P3 {size[0]} {size[1]} 255\n".encode() + b"1 " * 1000
    yield png(8, 8, zeros, extra=struct.pack(">I", 2**31 - 1) + b"zTXt")
    yield encoded("WEBP", lossless=True)[:30]
    progressive = encoded("JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    yield progressive[:-2] + progressive[last:-2] * 3000 + b"\xff\xd9"
    for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        whole = encoded(form)
        for share in (0.02, 0.1, 0.3, 0.6):
            yield whole[: max(4, int(share * len(whole)))]
    yield from (
        b"",
        b"\0",
        b"\xff" * 5000,
        b"<svg onload=alert(1)>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/bin/sh) run",
        b"PK\x03\x04",
    )


def nested(levels):
    return b")" + b"2\x86" * levels


def pickles():
    class Code:
        def __reduce__(self):
            return (__import__("os").system, ("touch ran",))

    begin = b"\x80\x04"
    yield pickle.dumps({"format": 1, "itos": Code()})
    yield pickle.dumps(Code(), 0)
    for code in (
        b"cos\nsystem\n.",
        b"(ios\nsystem\n.",
        b"Ppid\n.",
        b"\x82\x01.",
        b"\x83\x01\x01.",
        b"\x8c\x02os\x8c\x06system\x93.",
    ):
        yield begin + code
    for levels in (30, 60, 200):
        yield begin + b"}" + nested(levels) + b"K\x01s."
        yield begin + b"}\x8c\x06format" + nested(levels) + b"s."
        yield begin + b"}(\x8c\x06formatK\x01\x8c\x04itos" + nested(levels) + b"u."
    for repeated in (b"(", b"]", b"}", b"]\x94", b"2", b"0", b"K\x01", b"a", b"e", b"N"):
        yield begin + repeated * 200_000
    for opcode in range(0, 256, 4):
        yield begin + bytes([opcode]) + b"\xff" * 12
    for value in (None, 1, "x", [1], {"format": 1}, {"format": True, "itos": []}, {"format": 1, "itos": "abc"},
                  {"format": 1, "itos": ["<pad>", "<start>", "<end>", "<unk>", "\x1b[2J"]}):  # fmt: skip
        yield pickle.dumps(value)


def safetensors():
    def file(header, data=b""):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(header)) + header + data

    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for length in (0, 1, 2**20, 2**40, 2**63, 2**64 - 1):
        yield struct.pack("<Q", length) + b"{}"
    yield file({f"w{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(400_000)})
    for header in (
        {},
        [],
        1,
        "x",
        None,
        {"a": 1},
        {"a": []},
        {"a": {}},
        {"__metadata__": 1},
        {"__metadata__": {"format": "2"}},
    ):
        yield file(header)
    yield file(b"{" * 1000)
    yield file(b'{"__metadata__":' + b"[" * 10**5 + b"]" * 10**5 + b"}")
    for change in ({"shape": [2**62]}, {"shape": [-1]}, {"dtype": "X"}, {"data_offsets": [0, 10**12]}, {"data_offsets": [4, 0]},
                   {"data_offsets": [0, 1e300]}, {"data_offsets": ["0", "4"]}, {"data_offsets": [0]}, {"data_offsets": {}}):  # fmt: skip
        yield file({"a": tensor | change}, b"\0" * 4)
    yield file({"a": tensor}, b"\0" * 4)
    yield file({"a": tensor}, struct.pack("<f", float("nan")))
    yield file({"a": tensor}, b"\0" * 400)


def resume():
    class Code:
        def __reduce__(self):
            return (__import__("os").system, ("touch ran",))

    yield from (
        pickle.dumps(Code()),
        pickle.dumps(Code(), 2),
        b"",
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02}q\x00.",
        b"\x80\x04" + b"(" * 1000,
    )


def onnx():
    def field(number, body):
        length = [(len(body) >> shift & 127) | 128 for shift in range(0, 28, 7)]
        length[-1] &= 127
        return bytes([number << 3 | 2]) + bytes(length) + body

    version = b"\x08\x0a" + field(8, b"\x10\x12")
    external = field(5, field(8, b"w") + field(13, field(1, b"location") + field(2, b"/etc/passwd")) + b"\x70\x01")
    nan = field(5, b"\x10\x01" + field(8, b"w") + field(9, struct.pack("<f", float("nan"))))
    deep = b""
    for _ in range(500):
        deep = field(1, field(4, b"If") + field(5, field(6, deep)))
    yield from (b"", b"\x08", b"\xff" * 1000, version, b"\x08\x0a" + field(7, b"\xff\xff"), b"\x3a\xff\xff\xff\xff\x0f")
    for graph in (b"", external, nan, deep, field(15, b""), field(1, b"") * 30_000, b"\x0b", b"\x08\x01"):
        yield version + field(7, graph)
    for operator in (b"Loop", b"Scan", b"NonZero", b"EPContext", b"RandomUniform", b"\x1b[2J", b"x" * 10**6):
        yield version + field(7, field(1, field(4, operator)))
    yield version + field(7, b"") + field(25, b"")
    for cut in (3, 20, 50):
        yield (version + field(7, external))[:-cut]


def annotations():
    """Files of two endings: a name that begins with { is JSON, else CSV."""
    for content in ({}, {"images": 1}, {"images": [1]}, {"images": [{}]}, {"images": [], "annotations": [{}]},
                    {"images": [{"id": True, "file_name": "a.jpg"}], "annotations": []},
                    {"images": [{"filename": "/etc/passwd", "split": "train", "sentences": [{"raw": "a dog"}]}]},
                    {"images": [{"filename": "../../a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]},
                    {"images": [{"filename": "a\x1b[2J.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]},
                    {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a" * 10**6}]}]},
                    {"images": [{"filename": "a.jpg", "split": "\x1b[2J", "sentences": [{"raw": "a dog"}]}]}):  # fmt: skip
        yield json.dumps(content).encode()
    yield b'{"images": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    yield b'{"images": [' + b"9" * 10**5 + b"]}"
    for row in ("/etc/passwd,a dog", "train/../../a.jpg,a dog", "train/a.jpg,\x00", "a.jpg,a dog", "train/a.jpg", '"train/a.jpg,a dog',
                "train/a.jpg," + "a" * 10**6, "train/\x1b[2J.jpg,a dog"):  # fmt: skip
        yield f"image,caption\n{row}\n".encode()
    yield from (b"", b"\xff\xfe\x00", b"image,caption\n", b"a,b\n1,2\n", b"\0" * 1000)


def answers():
    """What a server sends to somebody who asks for an ONNX model."""
    ok, body = b"HTTP/1.1 200 OK\r\n", b"\x08\x0a" + b"x" * 2000
    for code in (b"301", b"400", b"401", b"404", b"418", b"429", b"500", b"503", b"999", b"0", b"-1", b"abc"):
        yield b"HTTP/1.1 " + code + b" \x1b[2J\x1b]0;pwned\x07\r\nContent-Length: 0\r\n\r\n"
    for place in (b"file:///etc/passwd", b"ftp://127.0.0.1/a.onnx", b"http://192.0.2.1/a.onnx", b"hf://a/b", b"//\x1b[2J",
                  b"javascript:1", b"bad.onnx\x00", b"data:,a", b"", b"http://[::1", b"http://127.0.0.1:99999/a.onnx"):  # fmt: skip
        yield b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n"
    for length in (b"1", b"99999999", b"-5", b"1e9", b"9" * 400, b"0", b"\xb2", b"2002, 3"):
        yield ok + b"Content-Length: " + length + b"\r\n\r\n" + body
    yield ok + b"\r\n" + body
    yield ok + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + body
    yield ok + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body
    yield ok + b"Content-Encoding: gzip\r\nContent-Length: 2002\r\n\r\n" + body
    yield ok + b"X: " + b"y" * 10**6 + b"\r\n\r\n"
    yield ok + b"X: y\r\n" * 5000 + b"\r\n"
    yield ok + b"no header at all\r\n\r\n" + body
    yield b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/3\r\nContent-Length: 5\r\n\r\nabcde"
    yield b"HTTP/9.9 200 OK\r\n\r\n" + body
    yield from (b"", b"\n", b"\x00" * 5000, b"SSH-2.0-OpenSSH_9.2\r\n", b"<html>", b"220 ftp\r\n", pickle.dumps([1]))


def special():
    """Names that a terminal obeys, and what is no file: (name, function that makes it)."""
    makers = {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "zero": lambda path: os.symlink("/dev/zero", path),
        "tty": lambda path: os.symlink("/dev/tty", path),
        "loop": lambda path: os.symlink(os.path.basename(path), path),
        "nowhere": lambda path: os.symlink("/nowhere/at/all", path),
        "memory": lambda path: os.symlink("/proc/self/mem", path),
        "socket": lambda path: socket.socket(socket.AF_UNIX).bind(path),
    }
    endings = (".jpg", ".pkl", ".safetensors", ".pt", ".onnx", ".csv", ".json")
    for ending in endings:
        for kind, make in makers.items():
            yield f"bad_{kind}{ending}", make
        for number, sign in enumerate(
            ("\x1b[2J", "\n", "\t", "\u202e", "\x9b", "\udcff", "$(touch ran)", "-rf *", "\r")
        ):
            yield f"bad_{number}{sign}{ending}", lambda path: Path(path).write_bytes(b"neither this nor that")


FAMILIES = {f.__name__: f for f in (pictures, pickles, safetensors, resume, onnx, annotations, answers, special)}
ENDINGS = {"pickles": ".pkl", "safetensors": ".safetensors", "resume": ".pt", "onnx": ".onnx", "answers": ".onnx"}


def write_family(name, folder):
    """Write the inputs of a family, bad<number>, and return their number."""
    contents = list(FAMILIES[name]())
    for number, content in enumerate(contents):
        if isinstance(content, tuple):
            content[1](os.path.relpath(folder / content[0]))  # short enough for a socket
            continue
        ending = ENDINGS.get(name, ".json" if content[:1] == b"{" else ".csv" if name == "annotations" else ".jpg")
        (folder / f"bad{number:03}{ending}").write_bytes(content)
    return len(contents)


def contents_of(folder):
    """What a folder holds; of what is no file the name."""
    return {path: path.read_bytes() if path.is_file() and not path.is_symlink() else b"" for path in folder.iterdir()}


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    resource.setrlimit(resource.RLIMIT_CPU, (90, 90))


@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_files_are_refused_in_one_line_within_bounds(name, tmp_path):
    number = write_family(name, tmp_path)
    if name == "pictures":
        Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    before = contents_of(tmp_path)
    code = CHILD.format(root=str(ROOT), setup=READERS[name])
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=limit_memory, timeout=280,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-1000:]
    assert child.stderr == ""
    *results, (_, _, memory, _) = map(eval, child.stdout.splitlines())
    assert len(results) == number
    for file, code, said, seconds in results:
        assert code == 2, (file, code, said[:300])
        assert said.startswith("error: "), (file, said[:300])
        assert len(said.splitlines()) == 1, (file, said[:300])  # neither a second line nor a traceback
        assert on_one_line(file) in said, (file, said[:300])
        assert len(said) < 600, (file, len(said))
        assert seconds < SECONDS, (file, said[:200], seconds)
    assert memory < MEGABYTES, memory
    assert contents_of(tmp_path) == before, "something was written or run"
    assert not list(tmp_path.parent.glob("cache/**/*.onnx")), "what is no model was kept as one"


def test_there_are_more_than_two_hundred():
    assert sum(len(list(family())) for family in FAMILIES.values()) >= 200

"""The folder for the Hub holds every form, and its card the numbers of the report; nothing is sent without a login."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from PIL import Image

from caption import Captioner
from captioning.checkpoint import load_checkpoint
from captioning.deploy import hub

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = 'metric,value,recipe\nBLEU-4,0.930123,bleu4|corpus|refs:4\n"CIDEr-D, here",6.331,cider_d|df:this-split\n'


@pytest.fixture
def scores(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/summary.csv").write_text(SUMMARY)
    return hub.read_scores(tmp_path / "report")


@pytest.fixture
def folder(tmp_path, model_files, pictograms_dir, scores):
    paths = sorted((pictograms_dir / "test").rglob("*.jpg"))[:2]
    captions = Captioner.load(model_files.onnx)(paths)
    return hub.write_folder(
        tmp_path / "hub",
        "someone/captions",
        [model_files.checkpoint, model_files.onnx, model_files.int8],
        load_checkpoint(model_files.checkpoint),
        scores=scores,
        examples=[(path, caption.text) for path, caption in zip(paths, captions, strict=True)],
    )


def test_the_folder_captions_by_itself(folder, model_files):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "LICENSE", "README.md", "config.json", "examples/1.jpg", "examples/2.jpg", "model.onnx", "model.safetensors",
        "model_int8.onnx",
    ]  # fmt: skip
    for name, path in (("model.onnx", model_files.onnx), ("model_int8.onnx", model_files.int8)):
        same = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / name, path)]
        assert same[0] == same[1]
    said = {
        Captioner.load(folder / name)(folder / "examples/1.jpg")[0].text for name in ("model.safetensors", "model.onnx")
    }
    assert len(said) == 1
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["vocab"] == load_checkpoint(model_files.checkpoint).vocab


def test_the_card_is_valid_and_shows_the_numbers_of_the_report(folder):
    card = (folder / "README.md").read_text("utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-to-text"
    assert yaml.safe_load(front)["license"] == "mit"
    table = [line for line in text.splitlines() if line.startswith(("| BLEU", "| CIDEr"))]
    assert table[0] == r"| BLEU-4 | 0.9301 | `bleu4\|corpus\|refs:4` |"
    assert table[1] == r"| CIDEr-D, here | 6.3310 | `cider_d\|df:this-split` |"
    assert "hf://someone/captions" in text
    assert "![" in text
    with Image.open(folder / "examples/1.jpg") as picture:
        assert f"![{Captioner.load(folder / 'model.onnx')(picture)[0].text}](examples/1.jpg)" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there; the model card shows"),
        ("a,b\n1,2\n", "must have the columns"),
        ("", "must have"),
        ("metric,value,recipe\na,b,c\n", "a number"),
    ],
)
def test_a_report_without_numbers_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "summary.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        hub.read_scores(tmp_path)


@pytest.mark.parametrize("name", ["name", "a/b/c", "a b/c", "/c", "../x y"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="must be owner/name"):
        hub.check_name(name)


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: large files are put by their hash, then a commit names them and holds the small ones."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, state = self.body(), self.server
        state.tokens.add(self.headers["Authorization"])
        if state.refuses:
            self.answer({"error": "no way\nthere"}, 403)
        elif self.path == "/api/repos/create":
            state.created.append(json.loads(body))
            self.answer({"url": f"{state.address}/someone/captions"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/someone/captions/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".onnx", ".safetensors")) else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self.answer({"files": files})
        elif self.path == "/someone/captions.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{state.address}/large/{one['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})
        elif self.path == "/api/models/someone/captions/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    state.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    state.files[value["path"]] = state.large[value["oid"]]
            self.answer({"commitUrl": f"{state.address}/someone/captions/commit/0", "commitOid": "0" * 40})
        else:
            self.answer({}, 404)

    def do_PUT(self):
        self.server.large[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_GET(self):
        self.answer({}, 404)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, content, status=200):
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as found:
        found.address = f"http://127.0.0.1:{found.server_port}"
        found.created, found.large, found.files, found.tokens, found.refuses = [], {}, {}, set(), False
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def upload(folder, server, tmp_path, **environment):
    """What hub.upload says and prints in a process whose Hub is `server`, over plain HTTP instead of Xet's protocol."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from captioning import cli\nfrom captioning.deploy import hub\n"
        f"cli.run(lambda config: print(hub.upload({str(folder)!r}, 'someone/captions')))\n"
    )
    environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_whole_folder_is_uploaded_and_the_token_goes_to_the_hub_alone(folder, server, tmp_path):
    result = upload(folder, server, tmp_path, HF_TOKEN="hf_secret")
    assert (result.returncode, result.stdout) == (0, f"uploaded to {server.address}/someone/captions\n"), result.stderr
    assert server.created == [{"name": "captions", "organization": "someone"}]
    on_disk = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert server.files == on_disk
    assert server.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in result.stdout + result.stderr


def test_without_a_login_nothing_is_sent_and_a_line_says_how_to_go_on(server, tmp_path):
    result = upload(tmp_path, server, tmp_path)
    said = f"not uploaded: log in with `hf auth login`, then `hf upload someone/captions {tmp_path}`\n"
    assert (result.returncode, result.stdout) == (0, said), result.stderr
    assert server.tokens == set()


def test_a_refusal_of_the_hub_is_one_line(server, tmp_path):
    server.refuses = True
    result = upload(tmp_path, server, tmp_path, HF_TOKEN="hf_secret")
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: someone/captions: not uploaded (")
    assert line.endswith(f"; {tmp_path} is whole")
    assert "hf_secret" not in line

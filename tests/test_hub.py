"""The folder for the Hub holds every form, and its card the numbers of the report; nothing is sent without a login."""

import hashlib
import json

import huggingface_hub
import pytest
import yaml
from PIL import Image

from caption import Captioner
from captioning import hub
from captioning.checkpoint import load_checkpoint

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


class Api:
    """What is called instead of the Hub."""

    calls = ()
    fails = False

    def create_repo(self, name, exist_ok):
        Api.calls = [("create", name, exist_ok)]

    def upload_folder(self, *, folder_path, repo_id, commit_message):
        if Api.fails:
            raise OSError("no way\nthere")
        Api.calls.append(("upload", folder_path, repo_id))


def test_upload_needs_a_login(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "not uploaded: log in with `hf auth login`" in hub.upload(tmp_path, "a/b")
    assert Api.calls == ()

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    assert hub.upload(tmp_path, "a/b") == "uploaded to https://huggingface.co/a/b"
    assert Api.calls == [("create", "a/b", True), ("upload", tmp_path, "a/b")]

    monkeypatch.setattr(Api, "fails", True)
    with pytest.raises(ValueError, match=r"a/b: not uploaded \(no way there\)"):
        hub.upload(tmp_path, "a/b")

"""Captioner and its command line: every kind of input, every door the same caption, nothing imported for nothing."""

import csv
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from drawn import copy_classes
from PIL import Image

import caption as script
from caption import Captioner, find_images, model_name
from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.data.annotations import load_examples
from captioning.evaluation import caption_examples
from captioning.search.consensus import closeness
from captioning.search.options import SearchOptions

ROOT = Path(__file__).resolve().parents[1]
FORMS = ("checkpoint", "onnx", "int8")


@pytest.fixture(scope="module")
def pictures(pictograms_dir):
    return sorted((pictograms_dir / "test").rglob("*.jpg"))[:8]


@pytest.fixture(scope="module")
def captioner(model_files):
    return Captioner.load(model_files.checkpoint)


def run(*arguments, stdin="", **environment):
    """The command line as its user meets it."""
    command = [str(ROOT / "caption.py"), *map(str, arguments)]
    return processes.run(command, Path.cwd(), stdin, OMP_NUM_THREADS="1", **environment)


def test_one_image_in_every_guise_gets_one_caption(captioner, pictures):
    path = pictures[0]
    with Image.open(path) as image:
        image.load()
    array = np.asarray(image)
    with open(path, "rb") as file:
        found = [captioner(one)[0] for one in (path, str(path), file, image, array)]
    assert len({one.text for one in found}) == 1
    assert [len(captioner(many)) for many in ([path] * 3, (p for p in pictures[:2]), array[None], [])] == [3, 2, 1, 0]


def test_captions_do_not_depend_on_the_batch(captioner, pictures):
    whole = captioner(pictures)
    assert len({one.text for one in whole}) > 1
    assert [one.text for one in whole] == [captioner(path)[0].text for path in pictures]
    parts = captioner(pictures, batch_size=3, num_workers=1)
    assert [one.tokens for one in parts] == [one.tokens for one in whole]


def test_alternatives_are_other_captions_best_first(captioner, pictures):
    for one in captioner(pictures[:3], beam_size=4, num_best=4, consensus=0.0):
        scores = [c.log_prob / (len(c.tokens) + 1) ** 0.7 for c in (one, *one.alternatives)]
        assert scores == sorted(scores, reverse=True)
        assert len({c.tokens for c in (one, *one.alternatives)}) == len(scores) > 1
        assert one.confidence == pytest.approx(math.exp(one.log_prob) ** (1 / (len(one.tokens) + 1)))
    for one in captioner(pictures[:3], beam_size=4, num_best=4):  # by their agreement
        captions = [one, *one.alternatives]
        ids = [list(c.tokens) for c in captions]
        weights = np.array([math.exp(c.log_prob) ** SearchOptions.consensus for c in captions])
        agreement = closeness(ids) @ weights
        assert list(agreement) == sorted(agreement, reverse=True)


@pytest.mark.parametrize("form", FORMS)
def test_settings_and_unreadable_images_are_errors(model_files, form, tmp_path):
    loaded = Captioner.load(getattr(model_files, form))
    with pytest.raises(ValueError, match="num_best: got 9, allowed is 1 to beam_size"):
        loaded([], beam_size=5, num_best=9)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png: not a readable image"):
        loaded(tmp_path / "a.png")


def test_every_door_says_the_same(model_files, pictograms_dir, capsys, monkeypatch, tmp_path):
    """PyTorch, ONNX, the command line, the report, the picture of 20 classes and the page."""
    import analysis_report
    import app
    import test_inference

    data = tmp_path / "data"
    copy_classes(pictograms_dir, data)
    pictures = sorted((data / "test").rglob("*.jpg"))[:8]
    options = SearchOptions(max_len=8)
    settings = {"max_len": 8}
    said = {form: [c.text for c in Captioner.load(getattr(model_files, form))(pictures, **settings)] for form in FORMS}
    assert len(set(said["checkpoint"])) > 1
    assert said["onnx"] == said["checkpoint"]

    for form in ("checkpoint", "onnx"):
        path = getattr(model_files, form)
        result = run(*pictures, "--model_path", path, "--max_len", "8")
        assert [line.split("\t")[1] for line in result.stdout.splitlines()] == said[form]
        _, caption_pictures = app.load_models({"model": str(path)}, 0)
        found = caption_pictures("model", pictures, settings, 10**7)
        assert [one["records"][0]["caption"] for one in found] == said[form]

        examples = load_examples(data, "test")
        by_path = dict(zip(map(str, pictures), said[form], strict=True))
        rest = {str(e.image) for e in examples} - by_path.keys()
        predictions = caption_examples(Captioner.load(path), examples, options=options, progress=False)
        assert {str(p.example.image): p.caption for p in predictions if str(p.example.image) not in rest} == by_path

        monkeypatch.chdir(tmp_path)
        shared = {
            "model_path": str(path),
            "data_dir": str(data),
            "split": "test",
            "device": "cpu",
            **settings,
        }
        if form == "checkpoint":
            short = {"output": "report", "audit": False, "probe_images": 0}
            analysis_report.main({"report": analysis_report.CONFIG | shared | short})
            with open("report/images.csv", encoding="utf-8", newline="") as file:
                rows = {str(data / row["image"]): row["caption"] for row in csv.DictReader(file)}
            assert {name: rows[name] for name in by_path} == by_path
        else:
            capsys.readouterr()
            test_inference.main({"inference": test_inference.CONFIG | shared | {"num_classes": 24, "show": False}})
            lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[:24]]
            told = {name: caption for name, _, caption in lines}  # beside the confidence
            assert [told[Path(name).parent.name] for name in by_path] == said[form]


REFUSE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {root!r})
"""
ONNX_NEEDS = {"onnxruntime", "numpy", "PIL", "flatbuffers", "google", "packaging"}


def run_without(refused, code):
    """Run Python code in a process that cannot import the modules `refused`."""
    hook = REFUSE.format(refused=sorted(refused), root=str(ROOT))
    return subprocess.run([sys.executable, "-c", hook + code], capture_output=True, text=True)


def test_onnx_needs_onnxruntime_numpy_and_pillow_alone(model_files, captioner, pictures):
    """Every other module of this environment that is not Python's own is refused."""
    from importlib.metadata import packages_distributions

    refused = set(packages_distributions()) - ONNX_NEEDS
    assert {"torch", "torchvision", "pandas", "sklearn", "wandb", "tyro", "tqdm", "nltk", "onnx"} <= refused
    code = f"""
import app
from caption import Captioner, model_name
for one in Captioner.load({str(model_files.onnx)!r})({list(map(str, pictures))!r}, max_len=8):
    print(one.text)
try:
    Captioner.load({str(model_files.checkpoint)!r})
except ValueError as error:
    print(error)
"""
    result = run_without(refused, code)
    assert result.returncode == 0, result.stderr
    *texts, error = result.stdout.splitlines()
    assert texts == [one.text for one in captioner(pictures, max_len=8)]
    assert "pictograms.safetensors: needs torch (" in error


def test_a_checkpoint_captions_without_what_only_training_needs(model_files, pictures):
    """wandb, pandas, sklearn, matplotlib and torchvision would cost seconds before the first caption."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from caption import Captioner, model_name
print(Captioner.load({str(model_files.checkpoint)!r})({str(pictures[0])!r})[0].text)
others = {{"wandb", "pandas", "sklearn", "matplotlib", "nltk", "onnxruntime", "onnx", "tyro"}}
print(sorted((others | {{"torchvision", "torch._dynamo"}}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1] == "[]"


def test_command_line_takes_files_folders_globs_and_standard_input(model_files, tmp_path, pictures):
    for number, path in enumerate(pictures[:4]):
        target = tmp_path / "in" / ("deep" if number > 1 else "") / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.jpg").write_text("no picture")
    model = ["--model_path", model_files.onnx, "--max_len", "6"]
    names = [tmp_path / "in/0.jpg", tmp_path / "in/1.jpg", tmp_path / "in/deep/2.jpg", tmp_path / "in/deep/3.jpg"]
    for arguments, stdin, expected in (
        ([names[1], names[0]], "", [names[1], names[0]]),
        ([tmp_path / "in"], "", names),
        ([tmp_path / "in" / "*.jpg", names[3]], "", [*names[:2], names[3]]),
        (["-"], "".join(f"{name}\n" for name in names), names),
        ([], f"{names[2]}\n\n", [names[2]]),
        (["-"], f"\ufeff{names[2]}\r\n", [names[2]]),
        (["--images", names[0]], "", [names[0]]),
    ):
        result = run(*arguments, *model, stdin=stdin)
        assert result.returncode == 0, result.stderr
        assert [line.split("\t")[0] for line in result.stdout.splitlines()] == list(map(str, expected))


@pytest.mark.parametrize("form", ["text", "jsonl", "csv"])
def test_command_line_writes_each_format_and_skips_what_it_cannot_read(
    model_files, captioner, pictures, tmp_path, form
):
    (tmp_path / "bad.png").write_text("no picture")
    images = [pictures[0], tmp_path / "bad.png", tmp_path / "missing.jpg", pictures[1]]
    settings = ["--beam_size", "3", "--num_best", "2", "--max_len", "6", "--batch_size", "2"]
    result = run(
        *images, *settings, "--model_path", model_files.checkpoint, "--format", form, "--output", tmp_path / "out"
    )
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert [("bad.png" in line, "missing.jpg" in line) for line in warnings] == [(True, False), (False, True)]
    assert "captioned 2 pictures, skipped 2 that cannot be read" in result.stderr

    expected = [
        (str(path), [one.text, *(other.text for other in one.alternatives)])
        for path in pictures[:2]
        for one in captioner(path, beam_size=3, num_best=2, max_len=6)
    ]
    with open(tmp_path / "out", encoding="utf-8", newline="") as file:
        if form == "jsonl":
            rows = [json.loads(line) for line in file]
            found = [(row["image"], [row["caption"], *(a["caption"] for a in row["alternatives"])]) for row in rows]
            assert all(0 < row["confidence"] < 1 and row["log_prob"] < 0 for row in rows)
        else:
            rows = list(csv.DictReader(file)) if form == "csv" else None
            pairs = [(r["image"], r["caption"]) for r in rows] if rows else [ln.rstrip("\n").split("\t") for ln in file]
            found = [
                (name, [text for other, text in pairs if other == name]) for name in dict.fromkeys(p[0] for p in pairs)
            ]
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none_of_this/*.jpg"], "none_of_this/*.jpg: no file fits this pattern"),
        ([str(ROOT / "captioning")], "no picture in this folder"),
        (["missing.jpg"], "none of 1 pictures could be read"),
        (["-"], "no pictures given"),
        ([""], "the name of a picture is empty"),
        (["a.jpg", "--format", "xml"], "--format: got 'xml', allowed are text, jsonl, csv"),
        (["a.jpg", "--num_best", "7"], "num_best: got 7, allowed is 1 to beam_size (5)"),
        (["a.jpg", "--model_path", "missing.onnx"], "missing.onnx: no such model"),
        (["a.jpg", "--model_path", "missing.safetensors"], "missing.safetensors: no such checkpoint"),
        (["a.jpg", "--model_path", "ftp://host/a.onnx"], "allowed are a path, https:// and hf://"),
        (["a.jpg", "--batchsize", "7"], "unknown key --batchsize: did you mean --batch_size?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_writes_nothing(model_files, tmp_path, arguments, message):
    if "--model_path" not in arguments:
        arguments = [*arguments, "--model_path", str(model_files.onnx)]
    result = run(*arguments, "--output", str(tmp_path / "out.txt"))
    assert (result.returncode, result.stdout) == (2, "")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_no_utf8_is_captioned(model_files, pictures, tmp_path):
    """One byte of another encoding once ended the whole list; JSON gives it back as it was."""
    names = [os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.fsencode(pictures[0])]
    Path(os.fsdecode(names[0])).write_bytes(pictures[0].read_bytes())
    command = [sys.executable, ROOT / "caption.py", "-", "--model_path", model_files.int8, "--max_len", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"}
    for output in ([], ["--output", tmp_path / "out"]):
        result = subprocess.run(
            [*command, "--format", "jsonl", *output], input=b"\n".join(names), capture_output=True, env=environment
        )
        assert result.returncode == 0, result.stderr
        text = (tmp_path / "out").read_bytes() if output else result.stdout
        assert [os.fsencode(json.loads(line)["image"]) for line in text.decode("utf-8").splitlines()] == names


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_with_a_tab_or_a_line_in_it_breaks_no_line(captioner, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Captioner, "load", lambda *_, **settings: captioner)
    name = tmp_path / "a\tb\nc\x1b[2J.jpg"
    name.write_bytes(pictures[0].read_bytes())
    said = captioner(pictures[0])[0].text
    config = {"caption": script.CONFIG | {"images": [str(name)]}}
    for form in ("text", "jsonl", "csv"):
        script.main({"caption": config["caption"] | {"format": form, "output": str(tmp_path / form)}})
    [line] = (tmp_path / "text").read_text().splitlines()
    assert line == f"{tmp_path}/a\\tb\\nc\\x1b[2J.jpg\t{said}"
    assert json.loads((tmp_path / "jsonl").read_text())["image"] == str(name)
    with open(tmp_path / "csv", newline="") as file:
        assert next(csv.DictReader(file))["image"] == str(name)


def test_of_a_folder_the_pictures_are_taken_and_what_cannot_be_listed_is_named(tmp_path, monkeypatch, capsys):
    """A pipe would be waited for without end, a folder that is closed was left out in silence."""
    for name in ("b.jpg", "deep/a.PNG", "closed/c.jpg", "folder.jpg/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.jpg")
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    found = list(find_images([str(tmp_path)]))
    assert found == [str(tmp_path / name) for name in ("b.jpg", "deep/a.PNG", "folder.jpg/d.jpg")]
    assert capsys.readouterr().err == f"warning: {tmp_path / 'closed'}: Permission denied; skipped\n"


def rewrite_header(path, change):
    """Write the safetensors file at `path` anew, its header (bytes of JSON) passed through `change`."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = change(content[8 : 8 + length])
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def edited(change):
    """A change of a header as a dict."""

    def apply(header):
        parsed = json.loads(header)
        change(parsed)
        return json.dumps(parsed).encode()

    return apply


def tensors(header):
    return [entry for name, entry in header.items() if name != "__metadata__"]


def overlap(header):
    first, second = tensors(header)[:2]
    second["data_offsets"] = first["data_offsets"]


def overrun(header):
    tensors(header)[-1]["data_offsets"][1] += 10**12


def config(**keys):
    def change(header):
        found = json.loads(header["__metadata__"]["config"])
        found["model"] |= keys
        header["__metadata__"]["config"] = json.dumps(found)

    return edited(change)


HOSTILE_HEADERS = {
    "not JSON": (lambda header: b"{" * len(header), "not a readable safetensors file"),
    "nested": (lambda header: b'{"__metadata__":' + b"[" * 10**6 + b"]" * 10**6 + b"}", "not a readable safetensors"),
    "tensors overlap": (edited(overlap), "not a readable safetensors file"),
    "a tensor overruns the file": (edited(overrun), "not a readable safetensors file"),
    "nested metadata": (
        edited(lambda header: header["__metadata__"].update(history="[" * 10**6)), "its metadata is not JSON"
    ),
    "a number of a million digits": (
        edited(lambda header: header["__metadata__"].update(history="[" + "9" * 10**6 + "]")), "not JSON"
    ),
    "a model of 4 TB": (config(hidden_size=10**6), "hidden_size is 1000000, allowed is 1 to 8192"),
    "a model of 40 GB": (config(hidden_size=8192, num_layers=8, embed_size=8192), "has no weights|has shape"),
    "layers without end": (config(num_layers=10**9), "num_layers is 1000000000"),
    "a number that is a boolean": (config(num_layers=True), "num_layers is True, allowed is 1 to"),
    "a size that is no number": (config(hidden_size="8"), "its config does not describe a model"),
    "an unknown key": (config(run="rm -rf"), "its config does not describe a model"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_checkpoint_is_one_line(model_files, tmp_path, name):
    change, message = HOSTILE_HEADERS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(model_files.checkpoint.read_bytes())
    rewrite_header(path, change)
    with pytest.raises(ValueError, match=message) as error:
        Captioner.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("length", [2**63, 2**40, 40 * 2**20, 10**6])
def test_a_header_that_claims_gigabytes_is_not_read(model_files, tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + model_files.checkpoint.read_bytes()[8:10_000])
    with pytest.raises(ValueError, match=r"a\.safetensors: not a readable safetensors file"):
        Captioner.load(path)


def test_a_vocabulary_that_does_not_fit_is_one_line(model_files, tmp_path):
    checkpoint = load_checkpoint(model_files.checkpoint)
    for vocab, message in (
        (checkpoint.vocab[:-1], "has shape"),
        (["a", *checkpoint.vocab[1:]], "must begin with"),
        ([*checkpoint.vocab[:-1], "<unk>"], "stand in it twice"),
    ):
        checkpoint.vocab = vocab
        save_checkpoint(tmp_path / "a.safetensors", checkpoint)
        with pytest.raises(ValueError, match=message):
            Captioner.load(tmp_path / "a.safetensors")


def test_a_half_precision_checkpoint_runs_in_float32(model_files, tmp_path, pictures, captioner):
    """Its weights are taken as they stand in the file, and must still become those of the model."""
    save_checkpoint(tmp_path / "half.safetensors", load_checkpoint(model_files.checkpoint), half=True)
    half = Captioner.load(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in half.model.network.parameters()} == {torch.float32}
    assert len(half(pictures)) == len(captioner(pictures))


def test_pictures_are_read_two_batches_ahead_and_no_further(captioner, pictures):
    """A folder of a million pictures must not fill the memory."""
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield pictures[asked % len(pictures)]

    stream = captioner.stream(endless(), SearchOptions(beam_size=1, max_len=4), batch_size=4)
    for _ in range(6):
        next(stream)
    assert asked == 12
    stream.close()


def test_an_ensemble_is_named_by_its_checkpoints_with_commas_between(captioner, model_files, pictures, tmp_path):
    """With itself it is the model; with another one its log-probability lies between, as a mean probability does."""
    path = str(model_files.checkpoint)
    alone, twice = captioner(pictures), Captioner.load(f"{path},{path}")(pictures)
    assert [one.text for one in twice] == [one.text for one in alone]
    assert [one.log_prob for one in twice] == pytest.approx([one.log_prob for one in alone], rel=1e-4)

    other = load_checkpoint(path)
    generator = torch.Generator().manual_seed(0)
    name = "decoder.output.weight"
    other.weights[name] = other.weights[name] + 0.05 * torch.randn(other.weights[name].shape, generator=generator)
    save_checkpoint(tmp_path / "b.safetensors", other)
    both = Captioner.load(f"{path},{tmp_path / 'b.safetensors'}")
    options = SearchOptions(beam_size=1, max_len=2)  # one word: the mean of two probabilities, by hand
    images = np.stack([captioner.read(picture) for picture in pictures])
    special = {"start": 1, "end": 2, "banned": (0, 1, 3)}
    found = [one[0] for one in both.model.search(images, options, **special)[0]]
    with torch.inference_mode():
        starts, x = torch.ones(len(images), dtype=torch.long), torch.from_numpy(images)
        networks = [model.network for model in both.model.models]
        steps = [network.decoder.step(starts, network.decoder.start(network.encoder(x)))[0] for network in networks]
    mean = torch.stack([log_probs.exp() for log_probs in steps]).mean(dim=0)
    mean[:, [0, 1, 3]] = 0
    assert [one.ids[0] for one in found] == mean.argmax(dim=1).tolist()
    assert model_name(f"{path},{tmp_path / 'b.safetensors'}") == f"{Path(path).stem}+b"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.vocab.append(c.vocab.pop(4)), "the vocabulary of model 2 is another"),
        (lambda c: c.transform.update(image_size=33), "the transform of model 2 is .*33"),
    ],
)
def test_models_that_do_not_fit_together_are_no_ensemble(model_files, tmp_path, change, line):
    other = load_checkpoint(model_files.checkpoint)
    change(other)
    save_checkpoint(tmp_path / "b.safetensors", other)
    with pytest.raises(ValueError, match=line):
        Captioner.load(f"{model_files.checkpoint},{tmp_path / 'b.safetensors'}")


def test_attention_is_shown_on_what_the_model_sees(looking, captioner, pictures):
    captions = [one.text for one in looking(pictures[:2], max_len=6)]
    found = looking.attend(pictures[:2], captions)
    for path, caption, (picture, maps) in zip(pictures, captions, found, strict=False):
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(picture, expected, atol=1e-6)
        assert maps.shape == (len(caption.split()), 2, 2)
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert not captioner.has_attention
    with pytest.raises(ValueError, match="attention: this model has none"):
        captioner.attend(pictures[:1], ["a sun"])


def test_groups_and_samples_are_reached_from_the_command(pictures, tmp_path, monkeypatch, capsys):
    """Diverse beam search and sampling once existed without a flag that led to them."""

    def captions(**settings):
        output = tmp_path / "captions.jsonl"
        given = {"images": [str(pictures[0])], "output": str(output), "format": "jsonl", "device": "cpu", **settings}
        script.main({"caption": script.CONFIG | given})
        (row,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
        return [row["caption"], *(other["caption"] for other in row["alternatives"])]

    one = captions(beam_size=6, num_best=6, consensus=0.0)
    several = captions(beam_size=6, num_best=6, consensus=0.0, groups=3, diversity=2.0)
    assert several != one
    sampled = captions(sample=8, seed=1)
    assert sampled == captions(sample=8, seed=1)
    assert sampled != captions(sample=8, seed=2)
    assert len(set(captions(sample=30, temperature=2.0))) > len(set(captions(sample=30, temperature=0.1)))
    assert len(captions(sample=30, top_k=1)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample": 3, "num_best": 2}, "--num_best: got 2, allowed is 1 with --sample"),
        ({"sample": 3, "groups": 2}, "--groups: got 2, allowed is 1 with --sample"),
        ({"beam_size": 5, "groups": 2}, "groups: got 2, allowed is a divisor of beam_size"),
        ({"diversity": 1.0}, "diversity: got 1.0, allowed is 0 with groups 1"),
    ],
)
def test_decoding_settings_that_contradict_each_other_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        script.main({"caption": script.CONFIG | {"images": ["a.jpg"]} | settings})


def test_an_onnx_model_has_neither_groups_nor_samples(model_files, pictures, tmp_path):
    for settings, message in (
        ({"sample": 2}, "sample: got 2, allowed is 0 for an .onnx model"),
        ({"groups": 5, "diversity": 1.0}, "groups: got 5, allowed is 1 for an .onnx model"),
    ):
        given = {"images": [str(pictures[0])], "model_path": str(model_files.onnx), "output": str(tmp_path / "a")}
        with pytest.raises(ValueError, match=message):
            script.main({"caption": script.CONFIG | given | settings})
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("image", [5, None, b"abc", torch.zeros(3, 8, 8)], ids=lambda image: type(image).__name__)
def test_what_is_no_picture_is_named_with_what_is_allowed(model_files, image):
    captioner = Captioner.load(model_files.checkpoint)
    with pytest.raises(ValueError, match=r"image: got a \w+, allowed are a path, .* a PIL picture and a numpy array"):
        captioner(image)


def test_names_that_the_disk_refuses_end_neither_a_run_nor_a_folder(model_files, pictures, tmp_path):
    shutil.copy(pictures[0], tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    names = f"{pictures[1]}\n{'x' * 300}.jpg\n{tmp_path / 'b.jpg'}\n"
    for form in ("csv", "txt"):
        shutil.copy(pictures[1], tmp_path / "c.jpg")
        stdin = names.replace(str(pictures[1]), str(tmp_path / "c.jpg"))
        output = ["--output", tmp_path / "out"] * (form == "csv")
        result = run("-", "--model_path", model_files.int8, "--format", form, *output, stdin=stdin)
        assert result.returncode == 0, result.stderr
        assert "captioned 1 picture, skipped 2 that cannot be read" in result.stderr
    result = run(tmp_path, "--model_path", model_files.int8)
    assert "b.jpg: Too many levels of symbolic links; skipped" in result.stderr
    assert [Path(line.split("\t")[0]) for line in result.stdout.splitlines()] == [
        tmp_path / "a.jpg",
        tmp_path / "c.jpg",
    ]


@pytest.mark.parametrize("name", ["a.jpg", "A.HEIC"])
def test_captions_are_not_written_over_a_picture(model_files, pictures, tmp_path, name):
    """caption.py --output photos/*.jpg made a text of the first of them."""
    shutil.copy(pictures[0], tmp_path / name)
    result = run(pictures[1], "--model_path", model_files.int8, "--output", tmp_path / name)
    assert result.returncode == 2
    assert f"error: --output: got {tmp_path / name}, the name of a picture; captions are a text" in result.stderr
    assert (tmp_path / name).read_bytes() == pictures[0].read_bytes()


def test_pictures_with_and_without_a_flag_are_captioned(model_files, pictures):
    flags = ["--images", pictures[1], pictures[2], "--model_path", model_files.int8, "--images", pictures[3]]
    result = run(pictures[0], *flags)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [str(pictures[n]) for n in (0, 1, 2, 3)]


def test_a_text_file_is_that_of_one_picture(model_files, pictures, tmp_path):
    for suffix in ("jpg", "png"):
        shutil.copy(pictures[0], tmp_path / f"a.{suffix}")
    result = run(tmp_path, "--model_path", model_files.int8, "--format", "txt", "--existing", "overwrite")
    assert "a.png: shares a.txt with a.jpg; skipped" in result.stderr
    assert "captioned 1 picture, skipped 1 without a text file of their own" in result.stderr
    result = run(tmp_path / "a.png", "--model_path", model_files.int8, "--format", "txt")
    assert result.returncode == 0
    assert "captioned 0 pictures, skipped 1 without a text file of their own" in result.stderr


def test_no_batch_is_refused(captioner, pictures):
    for settings in ({"batch_size": 0}, {"num_workers": 0}):
        with pytest.raises(ValueError, match="got 0, allowed is 1 or more"):
            captioner(pictures[:1], **settings)


def test_a_device_that_is_not_there_costs_no_download(model_files, tmp_path, monkeypatch):
    """The file was called damaged and removed from the cache."""
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path))
    path = shutil.copy(model_files.checkpoint, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"^device: got 'cuda:9', this machine has cpu[^;]*$"):
        Captioner.load(path, device="cuda:9")
    assert Path(path).is_file()
    path = shutil.copy(model_files.int8, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs onnxruntime: pip install onnxruntime$"):
        Captioner.load(path)
    assert Path(path).is_file()
    Path(path).write_bytes(b"no model")
    monkeypatch.undo()
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="and is dropped"):
        Captioner.load(path)
    assert not Path(path).is_file()


def test_kinds_of_files_that_are_not_read_are_counted(pictures, tmp_path):
    """A folder of HEIC pictures with one JPEG was "captioned 1 picture", without a word on the others."""
    (tmp_path / "p/deep").mkdir(parents=True)
    shutil.copy(pictures[0], tmp_path / "p/1.png")
    for name in ("a.heic", "deep/b.HEIC", "IMG_1", "notes.txt", ".hidden"):
        (tmp_path / "p" / name).write_bytes(b"?")
    result = run(str(tmp_path / "p"), "--model_path", "pictograms")
    assert result.returncode == 0
    assert f"warning: {tmp_path / 'p'}: 2 .heic, 1 without an ending, other kinds of files; skipped" in result.stderr


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ("a.pte", r"a.pte: no script reads ExecuTorch programs; allowed are .safetensors and .onnx$"),
        ("photos,checkpoints/photos_int8.onnx", r"photos_int8.onnx: several models caption as one if all"),
    ],
)
def test_files_that_are_no_model_for_it_are_told_so(files, line):
    """They were "not a readable safetensors file"."""
    with pytest.raises(ValueError, match=line):
        Captioner.load(files)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--temperature", "0.3"], "error: --temperature: got 0.3, but --sample alone reads it; leave it out"),
        (["--seed", "7"], "error: --seed: got 7, but --sample alone reads it; leave it out"),
        (
            ["--sample", "3", "--diversity", "1"],
            "error: --diversity: got 1.0, but beam search alone reads it; leave it out",
        ),
        (["--engine", "ray"], "error: --engine: got ray, but --format parquet alone reads it; leave it out"),
        (["--num_processes", "3"], "error: --num_processes: got 3, but --format parquet alone reads it; leave it out"),
        (
            ["--format", "parquet", "--num_threads", "1"],
            "error: --num_threads: got 1, but a run on pictures alone reads it; leave it out",
        ),
        (
            ["--existing", "overwrite"],
            "error: --existing: got overwrite, but --format jsonl, csv or txt alone reads it; leave it out",
        ),
    ],
)
def test_settings_that_nothing_reads_are_refused(flags, line):
    """A user who asked for a temperature got beam search without a word."""
    result = run("a.jpg", *flags)
    assert (result.returncode, result.stderr.strip()) == (2, line)

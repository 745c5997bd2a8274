"""The ONNX file says what PyTorch says, for every decoder; it stands alone, and a foreign file is one line."""

import json
import math
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime import quantization
from PIL import Image

from caption import TorchModel
from captioning.checkpoint import load_checkpoint
from captioning.data.images import load_image, to_pixels
from captioning.deploy import onnx_model
from captioning.deploy.onnx_export import CalibrationImages, correct_biases, export_onnx, fold_norms, rounding_error
from captioning.deploy.onnx_model import OnnxModel
from captioning.metadata import PARTS, dump_metadata
from captioning.model_files import check_onnx
from captioning.search.options import SearchOptions
from model import CONFIG, ENCODERS, AttentionRNN, EncoderCNN, build_model
from vocab import Vocabulary

WORDS = {"start": 1, "end": 2, "banned": (0, 1, 3)}
VOCAB = ["<pad>", "<start>", "<end>", "<unk>", *(f"w{number}" for number in range(30))]
TRANSFORM = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}


def metadata(**changes):
    parts = {name: kind() for name, kind in PARTS.items()} | {"vocab": VOCAB, "transform": TRANSFORM}
    return dump_metadata(parts | {"config": {"model": {}}} | changes)


class SmallEncoder(torch.nn.Module):
    """An encoder that is exported in no time; conftest's `model_files` have the real one."""

    def __init__(self, embed_size, grid):
        super().__init__()
        self.conv, self.linear, self.grid = torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.Linear(8, embed_size), grid

    def forward(self, images):
        return self.describe(images)[0]

    def describe(self, images):
        places = torch.relu(self.conv(images)).flatten(2).transpose(1, 2) * 5  # (B, P, 8)
        return self.linear(places if self.grid else places.mean(dim=1)), [places.mean(dim=1), places.std(dim=1)]


DECODERS = [
    {"image_input": "first"},
    {"image_input": "state"},
    {"image_input": "every", "num_layers": 2, "tie_weights": True},
    {"decoder": "attention"},
]


@pytest.fixture(scope="module", params=DECODERS, ids=lambda kind: " ".join(map(str, kind.values())))
def pair(request, tmp_path_factory):
    """A model of random weights in torch and in ONNX."""
    torch.manual_seed(0)
    network = build_model(len(VOCAB), CONFIG | {"embed_size": 12, "hidden_size": 16} | request.param)
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(3)
        bias = network.decoder.bias if network.decoder.tie_weights else network.decoder.output.bias
        bias[WORDS["end"]] -= 3  # not every caption ends before its first word
    network.encoder = SmallEncoder(12, grid="decoder" in request.param)
    path = tmp_path_factory.mktemp("pair") / "a.onnx"
    export_onnx(network, metadata(), 32, path)
    return TorchModel(network, VOCAB, TRANSFORM, {}), OnnxModel(path), path


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_same_captions_as_pytorch(pair, batch_size, beam_size):
    """A batch size that became a constant of the graph would fail here."""
    generator = np.random.default_rng(batch_size)
    scale = generator.uniform(0.2, 3, size=(batch_size, 1, 1, 1))
    images = (scale * generator.normal(size=(batch_size, 3, 32, 32))).astype(np.float32)
    options = SearchOptions(beam_size=beam_size, max_len=9, num_best=beam_size)
    ours, theirs = (model.search(images, options, **WORDS)[0] for model in pair[:2])
    assert len({tuple(found[0].ids) for found in ours}) > 1 or batch_size < 8
    for one, other in zip(ours, theirs, strict=True):
        assert [found.ids for found in one] == [found.ids for found in other]
        assert [f.log_prob for f in one] == pytest.approx([f.log_prob for f in other], abs=1e-3)


def test_it_looks_where_pytorch_looks(pair):
    ours, theirs, _ = pair
    assert ours.has_attention == theirs.has_attention == isinstance(ours.network.decoder, AttentionRNN)
    if not ours.has_attention:
        return
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    vocabulary, options = Vocabulary(VOCAB), SearchOptions(max_len=9)
    captions = [vocabulary.decode(found[0].ids) for found in theirs.search(images, options, **WORDS)[0]]
    captions[1] = ""
    for one, other, caption in zip(*(m.attend(images, captions, vocabulary) for m in pair[:2]), captions, strict=True):
        assert one.shape == other.shape == (len(caption.split()), 7, 7)  # of SmallEncoder at 32 pixels
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(other.sum(axis=(1, 2)), 1, rtol=1e-4)
    assert max(m.max() for m in theirs.attend(images, captions, vocabulary) if m.size) > 2 / 49  # it does look


def test_the_file_is_valid_and_holds_each_large_weight_once(pair):
    network, _, path = pair
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    parameters = sum(parameter.numel() for parameter in network.network.parameters())
    assert path.stat().st_size < 4 * parameters + 150_000


def test_the_file_names_no_place_of_this_machine(pair, model_files):
    """The exporter notes stack traces beside its nodes."""
    root = str(Path(__file__).resolve().parents[2]).encode()
    for path in (
        pair[2],
        model_files.onnx,
        model_files.int8,
        *sorted((Path(root.decode()) / "checkpoints").glob("*.onnx")),
    ):
        content = path.read_bytes()
        assert root not in content, path
        assert b"site-packag" not in content, path


@pytest.mark.parametrize("name", ENCODERS)
def test_folded_norms_change_an_encoder_by_rounding_alone(name):
    generator = torch.Generator().manual_seed(0)
    encoder = EncoderCNN(name, 12).eval()
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for values, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight.data, 0.5, 2)):
            values.uniform_(low, high, generator=generator)
        norm.bias.data.uniform_(-1, 1, generator=generator)
    before = {key: values.clone() for key, values in encoder.state_dict().items()}
    folded = fold_norms(encoder)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        expected, found = encoder.describe(images), folded.describe(images)
    for one, other in zip([expected[0], *expected[1]], [found[0], *found[1]], strict=True):
        assert float((one - other).abs().max()) < 1e-4 * float(one.abs().max())
    assert all(torch.equal(values, before[key]) for key, values in encoder.state_dict().items())  # it is a copy
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert norms == {"mobilenet_v2": 0, "resnet18": 17}[name]  # ResNet's shortcuts alone are nn.Sequential


def test_the_int8_file_is_a_third_and_says_nearly_the_same(model_files, pictograms_dir):
    """A quarter of the encoder; names, scales and the graph do not shrink."""
    assert model_files.int8.stat().st_size < 0.35 * model_files.onnx.stat().st_size
    paths = sorted((pictograms_dir / "test").rglob("*.jpg"))[::6]
    transform = load_checkpoint(model_files.checkpoint).transform
    images = np.stack([to_pixels(load_image(path), **transform) for path in paths])
    whole, small = OnnxModel(model_files.onnx), OnnxModel(model_files.int8)
    states = [np.concatenate([part.ravel() for part in model.encode(images)[0]]) for model in (whole, small)]
    assert np.corrcoef(*states)[0, 1] > 0.9
    operators = {node.op_type for node in all_nodes(onnx.load(model_files.int8).graph)}
    assert {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLSTM"} <= operators


def test_calibration_leaves_few_unreadable_pictures_out(tmp_path, capsys):
    """One of 40 ended the export, after its float32 file."""
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_text("404")
    images = CalibrationImages(tmp_path.glob("*.png"), TRANSFORM)
    assert sum(len(batch["images"]) for batch in images.batches()) == 39
    assert "7.png: not a readable image" in capsys.readouterr().out
    for number in range(3):
        (tmp_path / f"{number}.png").write_text("404")
    with pytest.raises(ValueError, match="4 of 40 images cannot be read"):
        CalibrationImages(tmp_path.glob("*.png"), TRANSFORM)


def test_tied_words_are_stored_once_in_int8_and_are_still_those_of_the_model(tmp_path):
    """onnxruntime quantises the embedding and the output matrix apart: of 2,579 words, 0.8 of 6.4 MB."""
    torch.manual_seed(0)
    network = build_model(len(VOCAB), CONFIG | {"embed_size": 12, "hidden_size": 16, "tie_weights": True})
    network.encoder = SmallEncoder(12, grid=False)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = {"int8_path": tmp_path / "int8.onnx", "calibration": CalibrationImages(tmp_path.glob("*.png"), TRANSFORM)}
    export_onnx(network, metadata(), 32, tmp_path / "float.onnx", **paths)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    branches = [attribute.g for attribute in graph.node[0].attribute]
    sizes = [math.prod(tensor.dims) for one in (graph, *branches) for tensor in one.initializer]
    assert sizes.count(len(VOCAB) * 12) == 1
    whole, small = OnnxModel(tmp_path / "float.onnx"), OnnxModel(tmp_path / "int8.onnx")
    tokens = np.arange(len(VOCAB))
    states = whole.encode(np.zeros((len(VOCAB), 3, 32, 32), np.float32))[0]
    said = [model.step(tokens, states)[0] for model in (whole, small)]
    assert np.abs(said[0] - said[1]).max() < 0.1 * np.ptp(said[0])
    assert np.corrcoef(*(one.ravel() for one in said))[0, 1] > 0.99


def test_nobody_is_told_that_a_model_is_read(model_files, tmp_path):
    """onnxruntime 1.32 writes an identifier of the machine to the temporary folder, for the events that it sends."""
    code = f"from caption import Captioner; Captioner.load({str(model_files.int8)!r})"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.iterdir())


def all_nodes(graph):
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def test_what_stands_beside_the_weights_comes_along(model_files):
    checkpoint, model = load_checkpoint(model_files.checkpoint), OnnxModel(model_files.onnx)
    for name in ("vocab", "transform", "config", "classes"):
        assert getattr(model, name) == getattr(checkpoint, name)


def foreign(path, change):
    """A copy of the ONNX file at `path`, changed."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path.with_name("foreign.onnx"))
    return path.with_name("foreign.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.ClearField("metadata_props"), "not a checkpoint of this project"),
        (lambda m: onnx.helper.set_model_props(m, metadata(vocab={"a": 1})), "'vocab' is a dict, must be a list"),
        (lambda m: onnx.helper.set_model_props(m, metadata() | {"vocab": "[" * 10**5}), "its metadata is not JSON"),
        (lambda m: setattr(m.graph.input[1], "name", "pictures"), "not a readable ONNX model|not those of a captioner"),
        (lambda m: m.graph.ClearField("node"), "not a readable ONNX model"),
        (lambda m: m.graph.output.pop(), "not a readable ONNX model|does not caption pictures of 32 pixels"),
        (
            lambda m: onnx.helper.set_model_props(m, metadata(transform=TRANSFORM | {"image_size": 33})),
            "foreign.onnx: its graph does not caption pictures of 33 pixels",
        ),
        (
            lambda m: onnx.helper.set_model_props(m, metadata(vocab=VOCAB[:-1])),
            "foreign.onnx: its graph chooses among 34 words, its vocabulary has 33",
        ),
    ],
)
def test_a_foreign_graph_is_one_line(pair, change, message):
    with pytest.raises(ValueError, match=message) as error:
        OnnxModel(foreign(pair[2], change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x08", b"no model", b"\x08\x0a" + b"\xff" * 5000, b"PK\x03\x04" * 99])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.onnx: not a readable ONNX model") as error:
        OnnxModel(tmp_path / "a.onnx")
    assert "\n" not in str(error.value)


def test_a_model_cannot_read_other_files_as_its_weights(pair, tmp_path):
    """ONNX may keep weights in files beside it, by any path: a model from a stranger could name one of yours."""
    (tmp_path / "secret").write_bytes(b"\x01" * 10**6)

    def point_outside(model):
        tensor = max(model.graph.node[0].attribute[0].g.initializer, key=lambda one: len(one.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", str(tmp_path / "secret")

    with pytest.raises(ValueError, match="it takes the weights .* from another file"):
        OnnxModel(foreign(pair[2], point_outside))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(pair, value):
    def spoil(model):
        branch = model.graph.node[0].attribute[0].g
        tensor = next(one for one in branch.initializer if one.data_type == onnx.TensorProto.FLOAT and one.raw_data)
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[-1] = value
        tensor.raw_data = values.tobytes()

    with pytest.raises(ValueError, match="its weights .* hold NaN or infinity"):
        OnnxModel(foreign(pair[2], spoil))


def test_a_loop_is_refused_before_anything_runs(pair):
    def loop(model):
        model.graph.node[0].attribute[0].g.node[0].op_type = "Loop"

    with pytest.raises(ValueError, match="it has the operator 'Loop', which no model of this project has"):
        OnnxModel(foreign(pair[2], loop))


def swell(size):
    """A change of a model: its next words are preceded by a tensor of `size` numbers, added up."""

    def change(model):
        graph = model.graph.node[0].attribute[1].g
        output = graph.output[0].name
        for node in graph.node:
            node.output[:] = [f"{name}/plain" if name == output else name for name in node.output]
            node.input[:] = [f"{name}/plain" if name == output else name for name in node.input]
        make = onnx.helper.make_node
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([size, 1]), "size"))
        one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [0.5])
        graph.node.append(make("ConstantOfShape", ["size"], ["large"], value=one))
        graph.node.append(make("Mul", ["large", "large"], ["larger"]))
        graph.node.append(make("ReduceMean", ["larger"], ["mean"], keepdims=0))
        graph.node.append(make("Add", [f"{output}/plain", "mean"], [output]))

    return change


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound the memory of a process")
def test_a_graph_that_takes_gigabytes_is_refused_by_a_process_that_has_less(pair):
    """Six thousand bytes of graph once took 6.7 GB. A small tensor in the same place is no reason to refuse it."""
    assert OnnxModel(foreign(pair[2], swell(1000))).vocab == VOCAB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="foreign.onnx: ") as error:
        OnnxModel(foreign(pair[2], swell(2**30)))
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB: only the child has tried


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time is bounded by the system")
def test_a_graph_that_takes_too_long_is_refused(pair, monkeypatch):
    monkeypatch.setattr(onnx_model, "PROBE_SECONDS", 0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(subprocess.TimeoutExpired("x", 1)))
    with pytest.raises(ValueError, match="its graph takes more than 2 GiB of memory or 0 s of time"):
        OnnxModel(foreign(pair[2], swell(999)))


def test_a_file_is_probed_once(pair, monkeypatch):
    OnnxModel(pair[2])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("probed again"))
    assert OnnxModel(pair[2]).vocab == VOCAB


def test_errors_come_without_a_log_of_onnxruntime(pair, capfd):
    """It wrote its own lines, in colours and with its time, beside ours."""
    large = metadata(transform=TRANSFORM | {"image_size": 33})
    with pytest.raises(ValueError, match="its graph does not caption pictures of 33 pixels"):
        OnnxModel(foreign(pair[2], lambda m: onnx.helper.set_model_props(m, large)))
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_says_what_writes_one(tmp_path):
    with pytest.raises(ValueError, match=r"export\.py"):
        OnnxModel(tmp_path / "a.onnx")


def test_metadata_is_json_a_person_can_read(pair):
    found = {entry.key: json.loads(entry.value) for entry in onnx.load(pair[2]).metadata_props}
    assert found["vocab"] == VOCAB


def test_a_missing_onnxruntime_is_told_in_one_line(model_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pictograms\.onnx: needs onnxruntime: pip install onnxruntime$"):
        OnnxModel(model_files.onnx)


def test_int8_does_not_overflow_on_any_processor(first_files):
    """Unoptimised, onnxruntime computes the same graph in float32, step by step: nothing can overflow there.

    Where a processor adds products of int8 in 16 bits, the states differed by half of their range, and so the captions.
    """
    ours = OnnxModel(first_files / "tiny_int8.onnx")
    exact = OnnxModel(first_files / "tiny_int8.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact.session = onnxruntime.InferenceSession(
        first_files / "tiny_int8.onnx", options, providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    (state, _), (expected, _) = ours.encode(pixels), exact.encode(pixels)
    for found, right in zip(state, expected, strict=True):
        assert np.abs(found - right).max() < 0.05 < np.abs(right).max() / 4


def test_processors_with_vnni_are_left_alone(tmp_path):
    """The exact way is for those that overflow; where nothing is known of the processor it is taken, too."""
    (tmp_path / "xeon").write_text("processor : 0\nflags\t: fpu avx2 avx512_vnni amx_int8\n")
    (tmp_path / "core").write_text("processor : 0\nflags\t: fpu avx2 avx_vnni\n")
    (tmp_path / "zen2").write_text("processor : 0\nmodel name : AMD EPYC\nflags\t: fpu avx avx2 fma\n")
    assert [onnx_model.has_vnni(tmp_path / name) for name in ("xeon", "core", "zen2", "none")] == [
        True,
        True,
        False,
        False,
    ]


class Batches:
    """What `correct_biases` and onnxruntime's calibration take, of arrays instead of pictures."""

    def __init__(self, *arrays):
        self.arrays = [{"images": array} for array in arrays]

    def batches(self):
        return iter(self.arrays)

    def get_next(self):
        return self.arrays.pop(0) if self.arrays else None


def write_convolutions(path, rng, biases=True):
    """Write (B, 3, 8, 8) -> a convolution to 4 channels, a depthwise one of 3 x 3, and one in two groups."""
    helper, parts, nodes = onnx.helper, [], []
    shapes = [((4, 3, 1, 1), 1), ((4, 1, 3, 3), 4), ((4, 2, 1, 1), 2)]
    for number, (shape, groups) in enumerate(shapes):
        for letter, size in [("w", shape), ("b", shape[:1])][: 1 + biases]:
            values = rng.normal(1, 1, size).astype(np.float32)
            parts.append(onnx.numpy_helper.from_array(values, f"{letter}{number}"))
        names = [f"x{number}" if number else "images", f"w{number}", f"b{number}"][: 2 + biases]
        nodes.append(helper.make_node("Conv", names, [f"x{number + 1}"], group=groups))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", channels, None, None])
        for name, channels in (("images", 3), ("x3", 4))
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], parts)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def values_of(path):
    """Return {name: array} of the constants of an ONNX file."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("biases", [True, False])
def test_the_biases_take_back_what_rounded_weights_move(tmp_path, biases):
    """Of channels that are the same everywhere the correction is exact, whatever the groups.

    The exporter leaves out a bias of zeros: the encoder of an untrained model has none, and could not be in int8.
    """
    rng = np.random.default_rng(0)
    write_convolutions(tmp_path / "a.onnx", rng, biases)
    images = np.ones((6, 3, 8, 8), np.float32) * rng.uniform(0, 6, (6, 3, 1, 1)).astype(np.float32)
    correct_biases(tmp_path / "a.onnx", tmp_path / "b.onnx", Batches(images[:4], images[4:]))
    outputs = {}
    for name, source in {"float": "a.onnx", "rounded": "a.onnx", "corrected": "b.onnx"}.items():
        model = onnx.load(tmp_path / source)
        for tensor in model.graph.initializer:
            if tensor.name in ("w0", "w1", "w2") and name != "float":
                weight = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(weight - rounding_error(weight), tensor.name))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs[name] = session.run(None, {"images": images})[0].mean(axis=(0, 2, 3))
    moved = np.abs(outputs["rounded"] - outputs["float"])
    assert (moved > 0.01).all()
    np.testing.assert_allclose(outputs["corrected"], outputs["float"], atol=moved.min() / 50)


def test_weights_are_rounded_as_onnxruntime_does(tmp_path):
    rng = np.random.default_rng(1)
    write_convolutions(tmp_path / "a.onnx", rng)
    pixels = rng.normal(size=(4, 3, 8, 8)).astype(np.float32)
    quantization.quantize_static(
        tmp_path / "a.onnx", tmp_path / "q.onnx", Batches(pixels), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True, weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8,
    )  # fmt: skip
    weights, stored = values_of(tmp_path / "a.onnx"), values_of(tmp_path / "q.onnx")
    for number in range(3):
        scale = stored[f"w{number}_scale"].reshape(-1, 1, 1, 1)
        expected = weights[f"w{number}"] - stored[f"w{number}_quantized"] * scale
        np.testing.assert_allclose(rounding_error(weights[f"w{number}"]), expected, atol=1e-6)


def test_a_file_of_empty_messages_is_refused_before_it_fills_the_memory(tmp_path):
    """Ten megabytes of them took a gigabyte, in the process itself, before the graph was tried in another."""
    (tmp_path / "a.onnx").write_bytes(b"\x0a\x00" * 500_000)
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"a.onnx: not a readable ONNX model \(a message has more than 200,000 fields\)"
    ):
        check_onnx(tmp_path / "a.onnx", (tmp_path / "a.onnx").read_bytes())
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()

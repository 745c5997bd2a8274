"""The photo model in other runtimes, and with other settings of onnxruntime: one picture, greedily.

    python benchmarks/bench_runtimes.py
    python benchmarks/bench_runtimes.py --num_threads 1 --runs 50

pytorch             as Captioner runs the .safetensors file: channels_last, the gates of each input word looked up
onnxruntime         the ONNX file in float32 as OnnxModel runs it, its LSTM being one fused operator
  ..., no spinning  its threads sleep while they wait
  ..., parallel     operators that do not depend on each other at once
  ..., all fused    graph optimisation at its highest level, which lays weights out for the processor (the default)
  ..., not fused    without graph optimisation
onnxruntime, int8   the file that ships
openvino            start and step of the float32 file, in float32; pip install openvino
executorch          the program of captioning/deploy/executorch_model.py; pip install -r requirements-executorch.txt

What is not installed is left out, and said. All caption the same noise to `num_words` words, in turn, `runs` times
after a warm-up, each twice of which the second is timed; ms are medians. The decoder's two matrix products of a word
are measured in PyTorch apart, in float32 and in dynamic int8, since `torch.ao` replaces no LSTM whose weights the step
reads itself. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
import warnings

import numpy as np
import onnxruntime
import torch

from caption import TorchModel
from captioning import cli
from captioning.complexity import median_seconds
from captioning.deploy.downloads import CHECKPOINTS
from captioning.deploy.onnx_export import export_halves, export_onnx
from captioning.deploy.onnx_model import OnnxModel
from captioning.metadata import dump_metadata
from captioning.search.numpy_beam import beam_search
from captioning.search.options import SearchOptions
from model import load_captioner

CONFIG = {"num_words": 12, "num_threads": 2, "runs": 30}
PAUSE = 0.05  # seconds, in which the threads of the runtime before stop spinning
LIMITS = {"num_words": (1, 30), "num_threads": (1, 64), "runs": (1, 1000)}


def onnx_with(path, num_threads, change):
    """Return an OnnxModel whose session has the options that `change(options)` sets."""
    model = OnnxModel(path, num_threads, probe=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    change(options)
    model.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return model


def parallel(options):
    """Let onnxruntime run independent operators at once."""
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL


def optimisation(level):
    """Return what sets a level of graph optimisation."""
    return lambda options: setattr(options, "graph_optimization_level", level)


def products_ms(network, runs):
    """Return {"float32", "int8": ms} of the matrix products of one word: the LSTM's gates and the words' scores."""
    weights = [network.decoder.lstm.weight_hh_l0, network.decoder.embedding.weight]  # its scores' matrix is tied
    layers = [torch.nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao moves to torchao
        int8 = [torch.ao.nn.quantized.dynamic.Linear(one.in_features, one.out_features) for one in layers]
    rows = [torch.randn(1, one.in_features) for one in layers]
    forms = {"float32": layers, "int8": int8}
    return {
        name: 1000 * median_seconds(lambda form=form: [one(row) for one, row in zip(form, rows, strict=True)], runs)
        for name, form in forms.items()
    }


class Halves:
    """Start and step of openvino behind `search`."""

    def __init__(self, folder, num_threads):
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": num_threads, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # else bfloat16, where the processor has it
        self.start, self.advance = (
            core.compile_model(core.read_model(folder / f"{half}.onnx"), "CPU", settings) for half in ("start", "step")
        )

    def search(self, images, options, **ids):
        """Caption images (B, 3, S, S) float32: B lists of Hypothesis, and None."""
        _, *state = self.start(images).values()
        return beam_search(self.step, tuple(state), options, **ids), None

    def step(self, tokens, state):
        """(N,) tokens and a state -> (N, V) log-probabilities of the next token, and the next state."""
        log_probs, *state = (value.copy() for value in self.advance([tokens, *state]).values())
        return log_probs, tuple(state)


def build_models(folder, num_threads):
    """Return ({row: model with `search`}, [what is left out and why])."""
    network, _, checkpoint = load_captioner(CHECKPOINTS / "photos.safetensors")
    size, metadata = checkpoint.transform["image_size"], dump_metadata(vars(checkpoint))
    export_onnx(network, metadata, size, folder / "photos.onnx")
    export_halves(network, size, folder)
    path, levels = folder / "photos.onnx", onnxruntime.GraphOptimizationLevel
    models = {
        "pytorch": TorchModel.load(CHECKPOINTS / "photos.safetensors", "cpu"),
        "onnxruntime": OnnxModel(path, num_threads, probe=False),
        "onnxruntime, no spinning": onnx_with(
            path, num_threads, lambda o: o.add_session_config_entry("session.intra_op.allow_spinning", "0")
        ),
        "onnxruntime, parallel": onnx_with(path, num_threads, parallel),
        "onnxruntime, all fused": onnx_with(path, num_threads, optimisation(levels.ORT_ENABLE_ALL)),
        "onnxruntime, not fused": onnx_with(path, num_threads, optimisation(levels.ORT_DISABLE_ALL)),
        "onnxruntime, int8": OnnxModel(CHECKPOINTS / "photos_int8.onnx", num_threads),
    }
    left_out = []
    if importlib.util.find_spec("openvino"):
        models["openvino"] = Halves(folder, num_threads)
    else:
        left_out.append("openvino: not installed")
    if importlib.util.find_spec("executorch"):
        from captioning.deploy.executorch_model import ExecutorchModel, export_executorch

        export_executorch(network, metadata, size, folder / "photos.pte")
        models["executorch"] = ExecutorchModel(folder / "photos.pte", num_threads)
    else:
        left_out.append("executorch: not installed")
    return models, left_out


@torch.inference_mode()
def main(config):
    """Print a line per runtime, and all of them as JSON."""
    config = config["bench"]
    torch.set_num_threads(config["num_threads"])
    with tempfile.TemporaryDirectory() as folder:
        models, left_out = build_models(Path(folder), config["num_threads"])
        vocab, side = models["pytorch"].vocab, models["pytorch"].transform["image_size"]
        pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
        ids = {"start": vocab.index("<start>"), "end": vocab.index("<end>"), "banned": ()}
        options = SearchOptions(beam_size=1, max_len=config["num_words"] + 1, min_len=config["num_words"])
        times, said = {name: [] for name in models}, {}
        for _ in range(config["runs"] + 3):
            for name, model in models.items():
                time.sleep(PAUSE)
                model.search(pixels, options, **ids)  # its own threads are awake then
                began = time.perf_counter()
                found, _ = model.search(pixels, options, **ids)
                times[name].append(time.perf_counter() - began)
                said[name] = found[0][0].ids
    ms = {name: 1000 * statistics.median(values[3:]) for name, values in times.items()}
    for name, value in ms.items():
        same = "same caption" if said[name] == said["pytorch"] else "another caption"
        print(f"{name:<26}{value:>8.2f} ms   {ms['pytorch'] / value:>5.2f} x pytorch   {same}")
    products = products_ms(models["pytorch"].network, config["runs"])
    print("products of a word, pytorch: " + ", ".join(f"{name} {value:.3f} ms" for name, value in products.items()))
    for line in left_out:
        print(f"left out: {line}")
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": config["num_threads"]}
    rounded = {name: round(value, 2) for name, value in ms.items()}
    print(
        json.dumps(
            {"bench": "runtimes", "ms": rounded, "products ms": products, "left out": left_out, "machine": machine}
        )
    )


if __name__ == "__main__":
    cli.run(main, {"bench": LIMITS}, bench=CONFIG)

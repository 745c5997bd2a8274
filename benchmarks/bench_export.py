"""What the right runtime gives at 224 pixels: one image captioned by PyTorch and by onnxruntime, both encoders, sizes.

    python benchmarks/bench_export.py
    python benchmarks/bench_export.py --num_threads 1 --runs 50

caption     one image encoded and decoded greedily to `num_words` words: PyTorch eager, PyTorch with channels_last as
            Captioner runs it, ONNX float32, ONNX int8
encoder     MobileNetV2 and ResNet-18 alone: eager, channels_last, ONNX float32
cuda        where there is one: both encoders eager, and captured in a CUDA graph, which launches all kernels at once

Weights are random. Times are the median in ms after a warm-up, all in one run; the last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import platform
import tempfile

import onnxruntime
import torch

from caption import TorchModel
from captioning import cli
from captioning.complexity import median_seconds
from captioning.deploy.onnx_export import CalibrationImages, export_module, export_onnx
from captioning.deploy.onnx_model import OnnxModel
from captioning.metadata import PARTS, dump_metadata
from captioning.search.beam import beam_search
from captioning.search.options import SearchOptions
from model import CONFIG as MODEL
from model import ENCODERS, build_model
from vocab import SPECIALS

CONFIG = {
    "image_size": 224,  # pixels a side
    "vocab_size": 500,
    "num_words": 12,  # of the caption
    "num_threads": 2,
    "runs": 30,
}

WORDS = {"start": 1, "end": 2, "banned": (0, 1, 3)}
GOALS = {"caption_onnx_to_eager": 4, "encoder_resnet_to_mobilenet_onnx": 3, "int8_mb_at_most": 6}


class RandomImages(CalibrationImages):
    """Calibration on noise, a batch `count` times: sizes and times do not depend on it."""

    def __init__(self, images, count):
        self.images, self.count = images, count
        self.rest = self.batches()

    def batches(self):
        """Return an iterator over the batches, {"images": (B, 3, S, S) float32}."""
        return iter([{"images": self.images}] * self.count)


def median_ms(work, runs):
    """Return the median time of `work()` in ms after a warm-up."""
    return 1000 * median_seconds(work, runs, warm_up=5)


def encoder_session(network, images, path, num_threads):
    """Return an onnxruntime session of the encoder alone."""
    shapes = ({0: torch.export.Dim("images")},)
    export_module(network.encoder, (images.repeat(2, 1, 1, 1),), shapes, ["images"], ["embedding"], path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def captured(encoder, images):
    """Return a function that replays the encoder on `images` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuDNN chooses its algorithms before the capture
        for _ in range(3):
            encoder(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        encoder(images)
    return graph.replay


def cuda_times(networks, images, runs):
    """Return {encoder: {"eager", "CUDA graph": ms}} on the first GPU."""

    def synchronized(work):
        work()
        torch.cuda.synchronize()

    found = {}
    for name, network in networks.items():
        encoder, on_card = network.encoder.cuda(), images.cuda()
        ways = {"eager": lambda e=encoder, x=on_card: e(x), "CUDA graph": captured(encoder, on_card)}
        found[name] = {way: median_ms(lambda work=work: synchronized(work), runs) for way, work in ways.items()}
    return found


@torch.inference_mode()
def main(config):
    """Print the tables, and all of them as JSON."""
    config = config["bench"]
    torch.manual_seed(0)
    torch.set_num_threads(config["num_threads"])
    size, runs = config["image_size"], config["runs"]
    options = SearchOptions(beam_size=1, max_len=config["num_words"] + 1, min_len=config["num_words"])
    images = torch.randn(1, 3, size, size)
    transform = {"image_size": size, "mean": [0.5] * 3, "std": [0.5] * 3}
    vocab = [*SPECIALS, *(f"w{number}" for number in range(config["vocab_size"] - len(SPECIALS)))]
    empty = {name: kind() for name, kind in PARTS.items()}
    networks = {name: build_model(len(vocab), MODEL | {"encoder": name}).eval() for name in ENCODERS}

    captions, encoders, sizes = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            parts = empty | {"config": {"model": MODEL | {"encoder": name}}, "vocab": vocab, "transform": transform}
            paths = {form: Path(folder, f"{name}_{form}.onnx") for form in ("float32", "int8")}
            export_onnx(
                network,
                dump_metadata(parts),
                size,
                paths["float32"],
                int8_path=paths["int8"],
                calibration=RandomImages(images.numpy(), 4),
            )
            torch_model = TorchModel(network, vocab, transform, parts["config"])
            onnx_models = {form: OnnxModel(path, config["num_threads"]) for form, path in paths.items()}
            sizes[name] = {form: path.stat().st_size / 1e6 for form, path in paths.items()}
            last = images.contiguous(memory_format=torch.channels_last)
            session = encoder_session(network, images, Path(folder, f"{name}.onnx"), config["num_threads"])
            encoders[name] = {
                "eager": median_ms(lambda n=network: n.encoder(images), runs),
                "channels_last": median_ms(lambda n=network, x=last: n.encoder(x), runs),
                "onnx float32": median_ms(lambda s=session: s.run(None, {"images": images.numpy()}), runs),
            }

            def eager(network=network):
                state = network.decoder.start(network.encoder(images))
                return beam_search(network.decoder.step, state, options, **WORDS)

            captions[name] = {"eager": median_ms(eager, runs)} | {
                form: median_ms(lambda m=model: m.search(images.numpy(), options, **WORDS), runs)
                for form, model in (
                    ("channels_last", torch_model),
                    *((f"onnx {form}", model) for form, model in onnx_models.items()),
                )
            }
    cuda = cuda_times(networks, images, runs) if torch.cuda.is_available() else {}

    for title, table in (("caption, ms", captions), ("encoder, ms", encoders), ("size, MB", sizes), ("cuda, ms", cuda)):
        for row, values in table.items():
            print(f"{title:<13} {row:<13}" + "".join(f"{key:>16} {value:>8.2f}" for key, value in values.items()))
    ratios = {
        "caption_onnx_to_eager": captions["mobilenet_v2"]["eager"] / captions["mobilenet_v2"]["onnx float32"],
        "caption_int8_to_eager": captions["mobilenet_v2"]["eager"] / captions["mobilenet_v2"]["onnx int8"],
        "encoder_resnet_to_mobilenet_eager": encoders["resnet18"]["eager"] / encoders["mobilenet_v2"]["eager"],
        "encoder_resnet_to_mobilenet_onnx": encoders["resnet18"]["onnx float32"]
        / encoders["mobilenet_v2"]["onnx float32"],
    }
    for name, value in ratios.items():
        print(f"{name:<36} {value:6.2f}" + (f"   goal {GOALS[name]}" if name in GOALS else ""))
    machine = {"processor": platform.machine(), "threads": config["num_threads"], "torch": torch.__version__}
    tables = {"caption_ms": captions, "encoder_ms": encoders, "mb": sizes, "cuda_ms": cuda, "ratio": ratios}
    rounded = {
        name: json.loads(json.dumps(table), parse_float=lambda x: round(float(x), 2)) for name, table in tables.items()
    }
    print(json.dumps({"bench": "export", **rounded, "goals": GOALS, "machine": machine}))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

"""What the settings of captioning/process.py gain: each on and off, on the machine as it is and beside a busy process.

    python benchmarks/bench_process.py
    python benchmarks/bench_process.py --works decoder --runs 5
    python benchmarks/bench_process.py --preload libjemalloc.so.2,libtcmalloc_minimal.so.4    # other allocators
    python benchmarks/bench_process.py --works decoder --settings off,both --spins 1000,10000    # other GOMP_SPINCOUNT

encoder     images/s of MobileNetV2 without gradients, 32 images of 224 px, as the features are computed
decoder     captions/s of training steps of the LSTM on features, 64 captions of 12 words
finetune    images/s of training steps of the whole MobileNetV2, 16 images of 224 px
model.py    forward passes/s of both encoders as `python model.py` measures them, at batch 32 and 1
onnx        captions/s of MobileNetV2 + LSTM in onnxruntime, one image of 224 px at a time, 12 words

Every measurement is a process of its own: `off` has the defaults of glibc and libgomp, `memory` and `threads` one
setting each, `both` is what the scripts have. A round measures all of them, quiet and busy, one after the other, so
that a change of the machine's load falls on all; rates are the median over the rounds. Busy means beside one process
that loops. With T threads on as many cores the fair share is then T / (T + 1) of the quiet rate. `both` must reach at
least half of it, else the exit code is 1. Peak memory is the largest resident size of the process, torch included.

Linux only. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time

from captioning import cli

CONFIG = {
    "works": "encoder,decoder,finetune,model.py,onnx",  # one or more
    "settings": "off,memory,threads,both",  # one or more
    "preload": "",  # libraries to measure in the place of `memory`, beside `threads`
    "spins": "",  # numbers of spins to measure in the place of those of `threads`, beside `memory`
    "seconds": 2.0,  # of each measurement, after a warm-up
    "runs": 3,  # rounds
}
LIMITS = {"seconds": (0.01, 600), "runs": (1, 1000)}
CALLS = {
    "off": "pass",
    "memory": "process.keep_freed_memory()",
    "threads": "process.limit_spinning()",
    "both": "process.set_up()",
}
SPINS = "spins="  # before the number, in the name of a setting
LOADS = ("quiet", "busy")
SHARE = 0.5  # of the fair share, that `both` reaches beside a busy process
IMAGE_SIZE = 224  # pixels
NUM_WORDS, VOCAB_SIZE = 12, 500  # of a caption; of the vocabulary


def encoder_work():
    """Return {name: (function, images it handles)}."""
    import torch

    from model import EncoderCNN

    network = EncoderCNN().backbone.eval().to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, IMAGE_SIZE, IMAGE_SIZE).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward():
        network(images)

    return {"images/s": (forward, len(images))}


def decoder_work():
    """Return {name: (function, captions it handles)}."""
    import torch
    from torch.nn import functional as F

    from model import CNNtoRNN

    network = CNNtoRNN(VOCAB_SIZE).train()
    optimizer = torch.optim.AdamW(network.decoder.parameters())
    features = torch.randn(64, network.encoder.feature_dim)
    tokens = torch.randint(4, VOCAB_SIZE, (len(features), NUM_WORDS + 2))

    def step():
        logits = network.decoder(network.encoder.embed(features), tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"captions/s": (step, len(tokens))}


def finetune_work():
    """Return {name: (function, images it handles)}."""
    import torch

    from model import EncoderCNN

    network = EncoderCNN().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.randn(16, 3, IMAGE_SIZE, IMAGE_SIZE).contiguous(memory_format=torch.channels_last)

    def step():
        loss = network(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"images/s": (step, len(images))}


def model_work():
    """Return {name: (function, 1)}."""
    import torch

    from model import EncoderCNN

    works = {}
    for name in ("mobilenet_v2", "resnet18"):
        network = EncoderCNN(name).eval()
        for batch_size in (32, 1):
            images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
            works[f"{name} batch {batch_size}, 1/s"] = (torch.inference_mode()(lambda n=network, x=images: n(x)), 1)
    return works


def onnx_work():
    """Return {name: (function, captions it handles)}."""
    import torch

    from bench_export import RandomImages
    from captioning.deploy.onnx_export import export_onnx
    from captioning.deploy.onnx_model import OnnxModel
    from captioning.metadata import PARTS, dump_metadata
    from captioning.search.options import SearchOptions
    from model import CONFIG as MODEL
    from model import build_model
    from vocab import SPECIALS

    vocab = [*SPECIALS, *(f"w{number}" for number in range(VOCAB_SIZE - len(SPECIALS)))]
    network = build_model(len(vocab), MODEL).eval()
    transform = {"image_size": IMAGE_SIZE, "mean": [0.5] * 3, "std": [0.5] * 3}
    empty = {name: kind() for name, kind in PARTS.items()}
    metadata = dump_metadata(empty | {"config": {"model": MODEL}, "vocab": vocab, "transform": transform})
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE).numpy()
    options = SearchOptions(beam_size=1, max_len=NUM_WORDS + 1, min_len=NUM_WORDS)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, metadata, IMAGE_SIZE, Path(folder, "float32.onnx"),
                    int8_path=Path(folder, "int8.onnx"), calibration=RandomImages(image, 2))  # fmt: skip
        captioner = OnnxModel(Path(folder, "float32.onnx"))
    return {"captions/s": (lambda: captioner.search(image, options, start=1, end=2, banned=()), 1)}


WORKS = {
    "encoder": encoder_work,
    "decoder": decoder_work,
    "finetune": finetune_work,
    "model.py": model_work,
    "onnx": onnx_work,
}


def measure(work, seconds):
    """Print {"rates": {name: amount/s}, "peak MB": of this process, "threads": of torch} as JSON."""
    import torch

    torch.manual_seed(0)
    rates = {}
    for name, (function, amount) in WORKS[work]().items():
        function()  # warm-up
        count, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds or count < 2:
            function()
            count += 1
        rates[name] = count * amount / taken
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rates": rates, "peak MB": peak, "threads": torch.get_num_threads()}))


@contextlib.contextmanager
def competitor():
    """Keep a core busy; the process ends by itself when this one is gone."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}:\n    sum(range(100_000))"]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_child(work, setting, seconds):
    """Measure in a process without the user's settings of malloc and OpenMP.

    setting: in CALLS, a library, or "spins=" and their number
    """
    own = ("MALLOC_", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    if setting.startswith(SPINS):
        environment["GOMP_SPINCOUNT"] = setting.removeprefix(SPINS)
    elif setting not in CALLS:
        environment["LD_PRELOAD"] = setting
    folder = Path(__file__).resolve().parent
    code = (
        f"import sys; sys.path[:0] = {[str(folder.parent), str(folder)]}; from captioning import process; "
        f"{CALLS.get(setting, CALLS['both'])}; import bench_process; bench_process.measure({work!r}, {seconds})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{work} with {setting}: {cli.one_line(ValueError(done.stderr[-300:]))}")
    return json.loads(done.stdout.splitlines()[-1])


def chosen(config, key, allowed):
    """Return the names of a setting with commas. Raises ValueError for one that is not allowed."""
    names = config[key].split(",")
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}: got {name!r}, allowed are {', '.join(allowed)}")
    return names


def main(config):
    """Print a table per kind of work, and all of them as JSON; exit code 1 if the target is missed."""
    config = config["bench"]
    works, settings = chosen(config, "works", WORKS), chosen(config, "settings", CALLS)
    settings += [name for name in config["preload"].split(",") if name]
    settings += [f"{SPINS}{int(number)}" for number in config["spins"].split(",") if number]
    cores = len(os.sched_getaffinity(0))
    results, shares, peaks = {}, {}, {}
    for work in works:
        found = {(setting, load): [] for setting in settings for load in LOADS}
        for _ in range(config["runs"]):
            for load in LOADS:
                for setting in settings:
                    with competitor() if load == "busy" else contextlib.nullcontext():
                        found[setting, load].append(run_child(work, setting, config["seconds"]))
        threads = found[settings[0], "quiet"][0]["threads"]
        fair = min(1, cores / (threads + 1)) / min(1, cores / threads)
        for setting in settings:
            peak = statistics.median(one["peak MB"] for load in LOADS for one in found[setting, load])
            peaks.setdefault(work, {})[setting] = round(peak)
        for name in found[settings[0], "quiet"][0]["rates"]:
            title = f"{work}: {name}"
            rates = {key: statistics.median(one["rates"][name] for one in runs) for key, runs in found.items()}
            results[title] = {load: {s: round(rates[s, load], 2) for s in settings} for load in LOADS}
            print(f"{title}, {threads} threads, {cores} cores")
            for setting in settings:
                quiet, busy = rates[setting, "quiet"], rates[setting, "busy"]
                share = busy / quiet / fair
                if setting == "both":
                    shares[title] = round(share, 2)
                print(
                    f"  {setting:<28}quiet {quiet:>9.1f} ({quiet / rates[settings[0], 'quiet']:.2f} x)   "
                    f"busy {busy:>9.1f} ({busy / rates[settings[0], 'busy']:.2f} x)   "
                    f"{share:.2f} of the fair share   peak {peaks[work][setting]:,} MB",
                    flush=True,
                )
    held = all(share >= SHARE for share in shares.values())
    machine = {"processor": platform.machine(), "cores": cores, "glibc": os.confstr("CS_GNU_LIBC_VERSION")}
    shares = {"share of the fair share": shares, "target": SHARE, "held": held}
    print(json.dumps({"bench": "process", "rate": results, "peak MB": peaks, **shares, "machine": machine}))
    if not held:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, {"bench": LIMITS}, bench=CONFIG)

"""What a user would install instead: one picture captioned by peers of `transformers` and by this project.

    python benchmarks/bench_peers.py
    python benchmarks/bench_peers.py --models blip-base,int8 --num_threads 1 --runs 3

blip-base       BLIP, ViT-B/16 at 384 px and a BERT of 12 layers as the decoder (Li et al. 2022)
vit-gpt2        ViT-B/16 at 224 px and GPT-2 with cross-attention, as nlpconnect/vit-gpt2-image-captioning
git-base        GIT, a CLIP ViT-B/16 at 224 px and 6 layers (Wang et al. 2022)
smolvlm-256m    SigLIP-B/16 at 512 px and SmolLM2-135M. One tile of 64 tokens, the least that it takes; its processor
                cuts a larger picture into up to 17
pytorch         this project's photo model, as Captioner runs it from its .safetensors file
onnx            the same exported in float32
int8            the same in int8, the file that ships

Peers have random weights of the true architecture, since their speed does not depend on the values, in float32. Each
caption has exactly `num_words` new tokens, greedy; the time goes from pixels to tokens, without reading the picture.
Every model has a process of its own. Seconds are the median of `runs` captions after a warm-up; the peak is the
resident memory of the process, its libraries included; MB on disk are those of the weights as they are distributed, in
float32 but for pytorch, which ships in float16, and int8.

Exit code 1 if int8 is less than GOAL times as fast as blip-base. The last line is JSON. Linux only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import timeit

from captioning import cli, process
from captioning.deploy.downloads import CHECKPOINTS

CONFIG = {
    "models": "blip-base,vit-gpt2,git-base,smolvlm-256m,pytorch,onnx,int8",  # one or more
    "num_words": 12,  # tokens of each caption
    "num_threads": 2,
    "runs": 5,  # captions; of this project's models 10 times as many
}
LIMITS = {"num_words": (1, 30), "num_threads": (1, 64), "runs": (1, 1000)}
GOAL = 100  # times as fast as blip-base greedy, that int8 is
IMAGE_TOKEN = 49190  # of SmolVLM


def blip():
    """Return (model, arguments of generate)."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration

    return BlipForConditionalGeneration(BlipConfig()), {"pixel_values": torch.randn(1, 3, 384, 384)}


def vit_gpt2():
    """Return (model, arguments of generate)."""
    import torch
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    text = GPT2Config(add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), text)
    end = text.eos_token_id
    ids = {"decoder_start_token_id": end, "pad_token_id": end}
    return VisionEncoderDecoderModel(config), {"pixel_values": torch.randn(1, 3, 224, 224), **ids}


def git():
    """Return (model, arguments of generate)."""
    import torch
    from transformers import GitConfig, GitForCausalLM

    config = GitConfig()
    start = torch.tensor([[config.bos_token_id]])
    return GitForCausalLM(config), {"pixel_values": torch.randn(1, 3, 224, 224), "input_ids": start}


def smolvlm():
    """Return (model, arguments of generate); the sizes are those of SmolVLM-256M-Instruct's config.json."""
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    text |= {"num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280, "pad_token_id": 2, "eos_token_id": 2}
    config = SmolVLMConfig(
        vision_config=vision | {"image_size": 512, "patch_size": 16},
        text_config=text | {"model_type": "llama", "bos_token_id": 1, "tie_word_embeddings": True},
        scale_factor=4,
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=True,
        pad_token_id=2,
    )
    prompt = torch.tensor([[1, *[IMAGE_TOKEN] * 64, 11, 12, 13]])
    pixels = torch.randn(1, 1, 3, 512, 512)
    arguments = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "pixel_values": pixels}
    return SmolVLMForConditionalGeneration(config), arguments


OURS = {"pytorch": CHECKPOINTS / "photos.safetensors", "onnx": "", "int8": CHECKPOINTS / "photos_int8.onnx"}
PEERS = {"blip-base": blip, "vit-gpt2": vit_gpt2, "git-base": git, "smolvlm-256m": smolvlm}


def load_peer(name, num_words):
    """Return (function that captions, MB of the weights) of a model of transformers."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model, arguments = PEERS[name]()
    model.eval()
    length = {"max_new_tokens": num_words, "min_new_tokens": num_words, "do_sample": False, "num_beams": 1}

    @torch.inference_mode()
    def caption():
        model.generate(**arguments, **length)

    return caption, sum(value.numel() for value in model.parameters()) * 4 / 1e6  # tied ones once


def load_ours(path, num_words, num_threads):
    """Return a function that captions with a model of this project."""
    import numpy as np

    from caption import TorchModel
    from captioning.deploy.onnx_model import OnnxModel
    from captioning.search.options import SearchOptions

    model = OnnxModel(path, num_threads, probe=False) if path.endswith(".onnx") else TorchModel.load(path, "cpu")
    options = SearchOptions(beam_size=1, max_len=num_words + 1, min_len=num_words)
    side = model.transform["image_size"]
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    ids = {"start": model.vocab.index("<start>"), "end": model.vocab.index("<end>")}
    return lambda: model.search(pixels, options, banned=(), **ids)


def export(checkpoint_path, path):
    """Write a checkpoint as an ONNX file in float32."""
    from captioning.deploy.onnx_export import export_onnx
    from captioning.metadata import dump_metadata
    from model import load_captioner

    network, _, checkpoint = load_captioner(checkpoint_path)
    export_onnx(network, dump_metadata(vars(checkpoint)), checkpoint.transform["image_size"], path)


def peak_mb():
    """Return the largest resident memory of this process in MB; that of getrusage counts the parent's at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def measure(name, path, num_words, num_threads, runs):
    """Print {"seconds", "peak MB", "disk MB"} of one model as JSON; path: its file, "" = a peer."""
    if not path.endswith(".onnx"):  # which needs no torch
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(num_threads)
    if path:
        caption, size = load_ours(path, num_words, num_threads), os.path.getsize(path) / 1e6
        runs *= 10
    else:
        caption, size = load_peer(name, num_words)
    caption()  # warm-up
    seconds = statistics.median(timeit.repeat(caption, number=1, repeat=runs))
    print(json.dumps({"seconds": seconds, "peak MB": peak_mb(), "disk MB": size}))


def run_child(name, path, config):
    """Measure a model in a process of its own."""
    roots = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
    arguments = (name, str(path), config["num_words"], config["num_threads"], config["runs"])
    code = (
        f"import sys; sys.path[:0] = {roots}; from captioning import process; process.set_up(); "
        f"import bench_peers; bench_peers.measure{arguments}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name}: {cli.one_line(ValueError(done.stderr[-300:]))}")
    return json.loads(done.stdout.splitlines()[-1])


def main(config):
    """Print a line per model, and all of them as JSON; exit code 1 if the goal is missed."""
    config = config["bench"]
    names = config["models"].split(",")
    for name in names:
        if name not in (*PEERS, *OURS):
            raise ValueError(f"models: got {name!r}, allowed are {', '.join((*PEERS, *OURS))}")
    if set(names) & set(PEERS):
        process.require("requirements-dev.txt", "transformers")
    print(f"{'model':<14}{'s a caption':>12}{'peak MB':>10}{'MB on disk':>12}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = OURS.get(name, "")
            if name == "onnx":
                path = Path(folder, "photos.onnx")
                export(OURS["pytorch"], path)
            found[name] = run_child(name, path, config)
            seconds, peak, size = found[name].values()
            print(f"{name:<14}{seconds:>12.4f}{peak:>10,.0f}{size:>12.1f}", flush=True)
    ratios = {}
    if "int8" in found:
        ratios = {name: round(found[name]["seconds"] / found["int8"]["seconds"], 1) for name in found if name in PEERS}
    for name, ratio in ratios.items():
        print(f"int8 is {ratio} times as fast as {name}")
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": config["num_threads"]}
    print(json.dumps({"bench": "peers", "models": found, "int8 to": ratios, "goal": GOAL, "machine": machine}))
    if ratios.get("blip-base", GOAL) < GOAL:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, {"bench": LIMITS}, bench=CONFIG)

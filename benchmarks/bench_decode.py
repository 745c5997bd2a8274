"""How much faster beam search is for advancing all images together: captions/s of beam 5 at several batch sizes.

    python benchmarks/bench_decode.py
    python benchmarks/bench_decode.py --batch_sizes 32 --runs 9

ours        search.beam.beam_search with the project's LSTM decoder, in float32, as the scripts decode; in
            bfloat16, if the processor multiplies it, with AMX several times as fast; and as export.py's int8 file
            does, with onnxruntime and search.numpy_beam. "consensus" is float32 with the beams' agreement at the end,
            which the scripts have by default
loop        the same decoder in float32, stepped as torch's nn.LSTM steps, and the same search, one image at a time,
            with its beams kept in Python lists
generate    transformers' `generate` with a GPT-2 of about as many parameters and as many tokens a caption

Weights are random, but <end> grows likelier from word to word and from image to image at another rate, so that
captions have about 12 words and end at different steps. The last line is JSON. Rates are the median of several runs
after a warm-up. Without transformers `generate` is left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import copy
import importlib.util
import json
import platform
import statistics
import tempfile

import torch

from bench_export import RandomImages
from captioning import cli
from captioning.deploy.onnx_export import export_onnx
from captioning.deploy.onnx_model import OnnxModel
from captioning.metadata import PARTS, dump_metadata
from captioning.search import numpy_beam
from captioning.search.beam import beam_search
from captioning.search.options import SearchOptions
from model import CONFIG as MODEL
from model import DecoderRNN, build_model
from timing import rate
from vocab import SPECIALS

CONFIG = {
    "batch_sizes": [1, 32, 256],  # images
    "loop_images": 16,  # images that the loop captions in a run
    "vocab_size": 1000,
    "num_words": 12.0,  # of a caption, the mean
    "runs": 3,
}

START, END = 1, 2
OPTIONS = SearchOptions(beam_size=5, max_len=30, consensus=0.0)
CONSENSUS = SearchOptions(beam_size=5, max_len=30)


def build_decoder(vocab_size, num_words):
    """Return a DecoderRNN of random weights whose captions of random images have `num_words` words on average."""
    torch.manual_seed(0)
    decoder = DecoderRNN(vocab_size).eval()
    hidden = decoder.lstm.hidden_size
    with torch.no_grad():
        # Hidden unit 0 becomes a clock: its gates stay open and its cell grows by about 0.1 a step.
        gates = torch.arange(4) * hidden  # of unit 0: input, forget, cell, output
        decoder.lstm.weight_hh_l0[gates] = 0
        decoder.lstm.weight_ih_l0[gates] = 0
        decoder.lstm.weight_ih_l0[gates[2]] = 0.005 * torch.randn(decoder.lstm.input_size)
        decoder.lstm.bias_hh_l0[gates] = 0
        decoder.lstm.bias_ih_l0[gates] = torch.tensor([9.0, 9.0, 0.1, 9.0])
        decoder.output.weight.mul_(20)  # so that words differ in probability as a trained model's do
        decoder.output.weight[END] = 0
        decoder.output.weight[END, 0] = 30
        low, high = -40.0, 40.0  # the bias of <end>
        images = torch.randn(64, decoder.embedding.embedding_dim)
        for _ in range(12):
            decoder.output.bias[END] = (low + high) / 2
            lengths = [len(found[0].ids) for found in search(decoder, images)]
            low, high = (low, (low + high) / 2) if statistics.mean(lengths) < num_words else ((low + high) / 2, high)
    return decoder


def search(decoder, images, options=OPTIONS):
    """Our search on image embeddings (B, E), in the precision of the decoder."""
    images = images.to(decoder.embedding.weight.dtype)
    return beam_search(decoder.make_step(), decoder.start(images), options, start=START, end=END)


def export_int8(decoder, folder):
    """Export a captioner of the decoder to ONNX in int8, as export.py does: the path of the file."""
    vocab = [*SPECIALS, *(f"w{number}" for number in range(len(decoder.embedding.weight) - len(SPECIALS)))]
    network = build_model(len(vocab), MODEL).eval()
    network.decoder = decoder
    transform = {"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
    empty = {name: kind() for name, kind in PARTS.items()}
    metadata = dump_metadata(empty | {"config": {"model": MODEL}, "vocab": vocab, "transform": transform})
    path = Path(folder, "int8.onnx")
    noise = RandomImages(torch.randn(4, 3, 64, 64).numpy(), 4)
    export_onnx(network, metadata, 64, Path(folder, "float32.onnx"), int8_path=path, calibration=noise)
    return path


def search_onnx(model, decoder, images):
    """The search for machines without torch, on image embeddings (B, E), with an OnnxModel's steps."""
    state = tuple(part.numpy() for part in decoder.start(images))
    return numpy_beam.beam_search(model.step, state, OPTIONS, start=START, end=END)


def search_one(decoder, image):
    """The beam search of most tutorials: one image (1, E), its beams in lists.

    returns: (ids, score)
    """
    size, alpha = OPTIONS.beam_size, OPTIONS.length_penalty
    beams, state = [([START], 0.0)], decoder.start(image)
    ended = []
    for t in range(OPTIONS.max_len):
        log_probs, state = decoder.step(torch.tensor([ids[-1] for ids, _ in beams]), state)
        candidates = []
        for row, (ids, total) in enumerate(beams):
            values, tokens = log_probs[row].topk(2 * size)
            for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
                candidates.append((total + value, row, [*ids, token]))
        candidates.sort(key=lambda candidate: -candidate[0])
        ended += [(total / (t + 1) ** alpha, ids[1:-1]) for total, _, ids in candidates[:size] if ids[-1] == END]
        going = [candidate for candidate in candidates if candidate[2][-1] != END][:size]
        beams = [(ids, total) for total, _, ids in going]
        state = tuple(part[[row for _, row, _ in going]] for part in state)
        if len(ended) >= size or (ended and max(ended)[0] >= going[0][0] / OPTIONS.max_len**alpha):
            break
    score, ids = max(ended) if ended else (beams[0][1] / OPTIONS.max_len**alpha, beams[0][0][1:])
    return ids, score


def build_generate(vocab_size, num_parameters, num_tokens):
    """Return (function that captions B prompts of one token, parameters); the GPT-2 has 192 channels."""
    from transformers import GPT2Config, GPT2LMHeadModel  # a dependency of the tests alone

    width = 192
    layers = max(1, round((num_parameters - vocab_size * width) / (12 * width**2)))
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=width, n_layer=layers, n_head=4, bos_token_id=START,
        eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    network = GPT2LMHeadModel(config).eval()
    options = {"num_beams": OPTIONS.beam_size, "do_sample": False, "length_penalty": OPTIONS.length_penalty}
    options |= {"min_new_tokens": num_tokens, "max_new_tokens": num_tokens}

    def generate(batch_size):
        prompt = torch.full((batch_size, 1), START)
        network.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)

    return generate, sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def main(config):
    """Check that both searches agree, print the rates, and all of them as JSON."""
    config = config["bench"]
    runs, sizes = config["runs"], config["batch_sizes"]
    decoder = build_decoder(config["vocab_size"], config["num_words"])
    num_parameters = sum(parameter.numel() for parameter in decoder.parameters())
    images = torch.randn(max([config["loop_images"], *sizes]), decoder.embedding.embedding_dim)
    few = images[: config["loop_images"]]

    lengths = [len(found[0].ids) for found in search(decoder, few)]
    alone = [search_one(decoder, image[None])[1] for image in few]
    gap = max(abs(found[0].score - score) for found, score in zip(search(decoder, few), alone, strict=True))
    if gap > 1e-3:
        raise ValueError(f"the loop and the search find captions of other scores, {gap:.4f} nats apart")
    print(f"decoder {num_parameters / 1e6:.2f} M parameters, captions of {min(lengths)} to {max(lengths)} words, "
          f"{statistics.mean(lengths):.1f} on average")  # fmt: skip

    loop = rate(lambda: [search_one(decoder, image[None]) for image in few], len(few), runs)
    print(f"{'loop, one image at a time':<28}{loop:>9.1f} captions/s")
    generate, gpt_parameters = None, 0
    if importlib.util.find_spec("transformers"):
        generate, gpt_parameters = build_generate(
            config["vocab_size"], num_parameters, round(statistics.mean(lengths)) + 1
        )
        print(f"generate: GPT-2 of {gpt_parameters / 1e6:.2f} M parameters")
    with tempfile.TemporaryDirectory() as folder:
        onnx_model = OnnxModel(export_int8(decoder, folder), torch.get_num_threads())
    searches = {
        "float32": lambda images: search(decoder, images),
        "consensus": lambda images: search(decoder, images, CONSENSUS),
        "ONNX int8": lambda images: search_onnx(onnx_model, decoder, images),
    }
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # else a hundredth of the speed
        half = copy.deepcopy(decoder).to(torch.bfloat16)
        searches["bfloat16"] = lambda images: search(half, images)
    ours, theirs = {name: {} for name in searches}, {}
    words = {name: statistics.mean(len(found[0].ids) for found in work(images)) for name, work in searches.items()}
    for size in sizes:
        # Small batches differ much in length: as many as the loop's images go through in a run.
        chunks = images[: max(size, len(few))].split(size)
        for name, work in searches.items():
            ours[name][size] = rate(lambda: [work(chunk) for chunk in chunks], sum(map(len, chunks)), runs)  # noqa: B023
            shown = f"{ours[name][size]:>9.1f} captions/s   {ours[name][size] / loop:>6.2f} x the loop"
            print(f"ours, batch {size:<6}{name:<10}{shown}   {words[name]:.1f} words")
        if generate:
            theirs[size] = rate(lambda size=size: generate(size), size, runs)
            print(f"generate, batch {size:<12}{theirs[size]:>9.1f} captions/s")
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result = {
        "bench": "decode",
        "ratio": {name: {size: round(one / loop, 2) for size, one in rates.items()} for name, rates in ours.items()},
        "rate": {name: {size: round(one, 1) for size, one in rates.items()} for name, rates in ours.items()},
        "loop": round(loop, 1),
        "generate": {size: round(value, 1) for size, value in theirs.items()},
        "parameters": {"ours": num_parameters, "generate": gpt_parameters},
        "mean_words": {name: round(value, 1) for name, value in words.items()},
        "machine": machine,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

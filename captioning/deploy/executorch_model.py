"""A captioner in one ExecuTorch program (.pte), for phones and other devices: writes it, and runs it to test it.

The program has two methods, both in float32 and lowered to XNNPACK, and the text of its metadata:
  start(images (1, 3, S, S))  -> a description (1, W) for captioning.familiarity, and the decoder's state
  step(token (1,), *state)    -> log-probabilities (1, V) of the next token, with attention its weights (1, P), and the
                                 next state
  metadata()                  -> JSON of captioning.metadata.dump_metadata: vocabulary, transform, decoding ...
An application encodes a picture once, begins with the token <start>, and calls `step` until <end>.

Needs requirements-executorch.txt.
"""

import contextlib
import json
import os

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from captioning.deploy.onnx_export import Start, Step, quiet
from captioning.familiarity import Familiarity
from captioning.files import replace_file
from captioning.metadata import ORIGIN, parse_metadata
from captioning.search.numpy_beam import beam_search


def export_executorch(network, metadata, image_size, path):
    """Write a CNNtoRNN as an ExecuTorch program.

    metadata: {name: text} that the file carries (captioning.metadata.dump_metadata)
    """
    network = network.cpu().float().eval()
    images = torch.zeros(1, 3, image_size, image_size)
    with torch.inference_mode():
        _, *state = Start(network)(images)
    token, state = torch.ones(1, dtype=torch.long), [part.clone() for part in state]  # no tensors of inference mode
    with quiet():
        methods = {
            "start": torch.export.export(Start(network), (images,)),
            "step": torch.export.export(Step(network), (token, *state)),
        }
        program = to_edge_transform_and_lower(
            methods,
            partitioner=[XnnpackPartitioner()],
            constant_methods={"metadata": json.dumps(metadata, ensure_ascii=False)},
        ).to_executorch()
    with replace_file(path) as temporary:
        temporary.write_bytes(program.buffer)


class ExecutorchModel:
    """An encoder and a decoder behind `search`, as captioning.deploy.onnx_model.OnnxModel is.

    It reads files that export_executorch wrote; a program of a stranger is not checked as the other formats are.
    """

    def __init__(self, path, num_threads=0):
        """num_threads: of one call; 0 = one for each core."""
        with silent():
            portable_lib._unsafe_reset_threadpool(num_threads or os.cpu_count())
            program = Runtime.get().load_program(path)
            self.start, self.advance = (program.load_method(name) for name in ("start", "step"))
            (metadata,) = program.load_method("metadata").execute([])
        parts = parse_metadata(path, json.loads(metadata))
        self.vocab, self.tokenizer, self.transform = parts["vocab"], parts["tokenizer"], parts["transform"]
        self.config, self.classes, self.decoding = parts["config"], parts["classes"], parts["decoding"]
        self.familiarity = Familiarity.from_json(parts["familiarity"])
        self.origin = {name: parts[name] for name in ORIGIN}
        self.has_attention = False  # its weights are in the program, but nothing here draws them

    def search(self, images, options, *, start, end, banned):
        """Caption images (B, 3, S, S) float32: B lists of Hypothesis, and (B,) familiarity, None = not known."""
        found, descriptions = [], []
        for image in images:
            description, *state = self.run(self.start, image[None])
            found += beam_search(self.step, tuple(state), options, start=start, end=end, banned=banned)
            descriptions.append(description)
        return found, self.familiarity(np.concatenate(descriptions)) if self.familiarity else None

    def step(self, tokens, state):
        """(N,) tokens and a state -> (N, V) log-probabilities of the next token, and the next state."""
        rows = []
        for row in range(len(tokens)):
            log_probs, *rest = self.run(self.advance, *(part[row : row + 1] for part in (tokens, *state)))
            rows.append((log_probs, *rest[len(rest) - len(state) :]))  # without the weights of attention
        log_probs, *state = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return log_probs, tuple(state)

    def run(self, method, *inputs):
        """Call a method with arrays; returns arrays of their own, as the next call overwrites what a call returned."""
        return [
            value.numpy().copy()
            for value in method.execute([torch.from_numpy(np.ascontiguousarray(value)) for value in inputs])
        ]


@contextlib.contextmanager
def silent():
    """Keep what the native library prints about files of /sys from standard error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)

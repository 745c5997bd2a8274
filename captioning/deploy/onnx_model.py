"""A captioner in one ONNX file, run by onnxruntime; no torch.

The graph is one `If`. With `begin` true it encodes `images` (B, 3, S, S) and returns the decoder's state before the
first word, and a `description` (B, W) of the images that captioning.familiarity reads (older files have none). With
`begin` false it advances: `tokens` (N,) and the state go in, the log-probabilities (N, V) of the next token and the
next state come out, and of a decoder with attention the weights (N, P) of the places that it looked at. What a call
does not need is given with no rows. Weights that both need are stored once. The file's metadata holds the vocabulary
and the transform; export.py writes it.
"""

import math
from pathlib import Path

import numpy as np

from captioning.cli import one_line
from captioning.familiarity import Familiarity
from captioning.metadata import ORIGIN, parse_metadata
from captioning.search.numpy_beam import beam_search

MAX_MODEL_BYTES = 2**30  # the largest of this project's models has under 100 MB
ATTENTION = "attention"  # the output of its weights
DESCRIPTION = "description"  # the output of what captioning.familiarity reads
STATE = "state_"  # inputs state_0, state_1 ...; as many outputs next_state_0 ...
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class OnnxModel:
    """An encoder and a decoder behind `search`.

    vocab, transform, config, classes, decoding: as in captioning.checkpoint.Checkpoint
    familiarity: Familiarity of its training pictures, None = not known
    origin: its history, best, versions and data
    """

    def __init__(self, path, num_threads=0):
        """Read a file. num_threads: of one call; 0 = one for each core.

        Raises ValueError, one line naming the file, if it is missing, damaged, or not of this project.
        """
        import onnxruntime  # a quarter of a second, and not needed for a .safetensors file

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such model; `python export.py` writes one")
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_MODEL_BYTES} are read")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors come as exceptions
        try:
            # From memory: a model cannot name other files to be read as its weights.
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"], enable_fallback=False
            )  # a fallback is told on standard output, among the captions
        except Exception as error:  # onnxruntime's classes derive from Exception and RuntimeError alone
            raise ValueError(f"{path}: not a readable ONNX model ({one_line(error, 160)})") from None
        parts = parse_metadata(path, self.session.get_modelmeta().custom_metadata_map)
        self.vocab, self.transform = parts["vocab"], parts["transform"]
        self.config, self.classes, self.decoding = parts["config"], parts["classes"], parts["decoding"]
        self.familiarity = Familiarity.from_json(parts["familiarity"])
        self.origin = {name: parts[name] for name in ORIGIN}
        inputs = self.session.get_inputs()
        names = {"begin", "images", "tokens"}
        self.outputs = [one.name for one in self.session.get_outputs()]
        self.has_attention = ATTENTION in self.outputs
        if self.familiarity and DESCRIPTION not in self.outputs:
            raise ValueError(f"{path}: its graph has no output {DESCRIPTION!r}, which its 'familiarity' needs")
        self.state_names = [one.name for one in inputs if one.name.startswith(STATE)]
        if not self.state_names or {one.name for one in inputs} != names | set(self.state_names):
            raise ValueError(f"{path}: its inputs are not those of a captioner of this project")
        side = self.transform["image_size"]
        try:
            self.nothing = {
                one.name: np.zeros([size if isinstance(size, int) else 0 for size in one.shape], TYPES[one.type])
                for one in inputs
            }
            state, _ = self.encode(np.zeros((1, 3, side, side), np.float32))
            found, _ = self.advance(np.zeros(1, np.int64), state)
        except Exception as error:  # of a type or a size without end, or onnxruntime's
            reason = one_line(error, 160)
            raise ValueError(f"{path}: its graph does not caption pictures of {side} pixels ({reason})") from None
        self.places = found[ATTENTION].size if self.has_attention else 0
        if found["log_probs"].shape != (1, len(self.vocab)):
            words = f"{found['log_probs'].shape[-1]} words, its vocabulary has {len(self.vocab)}"
            raise ValueError(f"{path}: its graph chooses among {words}")

    def search(self, images, options, *, start, end, banned):
        """Caption images (B, 3, S, S) float32: B lists of Hypothesis, and (B,) familiarity, None = not known."""
        state, familiarity = self.encode(images)
        return beam_search(self.step, state, options, start=start, end=end, banned=banned), familiarity

    def encode(self, images):
        """(B, 3, S, S) float32 -> the decoder's state before the first word, and (B,) familiarity, None = not known."""
        found, state = self.run(begin=np.array(True), images=images)
        return state, self.familiarity(found[DESCRIPTION]) if self.familiarity else None

    def step(self, tokens, state):
        """(N,) tokens and a state -> (N, V) log-probabilities of the next token, and the next state."""
        found, state = self.advance(tokens, state)
        return found["log_probs"], state

    def attend(self, images, captions, vocabulary):
        """Return where it looked for each word of its captions of images (B, 3, S, S): arrays (words, h, w), square."""
        maps = []
        for image, caption in zip(images, captions, strict=True):
            (state, _), looked = self.encode(image[None]), []
            for token in vocabulary.encode(caption)[:-2]:  # <start> w1 ... , each read before the next is said
                found, state = self.advance(np.array([token]), state)
                looked.append(found[ATTENTION][0])
            side = math.isqrt(self.places)
            maps.append(np.reshape(looked, (-1, side, side)).astype(np.float32))
        return maps

    def advance(self, tokens, state):
        """(N,) tokens and a state -> {name: output} without the state, and the next state."""
        state = dict(zip(self.state_names, state, strict=True))
        return self.run(begin=np.array(False), tokens=tokens, **state)

    def run(self, **inputs):
        """Return ({name: output} without the state, the next state); what is not given has no rows."""
        outputs = dict(zip(self.outputs, self.session.run(None, {**self.nothing, **inputs}), strict=True))
        return outputs, tuple(outputs.pop(f"next_{name}") for name in self.state_names)

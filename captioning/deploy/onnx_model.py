"""A captioner in one ONNX file, run by onnxruntime; no torch.

The graph is one `If`. With `begin` true it encodes `images` (B, 3, S, S) and returns the decoder's state before the
first word, and a `description` (B, W) of the images that captioning.familiarity reads (older files have none). With
`begin` false it advances: `tokens` (N,) and the state go in, the log-probabilities (N, V) of the next token and the
next state come out, and of a decoder with attention the weights (N, P) of the places that it looked at. What a call
does not need is given with no rows. Weights that both need are stored once. The file's metadata holds the vocabulary
and the transform; export.py writes it.
"""

import contextlib
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from captioning import process
from captioning.cli import UnavailableError, one_line
from captioning.deploy.downloads import CHECKPOINTS, FORMS, SHIPPED, cache_folder
from captioning.familiarity import Familiarity
from captioning.files import check_regular, read_bytes, resolved
from captioning.metadata import ORIGIN, parse_metadata
from captioning.model_files import MAX_ONNX_BYTES, check_onnx
from captioning.search.numpy_beam import beam_search

OURS = {CHECKPOINTS / f"{name}{form}" for name in SHIPPED for form in FORMS}  # they ship, so that no probe is needed
PROBE_BYTES = 2 * 2**30  # memory that a probe may take for the graph and one picture
PROBE_SECONDS = 20  # of the processor; the probe of this project's models takes one
ATTENTION = "attention"  # the output of its weights
DESCRIPTION = "description"  # the output of what captioning.familiarity reads
STATE = "state_"  # inputs state_0, state_1 ...; as many outputs next_state_0 ...
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class OnnxModel:
    """An encoder and a decoder behind `search`.

    vocab, tokenizer, transform, config, classes, decoding: as in captioning.checkpoint.Checkpoint
    familiarity: Familiarity of its training pictures, None = not known
    origin: its history, best, versions and data
    """

    def __init__(self, path, num_threads=0, probe=True):
        """Read a file.

        num_threads: of one call; 0 = one for each core
        probe:       run a file that neither ships nor was run before in a process of its own first, see `probe_model`

        Raises ValueError, one line naming the file, if it is missing, damaged, hostile, or not of this project, or if
        onnxruntime is not installed.
        """
        path = Path(path)
        check_regular(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such model; `python export.py` writes one")
        if path.stat().st_size > MAX_ONNX_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_ONNX_BYTES} are read")
        process.disable_telemetry()
        try:
            import onnxruntime  # a quarter of a second, and not needed for a .safetensors file
        except ModuleNotFoundError:
            raise UnavailableError(f"{path}: needs onnxruntime: pip install onnxruntime") from None
        content = read_bytes(path)
        parts = parse_metadata(path, check_onnx(path, content))
        if probe and resolved(path) not in OURS:
            probe_model(path, f"{hashlib.sha256(content).hexdigest()}_{onnxruntime.__version__}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 4  # errors come as exceptions, not in colours on standard error as well
        if not has_vnni():
            options.add_session_config_entry("session.x64quantprecision", "1")  # the exact way, which is slower
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )  # a fallback is told on standard output, among the captions
        except Exception as error:  # onnxruntime's classes derive from Exception and RuntimeError alone
            raise ValueError(f"{path}: not a readable ONNX model ({one_line(error, 160)})") from None
        self.vocab, self.tokenizer, self.transform = parts["vocab"], parts["tokenizer"], parts["transform"]
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
        if np.isnan(found["log_probs"]).any():
            raise ValueError(f"{path}: its graph gives no numbers (NaN) for a black picture")
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
            (state, _), looked, ids = self.encode(image[None]), [], vocabulary.encode(caption)[1:-1]
            for token in [vocabulary.start_id, *ids[:-1]][: len(ids)]:  # each is read before the next is said
                found, state = self.advance(np.array([token]), state)
                looked.append(found[ATTENTION][0])
            side = math.isqrt(self.places)
            maps.append(vocabulary.by_word(ids, np.reshape(looked, (-1, side, side)).astype(np.float32)))
        return maps

    def advance(self, tokens, state):
        """(N,) tokens and a state -> {name: output} without the state, and the next state."""
        state = dict(zip(self.state_names, state, strict=True))
        return self.run(begin=np.array(False), tokens=tokens, **state)

    def run(self, **inputs):
        """Return ({name: output} without the state, the next state); what is not given has no rows."""
        outputs = dict(zip(self.outputs, self.session.run(None, {**self.nothing, **inputs}), strict=True))
        return outputs, tuple(outputs.pop(f"next_{name}") for name in self.state_names)


def has_vnni(cpuinfo="/proc/cpuinfo"):
    """True if the processor is known to add products of int8 in 32 bits.

    Others of x86 add them in 16 bits, which overflow: other captions, and worse ones. onnxruntime's exact way is for
    those; its own test for them is true of processors with VNNI, too, which it would slow down.
    """
    try:
        words = set(Path(cpuinfo).read_text().split())
    except OSError:  # not Linux
        return False
    return not words.isdisjoint({"avx512_vnni", "avx_vnni"})


def probe_model(path, identity):
    """Load a model and caption a black picture in a child process that may take PROBE_BYTES and PROBE_SECONDS.

    identity: names the content of the file; what passed once is noted in the cache, and not probed again

    The sizes and the work of a graph are known only when it is run, and onnxruntime has no bound on either. Where the
    system sets no bound on memory (Windows, macOS) only the time is limited.

    Raises ValueError, one line, if the child cannot load it or ends in another way.
    """
    try:
        passed = cache_folder() / "probed" / identity
    except ValueError:  # a user without a home
        passed = Path(os.devnull)
    if passed.is_file():
        return
    code = "import sys; from captioning.deploy import onnx_model; onnx_model.run_probe(sys.argv[1])"
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, os.fspath(path)], env=environment, timeout=10 * PROBE_SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        said, ended = child.stdout.decode("utf-8", "replace").strip(), child.returncode == 0
    except subprocess.TimeoutExpired:
        said, ended = "", False
    if not ended or said:
        bounds = f"{PROBE_BYTES / 2**30:g} GiB of memory or {PROBE_SECONDS} s of time"
        raise ValueError(said or f"{path}: its graph takes more than {bounds} for one picture")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second at each start
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def run_probe(path):
    """In the child: bound this process, load the model, and print what is wrong with it; nothing = all is well."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        resource = None
    import onnxruntime  # noqa: F401 (its libraries are not the model's memory)

    if resource:
        process.lower_limit(resource.RLIMIT_CPU, PROBE_SECONDS)
        process.lower_limit(resource.RLIMIT_CORE, 0)
        with contextlib.suppress(OSError):  # a system without /proc
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            process.lower_limit(resource.RLIMIT_AS, used + PROBE_BYTES)
    try:
        OnnxModel(path, num_threads=1, probe=False)
    except ValueError as error:
        print(error)

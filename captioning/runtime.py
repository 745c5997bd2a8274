"""The machine a run happens on: device, seeds, precision, and the experiment tracker."""

import contextlib
import os
import platform
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from captioning import __version__
from captioning.cli import one_line

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
TRACKER_MODES = ("auto", "online", "offline", "off")


def pick_device(name=""):
    """Return the torch.device called `name`; "" takes cuda, then mps, then cpu.

    Raises ValueError if this machine has no such device.
    """
    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.partition(":")[0]
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not have.get(kind):
        raise ValueError(f"device: got {name!r}, this machine has {', '.join(k for k, v in have.items() if v)}")
    number = name.removeprefix(kind).removeprefix(":")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if name != kind and not (number.isdecimal() and int(number) < count):
        cards = f", cuda:0 to cuda:{count - 1}" if count else ""
        raise ValueError(f"device: got {name!r}, this machine has {', '.join(k for k, v in have.items() if v)}{cards}")
    return torch.device(name)


def flush_denormals():
    """Treat numbers below 1e-38 as 0: on a CPU they are computed a hundred times slower, and mean nothing here.

    Threads inherit the setting, so it must come before the first heavy computation.
    """
    torch.set_flush_denormal(True)


def seed_everything(seed):
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state():
    """Return the state of every generator, in types that torch.load(weights_only=True) reads."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state):
    """Put the generators back to what `random_state` saw."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def pick_precision(name, device):
    """Return the torch dtype of autocast: "auto" is bfloat16 where the hardware multiplies its matrices, else float32.

    On a processor that is AMX. AVX512_BF16 alone made every training step slower than float32: 1.7 times for the
    decoder, 1.4 to 1.9 times for the encoder's last blocks, and only a frozen encoder 1.3 times faster.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision: got {name!r}, allowed are {', '.join(PRECISIONS)}")
    if name == "float16" and device.type != "cuda":
        raise ValueError(f"precision: got float16, which needs CUDA; on {device.type} give bfloat16, float32 or auto")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def autocast(device, dtype):
    """Return the context in which matrix products run in `dtype`; float32 changes nothing.

    Weights are not cached in `dtype`: in older torch versions what a no_grad pass had cached got no gradient later.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False)


@dataclass(frozen=True)
class Machine:
    """What computes: device, type of the matrix products, processes that read images, images at a time."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    num_workers: int = 0
    batch_size: int = 64


def mix_seed(*key):
    """Return a seed below 2**32, as torch's CPU generator uses, made of whole numbers >= 0 such as (seed, epoch)."""
    # With the length: SeedSequence fills short keys with zeros.
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


@contextlib.contextmanager
def random_numbers(*key):
    """Make torch's random numbers inside the block a function of the whole numbers `key`, all >= 0.

    The generator goes on after the block as if it had not been there. So what is drawn for an image depends on (seed,
    epoch or view, index of the image), never on a worker, or on what was drawn before. numpy's SeedSequence mixes the
    key: keys that are near each other, or of other lengths, have unrelated numbers.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(mix_seed(*key))
    try:
        yield
    finally:
        generator.set_state(before)


def pick_workers(num_workers, device):
    """Return how many of `num_workers` processes should read images while a network computes on `device`.

    On a CPU they take from the network the cores that it computes on, and each layer waits for its slowest thread: on
    two cores, two readers made it slower than reading between the batches. So two cores are left to it.
    """
    if device.type != "cpu":
        return num_workers
    return min(num_workers, max(0, (os.cpu_count() or 1) - 2))


@contextlib.contextmanager
def hold_interrupts():
    """Keep a Ctrl-C that comes inside the block until its end.

    Python drops one that comes while a process forks: the hooks of its libraries run then, and what is raised in them
    is ignored. Processes forked inside leave Ctrl-C, which a terminal sends to all of them, to this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread is asked
        return
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(signal.SIGINT, None)


SHARED_MEMORY = "/dev/shm"  # where workers put their batches; Docker gives 64 MB of it
PREFETCH = 2  # batches that each worker of a DataLoader has ready
LONGEST_WAIT = 600  # seconds for one batch of a worker


def fit_workers(num_workers, batch_size, image_size):
    """Return how many of `num_workers` reading processes the free shared memory has room for, and say if it is fewer.

    A worker that finds no room waits for ever, or dies of a bus error. image_size: pixels a side of float32 images
    """
    if not num_workers or not os.path.isdir(SHARED_MEMORY):
        return num_workers
    status = os.statvfs(SHARED_MEMORY)
    free, each = status.f_bavail * status.f_frsize, PREFETCH * batch_size * 3 * image_size**2 * 4
    # The batch that is in use takes room as well.
    room = max(0, int((free - each / PREFETCH) // each))
    if room < num_workers:
        print(
            f"note: num_workers {room} instead of {num_workers}: {SHARED_MEMORY} has {free / 1e6:.0f} MB free, "
            f"{each / 1e6:.0f} MB are needed for each"
        )
    return min(num_workers, room)


def start_workers(loader):
    """Return an iterator over a DataLoader whose workers are started, so that no Ctrl-C is lost on the way.

    Raises ValueError, when iterated, if a worker dies or takes longer than the loader's time limit.
    """
    with hold_interrupts():
        batches = iter(loader)
    return name_workers(batches)


def name_workers(batches):
    """Yield the batches of a DataLoader; what goes wrong with its workers is one line."""
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise ValueError(f"num_workers: a process that reads images failed ({one_line(error, 160)}); give 0") from None


def versions():
    """Return the versions that a result depends on, that of this project among them."""
    import torchvision  # slow to import, and needed by training alone

    return {
        "captioning": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


class Tracker:
    """An experiment tracker that never stops a run: WandB, or nothing.

    mode: "online", "offline", "off", or "auto" (as WANDB_MODE or WANDB_DISABLED say, else online when logged in)
    run_id: of a WandB run to go on with; "" = a new one. The attribute has the id of the run, "" = there is none
    folder: WandB writes into `<folder>/wandb`, never into the working directory, where a folder
            called wandb could be taken for the package
    """

    def __init__(self, mode, *, project, run, folder, config, run_id=""):
        if mode not in TRACKER_MODES:
            raise ValueError(f"wandb: got {mode!r}, allowed are {', '.join(TRACKER_MODES)}")
        self.run, self.run_id = None, run_id
        if mode == "auto":
            mode = automatic_mode()
        if mode == "off":
            return
        with self._survive("start"):
            import wandb  # only here: a run without it should not pay for the import

            Path(folder).mkdir(parents=True, exist_ok=True)
            settings = wandb.Settings(silent=True, console="off", init_timeout=30)
            same = {"id": run_id, "resume": "allow"} if run_id else {}
            self.run = wandb.init(
                project=project, name=run, dir=str(folder), config=config, mode=mode, settings=settings, **same
            )
            self.run_id = self.run.id

    def log(self, values, step):
        """Log numbers by name."""
        if self.run:
            with self._survive("log"):
                self.run.log(values, step=step)

    def finish(self):
        """Close the run."""
        if self.run:
            with self._survive("finish"):
                self.run.finish()

    @contextlib.contextmanager
    def _survive(self, what):
        # Whatever a tracker raises (network, quota, a missing package), the training is worth more.
        try:
            yield
        except Exception as error:
            self.run = None
            print(f"warning: wandb could not {what} ({one_line(error, 160)}); going on without it")


def automatic_mode():
    """Return online, offline or off: what WandB's own variables say, else whether somebody is logged in."""
    said = os.environ.get("WANDB_MODE", "").lower()
    if said in ("disabled", "off") or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "off"
    if said in ("offline", "dryrun"):
        return "offline"
    return "online" if said in ("online", "run") or wandb_logged_in() else "offline"


def wandb_logged_in():
    """True if an API key is set or stored, found without asking and without the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        path = Path(name).expanduser() if name else None
        if path and path.is_file():
            try:
                return any("wandb" in host for host in netrc.netrc(str(path)).hosts)
            except netrc.NetrcParseError:
                return False
    return False

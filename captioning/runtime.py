"""What a run happens on: device, seeds, precision, the ranks that train together, and the experiment tracker."""

import contextlib
import os
import platform
import random
import signal
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from captioning import __version__
from captioning.cli import INTERRUPTED, USER_ERROR, RankError, UnavailableError, message, one_line

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
TRACKER_MODES = ("auto", "online", "offline", "off")


def pick_device(name=""):
    """Return the torch.device called `name`; "" takes cuda, then mps, then cpu.

    Of several ranks each has a card of its own. Raises UnavailableError if this machine has no such device.
    """
    if num_ranks() > 1 and (name == "cuda" or (not name and torch.cuda.is_available())):
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    elif num_ranks() > 1 and not name:
        name = "cpu"
    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.partition(":")[0]
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there = ", ".join(kind for kind, found in have.items() if found)
    if not have.get(kind):
        raise UnavailableError(f"device: got {name!r}, this machine has {there}")
    number = name.removeprefix(kind).removeprefix(":")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if name != kind and not (number.isdecimal() and int(number) < count):
        cards = f", cuda:0 to cuda:{count - 1}" if count else ""
        raise UnavailableError(f"device: got {name!r}, this machine has {there}{cards}")
    if num_ranks() > 1 and kind == "cuda":
        torch.cuda.set_device(name)
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
        if num_ranks() > 1:  # all draw as the first rank does, whose card was the first
            torch.cuda.set_rng_state(state["cuda"][0])
        else:
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

    A worker that finds no room waits for ever, or dies of a bus error. image_size: pixels a side, of three bytes each
    """
    if not num_workers or not os.path.isdir(SHARED_MEMORY):
        return num_workers
    status = os.statvfs(SHARED_MEMORY)
    free, each = status.f_bavail * status.f_frsize, PREFETCH * batch_size * 3 * image_size**2
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


# ---- ranks: the processes of one training ----------------------------------------------------------------
# torchrun starts N of them and sets RANK, WORLD_SIZE and the address of their store. Without it there is one rank, no
# process group, and every function here does what one process did before there were any.

LOST = "another process of this training has died, or did not answer for train.rank_minutes"


def num_ranks():
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first():
    """True for the rank that prints and writes."""
    return num_ranks() == 1 or dist.get_rank() == 0


@contextlib.contextmanager
def join_ranks(minutes):
    """Join the ranks that a launcher has started; without a launcher nothing happens.

    minutes: the longest wait for another rank

    Only the first rank prints. Of an error one rank prints one line, whichever meets it first; the others end silently
    with the same exit code. Raises ValueError if the ranks cannot meet, and where one of them died or is too slow.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    limit = timedelta(minutes=minutes)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        # torchrun keeps its store over its restarts, with the addresses at which the killed processes could be reached.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:  # a port that is taken, a variable that is missing, nobody there
        raise RankError(f"the processes of the launcher cannot meet ({one_line(error, 200)})") from None

    def speaks():
        try:
            return store.compare_set("speaker", "", str(rank)).decode() == str(rank)
        except RuntimeError:  # the store went with the rank that kept it
            return rank == 0

    try:
        with contextlib.ExitStack() as stack:
            if rank:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))  # bars and warnings
            yield
            dist.barrier()  # the first rank may still write; nobody takes the store away before
    except KeyboardInterrupt:
        if rank == 0:
            raise
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        if speaks():
            raise RankError(message(error)) from error
        raise SystemExit(USER_ERROR) from None
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        if speaks():
            raise RankError(LOST) from None
        raise SystemExit(USER_ERROR) from None
    finally:
        dist.destroy_process_group()


def launch():
    """Return what names this launch of torchrun, whose restarts all have the same; "" = it was not torchrun."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return run_id and f"{run_id} {platform.node()} {os.getppid()}"


def was_restarted():
    """True if torchrun has started this training again after one of its processes died."""
    return bool(launch()) and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def share(num_rows, batch_size=1):
    """Return the slice of `num_rows` rows that this rank works on; the slices of all ranks follow one another.

    batch_size: rows that stay together, in the batches that one rank would make: sums of floats depend on them
    """
    if num_ranks() == 1:
        return slice(0, num_rows)
    rank, size, num_batches = dist.get_rank(), num_ranks(), -(-num_rows // batch_size)
    return slice(rank * num_batches // size * batch_size, (rank + 1) * num_batches // size * batch_size)


@torch.no_grad()
def total(tensor):
    """Return the sum of a tensor over all ranks, without gradient."""
    if num_ranks() == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor


def total_counts(*counts):
    """Return whole numbers, each added up over all ranks."""
    return total(torch.tensor([int(count) for count in counts])).tolist()


def share_of_mean(mean, count):
    """Return this rank's part of the mean over the items of all ranks; the parts add up to that mean.

    mean: of this rank's `count` items; what it is where there are none does not matter
    """
    if num_ranks() == 1:
        return mean
    count = torch.as_tensor(count, device=mean.device, dtype=mean.dtype)
    return torch.where(count > 0, mean, 0) * (count / total(count).clamp(min=1))


def gather_list(items):
    """Return the items of all ranks' lists, in the order of the ranks."""
    if num_ranks() == 1:
        return items
    parts = [None] * num_ranks()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def from_first(compute):
    """Return what `compute()` gives on the first rank, on all ranks."""
    if num_ranks() == 1:
        return compute()
    found = [compute() if is_first() else None]
    dist.broadcast_object_list(found)
    return found[0]


def sum_gradients(parameters):
    """Add up the gradients of all ranks, in place. All ranks must have gradients of the same parameters."""
    if num_ranks() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in {gradient.dtype for gradient in gradients}:
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = total(torch.cat([gradient.flatten() for gradient in same]))
        for gradient, part in zip(same, flat.split([gradient.numel() for gradient in same]), strict=True):
            gradient.copy_(part.view_as(gradient))


class SumOfRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks, with gradient: what each rank does with the sum depends on all of them."""

    @staticmethod
    def forward(ctx, tensor):
        """Return the sum."""
        return total(tensor)

    @staticmethod
    def backward(ctx, gradient):
        """Return the sum of the ranks' gradients."""
        return total(gradient)


class WholeBatchNorm(TorchFunctionMode):
    """Inside the block BatchNorm in training sees the rows of all ranks.

    torch's SyncBatchNorm needs CUDA.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.batch_norm and kwargs["training"]:
            return self.normalise(*args, **kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def normalise(inputs, running_mean, running_var, weight, bias, training, momentum, eps):
        """As torch.nn.functional.batch_norm of the inputs (B, C, ...) of all ranks, for this rank's rows."""
        dims, shape = [0, *range(2, inputs.ndim)], [1, -1] + [1] * (inputs.ndim - 2)
        values = inputs.to(running_mean.dtype)  # float32 where autocast made them less
        count = total(torch.tensor(values.numel() / values.shape[1], dtype=values.dtype, device=values.device))
        mean = SumOfRanks.apply(values.sum(dims)) / count
        centred = values - mean.view(shape)
        var = SumOfRanks.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * count / (count - 1), momentum)
        scale = weight * (var + eps).rsqrt()
        return (centred * scale.view(shape) + bias.view(shape)).to(inputs.dtype)


def whole_batch_norm():
    """Return the context in which BatchNorm sees the rows of all ranks."""
    return contextlib.nullcontext() if num_ranks() == 1 else WholeBatchNorm()


class SharedDraws(TorchFunctionMode):
    """Inside the block dropout and torch.rand draw for the rows of all ranks, of which each rank takes its own.

    So they are what one rank would draw, and the generators of all ranks stay alike. Where a rank draws less often than
    another, as its captions ended sooner, its generator follows in the end.

    shape: (rows,) or (rows, width) of this rank; the ranks' rows follow one another, the widest has what one rank has
    """

    def __init__(self, shape, device):
        super().__init__()
        self.device, self.num_drawn = device, 0
        self.width = shape[1] if len(shape) > 1 else None
        shapes = self.gather([shape[0], self.width or 0])
        self.begin = int(shapes[: dist.get_rank(), 0].sum())
        self.num_rows, self.widest = int(shapes[:, 0].sum()), int(shapes[:, 1].max())

    @staticmethod
    def gather(numbers):
        """Return whole numbers of every rank, (ranks, numbers)."""
        own = torch.tensor(numbers)
        parts = [torch.empty_like(own) for _ in range(num_ranks())]
        dist.all_gather(parts, own)
        return torch.stack(parts)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.dropout and kwargs["training"] and kwargs["p"]:
            (values,) = args
            ones = self.whole(values.shape, partial(ones_laid_out_as, values))
            return values * self.own(function(ones, p=kwargs["p"], training=True), values.shape)
        if function is torch.rand:
            shape = torch.Size(args[0] if isinstance(args[0], list | tuple) else args)
            return self.own(self.whole(shape, partial(function, **kwargs)), shape)
        return function(*args, **kwargs)

    def whole(self, shape, make):
        """Return a new tensor for the rows of all ranks."""
        self.num_drawn += 1
        width = [self.widest if self.width is not None else shape[1], *shape[2:]] if len(shape) > 1 else []
        return make((self.num_rows, *width))

    def own(self, drawn, shape):
        """Return this rank's part of what was drawn."""
        drawn = drawn[self.begin : self.begin + shape[0]]
        return drawn[:, : shape[1]] if len(shape) > 1 else drawn

    def __exit__(self, *error):
        super().__exit__(*error)
        if error[0] is None:
            counts = self.gather([self.num_drawn])[:, 0]
            if counts.min() < counts.max():
                cuda = self.device.type == "cuda"
                state = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
                dist.broadcast(state, src=int(counts.argmax()))
                torch.cuda.set_rng_state(state, self.device) if cuda else torch.set_rng_state(state)


def ones_laid_out_as(values, shape):
    """Return ones in the memory order of `values`, in which dropout draws; an LSTM's outputs are (T, N, H)."""
    if values.ndim == 3 and values.stride(0) <= values.stride(1):
        return values.new_ones(shape[1], shape[0], shape[2]).transpose(0, 1)
    return values.new_ones(shape)


def shared_draws(shape, device):
    """Return the context in which random numbers are drawn for the rows of all ranks, see SharedDraws."""
    return contextlib.nullcontext() if num_ranks() == 1 else SharedDraws(shape, device)


# ---- the experiment tracker ---------------------------------------------------------------------------


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

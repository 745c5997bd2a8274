"""Settings of the process that make torch faster on a CPU. Scripts make them before torch loads:

    if __name__ == "__main__":
        from captioning import process

        process.set_up()  # before torch loads

Memory   glibc's malloc returns a large block to the kernel when it is freed, and the kernel clears the next one page
         by page. A network allocates at every layer: page faults took half of the CPU time of an encoder's forward
         pass. Here freed blocks stay with the process. Neither of the two settings of malloc is enough alone.
Threads  libgomp's threads spin at a barrier 300,000 times, several milliseconds, before they sleep. If another
         process is running, they spin on the core that the last thread waits for. Here they spin 10,000 times:
         with 3,000 training a decoder was 12 % slower on a quiet machine; more are slower beside a busy process.

Child processes inherit both: a forked one the state of malloc, a spawned one the environment variables. What the user
has set in the environment is kept, and so is another allocator. An imported module sets nothing: whoever imports
`Captioner` decides for his own process. benchmarks/bench_process.py measures both, docs/speed.md has the figures.
"""

import contextlib
import ctypes
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading

# Environment variable of glibc: (parameter of mallopt in malloc.h, value, names of user settings that it yields to).
MALLOC = {
    "MALLOC_MMAP_MAX_": (-4, 0, ("mmap_max", "mmap_threshold")),  # no block is mapped by itself
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1, ("trim_threshold",)),  # bytes that may be free at the end of the heap
}
SPIN_COUNT = 10_000  # turns, about 0.5 ms where `pause` takes 140 cycles


def require(requirements, *packages):
    """End the process with one line if a package is not installed; requirements: the file that lists them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        print(f"error: {', '.join(missing)} not installed: pip install -r {requirements}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def without_interrupts():
    """Hold Ctrl-C back in the block. Processes that start in it never see it: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent():
    """End this process of `multiprocessing` when its parent is gone, however that ended."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def set_up():
    """Set malloc and OpenMP for this process and its children; does nothing where there is no glibc or libgomp."""
    disable_telemetry()
    if sys.platform == "linux":
        keep_freed_memory()
        limit_spinning()


def disable_telemetry():
    """Keep onnxruntime from writing an identifier of this machine to the temporary folder, and from sending events."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported, since version 1.32


def keep_freed_memory():
    """Let malloc reuse large blocks instead of returning them to the kernel."""
    libc = glibc_in_use()
    if libc is None:
        return
    for variable, (parameter, value, names) in MALLOC.items():
        if not any(set_by_user(name) for name in names):
            libc.mallopt(parameter, value)
            os.environ[variable] = str(value)


def lower_limit(kind, value):
    """Lower a limit of this process, as resource.RLIMIT_AS, to `value` or to the bound that the system has set."""
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def return_freed_memory():
    """Give the kernel back what is free in malloc's heap; does nothing where glibc's malloc is not in use.

    For after work that is not repeated. glibc finds no room for a large block in the gap that one of the same size
    left, so that gaps add up: 2 GB for each view of a table of grids.
    """
    libc = glibc_in_use() if sys.platform == "linux" else None
    if libc is not None:
        libc.malloc_trim(0)


def set_by_user(name):
    """True if the environment has a value for a parameter of malloc: MALLOC_MMAP_MAX_ or glibc.malloc.mmap_max."""
    return f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}=" in os.environ.get("GLIBC_TUNABLES", "")


def glibc_in_use():
    """Return the C library if it is glibc and its malloc is in use, None with musl or a preloaded allocator."""
    try:
        glibc, process = ctypes.CDLL("libc.so.6"), ctypes.CDLL(None)
        own, used = (ctypes.cast(library.malloc, ctypes.c_void_p).value for library in (glibc, process))
    except (OSError, AttributeError):
        return None
    return glibc if own == used and hasattr(glibc, "mallopt") else None


def limit_spinning():
    """Let libgomp's threads sleep sooner. Other OpenMP libraries do not read the variable."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)

"""A function in a process of its own, so that a call that takes too long can be stopped."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from captioning.process import lower_limit, without_interrupts

START_SECONDS = 120  # to import and load what the function needs
CALL_BYTES = 2 * 2**30  # of address space that a call may take beyond what was loaded
THREAD_BYTES = 2**27  # that a thread reserves for its stack and for malloc, used or not


class Worker:
    """Calls a function in a process of its own, one call at a time.

    build:     picklable; build(*arguments), called in that process, returns (what `about` becomes, the function)
    arguments: picklable

    Raises ValueError if `build` does, RuntimeError if the process ends or does not start in time.
    """

    def __init__(self, build, *arguments):
        self.build, self.arguments = build, arguments
        self.lock = threading.Lock()
        self.start()

    def start(self):
        """Start the process and wait until the function is built."""
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of the server, half alive
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=answer, args=(far_end, self.build, self.arguments), daemon=True)
        with without_interrupts():
            self.process.start()
        far_end.close()
        self.about = self.receive(START_SECONDS)

    def __call__(self, *arguments, seconds):
        """Return the function's answer.

        Raises TimeoutError if there is none after `seconds`, ValueError if the function does, and RuntimeError if
        the process ends; the next call gets a new process.
        """
        with self.lock:
            if not self.process.is_alive():
                self.start()
            with contextlib.suppress(OSError):  # it has just ended, which `receive` tells
                self.pipe.send(arguments)
            return self.receive(seconds)

    def receive(self, seconds):
        """Return what the process sends within some seconds."""
        try:
            if not self.pipe.poll(seconds):
                self.stop()
                raise TimeoutError(f"no answer within {seconds} s")
            succeeded, result = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.stop()
            raise RuntimeError(f"the process that captions ended with exit code {self.process.exitcode}") from None
        if not succeeded:
            raise result
        return result

    def stop(self):
        """End the process at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def bound_memory():
    """Bound what calls may take, so that one that swells is an error of its own and not the end of the machine.

    Linux alone counts it as it is meant here; a process with a CUDA device reserves more than any machine has.
    """
    torch = sys.modules.get("torch")
    if sys.platform != "linux" or (torch and torch.cuda.is_initialized()):
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + CALL_BYTES + THREAD_BYTES * (os.cpu_count() or 1)
    lower_limit(resource.RLIMIT_AS, most)


def answer(pipe, build, arguments):
    """Build the function, then answer the calls that come through a pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both: the server ends, and ends this process
    try:
        about, function = build(*arguments)
    except ValueError as error:
        pipe.send((False, error))
        return
    bound_memory()
    pipe.send((True, about))
    while True:
        try:
            received = pipe.recv()
        except EOFError:
            return
        try:
            result = (True, function(*received))
        except ValueError as error:
            result = (False, error)
        except Exception as error:  # of any class, perhaps one that cannot be pickled
            result = (False, RuntimeError(f"{type(error).__name__}: {error}"))
        pipe.send(result)

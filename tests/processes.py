"""Processes of the scripts that start in a moment: forks of a server that has loaded torch and the scripts' modules."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVER = multiprocessing.get_context("forkserver")


class Process:
    """`python *command`; its end is told as by subprocess.Popen, with text: returncode, communicate() and kill().

    command:     script or "-c" and code, with arguments; cwd: its working directory
    environment: added to the environment of the tests
    stdin:       what it reads from standard input
    """

    def __init__(self, command, cwd, environment, stdin=""):
        self.streams = [empty_file() for _ in range(3)]
        self.streams[0].write_text(stdin)
        ensure_server()
        self.process = SERVER.Process(target=run_command, args=(command, cwd, os.environ | environment, self.streams))
        self.process.start()
        self.kill = self.process.kill

    def communicate(self):
        """Wait for its end; what it wrote to standard output and to standard error."""
        self.process.join()
        texts = tuple(path.read_text() for path in self.streams[1:])
        for path in self.streams:
            path.unlink()
        return texts

    @property
    def returncode(self):
        """As of subprocess.Popen: minus the signal that ended it."""
        return self.process.exitcode


def empty_file():
    """Return the path of a new file."""
    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    return Path(path)


def run(command, cwd, stdin="", **environment):
    """Run `python *command` to its end, as subprocess.run with text and captured outputs does."""
    process = Process(command, cwd, environment, stdin)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def ensure_server():
    """Start the server, which finds the scripts by its environment; it goes on for all the tests of a session."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    forkserver.set_forkserver_preload(["train", "analysis_report"])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def run_command(command, cwd, environment, streams):
    """Run the command in this process; streams: files in the place of standard input, output and error."""
    for descriptor, (path, mode) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(path, mode), descriptor)
    sys.stdin = open(0)  # noqa: SIM115  multiprocessing gives its processes an empty one
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    script, *arguments = command
    if script == "-c":
        code, *arguments = arguments
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).resolve().parent))
        runpy.run_path(script, run_name="__main__")

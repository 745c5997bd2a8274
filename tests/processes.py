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
    """

    def __init__(self, command, cwd, environment):
        self.outputs = [empty_file() for _ in range(2)]
        ensure_server()
        self.process = SERVER.Process(target=run_command, args=(command, cwd, environment, self.outputs))
        self.process.start()
        self.kill = self.process.kill

    def communicate(self):
        """Wait for its end; what it wrote to standard output and to standard error."""
        self.process.join()
        texts = tuple(path.read_text() for path in self.outputs)
        for path in self.outputs:
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


def run(command, cwd, **environment):
    """Run `python *command` to its end, as subprocess.run with text and captured outputs does."""
    process = Process(command, cwd, environment)
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


def run_command(command, cwd, environment, outputs):
    """Run the command in this process."""
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.chdir(cwd)
    os.environ.update(environment)
    script, *arguments = command
    if script == "-c":
        code, *arguments = arguments
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(ROOT))
        runpy.run_path(script, run_name="__main__")

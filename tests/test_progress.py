"""Progress: a bar with the time left on a terminal, seldom a line in a log file."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import time
from captioning import progress
progress.LOG_SECONDS = 0.05
with progress.Progress(total=400, desc="decoder 1/2", unit=" captions", leave={leave}) as bar:
    for _ in range(400):
        bar.update()
        time.sleep(0.001)
"""


def run(leave, **streams):
    return subprocess.run([sys.executable, "-c", CODE.format(leave=leave)], cwd=ROOT, check=True, **streams)


def test_a_log_file_gets_whole_lines_at_intervals():
    """400 steps once were 400 pieces of a line."""
    text = run(True, stderr=subprocess.PIPE, text=True).stderr
    lines = text.splitlines()
    assert 2 <= len(lines) <= 20
    assert "\r" not in text
    assert all(line.startswith("decoder 1/2") and "/400" in line for line in lines)
    assert "400/400" in lines[-1]
    assert "<" in lines[0], "the time left"


def test_short_work_leaves_no_line_in_a_log_file():
    code = CODE.format(leave=True).replace("0.05", "60")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stderr == b""


def test_a_terminal_gets_one_bar_with_the_total():
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    run(False, stderr=end)
    os.set_blocking(terminal, False)
    shown = os.read(terminal, 1 << 16)  # while the other end is open: what is unread goes with it
    os.close(end)
    os.close(terminal)
    assert b"\r" in shown
    assert b"/400" in shown

"""Progress bars: on a terminal with the time left, in a log file a line at intervals."""

import sys

from tqdm import tqdm

LOG_SECONDS = 30  # between two lines in a log file


class Progress(tqdm):
    """tqdm with a total; where standard error is no terminal it writes whole lines, seldom.

    Short work leaves no line in a log file.
    """

    def __init__(self, iterable=None, *, total, **settings):
        if not sys.stderr.isatty():
            settings |= {"file": Lines(sys.stderr), "ascii": True}
            settings |= dict.fromkeys(("mininterval", "maxinterval", "delay"), LOG_SECONDS)
        super().__init__(iterable, total=total, **settings)


class Lines:
    """A text file that gets each text written to it as a line of its own, and no empty ones."""

    def __init__(self, file):
        self.file = file

    def write(self, text):
        """Write the text without what moves the cursor of a terminal."""
        if line := text.strip():
            self.file.write(f"{line}\n")

    def flush(self):
        """Hand on what was written."""
        self.file.flush()

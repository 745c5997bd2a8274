"""The folder of what visitors upload: bounded, swept while the page runs, gone when it ends."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

PREFIX = "captioning-page-"
LOCK = ".lock"  # in each folder; held by the process that the folder belongs to
MAX_AGE = 3600  # seconds that an upload is kept
MIN_AGE = 60  # seconds that it is kept in any case: its visitor is still there
SWEEP_SECONDS = 30
BLOCK = 4096  # bytes that the smallest file takes


class FullError(Exception):
    """There is no room for an upload now."""


@contextlib.contextmanager
def upload_folder():
    """Give a new folder for the uploads of this process; it goes at the end, and those of killed processes at once."""
    remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, hold(Path(name) / LOCK):
        yield Path(name)


@contextlib.contextmanager
def hold(path):
    """Hold a lock on a new file; where the system has none, only make the file."""
    unlocked = path.with_name(f"{path.name}_new")
    with open(unlocked, "w") as file:
        lock(file)
        # Locked when it is there: another process that starts now would take it for abandoned.
        unlocked.rename(path)
        yield


def lock(file):
    """Return whether an open file could be locked for this process."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(parent):
    """Remove the folders below `parent` whose process was killed before it could."""
    for folder in parent.glob(f"{PREFIX}*"):
        # A folder of another user cannot be opened, or not be removed; one that is being made has no lock yet.
        with contextlib.suppress(OSError), open(folder / LOCK) as file:
            if lock(file):
                shutil.rmtree(folder, ignore_errors=True)


class Uploads:
    """Watches over the folder.

    folder:    Gradio puts a file that is being received into it as tmp*, and a whole one into a folder of its own
    max_bytes: of all uploads together
    """

    def __init__(self, folder, max_bytes):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.kept = set(self.files())  # pictures of the page itself
        self.lock = threading.Lock()
        self.reserved = self.receiving = 0
        threading.Thread(target=self.sweep_for_ever, daemon=True).start()

    def files(self):
        """Return the paths of all files; of a folder that goes meanwhile, those that were seen."""
        found = [(Path(folder), names) for folder, _, names in os.walk(self.folder)]
        return [folder / name for folder, names in found for name in names if name != LOCK]

    def ages(self):
        """Return (age in seconds, bytes, path) of each upload that is whole, the oldest first."""
        found, now = [], time.time()
        for path in self.files():
            if path.parent != self.folder and path not in self.kept:
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((now - status.st_mtime, max(status.st_size, BLOCK), path))
        return sorted(found, key=lambda one: -one[0])

    @contextlib.contextmanager
    def receive(self, num_bytes):
        """Keep room for an upload while it comes. Raises FullError if what must be kept leaves too little."""
        with self.lock:
            self.make_room(num_bytes)
            self.reserved += num_bytes
            self.receiving += 1
        try:
            yield
        finally:
            with self.lock:
                self.reserved -= num_bytes
                self.receiving -= 1
                if not self.receiving:
                    self.remove_cut()

    def make_room(self, num_bytes):
        """Remove uploads, the oldest first, until there is room. Raises FullError if all that remain are too young."""
        ages = self.ages()
        used = self.reserved + num_bytes + sum(size for _, size, _ in ages)
        for age, size, path in ages:
            if used > self.max_bytes and age > MIN_AGE:
                remove(path)
                used -= size
        if used > self.max_bytes:
            raise FullError

    def remove_cut(self):
        """Remove what is left of uploads that were cut; only while none comes."""
        for path in self.files():
            if path.parent == self.folder and path.name.startswith("tmp"):
                path.unlink(missing_ok=True)

    def sweep(self):
        """Remove what is too old."""
        with self.lock:
            for age, _, path in self.ages():
                if age > MAX_AGE:
                    remove(path)
            if not self.receiving:
                self.remove_cut()

    def sweep_for_ever(self):
        while self.folder.is_dir():
            self.sweep()
            time.sleep(SWEEP_SECONDS)


def remove(path):
    """Remove an upload, and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()

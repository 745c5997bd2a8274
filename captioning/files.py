"""Files that are whole or not there: written beside their place, flushed, then renamed. Locks, and texts read."""

import codecs
import contextlib
import errno
import hashlib
import os
import re
import socket
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path):
    """Give a temporary path to write; put it in the place of `path` when the block ends well.

    An error inside the block (disk full, Ctrl-C) removes the temporary file and leaves the old one as it was.
    Missing parent folders are made. Raises ValueError naming `path` if no file can be made there; an OSError inside
    the block that names no file, as that of a full disk, gets its name.
    """
    path = Path(path)
    check_kind(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, since Pillow and matplotlib choose the format by it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path}: a file stands where its folder should be") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path):
    """Remove what killed processes left of `replace_file(path)`. No other process may be writing it: see hold_lock."""
    path = Path(path)
    # The eight characters are tempfile's, so that files of a user's stay.
    unfinished = re.compile(rf"\.{re.escape(path.stem)}\.[a-z0-9_]{{8}}{re.escape(path.suffix)}")
    for file in path.parent.glob(".*") if path.parent.is_dir() else ():
        if unfinished.fullmatch(file.name):
            file.unlink(missing_ok=True)


@contextmanager
def hold_lock(path, busy, *, wait=False):
    """Hold the lock file `path` for this process; inside the block the file says which process holds it.

    busy:   text before the name of another process that holds it
    wait:   print that, and wait until it is free
    yields: True; False where the operating or the file system has no such locks

    The system frees the lock of a process that dies, however it dies; what its file says then counts for nothing.
    Processes that this one forks do not hold it. Raises ValueError if another process holds it and `wait` is False.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield False
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        held = False
        while not held:
            file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            try:
                # lockf, not flock: the lock of flock would pass to forked workers, which outlive a killed process.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    break
                file.seek(0)
                line = f"{busy} {file.readline(200).strip() or 'another process'}"
                if not wait:
                    raise ValueError(line) from None
                print(f"{line}; waiting for it")
                fcntl.lockf(file, fcntl.LOCK_EX)
            # The process that held it may have removed the file in between, and a third made another.
            with contextlib.suppress(FileNotFoundError):
                held = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        if held:
            stack.callback(path.unlink, missing_ok=True)  # before it is closed, which frees the lock
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            file.flush()
        yield held


def check_regular(path):
    """Raise ValueError if `path` is there and no regular file: a pipe would be waited for, a device read for ever."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device or a pipe'}, a file is needed")


def read_text(path):
    """Return the text of a file: UTF-8, or UTF-16 if it begins with that encoding's mark, as Excel's Unicode text does.

    Raises ValueError for a pointer of Git LFS, and naming the line that is no UTF-8.
    """
    check_regular(path)
    content = Path(path).read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a pointer to a file that Git LFS keeps; `git lfs pull` fetches it")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and content[2:4] != b"\0\0":
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: begins as UTF-16 text, but is none ({error.reason})") from None
    if content[:1000].count(0) > len(content[:1000]) / 10:
        raise ValueError(f"{path}: line 1: not UTF-8 text (many bytes are 0, as in UTF-16); save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: line {line}: not UTF-8 text (byte 0x{content[error.start]:02x}, as in Latin-1, Windows or EUC-KR "
            "text); save the file as UTF-8"
        ) from None


def read_lines(path):
    """Return the lines of a text file, without their ends; see `read_text`."""
    return read_text(path).replace("\r\n", "\n").split("\n")


def check_file(path):
    """Raise ValueError if `replace_file(path)` could not write: asked before an hour of work, not told after it.

    Nothing is changed: a folder that is missing stays so until there is a file to write.
    """
    check_kind(Path(path))
    check_folder(Path(path).parent)


def check_folder(folder):
    """Raise ValueError if no file can be made in `folder`, or in the nearest of its parents that is there."""
    folder = Path(folder)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{folder}: {nearest} is a file, a folder is needed")
    try:
        # Tried, not asked: modes say nothing of a file system that is read-only, and nothing to a superuser.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror})") from None


def check_kind(path):
    """Raise ValueError if something other than a file stands at `path`."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device or a pipe"
        raise ValueError(f"{path}: is a {kind}, the name of a file is needed")


def file_digest(path):
    """Return the sha256 of a file as hex digits; "" where there is none."""
    if not Path(path).is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

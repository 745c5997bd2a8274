"""Files and folders that are whole or not there: written beside their place, then renamed. Locks, and texts read."""

import codecs
import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None


# ---- whole or not there ----------------------------------------------------------------------------


@contextmanager
def replace_file(path):
    """Give a temporary path to write; put it in the place of `path` when the block ends well.

    An error inside the block (disk full, Ctrl-C) removes the temporary file and leaves the old one as it was.
    Where `path` is a link, the file that it leads to is replaced. Missing parent folders are made. Raises ValueError
    naming `path` if no file can be made there; an OSError inside the block that names no file, as that of a full disk,
    or the temporary one, gets its name.
    """
    check_kind(Path(path))
    path = resolved(path)
    with beginning(path, folder=False) as temporary, naming(path, temporary):
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)


@contextmanager
def replace_folder(path, written=None):
    """Give an empty folder to fill; put it in the place of `path` when the block ends well.

    written: names of all that may be written into it; what else the old folder holds stays. None = nothing stays

    An error inside the block (disk full, Ctrl-C) removes it and leaves the old folder as it was.
    Raises ValueError naming `path` if no folder can be made there, or the process works inside it; an OSError inside
    the block that names no file, as that of a full disk, or one of the temporary folder, gets its name.
    """
    check_elsewhere(path)
    path = resolved(path)
    with beginning(path, folder=True) as temporary, naming(path, temporary):
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        if written is not None and path.is_dir():
            keep_others(path, new, written)
        if not path.exists():
            new.rename(path)
        elif not exchange(new, path):
            path.rename(old)  # a kill from here to the next line is mended by `remove_unfinished`
            new.rename(path)


def keep_others(old, new, written):
    """Put what a folder holds beside the names `written` into another as well, not twice on the disk."""

    def link(source, target):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without such links
            shutil.copy2(source, target, follow_symlinks=False)

    def leave_out(folder, names):
        return written if Path(folder) == old else ()

    shutil.copytree(old, new, symlinks=True, ignore=leave_out, copy_function=link, dirs_exist_ok=True)


def exchange(first, second):
    """Let two folders change places in one step: True; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchanging = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return bool(rename) and not rename(here, os.fsencode(first), here, os.fsencode(second), exchanging)


def check_elsewhere(folder):
    """Raise ValueError if the process works inside a folder that is to be replaced: its shell would be nowhere."""
    if Path.cwd().is_relative_to(resolved(folder)):
        raise ValueError(f"{folder}: the working directory cannot be replaced; name another folder")


@contextmanager
def naming(path, temporary=None):
    """Give an OSError inside the block that names no file, as that of a full disk, the name of `path`.

    temporary: file or folder that stands for it while it is written, whose name says nothing to the user
    """
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno and (not named or (temporary and Path(named).is_relative_to(temporary))):
            error.filename = str(path)
        raise


@contextmanager
def beginning(path, *, folder):
    """Give a new hidden file or folder beside `path`, gone after the block.

    It is locked, so that the next process that writes there knows it from one that a killed process left. Raises
    ValueError naming `path` if it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, again=False)
        temporary, lock = make_locked(path, folder)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path}: a file stands where its folder should be") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield temporary
    finally:
        discard(temporary)
        if lock is not None:
            os.close(lock)


UNFINISHED = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.unfinished(\.[^.]*)?")


def make_locked(path, folder):
    """Make a hidden file or folder beside `path`: (its path, the descriptor that holds its lock, None = no locks)."""
    while True:
        if folder:
            name = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished")
            lock = os.open(name, os.O_RDONLY) if fcntl else None
        else:
            # The suffix stays, since Pillow and matplotlib choose the format by it.
            suffix = f".unfinished{path.suffix}"
            lock, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=suffix)
        if not fcntl:
            if lock is not None:  # an open file cannot be renamed there
                os.close(lock)
            return Path(name), None
        # Another process may hold it to remove it, since it was not locked yet, or may just have done so.
        if lock_now(lock) is not False and os.path.lexists(name):
            return Path(name), lock
        os.close(lock)


def lock_now(descriptor):
    """Lock an open file: True; False if another process holds it; None where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


_cleared = set()  # folders where this process has removed what others left


def remove_unfinished(folder, *, again=True):
    """Remove what killed processes left in a folder when they replaced files or folders there.

    again: False = unless this process has done so before

    What a process is writing is locked, and stays. Where a folder was killed between the two names of it that not all
    systems can change at once, the old one comes back.
    """
    folder = os.path.abspath(folder)
    if not fcntl or not os.path.isdir(folder) or (folder in _cleared and not again):
        return
    _cleared.add(folder)
    with os.scandir(folder) as entries:
        found = [(match, entry.path) for entry in entries if (match := UNFINISHED.fullmatch(entry.name))]
    for match, path in found:
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if lock_now(lock):
                    place = os.path.join(folder, match["name"])
                    if os.path.isdir(os.path.join(path, "old")) and not os.path.lexists(place):
                        os.rename(os.path.join(path, "old"), place)
                    discard(Path(path))
            finally:
                os.close(lock)


def discard(path):
    """Remove a file or folder, as far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---- temporary files -------------------------------------------------------------------------------

ELSEWHERE = "TMPDIR names the folder for temporary files"


@contextmanager
def temporary_room():
    """Raise ValueError, in one line, for an OSError inside the block, which writes to a file of `tempfile`."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{tempfile.gettempdir()}: a temporary file: {error.strerror}; {ELSEWHERE}") from None


def close_quietly(file):
    """Close a temporary file, whatever could not be written to it."""
    with contextlib.suppress(OSError):
        file.close()


# ---- locks -----------------------------------------------------------------------------------------


@contextmanager
def hold_lock(path, busy, *, wait=False):
    """Hold the lock file `path` for this process; inside the block the file says which process holds it.

    busy:   text before the name of another process that holds it
    wait:   print that, and wait until it is free
    yields: True; False where the operating or the file system has no such locks

    The system frees the lock of a process that dies, however it dies; what its file says then counts for nothing.
    Processes that this one forks do not hold it. Raises ValueError if another process holds it and `wait` is False.
    """
    if not fcntl:
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
            with contextlib.suppress(OSError):  # on a full disk it is held without a name
                file.truncate(0)
                when = time.strftime("%Y-%m-%d %H:%M:%S")
                file.write(f"process {os.getpid()} on {socket.gethostname()} since {when}\n")
                file.flush()
        yield held


def resolved(path):
    """Return the Path that links lead to; Path.resolve raises an error of its own where they lead in a circle."""
    return Path(os.path.realpath(path))


# ---- what is read --------------------------------------------------------------------------------


def check_regular(path):
    """Raise ValueError if `path` is there and no regular file: a pipe would be waited for, a device read for ever."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device or a pipe'}, a file is needed")


def read_bytes(path):
    """Return the bytes of a regular file; an error while it is read names it, which the system's own does not."""
    check_regular(path)
    with naming(path):
        return Path(path).read_bytes()


def read_text(path):
    """Return the text of a file: UTF-8, or UTF-16 if it begins with that encoding's mark, as Excel's Unicode text does.

    Raises ValueError for a pointer of Git LFS, and naming the line that is no UTF-8.
    """
    content = read_bytes(path)
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


# ---- what will be written ------------------------------------------------------------------------


def check_file(path):
    """Raise ValueError if `replace_file(path)` could not write: asked before an hour of work, not told after it.

    Nothing is changed: a folder that is missing stays so until there is a file to write.
    """
    check_kind(Path(path))
    check_folder(Path(path).parent)


def check_folder(folder):
    """Raise ValueError if no file can be made in `folder`, or in the nearest of its parents that is there."""
    folder = Path(folder)
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        kind = "file" if nearest.exists() else "link that leads nowhere"
        raise ValueError(f"{folder}: {nearest} is a {kind}, a folder is needed")
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

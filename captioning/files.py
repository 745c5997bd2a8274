"""Files that are whole or not there: written beside their place, flushed, then renamed."""

import contextlib
import os
import stat
import tempfile
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


def check_regular(path):
    """Raise ValueError if `path` is there and no regular file: a pipe would be waited for, a device read for ever."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device or a pipe'}, a file is needed")


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

"""Files are whole or not there: whatever goes wrong while writing, the old file stays and nothing lies beside it."""

import errno
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from captioning import files
from captioning.files import check_file, check_folder, hold_lock, remove_unfinished, replace_file, replace_folder


@pytest.fixture
def old(tmp_path):
    """An older file, alone in its folder."""
    path = tmp_path / "a.csv"
    path.write_text("old")
    return path


def assert_untouched(path):
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_takes_the_place_of_the_old_one(old):
    with replace_file(old) as temporary:
        assert temporary.parent == old.parent  # a rename across file systems would not be atomic
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


def test_a_link_stays_and_its_file_is_replaced(old, tmp_path):
    """A link became a file, that of /dev/stdout among them, and the file behind it stayed as it was."""
    link = tmp_path / "elsewhere" / "link.txt"
    link.parent.mkdir()
    link.symlink_to(old)
    with replace_file(link) as temporary:
        assert temporary.parent == old.parent
        temporary.write_text("new")
    assert link.is_symlink()
    assert old.read_text() == "new"


def test_an_error_does_not_name_the_temporary_file_or_folder(old, tmp_path):
    """Its name says nothing, and it is gone when it is read."""
    with pytest.raises(OSError, match="No space") as caught, replace_file(old) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert caught.value.filename == str(old)
    with pytest.raises(OSError, match="No space") as caught, replace_folder(tmp_path / "folder") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "train" / "0.tar"))
    assert caught.value.filename == str(tmp_path / "folder")


def test_missing_folders_are_made(tmp_path):
    with replace_file(tmp_path / "runs" / "x" / "a.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "runs" / "x" / "a.csv").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_the_file(old):
    """mkstemp's own mode would let the owner alone read a checkpoint in a shared folder."""
    with replace_file(old) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(old.stat().st_mode) == 0o644


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    """`--output /dev/null` of a superuser would leave a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: is a device or a pipe"), replace_file(tmp_path / "pipe"):
        pytest.fail("gave a path to write")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def write_then_raise(path, error):
    """Fail in the middle of writing."""
    with replace_file(path) as temporary:
        temporary.write_text("half of it")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_the_block_keeps_the_old_file(old, error):
    """Ctrl-C and exit, which are no Exception, too."""
    with pytest.raises(error):
        write_then_raise(old, error)
    assert_untouched(old)


def test_an_error_where_there_was_no_file_leaves_none(tmp_path):
    with pytest.raises(RuntimeError):
        write_then_raise(tmp_path / "a.csv", RuntimeError)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_while_writing(old):
    with pytest.raises(OSError, match="No space left") as caught:
        write_then_raise(old, OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(old)  # the system's own error names none
    assert_untouched(old)


def test_an_error_that_tells_more_than_the_system_keeps_its_text(old):
    with pytest.raises(OSError, match="^no room for the weights$"):
        write_then_raise(old, OSError("no room for the weights"))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up_at_the_end(old, monkeypatch, step):
    """A write may succeed into the cache and fail when it is flushed, or when the name is changed."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match="No space left"), replace_file(old) as temporary:
        temporary.write_text("new")
    assert_untouched(old)


def test_the_content_is_flushed_before_the_rename(old, monkeypatch):
    """After a power cut, a name that was changed first would stand for an empty file."""
    order = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(files.os, step, lambda *a, step=step, real=real: (order.append(step), real(*a)))
    with replace_file(old) as temporary:
        temporary.write_text("new")
    assert order == ["fsync", "replace"]


def test_a_path_that_cannot_be_a_file_is_named_as_the_user_wrote_it(old):
    for path, message in ((old / "x.csv", "a file stands where its folder"), (old.parent, "is a folder")):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"), replace_file(path):
            pass
    assert_untouched(old)


@pytest.mark.parametrize("target", ["a.csv", "a.csv/b.csv", "a.csv/b/c.csv", "sub", "pipe"])
def test_what_cannot_be_written_is_told_beforehand(old, target):
    """`check_file` refuses what `replace_file` would refuse, and makes nothing."""
    (old.parent / "sub").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(old.parent / "pipe")
    before = sorted(old.parent.rglob("*"))
    path = old.parent / target
    if target == "a.csv":
        check_file(path)
    else:
        with pytest.raises(ValueError, match=re.escape(str(path.parent if "b" in target else path))):
            check_file(path)
        with pytest.raises(ValueError, match=re.escape(str(path))), replace_file(path):
            pytest.fail("gave a path to write")
    assert sorted(old.parent.rglob("*")) == before


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="a folder that even a superuser cannot write to")
def test_a_folder_that_takes_no_files(tmp_path):
    check_folder(tmp_path / "new" / "newer")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"^/proc/new: cannot be written \(.+\)$"):
        check_folder("/proc/new")


def start_python(code, cwd, says="ready\n"):
    """Start a process that runs `code`, and wait for the beginning of the first line that it prints."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        [sys.executable, "-uc", code], cwd=cwd, env={**os.environ, "PYTHONPATH": root}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline().startswith(says)
    return process


def kill(process):
    process.kill()
    process.communicate()


HOLD = """
import os
from captioning.files import hold_lock
with hold_lock("a.lock", "a is held by", wait={wait}):
    if {forks} and os.fork() == 0:  # as a worker that reads images, which outlives its killed parent for a while
        os.close(1)
        input()
    print("ready", flush=True)
    input()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such locks")
def test_a_lock_names_its_holder_and_is_free_when_that_is_killed(tmp_path):
    """A forked child that lives on does not hold it, and what the file says of a dead process counts for nothing."""
    process = start_python(HOLD.format(wait=False, forks=True), tmp_path)
    try:
        with (
            pytest.raises(ValueError, match=f"^a is held by process {process.pid} on .* since 2"),
            hold_lock(tmp_path / "a.lock", "a is held by"),
        ):
            pytest.fail("two hold it")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert f"process {process.pid} " in (tmp_path / "a.lock").read_text()
        with hold_lock(tmp_path / "a.lock", "a is held by") as held:
            assert held
            assert (tmp_path / "a.lock").read_text().startswith(f"process {os.getpid()} on ")
    finally:
        kill(process)  # its end of the pipe ends the child
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such locks")
def test_one_process_waits_for_another_and_takes_over(tmp_path):
    first = start_python(HOLD.format(wait=False, forks=False), tmp_path)
    line = f"a is held by process {first.pid} on {socket.gethostname()} since "
    second = start_python(HOLD.format(wait=True, forks=False), tmp_path, line)
    first.communicate("go on\n")
    assert second.stdout.readline() == "ready\n"
    second.communicate("go on\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert not list(tmp_path.iterdir())


KILLED = """
import os
from pathlib import Path
from captioning.files import replace_file, replace_folder
replaced = [replace_file(name) for name in ("a.b.csv", "a.csv")]
replaced += [replace_folder(name) for name in ("new", "data")]
for one in replaced:
    path = one.__enter__()
    (path if path.is_file() else path / "x").write_text("half of it")
{then}
print("ready", flush=True)
input()
"""


def beside(folder):
    """The names of hidden files and folders."""
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.mark.skipif(files.fcntl is None, reason="Windows has no such locks")
def test_what_a_killed_process_left_half_written_is_removed_when_the_next_one_writes(tmp_path):
    """Files of other names stay, those that only look alike, and those that another process is writing."""
    process = start_python(KILLED.format(then=""), tmp_path)
    left = beside(tmp_path)
    assert len(left) == 4
    for name in (".a.notes.csv", ".a.csv", "a.csv", ".a.abcdefgh.csv", "a.abcdefgh.unfinished.csv"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert left < beside(tmp_path)  # it is at work
    kill(process)
    files._cleared.clear()  # as in a process that has just begun
    with replace_file(tmp_path / "b.csv") as temporary:
        assert beside(tmp_path) == {".a.notes.csv", ".a.csv", ".a.abcdefgh.csv", temporary.name}
    assert not (tmp_path / "new").exists()
    remove_unfinished(tmp_path / "no folder")


# ---- folders -----------------------------------------------------------------------------------------


@pytest.fixture
def old_folder(tmp_path):
    """An older folder with a file that will be written, one of another program, and a folder."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("written", "gone", "other", "sub/deep"):
        (folder / name).write_text("old")
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("written", [None, ("written", "gone")])
def test_a_folder_takes_the_place_of_the_old_one(old_folder, monkeypatch, at_once, written):
    """What is not of the writer stays, if it says what is its own; where a system cannot exchange names, too."""
    if not at_once:
        monkeypatch.setattr(files, "exchange", lambda first, second: False)
    with replace_folder(old_folder, written) as new:
        (new / "written").write_text("new")
        assert len(contents(old_folder)) == 4
    assert contents(old_folder) == {"written": "new"} | ({"other": "old", "sub/deep": "old"} if written else {})
    assert list(old_folder.parent.iterdir()) == [old_folder]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are two steps")
def test_there_is_no_moment_without_the_folder(old_folder, tmp_path, monkeypatch):
    """Between two renames a kill left no folder at all."""
    monkeypatch.setattr(Path, "rename", lambda *names: pytest.fail("takes two steps"))
    with replace_folder(old_folder) as new:
        (new / "written").write_text("new")
    assert contents(old_folder) == {"written": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_error_keeps_the_old_folder(old_folder, error):
    before = contents(old_folder)

    def fail():
        with replace_folder(old_folder) as new:
            (new / "written").write_text("half of it")
            raise error

    with pytest.raises(error if isinstance(error, type) else OSError):
        fail()
    assert contents(old_folder) == before
    assert list(old_folder.parent.iterdir()) == [old_folder]


@pytest.mark.skipif(files.fcntl is None, reason="Windows has no such locks")
def test_a_kill_between_two_renames_is_mended_by_the_next_start(old_folder, tmp_path):
    before = contents(old_folder)
    then = "os.rename('data', next(Path().glob('.data.*')) / 'old')"
    kill(start_python(KILLED.format(then=then), tmp_path))
    assert not old_folder.exists()
    remove_unfinished(tmp_path)
    assert contents(old_folder) == before
    assert not beside(tmp_path)


def test_the_working_directory_is_not_replaced(old_folder, monkeypatch):
    monkeypatch.chdir(old_folder / "sub")
    with pytest.raises(ValueError, match="data: the working directory cannot"), replace_folder(old_folder):
        pytest.fail("gave a folder to write")


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("lost", "circle"):
        with pytest.raises(ValueError, match=f"{name} is a link that leads nowhere, a folder is needed"):
            check_folder(tmp_path / name / "below")

"""Bulk captioning: whatever dies, the same command ends with every key once."""

import collections
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from caption import Caption, Captioner
from captioning.data.annotations import load_examples
from captioning.data.tars import write_shard
from captioning.deploy import shards
from captioning.deploy.writers import identify

parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS, PICTURES = 6, 12
SHORT = ["--max_len", "6", "--num_processes", "2"]


@pytest.fixture(scope="module")
def pictures(pictograms_dir):
    return [example.image for example in load_examples(pictograms_dir, "test")]


@pytest.fixture(scope="module")
def tars(tmp_path_factory, pictures):
    """Six shards of twelve pictures, of which one is broken and one is missing."""
    folder = tmp_path_factory.mktemp("tars")
    for number in range(NUM_SHARDS):
        samples = []
        for place in range(PICTURES):
            content = pictures[(number * PICTURES + place) % len(pictures)].read_bytes()
            info = {"url": f"https://host/{place}", "sha256": f"{place:064}", "key": "other"}
            samples.append((f"{number:05}{place:04}", {"jpg": content, "txt": b"a", "json": json.dumps(info).encode()}))
        if number == 1:
            samples[3][1]["jpg"] = b"no picture"
            del samples[4][1]["jpg"]
        write_shard(folder / f"{number:05}.tar", samples)
    return folder


def command(model_files, *arguments):
    names = [str(argument) for argument in arguments]
    return [
        sys.executable,
        str(ROOT / "caption.py"),
        "--model_path",
        str(model_files.int8),
        "--format",
        "parquet",
        *names,
    ]


def run(model_files, *arguments, **settings):
    return subprocess.run(
        command(model_files, *arguments), capture_output=True, text=True, timeout=200, **settings
    )  # fmt: skip


def rows_of(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


def all_keys():
    return [f"{number:05}{place:04}" for number in range(NUM_SHARDS) for place in range(PICTURES)]


def braces(folder):
    return f"{folder}/{{00000..{NUM_SHARDS - 1:05}}}.tar"


def test_each_shard_becomes_a_file_with_a_row_for_each_key(model_files, tars, pictures, tmp_path):
    before = {path: path.read_bytes() for path in tars.iterdir()}
    done = run(model_files, braces(tars), "--output", tmp_path / "out", "--num_best", "2", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "captioned 70 pictures of 6 shards, 2 that cannot be read" in done.stderr
    rows = rows_of(tmp_path / "out")
    assert sorted(row["key"] for row in rows) == all_keys()
    assert {path: path.read_bytes() for path in tars.iterdir()} == before
    names = [f"{number:05}{end}" for number in range(NUM_SHARDS) for end in (".parquet", "_stats.json")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)

    by_key = {row["key"]: row for row in rows}
    captioner = Captioner.load(model_files.int8, num_threads=1)
    for number, (key, one) in enumerate(
        zip(all_keys()[:PICTURES], captioner(pictures[:PICTURES], max_len=6, num_best=2), strict=True)
    ):
        row = by_key[key]
        assert {name: row[name] for name in one.record()} == one.record()
        assert row["alternatives"] == [other.record() for other in one.alternatives]
        known = ("success", None, f"https://host/{number}", f"{number:064}")
        assert (row["status"], row["error"], row["url"], row["sha256"]) == known
    broken, missing = by_key["000010003"], by_key["000010004"]
    assert (broken["status"], broken["caption"]) == (missing["status"], missing["caption"]) == ("error", None)
    assert "its content is none of JPEG" in broken["error"]
    assert missing["error"] == "no picture; members 000010004.txt, 000010004.json"
    stats = json.loads((tmp_path / "out" / "00001_stats.json").read_text())
    assert [stats[name] for name in ("pictures", "captioned", "failed", "repeated_keys")] == [12, 10, 2, 0]
    assert 0 <= stats["unlike"] <= 10
    assert stats["seconds"] > 0
    assert stats["options"]["num_best"] == 2
    assert re.fullmatch("[0-9a-f]{64}", stats["model_sha256"])

    seconds = time.perf_counter()
    again = run(model_files, braces(tars), "--output", tmp_path / "out", "--num_best", "2", *SHORT)
    assert again.returncode == 0, again.stderr
    assert "6 shards were done before" in again.stderr
    assert time.perf_counter() - seconds < 60
    (tmp_path / "out" / "00003.parquet").unlink()  # it was taken for done, and its captions were nowhere
    third = run(model_files, braces(tars), "--output", tmp_path / "out", "--num_best", "2", *SHORT)
    assert "captioned 12 pictures of 1 shard" in third.stderr
    assert rows_of(tmp_path / "out") == rows
    (tmp_path / "others").mkdir()
    shutil.copy(tars / "00002.tar", tmp_path / "others" / "00004.tar")  # another of this name was taken for it
    other = run(model_files, tmp_path / "others" / "00004.tar", "--output", tmp_path / "out", "--num_best", "2", *SHORT)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert re.search(r"00004_stats.json: of another 00004.tar, whose \w+ was .*; give another --output", other.stderr)
    for flags, message in (
        (["--num_best", "1"], "captioned with num_best 2, now it is 1; give another --output"),
        (["--model_path", model_files.onnx, "--num_best", "2"], "captioned by another model (pictograms_int8)"),
    ):
        other = run(model_files, braces(tars), "--output", tmp_path / "out", *SHORT, *flags)
        assert (other.returncode, other.stderr.count("\n")) == (2, 1)
        assert message in other.stderr


def test_schedulers_hand_out_the_shards(model_files, tars, tmp_path):
    """The variables of a SLURM array and of an indexed Kubernetes job, as the shell puts them into the command."""
    variables = [
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"},
        {"JOB_COMPLETION_INDEX": "3", "NUM_JOBS": "4"},
    ]
    spelt = ["$SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT", "$JOB_COMPLETION_INDEX $NUM_JOBS"]
    for environment, (index, number), expected in zip(
        variables, map(str.split, spelt), ([1, 5], [1, 3, 5]), strict=True
    ):
        words = command(model_files, "--output", tmp_path / "out", *SHORT)
        line = " ".join([*words, f"'{braces(tars)}'", "--shard_index", index, "--num_shards", number])
        done = subprocess.run(
            ["sh", "-c", line], env={**os.environ, **environment}, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
            f"{n:05}.parquet" for n in expected
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{shards}", "--shard_index", "6", "--num_shards", "6"], "--shard_index: got 6, allowed is 0 to 5"),
        (["{shards}", "--num_shards", "7"], "--num_shards: got 7 jobs for 6 shards"),
        ([], "no shards given: --format parquet is for tar shards"),
        (["none/{00..09}.tar"], "none/{00..09}.tar: no such shard"),
        (["{shards}", "photo.jpg"], "photo.jpg: the name of a tar shard ends in .tar"),
        (["{shards}", "--format", "jsonl"], "--format: got 'jsonl', allowed is parquet for tar shards"),
        (["{shards}", "--existing", "overwrite"], "--existing: got 'overwrite', allowed is skip"),
        (["{shards}", "--engine", "spark"], "--engine: got 'spark', allowed are processes, ray"),
        (["{shards}", "{first}"], "00000.tar and"),
        (["{shards}", "--output", "{folder}"], "is the folder of the shards, which is not written to"),
        (["{shards}", "--output", ""], "--output: got none, --format parquet needs a folder"),
        (["{shards}", "--output", "{first}"], "00000.tar is a file, a folder is needed"),
        (["{shards}", "--model_path", "missing.onnx"], "missing.onnx"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(model_files, tars, tmp_path, arguments, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "00000.tar").write_bytes((tars / "00000.tar").read_bytes())
    first = tmp_path / "other" / "00000.tar"
    places = {"{shards}": braces(tars), "{folder}": str(tars), "{first}": str(first)}
    output = [] if "--output" in arguments else ["--output", tmp_path / "out"]
    done = run(model_files, *[places.get(word, word) for word in arguments], *output)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert len(list(tars.iterdir())) == NUM_SHARDS


@pytest.mark.parametrize("name", ["00002_stats.json", "00002.parquet"])
def test_a_file_of_something_else_is_not_replaced(model_files, tars, tmp_path, name):
    """img2dataset writes files of these names, too."""
    (tmp_path / name).write_text('{"successes": 12}')
    done = run(model_files, braces(tars), "--output", tmp_path, *SHORT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{name}: is not of this program; give another --output" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_packages_that_are_missing_are_one_line(model_files, tars, tmp_path):
    """Without them everything else works; the line says how to get them."""
    for package, flags in (("pyarrow", []), ("ray", ["--engine", "ray"])):
        (tmp_path / package).mkdir()
        (tmp_path / package / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}')")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / package)}
        done = run(model_files, braces(tars), "--output", tmp_path / "out", *flags, env=environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"needs {package}: pip install -r requirements-scale.txt" in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_broken_tar_is_told_and_tried_again(model_files, tars, tmp_path):
    for path in tars.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "00002.tar").read_bytes()
    (tmp_path / "00002.tar").write_bytes(whole[:5000])
    (tmp_path / "00004.tar").unlink()
    done = run(model_files, braces(tmp_path), "--output", tmp_path / "out", *SHORT)
    assert done.returncode == 2
    assert "00002.tar: not a whole tar (" in done.stderr
    assert "00004.tar: cannot be read (No such file or directory)" in done.stderr
    assert "error: 2 of 6 shards are not captioned, the same command tries them again" in done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == sorted(f"{n:05}{end}" for n in (0, 1, 3, 5) for end in (".parquet", "_stats.json"))
    (tmp_path / "00002.tar").write_bytes(whole)
    (tmp_path / "00004.tar").write_bytes((tars / "00004.tar").read_bytes())
    done = run(model_files, braces(tmp_path), "--output", tmp_path / "out", *SHORT)
    assert done.returncode == 0, done.stderr
    assert sorted(row["key"] for row in rows_of(tmp_path / "out")) == all_keys()


def test_a_full_disk_stops_the_run_in_one_line_and_the_same_command_finishes_it(model_files, tars, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    output = tmp_path / "out"
    words = [braces(tars), "--output", output, *SHORT]
    done = run(model_files, *words, preexec_fn=limit)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2
    assert len(errors) == 1
    assert re.search(r"out/0000\d\.parquet.*File too large", errors[0]), errors
    assert "Traceback" not in done.stderr
    assert not [path for path in output.iterdir() if path.suffix != ".lock"]
    done = run(model_files, *words)
    assert done.returncode == 0, done.stderr
    assert sorted(row["key"] for row in rows_of(output)) == all_keys()
    assert not list(output.glob(".*"))


def half_way():
    """Stands for a captioner that one shard fills the disk with, while another is being captioned."""
    return HalfWay(), None


class HalfWay:
    def stream(self, pictures, *_, **__):
        picture = next(pictures)
        if picture.key == "slow":
            time.sleep(60)
        time.sleep(1)  # until the other process has begun
        raise OSError(28, "No space left on device")


def test_a_run_that_stops_leaves_nothing_of_its_other_processes(tmp_path):
    """The disk is full, and what the killed processes had begun took its room until the next start."""
    for key in ("slow", "full"):
        write_shard(tmp_path / f"{key}.tar", [(key, {"jpg": b"x"})])
    (tmp_path / "out").mkdir()
    job = shards.Job(half_way, tmp_path / "out", identify("none", [], {}), Caption("", 0.0, ()).record(), 4)
    outcomes = shards.run_processes(job, [tmp_path / "slow.tar", tmp_path / "full.tar"], 2)
    outcome = next(outcomes)
    assert outcome.fatal
    assert len(list((tmp_path / "out").glob(".slow.*.unfinished*"))) == 1
    outcomes.close()
    assert not list((tmp_path / "out").glob(".*.unfinished*"))


def until(condition, process, seconds=120):
    """Wait for a condition, while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        if process.poll() is not None:
            return
        time.sleep(0.005)


def test_a_run_that_is_killed_goes_on_with_the_same_command(model_files, tars, tmp_path):
    output = tmp_path / "out"
    words = command(model_files, braces(tars), "--output", output, *SHORT)
    for wanted in (1, 3, 4):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        until(lambda wanted=wanted: len(list(output.glob("*_stats.json"))) >= wanted, process)
        process.kill()
        process.wait()
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert collections.Counter(row["key"] for row in rows_of(output)) == dict.fromkeys(all_keys(), 1)
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]


KILLED = """
import os, signal, sys

def end(event, arguments):
    if event == "os.rename" and ".unfinished" in str(arguments[0]):
        try:
            os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

if not any(part.endswith("caption.py") for part in sys.orig_argv):
    sys.addaudithook(end)
"""


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_worker_that_is_killed_costs_nothing(model_files, tars, tmp_path, engine):
    """The first worker that has written a shard gets kill -9 before the file has its name."""
    if engine == "ray":
        pytest.importorskip("ray")
    output, flag = tmp_path / "out", tmp_path / "killed"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(KILLED.format(flag=str(flag)))
    words = command(model_files, braces(tars), "--output", output, "--engine", engine, *SHORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hook")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert flag.exists(), "no worker was killed"
    assert collections.Counter(row["key"] for row in rows_of(output)) == dict.fromkeys(all_keys(), 1)
    assert not list(output.glob(".*")), "what the worker had begun"


def die():
    """Stands for a picture that ends the process."""
    os._exit(3)


def test_a_shard_that_ends_its_process_again_and_again_is_told(tmp_path):
    identity = identify("none", [], {})
    job = shards.Job(die, tmp_path, identity, Caption("", 0.0, ()).record(), 4)
    outcomes = list(shards.run_processes(job, [Path("a.tar"), Path("b.tar")], 2))
    assert sorted(str(outcome.shard) for outcome in outcomes) == ["a.tar", "b.tar"]
    assert all("2 processes ended with exit code 3, while captioning it" in outcome.error for outcome in outcomes)


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_what_a_dead_worker_had_begun_is_removed_at_the_end_of_the_run(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    half, row = tmp_path / ".00000.abcd1234.unfinished.parquet", Caption("", 0.0, ()).record()
    code = f"import os, pathlib; pathlib.Path({str(half)!r}).write_bytes(b'PAR1'); os._exit(3)"
    # Text, since Ray's workers cannot import this module.
    job = shards.Job(partial(exec, code), tmp_path, identify("none", [], {}), row, 4)
    (outcome,) = shards.ENGINES[engine](job, [Path("a.tar")], 1)
    assert outcome.error
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_nobody_is_at_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        shards.check_cluster(address)
    for gone in (address, f"ray://{address}", "127.0.0.1:99999"):
        with pytest.raises(ValueError, match=rf"^RAY_ADDRESS: {gone}: no cluster answers there \(.+\)$"):
            shards.check_cluster(gone)
    for name in ("", "auto", "local"):
        shards.check_cluster(name)

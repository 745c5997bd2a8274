"""Bulk captioning of tar shards: each shard becomes a parquet file, in any order, by any process that is handed it.

    <output>/00042.parquet      a row for each key: key, what a caption's record holds, alternatives, status, error,
                                url, sha256
    <output>/00042_stats.json   written last: counts, seconds, the model's sha256, the options, which shard it was

A shard with both files is done and is skipped by the next start. Nothing else coordinates: two jobs with different
shards share a folder, and one that was killed is started again with the same command. The shards are only read.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from captioning.cli import counted, one_line
from captioning.data.tars import PICTURES, read_samples
from captioning.familiarity import unlike_warning
from captioning.files import check_folder, hold_lock, remove_unfinished, replace_file, resolved
from captioning.process import die_with_parent, without_interrupts

ROWS = 1000  # of a row group: what is held in memory of a shard
SUCCESS, ERROR = "success", "error"  # of the column status
COUNTS = ("pictures", "captioned", "failed", "repeated_keys", "unlike")  # of a stats file
HEAD = 2**16  # bytes of a shard that tell it from others of its name and size
ATTEMPTS = 2  # at a shard whose process dies
WAITING = 4  # shards for each processor that Ray is handed ahead
CLUSTER_SECONDS = 10  # until somebody answers at $RAY_ADDRESS
REQUIREMENTS = "pip install -r requirements-scale.txt"
MARK = b"captioning"  # key in the metadata of a parquet file
TYPES = {str: "string", bool: "bool_", int: "int64", float: "float64", type(None): "float64"}  # of pyarrow


@dataclass(frozen=True)
class Job:
    """What is done to each shard; it is sent to every process.

    load:       () -> (Captioner, SearchOptions), called once in each process
    output:     folder
    identity:   {"model", "model_sha256", "options"}: what decides the captions
    record:     the record of some caption, which says what the columns are
    batch_size: pictures
    """

    load: Callable
    output: Path
    identity: dict
    record: dict
    batch_size: int

    def parquet_path(self, shard):
        """Return where the captions of a shard stand."""
        return self.output / f"{shard.stem}.parquet"

    def stats_path(self, shard):
        """Return the file that says that a shard is done."""
        return self.output / f"{shard.stem}_stats.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    stats: what its stats file holds, {} = it is not done
    error: why it is not done, one line; fatal: the others would fail as well, as where the disk is full
    """

    shard: Path
    stats: dict = field(default_factory=dict)
    error: str = ""
    fatal: bool = False


# ---- before the first shard --------------------------------------------------------------------------


def import_parquet():
    """Return the modules (pyarrow, pyarrow.parquet). Raises ValueError if they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError(f"--format parquet needs pyarrow: {REQUIREMENTS}") from None
    return pyarrow, pyarrow.parquet


def share(shards, index, number):
    """Return the shards of job `index` of `number`: every `number`-th. Raises ValueError if one has nothing to do."""
    if number > len(shards):
        raise ValueError(f"--num_shards: got {number} jobs for {len(shards)} shards, allowed is one job for a shard")
    return shards[index::number]


def check_output(output, shards, identity):
    """Raise ValueError unless `output` can take the captions of all `shards`: not of another model, not their folder.

    shards: all of the run, also those of other jobs
    """
    names = {}
    for shard in shards:
        if names.setdefault(shard.stem, shard) != shard:
            raise ValueError(f"{names[shard.stem]} and {shard} would both be written as {output / shard.stem}.parquet")
    if resolved(output) in {resolved(folder) for folder in {shard.parent for shard in shards}}:
        raise ValueError(f"{output}: is the folder of the shards, which is not written to; give another --output")
    check_folder(output)
    if output.is_dir():
        with os.scandir(output) as entries:
            some = next((entry.path for entry in entries if entry.name.endswith("_stats.json")), None)
        if some:  # all of them are alike, as each was written beside one that was asked
            read_stats(Path(some), identity)


def read_stats(path, identity):
    """Return what a stats file holds. Raises ValueError if it is of another model or of other options."""
    try:
        found = json.loads(path.read_bytes())
        theirs = {name: found[name] for name in identity}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: is not of this program; give another --output") from None
    check_identity(path, theirs, identity)
    return found


def check_identity(path, theirs, ours):
    """Raise ValueError naming what differs between two identities; the name of a model says nothing of its content."""
    if theirs["model_sha256"] != ours["model_sha256"]:
        raise ValueError(f"{path}: captioned by another model ({theirs['model']}); give another --output")
    for name, value in ours["options"].items():
        if theirs["options"].get(name) != value:
            raise ValueError(
                f"{path}: captioned with {name} {theirs['options'].get(name)}, now it is {value}; give another --output"
            )


def to_do(job, shards):
    """Return those of the shards that are not done.

    Raises ValueError for a file of theirs that was written otherwise, or by something else.
    """
    rest = []
    for shard in shards:
        if job.stats_path(shard).exists():
            stats = read_stats(job.stats_path(shard), job.identity)
            for name, value in describe_shard(shard).items():
                if stats.get(name, value) != value:
                    told = f"of another {shard.name}, whose {name} was {stats[name]}, not {value}"
                    raise ValueError(f"{job.stats_path(shard)}: {told}; give another --output")
        if not (job.stats_path(shard).exists() and job.parquet_path(shard).exists()):
            check_parquet(job.parquet_path(shard), job.identity)
            rest.append(shard)
    return rest


def describe_shard(shard):
    """Return what tells a shard from another of its name without reading all of it; {} = it is not there."""
    try:
        with open(shard, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(HEAD)
    except OSError:
        return {}
    return {"bytes": size, "head_sha256": hashlib.sha256(head).hexdigest()}


def check_parquet(path, identity):
    """Raise ValueError for a parquet file of another run; one that was killed between its two files leaves ours."""
    if not path.exists():
        return
    _, parquet = import_parquet()
    try:
        found = json.loads(parquet.read_schema(path).metadata[MARK])
    except Exception:  # of pyarrow's many classes
        raise ValueError(f"{path}: is not of this program; give another --output") from None
    check_identity(path, found, identity)


# ---- one shard -----------------------------------------------------------------------------------------


class Picture(io.BytesIO):
    """A picture of a shard as a file, with its key and what the shard knows of it."""

    def __init__(self, sample):
        super().__init__(sample.picture)
        self.key, self.info = sample.key, sample.info


class ParquetRows:
    """Writes rows to a parquet file, a row group at a time; at the end of the block the file is complete.

    identity: kept in the file's metadata; record: see Job
    """

    def __init__(self, path, identity, record):
        pyarrow, parquet = import_parquet()
        columns = {name: getattr(pyarrow, TYPES[type(value)])() for name, value in record.items()}
        text = pyarrow.string()
        others = {"status": text, "error": text, "url": text, "sha256": text}
        alternatives = pyarrow.list_(pyarrow.struct(columns))
        columns = {"key": text, **columns, "alternatives": alternatives, **others}
        self.schema = pyarrow.schema(columns, {MARK: json.dumps(identity)})
        self.to_table = pyarrow.Table.from_pylist
        self.writer = parquet.ParquetWriter(path, self.schema)
        self.rows = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if kind is None:
            self.flush()
            self.writer.close()
        else:
            with contextlib.suppress(OSError):  # the file goes; what is wrong with it is being told
                self.writer.close()

    def add(self, key, info, records=(), error=None):
        """Add the row of a key: its caption's record and those of the alternatives, or the error."""
        best, others = (records[0], list(records[1:])) if records else ({}, [])
        known = {name: info.get(name) for name in ("url", "sha256") if isinstance(info.get(name), str)}
        row = {"key": key, **best, "alternatives": others, "status": ERROR if error else SUCCESS, "error": error}
        self.rows.append({name: as_text(value) for name, value in (row | known).items()})
        if len(self.rows) == ROWS:
            self.flush()

    def flush(self):
        """Write the rows that wait."""
        if self.rows:
            self.writer.write_table(self.to_table(self.rows, schema=self.schema))
            self.rows = []


def as_text(value):
    """Return a value as it is; of a text what UTF-8 has no signs for, as a byte of a name that is none, is escaped."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def caption_shard(job, shard):
    """Caption a shard, and write its two files: the Outcome.

    A picture that cannot be read is a row with its error. A shard that cannot be read to its end is not done.
    """
    try:
        captioner, options = loaded(job)
        with one_writer(job, shard):
            stats = {"shard": shard.name} | describe_shard(shard)
            stats |= write_rows(job, shard, captioner, options) | job.identity
            with replace_file(job.stats_path(shard)) as temporary:
                temporary.write_text(json.dumps(stats, indent=1, ensure_ascii=False), encoding="utf-8")
    except ShardError as error:
        return Outcome(shard, error=str(error))
    except (OSError, ValueError) as error:
        return Outcome(shard, error=one_line(error), fatal=True)
    return Outcome(shard, stats)


class ShardError(ValueError):
    """A shard that cannot be captioned now; others may be."""


@contextlib.contextmanager
def one_writer(job, shard):
    """Keep other processes from writing the files of a shard. Raises ShardError if one does."""
    with contextlib.ExitStack() as stack:
        try:
            lock = job.output / f".{shard.stem}.lock"
            stack.enter_context(hold_lock(lock, f"{shard}: is being captioned by"))
        except ValueError as error:
            raise ShardError(str(error)) from None
        yield


_loaded = {}  # identity of a Job -> its Captioner and options, in a process of its own


def loaded(job):
    """Return the (Captioner, options) of a Job, loaded once in a process."""
    key = json.dumps(job.identity, sort_keys=True)
    if key not in _loaded:
        _loaded[key] = job.load()
    return _loaded[key]


def write_rows(job, shard, captioner, options):
    """Write the parquet file of a shard: its counts and seconds.

    Raises ShardError if the shard cannot be read to its end, OSError if the disk is full.
    """
    began = time.perf_counter()
    counts = dict.fromkeys(COUNTS, 0)
    with (
        replace_file(job.parquet_path(shard)) as temporary,
        ParquetRows(temporary, job.identity, job.record) as rows,
    ):

        def fail(key, info, error):
            counts["failed"] += 1
            rows.add(key, info, error=error)

        def pictures():
            try:
                for sample in read_samples(shard, PICTURES | {"json"}):
                    if sample.repeated:
                        counts["repeated_keys"] += 1
                        continue
                    counts["pictures"] += 1
                    if sample.problem or sample.picture is None:
                        missing = f"no picture; members {', '.join(sample.names[:4])}"
                        fail(sample.key, sample.info, sample.problem or missing)
                    else:
                        yield Picture(sample)
            except ValueError as error:
                raise ShardError(str(error)) from None

        for picture, found in captioner.stream(pictures(), options, batch_size=job.batch_size, num_workers=1):
            if isinstance(found, ValueError):
                fail(picture.key, picture.info, one_line(found))
            else:
                counts["captioned"] += 1
                counts["unlike"] += found.unlike
                rows.add(picture.key, picture.info, [one.record() for one in (found, *found.alternatives)])
    return counts | {"seconds": round(time.perf_counter() - began, 3)}


# ---- many shards: processes of this machine ----------------------------------------------------------


class Worker:
    """A process that captions one shard after another."""

    def __init__(self, job):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(job, theirs), daemon=True)
        with without_interrupts():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.shard = None

    def start(self, shard):
        """Hand a shard to the process."""
        self.shard = shard
        with contextlib.suppress(BrokenPipeError):  # it has died: finish() tells
            self.pipe.send(shard)

    def finish(self):
        """Return the Outcome of the shard, None if the process has died."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None

    def stop(self):
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(job, pipe):
    """Caption the shards that come through a pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the parent ends this one
    die_with_parent()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(caption_shard(job, pipe.recv()))


def run_processes(job, shards, num_processes):
    """Yield the Outcomes of shards, as they end. A process that dies is replaced, and its shard tried again."""
    waiting, attempts, busy = deque(shards), {}, {}
    try:
        while waiting or busy:
            while waiting and len(busy) < num_processes:
                worker = Worker(job)
                busy[worker.pipe] = worker
                worker.start(waiting.popleft())
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                shard, outcome = worker.shard, worker.finish()
                if outcome is None:
                    del busy[pipe]
                    attempts[shard] = attempts.get(shard, 0) + 1
                    if attempts[shard] < ATTEMPTS:
                        waiting.appendleft(shard)
                    else:
                        code = worker.process.exitcode
                        how = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
                        yield Outcome(shard, error=f"{shard}: {ATTEMPTS} processes ended {how}, while captioning it")
                    continue
                yield outcome
                if waiting:
                    worker.start(waiting.popleft())
                else:
                    del busy[pipe]
                    worker.stop()
    finally:
        for worker in busy.values():
            worker.stop()
        remove_unfinished(job.output)  # what they had begun; a full disk needs the room


# ---- many shards: Ray ----------------------------------------------------------------------------------


def run_ray(job, shards, num_processes):
    """Yield the Outcomes of shards from a Ray cluster: the one at $RAY_ADDRESS or running here, else a local one.

    Ray starts a task again, up to three times, when its process or its machine dies.

    Raises ValueError if Ray is not installed, or there is no cluster at $RAY_ADDRESS.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError(f"--engine ray needs ray: {REQUIREMENTS}") from None
    check_cluster(os.environ.get("RAY_ADDRESS", ""))
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:  # none is running
        if os.environ.get("RAY_ADDRESS"):
            raise ValueError(f"RAY_ADDRESS: {os.environ['RAY_ADDRESS']}: {one_line(error, 160)}") from None
        ray.init(num_cpus=num_processes, include_dashboard=False, **quiet)
    try:
        task = ray.remote(num_cpus=1, max_retries=3)(caption_shard)
        shared = ray.put(job)
        ahead = WAITING * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running = deque(shards), {}
        while waiting or running:
            while waiting and len(running) < ahead:
                shard = waiting.popleft()
                running[task.remote(shared, shard)] = shard
            (done,), _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayTaskError:
                raise  # a defect of ours
            except ray.exceptions.RayError as error:
                yield Outcome(shard, error=f"{shard}: {one_line(error, 160)}")
    finally:
        ray.shutdown()
        remove_unfinished(job.output)  # what a killed worker had begun


def check_cluster(address):
    """Raise ValueError if nobody listens at the host:port of $RAY_ADDRESS, which Ray would go on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "", auto, local: Ray finds it or says what is wrong
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CLUSTER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"RAY_ADDRESS: {address}: no cluster answers there ({one_line(error, 100)})") from None


ENGINES = {"processes": run_processes, "ray": run_ray}


def caption_shards(job, shards, engine, num_processes):
    """Caption those of the shards that are not done, and say how it went.

    Raises ValueError if one could not be captioned; the others are done.
    """
    from captioning.progress import Progress  # needs tqdm

    rest = to_do(job, shards)
    began, counts, errors = time.perf_counter(), Counter(), []
    outcomes = ENGINES[engine](job, rest, num_processes)
    with contextlib.closing(outcomes):
        for outcome in Progress(outcomes, total=len(rest), desc="captioning", unit=" shards"):
            if outcome.fatal:
                raise ValueError(outcome.error)
            if outcome.error:
                Progress.write(f"warning: {outcome.error}", file=sys.stderr)
                errors.append(outcome.error)
            counts.update({name: outcome.stats.get(name, 0) for name in COUNTS})
            if outcome.stats.get("repeated_keys"):
                repeated = counted(outcome.stats["repeated_keys"], "key")
                line = f"warning: {outcome.shard}: {repeated} came again, and only the first picture was captioned"
                Progress.write(line, file=sys.stderr)
    seconds = time.perf_counter() - began
    done = len(shards) - len(rest)
    told = [f"captioned {counts['captioned']:,} pictures of {counted(len(rest) - len(errors), 'shard')}"]
    told += [f"{counts['failed']:,} that cannot be read"] * bool(counts["failed"])
    told += [f"{done:,} shards were done before"] * bool(done)
    told += [f"{counts['captioned'] / seconds:.1f} pictures/s"] * bool(counts["captioned"])
    print(f"{', '.join(told)}; wrote {job.output}", file=sys.stderr)
    warning = unlike_warning(counts["unlike"], counts["captioned"], job.identity["model"])
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if errors:
        raise ValueError(
            f"{len(errors)} of {counted(len(shards), 'shard')} are not captioned, the same command tries them again; "
            f"the first: {errors[0]}"
        )

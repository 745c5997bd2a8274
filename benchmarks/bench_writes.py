"""What is left of a script that is killed while it works, or whose disk is full?

    python benchmarks/bench_writes.py                                        # every script, 10 kills and 5 full disks
    python benchmarks/bench_writes.py --scripts vocab,report --num_kills 3 --num_full 0

Each script writes into a folder that holds what an earlier run wrote. It is killed with SIGKILL at a random time of its
run, or works on a tmpfs that ends at a random share of what it needs. A trial is fine if the old file or folder is
there unchanged, or the new one complete; if a full disk is one line and exit code 2; and if the next start ends well,
leaves everything complete and nothing half written. JSON lines grow: there each line but the last must be whole, and
the next start must end with the pictures of a run that nothing stopped, each once. (Their numbers may differ in the
last digit: int8 is scaled by what is captioned together.) benchmarks/bench_kills.py kills trainings.

Mounting needs Linux and a superuser; without them a line says that the disks are left out. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import csv
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass

import onnx
from PIL import Image

from captioning import cli
from captioning.checkpoint import load_checkpoint, load_resume
from captioning.data.pictograms import write_dataset
from captioning.data.tars import write_shard
from captioning.deploy.shards import import_parquet
from vocab import load_vocabulary

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "scripts": "",  # names of JOBS, with commas between; "" = all
    "num_kills": 10,  # of each script
    "num_full": 5,  # full disks of each script
    "seed": 0,  # of the times of the kills, and of the sizes of the disks
}
TRAIN = """
    train.py --data.image_size 32 --data.num_workers 0 --data.batch_size 16 --data.data_dir ../data
    --data.vocab_path ../vocab.pkl --model.encoder_weights none --model.embed_size 16 --model.hidden_size 16
    --train.max_len 8 --train.wandb off --train.precision float32 --train.device cpu --train.epochs 2 --train.run tiny
"""
VOCAB = "vocab.py --vocab_path v.pkl --graph_path v.png"
REPORT = "analysis_report.py --model_path pictograms --data_dir ../data --beam_size 1 --probe_images 0 --num_workers 0"
EXPORT = "export.py --data_dir ../data --output_dir . --calibration_images 8 --num_images 4 --num_runs 2 --hub a/b"
CAPTION = "caption.py ../data/val --model_path ../pictograms_int8.onnx --num_threads 1"


@dataclass(frozen=True)
class Job:
    """A script and what it writes.

    command: its name and flags; the working directory is the folder that it writes into
    old:     the flags with which the earlier run differed; None = there was none
    units:   files, and folders that are replaced as a whole
    grows:   the file grows, and the next start goes on with it
    """

    command: str
    old: str | None
    units: tuple
    grows: bool = False


JOBS = {
    "prepare_data": Job("prepare_data.py --output data --per_class 3 --num_workers 1", "--seed 1", ("data",)),
    "vocab": Job(
        "vocab.py --data_dir ../data --vocab_path v.pkl --graph_path v.png", "--min_count 9", ("v.pkl", "v.png")
    ),
    "report": Job(f"{REPORT} --neighbor_images 0 --output report", "--split test", ("report",)),
    "export": Job(
        f"{EXPORT} --report ../report",
        "--seed 1",
        (*(f"pictograms{ending}" for ending in (".onnx", "_int8.onnx", ".csv", ".md")), "pictograms_hub"),
    ),
    "caption text": Job(f"{CAPTION} --output c.txt", "--beam_size 2", ("c.txt",)),
    "caption csv": Job(f"{CAPTION} --format csv --existing overwrite --output c.csv", "--beam_size 2", ("c.csv",)),
    "caption parquet": Job(
        "caption.py ../shards/{0..1}.tar --model_path ../pictograms_int8.onnx --format parquet --output .",
        None,
        ("0.parquet", "0_stats.json", "1.parquet", "1_stats.json"),
    ),
    "caption jsonl": Job(f"{CAPTION} --format jsonl --output c.jsonl", None, ("c.jsonl",), grows=True),
    "train": Job(TRAIN, "--train.seed 1", ("checkpoints/tiny.safetensors", "checkpoints/tiny_last.pt")),
}
KILLED_ELSEWHERE = ("train",)


def run(job, folder, *more, seconds=None):
    """Run a job's script in a folder: (exit code, what it said on standard error); killed after `seconds`."""
    script, *flags = job.command.split()
    command = [sys.executable, ROOT / script, *flags, *more]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return process.returncode, errors


def finish(job, folder, *more):
    """Run a job's script to its end. Raises RuntimeError if it does not end well."""
    code, errors = run(job, folder, *more)
    if code:
        raise RuntimeError(f"{job.command}: exit code {code}: {errors[-1000:]}")


# ---- what is there ---------------------------------------------------------------------------------------


def state(path):
    """Return what tells a file, or a folder with its files, from any other; None = it is not there."""
    if not path.exists():
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.relative_to(path).as_posix(), file.read_bytes() if file.is_file() else b"") for file in files]


def pictures(path):
    """Return the pictures that the JSON lines or the rows of a file are about, sorted."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        return sorted(row["image"] for row in rows)


def check(path):
    """Raise an error unless a file is complete as its format tells."""
    if path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".onnx":
        onnx.load(path)
    elif path.suffix in READERS:
        READERS[path.suffix](path)
    elif not path.read_text(encoding="utf-8").endswith(("\n", "</html>")):
        raise ValueError(f"{path}: its last line is cut")


READERS = {".pkl": load_vocabulary, ".safetensors": load_checkpoint, ".pt": load_resume}
READERS[".parquet"] = lambda path: import_parquet()[1].read_table(path)


def names(path):
    """Return the names of the files of a unit."""
    return [name for name, _ in state(path) or ()]


def wrong(job, folder, old, whole):
    """Return what is wrong with what a stopped run left, "" = nothing.

    old: state of each unit before; whole: names of the files of each unit after a run that nothing stopped
    """
    for unit in job.units:
        path = folder / unit
        if state(path) == old[unit]:
            continue
        try:
            if job.grows:
                lines = path.read_bytes().split(b"\n")[:-1]
                [json.loads(line) for line in lines]
                continue
            if names(path) != whole[unit]:
                return f"{unit} holds {len(names(path))} files, {len(whole[unit])} are complete"
            for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
                check(file)
        except Exception as error:  # whatever the readers raise on a cut file
            return f"{unit}: {cli.one_line(error, 200)}"
    return ""


def unfinished(folder):
    """Return the half-written files and folders below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.unfinished*")]


# ---- trials ----------------------------------------------------------------------------------------------


class Trials:
    """The trials of one job in a folder whose parent holds its inputs; `old` is what each begins with."""

    def __init__(self, job, folder):
        self.job, self.folder = job, folder
        self.begin = folder.with_name("begin")
        for path in (folder, self.begin):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        if job.old is not None:
            finish(job, self.begin, *job.old.split())
        self.old = {unit: state(self.begin / unit) for unit in job.units}
        self.reset()
        began = time.monotonic()
        finish(job, folder)
        self.seconds = time.monotonic() - began
        self.new = {unit: state(folder / unit) for unit in job.units}
        self.pictures = [pictures(folder / unit) for unit in job.units] if job.grows else []
        self.whole = {unit: names(folder / unit) for unit in job.units}

    def reset(self):
        """Put what the earlier run wrote into the folder, and nothing else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.begin, self.folder, dirs_exist_ok=True)

    def judge(self, problem=""):
        """Return what is wrong with what is left, and with the next start; "" = nothing."""
        problem = problem or wrong(self.job, self.folder, self.old, self.whole)
        if problem:
            return problem
        code, errors = run(self.job, self.folder)
        if code:
            return f"the next start ends with {code}: {errors[-300:]}"
        if left := unfinished(self.folder):
            return f"the next start leaves {left[0]}"
        if self.job.grows and self.pictures != [pictures(self.folder / unit) for unit in self.job.units]:
            return "the next start ends with other pictures"
        return wrong(self.job, self.folder, dict.fromkeys(self.job.units), self.whole)

    def kill(self, share):
        """Kill the script after a share of its seconds."""
        self.reset()
        code, errors = run(self.job, self.folder, seconds=share * self.seconds)
        return self.judge("" if code in (0, -signal.SIGKILL) else f"exit code {code}: {errors[-300:]}")

    def fill(self, share):
        """Run the script on a disk that ends after a share of what it writes."""
        sizes = [sum(file.stat().st_blocks * 512 for file in path.rglob("*")) for path in (self.begin, self.folder)]
        mount("-t", "tmpfs", "-o", f"size={2 * sum(sizes) + 2**26}", "none", self.folder)
        try:
            self.reset()
            mount("-o", f"remount,size={used(self.folder) + int(share * self.needed)}", self.folder)
            code, errors = run(self.job, self.folder)
            lines = [line for line in errors.splitlines() if line.startswith("error: ")]
            problem = "" if code == 0 or (code == 2 and len(lines) == 1) else f"exit code {code}: {errors[-300:]}"
            if code and (left := unfinished(self.folder)):
                problem = problem or f"left {left[0]}"
            mount("-o", "remount,size=1g", self.folder)
            return self.judge(problem)
        finally:
            subprocess.run(["umount", "-l", self.folder], check=True)

    @property
    def needed(self):
        """Bytes on the disk of what a run writes."""
        return sum(len(content) for files in self.new.values() for _, content in files)


def used(folder):
    """Return the bytes that are taken of the disk that a folder is on."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def mount(*arguments):
    """Call mount."""
    subprocess.run(["mount", *arguments], check=True, stderr=subprocess.PIPE)


def can_mount():
    """Give this process mounts of its own, which nobody else sees: True if that is allowed."""
    separate = 0x00020000  # CLONE_NEWNS of Linux
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(separate):
        return False
    return not subprocess.run(["mount", "--make-rprivate", "/"], stderr=subprocess.PIPE).returncode


def make_inputs(folder):
    """Write what the scripts read into a folder."""
    write_dataset(folder / "data", per_class=3, num_workers=1, progress=False)
    pictures = [(path.stem, {"jpg": path.read_bytes()}) for path in sorted(folder.glob("data/val/*/*.jpg"))]
    for number in range(2):
        write_shard(folder / f"shards/{number}.tar", pictures[number::2])
    for command in (
        "vocab.py --data_dir data --vocab_path vocab.pkl --graph_path vocab.png",
        REPORT.replace("../", "") + " --neighbor_images 0 --output report",
        "export.py --data_dir data --output_dir . --calibration_images 8 --num_images 0",
    ):
        finish(Job(command, None, ()), folder)


def main(config):
    """Print a line per trial that is not fine, one per script, and the counts as JSON."""
    config = config["bench"]
    chosen = config["scripts"].split(",") if config["scripts"] else list(JOBS)
    for name in chosen:
        if name not in JOBS:
            raise ValueError(f"--scripts: got {name!r}, allowed are {', '.join(JOBS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw, counts = random.Random(config["seed"]), Counter()
    mounts = config["num_full"] and can_mount()
    if config["num_full"] and not mounts:
        print("full disks are left out: this process may not mount")
    with tempfile.TemporaryDirectory() as name:
        make_inputs(Path(name))
        for script in chosen:
            trials = Trials(JOBS[script], Path(name, "out"))
            kinds = {"kills": (trials.kill, config["num_kills"] * (script not in KILLED_ELSEWHERE))}
            kinds |= {"full disks": (trials.fill, config["num_full"] * bool(mounts))}
            for kind, (trial, number) in kinds.items():
                fine = 0
                for _ in range(number):
                    problem = trial(share := draw.uniform(0, 1))
                    fine += not problem
                    if problem:
                        print(f"{script}, {kind}, at {share:.2f} of {trials.seconds:.1f} s: {problem}", flush=True)
                counts.update({f"{kind} tried": number, f"{kind} fine": fine})
                if number:
                    print(f"{script:<14} {kind:<10} {number} tried, {fine} fine", flush=True)
    print(json.dumps({"bench": "writes", **counts}))


if __name__ == "__main__":
    cli.run(main, {"bench": {"num_kills": (0, 10_000), "num_full": (0, 10_000)}}, bench=CONFIG)

"""Bulk captioning beside its limits: pictures/s, memory over many pictures, and what 20 kills leave.

    python benchmarks/bench_bulk.py --model_path exports/pictograms_int8.onnx
    python benchmarks/bench_bulk.py --model_path exports/photos_int8.onnx --memory_pictures 0 --kills 0

rates    caption.py's processes on shards, 1 and 2; bare loops over Captioner with the same pictures in memory, one
         alone and two side by side; Pillow alone, which decodes and resizes. A loop has one thread to compute and one
         to read, as a process has. Each rate leaves out the start of its process
cost     CPU time of a picture in one loop, both threads, and of Pillow alone; work beside it changes it little
memory   of one process that captions a small shard again and again, after a tenth of the pictures and at the end
kills    the command is killed at a random moment and started again, then left alone: how often each key stands there

The pictures are those of docs/photos at 640 x 480 pixels. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import io
import json
import multiprocessing
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from functools import partial

import psutil
from PIL import Image

import caption
from captioning import cli
from captioning.data.images import load_image, to_pixels
from captioning.data.tars import PICTURES, read_samples, write_shard
from captioning.deploy import shards
from captioning.deploy.writers import identify

CONFIG = {
    # what
    "model_path": "exports/pictograms_int8.onnx",  # as for caption.py
    "beam_size": 5,  # beams; 1 = greedy
    # how much
    "pictures": 64,  # of a shard
    "num_shards": 8,  # that each process captions
    "memory_pictures": 100_000,  # captioned by one process while its memory is watched; 0 = none
    "kills": 20,  # of the command, at random moments; 0 = none
}
LIMITS = {
    "beam_size": (1, 100),
    "pictures": (1, 10_000),
    "num_shards": (2, 1000),
    "memory_pictures": (0, 10**9),
    "kills": (0, 1000),
}
ROOT = Path(__file__).resolve().parents[1]
SIZE = (640, 480)
BATCH = 16


def make_shard(path, number):
    """Write a shard of `number` pictures."""
    photos = sorted((ROOT / "docs" / "photos").glob("*.jpg"))
    contents = []
    for photo in photos:
        buffer = io.BytesIO()
        load_image(photo).resize(SIZE).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    write_shard(path, ((f"{place:06}", {"jpg": contents[place % len(contents)]}) for place in range(number)))


def copies(shard, number, folder):
    """Return `number` paths of one shard, as links."""
    folder.mkdir()
    paths = [folder / f"{place:06}.tar" for place in range(number)]
    for path in paths:
        os.link(shard, path)
    return paths


def make_job(config, output):
    """Return the Job of caption.py's settings."""
    settings = caption.CONFIG | {"model_path": config["model_path"], "beam_size": config["beam_size"]}
    files = caption.model_paths(config["model_path"])
    identity = identify("bench", files, caption.decoding_settings(settings))
    record = caption.Caption("", 0.0, ()).record()
    return shards.Job(partial(caption.load_alone, settings), output, identity, record, BATCH)


def bulk_rate(config, shard, num_processes, folder):
    """Return the pictures/s of `num_processes` processes, from the end of the first shard of each to the last."""
    paths = copies(shard, config["num_shards"] * num_processes, folder / f"in_{num_processes}")
    job = make_job(config, folder / f"out_{num_processes}")
    ends = [time.perf_counter() for outcome in shards.run_processes(job, paths, num_processes) if outcome.stats]
    return config["pictures"] * (len(ends) - num_processes) / (ends[-1] - ends[num_processes - 1])


def loop(config, shard, pipe):
    """Caption the pictures of a shard from memory, again and again: sends pictures/s and CPU seconds of a picture."""
    captioner, options = make_job(config, None).load()
    contents = [sample.picture for sample in read_samples(shard, PICTURES)]

    def once():
        pictures = (io.BytesIO(content) for content in contents)
        return sum(1 for _ in captioner.stream(pictures, options, batch_size=BATCH, num_workers=1))

    once()
    pipe.send("ready")
    pipe.recv()
    began, used = time.perf_counter(), time.process_time()
    number = sum(once() for _ in range(config["num_shards"] - 1))
    pipe.send((number / (time.perf_counter() - began), (time.process_time() - used) / number))


def loop_rate(config, shard, number):
    """Return (pictures/s of `number` bare loops side by side, together; CPU seconds of a picture)."""
    context, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for _ in range(number):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=loop, args=(config, shard, theirs)))
        processes[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    rates, seconds = zip(*(pipe.recv() for pipe in pipes), strict=True)
    for one in processes:
        one.join()
    return sum(rates), sum(seconds) / number


def decode_rate(config, shard):
    """Return (pictures/s that Pillow decodes and resizes, in one thread; CPU seconds of a picture)."""
    captioner, _ = make_job(config, None).load()
    contents = [sample.picture for sample in read_samples(shard, PICTURES)]
    began, used = time.perf_counter(), time.process_time()
    for content in contents:
        to_pixels(load_image(io.BytesIO(content)), **captioner.model.transform)
    return len(contents) / (time.perf_counter() - began), (time.process_time() - used) / len(contents)


def memory(config, folder):
    """Return (pictures, MB after a tenth of them, MB at the end) of one process."""
    shard, of_shard = folder / "small.tar", 500
    contents = io.BytesIO()
    Image.new("RGB", (96, 96), "orange").save(contents, "JPEG")
    write_shard(shard, ((f"{place:06}", {"jpg": contents.getvalue()}) for place in range(of_shard)))
    paths = copies(shard, max(10, config["memory_pictures"] // of_shard), folder / "memory_in")
    used = []
    for outcome in shards.run_processes(make_job(config | {"beam_size": 1}, folder / "memory_out"), paths, 1):
        (child,) = (one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline()))
        used.append(child.memory_info().rss / 2**20)
        if outcome.error:
            raise ValueError(outcome.error)
    return of_shard * len(paths), used[len(used) // 10], used[-1]


def kill(config, folder):
    """Kill the command at random moments; return how often each key stands there at the end: {times: keys}."""
    shard = folder / "killed.tar"
    make_shard(shard, 8)
    copies(shard, 60, folder / "killed_in")
    output = folder / "killed_out"
    command = [sys.executable, ROOT / "caption.py", folder / "killed_in" / "{000000..000059}.tar", "--output", output]
    command += ["--format", "parquet", "--model_path", config["model_path"], "--num_processes", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    chance, done = random.Random(0), []
    for _ in range(config["kills"]):
        running = subprocess.Popen(command, **quiet)
        before = len(list(output.glob("*_stats.json")))
        while running.poll() is None and len(list(output.glob("*_stats.json"))) < min(59, before + 1):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.3)
        running.kill()
        running.wait()
        done.append(len(list(output.glob("*_stats.json"))))
    subprocess.run(command, check=True, **quiet)
    _, parquet = shards.import_parquet()
    keys = Counter()
    for path in output.glob("*.parquet"):
        keys.update((path.stem, key) for key in parquet.read_table(path)["key"].to_pylist())
    left = [path.name for path in output.iterdir() if path.name.startswith(".")]
    return {"times_each_key": dict(Counter(keys.values())), "left_over": left, "done_after_kills": done}


def main(config):
    """Measure, print a table, and the figures as JSON on the last line."""
    config = config["bench"]
    config["model_path"] = os.path.abspath(config["model_path"])
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {"model": Path(config["model_path"]).name, "beam_size": config["beam_size"], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = folder / "shard.tar"
        make_shard(shard, config["pictures"])
        found["decode"], found["cpu_decode"] = decode_rate(config, shard)
        for number in (1, 2):
            found[f"loops_{number}"], found[f"cpu_{number}"] = loop_rate(config, shard, number)
            found[f"processes_{number}"] = bulk_rate(config, shard, number, folder)
        found["share_of_two_loops"] = found["processes_2"] / found["loops_2"]
        for what in ("decode", "loops_1", "processes_1", "loops_2", "processes_2"):
            print(f"{what:<14} {found[what]:7.1f} pictures/s")
        decode, one, two = (1e3 * found[f"cpu_{what}"] for what in ("decode", "1", "2"))
        print(f"CPU time of a picture: Pillow {decode:.1f} ms, one loop {one:.1f} ms, of two loops each {two:.1f} ms")
        print(f"two processes give {found['share_of_two_loops']:.2f} of two bare loops")
        if config["memory_pictures"]:
            found["memory"] = memory(config, folder)
            number, first, last = found["memory"]
            print(f"memory: {number:,} pictures, {first:.0f} MB after a tenth of them, {last:.0f} MB at the end")
        if config["kills"]:
            found["kills"] = kill(config, folder)
            print(f"{config['kills']} kills: keys by how often they stand there {found['kills']['times_each_key']}")
    print(json.dumps(found))


if __name__ == "__main__":
    cli.run(main, {"bench": LIMITS}, bench=CONFIG)

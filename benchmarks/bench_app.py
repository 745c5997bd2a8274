"""The page under load: how long visitors wait, whether anyone is lost, and what it costs in memory.

    python benchmarks/bench_app.py
    python benchmarks/bench_app.py --model_path exports/pictograms_int8.onnx --requests 1000

Starts app.py on this machine; `clients` visitors upload a picture each and wait for its caption, `requests` times in
all. Memory is the resident size of the page's process. The last line is JSON. Needs requirements-app.txt and psutil.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import re
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from captioning import cli
from captioning.data.names import IMAGE_SUFFIXES

APP = Path(__file__).resolve().parents[1] / "app.py"

CONFIG = {
    "model_path": "checkpoints/pictograms.safetensors",  # as app.py takes it
    "pictures": "data/pictograms/test",  # folder
    "clients": 8,
    "requests": 200,
}


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_open(port, process, seconds=120):
    """Return when a process listens on a port. Raises ValueError if it ends first or takes too long."""
    for _ in range(10 * seconds):
        if process.poll() is not None:
            raise ValueError(f"app.py ended with exit code {process.returncode}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise ValueError(f"app.py did not open port {port} within {seconds} s")


def visit(client, path):
    """Upload a picture and wait for its caption. Returns (seconds, caption; "" = lost)."""
    from gradio_client import handle_file

    begin = time.perf_counter()
    page = client.predict([{"image": handle_file(str(path)), "caption": None}], 5, 3, 30, 0.7, api_name="/caption")
    found = re.search(r"<h3>(.*?)</h3>", page)
    return time.perf_counter() - begin, found[1] if found and 'role="alert"' not in page else ""


def main(config):
    """Serve the page, send the visitors, print what they met, and all of it as JSON."""
    from gradio_client import Client

    config = config["bench"]
    paths = sorted(p for p in Path(config["pictures"]).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{config['pictures']}: no pictures in this folder")
    port, count = free_port(), config["requests"]
    command = [sys.executable, str(APP), "--port", str(port), "--model_path", config["model_path"]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until_open(port, process)
        memory = psutil.Process(process.pid).memory_info
        clients = [Client(f"http://127.0.0.1:{port}", verbose=False) for _ in range(config["clients"])]
        visit(clients[0], paths[0])  # warm-up
        megabytes, results = [memory().rss / 2**20], []
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(clients)) as pool:
            for quarter in np.array_split(range(count), 4):

                def visits(client_number, quarter=quarter):
                    mine = quarter[client_number :: len(clients)]
                    return [visit(clients[client_number], paths[number % len(paths)]) for number in mine]

                results += [result for part in pool.map(visits, range(len(clients))) for result in part]
                megabytes.append(memory().rss / 2**20)
        seconds = time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()
    waits = [wait for wait, _ in results]
    lost = count - sum(bool(caption) for _, caption in results)
    result = {
        "bench": "app",
        "requests": count,
        "clients": config["clients"],
        "lost": lost,
        "median_s": round(statistics.median(waits), 3),
        "p95_s": round(float(np.percentile(waits, 95)), 3),
        "requests_per_s": round(count / seconds, 1),
        "memory_mb": [round(value) for value in megabytes],  # after warm-up and after each quarter
    }
    for name, value in result.items():
        print(f"{name:<16} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

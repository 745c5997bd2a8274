"""The page under load: how long visitors wait, whether anyone is lost, and what it costs in memory and on disk.

    python benchmarks/bench_app.py
    python benchmarks/bench_app.py --requests 1000 --clients 16 --bad_share 0.3    # as hostile visitors would have it

Starts app.py on this machine; `clients` visitors send `requests` requests in all. A good one uploads a picture and
waits for its caption. A bad one is in turn an upload that is cut, a file that is no picture, an upload above the bound,
values of a wrong type, a path of this machine, and bytes that are no request. A good one is lost if it has no caption;
a bad one is answered if it gets a sentence and no caption. Memory is the resident size of the page's processes, disk
what its temporary folder holds. The last line is JSON. Needs requirements-app.txt and psutil.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
from PIL import Image

from captioning import cli
from captioning.data.names import IMAGE_SUFFIXES

APP = Path(__file__).resolve().parents[1] / "app.py"
TIMEOUT = 120  # seconds of one answer
UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/caption"

CONFIG = {
    "model_path": "pictograms",  # as app.py takes it
    "pictures": "examples",  # folder
    "clients": 16,
    "requests": 1000,
    "bad_share": 0.3,  # of the requests
    "max_uploads_mb": 1024,  # app.py's bound; it refuses uploads while those of the last minute fill it
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


def vary(path, number):
    """Return the bytes of a picture that no other request sends: the page keeps equal ones once."""
    picture = Image.open(path).convert("RGB")
    picture.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def upload(client, content, name="a.png"):
    """Upload a file: the answer."""
    return client.post(UPLOAD, files={"files": (name, content)})


def caption(client, *values):
    """Call the endpoint: (status, text of the answer)."""
    answer = client.post(CALL, json={"data": list(values)})
    if answer.status_code == 200:
        answer = client.get(f"{CALL}/{answer.json()['event_id']}")
    return answer.status_code, answer.text


def good(client, path, number):
    """Upload a picture and have it captioned: True if it was."""
    answer = upload(client, vary(path, number))
    if answer.status_code != 200:
        return False
    status, text = caption(client, [{"path": answer.json()[0]}])
    return status == 200 and "event: complete" in text and '"caption"' in text


def cut(client):
    """Begin an upload and hang up."""
    url = client.base_url
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 5000000\r\n"
    with contextlib.suppress(OSError), socket.create_connection((url.host, url.port), TIMEOUT) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        connection.sendall(b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n')
        connection.sendall(os.urandom(500_000))
    return True


def no_picture(client):
    """Upload a text and have it captioned: an answer that says that it is no picture."""
    answer = upload(client, os.urandom(100_000))
    return answer.status_code == 200 and '"error"' in caption(client, [{"path": answer.json()[0]}])[1]


def huge(client):
    """Upload more than is allowed."""
    try:
        return upload(client, bytes(25 * 2**20)).status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError):  # the page hung up before all was sent
        return True


def wrong_type(client):
    """Send values that make no sense."""
    return caption(client, [{"path": 7}], [], "many")[0] == 422


def foreign_path(client):
    """Have a file of this machine captioned."""
    return '"error"' in caption(client, [{"path": str(APP), "meta": {"_type": "gradio.FileData"}}])[1]


def no_request(client):
    """Send bytes that are no JSON."""
    return client.post(CALL, content=os.urandom(1000)).status_code == 422


BAD = (cut, no_picture, huge, wrong_type, foreign_path, no_request)


def visit(url, numbers, paths, bad_share):
    """Send requests one after the other: (number, seconds, whether it went well) of each, bad ones with 0 s."""
    results = []
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        for number in numbers:
            begin = time.perf_counter()
            # Bad ones are spread evenly over the numbers.
            count = int((number + 1) * bad_share)
            if count > int(number * bad_share):
                results.append((0.0, BAD[count % len(BAD)](client)))
            else:
                well = good(client, paths[number % len(paths)], number)
                results.append((time.perf_counter() - begin, well))
    return results


def used(page, folder):
    """Return (MB of memory of a process and its children, MB of files below a folder)."""
    processes = [page, *page.children(recursive=True)]
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(one.memory_info().rss for one in processes) / 2**20, sum(sizes) / 2**20


def main(config):
    """Serve the page, send the visitors, print what they met, and all of it as JSON."""
    config = config["bench"]
    paths = sorted(p for p in Path(config["pictures"]).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{config['pictures']}: no pictures in this folder")
    port, count, clients = free_port(), config["requests"], config["clients"]
    command = [sys.executable, str(APP), "--port", str(port), "--model_path", config["model_path"]]
    command += ["--max_uploads_mb", str(config["max_uploads_mb"])]
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "log", "w+") as log:
        folder = Path(name) / "page"
        folder.mkdir()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)})
        try:
            wait_until_open(port, process)
            url, page = f"http://127.0.0.1:{port}", psutil.Process(process.pid)
            visit(url, range(20), paths, 0.5)  # warm-up
            usage, results = [used(page, folder)], []
            begin = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                for quarter in np.array_split(range(count), 4):

                    def visits(client, quarter=quarter):
                        return visit(url, quarter[client::clients], paths, config["bad_share"])

                    results += [result for part in pool.map(visits, range(clients)) for result in part]
                    usage.append(used(page, folder))
            seconds = time.perf_counter() - begin
        finally:
            process.terminate()
            process.wait()
        left = list(folder.iterdir())
        log.seek(0)
        tracebacks = log.read().count("Traceback")
    waits = [wait for wait, _ in results if wait]
    result = {
        "bench": "app",
        "requests": count,
        "clients": clients,
        "good": len(waits),
        "good_lost": sum(not well for wait, well in results if wait),
        "bad": count - len(waits),
        "bad_not_answered": sum(not well for wait, well in results if not wait),
        "median_s": round(statistics.median(waits), 3),
        "p95_s": round(float(np.percentile(waits, 95)), 3),
        "requests_per_s": round(count / seconds, 1),
        "memory_mb": [round(memory) for memory, _ in usage],  # after warm-up and after each quarter
        "disk_mb": [round(disk, 1) for _, disk in usage],
        "tracebacks": tracebacks,
        "left_behind": len(left),  # folders, after the page has ended
    }
    for name, value in result.items():
        print(f"{name:<16} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

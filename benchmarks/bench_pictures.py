"""What the reading of a picture costs: memory above the idle process, and seconds, of large pictures and refused ones.

    python benchmarks/bench_pictures.py
    python benchmarks/bench_pictures.py --pixels 25000000     # smaller ones

Each picture is read in a process of its own, which has read a small one before; of a picture that is read, the largest
that its format may have. `MB` is the highest memory less that of the idle process, `s` processor time. Needs
Linux. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import struct
import subprocess
import tempfile
import zlib

import numpy as np
from PIL import Image

from captioning import cli
from captioning.data.images import MAX_BUFFERED_PIXELS, MAX_PIXELS

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "pixels": MAX_PIXELS,  # of the pictures that are read, at most
}
READ = """
import sys, time
sys.path.insert(0, {root!r})
from captioning.data.images import load_image
load_image({small!r})
def peak():  # not ru_maxrss, which begins with that of the parent
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before, began, said = peak(), time.process_time(), "read"
try:
    load_image({path!r})
except ValueError:
    said = "refused"
print((peak() - before) / 1024, time.process_time() - began, said)
"""
KINDS = {  # name -> (mode, format, settings of Pillow, key of MAX_BUFFERED_PIXELS)
    "JPEG": ("RGB", "JPEG", {}, ""),
    "progressive JPEG": ("RGB", "JPEG", {"progressive": True}, "progressive JPEG"),
    "PNG": ("RGB", "PNG", {"compress_level": 1}, ""),
    "PNG, transparent": ("RGBA", "PNG", {"compress_level": 1}, ""),
    "PNG, grey": ("L", "PNG", {"compress_level": 1}, ""),
    "PNG, 16 bits": ("I;16", "PNG", {"compress_level": 1}, ""),
    "GIF": ("P", "GIF", {}, ""),
    "BMP": ("RGB", "BMP", {}, ""),
    "PPM": ("RGB", "PPM", {}, ""),
    "WebP": ("RGB", "WEBP", {"quality": 50, "method": 0}, "WEBP"),
    "TIFF": ("RGB", "TIFF", {}, "TIFF"),
}


def draw(kind, pixels, path):
    """Write a square picture of a kind: a gradient with a little noise, so that it compresses as photographs do."""
    mode, form, settings, bound = KINDS[kind]
    side = int(min(pixels, MAX_BUFFERED_PIXELS.get(bound, pixels)) ** 0.5)
    tile = np.random.default_rng(0).integers(0, 256, (side // 32 + 1, side // 32 + 1), dtype=np.uint8)
    image = Image.fromarray(tile).resize((side, side), Image.Resampling.BILINEAR)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(path, form, **settings)


def write_png(path, width, height, data):
    """Write a PNG in RGB that claims any size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def write_refused(folder):
    """Write pictures that are refused; return {what is wrong: path}."""
    paths = {name: folder / f"refused{number}" for number, name in enumerate(REFUSED)}
    write_png(paths["more pixels than allowed"], 60_000, 60_000, zlib.compress(bytes(10**8)))
    write_png(paths["a strip of one pixel"], 1, 10**8, zlib.compress(bytes(10**6)))
    write_png(paths["cut: 81 megapixels in 1 kB"], 9000, 9000, zlib.compress(bytes(10**6)))
    small = folder / "scans"
    Image.effect_noise((2000, 2000), 80).convert("RGB").save(small, "JPEG", progressive=True)
    content = small.read_bytes()
    last = content.rindex(b"\xff\xda")
    paths["a JPEG of 3,000 scans"].write_bytes(content[:-2] + content[last:-2][:1000] * 3000 + b"\xff\xd9")
    draw("JPEG", 25_000_000, small)
    paths["cut: half of a JPEG"].write_bytes(small.read_bytes()[: small.stat().st_size // 2])
    return paths


REFUSED = (
    "more pixels than allowed",
    "a strip of one pixel",
    "cut: 81 megapixels in 1 kB",
    "a JPEG of 3,000 scans",
    "cut: half of a JPEG",
)


def cost(path, small):
    """Return (MB above the idle process, processor seconds, "read" or "refused") of reading a picture."""
    code = READ.format(root=str(ROOT), path=str(path), small=str(small))
    printed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    megabytes, seconds, said = printed.stdout.split()
    return float(megabytes), float(seconds), said


def main(config):
    """Print a line for each picture, and the largest of both kinds as JSON."""
    most = {"read": (0, 0), "refused": (0, 0)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (64, 64)).save(folder / "small.png")
        for kind in KINDS:
            draw(kind, config["bench"]["pixels"], folder / "picture")
            show(kind, cost(folder / "picture", folder / "small.png"), most)
        for what, path in write_refused(folder).items():
            show(what, cost(path, folder / "small.png"), most)
    costs = {name: dict(zip(("MB", "s"), of, strict=True)) for name, of in most.items()}
    print(json.dumps({"bench": "pictures"} | costs))


def show(what, found, most):
    """Print what a picture cost, and note the largest costs of its kind."""
    megabytes, seconds, said = found
    print(f"{what:<28} {said:<8} {megabytes:6.0f} MB {seconds:6.2f} s", flush=True)
    most[said] = tuple(round(max(pair), 2) for pair in zip(most[said], (megabytes, seconds), strict=True))


if __name__ == "__main__":
    cli.run(main, {"bench": {"pixels": (1_000_000, MAX_PIXELS)}}, bench=CONFIG)

"""How fast tar shards are read for training: by places in an index, and by webdataset's reader.

    python benchmarks/bench_shards.py                            # 4,000 pictures in 8 shards
    python benchmarks/bench_shards.py --data_dir 'shards/train/{00000..00007}.tar'

index       what train.py does first: the headers and texts of all shards are read, the pictures passed over
places      pictures read and decoded in a random order over all shards, each from its place
webdataset  the same shards through webdataset.WebDataset, in their order, decoded by the same function

All in one process, in turn, median of `rounds`; pictures/s. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import io
import json
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from captioning import cli
from captioning.data.annotations import read_shards
from captioning.data.images import load_image
from captioning.data.tars import PICTURES, find_shards, write_shard

CONFIG = {
    "data_dir": "",  # shards; "" = drawn ones of 256 x 256 pixels, in a temporary folder
    "pictures": 4000,  # of drawn shards
    "shards": 8,  # of drawn shards
    "rounds": 3,
}


def write_shards(folder, config):
    """Write shards of pictures of smooth noise; return their pattern."""
    draw = np.random.default_rng(0)
    each = config["pictures"] // config["shards"]

    def sample(number):
        content = io.BytesIO()
        small = Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        small.resize((256, 256), Image.Resampling.BICUBIC).save(content, "JPEG")
        return f"{number:08}", {"jpg": content.getvalue(), "txt": b"a picture"}

    for shard in range(config["shards"]):
        write_shard(Path(folder, f"train-{shard:05}.tar"), map(sample, range(shard * each, (shard + 1) * each)))
    return f"{folder}/train-{{00000..{config['shards'] - 1:05}}}.tar"


def main(config):
    """Print the rates, and all of them as JSON."""
    config = config["bench"]
    try:
        import webdataset
    except ModuleNotFoundError:
        raise ValueError("webdataset is not installed: pip install webdataset") from None

    with tempfile.TemporaryDirectory() as folder:
        pattern = config["data_dir"] or write_shards(folder, config)
        examples = read_shards(pattern)
        order = np.random.default_rng(0).permutation(len(examples))

        def by_places():
            for number in order:
                load_image(examples[number].image)

        def by_webdataset():
            paths = [str(path) for path in find_shards([pattern])]
            for sample in webdataset.WebDataset(paths, shardshuffle=False, empty_check=False):
                load_image(io.BytesIO(next(content for name, content in sample.items() if name in PICTURES)))

        work = {"index": lambda: read_shards(pattern), "places": by_places, "webdataset": by_webdataset}
        seconds = {name: [] for name in work}
        for number in range(config["rounds"] + 1):
            for name, do in work.items():
                began = time.perf_counter()
                do()
                if number:  # after a warm-up
                    seconds[name].append(time.perf_counter() - began)
    rates = {name: len(examples) / statistics.median(found) for name, found in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:<12}{rate:>10,.0f} pictures/s")
    ratio = statistics.median(w / p for w, p in zip(seconds["webdataset"], seconds["places"], strict=True))
    result = {"bench": "shards", "pictures": len(examples), "places_over_webdataset": round(ratio, 2)}
    print(json.dumps(result | {"pictures_per_second": {name: round(rate) for name, rate in rates.items()}}))


if __name__ == "__main__":
    cli.run(main, {"bench": {"pictures": (1, 10**7), "shards": (1, 10**5), "rounds": (1, 100)}}, bench=CONFIG)

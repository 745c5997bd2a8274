"""How fast captions are scored, beside pycocoevalcap on the same captions, measured in the same run.

    pip install pycocoevalcap
    python benchmarks/bench_metrics.py                     # 5,000 images x 5 references, the size of COCO's test split
    python benchmarks/bench_metrics.py --num_images 1000 --runs 3

bleu, rouge_l, cider_d   captions/s of scores.metrics            baseline: pycocoevalcap's scorer on the same captions
all                      captions/s of the three in succession   baseline: the same
reward                   captions/s of CiderD.score in batches   baseline: pycocoevalcap's CIDEr-D of the batch alone

The captions are drawn: about 10.5 words each, of a vocabulary whose frequencies follow Zipf's law. pycocoevalcap gets
the words joined by blanks; no tokenizer runs. Scores that differ by more than 1e-9 end the run with an error. Rewards
are compared with pycocoevalcap's scores of the whole set, whose document frequencies they share; the baseline that
they are timed against counts the references of its batch anew, which is what a reward costs without CiderD.

The last line is JSON. Times are the median of several runs after a warm-up.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json
import os
import platform
import statistics
import time
from functools import partial

import numpy as np

from captioning import cli
from captioning.scores.metrics import CiderD, cider_d, corpus_bleu, rouge_l

CONFIG = {
    "num_images": 5000,  # one caption each
    "references": 5,  # captions per image
    "vocab_size": 10_000,  # words
    "batch_size": 1000,  # hypotheses per call of the reward
    "runs": 5,
}
TOLERANCE = 1e-9


def draw_captions(config, seed=0):
    """Return (hypotheses, references) of token ids: a hypothesis is a reference with 2 of 5 words drawn anew."""
    generator = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, config["vocab_size"] + 1)
    size = config["num_images"] * config["references"]
    lengths = np.maximum(generator.normal(10.5, 2.4, size).round().astype(int), 1)
    words = generator.choice(config["vocab_size"], lengths.sum(), p=frequency / frequency.sum())
    captions = np.split(words, np.cumsum(lengths)[:-1])
    groups = [captions[i : i + config["references"]] for i in range(0, size, config["references"])]
    hypotheses = []
    for group in groups:
        tokens = group[generator.integers(len(group))]
        other = generator.choice(config["vocab_size"], len(tokens), p=frequency / frequency.sum())
        hypotheses.append(np.where(generator.random(len(tokens)) < 0.4, other, tokens).tolist())
    return hypotheses, [[tokens.tolist() for tokens in group] for group in groups]


def time_in_turns(works, runs):
    """Return ([seconds of each of `works`, the median of `runs` after one warm-up], [what each returned])."""
    times, results = [[] for _ in works], [None for _ in works]
    for _ in range(runs + 1):
        for index, work in enumerate(works):
            begin = time.perf_counter()
            results[index] = work()
            times[index].append(time.perf_counter() - begin)
    return [statistics.median(taken[1:]) for taken in times], results


def check_equal(name, ours, theirs):
    """Return the largest difference. Raises ValueError if it is more than TOLERANCE."""
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"{name}: differs by {difference:g}, allowed is {TOLERANCE:g}")
    return difference


def main(config):
    """Print a line per rate, and all of them as JSON."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ValueError(f"this benchmark compares with pycocoevalcap, pip install it first ({error})") from None
    config = config["bench"]
    id_hypotheses, id_references = draw_captions(config)
    hypotheses = [[f"w{token}" for token in tokens] for tokens in id_hypotheses]
    references = [[[f"w{token}" for token in tokens] for tokens in group] for group in id_references]
    gts = {i: [" ".join(tokens) for tokens in group] for i, group in enumerate(references)}
    res = {i: [" ".join(tokens)] for i, tokens in enumerate(hypotheses)}
    baselines = {"bleu": Bleu(4), "rouge_l": Rouge(), "cider_d": Cider()}
    baselines["bleu"].compute_score = partial(baselines["bleu"].compute_score, verbose=0)  # it prints otherwise
    batch = np.random.default_rng(1).permutation(len(hypotheses))[: config["batch_size"]]
    batch_hypotheses = [id_hypotheses[i] for i in batch]
    batch_gts, batch_res = {i: gts[i] for i in batch}, {i: res[i] for i in batch}
    reward = CiderD(id_references)

    works = {  # name -> captions in a run, ours, the baseline
        name: (
            len(hypotheses),
            partial(score, hypotheses, references),
            partial(baselines[name].compute_score, gts, res),
        )
        for name, score in (("bleu", corpus_bleu), ("rouge_l", rouge_l), ("cider_d", cider_d))
    }
    works["reward"] = (
        len(batch),
        partial(reward.score, batch_hypotheses, batch),
        partial(baselines["cider_d"].compute_score, batch_gts, batch_res),
    )
    seconds, scores = {}, {}
    for name, (_, *pair) in works.items():
        seconds[name], scores[name] = time_in_turns(pair, config["runs"])
    captions = {name: count for name, (count, _, _) in works.items()}
    seconds["all"] = [sum(seconds[name][side] for name in baselines) for side in (0, 1)]
    captions["all"] = len(hypotheses)

    differences = {
        "bleu": check_equal("bleu", scores["bleu"][0], scores["bleu"][1][0]),
        "rouge_l": check_equal("rouge_l", scores["rouge_l"][0][1], scores["rouge_l"][1][1]),
        "cider_d": check_equal("cider_d", scores["cider_d"][0][1], scores["cider_d"][1][1]),
        "reward": check_equal("reward", scores["reward"][0], scores["cider_d"][1][1][batch]),
    }
    for name, (ours, theirs) in seconds.items():
        print(
            f"{name + ' captions/s':<22}{captions[name] / ours:>12,.0f}   baseline {captions[name] / theirs:>12,.0f}   "
            f"ratio {theirs / ours:>6.2f}   {1000 * ours:.1f} ms for {captions[name]:,}"
        )
    print(f"largest difference {max(differences.values()):.1e}, allowed {TOLERANCE:.0e}")
    ratios = {name: round(theirs / ours, 3) for name, (ours, theirs) in seconds.items()}
    rates = {name: round(captions[name] / ours, 1) for name, (ours, _) in seconds.items()}
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "numpy": np.__version__}
    print(
        json.dumps({"bench": "metrics", "ratio": ratios, "rate": rates, "difference": differences, "machine": machine})
    )


if __name__ == "__main__":
    cli.run(main, bench=CONFIG)

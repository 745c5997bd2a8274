"""Which pictures are copies of each other: the one test of the project, for datasets and for audits.

Two pictures are copies if their files are equal, or if both their perceptual hashes and their colours nearly agree. The
hash alone reads grey values: it takes a red and a blue ball, or two drawings on one background, for the same picture.
"""

import functools
import hashlib
import multiprocessing
import signal
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

from captioning.data.images import load_image
from captioning.data.tars import read_picture
from captioning.process import die_with_parent, without_interrupts

HASH_BITS = 64  # of a perceptual hash
NEAR_BITS = 4  # of 64: hashes of near copies differ in at most so many
NEAR_LEVELS = 60  # of 255: the thumbnails of near copies differ by no more at any place, in any colour
THUMBNAIL = 16  # pixels a side
BLOCK = 1024  # rows compared at a time: 1024 x 100,000 distances are 400 MB


class Picture(NamedTuple):
    """What copies are told by.

    digest: sha256 of the file; hash: (64,) bool perceptual hash; thumbnail: (768,) uint8, 16 x 16 in RGB
    """

    digest: str
    hash: np.ndarray
    thumbnail: np.ndarray


def describe_picture(image, path):
    """Return the Picture of a PIL image in RGB that was decoded from `path`, a file or a place in a shard."""
    digest = hashlib.sha256(read_picture(path)).hexdigest()
    thumbnail = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return Picture(digest, imagehash.phash(image).hash.flatten(), np.asarray(thumbnail).ravel())


def describe_image(path):
    """Return the Picture of an image file; None if it is unreadable."""
    try:
        return describe_picture(load_image(path, 4 * THUMBNAIL), path)
    except (ValueError, OSError):
        return None


@contextmanager
def process_map(num_workers, chunksize=16):
    """Give a lazy map over `num_workers` processes that keeps the order; 1 = this process.

    Raises ValueError if one of them dies, as those of a script without `if __name__ == "__main__"` do at once. (A
    multiprocessing.Pool would start others in their place, without end.)
    """
    if num_workers == 1:
        yield map
        return
    # spawn, as on every system: a forked child of a process with threads can hang. Ctrl-C is the parent's to handle.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, start_worker)
    try:
        with without_interrupts():
            for _ in range(num_workers):  # a process starts with a task for which none is idle
                pool.submit(int)
        yield functools.partial(pool.map, chunksize=chunksize)
    except BrokenProcessPool:
        raise ValueError(
            "a process of several died; a script of yours that starts them is a file, and calls them below "
            'if __name__ == "__main__":, or with one process'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker():
    """Leave Ctrl-C to the parent, end with it, and leave Pillow's warnings, which name no picture, aside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    warnings.filterwarnings("ignore", module=r"PIL\b")


def signs_of(hashes):
    """Return (N, 64) bool hashes as -1 and 1: the product of two rows is 64 - 2 * (bits that differ)."""
    return np.where(hashes, 1, -1).astype(np.float32)


def alike(signs, others, distance):
    """Return (R, N) bool: whether the hashes of R and of N pictures differ in at most `distance` bits."""
    return signs @ others.T >= HASH_BITS - 2 * distance


def colour_gaps(thumbnails, thumbnail):
    """Return (N,) the largest difference, 0..255, between each of (N, 768) thumbnails and one (768,)."""
    return np.abs(thumbnails.astype(np.int16) - thumbnail).max(axis=1)


class CopyGroups:
    """Which pictures are copies of each other, directly or through a third; they are numbered as they are added.

    distance: perceptual hashes of near copies differ in at most so many of 64 bits; -1 = equal files only
    """

    def __init__(self, distance):
        self.distance = distance
        self.group = np.zeros(0, dtype=np.int64)  # (N,) the smallest number in the picture's group
        self.exact = np.zeros(0, dtype=bool)  # (N,) True = an earlier picture has the same bytes
        self.signs = np.zeros((0, HASH_BITS), dtype=np.float32)
        self.thumbnails = np.zeros((0, 3 * THUMBNAIL**2), dtype=np.uint8)
        self.numbers = {}  # digest -> number of the first picture with it

    def add(self, pictures):
        """Add Pictures, at least one."""
        digests, hashes, thumbnails = zip(*pictures, strict=True)
        first = len(self.group)
        self.group = np.concatenate([self.group, np.arange(first, first + len(pictures))])
        self.signs = np.concatenate([self.signs, signs_of(np.stack(hashes))])
        self.thumbnails = np.concatenate([self.thumbnails, np.stack(thumbnails)])
        same = np.array([self.numbers.setdefault(digest, i) for i, digest in enumerate(digests, first)], dtype=int)
        self.exact = np.concatenate([self.exact, same != self.group[first:]])
        for number in np.flatnonzero(same != self.group[first:]):
            self.join(np.array([same[number], first + number]))
        if self.distance >= 0:
            for start in range(first, len(self.group), BLOCK):
                self.join_near(start, min(start + BLOCK, len(self.group)))

    def join_near(self, start, stop):
        """Join the pictures start..stop-1 with every earlier one that is a near copy."""
        near = alike(self.signs[start:stop], self.signs[:stop], self.distance)
        near[:, start:] &= np.tri(stop - start, k=-1, dtype=bool)
        for row in np.flatnonzero(near.any(axis=1)):
            self.join_colours(start + row, np.flatnonzero(near[row]))

    def join_colours(self, number, candidates):
        """Join a picture with those of `candidates` whose colours agree with its own.

        One picture of each group is compared first: where it agrees, the rest of its group need not be.
        """
        firsts = candidates[np.unique(self.group[candidates], return_index=True)[1]]
        agreeing = self.agreeing(number, firsts)
        rest = np.setdiff1d(candidates[~np.isin(self.group[candidates], self.group[agreeing])], firsts)
        self.join(np.concatenate([agreeing, self.agreeing(number, rest), [number]]))

    def agreeing(self, number, candidates):
        """Return those of `candidates` whose thumbnails nearly equal that of a picture."""
        return candidates[colour_gaps(self.thumbnails[candidates], self.thumbnails[number]) <= NEAR_LEVELS]

    def join(self, numbers):
        """Make one group of the groups of these pictures."""
        groups = np.unique(self.group[numbers])
        if len(groups) > 1:
            self.group[np.isin(self.group, groups)] = groups[0]

    def firsts(self):
        """The (N,) bool mask of the pictures that come first in their group."""
        return self.group == np.arange(len(self.group))


def find_copies(pictures, order):
    """Find pictures that stand in an earlier split too.

    pictures: N Pictures, at least one; order: (N,) rank of each one's split, 0 = train
    returns:  (kind, picture, copy): "exact" or "near", the number of a picture and of the one of an earlier split that
              it is nearest to
    """
    first, found = {}, []
    for number in np.argsort(order, kind="stable"):
        earlier = first.setdefault(pictures[number].digest, number)
        if order[earlier] < order[number]:
            found.append(("exact", int(number), int(earlier)))
    exact = {number for _, number, _ in found}
    signs = signs_of(np.stack([picture.hash for picture in pictures]))
    thumbnails = np.stack([picture.thumbnail for picture in pictures])
    for rank in range(1, int(order.max()) + 1):
        new, old = np.flatnonzero(order == rank), np.flatnonzero(order < rank)
        for start in range(0, len(new), BLOCK):
            rows = new[start : start + BLOCK]
            near = alike(signs[rows], signs[old], NEAR_BITS)
            for row in np.flatnonzero(near.any(axis=1)):
                candidates = old[near[row]]
                gaps = colour_gaps(thumbnails[candidates], thumbnails[rows[row]])
                if gaps.min() <= NEAR_LEVELS and rows[row] not in exact:
                    found.append(("near", int(rows[row]), int(candidates[gaps.argmin()])))
    return found

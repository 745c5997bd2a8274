"""Many short sequences in a few flat arrays, for an index that DataLoader workers share.

A list of 600,000 small tensors or strings costs hundreds of bytes for each, and every worker makes its own copy:
pickled where processes are spawned, and where they are forked as soon as it counts a reference to an object. A numpy
array counts none of its elements. Those of datasets larger than COCO are mapped from temporary files (in TMPDIR), which
are the system's to keep in memory or not.
"""

import os
import tempfile
from array import array
from itertools import chain

import numpy as np
import torch

from captioning.files import temporary_room

PAD_ID = 0  # <pad> is the first of vocab.SPECIALS
NUM_SPECIALS = 4  # <pad>, <start>, <end>, <unk>; the ids of words begin here
IN_MEMORY = 2**24  # numbers of one array that is built; COCO's train captions have 8 million ids


class Column:
    """Whole numbers that are appended one after another; many of them lie in a temporary file.

    typecode: of `array`
    """

    def __init__(self, typecode):
        self.recent, self.file, self.written = array(typecode), None, 0

    def __len__(self):
        return self.written + len(self.recent)

    def extend(self, numbers):
        """Append the numbers of an iterable. Raises ValueError if there is no room for them."""
        self.recent.extend(numbers)
        if len(self.recent) >= IN_MEMORY:
            if not self.file:
                self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `finish`
            with temporary_room():
                self.recent.tofile(self.file)
                self.file.flush()
            self.written += len(self.recent)
            del self.recent[:]

    def finish(self, smallest=False):
        """Return all of them as an array, one that is mapped where they lie in a file.

        smallest: in the smallest unsigned type that holds the largest
        """
        if not self.file:
            numbers = np.asarray(self.recent)
            return numbers.astype(np.min_scalar_type(numbers.max(initial=0))) if smallest else numbers
        with temporary_room(), self.file:
            self.recent.tofile(self.file)
            self.file.flush()
            numbers = np.memmap(self.file, self.recent.typecode)
        if not smallest:
            return numbers
        blocks = range(0, len(numbers), IN_MEMORY)
        dtype = np.min_scalar_type(max(numbers[start : start + IN_MEMORY].max() for start in blocks))
        with temporary_room(), tempfile.TemporaryFile() as file:
            for start in blocks:
                file.write(numbers[start : start + IN_MEMORY].astype(dtype).data)
            file.flush()
            return np.memmap(file, dtype)


class Sequences:
    """N sequences of whole numbers >= 0; s[i] is an array, a view that must not be written to.

    sequences: an iterable of iterables of int below 2**32; it is read once, so a generator needs no memory
    values:    (sum of lengths,) all of them end to end, in the smallest unsigned type that holds the largest
    starts:    (N + 1,) int64, where each begins; the last is where the last ends
    """

    def __init__(self, sequences):
        values, starts = Column("I"), Column("q")
        starts.extend((0,))
        for sequence in sequences:
            values.extend(sequence)
            starts.extend((len(values),))
        self.values, self.starts = values.finish(smallest=True), starts.finish()

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, index):
        index = range(len(self))[index]  # negative from the end; IndexError ends a for loop
        return self.values[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self):
        """(N,) int64."""
        return np.diff(self.starts)

    def padded(self, rows, pad_id=0):
        """Return the sequences `rows` (R,) as (R, T) int64, right-padded to the longest of them."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        columns = np.arange(lengths.max(initial=0))
        inside = columns < lengths[:, None]
        found = np.full(inside.shape, pad_id, dtype=np.int64)
        found[inside] = self.values[(self.starts[rows][:, None] + columns)[inside]]
        return found


class Paths:
    """N file names; p[i] is a str."""

    def __init__(self, paths):
        self.names = Sequences(map(os.fsencode, paths))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return os.fsdecode(self.names[index].tobytes())


class Captions:
    """The token ids of the captions of N images; c[i] is the list of an image's captions, each (T,) long.

    images:      an iterable with an item for each image, an iterable of captions, each an iterable of ids
    names_class: (M,) bool, True where a caption names the class of its image first; None = False for all captions
    ids:         Sequences of all M captions, image after image
    starts:      (N + 1,) int64, where the captions of each image begin; the last is M

    Raises ValueError if `names_class` has another length than the captions.
    """

    def __init__(self, images, names_class=None):
        starts = Column("q")

        def one_by_one():
            number = 0
            for captions in images:
                starts.extend((number,))
                for ids in captions:
                    number += 1
                    yield ids
            starts.extend((number,))

        self.ids = Sequences(one_by_one())
        self.starts = starts.finish()
        self.names_class = np.zeros(len(self.ids), dtype=bool) if names_class is None else np.asarray(names_class)
        if len(self.names_class) != len(self.ids):
            raise ValueError(f"names_class: got {len(self.names_class)} values for {len(self.ids)} captions")

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, index):
        return [torch.from_numpy(self.ids[row].astype(np.int64)) for row in self.rows(index)]

    def rows(self, index):
        """The positions in `ids` of an image's captions."""
        index = range(len(self))[index]
        return range(self.starts[index], self.starts[index + 1])

    def take(self, images):
        """Return the Captions of some of the images, in the order of their positions `images` (N,); of all, itself."""
        if np.array_equal(images, np.arange(len(self))):
            return self
        rows = [self.rows(index) for index in images]
        flags = self.names_class[np.fromiter(chain.from_iterable(rows), dtype=np.int64)]
        return Captions(((self.ids[row].tolist() for row in group) for group in rows), flags)

    @property
    def owner(self):
        """(M,) int64, the image of each caption."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

"""Flat arrays give back what was put in, whatever its lengths, and stay small where a worker gets them."""

import pickle

import numpy as np
import pytest
import torch

from captioning.data.sequences import Captions, Paths, Sequences


def test_sequences_come_back():
    given = [[3, 1], [], [255], [0, 0, 7]]
    sequences = Sequences(iter(given))
    assert [ids.tolist() for ids in sequences] == given
    assert sequences[-1].tolist() == [0, 0, 7]
    assert sequences.lengths.tolist() == [2, 0, 1, 3]
    with pytest.raises(IndexError):
        sequences[4]


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (65_536, np.uint32)])
def test_the_smallest_type_that_fits(largest, dtype):
    """An id that does not fit would come back as another word."""
    sequences = Sequences([[1, largest], [2]])
    assert sequences.values.dtype == dtype
    assert sequences[0].tolist() == [1, largest]


def test_nothing_at_all():
    assert len(Sequences([])) == len(Paths([])) == len(Captions([])) == 0
    assert Sequences([]).padded(np.array([], dtype=np.int64)).shape == (0, 0)


def test_padded_equals_pad_sequence():
    rng = np.random.default_rng(0)
    given = [rng.integers(1, 300, length).tolist() for length in rng.integers(1, 9, 20)]
    rows = rng.permutation(20)[:7]
    expected = torch.nn.utils.rnn.pad_sequence([torch.tensor(given[row]) for row in rows], True, 9)
    assert torch.equal(torch.from_numpy(Sequences(given).padded(rows, pad_id=9)), expected)


def test_paths_with_any_letter(tmp_path):
    names = [tmp_path / "a b.jpg", tmp_path / "그림.png", "plain"]
    assert list(Paths(names)) == [str(name) for name in names]


def test_captions_of_each_image_and_of_some():
    given = [[[1, 300, 2], [1, 2]], [], [[1, 7, 8, 2]]]
    captions = Captions(given)
    assert [[ids.tolist() for ids in image] for image in captions] == given
    assert captions[0][0].dtype == torch.long
    assert captions.owner.tolist() == [0, 0, 2]
    some = captions.take([2, 0])
    assert [[ids.tolist() for ids in image] for image in some] == [given[2], given[0]]


@pytest.mark.parametrize("in_memory", [1, 2, 7, 1000])
def test_many_numbers_lie_in_a_file_and_are_the_same(monkeypatch, in_memory):
    rng = np.random.default_rng(0)
    given = [
        [rng.integers(0, 60_000, rng.integers(1, 9)).tolist() for _ in range(rng.integers(0, 4))] for _ in range(30)
    ]
    names = [f"그림 {number}.jpg" for number in range(30)]
    monkeypatch.setattr("captioning.data.sequences.IN_MEMORY", in_memory)
    captions, paths = Captions(iter(given)), Paths(iter(names))
    assert isinstance(captions.ids.values, np.memmap) == isinstance(paths.names.starts, np.memmap) == (in_memory < 30)
    assert (captions.ids.values.dtype, paths.names.values.dtype) == (np.uint16, np.uint8)
    assert [[ids.tolist() for ids in image] for image in captions] == given
    assert list(paths) == names
    sent = pickle.loads(pickle.dumps(captions))
    assert [[ids.tolist() for ids in image] for image in sent] == given


def test_the_captions_of_all_images_are_these_captions():
    captions = Captions([[[1, 2]], [[1, 3, 2], [1, 2]]])
    assert captions.take(np.arange(2)) is captions
    assert captions.take(torch.tensor([1])).ids.values.tolist() == [1, 3, 2, 1, 2]


def test_what_a_worker_gets_is_little_more_than_the_ids():
    """A list of tensors pickles to some 500 bytes a caption; here 12 ids of 2 bytes, a start of 8 and a flag of 1."""
    captions = Captions([[[1, *range(300, 310), 2]] * 5] * 1000)
    assert len(pickle.dumps(captions)) < 5000 * (12 * 2 + 8 + 1) + 1000 * 8 + 1000

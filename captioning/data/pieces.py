"""Words in pieces, so that a small vocabulary says them all: byte-pair encoding, learned from the train captions.

The first piece of a word begins with MARK. Learning needs the library tokenizers, splitting a word does not, so a model
runs without it.
Source: Sennrich et al. 2016 (arXiv:1508.07909); pieces of characters, not of bytes.
"""

import json
from functools import lru_cache
from itertools import pairwise

MARK = "▁"  # captioning.data.tokenizer leaves none in a caption


def learn_pieces(counts, size, min_count=1):
    """Return (the pieces, single characters first, the merges in order, each two pieces with a blank between).

    counts:    Counter of words
    size:      pieces at most; the single characters are kept, even if they are more
    min_count: a character with fewer occurrences is no piece

    Raises ValueError if the library is missing.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError("--tokenizer pieces needs one more library: pip install tokenizers") from None
    characters = dict.fromkeys(sorted({MARK, *"".join(counts)}), 0)
    for word, count in counts.items():
        for character in MARK + word:
            characters[character] += count
    rare = {character for character, count in characters.items() if count < min_count}
    words = ((MARK + word, count) for word, count in sorted(counts.items()) if rare.isdisjoint(word))
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=min_count, show_progress=False, special_tokens=[])
    model.train_from_iterator((f"{word} " * count for word, count in words), trainer)
    ids = model.get_vocab()
    merges = model_merges(model)
    return sorted(ids, key=ids.get), merges


def model_merges(model):
    """Return the merges of a model of the library, each as "left right"."""
    return [
        " ".join(pair) if isinstance(pair, list) else pair for pair in json.loads(model.to_str())["model"]["merges"]
    ]


class Splitter:
    """Splits words into pieces.

    pieces: the pieces; merges: as of learn_pieces

    Raises ValueError if a merge is not of two pieces that make a third.
    """

    def __init__(self, pieces, merges):
        self.pieces = frozenset(pieces)
        pairs = [tuple(merge.split(" ")) for merge in merges]
        for pair in pairs:
            if len(pair) != 2 or not self.pieces.issuperset((*pair, "".join(pair))):
                raise ValueError(f"tokenizer: the merge {' '.join(pair)[:60]!r} is not of two pieces that make a third")
        self.rank = {pair: rank for rank, pair in enumerate(pairs)}
        self.split = lru_cache(2**16)(self._split)  # words repeat

    def _split(self, word):
        """Return the pieces of a word, a tuple; () if it has a character that is no piece."""
        pieces = list(MARK + word)
        if not self.pieces.issuperset(pieces):
            return ()
        while True:
            ranked = [(self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(pairwise(pieces))]
            rank, place = min(ranked, default=(len(self.rank), 0))
            if rank == len(self.rank):
                return tuple(pieces)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]

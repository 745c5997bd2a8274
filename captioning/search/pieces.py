"""What a search whose tokens are pieces of words counts in words: the limits of its length, and repeated n-grams."""

import numpy as np

TOKENS_PER_WORD = 10  # pieces of the longest word that is said


class Pieces:
    """Which tokens begin a word.

    begins: (V,) bool, True for the first piece of a word and for the specials
    """

    def __init__(self, begins):
        self.begins = np.asarray(begins, dtype=bool)

    def words(self, ids):
        """Return token ids as words, each the tuple of its pieces."""
        words = []
        for token in ids:
            if self.begins[token] or not words:
                words.append((token,))
            else:
                words[-1] += (token,)
        return words

    def forbidden(self, said, options, end):
        """Return (N, V) bool, True for tokens that may not come after the tokens `said` (N, t).

        A caption has at least min_len words and at most max_len - 1, since <end> counts as one. It begins with the
        beginning of a word, and a word has at most TOKENS_PER_WORD pieces. No run of no_repeat_ngram words occurs
        twice; words are compared piece by piece.
        """
        said = np.asarray(said, dtype=np.int64).reshape(len(said), -1)
        num_words = self.begins[said].sum(axis=1)
        is_end = np.arange(len(self.begins)) == end
        first = self.begins & ~is_end
        mask = (num_words >= options.max_len - 1)[:, None] & first
        going = self.begins[said[:, 1 - TOKENS_PER_WORD :]].any(
            axis=1
        )  # False: nothing is said, or the word is too long
        mask |= ~going[:, None] & ~self.begins
        mask |= (num_words < options.min_len)[:, None] & is_end
        if options.no_repeat_ngram:
            for row, ids in zip(mask, said.tolist(), strict=True):
                row[self.repeating(ids, options.no_repeat_ngram)] = True
        return mask

    def repeating(self, ids, size):
        """Return the tokens after which the last `size` words would stand in the caption `ids` twice."""
        words, found = self.words(ids), []
        for first in range(len(words) - size + 1):
            *before, last = words[first : first + size]
            if words[len(words) - size + 1 :] == before and len(last) == 1:
                found.append(last[0])  # begins a word, and is one
            going = words[-1]  # the word that the token would go on with
            others = words[len(words) - size : -1]
            if first < len(words) - size and others == before and last[:-1] == going:
                found.append(last[-1])
        return found

"""Whether captions tell pictures apart at all: how often the commonest is said, by a model or by a dataset."""

from collections import Counter

SAME_SHARE = 0.9  # from here on a model says one thing for everything
FEWEST = 4  # captions, before anything is said about them


def commonest(captions):
    """Return (the commonest of N captions, its share 0..1); N >= 1."""
    caption, count = Counter(captions).most_common(1)[0]
    return caption, count / len(captions)


def shared_caption(captions):
    """Return (the caption that nearly all of N captions are, how many of them); ("", 0) where there is none.

    captions: strings; an iterable that can be gone through twice, and is not held in memory

    Of fewer than FEWEST captions there is none. What more than half of them are is found by one candidate and its lead:
    Boyer and Moore 1991 (doi:10.1007/978-94-011-3488-0_5).
    """
    candidate, lead, number = "", 0, 0
    for caption in captions:
        number += 1
        if not lead:
            candidate = caption
        lead += 1 if caption == candidate else -1
    count = sum(caption == candidate for caption in captions)
    return (candidate, count) if number >= FEWEST and count >= SAME_SHARE * number else ("", 0)


def one_for_all(captions, split):
    """Return a line about a split's captions (as `shared_caption` takes them) if nearly all are the same, else ""."""
    caption, number = shared_caption(captions)
    if not number:
        return ""
    told = f"{number:,} of {sum(1 for _ in captions):,} captions of the {split} split are {caption!r:.80}"
    return f"{told}: they do not tell the pictures apart"


def sameness(captions):
    """Return a sentence about captions that do not tell pictures apart, "" where they do.

    captions: strings, one of each picture
    """
    caption, number = shared_caption(captions)
    if not number:
        return ""
    pictures = f"{number:,} of {len(captions):,} pictures"
    if not caption:
        return f"the model says nothing about {pictures}: it has not learned to caption."
    return f"the model says {caption!r} about {pictures}: it has not learned to tell them apart."

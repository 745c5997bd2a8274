"""Whether captions tell pictures apart at all: how often the commonest is said, by a model or by a dataset."""

from collections import Counter

SAME_SHARE = 0.9  # from here on a model says one thing for everything
FEWEST = 4  # captions, before anything is said about them


def commonest(captions):
    """Return (the commonest of N captions, its share 0..1); N >= 1."""
    caption, count = Counter(captions).most_common(1)[0]
    return caption, count / len(captions)


def one_for_all(captions, split):
    """Return a line about a split whose captions are nearly all the same, "" where they are not; see `sameness`."""
    if len(captions) < FEWEST:
        return ""
    caption, share = commonest(captions)
    if share < SAME_SHARE:
        return ""
    number = f"{round(share * len(captions)):,} of {len(captions):,} captions of the {split} split"
    return f"{number} are {caption!r:.80}: they do not tell the pictures apart"


def sameness(captions):
    """Return a sentence about captions that do not tell pictures apart, "" where they do.

    captions: strings, one of each picture; with fewer than FEWEST nothing is said
    """
    if len(captions) < FEWEST:
        return ""
    caption, share = commonest(captions)
    if share < SAME_SHARE:
        return ""
    number = f"{round(share * len(captions)):,} of {len(captions):,} pictures"
    if not caption:
        return f"the model says nothing about {number}: it has not learned to caption."
    return f"the model says {caption!r} about {number}: it has not learned to tell them apart."

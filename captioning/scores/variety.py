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

    Of fewer than FEWEST captions there is none.
    """
    if len(captions) < FEWEST:
        return "", 0
    caption, share = commonest(captions)
    return (caption, round(share * len(captions))) if share >= SAME_SHARE else ("", 0)


def one_for_all(captions, split):
    """Return a line about a split whose captions are nearly all the same, "" where they are not."""
    caption, number = shared_caption(captions)
    if not number:
        return ""
    told = f"{number:,} of {len(captions):,} captions of the {split} split are {caption!r:.80}"
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

"""What is left out of a dataset: counted, the first named, and refused where it is more than a small share."""

import re
from collections import Counter, defaultdict

SHARE = 0.05  # of a dataset's captions, of its images or of its pictures; more left out is an error
SHARE_OF_ENDINGS = 0.5  # of the pictures; those of a kind that is not read cannot be had by looking elsewhere
MAX_CAPTION = 5000  # characters, about 900 words; one long caption makes its whole batch as long
NO_CAPTION = {"nan", "none", "null", "n/a", "#n/a", "na", "<na>"}  # what tables write for an empty cell
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell half a character; no file can hold it


class Omissions:
    """What a reader leaves out of one dataset.

    found:  kind -> a line for each, which names the file and the place
    total:  kind -> how many there were to read
    silent: names of the images without a caption

    Kinds: "captions" (rows of them), "images" (those without a caption), "splits" (images without one, where others
    have one), "pictures" (files that are not there), "endings" (files of a kind that is not read).
    """

    def __init__(self):
        self.found, self.total, self.silent = defaultdict(list), Counter(), []

    def add(self, kind, line):
        """Leave one out."""
        self.found[kind].append(line)

    def caption(self, text, path, where):
        """Return the caption without outer spaces; "" if it is left out."""
        self.total["captions"] += 1
        if problem := caption_problem(text):
            self.add("captions", f"{path}: {where}: {problem}")
            return ""
        return text.strip()

    def image(self, name, path):
        """Leave out an image without a caption."""
        self.silent.append(name)
        self.add("images", f"{path}: no caption for {name}")

    def settle(self, allow_missing=False, advice=()):
        """Say what was left out, a line for each kind.

        allow_missing: however many pictures are missing, it is no error; advice: what can be done about them, a list
        Raises ValueError where it is more than a small share; a single caption or image never is.
        """
        allowed = {kind: max(1, SHARE * self.total[kind]) for kind in ("captions", "images", "splits")}
        allowed["pictures"] = self.total["pictures"] if allow_missing else SHARE * self.total["pictures"]
        allowed["endings"] = SHARE_OF_ENDINGS * self.total["endings"]
        for kind, most in allowed.items():
            if lines := self.found[kind]:
                noun = {"endings": "pictures", "splits": "images"}.get(kind, kind)
                count = f"{len(lines):,} of {self.total[kind]:,} {noun}"
                if len(lines) > most or len(lines) == self.total[kind]:
                    hints = list(advice) if kind == "pictures" else []
                    if len(lines) > most:
                        hints = [f"at most {int(most):,} may be left out", *hints]
                    raise ValueError(f"{'; '.join([f'{lines[0]} ({count}', *hints])})")
                print(f"warning: {lines[0]}; left out ({count})")


def caption_problem(text):
    """Return what is wrong with a caption, "" = nothing: no letter or digit, half a character, too many of them."""
    if len(text) > MAX_CAPTION:
        return f"caption {text[:40]!r}... has {len(text):,} characters, allowed are {MAX_CAPTION:,}"
    if not text[:1].isalnum() and not any(map(str.isalnum, text)):
        return f"empty caption {text!r}"
    if text.strip().lower() in NO_CAPTION:
        return f"caption {text!r}, which stands for none"
    if "\0" in text:
        return f"caption {text!r:.80} has a NUL character, which is no text"
    if not text.isascii() and _SURROGATE.search(text):
        return f"caption {text!r:.80} has half of a surrogate pair, which is no text"
    return ""


def checked_caption(caption, path, where):
    """Return the caption without outer spaces. Raises ValueError, naming the file and the place, if it is unusable."""
    if problem := caption_problem(caption):
        raise ValueError(f"{path}: {where}: {problem}")
    return caption.strip()

"""How much a picture is like the pictures that a model was trained on; numpy alone.

The encoder describes a picture by the mean and the standard deviation of each channel that some of its blocks put out.
For each of these blocks the description, scaled to length 1, is projected on the principal components of the train
pictures' descriptions; what the projection leaves is larger for a picture of another kind. The logarithms of these
residuals, standardised on the validation split, are summed: the distance. The familiarity of a picture is the share of
validation pictures that have a larger distance.

Source: the residual of Wang et al. 2022 (ViM, arXiv:2203.10807), here of several blocks instead of the last layer.
"""

import base64
import binascii
from dataclasses import dataclass

import numpy as np

COMPONENTS = (16, 64, 64, 32)  # of each described block, first to last; chosen on validation splits
UNLIKE = 0.05  # pictures of a lower familiarity are unlike the training pictures; 5 % of the validation pictures are
FEWEST_TRAIN, FEWEST_VAL = 100, 20  # pictures; with fewer the distance, and the share, say nothing
NUM_QUANTILES = 101
SMALLEST = 1e-6  # residual
MAX_WIDTH = 16384  # channels of a block, twice
KEYS = {"widths", "means", "scales", "bases", "centres", "spreads", "quantiles"}


@dataclass(frozen=True)
class Familiarity:
    """What the training pictures of a model look like.

    means:     for each described block the mean description (W,), W = 2 * channels
    scales:    (K,) for each block, multiplied with
    bases:     (K, W) int8 for each block: the principal components
    centres:   of the log residual of each block on the validation split; spreads: its standard deviation
    quantiles: (101,) of the distance on the validation split, in percent steps
    """

    means: list
    scales: list
    bases: list
    centres: np.ndarray
    spreads: np.ndarray
    quantiles: np.ndarray

    def __call__(self, descriptions):
        """(N, sum of W) descriptions -> (N,) familiarity, 0..1."""
        distances = ((self.log_residuals(descriptions) - self.centres) / self.spreads).sum(1)
        shares = np.linspace(1, 0, NUM_QUANTILES)
        # Without a spread all validation pictures are one; what is NaN is like none of them.
        return np.nan_to_num(np.interp(distances, self.quantiles, shares, left=1.0, right=0.0), nan=0.0)

    def log_residuals(self, descriptions):
        """(N, sum of W) descriptions -> (N, blocks)."""
        ends = np.cumsum([len(mean) for mean in self.means])
        if descriptions.shape[1] != ends[-1]:
            raise ValueError(f"familiarity: descriptions of {descriptions.shape[1]} numbers, {ends[-1]} are needed")
        columns = []
        for part, mean, scale, basis in zip(
            np.split(descriptions, ends[:-1], axis=1), self.means, self.scales, self.bases, strict=True
        ):
            rest, components = unit_length(part) - mean, basis * scale[:, None]
            rest = rest - (rest @ components.T) @ components
            columns.append(np.log(np.maximum(np.linalg.norm(rest, axis=1), SMALLEST)))
        return np.stack(columns, axis=1)

    def to_json(self):
        """Return a dict of lists and base64 texts, which from_json reads."""
        return {
            "widths": [len(mean) for mean in self.means],
            "means": [to_text(mean, "<f2") for mean in self.means],
            "scales": [to_text(scale, "<f4") for scale in self.scales],
            "bases": [to_text(basis, "i1") for basis in self.bases],
            "centres": self.centres.tolist(),
            "spreads": self.spreads.tolist(),
            "quantiles": self.quantiles.tolist(),
        }

    @classmethod
    def from_json(cls, parts):
        """Return the Familiarity of what to_json returned, None of {}. Raises ValueError, one line, for others."""
        if not parts:
            return None
        if set(parts) != KEYS:
            raise ValueError(f"'familiarity' has {sorted(parts)}, must have {', '.join(sorted(KEYS))}")
        widths = parts["widths"]
        if not isinstance(widths, list) or not widths or not all(type(w) is int and 0 < w <= MAX_WIDTH for w in widths):
            raise ValueError("'familiarity' has widths that are no numbers of channels")
        means, scales, bases = (
            [from_text(text, kind) for text in listed(parts, name, len(widths))]
            for name, kind in (("means", "<f2"), ("scales", "<f4"), ("bases", "i1"))
        )
        for width, mean, scale, basis in zip(widths, means, scales, bases, strict=True):
            if len(mean) != width or not len(scale) or len(basis) != len(scale) * width:
                raise ValueError("'familiarity' has components that do not fit their block")
        bases = [basis.reshape(len(scale), -1) for scale, basis in zip(scales, bases, strict=True)]
        centres, spreads, quantiles = (
            numbers(parts, name, length)
            for name, length in (("centres", len(widths)), ("spreads", len(widths)), ("quantiles", NUM_QUANTILES))
        )
        if not (spreads > 0).all() or (np.diff(quantiles) < 0).any():
            raise ValueError("'familiarity' has spreads of 0, or quantiles that fall")
        return cls(means, scales, bases, centres, spreads, quantiles)


def fit_familiarity(train, val, widths):
    """Return the Familiarity of a model, None if there are too few pictures.

    train, val: (N, sum of widths) descriptions of pictures of the two splits; widths: of each described block
    """
    if len(train) < FEWEST_TRAIN or len(val) < FEWEST_VAL:
        return None
    means, scales, bases = [], [], []
    for part, most in zip(np.split(train, np.cumsum(widths)[:-1], axis=1), COMPONENTS, strict=True):
        units = unit_length(part)
        means.append(units.mean(0).astype(np.float16).astype(np.float32))
        _, _, components = np.linalg.svd(units - means[-1], full_matrices=False)
        components = components[: min(most, len(train) // 4)]
        scales.append((np.abs(components).max(1) / 127).astype(np.float32))
        bases.append(np.rint(components / scales[-1][:, None]).astype(np.int8))
    blocks = len(widths)
    parts = Familiarity(means, scales, bases, np.zeros(blocks), np.ones(blocks), np.zeros(NUM_QUANTILES))
    residuals = parts.log_residuals(val)
    centres, spreads = residuals.mean(0), np.maximum(residuals.std(0), SMALLEST)
    quantiles = np.quantile(((residuals - centres) / spreads).sum(1), np.linspace(0, 1, NUM_QUANTILES))
    return Familiarity(means, scales, bases, centres, spreads, quantiles)


def is_unlike(familiarity):
    """Return True if a picture of this familiarity is unlike the training pictures; None = not known."""
    return familiarity is not None and familiarity < UNLIKE


def unlike_warning(num_unlike, number, model):
    """Return a sentence that says how many of `number` pictures are unlike a model's training pictures."""
    if not num_unlike:
        return ""
    verb = "is" if num_unlike == 1 else "are"
    which = "the picture" if number == 1 else f"{num_unlike} of {number} pictures"
    whose = "its caption" if num_unlike == 1 else "their captions"
    return f"{which} {verb} unlike the training pictures of {model}; do not trust {whose}"


def unit_length(rows):
    """Scale each row of (N, W) to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SMALLEST)


def to_text(array, kind):
    """Return the base64 text of an array in a numpy type."""
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def from_text(text, kind):
    """Return the finite one-dimensional array of a base64 text. Raises ValueError."""
    try:
        array = np.frombuffer(base64.b64decode(text, validate=True), kind)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError("'familiarity' holds something other than base64 of numbers") from None
    if not np.isfinite(array).all():
        raise ValueError("'familiarity' holds NaN or infinity")
    return array if array.dtype == np.int8 else array.astype(np.float32)


def listed(parts, name, length):
    """Return the list of this name. Raises ValueError unless it has this length."""
    if not isinstance(parts[name], list) or len(parts[name]) != length:
        raise ValueError(f"'familiarity' must have {length} {name}")
    return parts[name]


def numbers(parts, name, length):
    """Return the array of a list of finite numbers of this length. Raises ValueError."""
    values = listed(parts, name, length)
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):  # true is no number
        raise ValueError(f"'familiarity' has {name} that are no numbers")
    return np.array(values, dtype=float)

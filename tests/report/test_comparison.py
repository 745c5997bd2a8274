"""The sentences of a comparison."""

import pandas as pd
import pytest

from captioning.report import comparison


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "a is better in BLEU-4"),
        (-0.3, -0.1, "b is better in BLEU-4"),
        (-0.1, 0.3, "no significant difference"),
    ],
)
def test_verdicts_claim_what_the_interval_allows(low, high, verdict):
    row = {
        "metric": "BLEU-4",
        "first": 0.5,
        "second": 0.4,
        "difference": (low + high) / 2,
        "low": low,
        "high": high,
        "p": 0.1,
    }
    assert verdict in comparison.verdicts(pd.DataFrame([row]), "a", "b")[0]

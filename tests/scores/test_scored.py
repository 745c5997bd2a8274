"""One score sheet: every text is tokenised once, every set of n-grams counted once."""

from collections import Counter

import pandas as pd
from studies import predict, study

from captioning.data import tokenizer
from captioning.report import tables as report
from captioning.scores import bootstrap, grounding, metrics


def test_each_text_is_tokenised_once_and_its_ngrams_counted_once(monkeypatch):
    """A report of 20 images once tokenised 484 times, with 58 set-ups of BLEU and 44 of CIDEr-D."""
    tokenised, counted_ngrams, ciders = Counter(), [], []
    plain, count, cider = tokenizer.tokenize, metrics.bleu_counts, metrics.CiderD.__init__

    def tokenize(text, *mode):
        tokenised[text] += 1
        return plain(text, *mode)

    def bleu_counts(*args):
        counted_ngrams.append(args)
        return count(*args)

    def count_cider(self, references):
        ciders.append(references)
        cider(self, references)

    for module in (tokenizer, grounding):
        monkeypatch.setattr(module, "tokenize", tokenize)
    for module in (metrics, bootstrap, report):
        monkeypatch.setattr(module, "bleu_counts", bleu_counts)
    monkeypatch.setattr(metrics.CiderD, "__init__", count_cider)
    monkeypatch.setattr(report, "reference_table", lambda *args: study_table)  # counts its own
    study_table = pd.DataFrame({"references": [1]})
    predictions = [
        predict(label, f"a {label} number {n}", f"one {label} {n}", f"the {label} {n} here", name=f"{n}.jpg")
        for label in ("cat", "dog")
        for n in range(10)
    ]
    scored = study(predictions, aliases={"cat": ["kitten"]}).scored
    texts = {text for p in predictions for text in p.example.captions}
    assert {text: number for text, number in tokenised.items() if text in texts} == dict.fromkeys(texts, 1)
    assert not any(p.caption in tokenised for p in predictions), "a caption is its tokens already"
    own = [args for args in counted_ngrams if args[0] == scored.hypotheses]
    assert len(own) == 1
    assert len(counted_ngrams) == 1 + 2, (
        "and each of two references against the other, for the agreement of the classes"
    )
    assert len(ciders) == 1

"""The scores of captions, their recipes, and the Java metrics where there is a Java."""

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from captioning.scores.recipes import RECIPES, caption_scores, java_scores, recipe
from captioning.search.options import SearchOptions

# Meteor's __del__ writes to its java, which has ended.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _clean_up():
    """Delete the Meteor of a test within the test, not in whichever runs next."""
    yield
    gc.collect()


def test_caption_scores_of_perfect_captions():
    references = [[f"a {colour} sun on a field".split(), ["sun"]] for colour in ("red", "blue")]
    scores = caption_scores([texts[0] for texts in references], references)
    assert set(scores) == {"bleu1", "bleu2", "bleu3", "bleu4", "sentence_bleu4", "rouge_l", "cider_d"}
    for name in ("bleu1", "bleu4", "sentence_bleu4", "rouge_l"):
        assert scores[name] == pytest.approx(1.0, abs=1e-6)
    assert all(type(value) is float for value in scores.values())


def test_recipes_tell_what_a_score_depends_on():
    expected = f"bleu4|corpus|refs:5|tok:nltk-coco|smooth:none|{SearchOptions().recipe()}|n:210"
    assert recipe("bleu4", references=5, options=SearchOptions(), count=210) == expected
    for metric in RECIPES:
        text = recipe(metric, references=5, options=SearchOptions(beam_size=3, consensus=0), count=7)
        assert text.endswith("|beam:3|length_penalty:0.7|max_len:30|n:7")
        assert "{" not in text


# ---- METEOR and SPICE


PAIRS = [["a", "red", "sun", "on", "a", "field"], []], [[["a", "red", "sun", "on", "a", "field"]], [["a", "sun"]]]


def only_java(folder, monkeypatch, script):
    """Make `script` the only program on the PATH, under the name java."""
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def spice_folder():
    pytest.importorskip("pycocoevalcap")
    return Path(next(iter(find_spec("pycocoevalcap").submodule_search_locations)), "spice")


def test_without_pycocoevalcap_java_metrics_are_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert java_scores(*PAIRS) == ({}, dict.fromkeys(["meteor", "spice"], "pycocoevalcap is not installed"))


def test_without_java_java_metrics_are_skipped(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    expected = ({}, dict.fromkeys(["meteor", "spice"], "there is no java that runs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert java_scores(*PAIRS) == expected
    only_java(tmp_path, monkeypatch, "exit 1")
    assert java_scores(*PAIRS) == expected


def test_a_java_that_ends_early_is_named_and_does_not_hang(tmp_path, monkeypatch):
    """Meteor once waited in its __del__ for the lock that its failed compute_score held."""
    spice_folder()
    only_java(tmp_path, monkeypatch, "exit 0")
    scores, skipped = java_scores(*PAIRS)
    assert not scores
    assert skipped["meteor"].startswith("its java gave no score (")


def test_spice_without_its_models_downloads_nothing(tmp_path, monkeypatch):
    folder = spice_folder()
    before = sorted(folder.rglob("*.jar"))
    if any("models" in path.name for path in before):
        pytest.skip("Stanford's models are there")
    only_java(tmp_path, monkeypatch, "exit 0")
    _, skipped = java_scores(*PAIRS)
    assert "stanford-corenlp-3.6.0-models.jar" in skipped["spice"]
    assert sorted(folder.rglob("*.jar")) == before


@pytest.mark.skipif("TEST_METEOR" not in os.environ, reason="java reads METEOR's tables for long: set TEST_METEOR=1")
def test_meteor_runs_where_java_does():
    pytest.importorskip("pycocoevalcap")
    scores, skipped = java_scores([PAIRS[0][0]], [PAIRS[1][0]])
    if "meteor" in skipped:
        pytest.skip(skipped["meteor"])
    assert scores["meteor"] == pytest.approx(1.0)

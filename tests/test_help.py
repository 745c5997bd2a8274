"""--help explains every setting as its line of CONFIG does."""

import importlib
from pathlib import Path

import processes
import pytest
from test_docs import shared_configs

from captioning import help as help_module
from captioning.help import help_text, read_settings, show

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_key_with_comment_limits_and_default(script, capsys, monkeypatch):
    """It runs as the user runs it; 64 flags of train.py once had names and defaults alone."""
    done = processes.run([str(ROOT / script), "--help"], ROOT, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert "Reads" in done.stdout
    assert "Writes" in done.stdout
    text = words(done.stdout)
    configs, limits = shared_configs(script)
    for name, config in configs.items():
        settings = read_settings(help_module.source_of(config))
        assert [setting.key for setting in settings] == list(config)
        for setting in settings:
            flag = f"--{name}.{setting.key}" if len(configs) > 1 else f"--{setting.key}"
            assert setting.comment, f"{script}: {setting.key} has no comment"
            assert setting.heading != "settings", f"{script}: {setting.key} stands under no heading"
            assert f" {flag} " in text
            told = setting.comment
            if isinstance(limits.get(name, {}).get(setting.key), tuple):
                told += "; {:.12g} to {:.12g}".format(*limits[name][setting.key])
            assert words(f"{told}; default {show(config[setting.key])}") in text
            assert setting.heading in text
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_help_wraps_to_the_terminal(monkeypatch):
    importlib.import_module("train")
    configs, limits = shared_configs("train.py")
    for columns in (70, 110):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = help_text("What it does.", configs, limits)
        assert max(map(len, text.splitlines())) <= columns
        assert "stage 2: fine-tune the last blocks of the encoder as well" in text


def test_an_edited_default_is_the_one_that_is_shown(monkeypatch):
    vocab = importlib.import_module("vocab")
    monkeypatch.setitem(vocab.CONFIG, "min_count", 7)
    text = help_text("", {"vocab": vocab.CONFIG}, {"vocab": {"min_count": (1, 9)}})
    assert "1 to 9; default 7" in words(text)

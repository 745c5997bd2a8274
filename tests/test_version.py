"""One version, wherever it is told."""

import re
from pathlib import Path

import captioning
from captioning.runtime import versions

ROOT = Path(__file__).resolve().parents[1]


def test_all_files_tell_the_same_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", captioning.__version__)
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    changes = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert cited == changes[0] == captioning.__version__
    assert versions()["captioning"] == captioning.__version__, "what checkpoints carry"

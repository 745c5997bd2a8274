"""What README and docs say can be done: files are there, flags exist, the Python runs."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioning import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "checkpoints/README.md"]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def commands(text):
    """Return the python commands of a page's code, fenced or inline, as lists of words; $NAME is left as it is."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    lines += re.findall(r"`(python \S+\.py[^`]*)`", text.replace("\n", " "))
    parts = [part for line in lines for part in re.split(r"&&|\|", line) if re.match(r"\s*python \S+\.py", part)]
    return [shlex.split(part, comments=True)[1:] for part in parts]


positionals = {}  # script -> the setting that takes arguments without a flag


def shared_configs(script):
    """Return (name -> CONFIG dict, name -> limits) of the last lines of a script."""
    module = importlib.import_module(script.removesuffix(".py"))
    seen = {}

    def record(main, limits=None, positional="", ranks=False, **configs):
        seen.update(configs=configs, limits=limits or {}, positional=positional)

    source = (ROOT / script).read_text(encoding="utf-8")
    ending = source[source.rindex('if __name__ == "__main__":') :].splitlines()[1:]
    code = "\n".join(line.removeprefix("    ") for line in ending)
    exec(code, vars(module) | {"cli": type("recorder", (), {"run": staticmethod(record)})})
    positionals[script] = seen["positional"]
    return seen["configs"], seen["limits"]


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_scripts_and_flags_that_are_there(name):
    for script, *words in commands((ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), f"{name}: {script}"
        if "/" in script:  # a benchmark
            assert all(f'"{word[2:]}"' in (ROOT / script).read_text() for word in words if word.startswith("--")), words
            continue
        configs, _ = shared_configs(script)
        numbers = (words[place - 1].startswith("--") for place in range(len(words)))
        words = [
            "1" if is_value and word.startswith("$") else word for is_value, word in zip(numbers, words, strict=True)
        ]
        words = [word for word in words if not word.startswith("$") and word != "--help"]
        cli.normalise_arguments(words, configs, positionals[script])  # raises ValueError for what is not there


def test_the_test_of_commands_sees_a_wrong_flag():
    configs, _ = shared_configs("vocab.py")
    with pytest.raises(ValueError, match="did you mean --min_count"):
        cli.normalise_arguments(["--min_cuont", "3"], configs)
    (found,) = commands("```sh\npython vocab.py --min_count 3 \\\n    --data_dir x  # why\n```")
    assert found == ["vocab.py", "--min_count", "3", "--data_dir", "x"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or ((ROOT / name).parent / target).is_file(), f"{name}: {target}"


def test_the_first_page_is_short_and_links_its_translation():
    english, korean = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))
    assert len(english.encode()) <= 9000
    assert len(korean) <= 9000
    assert "(README.ko.md)" in english
    assert "(README.md)" in korean
    assert "make demo" in english
    assert "make test" in english
    codes = [re.findall(r"```(?:sh|python)\n(.*?)```", text, re.S) for text in (english, korean)]
    plain = [[re.sub(r"\s+#.*|<.*?>", "", code) for code in page] for page in codes]
    assert plain[0] == plain[1], "the same commands in both languages"


def test_the_python_of_the_first_page_runs_as_it_stands():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert len(result.stdout.split()) >= 4, result.stderr


def test_the_pictures_of_the_pages_are_small():
    for path in (ROOT / "docs").glob("*.png"):
        assert path.stat().st_size < 300_000
        with Image.open(path) as picture:
            assert min(picture.size) > 300

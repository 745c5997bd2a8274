"""The command line as its user meets it: real processes, one line per mistake, exit code 2."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train
from captioning import cli
from captioning.cli import normalise_arguments
from captioning.search import options

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from captioning import cli

def main(config):
    if config["train"]["run"] == "missing":
        open("no/such/file")
    if config["train"]["run"] == "defect":
        raise RuntimeError("ours")
    print(config)

TRAIN = {{"epochs": 5, "lr": 1e-3, "resume": False, "run": "", "names": ["a"]}}
if __name__ == "__main__":
    cli.run(main, train=TRAIN{more})
"""


@pytest.fixture
def script(tmp_path):
    """Return a function that runs the script with flags; two=True gives it a second dict."""

    def run(*flags, two=False):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(root=str(ROOT), more=', model={"hidden_size": 8}' if two else ""))
        return subprocess.run([sys.executable, str(path), *flags], capture_output=True, text=True, cwd=tmp_path)

    return run


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ([], {}),
        (["--epochs", "3"], {"epochs": 3}),
        (["--train.epochs=3", "--lr", "-1"], {"epochs": 3, "lr": -1.0}),
        (["--resume"], {"resume": True}),
        (["--resume", "true"], {"resume": True}),
        (["--resume", "false"], {"resume": False}),
        (["--no-resume"], {"resume": False}),
        (["--names", "x", "y"], {"names": ["x", "y"]}),
        (["--run=-x"], {"run": "-x"}),
    ],
)
def test_flags_set_keys(script, flags, changed):
    result = script(*flags)
    assert result.returncode == 0, result.stderr
    default = {"epochs": 5, "lr": 1e-3, "resume": False, "run": "", "names": ["a"]}
    assert eval(result.stdout) == {"train": default | changed}


@pytest.mark.parametrize(
    ("flags", "two", "line"),
    [
        (["--train.epoch", "3"], True, "error: unknown key --train.epoch: did you mean --train.epochs?"),
        (["--epoch", "3"], False, "error: unknown key --epoch: did you mean --epochs?"),
        (["--epochs", "x"], False, "error: --train.epochs: got 'x', allowed is a whole number"),
        (["--lr", "fast"], False, "error: --train.lr: got 'fast', allowed is a number"),
        (["--epochs"], False, "error: --train.epochs: takes one value, got 0"),
        (["--run", "0.tar", "1.tar"], False, "error: --train.run: takes one value, got 2; a pattern, or a"),
        (["--resume", "maybe"], False, "error: --train.resume: got 'maybe', allowed are true and false"),
        (["here"], False, "error: unexpected argument 'here'"),
        (["--run", "missing"], False, "error: no/such/file: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, flags, two, line):
    result = script(*flags, two=two)
    assert result.returncode == 2
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_setting_before_the_names_takes_one_value():
    """`caption.py --model_path m.onnx photo.jpg` once took the picture for a second model."""
    configs = {"caption": {"images": ["-"], "beam_size": 5}}
    for arguments in (["a", "b", "--beam_size", "3"], ["--beam_size", "3", "a", "b"], ["a", "--beam_size", "3", "b"]):
        found = normalise_arguments(arguments, configs, "caption.images")
        assert found == ["--caption.beam_size=3", "--caption.images", "a", "b"]


def test_a_defect_of_ours_keeps_its_traceback(script):
    result = script("--run", "defect")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("words", ["", "x" * 100_000])  # caught when it is written, or at the end
def test_a_reader_that_has_enough_is_no_error(script, tmp_path, words):
    script("--run", words[:1])  # writes script.py
    command = [sys.executable, str(tmp_path / "script.py"), f"--run={words}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_help_lists_every_key(script):
    result = script("--help", two=True)
    assert result.returncode == 0
    for key in ("epochs", "lr", "resume", "run", "names", "hidden_size"):
        assert key in result.stdout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": "32"}, "CONFIG of data: 'size' is '32', a number is needed"),
        ({"size": None}, "CONFIG of data: 'size' is None, a number is needed"),
        ({"size": [3]}, "CONFIG of data: 'size' is [3], a number is needed"),
        ({"size": True}, "CONFIG of data: 'size' is True, a number is needed"),
        ({"size": 3.0}, "CONFIG of data: 'size' is 3.0, a whole number is needed"),
        ({}, "CONFIG of data: has no 'size', which the script needs"),
        ({"size": 3, "name": None}, "CONFIG of data: 'name' is None, allowed are text, numbers, True and False"),
        ({"size": 3, "name": {}}, "CONFIG of data: 'name' is {}, allowed are text, numbers, True and False"),
    ],
)
def test_a_config_edited_by_hand_is_checked_before_any_work(config, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cli.check_types({"data": config}, {"data": {"size": (1, 9)}})


def test_a_whole_number_will_do_where_any_number_is_meant():
    cli.check_types({"train": {"lr": 1}}, {"train": {"lr": (0.0, 100)}})


SCRIPTS = ["analysis_report", "caption", "data_loader", "export", "model", "prepare_data", "test_inference", "train"]
SCRIPTS += ["vocab", "app"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_setting_of_every_script_is_checked_before_any_work(script, monkeypatch):
    """A text that was removed was missed when it was asked for, in train.py after the features were computed."""
    called = {}
    record = lambda main, limits, positional="", ranks=False, **configs: called.update(l=limits, c=configs)  # noqa: E731
    monkeypatch.setattr(cli, "run", record)
    runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    limits, configs = called["l"], called["c"]
    cli.check_types(configs, limits)
    for name, config in configs.items():
        for key in config:
            without = {other: value for other, value in config.items() if other != key}
            with pytest.raises(ValueError, match=f"^CONFIG of {name}: has no '{key}', which the script needs"):
                cli.check_types(configs | {name: without}, limits)
            for wrong in (None, [], {}, [1]):
                with pytest.raises(ValueError, match=rf"^CONFIG of {name}: '{key}' is .*"):
                    cli.check_types(configs | {name: config | {key: wrong}}, limits)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (str, 5, "text is needed"),
        (str, True, "text is needed"),
        (bool, "true", "allowed are True and False"),
        (bool, 1, "allowed are True and False"),
        (list, "a", "a list of text is needed, one at least"),
        (list, [], "a list of text is needed, one at least"),
    ],
)
def test_a_setting_of_another_type_is_named(kind, value, told):
    with pytest.raises(ValueError, match=f"CONFIG of a: 'x' is .*{told}"):
        cli.check_types({"a": {"x": value}}, {"a": {"x": kind}})


@pytest.mark.parametrize("script", SCRIPTS)
def test_limits_of_whole_numbers_alone_are_whole(script):
    """Where a shipped value is no whole number, one of its limits is none, so that check_types takes others like it."""
    module = importlib.import_module(script)
    limits = getattr(module, "LIMITS", options.LIMITS)
    for key, (least, most) in limits.items():
        if key in module.CONFIG:
            assert isinstance(module.CONFIG[key], float) <= (isinstance(least, float) or isinstance(most, float)), key


def test_main_takes_its_config_as_a_notebook_gives_it(tmp_path):
    config = {"size": 1}
    assert cli.settings_of({"data": config}, "data") is cli.settings_of(config, "data") is config
    with pytest.raises(ValueError, match="got a list, allowed are a CONFIG"):
        cli.settings_of([config], "data")
    with pytest.raises(ValueError, match="train.main needs"):
        train.main(train.CONFIG)


def test_what_a_console_cannot_show_is_escaped_and_ends_nothing(tmp_path):
    """A UnicodeEncodeError is a ValueError, and was taken for the user's mistake after the work was done."""
    code = "from captioning import cli\ndef main(config): print('판다 café')\ncli.run(main, data={'x': 1})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(cli.__file__).parents[1],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("cp1252").strip() == r"\ud310\ub2e4 café"


def test_names_and_warnings_give_no_orders_to_a_terminal(tmp_path):
    """Escapes are spelt out on both streams, an error is one line whatever is in it, a warning has no path."""
    path = tmp_path / "script.py"
    path.write_text(
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r})\n"
        "from captioning import cli\n"
        "def main(config):\n"
        "    print('class \\x1b[2Jcat')\n"
        "    warnings.warn('the library\\nsays \\x1b[1mso')\n"
        "    raise ValueError('a\\tb\\nc\\x1b]0;title\\x07.jpg: no such file')\n"
        "cli.run(main, a={'b': 1})\n"
    )
    result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert result.stdout == "class \\x1b[2Jcat\n"
    assert result.stderr.splitlines() == [
        "warning: the library says \\x1b[1mso",
        "error: a\\tb\\nc\\x1b]0;title\\x07.jpg: no such file",
    ]


def test_a_command_can_be_pasted_whatever_the_names_in_it():
    flags = {"data_dir": "my data/birds & 'bees'", "model_path": "a.safetensors"}
    text = cli.command("vocab.py", flags)
    assert shlex.split(text) == ["python", "vocab.py", "--data_dir", flags["data_dir"], "--model_path", "a.safetensors"]
    assert cli.command("vocab.py", {}) == "python vocab.py"


def test_a_setting_removed_by_hand_is_named():
    assert cli.Settings({"run": "a"})["run"] == "a"
    with pytest.raises(ValueError, match="CONFIG has no 'run', which the script needs"):
        cli.Settings({})["run"]

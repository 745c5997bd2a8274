"""One command line for every script: its CONFIG dicts, `--help`, and errors in one line.

    if __name__ == "__main__":
        cli.run(main, train=CONFIG, data=data_loader.CONFIG, model=model.CONFIG)

    cli.run(main, limits={"train": LIMITS}, train=CONFIG)    # LIMITS = {"epochs": (0, 1000), "run": str, ...}

`main` receives `{"train": {...}, "data": {...}, "model": {...}}` with the flags applied; CONFIG itself is not
changed. `--train.epochs 5` sets a key; a script with a single dict also takes the bare `--epochs 5`.
"""

import contextlib
import difflib
import os
import shlex
import sys
import warnings

from captioning.help import help_text
from captioning.untrusted import EscapedStream, on_one_line

TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
USER_ERROR = 2  # exit code of a mistake that the user can mend
INTERRUPTED = 130  # 128 + SIGINT, as shells count it
PIPE_CLOSED = 141  # 128 + SIGPIPE


class UnavailableError(ValueError):
    """What is asked for, a device or a library, is not on this machine; no file is to blame."""


class RankError(ValueError):
    """An error of several ranks, which the one that raises it tells for all."""


def run(main, limits=None, positional="", ranks=False, **configs):
    """Resolve the flags over `configs`, call `main` with the result, and end the process on an error.

    limits:     name -> {key: (least, most) of a number, or its type: str, bool or list (of text)}
    positional: "name.key" of a list that takes the arguments without a flag; "" = they are refused
    ranks:      `main` joins the processes of a launcher; a mistake of the command line is told by the first of them
    configs:    name -> dict of str, int, float, bool (and non-empty lists of these); the values are the defaults

    ValueError and OSError are a user's mistake: one line on standard error, exit code 2. Ctrl-C ends with 130, and
    quietly with 141 a reader of the output that has enough (`| head`). Everything else is a defect of ours and keeps
    its traceback. What a terminal would obey, in a file's name for example, is spelt out: \\x1b.
    """
    for stream in (sys.stdout, sys.stderr):  # what a console cannot show must not end an hour of work
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with (
        contextlib.redirect_stdout(EscapedStream(sys.stdout)),
        contextlib.redirect_stderr(EscapedStream(sys.stderr)),
        plain_warnings(),
    ):
        run_escaped(main, limits or {}, positional, configs, first=not ranks or os.environ.get("RANK", "0") == "0")


def run_escaped(main, limits, positional, configs, first):
    """Do what `run` does, on streams that are safe to write names to."""
    try:
        check_types(configs, limits)
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_text(sys.modules["__main__"].__doc__ or "", configs, limits, positional))
            sys.stdout.flush()
            return
        arguments = normalise_arguments(sys.argv[1:], configs, positional)
        try:
            import tyro  # importing this module should be free for those who only quote errors
        except ModuleNotFoundError:
            raise ValueError("the command line needs tyro and tqdm: pip install tyro tqdm") from None

        config = tyro.cli(dict, default=configs, args=arguments)
        check_limits(config, limits)
        main({name: Settings(values) for name, values in config.items()})
        sys.stdout.flush()  # here, where a closed pipe is caught
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain of the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except (ValueError, OSError) as error:
        if first or isinstance(error, RankError):
            print(f"error: {on_one_line(message(error))}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def plain_warnings():
    """Write the warnings of libraries as a line each, without the path and the source of the library.

    Pillow's are left out: each is about one picture that does not name itself, and images.py has bounds of its own.
    """

    def show(message, category, *place):
        print(f"warning: {one_line(message, 200)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


class Settings(dict):
    """The settings of a CONFIG; one that was removed by hand is a user's mistake when it is asked for."""

    def __missing__(self, key):
        raise ValueError(f"CONFIG has no {key!r}, which the script needs")


def settings_of(configs, name):
    """Return the CONFIG of this name out of {name: CONFIG}, as `run` hands it on; a lone CONFIG is taken for it.

    Raises ValueError unless it is a dict.
    """
    config = configs.get(name, configs) if isinstance(configs, dict) else configs
    if not isinstance(config, dict):
        raise ValueError(f"main: got a {type(config).__name__}, allowed are a CONFIG and {{{name!r}: CONFIG}}")
    return config


def check_types(configs, limits):
    """Raise ValueError for a value of a CONFIG edited by hand that is of no type a setting has.

    A key with limits must be there. It is of the type that they name, or a number, a whole one where both limits are
    written as whole numbers; the others are text, numbers, true or false, or lists of text.
    """
    for name, config in configs.items():
        for key, allowed in limits.get(name, {}).items():
            if key not in config:
                raise ValueError(f"CONFIG of {name}: has no {key!r}, which the script needs")
            if isinstance(allowed, type):
                if not is_of_type(config[key], allowed):
                    raise ValueError(f"CONFIG of {name}: {key!r} is {config[key]!r}, {TYPES[allowed]}")
                continue
            least, most = allowed
            if isinstance(config[key], bool) or not isinstance(config[key], int | float):
                raise ValueError(f"CONFIG of {name}: {key!r} is {config[key]!r}, a number is needed")
            if isinstance(config[key], float) and isinstance(least, int) and isinstance(most, int):
                raise ValueError(f"CONFIG of {name}: {key!r} is {config[key]!r}, a whole number is needed")
        for key, value in config.items():
            if not isinstance(value, str | int | float | list | tuple):
                raise ValueError(f"CONFIG of {name}: {key!r} is {value!r}, allowed are text, numbers, True and False")


TYPES = {str: "text is needed", bool: "allowed are True and False", list: "a list of text is needed, one at least"}


def is_of_type(value, kind):
    """True for text, for True and False, or for a list of texts, one at least; kind: str, bool or list."""
    if kind is list:
        return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, str) for one in value)
    return isinstance(value, kind)


def check_limits(config, limits):
    """Raise ValueError for the first number outside its limits; NaN is outside all of them."""
    for name, keys in limits.items():
        for key, allowed in keys.items():
            if isinstance(allowed, type):
                continue
            (least, most), value = allowed, config[name][key]
            if not least <= value <= most:
                raise ValueError(f"--{name}.{key}: got {value}, allowed is {least:.12g} to {most:.12g}")


def normalise_arguments(arguments, configs, positional=""):
    """Spell every flag in full, and refuse what tyro would answer with a page.

    returns: arguments with `--name.key value` (booleans as `--name.key` / `--name.no-key`)
    Raises ValueError for an unknown key (with the nearest one), a missing value, and a value of the wrong type.
    """
    defaults = {f"{name}.{key}": value for name, config in configs.items() for key, value in config.items()}
    prefix = f"{next(iter(configs))}." if len(configs) == 1 else ""
    normal, rest, unnamed = [], list(arguments), []
    while rest:
        argument = rest.pop(0)
        if positional and not is_flag(argument):
            unnamed.append(argument)
            continue
        if not argument.startswith("--"):
            raise ValueError(f"unexpected argument {argument!r}: settings are spelt --<key> <value>, see --help")
        flag, equals, inline = argument[2:].partition("=")
        flag = flag.replace("-", "_")
        key, negated = find_key(flag, prefix, defaults)
        values = [inline] if equals else []
        many = isinstance(defaults[key], list | tuple) or not positional  # else what comes next has no flag
        while not equals and rest and not is_flag(rest[0]) and (many or not values):
            values.append(rest.pop(0))
        spelt = spell(key, negated, values, defaults[key])
        if key == positional:  # with those that have no flag
            unnamed += values
        else:
            normal += spelt
    return normal + (spell(positional, False, unnamed, defaults[positional]) if unnamed else [])


def is_flag(argument):
    """True if `argument` starts the next setting; a negative number is a value, and so is "-" alone."""
    if not argument.startswith("-") or argument == "-":
        return False
    try:
        float(argument)
    except ValueError:
        return True
    return False


def find_key(flag, prefix, defaults):
    """Return (full key, True if the flag was its `no_` form). Raises ValueError naming the nearest key."""
    for key in (flag, prefix + flag):
        if key in defaults:
            return key, False
        name, _, leaf = key.rpartition(".")
        positive = f"{name}.{leaf.removeprefix('no_')}"
        if leaf.startswith("no_") and isinstance(defaults.get(positive), bool):
            return positive, True
    nearest = difflib.get_close_matches(flag if "." in flag else prefix + flag, defaults, n=1, cutoff=0)
    shown = nearest[0].removeprefix(prefix) if nearest else "--help"
    raise ValueError(f"unknown key --{flag}: did you mean --{shown}? (--help lists every key)")


def spell(key, negated, values, default):
    """Return tyro's spelling of one setting. Raises ValueError if a value has the wrong type."""
    name, _, leaf = key.rpartition(".")
    if isinstance(default, bool):
        wanted = values[0].lower() if values else "true"
        if len(values) > 1 or wanted not in TRUE + FALSE:
            raise ValueError(f"--{key}: got {' '.join(values)!r}, allowed are true and false")
        return [f"--{key}"] if (wanted in TRUE) != negated else [f"--{name}.no-{leaf}"]
    many = isinstance(default, list | tuple)
    if not values or (len(values) > 1 and not many):
        hint = "; a pattern, or a text with spaces, needs quotes" if values else ""
        raise ValueError(f"--{key}: takes {'one value or more' if many else 'one value'}, got {len(values)}{hint}")
    kind = type(default[0]) if many else type(default)
    for value in values:
        try:
            kind(value)
        except ValueError:
            raise ValueError(f"--{key}: got {value!r}, allowed is {KINDS[kind]}") from None
    # '=' keeps a value that begins with '-' from being read as the next flag.
    return [f"--{key}", *values] if many else [f"--{key}={values[0]}"]


KINDS = {int: "a whole number", float: "a number", str: "text"}


def command(script, flags):
    """Return a command line to be pasted: values with spaces or signs of the shell are quoted."""
    return " ".join(["python", script, *(f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items())])


def message(error):
    """The message of an error; an OSError names its file first."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def one_line(error, longest=None):
    """Return the message of an error on one line, to be quoted in another; cut at `longest` characters, None = all."""
    return on_one_line(" ".join(message(error).split()))[:longest]


def counted(number, noun):
    """Return "1 image", "2,100 images", "3 classes", "2 batches"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s")

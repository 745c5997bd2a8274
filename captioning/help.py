"""`--help` of a script: its docstring, and its CONFIG dicts as they stand in the source.

A setting is explained in one place, the comment on its line of CONFIG. `--help` reads it there, adds the limits and the
default, and keeps CONFIG's own headings, the comments that stand on lines of their own.
"""

import ast
import io
import shutil
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path

INDENT = 30  # columns before the explanation of a flag


@dataclass(frozen=True)
class Setting:
    """A key of a CONFIG dict: the heading it stands under, and its comment; "" = none."""

    key: str
    heading: str
    comment: str


def help_text(description, configs, limits, positional=""):
    """Return the help of a script.

    description: its docstring; configs, limits, positional: as for cli.run
    """
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    prefix = "" if len(configs) == 1 else "{name}."
    lines = [description.strip(), "", "Settings, the keys of CONFIG:"]
    for name, config in configs.items():
        path = source_of(config)
        if len(configs) > 1:
            lines += ["", f"{name}: the CONFIG of {path.name}" if path else name]
        heading = None
        for setting in read_settings(path) if path else [Setting(key, "settings", "") for key in config]:
            if setting.heading != heading:
                heading = setting.heading
                lines += ["", *textwrap.wrap(heading, width, initial_indent="  ", subsequent_indent="    ")]
            key = prefix.format(name=name) + setting.key
            flag = f"  --{key}" + (" or without a flag" if f"{name}.{setting.key}" == positional else "")
            told = explain(setting.comment, (limits.get(name) or {}).get(setting.key), config[setting.key])
            lines += flag_lines(flag, told, width)
    return "\n".join(lines)


def explain(comment, limits, default):
    """Return what a flag is for, its limits and its default, in a line."""
    parts = [comment] if comment else []
    if limits and not isinstance(limits, type):
        parts.append(f"{limits[0]:.12g} to {limits[1]:.12g}")
    return "; ".join([*parts, f"default {show(default)}"])


def show(value):
    """Write a default as a flag would give it; "" for an empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(show(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def flag_lines(flag, text, width):
    """Return a flag with its explanation beside it, on the next line if the flag is long."""
    wrapped = textwrap.wrap(text, width - INDENT, break_long_words=False)
    if len(flag) > INDENT - 2:
        return [flag, *(" " * INDENT + line for line in wrapped)]
    return [flag.ljust(INDENT) + wrapped[0], *(" " * INDENT + line for line in wrapped[1:])]


# ---- reading the source ----------------------------------------------------------------------------------


def source_of(config):
    """Return the path of the module whose CONFIG a dict is, None if it is none's."""
    for module in [sys.modules["__main__"], *list(sys.modules.values())]:
        if getattr(module, "CONFIG", None) is config and getattr(module, "__file__", None):
            return Path(module.__file__)
    return None


def read_settings(path):
    """Return the Settings of the dict CONFIG in a Python file, in its order.

    `**NAME` of an imported name stands for the settings of its module: there the lines of a dataclass are read.
    """
    source = Path(path).read_text(encoding="utf-8")
    tree, comments = ast.parse(source), read_comments(source)
    (config,) = (node.value for node in tree.body if assigns(node, "CONFIG"))
    headings = {
        line: text for line, (text, alone) in comments.items() if alone and config.lineno < line < config.end_lineno
    }
    settings = []
    for key, value in zip(config.keys, config.values, strict=True):
        heading = next((headings[line] for line in sorted(headings, reverse=True) if line < value.lineno), "settings")
        if key is None:
            settings += [Setting(name, heading, comment) for name, comment in spread(tree, value.id)]
        else:
            settings.append(Setting(key.value, heading, beside(comments, value)))
    return settings


def spread(tree, name):
    """Return (key, comment) of the settings that `**name` stands for; name: imported by the file of `tree`."""
    (module,) = (
        node.module for node in tree.body if isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names}
    )
    path = Path(sys.modules[module].__file__)
    source = path.read_text(encoding="utf-8")
    comments = read_comments(source)
    found = {
        line.target.id: beside(comments, line)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    return [(key, found[key]) for key in getattr(sys.modules[module], name)]


def assigns(node, name):
    """True if a node of a module assigns to `name`."""
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def beside(comments, node):
    """Return the comment on the last line of a node; "" if there is none."""
    return comments.get(node.end_lineno, ("", False))[0]


def read_comments(source):
    """Return line number -> (comment without its mark, True if it stands alone on its line)."""
    return {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }

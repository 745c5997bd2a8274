"""Arrows go one way: parts, then vocab, data_loader, model and caption, then the scripts that only run."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
ONLY_RUN = SCRIPTS - {"vocab", "data_loader", "model", "caption"}
MODULES = {path.stem: path for path in ROOT.glob("*.py")} | {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "captioning").rglob("*.py")
    if path.stem != "__init__"
}
# Each wing may import its own modules, those listed here, and the modules directly in captioning/.
BELOW = {
    "data": set(),
    "search": set(),
    "scores": {"data", "search"},
    "training": {"data", "search", "scores"},
    "report": {"data", "search", "scores"},
    "deploy": {"data", "search", "scores"},
    "page": {"data", "search", "deploy"},
}


def imported(path):
    """Return the modules of this project that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & MODULES.keys()


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def test_the_scripts_of_the_mission_are_here():
    assert {"vocab", "data_loader", "model", "train", "analysis_report", "test_inference"} <= SCRIPTS


def test_no_part_imports_a_script():
    wrong = {name: GRAPH[name] & SCRIPTS for name in GRAPH if name.startswith("captioning.") and GRAPH[name] & SCRIPTS}
    assert not wrong


def test_arrows_between_the_wings_go_one_way():
    wings = {name: name.split(".")[1] for name in GRAPH if name.count(".") == 2}
    wrong = {
        name: above
        for name, wing in wings.items()
        if (above := {other for other in GRAPH[name] if other in wings and wings[other] not in BELOW[wing] | {wing}})
    }
    assert not wrong
    assert set(wings.values()) == BELOW.keys()


def test_the_folders_of_the_package_are_empty_but_for_their_modules():
    """What an __init__.py imports, every import of the package pays for: torch would come with captioning.data."""
    assert {
        path.parent.name: path.read_text() for path in (ROOT / "captioning").glob("*/__init__.py")
    } == dict.fromkeys(BELOW, "")


def test_no_script_that_only_runs_is_imported():
    wrong = {name: GRAPH[name] & ONLY_RUN for name in GRAPH if GRAPH[name] & ONLY_RUN}
    assert not wrong


def test_there_is_no_circle():
    order, remaining = [], dict(GRAPH)
    while free := [name for name, needs in remaining.items() if not needs - set(order)]:
        order += free
        for name in free:
            del remaining[name]
    assert not remaining


def test_importing_a_script_does_nothing(tmp_path):
    names = sorted(ONLY_RUN)
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r}); "
        f"[(print(name), importlib.import_module(name)) for name in {names}]"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout.split()) == (0, names), result.stderr
    assert not list(tmp_path.iterdir())


LIGHT = [f"captioning.data.{name}" for name in ("annotations", "tokenizer", "pictograms", "images", "tars")]
LIGHT += [
    f"captioning.{name}" for name in ("scores.metrics", "scores.grounding", "search.numpy_beam", "search.options")
]
LIGHT += [f"captioning.deploy.{name}" for name in ("downloads", "hub", "onnx_model", "shards", "writers")]
LIGHT += [f"captioning.page.{name}" for name in ("gate", "labels", "picker", "results", "service", "uploads", "worker")]
OPTIONAL = {"captioning.deploy.executorch_model"}  # needs a package of its own, requirements-executorch.txt
LIGHT += ["captioning.cli", "captioning.metadata", "vocab", "caption", "app"]


def test_importing_the_parts_prints_nothing_and_the_light_ones_bring_no_torch(tmp_path):
    """Drawing pictures or reading captions should not pay for the start of torch."""
    names = [name for name in sorted(MODULES.keys() - OPTIONAL) if name.startswith("captioning.")]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r}); "
        f"[importlib.import_module(name) for name in {LIGHT}]; assert 'torch' not in sys.modules; "
        f"[importlib.import_module(name) for name in {[*names, 'vocab', 'data_loader', 'model']}]"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr
    assert not list(tmp_path.iterdir())

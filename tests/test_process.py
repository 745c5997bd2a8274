"""Malloc and OpenMP are set up in every script before torch loads, in its children too, and nowhere else."""

import ast
import ctypes
import ctypes.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captioning import process

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
SCRIPTS = {str(path.relative_to(ROOT)): path for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8")}
SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "GOMP_SPINCOUNT": "10000"}
SET_UP = "if __name__ == '__main__':\n    from captioning import process\n    process.set_up()"
# A function that fills 40 MB five times and returns its minor page faults: about 50,000 if malloc returns freed blocks
# to the kernel, which glibc always does above 32 MB.
FAULTS = """
import resource
def faults():
    b"x" * 40_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * 40_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
FEW, MANY = 1_000, 20_000

linux = pytest.mark.skipif(sys.platform != "linux", reason="malloc and libgomp are set up on Linux")
glibc = pytest.mark.skipif(not process.glibc_in_use(), reason="glibc's malloc is not in use")


def run(code, tmp_path, **environment):
    """Run a Python program in a clean environment with `environment` added; return what it prints, as JSON."""
    own = ("MALLOC_", "GOMP_", "OMP_", "GLIBC_TUNABLES", "LD_PRELOAD")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = inherited | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_script_sets_up_its_process_before_its_other_imports(name):
    """libgomp reads its variable when torch loads; a later setting has no effect."""
    first = ast.parse(SCRIPTS[name].read_text(encoding="utf-8")).body[1:]  # after the docstring
    if name.startswith("benchmarks"):
        first = first[3:]  # import sys, pathlib, and the path to the project
    assert ast.unparse(first[0]).startswith(SET_UP)


@linux
@pytest.mark.parametrize("run_as", ["__main__", "train"])
def test_settings_are_in_force_when_torch_loads_in_a_script_but_not_in_an_import(run_as, tmp_path):
    code = f"""
import json, os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            seen = {{name: os.environ.get(name, "") for name in {list(SETTINGS)}}}
            print(json.dumps(seen), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
runpy.run_path({str(ROOT / "train.py")!r}, run_name={run_as!r})
"""
    seen = run(code, tmp_path)
    assert seen["GOMP_SPINCOUNT"] == (SETTINGS["GOMP_SPINCOUNT"] if run_as == "__main__" else "")
    if process.glibc_in_use():
        assert seen == (SETTINGS if run_as == "__main__" else dict.fromkeys(SETTINGS, ""))


@glibc
def test_importing_captioner_changes_nothing(tmp_path):
    """A process that imports the project as a library keeps its own allocator settings."""
    code = f"""
import json, os
before = dict(os.environ)
from caption import Captioner
from captioning import process
{FAULTS}
print(json.dumps([faults(), before == dict(os.environ)]))
"""
    count, unchanged = run(code, tmp_path)
    assert unchanged
    assert count > MANY


@glibc
def test_large_blocks_cause_no_page_faults_in_the_script_and_its_children(tmp_path):
    """glibc returned a freed block of 40 MB to the kernel, which cleared each page of the next one."""
    code = f"""
import json, multiprocessing
from captioning import process
{FAULTS}
if __name__ == "__main__":
    process.set_up()
    counts = [faults()]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            counts.append(pool.apply(faults))
    print(json.dumps(counts))
"""
    assert max(run(code, tmp_path)) < FEW


@glibc
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_inherit_the_settings(method, tmp_path):
    code = f"""
if __name__ == "__main__":
    from captioning import process
    process.set_up()
import json, os
from torch.utils.data import DataLoader
{FAULTS}
class Faults:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return [faults(), *(os.environ.get(name) for name in {list(SETTINGS)})]
if __name__ == "__main__":
    loader = DataLoader(Faults(), None, num_workers=2, multiprocessing_context={method!r})
    print(json.dumps(list(loader)))
"""
    for count, *settings in run(code, tmp_path):
        assert count < FEW
        assert settings == list(SETTINGS.values())


@glibc
@pytest.mark.parametrize(
    ("variable", "value", "kept"),
    [
        ("MALLOC_MMAP_MAX_", "65536", {"MALLOC_MMAP_MAX_"}),
        ("MALLOC_MMAP_THRESHOLD_", "131072", {"MALLOC_MMAP_MAX_"}),
        ("MALLOC_TRIM_THRESHOLD_", "131072", {"MALLOC_TRIM_THRESHOLD_"}),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=65536", {"MALLOC_MMAP_MAX_"}),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072", {"MALLOC_TRIM_THRESHOLD_"}),
        ("OMP_WAIT_POLICY", "PASSIVE", {"GOMP_SPINCOUNT"}),
        ("OMP_WAIT_POLICY", "ACTIVE", {"GOMP_SPINCOUNT"}),
        ("GOMP_SPINCOUNT", "7", {"GOMP_SPINCOUNT"}),
        ("OMP_NUM_THREADS", "1", set()),
        ("MALLOC_ARENA_MAX", "1", set()),
    ],
)
def test_each_setting_yields_to_the_user(variable, value, kept, tmp_path):
    code = f"""
import json, os
from captioning import process
before = dict(os.environ)
process.set_up()
{FAULTS}
changed = {{name: text for name, text in os.environ.items() if before.get(name) != text}}
print(json.dumps([changed, faults()]))
"""
    changed, count = run(code, tmp_path, **{variable: value})
    assert changed == {name: text for name, text in SETTINGS.items() if name not in kept}
    if any(name.startswith("MALLOC") for name in kept):
        assert count > MANY  # either setting of malloc alone has no effect
    else:
        assert count < FEW


@linux
def test_malloc_is_left_alone_without_glibc_or_with_another_allocator(monkeypatch):
    """musl has no libc.so.6; a preloaded jemalloc or tcmalloc is the first `malloc` that the process finds."""
    for name in (*SETTINGS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)

    def musl(name):
        if name:
            raise OSError(f"{name}: cannot open shared object file")
        return ctypes.PyDLL(None)

    class Preloaded:
        malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(lambda size: None)

    load = ctypes.CDLL
    for fake in (musl, lambda name: load(name) if name else Preloaded()):
        monkeypatch.setattr(ctypes, "CDLL", fake)
        process.keep_freed_memory()
        assert not os.environ.keys() & SETTINGS.keys()
    process.set_up()  # OpenMP is set up all the same: it does not depend on the C library
    assert os.environ.keys() & SETTINGS.keys() == {"GOMP_SPINCOUNT"}


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(platform, monkeypatch):
    for name in (*SETTINGS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", None)  # a call would raise
    process.set_up()
    assert not os.environ.keys() & SETTINGS.keys()


@linux
@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc_minimal"])
def test_a_preloaded_allocator_is_found(name, tmp_path):
    library = ctypes.util.find_library(name)
    if not library:
        pytest.skip(f"{name} is not installed")
    code = "import json; from captioning import process; print(json.dumps(process.glibc_in_use() is None))"
    assert run(code, tmp_path, LD_PRELOAD=library)


@glibc
def test_the_tests_run_with_the_settings():
    scope = {}
    exec(FAULTS, scope)
    assert scope["faults"]() < FEW


def test_missing_extras_end_a_script_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        process.require("requirements-deploy.txt", "json", "no_such_package", "nor_this")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == "error: no_such_package, nor_this not installed: pip install -r requirements-deploy.txt\n"
    process.require("requirements-deploy.txt", "json")


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_script_without_its_packages_says_what_to_install(script, tmp_path):
    """-S leaves out site-packages, as in an environment in which nothing was installed yet."""
    command = [sys.executable, "-S", "-E", str(ROOT / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: [\w, ]+ not installed: pip install -r requirements[\w-]*\.txt\n", done.stderr)


@pytest.mark.parametrize(("hard", "wanted", "set_to"), [(10, 20, 10), (-1, 20, 20), (30, 20, 20)])
def test_a_limit_of_the_system_is_not_raised(monkeypatch, hard, wanted, set_to):
    """A batch system's lower bound made the probe of a model fail, and the model was blamed."""
    resource = pytest.importorskip("resource")
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.append(values))
    process.lower_limit(resource.RLIMIT_CPU, wanted)
    assert limits == [(set_to, hard)]

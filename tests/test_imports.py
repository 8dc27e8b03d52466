"""Imports point one way; `MAY_IMPORT` says which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "steadyvoice"
LEAVES = {"settings", "errors", "metrics", "protocol", "memory", "engine_specs"}

# package -> what of steadyvoice it may import besides itself
MAY_IMPORT = {
    "leaves": LEAVES,
    "media": LEAVES,
    "engine": LEAVES,
    "worker": {"protocol", "memory", "engine_specs"},
    "admission": LEAVES,
    "service": LEAVES | {"admission", "engine", "media"},
    "api": LEAVES | {"admission", "engine", "media", "service"},
    "pages": LEAVES | {"admission", "api", "media", "service"},
    "server": LEAVES | {"admission", "api", "service"},
    "provision": LEAVES | {"admission", "engine", "server", "service"},
    "testing": LEAVES | {"engine", "provision", "server", "worker"},
    "apps": LEAVES | {"api", "pages", "provision", "server", "service"},
}
# package or module -> the packages of others that it may import besides the standard library
PACKAGES = {
    "engine": set[str](),
    "media": {"numpy", "av", "soundfile", "soxr", "onnxruntime"},
    "errors": set[str](),
    "memory": set[str](),
    "engine_specs": set[str](),
    "protocol": {"numpy"},
    "worker": set[str](),
    "worker.memory_profile": {"numpy"},
    "worker.recognizers.pocketsphinx": {"numpy", "pocketsphinx"},
    "worker.recognizers.sensevoice.recognizer": {"numpy", "torch", "sentencepiece", "yaml"},
    "worker.recognizers.sensevoice.encoder": {"torch"},
    "worker.recognizers.sensevoice.weights": {"torch"},
    "worker.recognizers.sensevoice.filterbank": {"torch"},
    "worker.recognizers.funasr_automodel": {"numpy", "torch", "funasr"},
    "worker.synthesizers.espeak": {"numpy", "espeakng_loader"},
    "worker.synthesizers.indextts2": {"numpy"},
    "testing.indextts2_standin": {"numpy"},
    "testing.sensevoice_reference": {"numpy", "soundfile", "torch"},
}
# What runs under an engine's own interpreter.
WORKER_SIDE = ["__init__", "protocol", "memory", "engine_specs", "worker"]
OF_THE_APP = {"fastapi", "starlette", "uvicorn", "gradio", "pydantic", "pydantic_settings", "prometheus_client", "torch"}


def modules() -> dict[str, Path]:
    """Dotted name within the package, or the name of an app -> file."""
    inside = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
    return inside | {path.stem: path for path in ROOT.glob("app_*.py")}


MODULES = modules()
# funasr imports half of the world, and talks while it does; that is left to the one engine that is named after it.
OURS = [name for name in MODULES if name != "worker.recognizers.funasr_automodel"]


def package_of(name: str) -> str:
    first = name.split(".")[0]
    if name.startswith("app_"):
        return "apps"
    return "leaves" if first in LEAVES or first == "__init__" else first


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            assert node.module is not None
            # `from steadyvoice import errors` imports a module, `from steadyvoice.errors import TooLarge` a name in one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "steadyvoice" else {node.module}
    return found


def ours(path: Path) -> set[str]:
    """First names below steadyvoice."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("steadyvoice.")} - {"__version__"}


def theirs(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"steadyvoice"}


def after_importing(names: list[str], expression: str) -> object:
    """The value of an expression in a fresh interpreter that has imported the modules."""
    script = (
        "import importlib, json, sys, threading\n"
        f"for name in {[name.removesuffix('.__init__') for name in names]!r}: importlib.import_module(name)\n"
        f"print(json.dumps({expression}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def loaded_after_importing(names: list[str]) -> set[str]:
    loaded = after_importing(names, "list(sys.modules)")
    assert isinstance(loaded, list)
    assert set(loaded) >= {name.removesuffix(".__init__") for name in names}
    return set(loaded)


def test_every_module_is_in_a_package() -> None:
    assert {package_of(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_package_may(name: str) -> None:
    package = package_of(name)
    own = LEAVES if package == "leaves" else {package}

    assert ours(MODULES[name]) <= MAY_IMPORT[package] | own


@pytest.mark.parametrize("name", [name for name in MODULES if package_of(name) != "testing"])
def test_nothing_but_testing_imports_an_app(name: str) -> None:
    assert not {first for first in theirs(MODULES[name]) if first.startswith("app_")}


def test_the_product_imports_no_testing_and_bench_imports_no_test() -> None:
    assert not {name for name, path in MODULES.items() if package_of(name) != "testing" and "testing" in ours(path)}
    assert not {path.name for path in (ROOT / "bench").glob("*.py") if "tests" in theirs(path)}


@pytest.mark.parametrize("name", [name for name in MODULES if {name, name.split(".")[0]} & set(PACKAGES)])
def test_a_module_imports_only_the_libraries_of_its_package(name: str) -> None:
    allowed = PACKAGES[name] if name in PACKAGES else PACKAGES[name.split(".")[0]]

    assert theirs(MODULES[name]) <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if "torch" not in PACKAGES.get(name, set())])
def test_torch_is_imported_by_its_engines_alone(name: str) -> None:
    assert "torch" not in theirs(MODULES[name])


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in WORKER_SIDE])
def test_what_a_worker_runs_is_written_for_python_3_10(name: str) -> None:
    ast.parse(MODULES[name].read_text(encoding="utf-8"), feature_version=(3, 10))


def test_a_worker_with_its_engine_drags_in_nothing_of_the_app() -> None:
    loaded = loaded_after_importing([f"steadyvoice.{name}" for name in OURS if package_of(name) == "worker"])

    assert {"steadyvoice.worker.__main__", "pocketsphinx", "espeakng_loader", "torch"} <= loaded
    assert not {name.split(".")[0] for name in loaded} & (OF_THE_APP - {"torch"})
    assert {name.split(".")[1] for name in loaded if name.startswith("steadyvoice.")} <= MAY_IMPORT["worker"] | {"worker"}


def test_importing_segment_imports_no_torch() -> None:
    loaded = loaded_after_importing(["steadyvoice.media.segment"])

    assert "onnxruntime" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"torch", "silero_vad"}


def test_importing_the_engine_imports_no_audio_and_no_http() -> None:
    loaded = loaded_after_importing(["steadyvoice.engine.engine_thread"])

    assert not {name.split(".")[0] for name in loaded} & (OF_THE_APP | {"av", "soundfile", "soxr", "onnxruntime"})


def test_importing_starts_no_thread() -> None:
    names = [
        f"steadyvoice.{name}"
        for name in OURS
        if package_of(name) in ("leaves", "media", "engine", "worker", "admission", "service")
    ]

    assert after_importing(names, "threading.active_count()") == 1

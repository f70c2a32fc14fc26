"""Who may load what: `import tidemill` is light, and the worker's side never loads a native reader."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "tidemill"

NATIVE = (
    "pyarrow",
    "numpy",
    "pandas",
    "polars",
    "duckdb",
    "lightgbm",
    "xgboost",
    "catboost",
    "sklearn",
    "scipy",
    "onnxruntime",
    "skops",
    "torch",
    "transformers",
    "fastavro",
    "python_calamine",
)
"""Libraries that parse data or hold models: they crash on bad bytes, so they live in children."""

HEAVY = (*NATIVE, "pydantic", "sqlalchemy", "typer", "rich", "yaml", "importlib.metadata")

CHILD_PACKAGES = ("sources", "encoders", "flavors", "kernels", "testing")
CHILD_MARK = re.compile(r"Runs in children|Entry points? of (?:a scorer|children)")
"""A module anywhere else that needs a native library says so in its docstring."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_child_side(name: str, path: Path) -> bool:
    package = name.split(".")[1] if "." in name else ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return package in CHILD_PACKAGES or CHILD_MARK.search(docstring) is not None


def loaded_by(*names: str) -> set[str]:
    """What stands in `sys.modules` of a fresh interpreter after these imports."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_import_tidemill_loads_nothing_heavy() -> None:
    assert loaded_by("tidemill").isdisjoint(HEAVY)


def test_the_probe_sees_a_native_library_that_is_loaded() -> None:
    assert "numpy" in loaded_by("tidemill", "numpy")


def test_worker_side_loads_no_native_library() -> None:
    worker_side = [name for name, path in modules().items() if not is_child_side(name, path)]
    assert {"tidemill.registry", "tidemill.ports.store", "tidemill.durable.files"} <= set(worker_side)
    together = loaded_by(*worker_side)
    guilty = {name: sorted(loaded_by(name) & set(NATIVE)) for name in worker_side} if together & set(NATIVE) else {}
    assert together.isdisjoint(NATIVE), {name: found for name, found in guilty.items() if found}


def test_worker_side_imports_no_module_of_the_children() -> None:
    sides = {name: is_child_side(name, path) for name, path in modules().items()}
    children = {name for name, child in sides.items() if child}
    packages = {name for name in children if (PACKAGE.parent / name.replace(".", "/")).is_dir()}
    loaded = loaded_by(*(name for name, child in sides.items() if not child))
    assert loaded & (children - packages) == set()


@pytest.mark.parametrize("package", ["domain", "ports", "wire", "durable", "service", "sinks", "stores"])
def test_packages_of_the_worker_have_no_modules_of_the_children(package: str) -> None:
    marked = [
        name
        for name, path in modules().items()
        if name.startswith(f"tidemill.{package}.") and is_child_side(name, path)
    ]
    assert marked == []


def test_public_names_are_listed_and_lazy() -> None:
    code = (
        "import tidemill\n"
        "assert tidemill.__all__ == sorted(tidemill.__all__), tidemill.__all__\n"
        "assert set(tidemill.__all__) <= set(dir(tidemill))\n"
        "assert not {'run', 'Result'} & set(vars(tidemill))\n"
        "for name in tidemill.__all__: getattr(tidemill, name)\n"
        "assert callable(tidemill.run) and isinstance(tidemill.Result, type)\n"
        "assert 'run' in vars(tidemill)\n"
        "try: tidemill.nothing\n"
        "except AttributeError as exc: print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'tidemill' has no attribute 'nothing'\n"

"""No member without passing its contract: each registered name has a test class on the shipped suite."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from tidemill import registry
from tidemill.testing.store import StoreContract

CONTRACT = Path(__file__).resolve().parents[1] / "contract"

REGISTRIES = (registry.sources, registry.encoders, registry.sinks, registry.flavors, registry.executors)

MEMBERS = [(table.kind[:-1], name) for table in REGISTRIES for name in table.builtin]


def suites_in(path: Path) -> list[type]:
    """The shipped suites that test classes in this file derive from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: dict[str, tuple[str, str | None]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tidemill.testing"):
            imported.update({alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names})
    suites = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            suites += [_resolve(base, imported) for base in node.bases]
    return [suite for suite in suites if suite is not None]


def _resolve(base: ast.expr, imported: dict[str, tuple[str, str | None]]) -> type | None:
    """The class a base names: `Suite`, or `module.Suite` after `from tidemill.testing import module`."""
    if isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Name) and base.id in imported:
        module, name = imported[base.id]
        return getattr(import_module(module), str(name))
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name) and base.value.id in imported:
        module, name = imported[base.value.id]
        return getattr(import_module(f"{module}.{name}"), base.attr)
    return None


def exam_of(suite: type) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


@pytest.mark.parametrize("kind, name", MEMBERS, ids=[f"{kind}-{name}" for kind, name in MEMBERS])
def test_member_takes_the_exam(kind: str, name: str) -> None:
    path = CONTRACT / f"test_{kind}_{name}.py"
    assert path.exists(), f"{kind} {name!r} is registered but has no {path.name}"
    suites = suites_in(path)
    assert suites, f"{path.name} has no class Test... on a suite of tidemill.testing"
    assert any(exam_of(suite) for suite in suites), f"the suites of {path.name} test nothing"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_store_takes_the_exam(database: str) -> None:
    assert StoreContract in suites_in(CONTRACT / f"test_store_{database}.py")
    assert exam_of(StoreContract)


@pytest.mark.parametrize("kind, name", MEMBERS, ids=[f"{kind}-{name}" for kind, name in MEMBERS])
def test_member_is_called_what_it_is_registered_as(kind: str, name: str) -> None:
    table = next(each for each in REGISTRIES if each.kind == f"{kind}s")
    assert table.get(name).name == name


def test_a_file_without_a_suite_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "test_source_fake.py"
    path.write_text("from tidemill.testing import x\nclass TestFake:\n    def test_a(self): ...\n")
    assert suites_in(path) == []

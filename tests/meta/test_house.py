"""House rules that a program can see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidemill

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

OUTSIDE = {".git", ".venv", "build", "dist", "node_modules", "out"}

# Put together, so that this file does not name one itself.
HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("yarnpkg", "com"),
        ("anaconda", "org"), ("deb", "debian", "org"), ("proxy", "golang", "org"), ("crates", "io"),
    ]
]  # fmt: skip

SWITCHES = {"skip", "skipif", "xfail", "importorskip", "skipTest", "skipIf", "skipUnless", "expectedFailure"}

NAMELESS = {"utils", "helpers", "common", "misc", "manager"}


def files() -> Iterator[Path]:
    """The repository's own text files."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        inside = not any(part in OUTSIDE or part.endswith(("_cache", "__pycache__")) for part in parts)
        if inside and path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()[:4096]:
            yield path


def names_in(path: Path) -> set[str]:
    """Every name and attribute in a Python file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


def test_no_file_names_a_package_registry() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in files()
        for host in HOSTS
        if host in path.read_text(encoding="utf-8", errors="replace").lower()
    ]
    assert named == []


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name)
def test_lock_pins_exact_versions_and_nothing_else(lock: Path) -> None:
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.+!]*", line)] == []


def test_lock_has_every_declared_dependency() -> None:
    lock = (ROOT / "requirements" / "test.lock").read_text(encoding="utf-8")
    locked = {_normal(line.partition("==")[0]) for line in lock.splitlines()}
    project = PYPROJECT["project"]
    groups = PYPROJECT["dependency-groups"].values()
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups]
    lines = [line for each in lists for line in each if isinstance(line, str)]
    declared = {_normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}
    assert declared - locked - {"tidemill"} == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


BROUGHT_BY_OTHERS = {
    "starlette",
    "anyio",
    "polars",
    "pydantic-core",
    "joblib",
    "scipy",
    "xgboost",
    "safetensors",
    "tokenizers",
    "pytest",
}
"""By FastAPI, pydantic and members of extras, on which they rest; or by whoever asks for a frame of polars or imports
`tidemill.testing`."""


def test_core_imports_are_declared_and_used() -> None:
    modules = {"yaml": "pyyaml", "sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}
    # By uvicorn, and by zoneinfo of the standard library.
    taken_by_others = {"httptools", "uvloop", "tzdata"}
    imported = set()
    for path in (ROOT / "src" / "tidemill").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    used = {_normal(modules.get(name, name)) for name in imported}
    declared = {_normal(re.split(r"[<>=]", line)[0]) for line in PYPROJECT["project"]["dependencies"]}
    assert declared - used == taken_by_others, "declared but not imported"
    extras = [line for lines in PYPROJECT["project"]["optional-dependencies"].values() for line in lines]
    of_extras = {_normal(re.split(r"[\[<>=]", line)[0]) for line in extras} | BROUGHT_BY_OTHERS
    own = {_normal(name) for name in sys.stdlib_module_names} | {"tidemill", "--future--"}
    assert used - declared - of_extras - own == set(), "imported but not declared"


def test_extras_are_named_in_all() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert sorted(everything.removeprefix("tidemill[").rstrip("]").split(",")) == sorted(set(extras) - {"all"})


def test_no_test_is_switched_off() -> None:
    off = {
        str(path.relative_to(ROOT)): sorted(names_in(path) & SWITCHES)
        for path in (ROOT / "tests").rglob("*.py")
        if names_in(path) & SWITCHES
    }
    assert off == {}


def test_a_switched_off_test_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "test_a.py"
    path.write_text("import pytest\n@pytest.mark.skipif(True, reason='x')\ndef test_a(): ...\n")
    assert names_in(path) & SWITCHES == {"skipif"}


def test_files_are_named_for_what_they_hold() -> None:
    assert [str(path) for path in (ROOT / "src").rglob("*.py") if path.stem in NAMELESS] == []


def test_changelog_knows_this_version() -> None:
    versions = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == tidemill.__version__


def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(["make", "-s", "-C", str(ROOT), "help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)
    assert {"setup", "demo", "test", "test-long", "check", "bench", "clean"} <= set(listed)

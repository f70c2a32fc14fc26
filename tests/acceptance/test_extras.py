"""Each extra alone: its contract test passes where there is nothing but it, the core and what tests are run with.

The environments are made of the locked packages that are installed here (`tests/clean.py`), and run the exam of each
member: the shipped suite, of stores the parts on models and keys. With TIDEMILL_TEST_LONG pip installs them, and they
run the whole files.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import clean
from tests.clean import CONTRACT, EXTRAS, ROOT, Clean, clean_environment
from tests.meta.test_members import MEMBERS
from tidemill.testing.store.keys import KeysSuite
from tidemill.testing.store.models import ModelsSuite

LONG = bool(os.environ.get("TIDEMILL_TEST_LONG"))
LOCK = ROOT / "requirements" / "test.lock"

ALONE = [extra for extra in EXTRAS if extra != "all"]
"""All that are no sum of others; a test of the house holds `all` to be their sum."""

OF_ONE = {"pickle": "sklearn", "mlflow_native": "mlflow"}
"""Members that are not called what their extra is."""
OF_TWO = ("mlflow_native",)
"""Members that need a second extra: what MLflow's folder holds. `test_install_lines.py` has them."""
HEAVY = ("test_sink_local.py", "test_executor_local.py")
"""Files whose exams take half a minute: `make test` does not run them in the core alone."""

pytestmark = pytest.mark.timeout(1800)


def exams_of(extra: str | None) -> list[Path]:
    """The contract tests of the members that an extra brings; without one, those of the core."""
    members = [*MEMBERS, ("store", "sqlite"), ("store", "postgres"), ("provider", "oidc")]
    found = [
        CONTRACT / f"test_{kind}_{name}.py" for kind, name in members if _extra_of(name) == extra and name not in OF_TWO
    ]
    found = [path for path in found if LONG or path.name not in HEAVY]
    assert found, f"no contract test for the extra {extra!r}: it needs a tests/contract/test_KIND_{extra}.py"
    return found


def _extra_of(name: str) -> str | None:
    extra = OF_ONE.get(name, name)
    return extra if extra in EXTRAS else None


def exam_in(path: Path) -> list[str]:
    """What pytest is told to run the exam in a file, once: of what is not named nothing counts as deselected."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    suite = next(node.name for node in body if isinstance(node, ast.ClassDef) and node.name.startswith("Test"))
    whole = f"{path.relative_to(ROOT)}::{suite}"
    if not path.name.startswith("test_store_"):
        return [whole]
    return [f"{whole}::{name}" for part in (ModelsSuite, KeysSuite) for name in vars(part) if name.startswith("test_")]


def installed_by_pip(folder: Path, extra: str | None) -> Clean:
    """The same as a user makes it, with the locked versions."""
    python, there = folder / "venv" / "bin" / "python", os.environ
    wanted = f"tidemill[{extra}] @ {ROOT.as_uri()}" if extra else f"tidemill @ {ROOT.as_uri()}"
    environment = {name: value for name, value in there.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    for command in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(LOCK), wanted, *clean.tools_of(extra)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return Clean(python=python, home=folder / "home")


def made(folder: Path, extra: str | None) -> Clean:
    if LONG:
        return installed_by_pip(folder, extra)
    return clean_environment(folder, [*clean.needs_of(extra), *clean.tools_of(extra)])


@pytest.mark.parametrize("extra", [None, *ALONE])
def test_contract_test_passes_with_the_extra_alone(extra: str | None) -> None:
    # Not below pytest's folders, which are closed to the user that Postgres runs as.
    with TemporaryDirectory(prefix="tidemill-clean-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        files = exams_of(extra)
        words = [str(path) for path in files] if LONG else [each for path in files for each in exam_in(path)]
        done = made(folder, extra).run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *words)
    last = done.stdout.rstrip().rpartition("\n")[2]
    assert re.fullmatch(r"\d+ passed(, \d+ warnings?)? in .*", last), done.stdout + done.stderr
    assert done.returncode == 0


STRANGERS = {
    "pytest": "a tool of tests", "fastapi": "of the core", "lightgbm": "of another extra",
    "pandas": "of other extras", "duckdb": "of no extra", "openpyxl": "a tool of another contract test",
}  # fmt: skip
_IMPORTS = """
import importlib, json, sys
from importlib.metadata import distributions
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.import_module(name).__file__
    except ModuleNotFoundError:
        found[name] = None
print(json.dumps([found, sorted({each.metadata["Name"].lower().replace("_", "-") for each in distributions()})]))
"""


def test_what_the_extra_does_not_bring_cannot_be_imported(tmp_path: Path) -> None:
    requirements = [*clean.needs_of("avro"), *clean.tools_of("avro")]
    place = clean_environment(tmp_path, requirements)
    done = place.run("-c", _IMPORTS, "fastavro", "tidemill", *STRANGERS, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    found, names = json.loads(done.stdout)
    assert {name for name, file in found.items() if file} == {"fastavro", "tidemill", "pytest", "fastapi"}
    assert all(Path(file).is_relative_to(tmp_path) for file in found.values() if file)
    assert set(names) == clean.closure(requirements)
    # All of them are here, so that it is the environment that keeps them away.
    here = subprocess.run([sys.executable, "-c", _IMPORTS, *STRANGERS], capture_output=True, text=True)
    assert all(json.loads(here.stdout)[0].values())


def test_an_extra_that_lacks_a_package_is_found_out(tmp_path: Path) -> None:
    path = exams_of("avro")[0]
    place = clean_environment(tmp_path, [*clean.needs_of(None), *clean.tools_of("avro")])
    done = place.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *exam_in(path))
    assert done.returncode != 0
    assert "No module named 'fastavro'" in done.stdout


def test_folders_that_several_distributions_share_hold_only_what_was_asked_for(tmp_path: Path) -> None:
    """`google` belongs to protobuf and to others that MLflow brings."""
    with_onnx = clean_environment(tmp_path / "onnx", [*clean.needs_of("onnx")])
    (site,) = (with_onnx.python.parents[1] / "lib").glob("python*/site-packages")
    assert sorted(each.name for each in (site / "google").iterdir()) == ["_upb", "protobuf"]


def test_every_extra_and_every_member_is_looked_at() -> None:
    looked = [path.name for extra in (None, *ALONE) for path in exams_of(extra)]
    assert len(looked) == len(set(looked))
    left = {f"test_{kind}_{name}.py" for kind, name in MEMBERS} - set(looked)
    assert left == {f"test_flavor_{name}.py" for name in OF_TWO} | (set() if LONG else set(HEAVY))

"""The guards against tests that stop politely, tried on tests that do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

POLITE = {
    "skip": "import pytest\ndef test_a(): pytest.skip('no server')\n",
    "mark": "import pytest\n@pytest.mark.skip(reason='no server')\ndef test_a(): ...\n",
    "module": "import pytest\npytest.importorskip('a_module_that_nobody_has')\ndef test_a(): ...\n",
    "xfail": "import pytest\n@pytest.mark.xfail\ndef test_a(): assert False\n",
    "xpass": "import pytest\n@pytest.mark.xfail\ndef test_a(): ...\n",
}
HONEST = "def test_a(): ...\ndef test_b(): ...\n"


# Of the plugins only xdist has a part in this; to import the others takes longer than the tests.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def pytest_in(folder: Path, *arguments: str, ci: bool) -> subprocess.CompletedProcess[str]:
    """Run pytest on a folder that has our conftest, with or without CI in the environment."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    if ci:
        environment["CI"] = "true"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin", *arguments]
    return subprocess.run(command, cwd=folder, env={**environment, **ALONE}, capture_output=True, text=True)


def no_skips(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "no_skips.py"), str(folder / "junit.xml"), str(folder)]
    return subprocess.run(command, cwd=folder, env={**os.environ, **ALONE}, capture_output=True, text=True)


@pytest.mark.parametrize("name", POLITE)
def test_in_ci_a_polite_test_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / "test_it.py").write_text(POLITE[name])
    done = pytest_in(tmp_path, ci=True)
    assert done.returncode in (1, 2), done.stdout
    assert "With CI set that is a failure" in done.stdout


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_in_ci_deselection_fails(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(HONEST)
    done = pytest_in(tmp_path, "-k", "test_a", *workers, ci=True)
    assert done.returncode == 1
    assert "1 tests were deselected" in done.stdout


def test_honest_tests_pass_in_ci(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HONEST)
    assert pytest_in(tmp_path, ci=True).returncode == 0


@pytest.mark.parametrize("name", ["skip", "mark", "module", "xfail"])
def test_report_with_a_polite_test_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "test_it.py").write_text(POLITE[name])
    (tmp_path / "test_honest.py").write_text(HONEST)
    assert pytest_in(tmp_path, "--junitxml=junit.xml", ci=False).returncode == 0
    done = no_skips(tmp_path)
    assert done.returncode == 1
    assert "test_it" in done.stderr


def test_report_with_deselected_tests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HONEST)
    assert pytest_in(tmp_path, "--junitxml=junit.xml", "-k", "test_a", ci=False).returncode == 0
    done = no_skips(tmp_path)
    assert done.returncode == 1
    assert "2 tests are there, but the report has only 1" in done.stderr


def test_honest_report_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HONEST)
    assert pytest_in(tmp_path, "--junitxml=junit.xml", ci=False).returncode == 0
    done = no_skips(tmp_path)
    assert (done.returncode, done.stdout) == (0, "no_skips: 2 tests in the report, 2 collected, 0 complaints\n")


def test_tests_of_a_group_share_a_process(tmp_path: Path) -> None:
    """Their fixtures may take minutes; whether xdist keeps them together depends on how pytest names tests."""
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_a(number): open('processes', 'a').write(f'{os.getpid()}\\n')\n"
    )
    assert pytest_in(tmp_path, "-n", "2", "--dist", "loadgroup", ci=True).returncode == 0
    assert len(set((tmp_path / "processes").read_text().split())) == 1


def test_tests_that_share_a_fixture_share_a_process(tmp_path: Path) -> None:
    """One that was made for a module or for a folder; other tests are spread."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='package')\ndef folder(): open('folders', 'a').write('made\\n')\n"
    )
    test = "@pytest.mark.parametrize('number', range(4))\ndef test_{0}({0}, number): ...\n"
    for name in ("test_a.py", "test_b.py"):
        (inner / name).write_text(
            "import pytest\n"
            "@pytest.fixture(scope='module')\n"
            "def module(): open('modules', 'a').write('made\\n')\n" + test.format("module") + test.format("folder")
        )
    assert pytest_in(tmp_path, "-n", "2", "--dist", "loadgroup", ci=True).returncode == 0
    made = [(tmp_path / name).read_text().count("made") for name in ("folders", "modules")]
    assert made == [1, 2]

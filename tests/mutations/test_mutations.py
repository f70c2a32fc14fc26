"""Each mutation makes its named test fail: the tests can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.mutations import MUTATIONS, Mutation
from tests.mutations.service import SERVICE_MUTATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(700)
@pytest.mark.parametrize("mutation", (*MUTATIONS, *SERVICE_MUTATIONS), ids=lambda mutation: mutation.name)
def test_a_mutation_is_seen(mutation: Mutation, tmp_path: Path) -> None:
    source = mutated(mutation, tmp_path)
    done = run(mutation.test, source, tmp_path)
    tail = (done.stdout + done.stderr)[-3000:]
    reasons = "\n".join(error_lines(done.stdout))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, f"{mutation.test} did not see {mutation.name}:\n{tail}"
    assert re.search(mutation.because, reasons), f"{mutation.test} failed for another reason:\n{reasons or tail}"


def error_lines(stdout: str) -> list[str]:
    """What pytest says went wrong. The source around it is left out: that holds any word whatever went wrong."""
    return [line for line in stdout.splitlines() if line.startswith("E  ")]


def mutated(mutation: Mutation, folder: Path) -> Path:
    """A copy of the source with the mutation in it."""
    source = folder / "src"
    # With what is compiled already: Python compiles a file again whose time or size is another.
    shutil.copytree(ROOT / "src", source)
    for edit in mutation.edits:
        path = source / "tidemill" / edit.file
        text = path.read_text(encoding="utf-8")
        assert text.count(edit.old) == 1, f"{edit.file} holds {text.count(edit.old)} times: {edit.old}"
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return source


def run(test: str, source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one test against a copy of the source."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment = {
        **mine,
        "PYTHONPATH": str(source),
        "TIDEMILL_CRASH_SRC": str(source),
        "TIDEMILL_CRASH_BUILD": str(folder / "build"),
        "TIDEMILL_CRASH_SEEDS": "20",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--timeout=600", f"--basetemp={folder / 'tests'}", test]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=660, check=False)

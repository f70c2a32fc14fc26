"""A person at a terminal: questions, the live bar, Ctrl-C twice; and what changes while a job runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from tests.acceptance.conftest import numbered
from tests.acceptance.terminal import Terminal, tree_of, wait_until


def prediction(path: Path) -> list[float]:
    return list(pq.read_table(path)["prediction"].to_pylist())


@pytest.fixture
def gate(terminal: Terminal) -> Path:
    """Where the models wait for a file."""
    return terminal.folder / "gate"


def linear() -> LinearRegression:
    """2 x + 1, of n and x."""
    frame = numbered(0, 50).to_pandas()[["n", "x"]]
    return LinearRegression().fit(frame, 2 * frame["x"] + 1)


def committed(terminal: Terminal) -> Callable[[], bool]:
    """Whether a chunk was committed."""

    def is_so() -> bool:
        listed = terminal.say("jobs", "list", "--json").out
        return any(job["counts"]["predicted"] for job in json.loads(listed or "[]"))

    return is_so


def test_trust_is_asked_for_once(terminal: Terminal, few: Path) -> None:
    model = terminal.folder / "model.joblib"
    joblib.dump(linear(), model)
    no = terminal.sit_down("run", model, few, "-o", "out")
    no.read_until("Trust this file from now on?")
    assert "Loading it runs code that is inside the file" in no.seen
    no.type("n")
    assert no.leave() == 2
    assert "--trust" in no.seen
    terminal.nothing_left()
    yes = terminal.sit_down("run", model, few, "-o", "out")
    yes.read_until("Trust this file from now on?")
    yes.type("y")
    assert yes.leave() == 0
    assert np.allclose(prediction(terminal.work / "out"), [n + 1.0 for n in range(1_000)])
    again = terminal.sit_down("run", model, few, "-o", "again")
    assert again.leave() == 0
    assert "Trust this file" not in again.seen


def test_a_live_bar_and_ctrl_c_twice(terminal: Terminal, many: tuple[Path, Path], gate: Path) -> None:
    words = ("run", "wild:Gated", *many, "-o", "out", "--keep", "n", "--rows-per-chunk", "2000", "--scorers", "1")
    sitting = terminal.sit_down(*words, TEST_GATE=str(gate))
    sitting.read_until("2,000 of 100,000 rows")
    assert "\u2501" in sitting.seen, "there is no bar"
    wait_until(committed(terminal), 150)
    family = tree_of(sitting.process.pid)
    assert len(family) > 1
    sitting.process.send_signal(signal.SIGINT)
    sitting.read_until("press Ctrl-C again to stop now")
    sitting.process.send_signal(signal.SIGINT)
    assert sitting.leave() == 130
    assert "what was committed is kept; nothing is published" in sitting.seen
    assert "go on: the same command, or tidemill resume job_" in sitting.seen
    assert "Traceback" not in sitting.seen
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family))
    assert not (terminal.work / "out").exists()
    gate.touch()
    said = terminal.say(*words, TEST_GATE=str(gate)).done()
    assert "1 of 50 chunks (2,000 rows) are already done" in said.err
    assert prediction(terminal.work / "out") == [n + 1.0 for n in range(100_000)]
    terminal.nothing_left("out", "out.manifest.json")


def test_a_job_over_its_time_is_stopped_and_goes_on_with_more(
    terminal: Terminal, many: tuple[Path, Path], gate: Path
) -> None:
    words = ("run", "wild:Gated", many[0], "-o", "out", "--keep", "n", "--rows-per-chunk", "2000")
    said = terminal.say(*words, "--max-runtime", "1s", TEST_GATE=str(gate))
    said.stopped(1, "ran longer than its limit of 1s", "a higher limit goes on")
    gate.touch()
    terminal.say(*words, "--max-runtime", "1h", TEST_GATE=str(gate)).done()
    assert len(prediction(terminal.work / "out")) == 60_000


def test_a_library_that_changed_is_named(terminal: Terminal, few: Path) -> None:
    """An older numpy, as far as anybody can tell from what is installed."""
    words = ("wild:Raises", few, "-o", "out", "--keep", "n")
    terminal.run(*words, "--max-rejected", "0").stopped(1, "limit")
    info = terminal.folder / "libraries" / "numpy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    path = f"{info.parent}:{terminal.environ({})['PYTHONPATH']}"
    was = np.__version__
    terminal.run(*words, PYTHONPATH=path).refused(f"numpy {was} -> 0.1", "--allow-upgrade")
    terminal.run(*words, "--allow-upgrade", PYTHONPATH=path).done(3)
    assert len(prediction(terminal.work / "out")) == 990


def test_input_that_changes_while_it_is_scored_is_never_mixed(terminal: Terminal, gate: Path) -> None:
    folder = terminal.folder / "in"
    folder.mkdir()
    pq.write_table(numbered(0, 2_000), folder / "0.parquet")
    pq.write_table(numbered(2_000, 62_000), folder / "1.parquet", row_group_size=2_000)
    process = terminal.start("run", "wild:Gated", folder, "-o", "out", "--scorers", "1", "--rows-per-chunk", "2000",
                             TEST_GATE=str(gate))  # fmt: skip
    wait_until(committed(terminal), 150)
    pq.write_table(numbered(70_000, 130_000), folder / "1.parquet")
    gate.touch()
    _, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    assert f"{folder}/1.parquet" in err and "changed" in err
    terminal.nothing_left()


@pytest.mark.parametrize("extra, library", [("lightgbm", "lightgbm"), ("sklearn", "skops")])
def test_a_model_whose_library_is_missing_says_what_to_install(
    terminal: Terminal, few: Path, extra: str, library: str
) -> None:
    table = numbered(0, 200).select(["n", "x"]).to_pandas()
    if extra == "lightgbm":
        model = terminal.folder / "model.txt"
        settings = {"num_leaves": 2, "min_data_in_leaf": 1, "verbose": -1, "num_threads": 1}
        lightgbm.train(settings, lightgbm.Dataset(table, table["x"]), 1).save_model(model)
    else:
        model = terminal.folder / "model.skops"
        skops.io.dump(linear(), model)
    without = terminal.folder / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "found = PathFinder.find_spec\n"
        f"PathFinder.find_spec = lambda name, *more: None if name == {library!r} else found(name, *more)\n"
    )
    path = f"{without}:{terminal.environ({})['PYTHONPATH']}"
    said = terminal.run(model, few, "-o", "out", PYTHONPATH=path)
    said.refused(f"needs the package '{library}'", f"Run: pip install 'tidemill[{extra}]'")
    terminal.nothing_left()

"""What people type: modes, outputs, job files, previews, trust, Ctrl-C, and looking at results."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from tests.acceptance.conftest import numbered
from tests.acceptance.terminal import Terminal, wait_until

WANT = [n + 1.0 for n in range(1_000)]


def prediction(path: Path) -> list[float]:
    return list(pq.read_table(path)["prediction"].to_pylist())


def test_modes(terminal: Terminal, few: Path) -> None:
    more = terminal.folder / "more.parquet"
    pq.write_table(numbered(1_000, 1_500), more)
    terminal.run("wild:Good", few, "-o", "out").done()
    same = terminal.run("wild:Good", few, "-o", "out").done()
    assert "up to date" in same.err
    terminal.run("wild:Good", more, "-o", "out").refused("input changed", "--mode overwrite", "--mode append")
    assert prediction(terminal.work / "out") == WANT
    terminal.run("wild:Good", more, "-o", "out", "--mode", "append").done()
    assert prediction(terminal.work / "out") == [n + 1.0 for n in range(1_500)]
    terminal.run("wild:Good", more, "-o", "out", "--mode", "overwrite").done()
    assert prediction(terminal.work / "out") == [n + 1.0 for n in range(1_000, 1_500)]
    terminal.nothing_left("out", "out.manifest.json")


def test_an_output_that_somebody_else_made_is_not_touched(terminal: Terminal, few: Path) -> None:
    (terminal.work / "mine.csv").write_text("precious")
    for mode in ("error", "overwrite"):
        terminal.run("wild:Good", few, "-o", "mine.csv", "--mode", mode).refused("not published by Tidemill")
    assert (terminal.work / "mine.csv").read_text() == "precious"
    terminal.nothing_left("mine.csv")


def test_a_folder_and_a_file_of_one_name_cannot_share_a_manifest(terminal: Terminal, few: Path) -> None:
    terminal.run("wild:Good", few, "-o", "kj").done()
    for mode in ("error", "overwrite"):
        said = terminal.run("wild:Good", few, "-o", "kj.jsonl", "--mode", mode)
        said.refused("kj.manifest.json", f"the files of {terminal.work / 'kj'};", "another name")
    terminal.say("verify", "kj.jsonl").refused("kj.jsonl", f"of {terminal.work / 'kj'}.")
    assert "whole" in terminal.say("verify", "kj").done().err
    terminal.nothing_left("kj", "kj.manifest.json")
    terminal.run("wild:Good", few, "-o", "kj.rejected.csv").refused("kj.rejected.csv", "rejected rows of another")


def test_a_folder_may_be_called_like_a_file(terminal: Terminal, few: Path) -> None:
    terminal.run("wild:Good", few, "-o", "kj.parquet/").done()
    assert "whole" in terminal.say("verify", "kj.parquet").done().err
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert (
        json.loads(terminal.say("results", "head", job["id"], "-n", "1", "--json").done().out)[0]["prediction"] == 1.0
    )


def test_an_unfinished_job_keeps_outputs_that_share_its_manifest(terminal: Terminal, few: Path) -> None:
    """Neither started over nor cancelled by a command about another output, also not by --restart."""
    words = ("wild:Raises", few, "--rows-per-chunk", "100", "--scorers", "1")
    terminal.run(*words, "-o", "kj", "--max-rejected", "0").stopped(1, "limit")
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    for more in ([], ["--restart"]):
        said = terminal.run(*words, "-o", "kj.csv", *more)
        said.refused("kj.csv would share its manifest with", job["id"], "tidemill resume")
    terminal.run(*words, "-o", "kj").done(3)
    terminal.nothing_left("kj", "kj.rejected", "kj.manifest.json")


@pytest.mark.parametrize("name", ["one.parquet", "one.csv", "one.csv.gz", "one.jsonl", "one.jsonl.zst", "one.arrow"])
def test_single_files(terminal: Terminal, few: Path, name: str) -> None:
    terminal.run("wild:Good", few, "-o", name, "--rows-per-chunk", "300").done()
    path = terminal.work / name
    read = {
        "one.parquet": pd.read_parquet,
        "one.csv": pd.read_csv,
        "one.csv.gz": pd.read_csv,
        "one.jsonl": lambda p: pd.read_json(p, lines=True),
        "one.jsonl.zst": lambda p: pl.read_ndjson(p).to_pandas(),
        "one.arrow": lambda p: pa.ipc.open_file(p).read_pandas(),
    }[name]
    frame = read(path)  # type: ignore[operator]
    assert list(frame.columns) == ["name", "prediction"]
    assert frame["prediction"].tolist() == WANT
    assert frame["name"].tolist() == [f"row {n}" for n in range(1_000)]
    if name.endswith(".gz"):
        assert gzip.decompress(path.read_bytes()).count(b"\n") == 1_001
    terminal.nothing_left(name, "one.manifest.json")


def test_a_job_file(terminal: Terminal, few: Path) -> None:
    words = ("wild:Good", few, "-o", "out", "--id", "n", "--keep", "name", "--max-rejected", "1%")
    saved = terminal.run(*words, "--save", "job.yaml").done()
    assert "tidemill run job.yaml" in saved.err
    assert yaml.safe_load((terminal.work / "job.yaml").read_text()) == {
        "model": "wild:Good",
        "input": {"path": [str(few)]},
        "output": {"path": "out"},
        "id": ["n"],
        "keep": ["name"],
        "limits": {"rejected": "1%"},
    }
    terminal.nothing_left("job.yaml")
    terminal.run("job.yaml").done()
    assert pq.read_table(terminal.work / "out").schema.names == ["n", "name", "prediction"]
    assert "up to date" in terminal.run("job.yaml").done().err
    (terminal.work / "bad.yaml").write_text("model: x\ninput: {path: a}\nouput: {path: out}\n")
    terminal.run("bad.yaml").refused("ouput")
    (terminal.work / "list.yaml").write_text("- a\n")
    terminal.run("list.yaml").refused("not a job spec")
    terminal.run("nothing.yaml").refused("nothing.yaml")


def test_a_preview_and_a_dry_run_write_nothing(terminal: Terminal, few: Path) -> None:
    shown = terminal.run("wild:Good", few).done()
    assert "1,000 rows" in shown.err and "-o scores/" in shown.err
    assert "row 3" in shown.out and "prediction" in shown.out
    dry = terminal.run("wild:Good", few, "-o", "out", "--dry-run", "--json").done()
    answer = json.loads(dry.out)
    assert [row["prediction"] for row in answer["rows"]] == WANT[:5]
    assert answer["columns"] == [["name", "string"], ["prediction", "double"]]
    terminal.run("wild:OnlyX", few, "-o", "out", "--dry-run", "--keep", "nme").refused("'nme'", "did you mean 'name'")
    terminal.nothing_left()


def test_a_preview_names_the_rows_that_would_be_rejected(terminal: Terminal) -> None:
    path = terminal.folder / "in.csv"
    path.write_text("x,word\n1,a\nmany,b\nmany,c\n4,d\n5e,e\n")
    shown = terminal.run("wild:Typed", path).done().err
    assert "3 of the first rows would be rejected" in shown
    assert shown.count("'many'") == 1
    assert "row 1 and 1 more (read): ConversionError: Column 'x': 'many' is not double" in shown
    assert "row 4 (read): ConversionError" in shown


def test_files_of_several_formats_are_named(terminal: Terminal, few: Path) -> None:
    folder = terminal.folder / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("n,x\n1,2\n")
    (folder / "b.parquet").write_bytes(few.read_bytes())
    said = terminal.run("wild:Good", folder / "*", "-o", "out")
    said.stopped(1, f"{folder}/b.parquet is not csv like the first file, {folder}/a.csv: it looks like parquet")
    terminal.nothing_left()


def test_an_executor_that_is_not_there_is_refused(terminal: Terminal, few: Path) -> None:
    terminal.run("wild:Good", few, "-o", "out", "--executor", "ray").refused("no executor 'ray'", "Known: local")
    terminal.run("wild:Good", few, "--executor", "banana").refused("no executor 'banana'")


def test_what_a_job_costs(terminal: Terminal, few: Path) -> None:
    rates = {"TIDEMILL_RATE_JOB": "0.25", "TIDEMILL_RATE_CURRENCY": "EUR"}
    said = terminal.run("wild:Good", few, "-o", "out", **rates).done()
    assert "cost       0.2500 EUR" in said.err
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert "cost 0.2500 EUR" in terminal.say("jobs", "show", job["id"], **rates).done().out


def test_doctor_keeps_names_and_values_apart(terminal: Terminal) -> None:
    lines = terminal.say("doctor").done().out.splitlines()
    (line,) = (line for line in lines if line.startswith("setting requests_per_minute"))
    assert re.fullmatch(r"setting requests_per_minute +6000 \(default\)", line)


def test_id_keep_and_features(terminal: Terminal, few: Path) -> None:
    def columns(*words: str) -> list[str]:
        terminal.run("wild:Counts", few, "-o", words[0].strip("-"), *words).done()
        table = pq.read_table(terminal.work / words[0].strip("-"))
        return [*table.schema.names, str(table["prediction"][0])]

    assert columns("--id", "name") == ["name", "prediction", "2.0"]
    assert columns("--features", "x,n", "--id", "n") == ["n", "name", "prediction", "2.0"]
    assert columns("--keep", "all", "--id", "name", "--features", "x") == ["name", "n", "x", "prediction", "1.0"]
    terminal.run("wild:Counts", few, "-o", "bad", "--id", "nam").refused("'nam'", "did you mean 'name'")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scikit-learn classifier of x and n, saved by joblib and by pickle."""
    folder = tmp_path_factory.mktemp("sk")
    frame = numbered(0, 200).to_pandas()[["n", "x"]]
    model = LogisticRegression().fit(frame, np.where(frame["n"] > 100, "yes", "no"))
    joblib.dump(model, folder / "model.joblib")
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    expected = numbered(0, 1_000).to_pandas()[["n", "x"]]
    np.save(folder / "labels.npy", model.predict(expected).astype(str))
    np.save(folder / "yes.npy", model.predict_proba(expected)[:, 1])
    return folder


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl"])
def test_a_model_that_carries_code_must_be_trusted(terminal: Terminal, few: Path, classifier: Path, name: str) -> None:
    model = classifier / name
    terminal.run(model, few, "-o", "out").refused("--trust", str(model), "sha256")
    terminal.nothing_left()
    said = terminal.run(model, few, "-o", "out", "--trust").done()
    assert "yes" in said.err, "the summary names the positive class"
    table = pq.read_table(terminal.work / "out")
    assert table["prediction"].to_pylist() == np.load(classifier / "labels.npy").tolist()
    assert table["probability"].to_pylist() == np.load(classifier / "yes.npy").tolist()
    again = terminal.run(model, few, "-o", "again", "--probabilities").done()
    assert "probability_no, probability_yes" in again.err, "trusted from now on"


def test_ctrl_c_pauses_and_the_same_command_goes_on(terminal: Terminal, many: tuple[Path, Path]) -> None:
    words = ("wild:Slow", *many, "-o", "out", "--keep", "n", "--rows-per-chunk", "2000", "--scorers", "2")
    process = terminal.start("run", *words, TEST_SLEEP="0.3")
    parts = terminal.work / ".out.tidemill"
    wait_until(lambda: len(list(parts.glob("*/parts/*.predictions.parquet"))) >= 4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping" in err and "paused" in err and "tidemill resume job_" in err
    assert not (terminal.work / "out").exists()
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert job["state"] == "paused"
    assert 0 < job["counts"]["predicted"] < 100_000
    shown = json.loads(terminal.say("jobs", "show", job["id"], "--json").done().out)
    said = terminal.run(*words, TEST_SLEEP="0").done()
    assert f"{shown['chunks_done']} of 50 chunks" in said.err
    assert prediction(terminal.work / "out") == [n + 1.0 for n in range(100_000)]
    terminal.nothing_left("out", "out.manifest.json")


def test_ctrl_c_while_planning(terminal: Terminal) -> None:
    """Nothing was done yet, so nothing is kept that could hold up another job."""
    folder = terminal.folder / "in"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.csv").write_bytes(b"x\n%d\n" % number)
    gate = terminal.folder / "gate"
    process = terminal.start("run", "wild:GatedAtLoad", folder, "-o", "out", TEST_GATE=str(gate))
    wait_until(gate.with_name("gate.reached").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not (terminal.work / "out").exists()
    terminal.run("wild:OnlyX", folder / "*.csv", "-o", "out").done()
    assert prediction(terminal.work / "out") == [2.0 * number + 1 for number in range(10)]
    terminal.nothing_left("out", "out.manifest.json")


def test_resume_by_the_end_of_the_id_with_another_limit(terminal: Terminal, many: tuple[Path, Path]) -> None:
    words = ("wild:Raises", *many, "-o", "out", "--keep", "n", "--rows-per-chunk", "10000", "--scorers", "1")
    terminal.run(*words, "--max-rejected", "450").stopped(1, "450", f"{many[0]}, row 7: ValueError: row 7 has no soul")
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert job["state"] == "failed" and job["counts"]["rejected"] > 0
    shown = terminal.say("jobs", "show", job["id"][-8:]).done()
    assert f"tidemill resume {job['id']}" in shown.out
    assert "tidemill jobs resume" not in shown.out, "which no worker may"
    terminal.say("resume", job["id"][-8:]).stopped(1, "450")
    terminal.run("wild:Good", *many, "-o", "out").refused("model is another one", job["id"], "--restart")
    terminal.run(*words, "--max-rejected", "1%").done(3)
    assert len(prediction(terminal.work / "out")) == 99_000
    terminal.say("resume", job["id"]).refused("nothing to go on with")
    terminal.say("resume", "no-such-job").refused("no-such-job")


def test_cancel_from_another_process(terminal: Terminal, many: tuple[Path, Path]) -> None:
    process = terminal.start(
        "run",
        "wild:Gated",
        *many,
        "-o",
        "out",
        "--rows-per-chunk",
        "2000",
        TEST_GATE="/never",
        TIDEMILL_HEARTBEAT_SECONDS="1",
    )
    wait_until(lambda: list((terminal.work / ".out.tidemill").glob("*/parts/*.parquet")))
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert job["state"] == "running"
    terminal.run("wild:Good", *many, "-o", "out").refused(job["id"], "is being written")
    terminal.say("jobs", "cancel", job["id"][-8:]).done()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "cancelled" in err
    shown = json.loads(terminal.say("jobs", "show", job["id"], "--json").done().out)
    assert shown["state"] == "cancelled"
    terminal.nothing_left()


def test_looking_at_results(terminal: Terminal, few: Path) -> None:
    terminal.run("wild:Good", few, "-o", "a", "--keep", "n").done()
    other = terminal.folder / "other.parquet"
    table = numbered(0, 1_000)
    x = table["x"].to_numpy().copy()
    x[10] += 0.25
    pq.write_table(table.set_column(1, "x", pa.array(x)), other)
    terminal.run("wild:Good", other, "-o", "b", "--keep", "n").done()
    head = json.loads(terminal.say("results", "head", "a", "-n", "2", "--json").done().out)
    assert head == [{"n": 0, "prediction": 1.0}, {"n": 1, "prediction": 2.0}]
    compared = json.loads(terminal.say("compare", "a", "b", "--json").done(1).out)
    assert compared["columns"][1] == {
        "name": "prediction",
        "different": 1,
        "max_difference": 0.5,
        "mean_difference": 0.0005,
    }
    assert not compared["same"]
    assert "the same" in terminal.say("compare", "a", "a").done().err
    assert "whole" in terminal.say("verify", "a").done().err
    part = terminal.work / "a" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    terminal.say("verify", "a").stopped(1, str(part), "sha256")
    part.unlink()
    terminal.say("verify", "a").stopped(1, str(part), "No such file")
    terminal.run("wild:Good", few, "-o", "a", "--keep", "n").refused("gone or changed", "--restart")
    terminal.say("verify", "nowhere").refused("nowhere")


def test_two_outputs_at_once(terminal: Terminal, few: Path) -> None:
    names = ("a", "b")
    running = [terminal.start("run", "wild:Slow", few, "-o", name, TEST_SLEEP="1") for name in names]
    for process in running:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    assert [prediction(terminal.work / name) for name in names] == [WANT, WANT]


def test_python_without_a_main_guard(terminal: Terminal, few: Path) -> None:
    script = terminal.work / "score.py"
    script.write_text(
        "import tidemill\n"
        f"result = tidemill.run('wild:Raises', {str(few)!r}, 'out', keep=['n'])\n"
        "print(result)\n"
        "print(result.total, result.predicted, result.rejected_count, result.up_to_date)\n"
        "print(result.to_pandas()['prediction'].sum(), len(result.to_polars()))\n"
        "print(result.rejected.to_table()['_row'].to_pylist()[:2], len(result.paths))\n"
        f"seen = tidemill.run('wild:Good', {str(few)!r})\n"
        "print(len(seen.predictions), seen.features, seen.rows)\n"
        "print(seen)\n"
        "try:\n"
        f"    tidemill.run('wild:Raises', {str(few)!r} + 'x', 'other')\n"
        "except tidemill.TidemillError as error:\n"
        "    print(error.code, error)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=terminal.work, env=terminal.environ({}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1,000 = 990 predicted + 10 rejected" in lines[0]
    assert lines[1] == "1000 990 10 False"
    assert lines[2] == f"{sum(n + 1.0 for n in range(1_000) if n % 100 != 7)} 990"
    assert lines[3] == "[7, 107] 1"
    assert lines[4] == "5 ['n', 'x'] 1000"
    assert lines[5] == f"Preview of wild:Good (python) on {few}"
    assert lines[6:9] == [
        "match: n, x: all there",
        "  {'name': 'row 0', 'prediction': 1.0}",
        "  {'name': 'row 1', 'prediction': 2.0}",
    ]
    assert lines[12].startswith("estimate: about 1,000 rows, ")
    assert lines[13].startswith("not_found There is no file or folder")
    terminal.nothing_left("score.py", "out", "out.rejected", "out.manifest.json")


def test_the_worker_never_loads_what_parses_data(terminal: Terminal, few: Path) -> None:
    """The command's own process maps no library of the data world, from its start to its end."""
    process = terminal.start("run", "wild:Slow", few, "-o", "out", "--rows-per-chunk", "100", TEST_SLEEP="0.1")
    maps = Path(f"/proc/{process.pid}/maps")
    seen: set[str] = set()
    while process.poll() is None:
        try:
            seen |= {line.split("/", 1)[1] for line in maps.read_text().splitlines() if "/" in line}
        except OSError:
            break
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert any("sqlite" in name for name in seen), "the store was not seen: nothing was"
    heavy = ("pyarrow", "numpy", "pandas", "lightgbm", "sklearn", "scipy", "onnxruntime")
    assert not [name for name in seen if any(f"/{word}" in name for word in heavy)]


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, tidemill; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    loaded = done.stdout
    for heavy in ("numpy", "pyarrow", "pandas", "sqlalchemy", "pydantic", "typer", "rich", "yaml"):
        assert f"'{heavy}'" not in loaded, heavy
    assert "'tidemill'" in loaded

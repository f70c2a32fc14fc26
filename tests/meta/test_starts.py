"""What the processes of a small job load: each module that nobody needs there is paid for at every start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

TELL = """
import atexit, json, os, subprocess, sys

first, leave, start, before = os.getpid(), os._exit, subprocess.Popen.__init__, []

def note_and_start(*args, **options):
    if not before:
        before.extend(sorted(sys.modules))
    return start(*args, **options)

def tell():
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0] if os.getpid() == first else "child"
    path = os.path.join(os.environ["TELL_FOLDER"], f"{os.getpid()}.json")
    with open(f"{path}.half", "w") as file:
        json.dump({"program": program, "modules": sorted(sys.modules), "before": before}, file)
    os.rename(file.name, path)

def tell_and_leave(code):
    tell()
    leave(code)

atexit.register(tell)
os._exit = tell_and_leave
subprocess.Popen.__init__ = note_and_start
"""
"""As sitecustomize: whoever ends by itself leaves word of what it has loaded, and had before it started a process. A
child that has answered is killed, perhaps while it writes."""

MODEL = """
import numpy as np

class Model:
    inputs = ("x",)

    def predict(self, batch):
        return np.asarray(batch["x"])
"""

NEVER = {"pandas", "yaml", "fastapi", "httpx2", "psycopg", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql"}
WORKER_NEVER = NEVER | {
    *("numpy", "pyarrow", "tidemill.cli.remote", "tidemill.cli.afar", "tidemill.bootstrap.local"),
    *("tidemill.wire.api", "tidemill.wire.schedules", "tidemill.wire.webhooks", "tidemill.stores.sql.postgres"),
}
BEFORE_NEVER = WORKER_NEVER | {
    *("pydantic", "pydantic_settings", "sqlalchemy", "typer", "rich", "asyncio", "sqlite3"),
    *(
        "tidemill.config",
        "tidemill.wire",
        "tidemill.service",
        "tidemill.engine",
        "tidemill.stores",
        "tidemill.domain.job",
    ),
}
LIBRARIES = {
    "torch",
    "tokenizers",
    "sklearn",
    "scipy",
    "joblib",
    "onnxruntime",
    "catboost",
    "lightgbm",
    "xgboost",
    "mlflow",
}
CHILDREN_NEVER = NEVER | {
    *("pydantic", "pydantic_core", "pydantic_settings", "sqlalchemy", "typer", "rich", "asyncio", "multiprocessing"),
    *("tidemill.wire", "tidemill.service", "tidemill.cli", "tidemill.config", "tidemill.stores", "tidemill.domain.job"),
}


SKLEARN_NEVER = {
    *(
        "scipy.stats._stats_py",
        "scipy.optimize._minimize",
        "scipy.interpolate._bsplines",
        "scipy.integrate._quadrature",
    ),
    *("scipy.fft", "numpy.f2py.crackfortran", "numpy.testing._private", "unittest", "rich"),
}
"""What scikit-learn would import and no usual model uses."""


def loaded_by_run(folder: Path, model: str = "model.py:Model", *options: str) -> dict[str, set[str]]:
    """The modules of the processes of one command by their program; all that were forked are "child". Those that the
    command had when it started the process that children are forked from are "before"."""
    told = Path(tempfile.mkdtemp(dir=folder))
    command = ["run", model, "in.parquet", "-o", f"out-{Path(model).stem}", "--scorers", "1", *options]
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", *command],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TIDEMILL_HOME": str(folder / "home"),
            "TELL_FOLDER": str(told),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {}
    for file in told.glob("*.json"):
        answer = json.loads(file.read_text())
        found.setdefault(answer["program"], set()).update(answer["modules"])
        if answer["before"]:
            found["before"] = set(answer["before"])
    return found


def with_site(folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(TELL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, set[str]]]:
    """A job, and the same command again."""
    folder = tmp_path_factory.mktemp("starts")
    with_site(folder)
    (folder / "model.py").write_text(MODEL)
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0]}), folder / "in.parquet")
    return [loaded_by_run(folder), loaded_by_run(folder)]


def test_each_process_of_a_job_is_heard(runs: list[dict[str, set[str]]]) -> None:
    assert set(runs[0]) == {"before", "__main__", "zygote", "child"}
    assert {"__main__", "zygote"} <= set(runs[1])
    assert {"sqlalchemy", "pydantic", "typer"} <= runs[0]["__main__"]
    assert {"pyarrow", "tidemill.engine.planner"} <= runs[0]["zygote"]
    assert {"pyarrow", "tidemill.flavors.python", "tidemill.engine.scorer"} <= runs[0]["child"]


def test_the_worker_of_a_small_job_loads_nothing_that_it_does_not_need(runs: list[dict[str, set[str]]]) -> None:
    for run in runs:
        assert run["__main__"].isdisjoint(WORKER_NEVER), run["__main__"] & WORKER_NEVER


def test_children_load_nothing_that_only_the_worker_or_another_model_needs(runs: list[dict[str, set[str]]]) -> None:
    for run in runs:
        for process in run.keys() - {"before", "__main__"}:
            found = run[process] & (CHILDREN_NEVER | LIBRARIES)
            assert not found, (process, found)


def test_a_job_here_loads_no_part_of_the_store_that_only_a_service_asks(runs: list[dict[str, set[str]]]) -> None:
    parts = ("schedules", "webhooks", "outbox", "sessions", "audit", "keys", "models")
    never = {*(f"tidemill.stores.sql.{part}" for part in parts), "tidemill.domain.schedule", "tidemill.domain.trigger"}
    assert "tidemill.stores.sql.queue" in runs[0]["__main__"]
    assert runs[0]["__main__"].isdisjoint(never), runs[0]["__main__"] & never


def test_children_begin_to_import_before_the_command_does(runs: list[dict[str, set[str]]]) -> None:
    for run in runs:
        assert run["before"].isdisjoint(BEFORE_NEVER), run["before"] & BEFORE_NEVER


def test_a_command_that_finds_nothing_to_do_loads_no_reader_and_opens_no_store(runs: list[dict[str, set[str]]]) -> None:
    assert runs[1]["__main__"].isdisjoint({"sqlalchemy", "tidemill.stores"})
    for process in runs[1].keys() - {"before", "__main__"}:
        assert runs[1][process].isdisjoint({"numpy", "pyarrow", "tidemill.bootstrap.tasks"})
        assert "tidemill.bootstrap.lookups" in runs[1][process]


def test_a_pipeline_brings_what_it_names_and_scorers_import_nothing_of_it_again(tmp_path: Path) -> None:
    with_site(tmp_path)
    data = pd.DataFrame({"n": [1.0, 2.0, 3.0, 4.0], "t": ["a", "b", "a", "c"]})
    pq.write_table(pa.Table.from_pandas(data), tmp_path / "in.parquet")
    columns = ColumnTransformer([("n", StandardScaler(), ["n"]), ("t", OneHotEncoder(), ["t"])])
    joblib.dump(make_pipeline(columns, Ridge()).fit(data, data["n"]), tmp_path / "pipeline.joblib")
    found = loaded_by_run(tmp_path, "pipeline.joblib", "--trust")
    assert {"pandas", "sklearn.compose", "sklearn.linear_model._ridge"} <= found["zygote"]
    assert SKLEARN_NEVER.isdisjoint(found["zygote"] | found["child"])
    libraries = ("sklearn", "scipy", "pandas", "joblib", "narwhals")
    assert {name for name in found["child"] - found["zygote"] if name.startswith(libraries)} == set()


def test_a_classifier_of_texts_loads_no_pandas_either(tmp_path: Path) -> None:
    with_site(tmp_path)
    texts, labels = ["good", "bad", "very good", "very bad"], [1, 0, 1, 0]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    joblib.dump(model, tmp_path / "texts.joblib", compress=3)
    found = loaded_by_run(tmp_path, "texts.joblib", "--trust", "--features", "text", "--json")
    assert "rich" not in found["__main__"], "JSON is printed without it"
    assert {"sklearn.feature_extraction.text", "sklearn.linear_model._logistic"} <= found["zygote"]
    assert {"pandas", "sklearn.ensemble", *SKLEARN_NEVER}.isdisjoint(found["zygote"] | found["child"])

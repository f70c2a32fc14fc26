"""Where only the core is installed, each model, file and store that needs more says the line that installs it.

And the line is right: the same command is done where that extra is there, and nothing else. For all of them that is
tried with TIDEMILL_TEST_LONG: what takes long is in `test_extras.py` too.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
import xgboost
from sklearn.linear_model import LinearRegression

from tests import clean
from tests.clean import EXTRAS, Clean, clean_environment
from tests.contract import mlflow_models
from tests.contract.test_flavor_onnx import network
from tests.contract.transformers_folders import maker
from tidemill import registry

LONG = bool(os.environ.get("TIDEMILL_TEST_LONG"))
NAMES = ["a", "b", "c"]
CORE_MODEL = "class M:\n    inputs = {'a': 'double'}\n    def predict(self, batch):\n        return batch['a']\n"


def frame() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(1).normal(size=(40, 3)), columns=NAMES)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What needs an extra: words of a command that scores with it; further extras that it needs after that one."""

    words: tuple[str, ...]
    extra: str
    more: tuple[str, ...] = ()


def _lightgbm(path: Path) -> Any:
    settings = {"num_leaves": 3, "min_data_in_leaf": 1, "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, lightgbm.Dataset(frame(), frame()["a"]), 2).save_model(path)


def _xgboost(path: Path) -> Any:
    xgboost.train({"nthread": 1}, xgboost.DMatrix(frame(), frame()["a"]), 2).save_model(path)


def _catboost(path: Path) -> Any:
    model = catboost.CatBoostRegressor(iterations=2, verbose=0, thread_count=1, allow_writing_files=False)
    model.fit(frame(), frame()["a"]).save_model(path)


def _torch(path: Path) -> Any:
    import torch

    rows = torch.export.Dim("rows")
    exported = torch.export.export(torch.nn.Linear(3, 1).eval(), (torch.ones(2, 3),), dynamic_shapes=({0: rows},))
    torch.export.save(exported, path)


def _linear() -> LinearRegression:
    return LinearRegression().fit(frame(), frame()["a"])


FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "lightgbm": ("m.txt", _lightgbm),
    "xgboost": ("m.ubj", _xgboost),
    "catboost": ("m.cbm", _catboost),
    "sklearn": ("m.skops", lambda path: skops.io.dump(_linear(), path)),
    "pickle": ("m.joblib", lambda path: joblib.dump(_linear(), path)),
    "onnx": ("m.onnx", lambda path: path.write_bytes(network().SerializeToString())),
    "torch": ("m.pt2", _torch),
}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Thing]:
    """By the name of the member that is asked for."""
    folder = tmp_path_factory.mktemp("things")
    pq.write_table(pa.Table.from_pandas(frame(), preserve_index=False), folder / "in.parquet")
    pq.write_table(pa.table({"text": ["good bread", "slow mill"]}), folder / "texts.parquet")
    (folder / "core.py").write_text(CORE_MODEL)
    rows, core = str(folder / "in.parquet"), f"{folder / 'core.py'}:M"
    made: dict[str, Thing] = {}
    for name, (file, make) in FILES.items():
        make(folder / file)
        extra = {"pickle": "sklearn"}.get(name, name)
        made[name] = Thing(words=("run", str(folder / file), rows, "--features", "a,b,c", "--trust"), extra=extra)
    (folder / "lgbm.pkl").write_bytes(
        pickle.dumps(lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(frame(), frame()["a"]))
    )
    made["pickle of lightgbm"] = Thing(
        words=("run", str(folder / "lgbm.pkl"), rows, "--trust"), extra="sklearn", more=("lightgbm",)
    )
    texts = maker(tmp_path_factory.mktemp("texts"))("BertForSequenceClassification", labels=("bad", "fine", "good"))
    made["transformers"] = Thing(words=("run", texts, str(folder / "texts.parquet")), extra="transformers")
    made["mlflow"] = Thing(words=("run", mlflow_models.own(), rows, "--trust"), extra="mlflow")
    made["mlflow_native"] = Thing(words=("run", mlflow_models.lightgbm(), rows), extra="lightgbm")
    other = ("run", mlflow_models.lightgbm(), rows, "--flavor", "mlflow", "--trust")
    made["mlflow of lightgbm"] = Thing(words=other, extra="mlflow", more=("lightgbm",))
    book = openpyxl.Workbook()
    for row in [NAMES, *frame().to_numpy().tolist()]:
        book.active.append(row)
    book.save(folder / "in.xlsx")
    made["excel"] = Thing(words=("run", core, str(folder / "in.xlsx")), extra="excel")
    (folder / "in.avro").write_bytes(_avro())
    made["avro"] = Thing(words=("run", core, str(folder / "in.avro")), extra="avro")
    return made


def _avro() -> bytes:
    import io

    import fastavro

    fields = [{"name": name, "type": "double"} for name in NAMES]
    target = io.BytesIO()
    fastavro.writer(target, {"type": "record", "name": "row", "fields": fields}, frame().to_dict("records"))
    return target.getvalue()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Clean]:
    """With some extras, made once."""
    made: dict[tuple[str, ...], Clean] = {}

    def make(*extras: str) -> Clean:
        if extras not in made:
            needs = [each for extra in (None, *extras) for each in clean.needs_of(extra)]
            made[extras] = clean_environment(tmp_path_factory.mktemp("place"), needs)
        return made[extras]

    return make


CORE = {"python", "parquet", "csv", "jsonl", "arrow", "orc"}
NEEDY = sorted({*registry.flavors.builtin, *registry.sources.builtin} - CORE)
QUICK = ("lightgbm", "mlflow_native", "avro", "excel")


@pytest.mark.parametrize("name", [*NEEDY, "pickle of lightgbm", "mlflow of lightgbm"])
def test_a_missing_extra_is_told_and_once_it_is_there_the_command_is_done(
    things: dict[str, Thing], environment: Callable[..., Clean], name: str
) -> None:
    thing, there = things[name], list[str]()
    for extra in (thing.extra, *thing.more):
        told(environment(*there), extra, *thing.words)
        there.append(extra)
    if LONG or name in QUICK:
        done = environment(*there).run("-m", "tidemill", *thing.words)
        assert done.returncode == 0, done.stdout + done.stderr


def told(place: Clean, extra: str, *words: str, **settings: str) -> None:
    """The command is refused with the line that installs this extra, as a line of its own."""
    refused = place.run("-m", "tidemill", *words, **settings)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    assert re.search(rf"^  → Run: pip install 'tidemill\[{extra}\]'(;.*)?$", refused.stderr, re.MULTILINE), (
        refused.stderr
    )


def test_every_member_of_an_extra_is_tried(things: dict[str, Thing]) -> None:
    needy = {*registry.flavors.builtin, *registry.sources.builtin} - CORE
    assert needy == set(things) & needy
    assert {thing.extra for thing in things.values()} == set(EXTRAS) - {"postgres", "oidc", "all"}


def test_a_registry_of_models_says_it_when_a_model_is_added(
    things: dict[str, Thing], environment: Callable[..., Clean]
) -> None:
    told(environment(), "onnx", "models", "add", "m", things["onnx"].words[1])
    told(
        environment(),
        "mlflow",
        "models",
        "add",
        "m",
        "models:/churn@champion",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )


def test_an_output_says_it_before_the_first_row(
    things: dict[str, Thing], environment: Callable[..., Clean], tmp_path: Path
) -> None:
    code, rows = things["excel"].words[1], things["lightgbm"].words[2]
    told(environment(), "avro", "run", code, rows, "-o", str(tmp_path / "out.avro"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_on_postgres_says_it(environment: Callable[..., Clean]) -> None:
    told(environment(), "postgres", "jobs", "list", TIDEMILL_STORE="postgresql://somebody@127.0.0.1:9/tidemill")


def test_logins_at_a_provider_say_it(environment: Callable[..., Clean]) -> None:
    settings = {
        "TIDEMILL_OIDC_ISSUER": "http://127.0.0.1:9",
        "TIDEMILL_OIDC_CLIENT_ID": "tidemill",
        "TIDEMILL_PUBLIC_URL": "http://127.0.0.1:8642",
        "TIDEMILL_LOGINS": '[{"user": "*", "role": "viewer"}]',
    }
    told(environment(), "oidc", "jobs", "list", **settings)

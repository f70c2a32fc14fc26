"""Pickles on the shipped suite: containers, whose object decides how it predicts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.contract import sklearn_models as models
from tidemill.domain.errors import MissingExtra, ModelUnusable
from tidemill.flavors.lightgbm import LightGBMFlavor
from tidemill.flavors.sklearn import PickleFlavor
from tidemill.testing.flavor import Case, FileFlavorContract, bits


class TestJoblib(FileFlavorContract):
    flavor_class = PickleFlavor
    framework = ("sklearn", "skops", "pandas", "scipy", "joblib")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._path = str(tmp_path_factory.getbasetemp() / "pipeline.joblib")
        if not Path(self._path).exists():
            joblib.dump(models.pipeline("bool"), self._path)

    def case(self) -> Case:
        expected = models.expected(models.pipeline("bool"), models.frame())
        return Case(path=self._path, rows=models.batch("age", "income", "city"), expected=expected)


def lgbm(kind: str) -> lightgbm.LGBMClassifier:
    settings: dict[str, Any] = {"n_estimators": 8, "num_leaves": 7, "verbose": -1, "n_jobs": 1}
    return lightgbm.LGBMClassifier(**settings).fit(models.numbers(), models.labels(kind))


def dumped(model: Any, path: Path) -> str:
    path.write_bytes(pickle.dumps(model))
    return str(path)


def rows() -> pa.RecordBatch:
    return models.batch("age", "income")


def test_it_says_that_it_carries_code() -> None:
    assert PickleFlavor.carries_code is True


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("model", [models.boosting, dict], ids=["model", "dict"])
def test_every_protocol_is_recognised(protocol: int, model: Callable[[], Any]) -> None:
    assert PickleFlavor.matches(pickle.dumps(model(), protocol), "m.pkl")


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_pickles_are_recognised_and_other_compressed_files_are_not(packer: str) -> None:
    pack = PACKERS[packer]
    assert PickleFlavor.matches(pack(pickle.dumps(models.boosting()))[:65536], "m.pkl")
    assert not PickleFlavor.matches(pack(b"a,b\n1,2\n" * 100), "data.csv.gz")


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)])
def test_joblib_files_of_every_compression(tmp_path: Path, compress: Any) -> None:
    path = tmp_path / "model"
    joblib.dump(models.boosting(), path, compress=compress)
    assert PickleFlavor.matches(path.read_bytes()[:65536], str(path))
    found = PickleFlavor().load(str(path), {}).predict(rows())
    assert bits(found) == bits(pa.RecordBatch.from_pydict(models.expected(models.boosting(), models.numbers())))


@pytest.mark.parametrize("kind", ["int", "text", "bool", "many"])
def test_pickled_lightgbm_classifiers_predict_as_they_do_themselves(tmp_path: Path, kind: str) -> None:
    model = lgbm(kind)
    own = PickleFlavor().load(dumped(model, tmp_path / "m.pkl"), {"probabilities": True})
    expected = models.expected(model, models.numbers(), every=True)
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(expected))
    assert (own.info.flavor, own.info.layout, own.info.batch_invariant) == ("lightgbm", "threads", True)
    assert own.info.classes == tuple(model.classes_.tolist())


def test_pickle_and_text_of_one_model_give_the_same_columns(tmp_path: Path) -> None:
    labels = models.labels("bool").astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1).fit(models.numbers(), labels)
    model.booster_.save_model(tmp_path / "m.txt")
    text = LightGBMFlavor().load(str(tmp_path / "m.txt"), {})
    for name, content in (("classifier.pkl", model), ("booster.pkl", model.booster_)):
        own = PickleFlavor().load(dumped(content, tmp_path / name), {})
        assert bits(own.predict(rows())) == bits(text.predict(rows()))
        assert own.info.outputs == text.info.outputs


def test_the_best_iteration_is_kept(tmp_path: Path) -> None:
    data, target = models.numbers(), models.labels("bool").astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1)
    stop = lightgbm.early_stopping(3, verbose=False)
    model.fit(data[:200], target[:200], eval_X=data[200:], eval_y=target[200:], callbacks=[stop])
    assert 0 < model.best_iteration_ < 60
    own = PickleFlavor().load(dumped(model, tmp_path / "m.pkl"), {})
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(models.expected(model, data)))


def test_pickled_regressor_and_lightgbm_inside_a_pipeline(tmp_path: Path) -> None:
    data, target = models.numbers(), models.frame()["income"]
    regressor = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1).fit(data, target)
    own = PickleFlavor().load(dumped(regressor, tmp_path / "r.pkl"), {})
    assert own.predict(rows()).columns.to_pydict() == {"prediction": regressor.predict(data).tolist()}
    scale = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scale, lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=2))
    pipeline.fit(data, models.labels())
    own = PickleFlavor().load(dumped(pipeline, tmp_path / "p.pkl"), {})
    expected = models.expected(pipeline, data)
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(expected))
    assert own.info.flavor == "sklearn"


def test_another_version_of_scikit_learn_is_told(tmp_path: Path) -> None:
    data = pickle.dumps(models.boosting())
    version = pickle.loads(data).__getstate__()["_sklearn_version"]
    older = "0" * (len(version) - 2) + ".1"
    assert data.count(version.encode()) == 1
    path = tmp_path / "old.pkl"
    path.write_bytes(data.replace(version.encode(), older.encode()))
    notes = PickleFlavor().load(str(path), {}).info.notes
    assert f"saved by scikit-learn {older}, loaded by {version}: values may differ" in notes


@pytest.mark.parametrize(
    "content, words",
    [
        ({"model": 1}, "holds a dict, which has no method predict"),
        ([1, 2], "holds a list"),
        (lightgbm.LGBMClassifier(), "holds a LGBMClassifier that is not fitted"),
        (np.arange(5), "holds a ndarray"),
    ],
    ids=["dict", "list", "unfitted", "array"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(ModelUnusable, match=words) as caught:
        PickleFlavor().load(dumped(content, tmp_path / "m.pkl"), {})
    assert caught.value.remedy


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(lightgbm.LGBMClassifier()).replace(b"lightgbm.sklearn", b"nothing_at_all.x"))
    with pytest.raises(MissingExtra, match="nothing_at_all") as caught:
        PickleFlavor().load(str(path), {})
    assert caught.value.remedy
    path.write_bytes(pickle.dumps(lightgbm.LGBMClassifier()).replace(b"LGBMClassifier", b"LGBMClassifiex"))
    with pytest.raises(ModelUnusable, match=r"m\.pkl cannot be loaded: AttributeError.*LGBMClassifiex"):
        PickleFlavor().load(str(path), {})


def test_classes_beside_the_working_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "house.py").write_text(
        textwrap.dedent(
            """
            class Model:
                def predict(self, frame):
                    return frame["a"] * 2
            """
        )
    )
    code = "import pickle, house; pickle.dump(house.Model(), open('m.pkl', 'wb'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    code = (
        "import sys; sys.path.remove('')\n"
        "import pyarrow as pa\n"
        "from tidemill.flavors.sklearn import PickleFlavor\n"
        "model = PickleFlavor().load('m.pkl', {'features': ['a']})\n"
        "print(model.predict(pa.RecordBatch.from_pydict({'a': [1.5, 2.0]})).columns.to_pydict())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "{'prediction': [3.0, 4.0]}\n", done.stderr

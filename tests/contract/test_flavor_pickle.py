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
import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler

from tests.contract import sklearn_models as models
from tidemill.domain.errors import MissingExtra, ModelUnusable
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
        (np.arange(5), "holds a ndarray"),
    ],
    ids=["dict", "list", "array"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(ModelUnusable, match=words) as caught:
        PickleFlavor().load(dumped(content, tmp_path / "m.pkl"), {})
    assert caught.value.remedy


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    scaler = pickle.dumps(StandardScaler())
    path.write_bytes(scaler.replace(b"sklearn.preprocessing", b"nothing_at_all.proces"))
    with pytest.raises(MissingExtra, match="nothing_at_all") as caught:
        PickleFlavor().load(str(path), {})
    assert caught.value.remedy
    path.write_bytes(scaler.replace(b"StandardScaler", b"StandardScalex"))
    with pytest.raises(ModelUnusable, match=r"m\.pkl cannot be loaded: AttributeError.*StandardScalex"):
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

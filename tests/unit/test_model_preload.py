"""Which modules the zygote imports for a saved scikit-learn model."""

from __future__ import annotations

from pathlib import Path

import joblib
import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidemill.engine.models import identify
from tidemill.flavors.sklearn_named import FRAMES, MOST_MODULES, modules_named


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("xz", 3)])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_forked_from_where_the_modules_it_names_are_loaded(
    tmp_path: Path, protocol: int, compress: int | tuple[str, int]
) -> None:
    model = make_pipeline(StandardScaler(), Ridge()).fit([[0.0], [1.0]], [0.0, 1.0])
    joblib.dump(model, tmp_path / "model", protocol=protocol, compress=compress)
    named = {"sklearn.pipeline", "sklearn.preprocessing._data", "sklearn.linear_model._ridge"}
    library = {"tidemill.flavors.sklearn", "tidemill.flavors.sklearn_library"}
    assert set(identify(str(tmp_path / "model"))["preload"]) == library | named


def test_a_skops_file_is_forked_from_where_the_modules_it_names_are_loaded(tmp_path: Path) -> None:
    data = pd.DataFrame({"x": [0.0, 1.0]})
    skops.io.dump(Ridge().fit(data, [0.0, 1.0]), tmp_path / "model.skops")
    assert {"sklearn.linear_model._ridge", FRAMES} <= set(identify(str(tmp_path / "model.skops"))["preload"])


def test_a_model_has_no_module_imported_but_those_of_scikit_learn() -> None:
    data = b"cos\nsystem\n\x8c\x12mysklearn_evil.run\x94csklearn.svm._classes\nSVC\nsklearn.tests.test_base"
    assert modules_named(data) == ("sklearn.svm._classes",)
    assert modules_named(b"csklearn.compose._column_transformer\n")[-1] == FRAMES
    assert len(modules_named(b"".join(b"csklearn.m%d\n" % n for n in range(1_000)))) == MOST_MODULES

"""skops files on the shipped suite, and how scikit-learn's estimators are fed and asked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from tests.contract import sklearn_models as models
from tidemill.domain.errors import InvalidSpec, ModelUnusable, NotTrusted
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.sklearn import SklearnFlavor
from tidemill.flavors.sklearn_model import ScikitModel
from tidemill.testing.flavor import Case, FileFlavorContract, bits

Save = Callable[[Any, str], str]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    folder = tmp_path_factory.mktemp("skops")

    def write(model: Any, name: str) -> str:
        path = folder / f"{name}.skops"
        if not path.exists():
            skops.io.dump(model, path)
        return str(path)

    return write


class TestPipeline(FileFlavorContract):
    flavor_class = SklearnFlavor
    framework = ("sklearn", "skops", "pandas", "scipy", "joblib")

    @pytest.fixture(autouse=True)
    def _made(self, save: Save) -> None:
        self._path = save(models.pipeline(), "pipeline")

    def case(self) -> Case:
        expected = models.expected(models.pipeline(), models.frame())
        return Case(path=self._path, rows=models.batch("age", "income", "city"), expected=expected)


class TestHistogramBoosting(FileFlavorContract):
    flavor_class = SklearnFlavor
    framework = ("sklearn", "skops", "pandas", "scipy", "joblib")

    @pytest.fixture(autouse=True)
    def _made(self, save: Save) -> None:
        self._path = save(models.boosting("bool"), "boosting")

    def case(self) -> Case:
        expected = models.expected(models.boosting("bool"), models.numbers(), every=True)
        rows, options = models.batch("age", "income"), {"probabilities": True}
        return Case(path=self._path, rows=rows, expected=expected, options=options)


class TestForest(FileFlavorContract):
    flavor_class = SklearnFlavor
    framework = ("sklearn", "skops", "pandas", "scipy", "joblib")

    @pytest.fixture(autouse=True)
    def _made(self, save: Save) -> None:
        self._path = save(models.forest("many"), "forest")

    def case(self) -> Case:
        expected = models.expected(models.forest("many"), models.numbers(), every=True)
        rows, options = models.batch("age", "income"), {"probabilities": True}
        return Case(path=self._path, rows=rows, expected=expected, options=options)


def model(estimator: Any, **options: Any) -> ScikitModel:
    return ScikitModel(estimator, "m.skops", PredictOptions.of(options), ())


def matrix() -> np.ndarray[Any, Any]:
    """Rows one after the other, numpy's usual order: matrix products differ in last bits in the other."""
    return np.array(models.numbers().fillna(40), order="C")


def matrix_batch(data: np.ndarray[Any, Any]) -> pa.RecordBatch:
    columns = [pa.array(data[:, n].tolist(), from_pandas=True) for n in range(data.shape[1])]
    return pa.RecordBatch.from_arrays(columns, names=[f"x{n}" for n in range(data.shape[1])])


@pytest.mark.parametrize("kind", ["text", "bool", "int", "float", "many"])
def test_labels_of_every_type(kind: str) -> None:
    found = model(models.pipeline(kind)).predict(models.batch("age", "income", "city")).columns
    expected = models.expected(models.pipeline(kind), models.frame())
    assert bits(found) == bits(pa.RecordBatch.from_pydict(expected))


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        DecisionTreeClassifier(max_depth=2),
        RandomForestClassifier(4, max_depth=2),
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5),
        GaussianNB(),
        KNeighborsClassifier(4),
        MLPClassifier((5,), max_iter=30),
        CalibratedClassifierCV(LinearSVC()),
        make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), KNeighborsClassifier(2))),
        GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1, 10]}, cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_classifiers_without_names(estimator: Any) -> None:
    """Also where classes are equally likely, which happens in small trees and neighbourhoods."""
    data = np.ascontiguousarray(matrix().round(1))
    estimator.fit(data, models.labels())
    found = model(estimator, features=["x0", "x1"]).predict(matrix_batch(data)).columns
    assert bits(found) == bits(pa.RecordBatch.from_pydict(models.expected(estimator, data)))


@pytest.mark.parametrize("estimator", [LinearSVC(), RidgeClassifier(), SVC()], ids=lambda e: type(e).__name__)
def test_classifiers_without_probabilities(estimator: Any) -> None:
    data = matrix()
    estimator.fit(data, models.labels())
    own = model(estimator, features="x0,x1")
    found = own.predict(matrix_batch(data)).columns
    assert found.to_pydict() == {"prediction": estimator.predict(data).tolist()}
    assert (own.info.task, own.info.positive_class) == ("binary", "yes")
    assert f"{type(estimator).__name__} gives no probabilities" in own.info.notes
    with pytest.raises(InvalidSpec, match="no probabilities"):
        model(estimator, features="x0,x1", threshold=0.5)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_threshold(threshold: float) -> None:
    found = model(models.pipeline(), threshold=threshold).predict(models.batch("age", "income", "city")).columns
    p = models.pipeline().predict_proba(models.frame())[:, 1]
    assert found.column(0).to_pylist() == np.where(p >= threshold, "yes", "no").tolist()


@pytest.mark.parametrize(
    "estimator", [LinearRegression(), HistGradientBoostingRegressor(max_iter=5), ExtraTreesRegressor(5)]
)
def test_regressors(estimator: Any) -> None:
    data = matrix()
    estimator.fit(data, data[:, 0] * data[:, 1])
    own = model(estimator, features=["x0", "x1"])
    assert own.predict(matrix_batch(data)).columns.to_pydict() == {"prediction": estimator.predict(data).tolist()}
    assert own.info.task == "regression"
    with pytest.raises(InvalidSpec, match="threshold"):
        model(estimator, features=["x0", "x1"], threshold=0.5)


def test_several_outputs_keep_their_order() -> None:
    data = matrix()
    regressor = LinearRegression().fit(data, np.column_stack([data[:, 0], data[:, 1] * 2, data[:, 0] - 1]))
    own = model(regressor, features=["x0", "x1"])
    found = own.predict(matrix_batch(data)).columns
    assert found.schema.names == ["prediction_0", "prediction_1", "prediction_2"]
    assert np.column_stack(found.columns).tolist() == regressor.predict(data).tolist()
    labels = np.column_stack([models.labels(), models.labels("many")])
    classifier = MultiOutputClassifier(LogisticRegression()).fit(data, labels)
    found = model(classifier, features=["x0", "x1"]).predict(matrix_batch(data)).columns
    wanted = classifier.predict(data)
    assert found.to_pydict() == {"prediction_0": wanted[:, 0].tolist(), "prediction_1": wanted[:, 1].tolist()}


@pytest.mark.parametrize("estimator", [KMeans(3, n_init=1), IsolationForest(n_estimators=5)])
def test_models_that_give_whole_numbers(estimator: Any) -> None:
    data = matrix()
    estimator.fit(data)
    own = model(estimator, features=["x0", "x1"])
    found = own.predict(matrix_batch(data)).columns
    assert found.schema.field(0).type == pa.int64()
    assert found.column(0).to_pylist() == estimator.predict(data).tolist()
    assert own.info.task == "other"


def test_types_are_known_from_the_columns_transformers() -> None:
    fields = model(models.pipeline()).info.inputs
    assert [(each.name, each.type) for each in fields] == [("age", "double"), ("income", "double"), ("city", "string")]


def test_columns_that_go_through_several_hands_are_what_all_agree_on() -> None:
    data = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [1, 2, 1, 2], "c": list("xyxy"), "d": ["p", "q", "q", "p"]})
    transformer = ColumnTransformer(
        [
            ("scale", StandardScaler(), ["a", "b"]),
            ("codes", OrdinalEncoder(), ["b", "c"]),
            ("text", TfidfVectorizer(analyzer="char"), "d"),
        ],
        remainder="passthrough",
    )
    fitted = make_pipeline(transformer, LogisticRegression()).fit(data, [0, 1, 0, 1])
    own = model(fitted)
    assert [(each.name, each.type) for each in own.info.inputs] == [
        ("a", "double"),
        ("b", "any"),
        ("c", "string"),
        ("d", "string"),
    ]
    found = own.predict(pa.RecordBatch.from_pydict(data.to_dict("list"))).columns
    assert found.column(1).to_pylist() == fitted.predict_proba(data)[:, 1].tolist()


def test_positions_in_a_transformer_need_every_column() -> None:
    transformer = make_column_transformer((StandardScaler(), [0, 1]), (OneHotEncoder(), slice(2, 3)))
    data = models.frame().dropna()
    fitted = make_pipeline(transformer, LogisticRegression()).fit(data, data["age"] > 40)
    fields = model(fitted).info.inputs
    assert [(each.name, each.type) for each in fields] == [
        ("age", "double"),
        ("income", "double"),
        ("city", "string"),
        ("unused", "any"),
    ]


def test_columns_can_be_renamed_by_position() -> None:
    own = model(models.pipeline(), features=["alter", "einkommen", "stadt"])
    assert [each.name for each in own.info.inputs] == ["alter", "einkommen", "stadt"]
    rows = models.batch("age", "income", "city").rename_columns(["alter", "einkommen", "stadt"])
    wanted = model(models.pipeline()).predict(models.batch("age", "income", "city"))
    assert bits(own.predict(rows)) == bits(wanted)


def test_without_names_columns_are_taken_by_position() -> None:
    estimator = LogisticRegression().fit(matrix(), models.labels())
    assert (model(estimator).info.positional, model(estimator, features=["a", "b"]).info.positional) == (2, 0)
    with pytest.raises(InvalidSpec, match="names 3"):
        model(estimator, features=["a", "b", "c"])


def test_text_is_one_column_of_strings() -> None:
    texts = ["good movie", "bad film", "good film", "awful movie"] * 5
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["+", "-", "+", "-"] * 5)
    assert model(fitted).info.positional == 1
    own = model(fitted, features="review")
    assert [(each.name, each.type) for each in own.info.inputs] == [("review", "string")]
    rows = pa.RecordBatch.from_pydict({"review": ["good", None, "awful awful", ""]})
    found = own.predict(rows)
    assert list(found.row_errors) == [1]
    assert "'review' is missing" in found.row_errors[1]
    wanted = fitted.predict_proba(["good", "awful awful", ""])[:, 1].tolist()
    assert [found.columns.column(1)[row].as_py() for row in (0, 2, 3)] == wanted


def test_rows_that_the_estimator_refuses_are_named_and_the_others_scored_without_them() -> None:
    estimator = LogisticRegression().fit(matrix(), models.labels())
    data = matrix()
    data[3, 0], data[5, 1], data[9, 1] = np.nan, np.inf, -np.inf
    found = model(estimator, features=["x0", "x1"]).predict(matrix_batch(data))
    assert found.row_errors == {
        3: "column 'x0' is missing or infinite",
        5: "column 'x1' is missing or infinite",
        9: "column 'x1' is missing or infinite",
    }
    good = np.setdiff1d(np.arange(len(data)), [3, 5, 9])
    assert found.columns.num_rows == len(data)
    assert (
        found.columns.column(1).take(pa.array(good)).to_pylist() == estimator.predict_proba(data[good])[:, 1].tolist()
    )
    alone = model(estimator, features=["x0", "x1"]).predict(matrix_batch(data[3:4]))
    assert (alone.columns.num_rows, list(alone.row_errors)) == (1, [0])


def test_missing_values_reach_estimators_that_take_them() -> None:
    found = model(models.boosting()).predict(models.batch("age", "income"))
    assert found.row_errors == {}
    assert models.numbers()["age"].isna().sum() > 5
    assert found.columns.column(1).to_pylist() == models.boosting().predict_proba(models.numbers())[:, 1].tolist()


def test_pandas_categories_reach_histogram_boosting() -> None:
    data = models.frame()[["age", "city"]].copy()
    data["city"] = data["city"].astype("category")
    fitted = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype").fit(data, models.labels())
    own = model(fitted)
    assert [each.type for each in own.info.inputs] == ["any", "any"]
    rows = models.batch("age", "city")
    rows = rows.set_column(1, "city", rows.column("city").dictionary_encode())
    assert own.predict(rows).columns.column(1).to_pylist() == fitted.predict_proba(data)[:, 1].tolist()


def test_layout_and_batches_by_kind_of_model() -> None:
    found = {}
    for name, own in (("boosting", models.boosting()), ("forest", models.forest()), ("pipeline", models.pipeline())):
        info = model(own).info
        found[name] = (info.layout, info.batch_invariant, info.batch_rows)
    assert found == {
        "boosting": ("threads", True, 8_192),
        "forest": ("threads", True, 16_384),
        "pipeline": ("processes", False, 65_536),
    }


def test_estimators_use_one_thread_each() -> None:
    nested = make_pipeline(
        StandardScaler(), GridSearchCV(RandomForestClassifier(2, n_jobs=4), {"max_depth": [2]}, cv=2)
    )
    nested.fit(matrix(), models.labels())
    own = model(nested, features=["x0", "x1"])
    assert own._final.n_jobs == 1


def test_libraries_that_decide_values_are_named() -> None:
    names = [name for name, _ in model(models.pipeline()).info.libraries]
    assert names[:3] == ["scikit-learn", "numpy", "scipy"]


def test_what_cannot_predict_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"m\.skops holds a StandardScaler, which has no method predict") as caught:
        model(StandardScaler().fit(matrix()))
    assert caught.value.remedy


class Stranger(TransformerMixin, BaseEstimator):
    """A type that nobody listed as harmless."""

    def fit(self, X: Any, y: Any = None) -> Stranger:
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:
        return X


def test_unknown_types_in_a_skops_file_are_listed(save: Save) -> None:
    fitted = make_pipeline(Stranger(), LogisticRegression()).fit(matrix(), models.labels())
    with pytest.raises(NotTrusted, match=r"stranger\.skops .*Stranger") as caught:
        SklearnFlavor().load(save(fitted, "stranger"), {})
    assert caught.value.remedy


def test_a_zip_of_something_else_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.csv", "a,b\n")
    assert not SklearnFlavor.matches(path.read_bytes(), str(path))


def test_a_skops_file_of_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", '{"__class__": "nothing"}')
    assert SklearnFlavor.matches(path.read_bytes(), str(path))
    with pytest.raises(ModelUnusable, match=r"garbage\.skops"):
        SklearnFlavor().load(str(path), {})

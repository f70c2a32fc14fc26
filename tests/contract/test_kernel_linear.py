"""The kernel of linear models: folded pipelines give what scikit-learn gives, or scikit-learn itself predicts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn import linear_model as lm
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC, LinearSVR

from tests.integration.real.data_sets import DATA_SETS
from tidemill.engine.acceleration import choose, compare
from tidemill.flavors import sklearn_columns, sklearn_linear
from tidemill.flavors.coded import lookup_of
from tidemill.flavors.sklearn import PickleFlavor
from tidemill.flavors.sklearn_model import ScikitModel
from tidemill.kernels import linear_compiled
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.linear import LinearKernel, Table
from tidemill.kernels.linear_compiled import CompiledLinearKernel
from tidemill.ports.flavor import Model, Predicted
from tidemill.testing.flavor import bits

Array = np.ndarray[Any, Any]

LONG = bool(os.environ.get("TIDEMILL_TEST_LONG"))
EXAMPLES = 400 if LONG else 8
ROWS = 240
NUMBERS = ["n0", "n1", "n2"]
WORDS = ["w0", "w1"]
CODES = ["k0", "k1"]
TINY = (0.0, -0.0, 5e-324, -5e-324, 1e-300, 2.0**-1074 * 3)
EDGES = (*TINY, 1e-9, 100.0, -100.0, 1e150, -1e150, np.nan)
TARGETS = ("value", "positive", "two", "three")


def frame(seed: int = 1, rows: int = ROWS) -> pd.DataFrame:
    """Numbers with gaps, words with gaps and rare ones, whole numbers and others as categories."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {name: random.normal(3 * k, 10.0**k, rows) for k, name in enumerate(NUMBERS)}
    made["w0"] = random.choice(["red", "green", "blue", "", "grün"], rows, p=[0.5, 0.3, 0.15, 0.03, 0.02])
    made["w1"] = random.choice([f"town {number}" for number in range(30)], rows)
    made["k0"] = random.integers(-1, 4, rows)
    made["k1"] = random.choice([0.0, 0.5, 7.0], rows)
    table = pd.DataFrame(made)
    for name in ("n0", "n1", "w0", "k1"):
        table.loc[random.random(rows) < 0.08, name] = np.nan
    return table


def target(table: pd.DataFrame, kind: str) -> Array:
    score = table["n1"].fillna(0) / 10 + (table["w0"] == "red") * 2 - table["k0"] + np.sin(np.arange(len(table)))
    if kind == "value":
        return np.asarray(score)
    if kind == "positive":
        return np.exp(np.asarray(score) / 4)
    if kind == "two":
        return np.where(score > 0, "yes", "no")
    return np.digitize(score, np.quantile(score, [0.3, 0.7]))


FINALS: dict[str, list[Callable[[], Any]]] = {
    "value": [
        lm.LinearRegression, lm.Ridge, lm.BayesianRidge, lambda: lm.SGDRegressor(random_state=0),
        lambda: LinearSVR(random_state=0),
    ],
    "positive": [lm.PoissonRegressor, lambda: lm.TweedieRegressor(power=0)],
    "two": [
        lm.LogisticRegression, lambda: lm.SGDClassifier(loss="log_loss", random_state=0), lm.RidgeClassifier,
        lambda: lm.Perceptron(random_state=0), lambda: lm.SGDClassifier(loss="modified_huber", random_state=0),
        LinearDiscriminantAnalysis, lambda: OneVsRestClassifier(lm.LogisticRegression()),
    ],
    "three": [
        lm.LogisticRegression, lambda: lm.SGDClassifier(loss="log_loss", random_state=0),
        lambda: lm.SGDClassifier(loss="modified_huber", random_state=0), LinearDiscriminantAnalysis,
        lambda: LinearSVC(random_state=0), lambda: OneVsRestClassifier(lm.LogisticRegression()),
    ],
}  # fmt: skip
"""One of each kind of prediction."""
MORE: dict[str, list[Callable[[], Any]]] = {
    "value": [lm.Lasso, lm.ElasticNet, lm.HuberRegressor, lm.RidgeCV, lm.ARDRegression, lm.Lars, lm.QuantileRegressor],
    "positive": [lm.GammaRegressor],
    "two": [LinearSVC, lambda: lm.SGDClassifier(loss="hinge"), lm.LogisticRegressionCV],
    "three": [lm.RidgeClassifierCV, lm.Perceptron, lambda: OneVsRestClassifier(LinearSVC()), lm.LogisticRegressionCV],
}
if LONG:
    FINALS = {kind: [*finals, *MORE[kind]] for kind, finals in FINALS.items()}

NUMERIC: list[Callable[[], Any]] = [
    lambda: make_pipeline(SimpleImputer(), StandardScaler()),
    lambda: make_pipeline(SimpleImputer(strategy="median", add_indicator=True), MinMaxScaler(clip=True)),
    lambda: make_pipeline(StandardScaler(with_mean=False), SimpleImputer(strategy="constant", fill_value=-1.5)),
    lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), FunctionTransformer(), MaxAbsScaler()),
    lambda: make_pipeline(RobustScaler(), SimpleImputer(), FunctionTransformer(np.arctan), "passthrough"),
    lambda: FeatureUnion([("a", SimpleImputer()), ("b", make_pipeline(SimpleImputer(), StandardScaler()))]),
]
CATEGORICAL: list[Callable[[], Any]] = [
    lambda: OneHotEncoder(handle_unknown="ignore"),
    lambda: OneHotEncoder(drop="first", handle_unknown="error"),
    lambda: OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=12, sparse_output=False),
    lambda: OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=4, drop="if_binary"),
    lambda: make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2), StandardScaler()
    ),
    lambda: OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=99, encoded_missing_value=98, max_categories=3
    ),
    lambda: make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
        SimpleImputer(strategy="median", add_indicator=True),
    ),
    lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
    lambda: TargetEncoder(target_type="continuous"),
]


def pipeline(numeric: Any, words: Any, codes: Any, final: Any) -> Any:
    transformer = ColumnTransformer(
        [("numbers", numeric, NUMBERS), ("words", words, WORDS), ("codes", codes, CODES), ("again", "drop", ["k0"])],
        sparse_threshold=0.3 if final.__sklearn_tags__().input_tags.sparse else 0.0,
    )
    return make_pipeline(transformer, final)


def saved(folder: Path, model: Any, table: pd.DataFrame, y: Array) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joblib.dump(model.fit(table, y), folder / "model.pkl")
    return folder / "model.pkl"


def loaded(path: Path, **options: Any) -> tuple[Model, Model]:
    """The model as the library predicts it, and by the kernel: with and without the compiled library."""
    library = PickleFlavor().load(str(path), options)
    compiled = PickleFlavor().load(str(path), {**options, "accelerate": True})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(linear_compiled, "library", not_installed)
        plain = PickleFlavor().load(str(path), {**options, "accelerate": True})
    for kernel in (compiled, plain):
        assert kernel.kernel is not None, kernel.not_accelerated
        assert (kernel.kernel.name, kernel.kernel.distribution) == ("linear", "tidemill")
    assert [type(sums_of(kernel)) for kernel in (compiled, plain)] == [CompiledLinearKernel, LinearKernel]
    return library, Twins(compiled, plain)


def not_installed() -> None:
    raise NotCompilable("it is not asked for")


def sums_of(model: Model) -> LinearKernel:
    assert isinstance(model, ScikitModel) and model._folded is not None
    return model._folded._kernel


class Twins(Model):
    """The same model twice: both must do the same to the bit."""

    def __init__(self, first: Model, second: Model) -> None:
        self._first, self._second = first, second
        self.kernel, self.encoded, self.info = first.kernel, first.encoded, first.info

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        first, second = outcome(self._first, batch), outcome(self._second, batch)
        if isinstance(first, str) or isinstance(second, str):
            assert first == second
            return self._first.predict(batch)
        assert (bits(first), first.by_kernel, first.sizes) == (bits(second), second.by_kernel, second.sizes)
        return first


def batch(table: pd.DataFrame) -> pa.RecordBatch:
    return pa.RecordBatch.from_pandas(table, preserve_index=False)


def encoded(rows: pa.RecordBatch, names: tuple[str, ...]) -> pa.RecordBatch:
    columns = [
        column.dictionary_encode() if name in names else column
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def check(library: Model, kernel: Model, rows: pa.RecordBatch) -> bool:
    """Both predict the same, or refuse alike. Whether it was the kernel that predicted."""
    expected, found = outcome(library, rows), outcome(kernel, encoded(rows, kernel.encoded))
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return False
    if not found.by_kernel:
        assert bits(found) == bits(expected)
        return False
    assert kernel.kernel is not None
    compared = compare(Told(expected), Told(found), kernel.kernel, rows)
    assert compared.disagreement is None, compared.disagreement
    return True


def outcome(model: Model, rows: pa.RecordBatch) -> Predicted | str:
    """The predictions, or what is raised."""
    try:
        return model.predict(rows)
    except (ValueError, TypeError) as exc:
        return f"{type(exc).__name__}: {exc}"


class Told(Model):
    """Predicts what is known already."""

    def __init__(self, predicted: Predicted) -> None:
        self._predicted = predicted

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        return self._predicted


def adversarial(random: np.random.Generator, table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Rows of values that were seen, extreme ones, unknown ones and missing ones."""
    made: dict[str, Any] = {}
    for name in NUMBERS:
        made[name] = random.choice([*EDGES, *table[name].dropna()[:20], table[name].mean()], rows)
    for name in WORDS:
        made[name] = random.choice([*table[name].dropna().unique(), "never seen", "Ω", None], rows)
    made["k0"] = random.choice([*range(-1, 4)], rows)
    made["k1"] = random.choice([0.0, -0.0, 0.5, 7.0, 0.25, np.nan], rows)
    return pd.DataFrame(made)


@st.composite
def made_models(draw: st.DrawFn) -> tuple[Any, str, np.random.Generator]:
    kind = draw(st.sampled_from(TARGETS))
    # The last one takes the mean of the target, which may be text.
    encoders = CATEGORICAL[:-1] if kind == "two" else CATEGORICAL
    model = pipeline(
        draw(st.sampled_from(NUMERIC))(),
        draw(st.sampled_from(encoders))(),
        draw(st.sampled_from(CATEGORICAL[:6]))(),
        draw(st.sampled_from(FINALS[kind]))(),
    )
    return model, kind, np.random.default_rng(draw(st.integers(0, 2**32)))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.reuse, Phase.generate],
)
@given(made_models())
def test_made_up_models(tmp_path: Path, made: tuple[Any, str, np.random.Generator]) -> None:
    model, kind, random = made
    table = frame()
    options = {"probabilities": True} if kind in ("two", "three") and hasattr(model[-1], "predict_proba") else {}
    library, kernel = loaded(saved(tmp_path, model, table, target(table, kind)), **options)
    for rows in (table.head(40), adversarial(random, table, 1), adversarial(random, table, 60)):
        check(library, kernel, batch(rows))


@pytest.mark.parametrize("kind", TARGETS)
def test_every_estimator_is_predicted_by_the_kernel(tmp_path: Path, kind: str) -> None:
    table = frame()
    for number, final in enumerate(FINALS[kind]):
        model = pipeline(NUMERIC[number % len(NUMERIC)](), CATEGORICAL[0](), CATEGORICAL[0](), final())
        options = {"probabilities": hasattr(model[-1], "predict_proba")} if kind in ("two", "three") else {}
        library, kernel = loaded(saved(tmp_path, model, table, target(table, kind)), **options)
        assert check(library, kernel, batch(table)), final
        assert kernel.encoded == ("w0", "w1")


@pytest.mark.parametrize("name", DATA_SETS)
def test_real_data(tmp_path: Path, name: str) -> None:
    data = DATA_SETS[name]()
    table = data.frame[data.features]
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    words = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore", min_frequency=3)
    )
    final = lm.Ridge() if data.task == "regression" else lm.LogisticRegression()
    model = make_pipeline(
        ColumnTransformer([("n", numbers, list(data.numbers)), ("w", words, list(data.categories))]), final
    )
    options = {} if data.task == "regression" else {"probabilities": True}
    library, kernel = loaded(saved(tmp_path, model, table, data.target), **options)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), tmp_path / "rows.parquet")
    (rows,) = pq.read_table(tmp_path / "rows.parquet").to_batches()
    typed = [
        column.cast(field.type) if field.type != "any" else column
        for column, field in zip(rows.columns, library.info.inputs, strict=True)
    ]
    assert check(library, kernel, pa.RecordBatch.from_arrays(typed, names=rows.schema.names))


def simple(final: Any = None, words: Any = None) -> Any:
    return pipeline(NUMERIC[0](), words or CATEGORICAL[0](), CATEGORICAL[0](), final or lm.LogisticRegression())


def test_infinity_is_for_the_library_even_where_it_is_clipped(tmp_path: Path) -> None:
    table = frame()
    model = pipeline(NUMERIC[1](), CATEGORICAL[0](), CATEGORICAL[0](), lm.Ridge())
    library, kernel = loaded(saved(tmp_path, model, table, target(table, "value")))
    table.loc[17, "n1"] = np.inf
    assert not check(library, kernel, batch(table))
    with pytest.raises(ValueError, match="infinity"):
        kernel.predict(batch(table))
    assert kernel.predict(batch(table.head(17))).by_kernel


def test_what_encoders_refuse_is_refused_as_before(tmp_path: Path) -> None:
    table = frame()
    library, kernel = loaded(saved(tmp_path, simple(words=OneHotEncoder()), table, target(table, "two")))
    assert check(library, kernel, batch(table))
    table.loc[3, "w1"] = "elsewhere"
    with pytest.raises(ValueError, match="Found unknown categories"):
        kernel.predict(encoded(batch(table), kernel.encoded))
    assert check(library, kernel, batch(table.drop(index=3)))


def test_missing_numbers_that_nothing_imputes_are_refused_as_before(tmp_path: Path) -> None:
    table = frame().dropna().reset_index(drop=True)
    model = pipeline(StandardScaler(), CATEGORICAL[0](), CATEGORICAL[0](), lm.Ridge())
    library, kernel = loaded(saved(tmp_path, model, table, target(table, "value")))
    assert check(library, kernel, batch(table))
    table.loc[3, "n2"] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        kernel.predict(batch(table))


def test_columns_of_another_type_are_for_the_library(tmp_path: Path) -> None:
    table = frame()
    library, kernel = loaded(saved(tmp_path, simple(), table, target(table, "two")))
    for strange in (table["k0"].astype(str), table["k0"] > 0):
        other = batch(table.assign(k0=strange))
        assert not check(library, kernel, other)
    for same in (np.int8, np.int16, np.float64):
        assert check(library, kernel, batch(table.assign(k0=table["k0"].astype(same))))


def test_truth_values_are_categories_too(tmp_path: Path) -> None:
    table = frame().assign(k0=frame()["k0"] > 0)
    library, kernel = loaded(saved(tmp_path, simple(), table, target(frame(), "two")))
    assert check(library, kernel, batch(table))
    missing = table.assign(k0=table["k0"].astype(object).where(table.index != 5, None))
    assert check(library, kernel, batch(missing))


def test_two_classes_that_are_equally_good_are_for_the_library_to_decide(tmp_path: Path) -> None:
    table = frame()
    model = simple().fit(table, target(table, "two"))
    model[-1].coef_[:] = 0.0
    for intercept, by_kernel in ((0.0, False), (1e-9, True)):
        model[-1].intercept_[:] = intercept
        joblib.dump(model, tmp_path / "model.pkl")
        library, kernel = loaded(tmp_path / "model.pkl")
        assert check(library, kernel, batch(table)) is by_kernel
    library, kernel = loaded(tmp_path / "model.pkl", threshold=float(1 / (1 + np.exp(-1e-9))))
    assert not check(library, kernel, batch(table))


def test_what_a_probability_leaves_of_one_is_as_exact_as_one(tmp_path: Path) -> None:
    """The library takes it so, and few digits are left of it."""
    table = frame()
    model = simple().fit(table, target(table, "two"))
    model[-1].intercept_[:] = 25.0
    joblib.dump(model, tmp_path / "model.pkl")
    library, kernel = loaded(tmp_path / "model.pkl", probabilities=True)
    assert check(library, kernel, batch(table))
    assert kernel.predict(batch(table)).sizes == {"probability_no": 1.0}


@pytest.mark.parametrize(
    ("loss", "score", "by_kernel"),
    [
        ("log_loss", -744.9, False), ("log_loss", -715.0, False), ("log_loss", -600.0, True),
        ("log_loss", -800.0, True),
        ("modified_huber", -1 + 1e-14, False), ("modified_huber", -0.9, True), ("modified_huber", -1.1, True),
    ],
)  # fmt: skip
def test_shares_of_what_has_no_digits_left_are_the_library_s(
    tmp_path: Path, loss: str, score: float, by_kernel: bool
) -> None:
    table = frame().head(4)
    model = simple(lm.SGDClassifier(loss=loss)).fit(frame(), target(frame(), "three"))
    model[-1].coef_[:] = 0.0
    model[-1].coef_[:, 0] = 1e-17
    # The first is the likeliest, by far as such numbers go; none is likely.
    model[-1].intercept_[:] = [score, 1.01 * score - 1e-3, 1.02 * score - 1e-3]
    joblib.dump(model, tmp_path / "model.pkl")
    library, kernel = loaded(tmp_path / "model.pkl", probabilities=True)
    assert check(library, kernel, batch(table)) is by_kernel


@pytest.mark.parametrize(("apart", "by_kernel"), [(1e-14, False), (1e-9, True)])
def test_classes_whose_scores_nearly_cancel_are_for_the_library_to_decide(
    tmp_path: Path, apart: float, by_kernel: bool
) -> None:
    """What is left of large terms may be their rounding: how large they were counts, not how small it is."""
    table = frame().head(8)
    model = simple().fit(frame(), target(frame(), "two"))
    made = model[:-1].transform(table)
    made = made.toarray() if hasattr(made, "toarray") else made
    row, place = np.unravel_index(np.abs(made).argmax(), made.shape)
    model[-1].coef_[:] = 0.0
    model[-1].coef_[0, place] = 1.0
    model[-1].intercept_[:] = -made[row, place] * (1 - apart)
    joblib.dump(model, tmp_path / "model.pkl")
    library, kernel = loaded(tmp_path / "model.pkl")
    assert check(library, kernel, batch(table.iloc[[row]])) is by_kernel


@pytest.mark.parametrize("kind", ["matrix", "objects"])
def test_models_without_names(tmp_path: Path, kind: str) -> None:
    """Trained on arrays: of numbers, or of anything."""
    table = frame().assign(n2=1.5)
    if kind == "matrix":
        table = table[NUMBERS]
        model = make_pipeline(SimpleImputer(), StandardScaler(), lm.LogisticRegression())
    else:
        model = make_pipeline(
            ColumnTransformer([("n", NUMERIC[1](), [0, 1]), ("w", CATEGORICAL[0](), slice(3, 5))], remainder="drop"),
            lm.LogisticRegression(),
        )
    y = target(frame(), "two")
    joblib.dump(model.fit(table.to_numpy(None if kind == "matrix" else object), y), tmp_path / "model.pkl")
    library, kernel = loaded(tmp_path / "model.pkl", features=list(table.columns))
    assert check(library, kernel, batch(table))


def test_values_are_of_one_kind() -> None:
    kinds: list[tuple[list[Any], str]] = [
        ([np.str_("a"), "?", None, "a"], "text"),
        ([np.int64(3), 4.5, float("nan"), -0.0, 0.0], "number"),
        ([np.True_, False], "flag"),
    ]
    for met, kind in kinds:
        found = lookup_of("x", met)
        assert found.kind == kind
        assert found.values.null_count == 0
        codes = found.codes(found.values)
        assert codes is not None
        assert codes.codes[codes.places].tolist() == list(range(len(found.values)))
        if found.unknown is not None:
            strange = found.codes(found.unknown)
            assert strange is not None and strange.codes[strange.places].tolist() == [len(found.values)]
        missing = found.codes(found.missing)
        assert missing is not None and missing.codes[missing.places].tolist() == [len(found.values) + 1]
    for met in (["a", 1], [True, 2], [], [2**53]):
        with pytest.raises(NotCompilable, match="'x'"):
            lookup_of("x", met)


@pytest.mark.parametrize("threshold", [0.1, 0.9])
def test_a_threshold_decides(tmp_path: Path, threshold: float) -> None:
    table = frame()
    library, kernel = loaded(saved(tmp_path, simple(), table, target(table, "two")), threshold=threshold)
    assert check(library, kernel, batch(table))


@pytest.mark.parametrize(
    ("front", "why"),
    [
        (PolynomialFeatures(), "there is no kernel for a PolynomialFeatures"),
        (SelectKBest(k=2), "there is no kernel for a SelectKBest"),
        (FunctionTransformer(np.square), "a FunctionTransformer calls a function of its own"),
        (SimpleImputer(missing_values=-1.0), "or missing in another way than NaN"),
        (make_pipeline(StandardScaler(), OneHotEncoder()), "encodes what was computed before"),
    ],
)
def test_what_no_kernel_knows_is_left_to_scikit_learn(tmp_path: Path, front: Any, why: str) -> None:
    table = frame()[NUMBERS].fillna(0.0)
    path = saved(tmp_path, make_pipeline(front, lm.Ridge()), table, target(frame(), "value"))
    model = PickleFlavor().load(str(path), {"accelerate": True})
    assert model.kernel is None
    assert why in model.not_accelerated
    assert not model.predict(batch(table)).by_kernel


def test_another_scikit_learn_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(*given: Any) -> Any:
        raise AttributeError("has no attribute 'mean_'")

    table = frame()
    path = saved(tmp_path, simple(), table, target(table, "two"))
    monkeypatch.setitem(sklearn_columns._TRACES, "sklearn.preprocessing._data.StandardScaler", renamed)
    model = PickleFlavor().load(str(path), {"accelerate": True})
    assert model.kernel is None
    assert "keeps its models in another way: has no attribute 'mean_'" in model.not_accelerated
    assert not model.predict(batch(table)).by_kernel


def test_one_wrong_coefficient_is_caught_where_rows_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame(rows=2_000)
    table["w1"] = "usual"
    table.loc[1_701, "w1"] = "rare"
    path = saved(tmp_path, simple(lm.Ridge()), table, target(table, "value"))
    made = sklearn_linear.Table

    def wrong(*, column: int, added: Array) -> Table:
        if column == table.columns.get_loc("w1"):
            added[0, 0] *= 1 + 1e-7
        return made(column=column, added=added)

    monkeypatch.setattr(sklearn_linear, "Table", wrong)
    library, kernel = loaded(path)
    assert kernel.kernel is not None
    rows = batch(table)
    compared = compare(library, kernel, kernel.kernel, rows)
    assert "in 1 of 2,000 rows" in str(compared.disagreement)
    assert compare(library, kernel, kernel.kernel, rows.slice(0, 1_700)).disagreement is None
    sampled = rows.take(pa.array(choose(rows, 200)))
    assert compare(library, kernel, kernel.kernel, sampled).disagreement is not None

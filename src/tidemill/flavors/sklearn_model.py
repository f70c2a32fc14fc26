"""A fitted scikit-learn estimator, or what behaves like one, as a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import ModelUnusable
from tidemill.domain.signature import Kernel, ModelInfo, Task
from tidemill.flavors.bad_rows import is_null, predicted_without
from tidemill.flavors.decision import ClassRule, Rule, ValueRule
from tidemill.flavors.matrix import Array, is_number, plain, to_arrow, to_matrix, type_name
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.sklearn_inputs import feed_of
from tidemill.flavors.sklearn_linear import KERNEL as LINEAR
from tidemill.flavors.sklearn_linear import FoldedPipeline, is_linear
from tidemill.flavors.sklearn_trees import accelerate, kind_of
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.library import version as kernels_version
from tidemill.ports.flavor import Model, Predicted
from tidemill.registry import missing_extra

_BATCH_ROWS = {
    "sklearn.linear_model": 65_536,
    "sklearn.naive_bayes": 65_536,
    "sklearn.discriminant_analysis": 65_536,
    "sklearn.ensemble._hist_gradient_boosting": 8_192,
    "sklearn.neural_network": 1_024,
    "sklearn.neighbors": 4_096,
    "sklearn.svm": 4_096,
    "sklearn.gaussian_process": 1_024,
}
"""Measured best by kind of model: constants, since they decide borders. Module prefix -> rows."""
_OTHER_BATCH_ROWS = 16_384
_SLOW_MODULES = ("sklearn.neighbors", "sklearn.svm._classes", "sklearn.gaussian_process")
_ROWS_PER_CHUNK, _SLOW_ROWS_PER_CHUNK = 262_144, 16_384

_TREES = frozenset({
    "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
    "ExtraTreesClassifier", "ExtraTreesRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "RandomForestClassifier",
    "RandomForestRegressor",
})  # fmt: skip
"""Trees look at each row alone: the same bits in any batch. They leave the interpreter lock while they work."""
_LIKELIEST = frozenset({
    "DecisionTreeClassifier", "ExtraTreeClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier",
    "HistGradientBoostingClassifier", "LGBMClassifier", "RandomForestClassifier", "XGBClassifier", "XGBRFClassifier",
})  # fmt: skip
"""Their `predict` is the likeliest class of `predict_proba`, but for ties; so one of the two calls is saved."""
KERNEL = "trees"
TOLERANCE = 1e-12
"""Of a kernel's numbers, relative to scikit-learn's."""

_LIBRARY_NAMES = {"sklearn": "scikit-learn"}
_LIBRARIES = ("sklearn", "numpy", "scipy", "pandas", "xgboost", "lightgbm", "catboost", "skops")


class ScikitModel(Model):
    """An estimator with `predict`, and `predict_proba` if it has that too."""

    def __init__(self, estimator: Any, path: str, options: PredictOptions, notes: tuple[str, ...]) -> None:
        """`notes` are what loading had to say. Raises ModelUnusable, SchemaMismatch, InvalidSpec."""
        options.refuse_extra("sklearn")
        estimator = _best(estimator)
        if not callable(getattr(estimator, "predict", None)):
            raise ModelUnusable(
                f"{path} holds a {type(estimator).__name__}, which has no method predict.",
                remedy="Save a fitted estimator or pipeline, or wrap it in a Python class: file.py:Class.",
            )
        _use_one_thread(estimator)
        self._front, self._final = _split(estimator)
        self._folded: FoldedPipeline | None = None
        if options.accelerate and not is_linear(self._final):
            self._accelerate(options.kernel_file)
        self._feed = feed_of(estimator, options.features)
        if self._feed.form in ("frame", "objects"):
            _import_pandas()
        self._classes = _classes(self._final)
        self._rule = self._decide_rule(options)
        self._ties = type(self._final).__name__ in _LIKELIEST and _is_known(self._final)
        self._finite = self._front is None and self._feed.form in ("frame", "matrix") and _wants_finite(self._final)
        if options.accelerate and is_linear(self._final):
            self._fold(estimator)
        self.widens = self._feed.form == "matrix" and self._folded is None
        self.info = self._describe(notes)

    def _fold(self, estimator: Any) -> None:
        known = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
        places = self._feed.names if self._feed.form == "frame" else map(str, range(len(self._feed.fields)))
        try:
            if self._feed.form == "text":
                raise NotCompilable("it takes text")
            fields = dict(zip(places, self._feed.fields, strict=True))
            self._folded = FoldedPipeline(
                [] if self._front is None else self._front.transformers,
                self._final,
                names=known or tuple(fields),
                fields=fields,
                transform=lambda batch: self._transformed(self._fed(batch)),
                rule=self._rule,
            )
        except NotCompilable as exc:
            self.not_accelerated = str(exc)
            return
        self.kernel, self.encoded = LINEAR, self._folded.encoded

    def _accelerate(self, kept_at: str | None) -> None:
        try:
            accelerate(self._final, kept_at)
        except NotCompilable as exc:
            self.not_accelerated = str(exc)
            return
        self.kernel = Kernel(name=KERNEL, version=kernels_version(), tolerance=TOLERANCE)

    def _decide_rule(self, options: PredictOptions) -> Rule:
        sample = self._sample()
        if self._classes is not None and (sample is None or sample.ndim == 1):
            return ClassRule.of(list(self._classes), options, probability_type=self._probability_type())
        width = 1 if sample is None or sample.ndim == 1 else int(sample.shape[1])
        kind = _value_type(self._final, sample)
        task: Task = "regression" if kind == "double" and self._classes is None else "other"
        return ValueRule.of(width, options, what=f"A {type(self._final).__name__}", type=kind, task=task)

    def _sample(self) -> Array | None:
        """The prediction for one made-up row, which shows the form of the model's answers; None if it
        takes no made-up row."""
        try:
            return np.asarray(self._final.predict(self._transformed(self._made_up_row())))
        except Exception:
            return None

    def _probability_type(self) -> str | None:
        if not callable(getattr(self._final, "predict_proba", None)):
            return None
        try:
            found = np.asarray(self._final.predict_proba(self._transformed(self._made_up_row()))).dtype
        except Exception:
            return "double"
        return type_name(found) if found.kind == "f" and is_number(found) else "double"

    def _made_up_row(self) -> Any:
        columns = [pa.array([""]) if field.type == "string" else to_arrow(np.zeros(1)) for field in self._feed.fields]
        return self._fed(pa.RecordBatch.from_arrays(columns, names=[field.name for field in self._feed.fields]))

    def _describe(self, notes: tuple[str, ...]) -> ModelInfo:
        alone = self._front is None and type(self._final).__name__ in _TREES and _is_known(self._final)
        module = type(self._final).__module__
        return ModelInfo(
            flavor="sklearn",
            inputs=self._feed.fields,
            positional=self._feed.positional,
            outputs=self._rule.outputs,
            task=self._rule.task,
            kernel=self._kernel_name(),
            classes=self._rule.labels,
            positive_class=self._rule.positive,
            layout="threads" if alone else "processes",
            batch_invariant=alone,
            batch_rows=next((n for prefix, n in _BATCH_ROWS.items() if module.startswith(prefix)), _OTHER_BATCH_ROWS),
            rows_per_chunk=_SLOW_ROWS_PER_CHUNK if module.startswith(_SLOW_MODULES) else _ROWS_PER_CHUNK,
            libraries=_libraries(),
            notes=(*self._rule.notes, *self._missing_notes(), *notes),
        )

    def _kernel_name(self) -> str | None:
        if kind_of(self._final):
            return KERNEL
        return LINEAR.name if is_linear(self._final) else None

    def _missing_notes(self) -> tuple[str, ...]:
        lacks = isinstance(self._rule, ClassRule) and self._rule.probability_type is None
        return (f"{type(self._final).__name__} gives no probabilities",) if lacks else ()

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        if self._folded is not None:
            return self._folded.predict(batch) or self._by_library(_plain(batch, self.encoded))
        return replace(self._by_library(batch), by_kernel=self.kernel is not None)

    def _by_library(self, batch: pa.RecordBatch) -> Predicted:
        bad: dict[int, str] = {}
        if self._feed.form == "text":
            bad = _null_texts(batch)
        elif self._finite:
            bad = _not_finite(batch)
        return predicted_without(batch, bad, self._rule, self._columns)

    def _columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        data = self._transformed(self._fed(batch))
        if isinstance(self._rule, ValueRule):
            return self._rule.columns(np.asarray(self._final.predict(data)), batch.num_rows)
        if self._rule.probability_type is None:
            return self._rule.columns(self._labelled(data), None)
        found = np.asarray(self._final.predict_proba(data))
        probabilities = found.astype(np.float32 if self._rule.probability_type == "float" else np.float64, copy=False)
        return self._rule.columns(self._decided(data, probabilities), probabilities)

    def _decided(self, data: Any, probabilities: Array) -> Array:
        rule = self._rule
        assert isinstance(rule, ClassRule)
        if rule.threshold is not None:
            return rule.decide(probabilities)
        if not self._ties:
            return self._labelled(data)
        decided = rule.decide(probabilities)
        best = probabilities.max(axis=1, keepdims=True)
        tied = np.flatnonzero((probabilities == best).sum(axis=1) > 1)
        if len(tied):
            some = data.iloc[tied] if hasattr(data, "iloc") else data[tied]
            decided[tied] = self._labelled(some)
        return decided

    def _labelled(self, data: Any) -> Array:
        """The library's own decisions, as positions in its classes."""
        labels = np.asarray(self._final.predict(data))
        known = np.asarray(self._classes)
        if labels.ndim != 1:
            raise ValueError(f"the model gave labels of shape {labels.shape}, not one for each row")
        positions = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        if not (known[positions] == labels).all():
            raise ValueError("the model gave a label that is none of its classes")
        return positions

    def _transformed(self, data: Any) -> Any:
        return data if self._front is None else self._front.transform(data)

    def _fed(self, batch: pa.RecordBatch) -> Any:
        if self._feed.form == "matrix":
            return to_matrix(batch, order="C")
        if self._feed.form == "text":
            return batch.column(0).to_pylist()
        frame = pa.RecordBatch.from_arrays(batch.columns, names=list(self._feed.names)).to_pandas(use_threads=False)
        return frame if self._feed.form == "frame" else frame.to_numpy(dtype=object)


def _import_pandas() -> None:
    """Arrow makes frames only where it is imported already. Raises MissingExtra."""
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError as exc:
        raise missing_extra("sklearn", exc) from exc


def _plain(batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.RecordBatch:
    """The batch without encoding these of its columns: the library makes something else of encoded ones."""
    columns = [
        plain(column) if name in names else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _null_texts(batch: pa.RecordBatch) -> dict[int, str]:
    message = f"column {batch.schema.names[0]!r} is missing"
    return dict.fromkeys(np.flatnonzero(is_null(batch.column(0))).tolist(), message)


def _not_finite(batch: pa.RecordBatch) -> dict[int, str]:
    """Rows with a missing or infinite number, named by the first such column."""
    names = batch.schema.names
    bad = ~np.isfinite(to_matrix(batch, dtype=None))
    rows = np.flatnonzero(bad.any(axis=1))
    return {int(row): f"column {names[int(bad[row].argmax())]!r} is missing or infinite" for row in rows}


def _best(estimator: Any) -> Any:
    """What a fitted parameter search found: its `predict` is that estimator's."""
    while type(estimator).__module__.startswith("sklearn.model_selection._search") and hasattr(
        estimator, "best_estimator_"
    ):
        estimator = estimator.best_estimator_
    return estimator


def _split(estimator: Any) -> tuple[Any | None, Any]:
    """(all but the last step, the last step) of a pipeline: both `predict` and `predict_proba` then
    share what the first steps compute."""
    front: list[Any] = []
    while type(estimator).__module__ == "sklearn.pipeline" and hasattr(estimator, "steps"):
        if len(estimator.steps) > 1:
            front.append(estimator[:-1])
        estimator = _best(estimator.steps[-1][1])
    return (_Chain(front) if front else None), estimator


class _Chain:
    """Transformers one after the other."""

    def __init__(self, transformers: list[Any]) -> None:
        self.transformers = transformers

    def transform(self, data: Any) -> Any:
        for transformer in self.transformers:
            data = transformer.transform(data)
        return data


def _classes(final: Any) -> Any | None:
    """The classes of a classifier with one output, else None."""
    classes = getattr(final, "classes_", None)
    if classes is None or not _is_classifier(final):
        return None
    return None if isinstance(classes, list) else np.asarray(classes)


def _is_classifier(final: Any) -> bool:
    if callable(getattr(final, "predict_proba", None)):
        return True
    base = sys.modules.get("sklearn.base")
    return bool(base is not None and hasattr(final, "__sklearn_tags__") and base.is_classifier(final))


def _value_type(final: Any, sample: Array | None) -> str:
    if sample is None or sample.dtype.kind == "f" or _is_regressor(final):
        return "double"
    return {"i": "int64", "u": "int64", "b": "bool", "U": "string", "O": "string"}.get(sample.dtype.kind, "double")


def _is_regressor(final: Any) -> bool:
    base = sys.modules.get("sklearn.base")
    return bool(base is not None and hasattr(final, "__sklearn_tags__") and base.is_regressor(final))


def _is_known(estimator: Any) -> bool:
    return type(estimator).__module__.partition(".")[0] in ("sklearn", "lightgbm", "xgboost")


def _wants_finite(final: Any) -> bool:
    """Whether scikit-learn's own check would refuse a batch for one missing number."""
    if not type(final).__module__.startswith("sklearn.") or not hasattr(final, "__sklearn_tags__"):
        return False
    return not final.__sklearn_tags__().input_tags.allow_nan


def _use_one_thread(estimator: Any) -> None:
    """The engine runs scorers side by side: an estimator that starts threads of its own slows all down."""
    for each in _parts(estimator, set()):
        if "n_jobs" in vars(each):
            each.n_jobs = 1


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """The estimators within an estimator, itself included."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts(each, seen)
    elif isinstance(value, dict):
        yield from _parts(list(value.values()), seen)
    elif hasattr(value, "get_params") and hasattr(value, "__dict__") and not isinstance(value, type):
        yield value
        yield from _parts(list(vars(value).values()), seen)


def _libraries() -> tuple[tuple[str, str], ...]:
    loaded = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in _LIBRARIES)
    return tuple((_LIBRARY_NAMES.get(name, name), str(found)) for name, found in loaded if found)

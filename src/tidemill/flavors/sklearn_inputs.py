"""What a fitted scikit-learn estimator wants to be fed, as far as it can be known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tidemill.domain.errors import SchemaMismatch
from tidemill.domain.signature import Field
from tidemill.flavors.inputs import column_names

Form = Literal["frame", "matrix", "objects", "text"]

_NUMERIC_MODULES = (
    "sklearn.calibration", "sklearn.cluster", "sklearn.covariance", "sklearn.cross_decomposition",
    "sklearn.decomposition", "sklearn.discriminant_analysis", "sklearn.feature_selection", "sklearn.gaussian_process",
    "sklearn.isotonic", "sklearn.kernel_approximation", "sklearn.kernel_ridge", "sklearn.linear_model",
    "sklearn.manifold", "sklearn.mixture", "sklearn.naive_bayes", "sklearn.neighbors", "sklearn.neural_network",
    "sklearn.random_projection", "sklearn.svm", "sklearn.tree",
)  # fmt: skip
"""Their estimators turn every input into floats. Meta-estimators among them hand theirs on: see below."""
_NUMERIC_CLASSES = frozenset({
    "Binarizer", "KBinsDiscretizer", "MaxAbsScaler", "MinMaxScaler", "Normalizer", "PolynomialFeatures",
    "PowerTransformer", "QuantileTransformer", "RobustScaler", "SplineTransformer", "StandardScaler",
    "KNNImputer", "IterativeImputer",
    "ExtraTreesClassifier", "ExtraTreesRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
    "IsolationForest", "RandomForestClassifier", "RandomForestRegressor",
})  # fmt: skip
_WRAPPERS = ("estimator", "estimators_", "estimators", "calibrated_classifiers_", "base_estimator", "kernel")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """How batches become what the estimator takes.

    "frame": a pandas frame with the columns `names`; "matrix": floats; "objects": values of any kind;
    "text": one column as a list. `fields` are the job's names for the same columns.
    """

    form: Form
    fields: tuple[Field, ...]
    names: tuple[str, ...]
    positional: int = 0
    """As in `ModelInfo`."""


def feed_of(estimator: Any, wanted: Sequence[str]) -> Feed:
    """The feed of a fitted estimator; `wanted` are the user's names, if any.

    Raises SchemaMismatch when nobody knows the columns, InvalidSpec when names contradict.
    """
    if _is_text_vectorizer(_first(estimator)):
        called = column_names((), wanted, 1)
        fields = tuple(Field(name=name, type="string") for name in called.names)
        return Feed(form="text", fields=fields, names=called.names, positional=called.positional)
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    count = getattr(estimator, "n_features_in_", None)
    if names:
        types = dict(_types(estimator, names))
        used = _used(estimator, names)
        renamed = column_names(used, wanted, len(used)).names
        fields = tuple(Field(name=new, type=types.get(old, "any")) for new, old in zip(renamed, used, strict=True))
        return Feed(form="frame", fields=fields, names=used)
    if count is None:
        return _unknown(wanted)
    positions = tuple(str(position) for position in range(count))
    types = dict(_types(estimator, positions))
    called = column_names((), wanted, count)
    pairs = zip(called.names, positions, strict=True)
    fields = tuple(Field(name=name, type=types.get(key, "any")) for name, key in pairs)
    numeric = all(field.type == "double" for field in fields)
    form: Form = "matrix" if numeric else "objects"
    return Feed(form=form, fields=fields, names=called.names, positional=called.positional)


def _unknown(wanted: Sequence[str]) -> Feed:
    if not wanted:
        raise SchemaMismatch(
            "The model does not know its input columns.",
            remedy="Name them in the order it was trained with: --features a,b,c.",
        )
    return Feed(form="frame", fields=tuple(Field(name=name) for name in wanted), names=tuple(wanted))


def _first(estimator: Any) -> Any:
    while _is_pipeline(estimator):
        estimator = estimator.steps[0][1]
    return estimator


def _is_pipeline(estimator: Any) -> bool:
    return isinstance(getattr(estimator, "steps", None), list) and bool(estimator.steps)


def _module(estimator: Any) -> str:
    return type(estimator).__module__


def _is_text_vectorizer(estimator: Any) -> bool:
    return _module(estimator).startswith("sklearn.feature_extraction.text") and hasattr(estimator, "transform")


def _is_column_transformer(estimator: Any) -> bool:
    return _module(estimator) == "sklearn.compose._column_transformer" and hasattr(estimator, "transformers_")


def _used(estimator: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that must be there: a ColumnTransformer that goes by names does not miss dropped ones."""
    first = _first(estimator)
    if not _is_column_transformer(first):
        return names
    specs = [(step, columns) for name, step, columns in first.transformers_ if name != "remainder"]
    if not all(_by_name(columns) for _, columns in specs):
        return names
    dropped = {
        column
        for _, step, columns in first.transformers_
        if isinstance(step, str) and step == "drop"
        for column in resolved_columns(columns, names)
    }
    needed = {
        column
        for _, step, columns in first.transformers_
        if step != "drop"
        for column in resolved_columns(columns, names)
    }
    return tuple(name for name in names if name in needed or name not in dropped)


def _by_name(columns: Any) -> bool:
    return isinstance(columns, str) or (
        isinstance(columns, (list, tuple, np.ndarray)) and all(isinstance(column, str) for column in columns)
    )


def resolved_columns(columns: Any, names: tuple[str, ...]) -> list[str]:
    """Names of the columns that a ColumnTransformer's entry means; unknown kinds mean none."""
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, (int, np.integer)):
        return [names[int(columns)]]
    if isinstance(columns, slice):
        if any(isinstance(edge, str) for edge in (columns.start, columns.stop)):
            return []
        return list(names[columns])
    entries = list(columns)
    if entries and all(isinstance(entry, (bool, np.bool_)) for entry in entries):
        return [name for name, chosen in zip(names, entries, strict=True) if chosen]
    return [entry if isinstance(entry, str) else names[int(entry)] for entry in entries]


def _types(estimator: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(column, Arrow type) where all that see the column agree on what it must be."""
    if isinstance(estimator, str) or estimator is None:
        return
    if _is_pipeline(estimator):
        steps = [step for _, step in estimator.steps if not (step is None or step == "passthrough")]
        if steps:
            yield from _types(steps[0], names)
        return
    if _is_column_transformer(estimator):
        yield from _types_of_parts(estimator, names)
        return
    if hasattr(estimator, "categories_"):
        yield from _types_of_categories(estimator.categories_, names)
        return
    if _is_numeric(estimator):
        yield from ((name, "double") for name in names)


def _types_of_parts(transformer: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    found: dict[str, set[str]] = {}
    for _, step, columns in transformer.transformers_:
        resolved = tuple(resolved_columns(columns, names))
        if isinstance(step, str) and step == "drop":
            continue
        known = {resolved[0]: "string"} if _is_text_vectorizer(step) and resolved else dict(_types(step, resolved))
        for name in resolved:
            found.setdefault(name, set()).add(known.get(name, "any"))
    yield from ((name, types.pop()) for name, types in found.items() if len(types) == 1)


def _types_of_categories(categories: Sequence[Any], names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if len(categories) != len(names):
        return
    for name, known in zip(names, categories, strict=True):
        if len(known) and all(isinstance(each, str) or each is None or each != each for each in known):
            yield name, "string"


def _is_numeric(estimator: Any) -> bool:
    """Whether every input of this estimator becomes a float before anything else happens to it."""
    module, name = _module(estimator), type(estimator).__name__
    if not module.startswith("sklearn."):
        return False
    if "_hist_gradient_boosting" in module:
        return getattr(estimator, "is_categorical_", None) is None
    if name == "SimpleImputer":
        return np.asarray(getattr(estimator, "statistics_", [""])).dtype.kind == "f"
    if name in _NUMERIC_CLASSES:
        return True
    inner = _inner(vars(estimator))
    return module.startswith(_NUMERIC_MODULES) and all(_is_numeric(each) for each in inner)


def _inner(attributes: Mapping[str, Any]) -> list[Any]:
    """Estimators that an estimator was made of."""
    found: list[Any] = []
    for name in _WRAPPERS:
        value = attributes.get(name)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            each = each[1] if isinstance(each, tuple) and len(each) == 2 else each
            if hasattr(each, "get_params"):
                found.append(each)
    return found

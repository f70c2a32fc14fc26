"""Which input column each feature of a linear model is made of, and how: fitted transformers, traced by hand.

Only transformers are known that make each feature of one column and look at each row alone. What encoders make of a
value is not repeated here: `sklearn_linear` asks the transformers themselves, once for each value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tidemill.flavors.sklearn_inputs import resolved_columns
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.linear import Arithmetic, Array, Function, Operation, Step

_ELEMENTWISE = ("sqrt", "cbrt", "exp", "expm1", "log", "log1p", "log2", "log10", "tanh", "arctan")
"""Functions of numpy that make the same float64 of a whole number and of the float64 that equals it."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of what transformers make, as a function of one input column."""

    column: int
    steps: tuple[Step, ...] | None = ()
    """The arithmetic on its numbers. None: there is none, because it is no number or only known by its code."""
    plain: bool = True
    """Whether it still is the input's value, perhaps imputed."""
    coded: bool = False
    """Whether it is known for each value of the input."""

    def after(self, *steps: Step) -> Feature:
        """With more arithmetic. Raises NotCompilable for what is no number."""
        if self.coded:
            return self
        if self.steps is None:
            raise NotCompilable("arithmetic follows on values that are no numbers, or miss other values than NaN")
        return replace(self, steps=(*self.steps, *steps), plain=False)

    def code(self) -> Feature:
        """As something that is known for each value."""
        return replace(self, steps=None, plain=False, coded=True)


Features = list[Feature]


class Tracer:
    """Follows the input columns through fitted transformers."""

    def __init__(self) -> None:
        self.values: dict[int, list[Any]] = {}
        """Of each column that is encoded, the values at which something changes."""

    def through(self, transformer: Any, features: Features, names: Sequence[str]) -> Features:
        """What a transformer makes of features, which are called `names` where names are known.

        Raises NotCompilable for what is not known, AttributeError and the like for what is kept in another way.
        """
        if transformer is None or isinstance(transformer, str):
            return [] if transformer == "drop" else features
        kind = type(transformer)
        trace = _TRACES.get(f"{kind.__module__}.{kind.__qualname__}")
        if trace is None:
            raise NotCompilable(f"there is no kernel for a {kind.__name__}")
        if trace not in (_pipeline, _columns, _union) and transformer.n_features_in_ != len(features):
            raise NotCompilable(f"a {kind.__name__} takes other features than are made for it")
        return trace(self, transformer, features, names)

    def meet(self, column: int, values: Iterable[Any]) -> None:
        """Note values of a column that are worth asking for."""
        self.values.setdefault(column, []).extend(values)


Trace = Callable[[Tracer, Any, Features, Sequence[str]], Features]


def _pipeline(tracer: Tracer, pipeline: Any, features: Features, names: Sequence[str]) -> Features:
    for _, step in pipeline.steps:
        features = tracer.through(step, features, names)
        names = _unnamed(features) if step not in (None, "passthrough") else names
    return features


def _unnamed(features: Features) -> list[str]:
    return [str(position) for position in range(len(features))]


def _columns(tracer: Tracer, transformer: Any, features: Features, names: Sequence[str]) -> Features:
    found: Features = []
    by_name = dict(zip(names, features, strict=True))
    for _, step, columns in transformer.transformers_:
        chosen = resolved_columns(columns, tuple(names))
        if chosen:
            found += tracer.through(step, [by_name[name] for name in chosen], chosen)
    return found


def _union(tracer: Tracer, union: Any, features: Features, names: Sequence[str]) -> Features:
    return [each for _, step in union.transformer_list for each in tracer.through(step, features, names)]


def _standard(tracer: Tracer, scaler: Any, features: Features, names: Sequence[str]) -> Features:
    center = scaler.mean_ if scaler.with_mean else None
    return _shifted(features, center, scaler.scale_ if scaler.with_std else None)


def _robust(tracer: Tracer, scaler: Any, features: Features, names: Sequence[str]) -> Features:
    center = scaler.center_ if scaler.with_centering else None
    return _shifted(features, center, scaler.scale_ if scaler.with_scaling else None)


def _shifted(features: Features, center: Array | None, scale: Array | None) -> Features:
    steps: list[list[Step]] = [[] for _ in features]
    pairs: tuple[tuple[Operation, Array | None], ...] = (("subtract", center), ("divide", scale))
    for operation, operands in pairs:
        if operands is not None:
            for own, operand in zip(steps, operands.tolist(), strict=True):
                own.append(Arithmetic(operation=operation, operand=operand))
    return [feature.after(*own) for feature, own in zip(features, steps, strict=True)]


def _within(low: float, high: float) -> list[Step]:
    return [Arithmetic(operation="at_least", operand=low), Arithmetic(operation="at_most", operand=high)]


def _min_max(tracer: Tracer, scaler: Any, features: Features, names: Sequence[str]) -> Features:
    clip = _within(*map(float, scaler.feature_range)) if scaler.clip else []
    operands = zip(features, scaler.scale_.tolist(), scaler.min_.tolist(), strict=True)
    return [
        feature.after(
            Arithmetic(operation="multiply", operand=scale), Arithmetic(operation="add", operand=least), *clip
        )
        for feature, scale, least in operands
    ]


def _max_abs(tracer: Tracer, scaler: Any, features: Features, names: Sequence[str]) -> Features:
    clip = _within(-1.0, 1.0) if getattr(scaler, "clip", False) else []
    return [each.after(*clip) for each in _shifted(features, None, scaler.scale_)]


def _function(tracer: Tracer, transformer: Any, features: Features, names: Sequence[str]) -> Features:
    function = transformer.func
    if function is None:
        return features
    if isinstance(function, np.ufunc) and function.__name__ in _ELEMENTWISE and not transformer.kw_args:
        return [feature.after(Function(ufunc=function)) for feature in features]
    raise NotCompilable("a FunctionTransformer calls a function of its own")


def _imputed(tracer: Tracer, imputer: Any, features: Features, names: Sequence[str]) -> Features:
    """Numbers are imputed by arithmetic; whatever else is asked for, value by value."""
    nan = _is_nan(imputer.missing_values)
    kept: Features = []
    for feature, statistic in zip(features, imputer.statistics_.tolist(), strict=True):
        if not nan:
            tracer.meet(feature.column, [imputer.missing_values])
        if _is_nan(statistic) and not imputer.keep_empty_features:
            continue
        if feature.coded:
            kept.append(feature)
        elif nan and feature.steps is not None and _is_number(statistic):
            kept.append(
                replace(feature, steps=(*feature.steps, Arithmetic(operation="fill", operand=float(statistic))))
            )
        elif feature.plain:
            tracer.meet(feature.column, [statistic])
            kept.append(replace(feature, steps=None))
        else:
            raise NotCompilable("a SimpleImputer takes other values than NaN for missing in what was computed")
    if not imputer.add_indicator:
        return kept
    return [*kept, *(_indicator(tracer, features[number], nan) for number in imputer.indicator_.features_.tolist())]


def _indicator(tracer: Tracer, feature: Feature, nan: bool) -> Feature:
    if not feature.coded and nan and feature.steps is not None:
        return feature.after(Arithmetic(operation="is_missing"))
    tracer.meet(feature.column, [])
    return feature.code()


def _one_hot(tracer: Tracer, encoder: Any, features: Features, names: Sequence[str]) -> Features:
    return _encoded(tracer, encoder, features, encoder._n_features_outs)


def _ordinal(tracer: Tracer, encoder: Any, features: Features, names: Sequence[str]) -> Features:
    return _encoded(tracer, encoder, features, [1] * len(features))


def _target(tracer: Tracer, encoder: Any, features: Features, names: Sequence[str]) -> Features:
    if len(encoder.encodings_) != len(features):
        raise NotCompilable("a TargetEncoder encodes several classes")
    return _ordinal(tracer, encoder, features, names)


def _encoded(tracer: Tracer, encoder: Any, features: Features, widths: Sequence[int]) -> Features:
    found: Features = []
    for feature, categories, width in zip(features, encoder.categories_, widths, strict=True):
        if not feature.plain:
            raise NotCompilable(f"a {type(encoder).__name__} encodes what was computed before")
        tracer.meet(feature.column, categories.tolist())
        found += [feature.code()] * int(width)
    return found


_TRACES: dict[str, Trace] = {
    "sklearn.pipeline.Pipeline": _pipeline,
    "sklearn.pipeline.FeatureUnion": _union,
    "sklearn.compose._column_transformer.ColumnTransformer": _columns,
    "sklearn.preprocessing._data.StandardScaler": _standard,
    "sklearn.preprocessing._data.MinMaxScaler": _min_max,
    "sklearn.preprocessing._data.MaxAbsScaler": _max_abs,
    "sklearn.preprocessing._data.RobustScaler": _robust,
    "sklearn.preprocessing._function_transformer.FunctionTransformer": _function,
    "sklearn.preprocessing._encoders.OneHotEncoder": _one_hot,
    "sklearn.preprocessing._encoders.OrdinalEncoder": _ordinal,
    "sklearn.preprocessing._target_encoder.TargetEncoder": _target,
    "sklearn.impute._base.SimpleImputer": _imputed,
}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

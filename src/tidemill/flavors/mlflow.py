"""MLflow folders as MLflow itself scores them: python_function models of every framework.

Loading one runs code: pickles, loader modules, the author's own class. So it must be trusted first. The columns
of the signature are the inputs, held to the types that MLflow lets pass, before the first row is scored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec, MissingExtra, ModelUnusable
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors import mlflow_folder, mlflow_result
from tidemill.flavors.bad_rows import is_null
from tidemill.flavors.inputs import column_names
from tidemill.flavors.matrix import to_arrow
from tidemill.flavors.mlflow_folder import Column, Folder
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.python import loaded_libraries
from tidemill.flavors.python_result import fitted
from tidemill.flavors.types import type_of
from tidemill.ports.flavor import Flavor, Model, Predicted
from tidemill.registry import extra_of, missing_extra

_BATCH_ROWS, _NETWORK_BATCH_ROWS, _ROWS_PER_CHUNK = 16_384, 1_024, 262_144
_NETWORKS = frozenset({"mlflow.pytorch", "mlflow.tensorflow", "mlflow.keras", "mlflow.transformers"})
_OURS = frozenset({"mlflow", "pandas", "yaml"})
_WHOLE = frozenset({"int32", "int64"})
_MADE_UP_ROWS = 2
_REMEDY = "save the model with a signature whose outputs say so"


class MlflowFlavor(Flavor):
    """Folders with a file MLmodel."""

    name: ClassVar[str] = "mlflow"
    carries_code: ClassVar[bool] = True
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.mlflow_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return mlflow_folder.is_folder(path)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        folder = mlflow_folder.read(path)
        chosen = PredictOptions.of(options)
        chosen.refuse_decisions("A python_function of MLflow decides itself and")
        _check_params(folder, chosen)
        if not folder.function:
            raise ModelUnusable(
                f"{path} has no flavor python_function, which is what MLflow predicts with.",
                remedy="Save the model again with MLflow, or score the model file inside the folder.",
            )
        return MlflowModel(folder, _function(folder), chosen)


def _check_params(folder: Folder, options: PredictOptions) -> None:
    unknown = sorted(set(options.extra) - set(folder.params))
    if unknown:
        known = f"It takes: {', '.join(folder.params)}." if folder.params else "Its signature has no parameters."
        raise InvalidSpec(f"{folder.path} takes no parameter called {', '.join(unknown)}.", remedy=known)


def _function(folder: Folder) -> Any:
    """What `mlflow.pyfunc.load_model` gives. Raises MissingExtra, ModelUnusable."""
    from tidemill.flavors import mlflow_library  # noqa: F401 (its settings come first)

    try:
        import mlflow.pyfunc
        import pandas  # noqa: F401

        return mlflow.pyfunc.load_model(os.path.abspath(folder.path), suppress_warnings=True)
    except ModuleNotFoundError as exc:
        top = (exc.name or "").partition(".")[0]
        if top in _OURS:
            raise missing_extra("mlflow", exc) from exc
        extra = extra_of(top)
        what = f"Run: pip install 'tidemill[{extra}]'" if extra else "Install the packages its requirements.txt lists"
        raise MissingExtra(
            f"{folder.path} needs the module {exc.name!r}, which is not there.",
            remedy=f"{what}; in a service, add the model with --environment requirements.txt.",
        ) from exc
    except Exception as exc:
        raise ModelUnusable(
            f"MLflow cannot load {folder.path}: {type(exc).__name__}: {exc}.",
            remedy="Install the versions that its requirements.txt lists, or copy the folder again.",
        ) from exc


class MlflowModel(Model):
    """A loaded python_function."""

    def __init__(self, folder: Folder, function: Any, options: PredictOptions) -> None:
        self._function, self._params = function, dict(options.extra) or None
        columns = _single_columns(folder) or _remembered(function)
        fields, self._columns, positional = _feed(columns, options.features)
        self._outputs, notes = self._learn(folder, fields)
        self.info = ModelInfo(
            flavor="mlflow",
            inputs=fields,
            outputs=tuple(Field(name=name, type=str(kind)) for name, kind in self._outputs.items()),
            takes_all=not fields,
            positional=positional,
            batch_rows=_NETWORK_BATCH_ROWS if folder.function.get("loader_module") in _NETWORKS else _BATCH_ROWS,
            rows_per_chunk=_ROWS_PER_CHUNK,
            libraries=(("mlflow-skinny", _version()), *loaded_libraries()),
            notes=notes,
        )

    def _learn(self, folder: Folder, fields: tuple[Field, ...]) -> tuple[dict[str, pa.DataType], tuple[str, ...]]:
        """The columns it gives: seen by its own example, else by made-up rows, else as the signature says."""
        said = _said_outputs(folder)
        tries: list[Callable[[], Any]] = [lambda: self._called(self._frame(_made_up(fields)))] if fields else []
        if self._function.input_example is not None:
            tries.insert(0, lambda: self._called(self._function.input_example))
        for attempt in tries:
            try:
                seen = mlflow_result.columns(attempt())
            except Exception:  # noqa: S112 (a model need not take such rows; the next way is tried)
                continue
            return _types(folder.path, seen, said), ()
        if said:
            return said, ()
        return {mlflow_result.PREDICTION: pa.float64()}, (
            "neither an example nor a signature shows what predict returns: one column of doubles is assumed",
        )

    def _called(self, data: Any) -> Any:
        return self._function.predict(data, params=self._params) if self._params else self._function.predict(data)

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        errors, rows = self._missing(batch), batch.num_rows
        good = np.setdiff1d(np.arange(rows), np.fromiter(errors, np.int64), assume_unique=True)
        if not len(good):
            nothing = [pa.nulls(rows, kind) for kind in self._outputs.values()]
            return Predicted(columns=pa.RecordBatch.from_arrays(nothing, names=list(self._outputs)), row_errors=errors)
        if not errors:
            return Predicted(columns=self._scored(batch))
        places = np.zeros(rows, np.int64)
        places[good] = np.arange(len(good))
        return Predicted(columns=self._scored(batch.take(to_arrow(good))).take(to_arrow(places)), row_errors=errors)

    def _missing(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Rows without a whole number where the signature wants one: pandas, and so MLflow, has no such."""
        errors: dict[int, str] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            asked = self._columns.get(name)
            if asked is None or asked.type not in _WHOLE or not column.null_count:
                continue
            message = f"column {name!r} is missing, and for {asked.type} MLflow knows no missing value"
            for row in np.flatnonzero(is_null(column)).tolist():
                errors.setdefault(row, message)
        return errors

    def _scored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        result = self._result(self._frame(batch))
        found = mlflow_result.columns(result)
        if isinstance(result, list):  # Dicts may leave out what they have no value for.
            found = {**{name: pa.nulls(batch.num_rows) for name in self._outputs}, **found}
        rows = batch.num_rows
        whole = {
            name: pa.nulls(rows, self._outputs[name])
            if pa.types.is_null(column.type) and len(column) == rows and name in self._outputs
            else column
            for name, column in found.items()
        }
        return fitted(whole, self._outputs, rows, _REMEDY)

    def _result(self, frame: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._called(frame)
        except MlflowException as exc:
            # MLflow puts the whole frame before what is wrong with it.
            raise ValueError(str(exc).rpartition("Error: ")[2]) from exc

    def _frame(self, batch: pa.RecordBatch) -> Any:
        columns, names = [], []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            asked = self._columns.get(name, Column(name=name))
            names.append(asked.name or name)
            is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
            if is_list and asked.shape is not None and asked.type != "any":
                column = column.cast(pa.list_(type_of(asked.type)))
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, names=names).to_pandas(use_threads=False)


def _single_columns(folder: Folder) -> list[Column]:
    """The columns of a table that hold what the signature asks for; empty without a signature."""
    found: list[Column] = []
    for column in folder.inputs:
        if column.shape is not None and column.shape[:1] != (-1,):
            raise ModelUnusable(
                f"{folder.path} takes exactly {column.shape[:1] or 'one value instead of'} rows, by its signature.",
                remedy="Save the model with a signature whose first dimension is -1.",
            )
        if column.name is None and len(folder.inputs) == 1 and (column.width or 1) > 1:
            found += [Column(type=column.type, accepts=column.accepts, name=None)] * (column.width or 1)
        else:
            found.append(column)
    return found


def _remembered(function: Any) -> list[Column]:
    """The columns that the model in a folder without a signature knows by name; empty if it knows none."""
    for attribute in ("feature_names_in_", "feature_names_", "feature_names", "feature_name"):
        with suppress(Exception):  # Not every function has a model inside, and such attributes may raise anything.
            found = getattr(function.get_raw_model(), attribute, None)
            names = found() if callable(found) else found
            if names is not None and len(names):
                return [Column(name=str(name)) for name in names]
    return []


def _feed(columns: Sequence[Column], wanted: tuple[str, ...]) -> tuple[tuple[Field, ...], dict[str, Column], int]:
    """The job's fields, by the name of each what it is to the model, and how many are taken by position."""
    if not columns:
        return tuple(Field(name=name) for name in wanted), {}, 0
    names = [column.name for column in columns]
    known = [name for name in names if name] if all(names) else []
    positional = 0
    required = {column.name for column in columns if column.required}
    if known and wanted and required <= set(wanted) <= set(known):
        chosen = {column.name or "": column for column in columns if column.name in wanted}
    else:
        called = column_names(known, wanted, len(columns))
        chosen, positional = dict(zip(called.names, columns, strict=True)), called.positional
    fields = tuple(
        Field(name=name, type=_fed_type(column), accepts=_fed_accepts(column), optional=not column.required)
        for name, column in chosen.items()
    )
    return fields, chosen, positional


def _is_single(column: Column) -> bool:
    return column.shape is None or column.width == 1


def _fed_type(column: Column) -> str:
    return column.type if _is_single(column) else "any"


def _fed_accepts(column: Column) -> tuple[str, ...]:
    return column.accepts if _is_single(column) else ()


def _made_up(fields: Sequence[Field]) -> pa.RecordBatch:
    columns = [_made_up_column(field) for field in fields]
    return pa.RecordBatch.from_arrays(columns, names=[field.name for field in fields])


def _made_up_column(field: Field) -> pa.Array:
    if "binary" in field.accepts:
        return pa.array([b""] * _MADE_UP_ROWS)
    kind = type_of("double" if field.type == "any" else field.type)
    if pa.types.is_string(kind):
        return pa.array([""] * _MADE_UP_ROWS)
    return pa.array([0] * _MADE_UP_ROWS).cast(kind)


def _said_outputs(folder: Folder) -> dict[str, pa.DataType]:
    """The outputs of the signature; empty without them, or if it does not say how many values a row has."""
    if not folder.outputs or any(column.width is None or column.type == "any" for column in folder.outputs):
        return {}
    types = [type_of(column.type) for column in folder.outputs for _ in range(column.width or 1)]
    return dict(zip(mlflow_folder.names_or(folder.outputs, mlflow_result.PREDICTION), types, strict=True))


def _types(path: str, seen: Mapping[str, pa.Array], said: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The types of the columns seen: wider where the signature says that numbers may be."""
    types: dict[str, pa.DataType] = {}
    for name, column in seen.items():
        kind = pa.string() if pa.types.is_large_string(column.type) else column.type
        if pa.types.is_nested(kind):
            raise ModelUnusable(
                f"{path}: predict returns a {kind} for each row as {name!r}, not single values.",
                remedy="Let it return a column for each value.",
            )
        promised = said.get(name)
        if pa.types.is_null(kind):
            kind = promised or pa.float64()
        types[name] = promised if promised is not None and _widens(kind, promised) else kind
    return types


def _widens(kind: pa.DataType, promised: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    whole = pa.types.is_integer(kind) and pa.types.is_integer(promised)
    return bool(numbers and (whole or pa.types.is_floating(promised)) and promised.bit_width >= kind.bit_width)


def _version() -> str:
    from mlflow.version import VERSION

    return str(VERSION)

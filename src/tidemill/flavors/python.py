"""Models that are a Python class: "module:Class" or "path/to/file.py:Class".

The class needs one method, `predict(batch)`, which takes a `pyarrow.RecordBatch` and returns a prediction
for each row: a numpy array, a list, a pandas or Polars column or frame, Arrow data, or a dict of columns.
It may say more in attributes:

    inputs           names of the columns it wants, or name -> Arrow type; without it, it gets all columns
    outputs          name -> Arrow type of what it returns; by default one column `prediction` of doubles
    batch_rows       rows of one call
    rows_per_chunk   rows of one unit of work at most
    threads_safe     True if several threads may call `predict` of one instance at once
    batch_invariant  True if a row's prediction never depends on the rows beside it

A class whose constructor wants an argument gets the job's predict options. Naming the class on one's own
machine is trusting it; a service must not take such a name from others.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import platform
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import pyarrow as pa

from tidemill.domain.errors import ModelUnusable, TidemillError
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.python_result import columns_of, fitted
from tidemill.flavors.types import type_of
from tidemill.ports.flavor import Flavor, Model, Predicted

_ROW_COUNTS = {"batch_rows": 65_536, "rows_per_chunk": 262_144}
_FRAMEWORKS = (
    *("catboost", "joblib", "lightgbm", "numpy", "onnxruntime", "pandas", "polars", "pyarrow", "scipy"),
    *("sentence_transformers", "skops", "sklearn", "spacy", "tensorflow", "tokenizers", "torch", "transformers"),
    "xgboost",
)
"""Packages whose version can change a value, if the class loads them."""


class PythonFlavor(Flavor):
    """A class with `predict(batch)`."""

    name: ClassVar[str] = "python"

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        target, colon, name = path.rpartition(":")
        if not colon or not name.isidentifier() or os.path.exists(path):
            return False
        return target.endswith(".py") or all(part.isidentifier() for part in target.split("."))

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        chosen = PredictOptions.of(options)
        chosen.refuse_decisions("A Python class decides itself and")
        kind = _class_at(path)
        try:
            return PythonModel(path, _instance(kind, chosen.extra), chosen)
        except TidemillError:
            raise
        except Exception as exc:
            raise ModelUnusable(
                f"{path} cannot be made: {type(exc).__name__}: {exc}.",
                remedy="Its constructor raised that: mend it, or give it what it needs.",
            ) from exc


class PythonModel(Model):
    """An instance of the user's class."""

    def __init__(self, path: str, instance: Any, options: PredictOptions) -> None:
        self._path, self._instance = path, instance
        if not callable(getattr(instance, "predict", None)):
            raise ModelUnusable(f"{path} has no method predict.", remedy="Add predict(self, batch) to the class.")
        inputs = _inputs(path, instance, options)
        self._outputs, notes = _outputs(path, instance, inputs)
        self.info = ModelInfo(
            flavor="python",
            inputs=inputs,
            outputs=tuple(Field(name=name, type=str(kind)) for name, kind in self._outputs.items()),
            takes_all=not inputs,
            layout="threads" if getattr(instance, "threads_safe", False) is True else "processes",
            batch_invariant=getattr(instance, "batch_invariant", False) is True,
            batch_rows=_row_count(path, instance, "batch_rows"),
            rows_per_chunk=_row_count(path, instance, "rows_per_chunk"),
            libraries=loaded_libraries(),
            notes=notes,
        )

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        result = self._instance.predict(batch)
        return Predicted(columns=fitted(columns_of(result, tuple(self._outputs)), self._outputs, batch.num_rows))

    def close(self) -> None:
        close = getattr(self._instance, "close", None)
        if callable(close):
            close()


def _class_at(path: str) -> type:
    target, _, name = path.rpartition(":")
    try:
        module = _file_module(target) if target.endswith(".py") else _installed_module(target)
    except TidemillError:
        raise
    except Exception as exc:
        raise ModelUnusable(
            f"{target} cannot be imported: {type(exc).__name__}: {exc}.",
            remedy="Install what it needs, or mend it; `python -c 'import ...'` shows the whole traceback.",
        ) from exc
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        what = "no class" if kind is None else f"a {type(kind).__name__}, not a class,"
        classes = [other for other, found in vars(module).items() if hasattr(found, "predict")]
        raise ModelUnusable(
            f"{getattr(module, '__file__', target)} has {what} called {name}.",
            remedy=f"It has: {', '.join(classes[:10])}." if classes else "Give module:Class with a method predict.",
        )
    return kind


def _file_module(path: str) -> ModuleType:
    """Load a file as a module of its own name, so that what it defines can be pickled and found again."""
    absolute = os.path.abspath(path)
    if not os.path.isfile(absolute):
        raise ModelUnusable(f"There is no file {path}.", remedy="Give module:Class or path/to/file.py:Class.")
    stem = os.path.splitext(os.path.basename(absolute))[0]
    name = f"_tidemill_{stem}_{hashlib.sha256(absolute.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, absolute)
    if spec is None or spec.loader is None:
        raise ModelUnusable(f"{path} is not a Python file.", remedy="Give module:Class or path/to/file.py:Class.")
    _add_to_path(os.path.dirname(absolute))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _installed_module(name: str) -> ModuleType:
    _add_to_path(os.getcwd())
    return importlib.import_module(name)


def _add_to_path(folder: str) -> None:
    """Let the class import its neighbours, as Python does for a script."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _instance(kind: type, options: Mapping[str, Any]) -> Any:
    try:
        parameters = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        return kind()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if positional and (positional[0].default is inspect.Parameter.empty or positional[0].name == "options"):
        return kind(dict(options))
    return kind()


def _inputs(path: str, instance: Any, options: PredictOptions) -> tuple[Field, ...]:
    declared = getattr(instance, "inputs", None)
    if declared is None:
        return tuple(Field(name=name) for name in options.features)
    if isinstance(declared, str):
        raise ModelUnusable(f"{path} has inputs = {declared!r}.", remedy="Make it a list of names.")
    if isinstance(declared, Mapping):
        return tuple(Field(name=name, type=_type(path, name, kind)) for name, kind in declared.items())
    return tuple(Field(name=str(name)) for name in declared)


def _type(path: str, column: str, kind: Any) -> str:
    if kind == "any":
        return "any"
    try:
        return str(kind if isinstance(kind, pa.DataType) else type_of(str(kind)))
    except ValueError as exc:
        raise ModelUnusable(
            f"{path}: the type {kind!r} of column {column!r} is not the name of an Arrow type.",
            remedy="Use names such as double, int64, string, bool or timestamp[us].",
        ) from exc


def _outputs(path: str, instance: Any, inputs: tuple[Field, ...]) -> tuple[dict[str, pa.DataType], tuple[str, ...]]:
    declared = getattr(instance, "outputs", None)
    if declared is None:
        return _learned(instance, inputs)
    if not isinstance(declared, Mapping) or not declared:
        raise ModelUnusable(f"{path} has outputs = {declared!r}.", remedy='Make it a dict: {"prediction": "double"}.')
    return {str(name): type_of(_type(path, name, kind)) for name, kind in declared.items()}, ()


def _learned(instance: Any, inputs: tuple[Field, ...]) -> tuple[dict[str, pa.DataType], tuple[str, ...]]:
    """What the class gives for no rows at all, if it takes that and its answer has types; else doubles."""
    fallback = {"prediction": pa.float64()}
    if not inputs or any(field.type == "any" for field in inputs):
        return fallback, ()
    empty = pa.RecordBatch.from_arrays(
        [pa.nulls(0, type_of(field.type)) for field in inputs], names=[field.name for field in inputs]
    )
    try:
        found = columns_of(instance.predict(empty), ("prediction",))
    except Exception as exc:
        return fallback, (
            f"outputs not declared and predict fails without rows ({type(exc).__name__}): doubles assumed",
        )
    types = {name: column.type for name, column in found.items() if not len(column)}
    if not types or len(types) != len(found) or any(not _is_plain(kind) for kind in types.values()):
        return fallback, ()
    return types, ()


def _is_plain(kind: pa.DataType) -> bool:
    return not pa.types.is_null(kind) and not pa.types.is_nested(kind)


def _row_count(path: str, instance: Any, name: str) -> int:
    count = getattr(instance, name, _ROW_COUNTS[name])
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ModelUnusable(f"{path} has {name} = {count!r}.", remedy="Make it a number of rows, 1 or more.")
    return count


def loaded_libraries() -> tuple[tuple[str, str], ...]:
    """Python and the frameworks that are loaded by now, with their versions."""
    loaded = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in _FRAMEWORKS)
    return (("python", platform.python_version()), *((name, str(found)) for name, found in loaded if found))

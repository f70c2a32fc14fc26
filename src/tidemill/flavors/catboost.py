"""CatBoost models: the binary files (.cbm) that `save_model` writes.

Values are those of the wrappers' `predict`. Categories and words are handed over as CatBoost takes them: text,
whole numbers and booleans; it refuses missing ones, so a row with one is rejected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import ModelUnusable, SchemaMismatch
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors import catboost_file
from tidemill.flavors.bad_rows import is_null, predicted_without
from tidemill.flavors.decision import AnyRule, ClassRule, LabelsRule, ValueRule
from tidemill.flavors.inputs import column_names
from tidemill.flavors.matrix import Array, floats, plain, to_arrow, to_matrix, values
from tidemill.flavors.options import PredictOptions
from tidemill.ports.flavor import Flavor, Model, Predicted
from tidemill.registry import missing_extra

BATCH_ROWS = 16_384
"""0.3 microseconds of CPU a row with 200 trees and 20 features from 4k to 64k rows, a columns' matrix or a
frame with categories included; half as much again at 1k."""
ROWS_PER_CHUNK = 262_144

_TIE = 1e-9
"""Nearer than that probabilities do not say what the library decides by its scores."""

_THRESHOLD = "binclass_probability_threshold"
"""The word under which a file keeps what `set_probability_threshold` was given."""

_CLASSIFIERS = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_SEVERAL_LABELS = ("MultiLogloss", "MultiCrossEntropy")
_EXPONENTS = ("Poisson", "Tweedie")
_RANKING = (
    *("LambdaMart", "PairLogit", "PairLogitPairwise", "QueryCrossEntropy", "QueryRMSE", "QuerySoftMax"),
    *("StochasticFilter", "StochasticRank", "YetiRank", "YetiRankPairwise"),
)
_OWN = "PythonUserDefined"


class CatBoostFlavor(Flavor):
    """Binary models of CatBoost, scored by its own library."""

    name: ClassVar[str] = "catboost"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.catboost_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return head.startswith(catboost_file.BEGINNING)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        try:
            content = Path(path).read_bytes()
        except OSError as exc:
            raise ModelUnusable(f"The model {path} cannot be read: {exc.strerror}.", remedy="Check the file.") from exc
        return CatBoostModel(content, path, PredictOptions.of(options))


class CatBoostModel(Model):
    """A model; thread-safe, each call runs in its own thread alone."""

    widens = True

    def __init__(self, content: bytes, path: str, options: PredictOptions) -> None:
        """Raises ModelUnusable, SchemaMismatch, InvalidSpec, MissingExtra."""
        options.refuse_extra("catboost")
        catboost_file.check(content, path)
        try:
            import catboost
        except ModuleNotFoundError as exc:
            raise missing_extra("catboost", exc) from exc
        self._library = catboost
        try:
            self._model = catboost.CatBoost().load_model(blob=content)
        except Exception as exc:
            reason = str(exc).strip().rpartition(": ")[2]
            raise ModelUnusable(
                f"CatBoost cannot load {path}: {reason}.",
                remedy="Copy or save the model again, with a version of CatBoost that is not newer than the one here.",
            ) from exc
        if self._model.get_embedding_feature_indices():
            raise ModelUnusable(
                f"{path} was trained with embeddings, which no input column can hold.",
                remedy="Train it with their numbers as columns, or wrap it in a Python class: file.py:Class.",
            )
        self._categorical = frozenset(self._model.get_cat_feature_indices())
        self._texts = frozenset(self._model.get_text_feature_indices())
        self._own_names = tuple(self._model.feature_names_)
        count = len(self._own_names)
        unnamed = self._own_names == tuple(map(str, range(count)))
        known = () if unnamed else self._own_names
        called = column_names(known, options.features, count, made_up=self._own_names)
        self._names, self._positional = called.names, called.positional
        metadata = self._model.get_metadata()
        self._loss = _loss(metadata)
        self._threshold = float(metadata[_THRESHOLD]) if _THRESHOLD in set(metadata.keys()) else 0.5
        self._rule = self._decide_rule(options)
        self.info = self._describe()

    def _decide_rule(self, options: PredictOptions) -> AnyRule:
        classes, width = list(self._model.classes_), self._width()
        if self._loss in _SEVERAL_LABELS:
            numbered = classes == list(range(width)) or len(classes) != width
            return LabelsRule.of(width if numbered else classes, options)
        if self._loss in _CLASSIFIERS:
            return ClassRule.of(classes if classes else max(width, 2), options)
        what = f"A CatBoost model of loss {self._loss or 'unknown'}"
        if self._loss == "RMSEWithUncertainty":
            options.refuse_decisions(what)
            return ValueRule(names=("prediction", "variance"))
        if self._loss in _RANKING:
            notes = ("prediction is a score for ranking",)
            return ValueRule.of(width, options, what=what, task="other", notes=notes)
        if not self._loss or self._loss.startswith(_OWN):
            notes = ("trained with a loss that the file does not say: prediction is the raw score",)
            return ValueRule.of(width, options, what=what, task="other", notes=notes)
        return ValueRule.of(width, options, what=what)

    def _width(self) -> int:
        """Numbers that one row's raw prediction has."""
        leaves = sum(self._model.get_tree_leaf_counts())
        return int(self._model.get_leaf_values().size // leaves) if leaves else 1

    def _describe(self) -> ModelInfo:
        return ModelInfo(
            flavor="catboost",
            inputs=tuple(Field(name=name, type=self._type(position)) for position, name in enumerate(self._names)),
            outputs=self._rule.outputs,
            positional=self._positional,
            task=self._rule.task,
            classes=self._rule.labels,
            positive_class=self._rule.positive,
            layout="threads",
            batch_invariant=True,
            batch_rows=BATCH_ROWS,
            rows_per_chunk=ROWS_PER_CHUNK,
            libraries=(("catboost", self._library.__version__),),
            notes=self._rule.notes,
        )

    def _type(self, position: int) -> str:
        # The file knows categories by their hashes only: 7 and "7" are one, 7.0 is none.
        return "any" if position in self._categorical else "string" if position in self._texts else "double"

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        columns, bad = list(batch.columns), dict[int, str]()
        if len(columns) != len(self._names):
            raise ValueError(f"the model takes {len(self._names)} columns but got {len(columns)}")
        for position in sorted(self._categorical | self._texts):
            columns[position] = _as_text(columns[position], self._names[position])
            for row in np.flatnonzero(is_null(columns[position])).tolist():
                bad.setdefault(row, f"column {self._names[position]!r} is missing, which CatBoost does not take")
        rows = pa.RecordBatch.from_arrays(columns, names=list(self._names))
        return predicted_without(rows, bad, self._rule, self._predicted)

    def _predicted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        pool = self._pool(batch)
        rule = self._rule
        if isinstance(rule, ValueRule):
            return rule.columns(self._asked(pool, self._value_kind()), batch.num_rows)
        probabilities = self._asked(pool, "Probability")
        if isinstance(rule, LabelsRule):
            return rule.columns(probabilities)
        return rule.columns(self._decided(rule, batch, probabilities), probabilities)

    def _value_kind(self) -> str:
        if self._loss in _EXPONENTS:
            return "Exponent"
        return self._loss if self._loss == "RMSEWithUncertainty" else "RawFormulaVal"

    def _decided(self, rule: ClassRule, batch: pa.RecordBatch, probabilities: Array) -> Array:
        """Positions of classes. The library decides by scores: where probabilities are as good as equal, it is
        asked itself."""
        if rule.threshold is not None:
            return rule.decide(probabilities)
        if rule.binary:
            decided = (probabilities[:, 1] > self._threshold).astype(np.int64)
            near = np.abs(probabilities[:, 1] - self._threshold) < _TIE
        else:
            decided = rule.decide(probabilities)
            best = np.sort(probabilities, axis=1)[:, -2:]
            near = best[:, 1] - best[:, 0] < _TIE
        rows = np.flatnonzero(near)
        if len(rows):
            labels = self._asked(self._pool(batch.take(to_arrow(rows))), "Class").reshape(-1).tolist()
            known = list(self._model.classes_)
            decided[rows] = [known.index(label) for label in labels]
        return decided

    def _asked(self, pool: Any, kind: str) -> Array:
        return np.asarray(self._model.predict(pool, prediction_type=kind, thread_count=1))

    def _pool(self, batch: pa.RecordBatch) -> Any:
        settings = {"feature_names": list(self._own_names), "thread_count": 1}
        if not self._categorical and not self._texts:
            return self._library.Pool(to_matrix(batch), **settings)
        import pandas

        frame = pandas.DataFrame(
            {name: self._vector(batch, position) for position, name in enumerate(self._own_names)}, copy=False
        )
        kinds = {"cat_features": sorted(self._categorical), "text_features": sorted(self._texts)}
        return self._library.Pool(frame, **kinds, **settings)

    def _vector(self, batch: pa.RecordBatch, position: int) -> Any:
        """A column as pandas holds it; each category is made a Python text only once."""
        column = batch.column(position)
        if position in self._texts:
            return np.array(column.to_pylist(), dtype=object)
        if position not in self._categorical:
            return floats(column, self._names[position])
        import pandas

        coded = column.dictionary_encode()
        return pandas.Categorical.from_codes(values(coded.indices), coded.dictionary.to_pylist())

    def close(self) -> None:
        """The memory goes with the object."""


def _as_text(column: pa.Array, name: str) -> pa.Array:
    """Categories as CatBoost writes them before it hashes them. Raises SchemaMismatch for other types."""
    column, types = plain(column), pa.types
    kind = column.type
    if types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif not (types.is_integer(kind) or types.is_null(kind) or _is_text(kind)):
        raise SchemaMismatch(
            f"Column {name!r} holds {kind}, but the model's categories are text, whole numbers or booleans.",
            remedy="Convert the column to what it was in training.",
        )
    return pc.cast(column, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _loss(metadata: Any) -> str:
    """The name of the loss that the model was trained with; empty if the file does not say."""
    keys = set(metadata.keys())
    try:
        if "params" in keys:
            return str(json.loads(metadata["params"])["loss_function"]["type"])
        return str(json.loads(metadata["loss_function"])["type"]) if "loss_function" in keys else ""
    except (ValueError, KeyError, TypeError):
        return ""

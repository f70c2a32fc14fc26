"""LightGBM models: the text that `Booster.save_model` writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tidemill.domain.errors import ModelUnusable
from tidemill.domain.signature import Field, Kernel, ModelInfo
from tidemill.flavors import lightgbm_text
from tidemill.flavors.categories import Categories
from tidemill.flavors.decision import ClassRule, Rule, ValueRule, positive_probabilities
from tidemill.flavors.inputs import column_names
from tidemill.flavors.lightgbm_library import Booster, version
from tidemill.flavors.lightgbm_trees import TreeBooster
from tidemill.flavors.matrix import Array, Vectors, to_arrow, to_matrix
from tidemill.flavors.options import PredictOptions
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.library import version as kernels_version
from tidemill.ports.flavor import Flavor, Model, Predicted

BATCH_ROWS = 16_384
"""Speed does not depend on it between 1k and 64k rows; this keeps a matrix of 100 features at 13 MB."""
MANY_COLUMNS = 32
"""With more, the library gets its matrix row by row, else column by column, which costs less to lay out. It goes along
rows: 100 trees on 2,000 columns take half the time."""
ROWS_PER_CHUNK = 262_144
SLOW_ROWS_PER_CHUNK = 32_768
SLOW_TREES = 2_000
"""From so many trees on, 262k rows would keep a core busy for minutes."""

KERNEL = "trees"
TOLERANCE = 1e-12
"""Of a kernel's numbers: they are the library's to the bit wherever that was tried."""

_BINARY = ("binary",)
_MULTICLASS = ("multiclass", "softmax", "multiclassova", "multiclass_ova", "ova", "ovr")
_RANKING = ("lambdarank", "rank_xendcg", "xendcg", "xe_ndcg", "xe_ndcg_mart", "xendcg_mart")
_UNNAMED = re.compile(r"Column_\d+")


class LightGBMFlavor(Flavor):
    """Text models of LightGBM, scored by its own library."""

    name: ClassVar[str] = "lightgbm"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.lightgbm_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return lightgbm_text.looks_like(head)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        try:
            text = Path(path).read_bytes()
        except OSError as exc:
            raise ModelUnusable(f"The model {path} cannot be read: {exc.strerror}.", remedy="Check the file.") from exc
        return LightGBMModel(text, path, PredictOptions.of(options))


class LightGBMModel(Model):
    """A booster; thread-safe, each call runs in its own thread alone."""

    widens = True

    def __init__(self, text: bytes, path: str, options: PredictOptions, *, labels: Sequence[Any] | None = None) -> None:
        """`labels` are the names of the classes where the container of the booster knows them."""
        columns = tuple(options.extra.get("categorical_features", ()))
        extra = {word: value for word, value in options.extra.items() if word != "categorical_features"}
        replace(options, extra=extra).refuse_extra("lightgbm")
        said = lightgbm_text.read(text, path)
        self._categories = {
            position: Categories(said.features[position], categories)
            for position, categories in lightgbm_text.assign_categories(said, columns).items()
        }
        unnamed = all(_UNNAMED.fullmatch(name) for name in said.features)
        known = () if unnamed else said.features
        called = column_names(known, options.features, len(said.features), made_up=said.features)
        self._names, self._positional = called.names, called.positional
        self._rule = _rule(said, options, labels)
        self._booster = self._compiled(text, said, options.kernel_file) if options.accelerate else None
        self._library = Booster(text) if self._booster is None else None
        self.info = self._describe(said)

    def _compiled(self, text: bytes, said: lightgbm_text.BoosterText, kept_at: str | None) -> TreeBooster | None:
        try:
            booster = TreeBooster(text, said, kept_at)
        except NotCompilable as exc:
            self.not_accelerated = str(exc)
            return None
        self.kernel = Kernel(name=KERNEL, version=kernels_version(), tolerance=TOLERANCE)
        return booster

    def _describe(self, said: lightgbm_text.BoosterText) -> ModelInfo:
        return ModelInfo(
            flavor="lightgbm",
            inputs=tuple(self._field(position) for position in range(len(self._names))),
            outputs=self._rule.outputs,
            positional=self._positional,
            task=self._rule.task,
            kernel=KERNEL,
            classes=self._rule.labels,
            positive_class=self._rule.positive,
            layout="threads",
            batch_invariant=True,
            batch_rows=BATCH_ROWS,
            rows_per_chunk=SLOW_ROWS_PER_CHUNK if said.trees >= SLOW_TREES else ROWS_PER_CHUNK,
            libraries=(("lightgbm", version()),),
            notes=(*self._rule.notes, *_input_notes(said)),
        )

    def _field(self, position: int) -> Field:
        categories = self._categories.get(position)
        kind = "double" if categories is None else "string" if categories.text else "any"
        return Field(name=self._names[position], type=kind)

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        rows = self._coded(batch)
        if self._booster is not None:
            scores = self._booster.predict(Vectors(rows, None))
            return Predicted(columns=self._written(scores, batch.num_rows), by_kernel=True)
        assert self._library is not None
        matrix = to_matrix(rows, order="C" if rows.num_columns > MANY_COLUMNS else "F", dtype=None)
        scores = self._library.predict(matrix)
        return Predicted(columns=self._written(scores, batch.num_rows))

    def _written(self, scores: Array, rows: int) -> pa.RecordBatch:
        if isinstance(self._rule, ValueRule):
            return self._rule.columns(scores, rows)
        probabilities = positive_probabilities(scores) if scores.ndim == 1 else scores
        return self._rule.columns(self._rule.decide(probabilities), probabilities)

    def _coded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with categories as their codes."""
        if batch.num_columns != len(self._names):
            raise ValueError(f"the model takes {len(self._names)} columns but got {batch.num_columns}")
        if not self._categories:
            return batch
        columns = batch.columns
        for position, categories in self._categories.items():
            columns[position] = to_arrow(categories.codes(columns[position]))
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    def close(self) -> None:
        if self._library is not None:
            self._library.close()


def _rule(said: lightgbm_text.BoosterText, options: PredictOptions, labels: Sequence[Any] | None) -> Rule:
    if said.objective in _BINARY:
        return ClassRule.of(2 if labels is None else labels, options)
    if said.objective in _MULTICLASS:
        return ClassRule.of(said.width if labels is None else labels, options)
    what = f"A LightGBM model of objective {said.objective or 'one of its own'}"
    if not said.objective:
        note = "trained with an objective of its own: prediction is the raw score"
        return ValueRule.of(said.width, options, what=what, task="other", notes=(note,))
    if said.objective in _RANKING:
        return ValueRule.of(said.width, options, what=what, task="other", notes=("prediction is a score for ranking",))
    return ValueRule.of(said.width, options, what=what)


def _input_notes(said: lightgbm_text.BoosterText) -> tuple[str, ...]:
    note = "the file lists no categories: categorical columns must hold the codes used in training"
    return (note,) if said.codes_expected else ()

"""One batch through the model, and who is to blame if that fails. Runs in children.

A batch that raises is halved until the rows are found; then all the others are scored once more in
their original batch without them, because values may depend on the company (invariant 5). Out of
memory is not the rows' fault yet: it ends the scorer, and quarantine tries smaller pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import TidemillError
from tidemill.ports.flavor import Model

MESSAGE_CHARACTERS = 500

Errors = dict[int, tuple[str, str]]
"""Position of a row in its batch -> error class, message."""

Places = range | np.ndarray[Any, Any]
"""Of each row that is predicted, its position in its batch."""

OnResult = Callable[[int, Errors], None]


@dataclass(kw_only=True)
class Outcome:
    """What became of a batch: `columns` for the rows `good` (positions, int64), the rest in `errors`.
    `split` if pieces had to stand for the whole."""

    columns: pa.RecordBatch
    good: np.ndarray[Any, Any]
    errors: Errors = field(default_factory=dict)
    split: bool = False
    kernel_rows: int = 0
    """Of the rows `good`, those that a kernel predicted."""


class Predictor:
    """Predicts batches with one model, checked against the columns that the plan promised."""

    def __init__(
        self,
        model: Model,
        schema: pa.Schema,
        on_result: OnResult = lambda good, errors: None,
        after_call: Callable[[], None] = lambda: None,
    ) -> None:
        """`schema` are the predicted columns. `on_result` hears of every call how many rows came out
        good and which did not, and may raise a TidemillError to stop a hopeless batch. `after_call` is called
        when the model has answered, whatever came of it: finding the bad rows of a batch can take many calls."""
        self.model, self.schema, self.on_result, self.after_call = model, schema, on_result, after_call

    def predict(self, features: pa.RecordBatch, piece_rows: int | None = None) -> Outcome:
        """Score all rows of a batch; with `piece_rows` never more than so many in one call."""
        if piece_rows is not None and piece_rows < features.num_rows:
            return self._pieces(features, piece_rows)
        return self._predict(features, range(features.num_rows))

    def _predict(self, features: pa.RecordBatch, places: Places) -> Outcome:
        try:
            return self._call(features, places)
        except (TidemillError, MemoryError):
            raise
        except Exception as exc:
            return self._without_the_bad(features, places, exc)

    def _call(self, features: pa.RecordBatch, places: Places) -> Outcome:
        rows = features.num_rows
        try:
            predicted = self.model.predict(features)
        finally:
            self.after_call()
        columns = checked(predicted.columns, rows, self.schema)
        errors = {row: ("RowError", text[:MESSAGE_CHARACTERS]) for row, text in predicted.row_errors.items()}
        good = np.arange(rows, dtype=np.int64)
        self.on_result(rows - len(errors), {int(places[row]): error for row, error in errors.items()})
        if errors:
            good = np.setdiff1d(good, np.fromiter(errors, dtype=np.int64), assume_unique=True)
            columns = columns.take(pa.array(good))
        by_kernel = len(good) if predicted.by_kernel else 0
        return Outcome(columns=columns, good=good, errors=errors, kernel_rows=by_kernel)

    def _without_the_bad(self, features: pa.RecordBatch, places: Places, first: Exception) -> Outcome:
        rows = features.num_rows
        errors: Errors = {}
        pieces = list(self._halves(features, 0, first, errors, places))
        good = np.setdiff1d(np.arange(rows, dtype=np.int64), np.fromiter(errors, dtype=np.int64), assume_unique=True)
        if len(good):
            whole = self._try_together(features.take(pa.array(good)), np.asarray(places)[good])
            if whole is not None:
                return _shifted(whole, good, errors)
        columns = pa.concat_batches([piece.columns for piece in pieces]) if pieces else self._nothing()
        found = np.concatenate([piece.good for piece in pieces]) if pieces else good
        by_kernel = sum(piece.kernel_rows for piece in pieces)
        return Outcome(columns=columns, good=found, errors=errors, split=bool(pieces), kernel_rows=by_kernel)

    def _try_together(self, features: pa.RecordBatch, places: Places) -> Outcome | None:
        try:
            return self._call(features, places)
        except (TidemillError, MemoryError):
            raise
        except Exception:
            # Only together do these rows fail: what the pieces gave stands, and the receipt says so.
            return None

    def _halves(
        self, features: pa.RecordBatch, offset: int, cause: Exception, errors: Errors, places: Places
    ) -> Iterator[Outcome]:
        rows = features.num_rows
        if rows == 1:
            errors[offset] = described(cause)
            self.on_result(0, {int(places[offset]): errors[offset]})
            return
        for start, stop in ((0, rows // 2), (rows // 2, rows)):
            half = features.slice(start, stop - start)
            try:
                outcome = self._call(half, places[offset + start : offset + stop])
            except (TidemillError, MemoryError):
                raise
            except Exception as exc:
                yield from self._halves(half, offset + start, exc, errors, places)
                continue
            errors.update({offset + start + row: error for row, error in outcome.errors.items()})
            outcome.good = outcome.good + offset + start
            yield outcome

    def _pieces(self, features: pa.RecordBatch, piece_rows: int) -> Outcome:
        outcomes = []
        for start in range(0, features.num_rows, piece_rows):
            piece = features.slice(start, piece_rows)
            outcome = self._predict(piece, range(start, start + piece.num_rows))
            outcome.good = outcome.good + start
            outcome.errors = {row + start: error for row, error in outcome.errors.items()}
            outcomes.append(outcome)
        return Outcome(
            columns=pa.concat_batches([o.columns for o in outcomes]),
            good=np.concatenate([o.good for o in outcomes]),
            errors={row: error for o in outcomes for row, error in o.errors.items()},
            split=True,
            kernel_rows=sum(o.kernel_rows for o in outcomes),
        )

    def _nothing(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in self.schema], schema=self.schema)


def checked(columns: pa.RecordBatch, rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """What the model returned for so many rows, with the types that it promised. Raises ValueError."""
    if columns.num_rows != rows:
        raise ValueError(f"the model returned {columns.num_rows} predictions for {rows} rows")
    if columns.schema.names != schema.names:
        raise ValueError(f"the model returned columns {columns.schema.names}, not {schema.names}")
    if columns.schema.types == schema.types:
        return columns
    cast = [column.cast(wanted.type) for column, wanted in zip(columns.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema)


def _shifted(outcome: Outcome, rows: np.ndarray[Any, Any], errors: Errors) -> Outcome:
    """The outcome of the rows at those positions, told in positions of the whole batch."""
    own = {int(rows[row]): error for row, error in outcome.errors.items()}
    return replace(outcome, good=rows[outcome.good], errors={**errors, **own})


def described(exc: Exception) -> tuple[str, str]:
    """Error class and message, of bounded length."""
    text = str(exc).strip() or "no message"
    return type(exc).__name__, text[:MESSAGE_CHARACTERS]

"""One trial of a model check: predict the sample in some way and compare. Runs in children.

Every trial has a child of its own and loads the model anew, so what one does to the model is not another's
fault. Predictions are compared by their bits, as a reader of two outputs would.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import TidemillError
from tidemill.domain.signature import ModelInfo
from tidemill.domain.trials import REFERENCE, THREADS, Difference, Trial
from tidemill.engine import models
from tidemill.engine.batching import BadRow, by_reason
from tidemill.engine.casting import type_of
from tidemill.engine.predicting import Outcome, Predictor, checked, described
from tidemill.engine.preview import jsonable
from tidemill.engine.sampling import FEATURES, KEYS, save, saved
from tidemill.ports.flavor import Model

EXPECTED = "expected.arrow"
PIECES = 8
"""What the threads predict: about so many runs of rows, all of one length, so that none stands out by its shape."""
ROUNDS = 3
SWITCH_SECONDS = 1e-5
"""How often Python's threads take turns in the trial of threads: five hundred times as often as by default."""

Progress = Callable[[dict[str, Any]], None]
Predict = Callable[[pa.RecordBatch], pa.RecordBatch]
Compared = tuple[int, pa.RecordBatch, pa.RecordBatch]
"""Position in the sample of the first row; predictions that were expected; those that came."""


def trial(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Run one trial: {"name", "model" (with "trusted"), "info", "predict" (of the spec), "folder"}.

    The folder holds the sample. The reference is left there too, and the rows that it cannot predict are taken out
    of the sample. Returns {"trial": `Trial` as JSON}, of the reference also {"rows", "rejected", "rejections"}.
    Tells by progress of every call. Raises the flavor's error for a model that cannot be loaded.
    """
    info = ModelInfo.from_json(request["info"])
    names = [field.name for field in info.inputs]
    threads = THREADS if request["name"] == "threads" else 1
    model = models.load(request["model"], {**request["predict"], "features": names, "threads": threads})
    progress({"loaded": True})
    schema = pa.schema([pa.field(field.name, type_of(field.type)) for field in info.outputs])
    ground = _Ground(Path(request["folder"]), model, schema, progress)
    return ground.refer() if request["name"] == REFERENCE else ground.compare(request["name"])


class _RowRejected(Exception):
    """The model said of one row that it cannot predict it."""


class _Ground:
    """A model, the sample, and the lock under which its calls are told of."""

    def __init__(self, folder: Path, model: Model, schema: pa.Schema, progress: Progress) -> None:
        self.folder, self.model, self.schema, self._progress = folder, model, schema, progress
        self.features, self.keys = saved(folder / FEATURES), saved(folder / KEYS)
        self._telling = threading.Lock()

    def refer(self) -> dict[str, Any]:
        """Predict all rows together, and write down what came: the reference."""
        outcome = Predictor(self.model, self.schema, after_call=self._tell).predict(self.features)
        told: dict[str, Any] = {"rows": len(outcome.good), **self._rejected(outcome)}
        if outcome.errors and len(outcome.good):
            self._keep(outcome)
            outcome = Predictor(self.model, self.schema, after_call=self._tell).predict(self.features)
        if outcome.split:
            problem = f"{self.features.num_rows:,} rows fail together, but not in smaller batches"
            return {**told, "trial": Trial(name=REFERENCE, answer="failed", problem=problem).to_json()}
        save(self.folder / EXPECTED, outcome.columns)
        return {**told, "trial": Trial(name=REFERENCE, answer="reference").to_json()}

    def _rejected(self, outcome: Outcome) -> dict[str, Any]:
        bad = [BadRow(row=row, stage="predict", error=e, message=text) for row, (e, text) in outcome.errors.items()]
        rejections = [{**self._key(reason.pop("first_row")), **reason} for reason in by_reason(bad)]
        return {"rejected": len(bad), "rejections": rejections}

    def _keep(self, outcome: Outcome) -> None:
        """Go on with the rows that can be predicted, alone: the others might have changed their predictions."""
        places = pa.array(outcome.good)
        self.features, self.keys = self.features.take(places), self.keys.take(places)
        save(self.folder / FEATURES, self.features)
        save(self.folder / KEYS, self.keys)

    def compare(self, name: str) -> dict[str, Any]:
        """Predict in the way of this name, and compare with the reference."""
        expected = saved(self.folder / EXPECTED)
        differences = _Differences(self.schema)
        try:
            for start, wanted, found in _WAYS[name](self._predict, self.features, expected):
                differences.add(start, wanted, found)
        except (TidemillError, MemoryError):
            raise
        except _RowRejected as exc:
            return {"trial": Trial(name=name, answer="failed", problem=str(exc)).to_json()}
        except Exception as exc:
            return {"trial": Trial(name=name, answer="failed", problem=": ".join(described(exc))).to_json()}
        difference = differences.found(self._key)
        answer = Trial(name=name, answer="differs" if difference else "same", difference=difference)
        return {"trial": answer.to_json()}

    def _predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        predicted = self.model.predict(batch)
        columns = checked(predicted.columns, batch.num_rows, self.schema)
        if predicted.row_errors:
            row, message = min(predicted.row_errors.items())
            raise _RowRejected(f"row {row} of a batch of {batch.num_rows} is rejected: {message}")
        self._tell()
        return columns

    def _tell(self) -> None:
        with self._telling:
            self._progress({"called": True})

    def _key(self, place: int) -> dict[str, Any]:
        return {"file": self.keys.column("file")[place].as_py(), "row": self.keys.column("row")[place].as_py()}


def _twice(predict: Predict, features: pa.RecordBatch, expected: pa.RecordBatch) -> Iterator[Compared]:
    yield 0, expected, predict(features)
    yield 0, expected, predict(features)


def _once(predict: Predict, features: pa.RecordBatch, expected: pa.RecordBatch) -> Iterator[Compared]:
    yield 0, expected, predict(features)


def _reversed(predict: Predict, features: pa.RecordBatch, expected: pa.RecordBatch) -> Iterator[Compared]:
    backwards = pa.array(np.arange(features.num_rows)[::-1])
    yield 0, expected, predict(features.take(backwards)).take(backwards)


def _in_batches(rows: int) -> Callable[[Predict, pa.RecordBatch, pa.RecordBatch], Iterator[Compared]]:
    def batches(predict: Predict, features: pa.RecordBatch, expected: pa.RecordBatch) -> Iterator[Compared]:
        for start in range(0, features.num_rows, rows):
            yield start, expected.slice(start, rows), predict(features.slice(start, rows))

    return batches


def _from_threads(predict: Predict, features: pa.RecordBatch, expected: pa.RecordBatch) -> Iterator[Compared]:
    """Threads predict the same pieces, each at another one at any time. What is expected is what the pieces gave
    before there were threads: a model may give other last bits for a piece than for the whole."""
    rows = max(min(2, features.num_rows), features.num_rows // PIECES)
    starts = range(0, features.num_rows - rows + 1, rows)
    alone = [predict(features.slice(start, rows)) for start in starts]
    together = threading.Barrier(THREADS)
    sys.setswitchinterval(SWITCH_SECONDS)

    def work(thread: int) -> list[tuple[int, pa.RecordBatch]]:
        together.wait()
        places = [(thread * len(starts) // THREADS + turn) % len(starts) for turn in range(ROUNDS * len(starts))]
        return [(place, predict(features.slice(starts[place], rows))) for place in places]

    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(work, range(THREADS)):
            for place, columns in found:
                yield starts[place], alone[place], columns


_WAYS = {
    "twice": _twice,
    "fresh": _once,
    "reversed": _reversed,
    "ones": _in_batches(1),
    "sevens": _in_batches(7),
    "threads": _from_threads,
}


class _Differences:
    """What differs between predictions, over all that were compared in a trial."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = schema.names
        self._rows: set[int] = set()
        self._first: tuple[int, int, Any, Any] | None = None
        """Position in the sample, position of the column, both values."""
        self._largest: float | None = None

    def add(self, start: int, expected: pa.RecordBatch, found: pa.RecordBatch) -> None:
        for column, (wanted, got) in enumerate(zip(expected.columns, found.columns, strict=True)):
            for place, (a, b) in enumerate(zip(wanted.to_pylist(), got.to_pylist(), strict=True), start):
                if not same(a, b):
                    self._note(place, column, a, b)

    def _note(self, place: int, column: int, expected: Any, found: Any) -> None:
        self._rows.add(place)
        if self._first is None or (place, column) < self._first[:2]:
            self._first = place, column, expected, found
        gap = distance(expected, found)
        if gap is not None:
            self._largest = gap if self._largest is None else max(self._largest, gap)

    def found(self, key: Callable[[int], dict[str, Any]]) -> Difference | None:
        """The difference; `key` names the row at a position in the sample. None if there is none."""
        if self._first is None:
            return None
        place, column, expected, found = self._first
        return Difference(
            **key(place),
            column=self._names[column],
            expected=jsonable(expected),
            found=jsonable(found),
            rows=len(self._rows),
            largest=self._largest,
        )


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same to the bit; any NaN is any other."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or a.hex() == b.hex()
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def distance(a: Any, b: Any) -> float | None:
    """How far two numbers are apart, or the numbers of two lists at most; None for what are no numbers."""
    if isinstance(a, list) and isinstance(b, list):
        gaps = [gap for pair in zip(a, b, strict=False) if (gap := distance(*pair)) is not None]
        return max(gaps, default=None)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (a, b)):
        return None
    gap = abs(float(a) - float(b))
    return None if math.isnan(gap) else gap

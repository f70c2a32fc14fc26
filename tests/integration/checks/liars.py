"""Models that are what they claim, and models that are not, each in one way."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

Vector = np.ndarray[Any, Any]


class Claims:
    """Says that rows may come in any company, and from any thread."""

    inputs: ClassVar = {"x": "double"}
    outputs: ClassVar = {"prediction": "double"}
    threads_safe = True
    batch_invariant = True

    def predict(self, batch: pa.RecordBatch) -> Any:
        return self.values(np.array(batch.column("x").to_pylist(), float))

    def values(self, x: Vector) -> Any:
        return 2 * x + 1


class Honest(Claims):
    """Keeps both claims."""


class Modest(Claims):
    """Would keep both, and claims neither."""

    threads_safe = False
    batch_invariant = False


class Centred(Claims):
    """Subtracts the mean of the batch."""

    def values(self, x: Vector) -> Any:
        return x - x.mean()


class OpenlyCentred(Centred):
    """Does so too, and says so."""

    batch_invariant = False


class Counting(Claims):
    """Remembers how often it was called."""

    calls = 0

    def values(self, x: Vector) -> Any:
        self.calls += 1
        return x + self.calls


class Running(Claims):
    """Sums up the rows before."""

    def values(self, x: Vector) -> Any:
        return np.cumsum(x)


class Shared(Claims):
    """Keeps the batch where the next thread finds it."""

    def values(self, x: Vector) -> Any:
        self.x = x
        time.sleep(0.001)
        return 2 * self.x + 1


class OpenlyShared(Shared):
    """Does so too, and claims nothing of threads."""

    threads_safe = False


class Hashed(Claims):
    """Goes by the order of hashes, which Python draws by lot for each interpreter."""

    def values(self, x: Vector) -> Any:
        return x + hash("a word") % 1_000_003


class Labelled(Claims):
    """Gives text, and other text to a row that stands alone."""

    outputs: ClassVar = {"label": "string", "score": "double"}

    def values(self, x: Vector) -> Any:
        return {"label": ["alone" if len(x) == 1 else "together"] * len(x), "score": x}


class Pedantic(Claims):
    """Is off by the last bit in batches of seven."""

    batch_invariant = False

    def values(self, x: Vector) -> Any:
        return np.nextafter(x, np.inf) if len(x) == 7 else x


class Picky(Claims):
    """Cannot predict the rows whose x is 13."""

    def values(self, x: Vector) -> Any:
        if 13 in x:
            raise ValueError("13 is bad luck")
        return 2 * x + 1


class Sociable(Claims):
    """Needs two rows."""

    def values(self, x: Vector) -> Any:
        if len(x) == 1:
            raise ValueError("one row has no spread")
        return x


class Dying(Claims):
    """Ends its process when a batch has one row."""

    def values(self, x: Vector) -> Any:
        if len(x) == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x


class Hanging(Claims):
    """Never answers to seven rows."""

    def values(self, x: Vector) -> Any:
        while len(x) == 7:
            time.sleep(60)
        return x


class Dead(Claims):
    """Ends its process whatever comes."""

    def values(self, x: Vector) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


class Everything:
    """Takes every column that there is."""

    outputs: ClassVar = {"prediction": "double"}

    def predict(self, batch: pa.RecordBatch) -> Any:
        return [float(len(batch.schema.names))] * batch.num_rows

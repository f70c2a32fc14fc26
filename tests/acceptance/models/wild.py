"""Models that give 2 x + 1, and do something else to a few rows. `n` is the number of a row."""

import ctypes
import os
import time
from typing import ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import Unrecoverable

BAD = 77_777


def numbers(batch):
    return np.asarray(batch["n"]), np.asarray(batch["x"])


class Good:
    inputs = ("n", "x")

    def predict(self, batch):
        return 2 * numbers(batch)[1] + 1


class Segfaults(Good):
    def predict(self, batch):
        if BAD in numbers(batch)[0]:
            ctypes.string_at(0)
        return super().predict(batch)


class Hangs(Good):
    def predict(self, batch):
        if BAD in numbers(batch)[0]:
            ctypes.PyDLL(None).sleep(10_000)
        return super().predict(batch)


class Eats(Good):
    def predict(self, batch):
        if BAD in numbers(batch)[0]:
            hoard = []
            while True:
                hoard.append(np.ones(32 << 20, dtype=np.uint8))
        return super().predict(batch)


class Raises(Good):
    """On 1 % of the rows."""

    def predict(self, batch):
        n, _ = numbers(batch)
        bad = n[n % 100 == 7]
        if len(bad):
            raise ValueError(f"row {bad[0]} has no soul")
        return super().predict(batch)


class RaisesSlowly(Good):
    """Each call is short; to find the bad rows of a batch takes many."""

    def predict(self, batch):
        time.sleep(0.1)
        n = numbers(batch)[0]
        if (n % 50 == 7).any():
            raise ValueError("a row has no soul")
        return super().predict(batch)


class WrongLength(Good):
    """One value too few where a bad row is."""

    def predict(self, batch):
        y = super().predict(batch)
        return y[:-1] if BAD in numbers(batch)[0] else y


class GivesNone(Good):
    def predict(self, batch):
        return None if BAD in numbers(batch)[0] else super().predict(batch)


class OtherType(Good):
    def predict(self, batch):
        y = super().predict(batch)
        return ["a word"] * len(y) if BAD in numbers(batch)[0] else y


class Mixed(Good):
    """Values of several kinds in one answer."""

    def predict(self, batch):
        y = super().predict(batch)
        return [*y[:-1], {"a": 1}] if BAD in numbers(batch)[0] else y


class Exits(Good):
    def predict(self, batch):
        if BAD in numbers(batch)[0]:
            os._exit(0)
        return super().predict(batch)


class Quits(Good):
    def predict(self, batch):
        if BAD in numbers(batch)[0]:
            raise SystemExit("enough")
        return super().predict(batch)


class Ruins(Good):
    """As a GPU does: no row after the bad one can be scored in that process."""

    ruined = False

    def predict(self, batch):
        self.ruined |= BAD in numbers(batch)[0]
        if self.ruined:
            raise Unrecoverable("the GPU failed")
        return super().predict(batch)


class Always(Good):
    def predict(self, batch):
        raise RuntimeError("the model is out of order")


class AlwaysNone(Good):
    def predict(self, batch):
        return None


class Slow(Good):
    """Waits before each call as long as TEST_SLEEP says."""

    def predict(self, batch):
        time.sleep(float(os.environ.get("TEST_SLEEP", "0.2")))
        return super().predict(batch)


def wait_for_gate():
    """Until there is a file where TEST_GATE says; whoever closes it for good kills this process."""
    while not os.path.exists(os.environ["TEST_GATE"]):
        time.sleep(0.02)


class Gated(Good):
    """Row numbers from 2,000 on wait for the gate."""

    def predict(self, batch):
        if max(numbers(batch)[0]) >= 2_000:
            wait_for_gate()
        return super().predict(batch)


class GatedAtLoad(Good):
    """Says that it is being loaded, and waits for the gate."""

    def __init__(self):
        open(os.environ["TEST_GATE"] + ".reached", "w").close()
        wait_for_gate()


class Unmakeable:
    def __init__(self):
        raise OSError("no licence")


class Typed:
    """Wants a number and a word."""

    inputs: ClassVar = {"x": "double", "word": "string"}

    def predict(self, batch):
        return np.asarray(batch["x"]) * 2


class OnlyX:
    inputs: ClassVar = {"x": "double"}
    batch_rows = 4_096

    def predict(self, batch):
        return np.nan_to_num(np.asarray(batch["x"], dtype=float)) * 2 + 1


class Counts:
    """Takes whatever there is."""

    inputs = ()

    def predict(self, batch):
        return pa.array(np.full(batch.num_rows, batch.num_columns, dtype=np.float64))

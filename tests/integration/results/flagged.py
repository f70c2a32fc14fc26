"""A model that refuses some rows until a file says that it was mended: then it gives 2 n + 1 for all."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa


class Flagged:
    inputs: ClassVar = {"n": "int64"}

    def predict(self, batch):
        n = np.asarray(batch["n"])
        flag = Path(os.environ["TEST_FLAG"])
        if flag.exists():
            left = flag.read_text().split()
            bad = n[np.isin(n, [int(each) for each in left])]
        else:
            bad = n[n % 27 == 13]
        if len(bad):
            raise ValueError(f"row {bad[0]} is not wanted yet")
        return pa.array(2.0 * n + 1)

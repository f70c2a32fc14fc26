"""A model that echoes its input; options say how it behaves.

"refuse": a file; while it is there every row is refused. "gate": a file; a call waits until it is there.
"""

import os
import time

import numpy as np


class Steady:
    inputs = ("value",)

    def __init__(self, options):
        self.options = options

    def predict(self, batch):
        while "gate" in self.options and not os.path.exists(self.options["gate"]):
            time.sleep(0.01)
        if os.path.exists(self.options.get("refuse", "")):
            raise ValueError("not today")
        values = np.asarray(batch["value"])
        if (values < 0).any() and "negative" in self.options and not os.path.exists(self.options["negative"]):
            raise ValueError("a negative value")
        return values * 2

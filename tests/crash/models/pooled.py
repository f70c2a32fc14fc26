"""The crash suite's model, told by the job's own options how to behave: many jobs run side by side.

options: "log": a file to which each predict call appends its first row key; "nap": seconds that a big call takes;
"gate": a file; from the second call of a process on a call waits until it is there; "die": the key of a row at
which the process ends; "gpus": a file that says which GPUs the model saw when it was made.
"""

import os
import time

import numpy as np
from keymodel import REJECT_EVERY, mix


class Pooled:
    inputs = ("file_no", "row_no")

    def __init__(self, options):
        self.options = options
        self.calls = 0
        if "gpus" in options:
            _append(options["gpus"], os.environ.get("CUDA_VISIBLE_DEVICES", "all") + "\n")

    def predict(self, batch):
        file_no, row_no = np.asarray(batch["file_no"]), np.asarray(batch["row_no"])
        file_poison, row_poison = self.options.get("die", (-1, -1))
        if ((file_no == file_poison) & (row_no == row_poison)).any():
            os._exit(11)
        self._log(file_no, row_no)
        self._wait(len(file_no))
        y = mix(file_no, row_no)
        bad = np.flatnonzero(y.astype(np.int64) % REJECT_EVERY == 0)
        if bad.size:
            raise ValueError(f"the model refuses row {row_no[bad[0]]}")
        return y

    def _wait(self, rows):
        self.calls += 1
        # Not while a rejected row is looked for.
        time.sleep(float(self.options.get("nap", 0)) if rows > 100 else 0)
        gate = self.options.get("gate")
        while gate and self.calls > 1 and not os.path.exists(gate):
            time.sleep(0.01)

    def _log(self, file_no, row_no):
        path = self.options.get("log")
        if path and len(file_no):
            _append(path, f"{file_no[0]} {row_no[0]} {len(file_no)}\n")


def _append(path, line):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, line.encode())
    os.close(fd)

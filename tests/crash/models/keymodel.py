"""Models for the crash suite: y = mix(row key), told by environment variables how to behave.

CRASH_LOG: a file to which each predict call appends "pid file_no row_no rows".
CRASH_SLEEP: seconds to sleep in each call.
CRASH_SPIN: sleep this long in C with the interpreter lock held.
CRASH_GATE: a folder; whoever makes the model puts a file named like its process there and waits until it is gone.
"""

import ctypes
import os
import time

import numpy as np

REJECT_EVERY = 1009


def mix(file_no, row_no):
    with np.errstate(over="ignore"):
        z = (file_no.astype(np.uint64) << np.uint64(32)) + row_no.astype(np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64)


def log(file_no, row_no):
    path = os.environ.get("CRASH_LOG")
    if path and len(file_no):
        line = f"{os.getpid()} {file_no[0]} {row_no[0]} {len(file_no)}\n".encode()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(fd, line)
        os.close(fd)


def wait_at_gate():
    token = os.path.join(os.environ.get("CRASH_GATE", "/no/gate"), str(os.getpid()))
    try:
        open(token, "x").close()
    except FileNotFoundError:
        return
    while os.path.exists(token):
        time.sleep(0.005)


class KeyModel:
    """Takes the row key, gives its mix; refuses some rows."""

    inputs = ("file_no", "row_no")

    def __init__(self):
        wait_at_gate()

    def predict(self, batch):
        file_no = np.asarray(batch["file_no"])
        row_no = np.asarray(batch["row_no"])
        log(file_no, row_no)
        if spin := float(os.environ.get("CRASH_SPIN", "0")):
            ctypes.PyDLL(None).sleep(int(spin))
        y = mix(file_no, row_no)
        if len(y) > 1:
            time.sleep(float(os.environ.get("CRASH_SLEEP", "0")) * min(1.0, len(y) / 400))
        bad = np.flatnonzero(y.astype(np.int64) % REJECT_EVERY == 0)
        if bad.size:
            raise ValueError(f"the model refuses row {row_no[bad[0]]}")
        return y


class OtherModel(KeyModel):
    """The same source, another class: another model."""

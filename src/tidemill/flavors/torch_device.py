"""Where PyTorch computes."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tidemill.domain.errors import InvalidSpec, Unrecoverable

GPU_CALLS = 2
"""Calls that are on a GPU at a time, of all threads: one computes while the next is launched. More would only hold
their memory."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Device:
    """The CPU or a GPU. Thread-safe."""

    def __init__(self, torch: Any, asked: Any) -> None:
        """`asked` is the option `device`: auto, cpu, cuda or cuda:N.

        `auto` is the first GPU that PyTorch sees (CUDA_VISIBLE_DEVICES decides which those are), else the
        CPU. Raises InvalidSpec for another word, or for a GPU that is not there.
        """
        self._torch = torch
        self.place = _place(torch, asked)
        """The `torch.device`."""
        self.is_gpu = self.place.type == "cuda"
        self._calls = threading.BoundedSemaphore(GPU_CALLS) if self.is_gpu else nullcontext()
        # One thread for each call, since scorers share the cores.
        torch.set_num_threads(1)
        if self.is_gpu:
            _make_exact(torch)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people must be told: values of a GPU differ in last bits from those of a CPU."""
        return (f"computed on {self.place}: last bits differ from those of a CPU",) if self.is_gpu else ()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Nothing is kept for training. Raises MemoryError, ValueError with the last line of what PyTorch says (of
        TorchScript the others are a traceback of its own), and Unrecoverable where a GPU has failed for good."""
        with self._calls:
            try:
                with self._torch.inference_mode():
                    yield
            except RuntimeError as exc:
                said = str(exc)
                if isinstance(exc, self._torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(said):
                    raise MemoryError(last_line(exc)) from exc
                if self.is_gpu and not self._answers():
                    raise Unrecoverable(f"{self.place} failed: {_first_line(said)}") from exc
                raise ValueError(last_line(exc)) from exc

    def _answers(self) -> bool:
        """After an error of the GPU itself (an index out of range, say) all calls of the process fail."""
        try:
            self._torch.cuda.synchronize(self.place)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Give back what is kept of its memory."""
        if self.is_gpu:
            self._torch.cuda.empty_cache()


_OUT_OF_MEMORY = re.compile(r"allocate memory|out of memory")


def _place(torch: Any, asked: Any) -> Any:
    wanted = "auto" if asked is None else str(asked)
    if not _DEVICE.fullmatch(wanted):
        raise InvalidSpec(
            f"device {asked!r} is none that PyTorch is used with.", remedy="Say auto, cpu, cuda or cuda:1."
        )
    there = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if there else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= there:
        raise InvalidSpec(
            f"device {wanted} is not there: PyTorch {torch.__version__} sees {there} GPU(s).",
            remedy="Say auto or cpu, or install a PyTorch for CUDA and look at CUDA_VISIBLE_DEVICES.",
        )
    return device


def _make_exact(torch: Any) -> None:
    """Have a GPU give the same values each time, and those of 32-bit floats."""
    # Before its library of matrices starts: without, that adds in an order of its own each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What `use_deterministic_algorithms` does, without the compiler that it imports.
    torch.set_deterministic_debug_mode("warn")
    # Floats of 19 bits, which convolutions would else compute with.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def last_line(exc: Exception) -> str:
    """What an error of PyTorch says in the end."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[-1].removeprefix("RuntimeError: ").rstrip(".")


def _first_line(said: str) -> str:
    """What CUDA says, without its advice to programmers."""
    return next((line for line in said.splitlines() if "error" in line.lower()), said.strip())

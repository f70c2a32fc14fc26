"""Where PyTorch computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidemill.domain.errors import InvalidSpec

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def device_of(torch: Any, asked: Any) -> Any:
    """The `torch.device` of the option `device`: auto, cpu, cuda or cuda:N.

    `auto` is the first GPU that PyTorch sees (CUDA_VISIBLE_DEVICES decides which those are), else the
    CPU. Raises InvalidSpec for another word, or for a GPU that is not there.
    """
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


def prepare(torch: Any, device: Any) -> None:
    """One thread for each call, since scorers share the cores; and the same values each time."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)


def notes(device: Any) -> tuple[str, ...]:
    """What people must be told: values of a GPU differ in last bits from those of a CPU."""
    return () if device.type == "cpu" else (f"computed on {device}: last bits differ from those of a CPU",)


@contextmanager
def computing(torch: Any) -> Iterator[None]:
    """Nothing is kept for training. Raises MemoryError, and ValueError with the last line of what PyTorch says:
    of TorchScript the others are a traceback of its own."""
    try:
        with torch.inference_mode():
            yield
    except RuntimeError as exc:
        if isinstance(exc, torch.OutOfMemoryError) or "allocate memory" in str(exc):
            raise MemoryError(last_line(exc)) from exc
        raise ValueError(last_line(exc)) from exc


def last_line(exc: Exception) -> str:
    """What an error of PyTorch says in the end."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[-1].removeprefix("RuntimeError: ").rstrip(".")

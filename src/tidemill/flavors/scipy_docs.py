"""SciPy without reading its own docstrings. Runs in children.

Some hundred of its functions have their docstrings parsed, notes added and the text written anew when they are defined:
a fifth of what importing scikit-learn costs, for texts that nobody reads where rows are predicted.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from importlib import import_module
from typing import Any


def leave_docstrings() -> None:
    """Let functions of SciPy that are defined from now on keep their docstrings as they were written.

    Nothing happens where SciPy is not installed, or keeps what parses them elsewhere.
    """
    with suppress(ModuleNotFoundError):
        docscrape = import_module("scipy._lib._docscrape")
        if hasattr(docscrape, "FunctionDoc"):
            docscrape.FunctionDoc = _AsWritten  # type: ignore[attr-defined]


class _AsWritten(defaultdict[str, list[Any]]):
    """Stands for a parsed docstring: sections are empty, take what is added, and say nothing of it."""

    def __init__(self, function: Any) -> None:
        super().__init__(list)
        self._text = function.__doc__ or ""

    def __str__(self) -> str:
        """The text, below the line that SciPy takes off."""
        return f"\n{self._text}"

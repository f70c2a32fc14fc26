"""The kernel that sums up a forest of decision trees: by tables or by walking, whichever is faster."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.kernels.kept import Place
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.tables import WORD, TableKernel, Tables, breaks_of, compile_tables, ensemble_of, table_bytes
from tidemill.kernels.tree import Forest
from tidemill.kernels.walks import WalkKernel, Walks, compile_walks

MOST_TABLE_LEAVES = WORD
"""Of the largest tree. Tables cost a row as much again for each further word of leaves, walking for each doubling:
200 trees of 63 leaves take 1.1 and 3.5 microseconds a row, of 127 leaves 4.3 and 4.1."""
MOST_TABLE_BYTES = 128 << 20
"""Of masks by rank, from which tables are made."""

TreeKernel = TableKernel | WalkKernel
_FORMS = {"tables": Tables, "walks": Walks}


def kernel_of(forest: Callable[[], Forest], *, dtype: str, place: Place | None = None) -> TreeKernel:
    """The kernel of a forest whose sums are of `dtype` ("f8" or "f4"). Raises NotCompilable.

    The forest is only asked for if nothing of it is kept at `place`; there its compiled form is kept then.
    """
    kept = None if place is None else place.read()
    if kept is not None:
        return _kernel(_FORMS[kept.pop("form")](**kept))
    compiled = compiled_of(forest(), dtype=dtype)
    kernel = _kernel(compiled)
    if place is not None:
        form = next(name for name, kind in _FORMS.items() if isinstance(compiled, kind))
        place.write({"form": form, **vars(compiled)})
    return kernel


def _kernel(compiled: Tables | Walks) -> TreeKernel:
    return TableKernel(compiled) if isinstance(compiled, Tables) else WalkKernel(compiled)


def compiled_of(forest: Forest, *, dtype: str) -> Tables | Walks:
    """What scores a forest faster. Raises NotCompilable."""
    asks = any(tree.questions for tree in forest.trees)
    if not asks and forest.largest > MOST_TABLE_LEAVES:
        return compile_walks(forest, dtype=dtype)
    breaks = breaks_of(forest)
    size = table_bytes(forest, breaks)
    if size is not None and size <= MOST_TABLE_BYTES:
        return compile_tables(ensemble_of(forest, breaks), dtype=dtype)
    if asks:
        raise NotCompilable("it splits by categories, or takes zero for missing, and is too large for tables of that")
    return compile_walks(forest, dtype=dtype)

"""Which modules a saved scikit-learn model will import, as far as its bytes tell. Nothing in it is run."""

from __future__ import annotations

import re

LOOKED_AT_BYTES = 8 << 20
"""So much from the beginning of a file: names of classes stand where the first of them does."""
MOST_MODULES = 64

FRAMES = "tidemill.flavors.sklearn_frames"

_MODULE = re.compile(rb"sklearn(?:\.[a-z_][a-z_0-9]*)+")
_OF_FRAMES = re.compile(rb"feature_names_in_|_column_transformer|pandas")


def modules_named(data: bytes) -> tuple[str, ...]:
    """Modules of scikit-learn, and that for frames if the model was fitted to some or makes its input one.

    Of scikit-learn's alone: whoever wrote the file cannot have any other code imported.
    """
    found = dict.fromkeys(name.decode() for name in _MODULE.findall(data))
    named = [name for name in found if "test" not in name][:MOST_MODULES]
    return (*named, FRAMES) if _OF_FRAMES.search(data) else tuple(named)

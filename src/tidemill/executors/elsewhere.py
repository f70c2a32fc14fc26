"""Run a function of this very package in another interpreter: `PYTHON -P elsewhere.py module:function ARGUMENT`.

Only `tidemill` itself is made importable there, by its place: nothing else that is installed beside it
can leak into that interpreter, and no copy of it can be an older one. Executed by its path, never imported.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def lend(package: Path) -> None:
    """Make the package in this folder importable by its name."""
    spec = spec_from_file_location(package.name, package / "__init__.py", submodule_search_locations=[str(package)])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[package.name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    lend(Path(__file__).resolve().parents[1])
    name, _, function = sys.argv[1].partition(":")
    getattr(import_module(name), function)(sys.argv[2])

"""Children define SciPy's functions without parsing their docstrings: the functions are the same."""

from __future__ import annotations

import json
import subprocess
import sys

TELL = """
import importlib, inspect, json, re, warnings
warnings.simplefilter("ignore")
import scipy
told = {}
for name in ("special", "fft", "linalg", "optimize", "sparse", "stats"):
    module = importlib.import_module("scipy." + name)
    for each in sorted(module.__all__):
        found = getattr(module, each)
        if inspect.isfunction(found):
            doc = inspect.getdoc(found) or ""
            parameters = re.sub(" at 0x[0-9a-f]+", "", str(inspect.signature(found)))
            told[f"{name}.{each}"] = [parameters, doc.strip().partition("\\n")[0].strip()]
from scipy._lib import _docscrape
print(json.dumps([told, _docscrape.FunctionDoc.__name__]))
"""
LEAVE = "from tidemill.flavors.scipy_docs import leave_docstrings\nleave_docstrings()\n"


def told(script: str) -> tuple[dict[str, list[str]], str]:
    found, parser = json.loads(subprocess.check_output([sys.executable, "-c", script]))
    return found, parser


def test_functions_are_the_same_and_so_is_what_they_say_first() -> None:
    (expected, parser), (found, stand_in) = told(TELL), told(LEAVE + TELL)
    assert (parser, stand_in) == ("FunctionDoc", "_AsWritten")
    assert len(expected) > 400
    assert found == expected

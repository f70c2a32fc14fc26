"""Imports Hugging Face transformers ahead of time, for a zygote, and keeps it off the network.

A missing library is reported when a model is loaded. Importing starts no thread as long as
OMP_NUM_THREADS is 1, which holds in every child.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module

# Read when the libraries are imported: a folder is all that is ever loaded from.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Its threads do not survive a fork, and scorers share the cores.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

for _name in (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
):
    with suppress(ModuleNotFoundError):
        import_module(_name)

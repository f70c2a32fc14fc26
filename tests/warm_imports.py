"""What commands and their children import, imported; and what they read while they import it."""

from __future__ import annotations

import gc
import os
from importlib import import_module

from tidemill.executors.children import LAZY_ARENAS, ONE_THREAD

MODULES = ("tidemill.cli.start", "tidemill.bootstrap.local", "tidemill.stores.sql.store", "tidemill.executors.zygote")

os.environ |= {**LAZY_ARENAS, **ONE_THREAD, "COLUMNS": "200"}
gc.disable()
main = import_module("tidemill.cli.main")
preloads = import_module("tidemill.bootstrap.preloads")
for place in main.COMMANDS.values():
    import_module(place.partition(":")[0])
for name in (*MODULES, *preloads.JOB_PRELOAD):
    import_module(name)
# Forks then share these pages instead of copying them at their first garbage collection.
gc.freeze()
gc.enable()

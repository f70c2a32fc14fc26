"""Imported by the process that children are forked from, for what each of them would otherwise do again.

Runs in children.
"""

from __future__ import annotations

from tidemill import registry
from tidemill.bootstrap.arrow_pandas import spare_pandas

for _registry in (registry.sources, registry.encoders, registry.flavors):
    _registry.names()
spare_pandas()

"""Imported by the process that children are forked from, for what each of them would otherwise look up again."""

from __future__ import annotations

from tidemill import registry

for _registry in (registry.sources, registry.encoders, registry.flavors):
    _registry.names()

"""Imports skops ahead of time, for a zygote; a missing library is reported when a model is loaded."""

from __future__ import annotations

from contextlib import suppress

from tidemill.flavors.skops_trust import skops_io

with suppress(ModuleNotFoundError):
    skops_io()

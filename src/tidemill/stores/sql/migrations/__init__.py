"""The schema, step by step: the n-th module brings a database to version n. Published steps never change."""

VERSIONS = ("m0001_initial",)
"""Modules of this package in the order in which they are applied. Each has `STATEMENTS`: dialect name -> SQL."""

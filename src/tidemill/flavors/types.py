"""Arrow types by the names that `str(type)` gives them."""

from __future__ import annotations

import re

import pyarrow as pa

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=(.+))?\]")
_DECIMAL = re.compile(r"decimal128\((\d+), ?(-?\d+)\)")
_LIST = re.compile(r"list<(?:\w+: )?(.+)>")
_FIXED_SIZE_LIST = re.compile(r"fixed_size_list<(?:\w+: )?(.+)>\[(\d+)\]")


def type_of(name: str) -> pa.DataType:
    """The type with this name. Raises ValueError for an unknown one."""
    if found := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(found[1]), int(found[2]))
    if found := _LIST.fullmatch(name):
        return pa.list_(type_of(found[1]))
    if found := _FIXED_SIZE_LIST.fullmatch(name):
        return pa.list_(type_of(found[1]), int(found[2]))
    return pa.type_for_alias(name)

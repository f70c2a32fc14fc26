"""Errors: one code each, a message each, drawn in the tree, and they survive a process border."""

from __future__ import annotations

import pickle
from collections import Counter
from textwrap import dedent

import pytest

from tidemill.domain import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TidemillError)]


def test_codes_are_unique_and_complete() -> None:
    assert [code for code, times in Counter(kind.code for kind in KINDS).items() if times > 1] == []
    assert {kind.code: kind for kind in KINDS} == errors.BY_CODE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_class_has_its_own_docstring_and_code(kind: type[errors.TidemillError]) -> None:
    assert (kind.__dict__.get("__doc__") or "").strip().endswith(".")
    assert "code" in vars(kind)
    assert kind.code == kind.code.lower()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_class_stands_in_the_drawn_tree_under_its_parent(kind: type[errors.TidemillError]) -> None:
    _, _, drawing = (errors.__doc__ or "").partition("\n\n")
    parents: list[str] = []
    above: dict[str, str | None] = {}
    for line in dedent(drawing).strip().splitlines():
        body = line.lstrip("│├└─ ")
        depth = (len(line) - len(body)) // 4
        parents[depth:] = [body.split()[0]]
        above[parents[-1]] = parents[depth - 1] if depth else None
    parent = kind.__mro__[1].__name__
    assert above.get(kind.__name__, "not drawn") == (None if kind is errors.TidemillError else parent)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_error_survives_pickle_and_json(kind: type[errors.TidemillError]) -> None:
    error = kind("data.csv, row 3: no number.", remedy="Mend it.")
    for copy in (pickle.loads(pickle.dumps(error)), errors.from_json(error.to_json())):
        assert type(copy) is kind
        assert (copy.message, copy.remedy) == ("data.csv, row 3: no number.", "Mend it.")

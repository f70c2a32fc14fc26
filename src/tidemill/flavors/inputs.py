"""Which columns a model is fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.domain.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class Names:
    """Of a model's input columns, in its order."""

    names: tuple[str, ...]
    positional: int = 0
    """How many there are, if nobody knows what they are called and the names are made up (`ModelInfo.positional`)."""


def column_names(known: Sequence[str], wanted: Sequence[str], count: int, made_up: Sequence[str] = ()) -> Names:
    """The names of the `count` input columns, in the model's order.

    `known` are the names that the model remembers (empty if it does not), `wanted` those that the user
    gave: they stand for the model's columns by position, also where it calls them something else. `made_up` are
    those that the library invented for a model trained without.
    Raises InvalidSpec when names and count, or the two, contradict each other.
    """
    if not wanted:
        if known or not count:
            return Names(names=tuple(known))
        return Names(names=tuple(made_up or (f"column_{n}" for n in range(count))), positional=count)
    if len(wanted) != count:
        raise InvalidSpec(
            f"features names {len(wanted)} column(s) but the model takes {count}.",
            remedy=f"The model's own names are: {_some(known)}." if known else "Name every input column once.",
        )
    if list(wanted) != list(known) and set(wanted) == set(known):
        raise InvalidSpec(
            "features has the model's own names in another order.",
            remedy="Leave features out: the model knows its order.",
        )
    return Names(names=tuple(wanted))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

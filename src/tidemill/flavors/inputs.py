"""Which columns a model is fed."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.domain.errors import InvalidSpec, SchemaMismatch


def column_names(known: Sequence[str], wanted: Sequence[str], count: int) -> tuple[str, ...]:
    """The names of the `count` input columns, in the model's order.

    `known` are the names that the model remembers (empty if it does not), `wanted` those that the user
    gave: they stand for the model's columns by position, also where it calls them something else.
    Raises SchemaMismatch when nobody knows, InvalidSpec when the two contradict each other.
    """
    if not wanted:
        if not known and count:
            raise SchemaMismatch(
                f"The model does not know the names of its {count} input column(s).",
                remedy="Name them in the order it was trained with: --features a,b,c.",
            )
        return tuple(known)
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
    return tuple(wanted)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

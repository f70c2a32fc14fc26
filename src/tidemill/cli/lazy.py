"""A group of commands whose modules are imported when they are asked for.

`tidemill jobs list` need not wait for what `tidemill serve` imports.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_group
from typer.models import CommandInfo

_LIBRARY_WORDS = "Value error, "


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name; `table` says where each is: "module:function" or "module:app"."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._table = table
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(name, _imported(self._table[name]))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._table or name in self._made

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._table
        yield from (name for name in self._made if name not in self._table)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class LazyGroup(TyperGroup):
    """Subclasses name the table."""

    table: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LazyCommands(self.table)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table; imports nothing."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """A refused option is told of without the words of the library that checked it."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            exc.message = exc.message.removeprefix(_LIBRARY_WORDS)
            raise


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    with _no_plugins_of_pydantic():
        found = getattr(import_module(module), attribute)
    gc.freeze()
    return found


@contextmanager
def _no_plugins_of_pydantic() -> Iterator[None]:
    """They would watch what commands say; to find them, every installed distribution is looked through."""
    name = "PYDANTIC_DISABLE_PLUGINS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "__all__"
    try:
        yield
    finally:
        del os.environ[name]


def _command(name: str, target: Any) -> Any:
    if isinstance(target, typer.Typer):
        group = get_group(target)
        group.name = name
        return group
    return get_command_from_info(
        CommandInfo(name=name, callback=target), pretty_exceptions_short=True, rich_markup_mode="rich"
    )

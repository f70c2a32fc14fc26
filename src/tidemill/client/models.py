"""Registered models of a service."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidemill.client.connection import Call, Connection
from tidemill.client.inputs import model_there
from tidemill.client.uploads import Moved, Sending
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.model import split_reference
from tidemill.wire.api import (
    AddModelVersion,
    EnvironmentSpec,
    ModelCheck,
    ModelLimits,
    ModelPage,
    ModelVersionOut,
    MoveAlias,
)

SLOW_SECONDS = 900.0
"""How long to wait for an answer after which a model was fetched or loaded, or its environment made."""


class Models:
    """`client.models`: add, list, look at, alias, trust and check."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        name: str,
        source: str | os.PathLike[str],
        *,
        authorization: str | None = None,
        aliases: Sequence[str] = (),
        flavor: str | None = None,
        environment: EnvironmentSpec | None = None,
        description: str = "",
        moved: Moved | None = None,
    ) -> ModelVersionOut:
        """A new version of `name`. A file of this machine is sent; "server:/path" and URLs the service reads itself.

        `authorization` names the secret ("secret:NAME") that it sends to a URL's host, if its operator allows that.

        Raises InvalidSpec for what cannot be sent, and the errors of models that the service cannot use.
        """
        text = os.fspath(source)
        if Path(text).expanduser().exists():
            if environment is not None:
                raise InvalidSpec(
                    "A model that is sent cannot name an environment.",
                    remedy="Put the file where the service can read it and add it by server:/path or URL.",
                )
            return self._send(name, Path(text).expanduser(), aliases, flavor, description, moved)
        request = AddModelVersion(
            source=model_there(text),
            authorization=authorization,
            flavor=flavor,
            aliases=list(aliases),
            environment=environment,
            description=description,
        )
        call = Call(method="POST", path=_versions(name), body=request, read_seconds=SLOW_SECONDS)
        return self._connection.ask(ModelVersionOut, call)

    def _send(
        self,
        name: str,
        path: Path,
        aliases: Sequence[str],
        flavor: str | None,
        description: str,
        moved: Moved | None,
    ) -> ModelVersionOut:
        if path.is_dir():
            raise InvalidSpec(
                f"The model {path} is a folder, which cannot be sent.",
                remedy="Put it where the service can read it and add it by server:/path or URL.",
            )
        query: dict[str, Any] = {
            "filename": path.name,
            "flavor": flavor,
            "alias": list(aliases),
            "description": description or None,
        }
        call = Call(method="PUT", path=_versions(name), query=query, read_seconds=SLOW_SECONDS)
        return Sending(path, moved).put(self._connection, ModelVersionOut, call)

    def list(self) -> Iterator[ModelVersionOut]:
        """The newest version of each name, by name; pages are fetched as they are needed."""
        yield from self._pages("/models", "after")

    def versions(self, name: str) -> Iterator[ModelVersionOut]:
        """All versions of a name, newest first."""
        yield from self._pages(f"/models/{quote(name, safe='')}", "before")

    def _pages(self, path: str, cursor: str) -> Iterator[ModelVersionOut]:
        following: str | None = None
        while True:
            page = self._connection.ask(ModelPage, Call(method="GET", path=path, query={cursor: following}))
            yield from page.items
            following = page.next
            if following is None:
                return

    def get(self, reference: str) -> ModelVersionOut:
        """Of "churn@champion", "churn@3" or "churn" (the newest). Raises NotFound."""
        return self._connection.ask(ModelVersionOut, Call(method="GET", path=_version(reference)))

    def alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version; None forgets it. Jobs that were submitted keep theirs."""
        path = f"/models/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"
        if version is None:
            self._connection.tell(Call(method="DELETE", path=path))
        else:
            self._connection.tell(Call(method="PUT", path=path, body=MoveAlias(version=version)))

    def trust(self, reference: str) -> ModelVersionOut:
        """Allow its digest to run code. Needs an admin's key."""
        call = Call(method="POST", path=f"{_version(reference)}/trust", read_seconds=SLOW_SECONDS)
        return self._connection.ask(ModelVersionOut, call)

    def check(self, reference: str) -> ModelCheck:
        """Whether its bytes are those that were registered, and whether it loads."""
        call = Call(method="POST", path=f"{_version(reference)}/check", read_seconds=SLOW_SECONDS)
        return self._connection.ask(ModelCheck, call)

    def limit(self, name: str, max_running: int | None) -> None:
        """How many jobs of this model may run at once; None: as many as fit."""
        path = f"/models/{quote(name, safe='')}/limits"
        self._connection.tell(Call(method="PUT", path=path, body=ModelLimits(max_running=max_running)))


def _versions(name: str) -> str:
    return f"/models/{quote(name, safe='')}/versions"


def _version(reference: str) -> str:
    name, which = split_reference(reference) or (reference, "latest")
    return f"{_versions(name)}/{quote(which, safe='')}"

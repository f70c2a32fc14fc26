"""Versions of models, and aliases that move."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, delete, exists, func, insert, select, update

from tidemill.domain.errors import NotFound
from tidemill.domain.model import Environment, ModelVersion
from tidemill.ports.store import ModelStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment
from tidemill.stores.sql.tables import aliases, model_limits, model_versions, trusted

LATEST = "latest"
_PATHS_PER_PAGE = 1000
_MOST_NAMES = 1000
"""Among so many names and aliases a similar one is looked for."""


class SqlModels(ModelStore):
    """Numbers are given in turns, so they have no gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """One with the same digest in another environment is another version."""
        with self._database.take_turn() as connection:
            newest = self._newest(connection, version.tenant, version.name)
            if newest is not None and (newest.digest, newest.environment) == (version.digest, version.environment):
                return newest
            number = 1 if newest is None else newest.version + 1
            connection.execute(insert(model_versions).values(**_columns_of(version), version=number))
            return self._one(connection, version.tenant, version.name, number)

    def get(self, tenant: str, name: str, which: str) -> ModelVersion:
        with self._database.read() as connection:
            if which == LATEST:
                newest = self._newest(connection, tenant, name)
                if newest is None:
                    raise self._unknown_name(connection, tenant, name)
                return newest
            if which.isascii() and which.isdigit() and len(which) <= 18:
                return self._one(connection, tenant, name, int(which))
            return self._one(connection, tenant, name, self._pointed_at(connection, tenant, name, which))

    def list_names(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[ModelVersion]:
        newest = (
            select(model_versions.c.name, func.max(model_versions.c.version).label("version"))
            .where(model_versions.c.tenant == tenant)
            .group_by(model_versions.c.name)
            .order_by(model_versions.c.name)
            .limit(limit)
        )
        if after is not None:
            newest = newest.where(model_versions.c.name > after)
        names = newest.subquery()
        here = and_(model_versions.c.name == names.c.name, model_versions.c.version == names.c.version)
        page = _versions().join(names, here).where(model_versions.c.tenant == tenant).order_by(model_versions.c.name)
        with self._database.read() as connection:
            return _complete(connection, connection.execute(page).mappings().all())

    def list_versions(
        self, tenant: str, name: str, *, limit: int = 100, before: int | None = None
    ) -> list[ModelVersion]:
        page = _versions().where(_is(tenant, name)).order_by(model_versions.c.version.desc()).limit(limit)
        if before is not None:
            page = page.where(model_versions.c.version < before)
        with self._database.read() as connection:
            found = _complete(connection, connection.execute(page).mappings().all())
            if not found:
                self._check_name(connection, tenant, name)
            return found

    def move_alias(self, tenant: str, name: str, alias: str, version: int | None) -> int | None:
        here = and_(aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.alias == alias)
        with self._database.take_turn() as connection:
            if version is None:
                before = self._pointed_at(connection, tenant, name, alias)
                connection.execute(delete(aliases).where(here))
                return before
            self._one(connection, tenant, name, version)
            old = connection.execute(select(aliases.c.version).where(here)).scalar()
            if old is None:
                row = {"tenant": tenant, "name": name, "alias": alias, "version": version}
                connection.execute(insert(aliases).values(**row))
            else:
                connection.execute(update(aliases).where(here).values(version=version))
            return old

    def set_signature(self, tenant: str, name: str, version: int, signature: dict[str, Any]) -> None:
        """Raises NotFound."""
        here = and_(_is(tenant, name), model_versions.c.version == version)
        known = update(model_versions).where(here).values(signature=signature).returning(model_versions.c.version)
        with self._database.write() as connection:
            if connection.execute(known).first() is None:
                raise self._unknown_version(connection, tenant, name, str(version))

    def limit_running(self, tenant: str, name: str, most: int | None) -> None:
        here = and_(model_limits.c.tenant == tenant, model_limits.c.name == name)
        with self._database.take_turn() as connection:
            self._check_name(connection, tenant, name)
            connection.execute(delete(model_limits).where(here))
            if most is not None:
                connection.execute(insert(model_limits).values(tenant=tenant, name=name, max_running=most))

    def running_limit(self, tenant: str, name: str) -> int | None:
        limit = select(model_limits.c.max_running).where(model_limits.c.tenant == tenant, model_limits.c.name == name)
        with self._database.read() as connection:
            return connection.execute(limit).scalar()

    def paths_in_use(self) -> Iterator[str]:
        after = ""
        while True:
            paths = (
                select(model_versions.c.path)
                .distinct()
                .where(model_versions.c.path > after)
                .order_by(model_versions.c.path)
                .limit(_PATHS_PER_PAGE)
            )
            with self._database.read() as connection:
                found = connection.execute(paths).scalars().all()
            yield from found
            if len(found) < _PATHS_PER_PAGE:
                return
            after = found[-1]

    def requirements_in_use(self) -> set[str]:
        environments = select(model_versions.c.environment).where(model_versions.c.environment.is_not(None))
        with self._database.read() as connection:
            found = connection.execute(environments).scalars()
            return {each["requirements"] for each in found if each and each["requirements"] is not None}

    def _newest(self, connection: Connection, tenant: str, name: str) -> ModelVersion | None:
        newest = _versions().where(_is(tenant, name)).order_by(model_versions.c.version.desc()).limit(1)
        found = _complete(connection, connection.execute(newest).mappings().all())
        return found[0] if found else None

    def _one(self, connection: Connection, tenant: str, name: str, version: int) -> ModelVersion:
        one = _versions().where(_is(tenant, name), model_versions.c.version == version)
        found = _complete(connection, connection.execute(one).mappings().all())
        if not found:
            raise self._unknown_version(connection, tenant, name, str(version))
        return found[0]

    def _pointed_at(self, connection: Connection, tenant: str, name: str, alias: str) -> int:
        here = and_(aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.alias == alias)
        version: int | None = connection.execute(select(aliases.c.version).where(here)).scalar()
        if version is None:
            raise self._unknown_version(connection, tenant, name, alias)
        return version

    def _check_name(self, connection: Connection, tenant: str, name: str) -> None:
        if connection.execute(select(model_versions.c.version).where(_is(tenant, name)).limit(1)).first() is None:
            raise self._unknown_name(connection, tenant, name)

    def _unknown_name(self, connection: Connection, tenant: str, name: str) -> NotFound:
        known = select(model_versions.c.name).distinct().where(model_versions.c.tenant == tenant)
        names = connection.execute(known.order_by(model_versions.c.name).limit(_MOST_NAMES)).scalars().all()
        return NotFound(
            f"There is no model {name!r}.", remedy=_did_you_mean(name, names, "`tidemill models list` shows them.")
        )

    def _unknown_version(self, connection: Connection, tenant: str, name: str, which: str) -> NotFound:
        versions = select(model_versions.c.version).where(_is(tenant, name))
        newest: int | None = connection.execute(versions.order_by(model_versions.c.version.desc()).limit(1)).scalar()
        if newest is None:
            return self._unknown_name(connection, tenant, name)
        pointing = select(aliases.c.alias).where(aliases.c.tenant == tenant, aliases.c.name == name)
        there = connection.execute(pointing.order_by(aliases.c.alias).limit(_MOST_NAMES)).scalars().all()
        known = ", ".join(["latest", *there[:5]])
        return NotFound(
            f"The model {name!r} has no version or alias {which!r}.",
            remedy=_did_you_mean(which, there, f"It has versions 1 to {newest}, and {known}."),
        )


def _is(tenant: str, name: str) -> ColumnElement[bool]:
    return and_(model_versions.c.tenant == tenant, model_versions.c.name == name)


def _versions() -> Select[Any]:
    is_trusted = exists().where(trusted.c.digest == model_versions.c.digest)
    return select(model_versions, is_trusted.label("trusted"))


def _complete(connection: Connection, rows: Sequence[RowMapping]) -> list[ModelVersion]:
    """Versions of one tenant, with the aliases that point at them."""
    if not rows:
        return []
    pointing = select(aliases.c.name, aliases.c.alias, aliases.c.version).where(
        aliases.c.tenant == rows[0]["tenant"], aliases.c.name.in_({row["name"] for row in rows})
    )
    found: dict[tuple[str, int], list[str]] = {}
    for name, alias, version in connection.execute(pointing.order_by(aliases.c.alias)):
        found.setdefault((name, version), []).append(alias)
    return [_model_version(row, found.get((row["name"], row["version"]), [])) for row in rows]


def _columns_of(version: ModelVersion) -> dict[str, Any]:
    return {
        "tenant": version.tenant,
        "name": version.name,
        "digest": version.digest,
        "flavor": version.flavor,
        "carries_code": version.carries_code,
        "preload": list(version.preload),
        "path": version.path,
        "size_bytes": version.size_bytes,
        "origin": version.origin,
        "signature": version.signature,
        "environment": None if version.environment is None else version.environment.to_json(),
        "description": version.description,
        "created_at_ms": milliseconds(version.created_at),
        "created_by": version.created_by,
    }


def _model_version(row: RowMapping, pointing: Sequence[str]) -> ModelVersion:
    return ModelVersion(
        tenant=row["tenant"],
        name=row["name"],
        version=row["version"],
        digest=row["digest"],
        flavor=row["flavor"],
        carries_code=row["carries_code"],
        preload=tuple(row["preload"]),
        path=row["path"],
        size_bytes=row["size_bytes"],
        origin=row["origin"],
        signature=row["signature"],
        environment=None if row["environment"] is None else Environment(**row["environment"]),
        description=row["description"],
        created_at=moment(row["created_at_ms"]),
        created_by=row["created_by"],
        aliases=tuple(pointing),
        trusted=bool(row["trusted"]),
    )


def _did_you_mean(given: str, known: Sequence[str], otherwise: str) -> str:
    similar = difflib.get_close_matches(given, known, n=1)
    return f"Did you mean {similar[0]!r}?" if similar else otherwise

"""The registry of models: immutable versions by digest, aliases that move, and trust that a person gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.access import Principal
from tidemill.domain.errors import (
    ChildDied,
    InvalidSpec,
    JobFailed,
    ModelUnusable,
    NotFound,
    NotTrusted,
    TidemillError,
)
from tidemill.domain.model import Environment, ModelVersion, Pin, check_name, split_reference
from tidemill.engine import environment_homes
from tidemill.service import audit, modelfiles
from tidemill.service.context import Context
from tidemill.wire.api import ModelCheck, ModelPage, ModelVersionOut

LATEST = "latest"
LOAD_SECONDS = 600.0
MAX_DIGITS = 9
"""Of a version's number."""
UNFINISHED = timedelta(hours=1)

_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def list_names(context: Context, who: Principal, *, limit: int = 100, after: str | None = None) -> ModelPage:
    """The newest version of each name, by name; `next` is the `after` of the next page."""
    found = context.store.models.list_names(who.tenant, limit=limit + 1, after=after)
    following = found[limit - 1].name if len(found) > limit else None
    return ModelPage(items=[describe(version) for version in found[:limit]], next=following)


def list_versions(
    context: Context, who: Principal, name: str, *, limit: int = 100, before: int | None = None
) -> ModelPage:
    """Versions of a name, newest first; `next` is the `before` of the next page. Raises NotFound."""
    found = context.store.models.list_versions(who.tenant, name, limit=limit + 1, before=before)
    following = str(found[limit - 1].version) if len(found) > limit else None
    return ModelPage(items=[describe(version) for version in found[:limit]], next=following)


def get(context: Context, who: Principal, reference: str) -> ModelVersion:
    """The version that "churn@champion", "churn@3", "churn@latest" or just "churn" (the newest) names now."""
    name, which = split_reference(reference) or (check_name(reference, "a registered model"), LATEST)
    if which.isdigit() and len(which) > MAX_DIGITS:
        raise NotFound(f"{name} has no version {which}.", remedy=f"See which it has: tidemill models list {name}")
    return context.store.models.get(who.tenant, name, which)


def resolve(context: Context, who: Principal, reference: str) -> Pin:
    """What a job that asks for this reference scores with, whatever becomes of the alias.

    Raises NotFound, and NotTrusted if its format carries code that nobody allowed to run.
    """
    version = get(context, who, reference)
    if not may_load(context, version.carries_code, version.digest):
        raise NotTrusted(
            f"{version.reference} is a {version.flavor} model (sha256 {version.digest[:12]}): loading it runs code"
            " that it carries.",
            remedy=f"If its origin can be trusted, an administrator says: tidemill models trust {version.reference}",
        )
    return version.pin(reference)


def move_alias(context: Context, who: Principal, name: str, alias: str, version: int) -> ModelVersion:
    """Point an alias at a version; jobs that were submitted keep theirs. Raises NotFound, InvalidSpec."""
    check_alias(alias)
    with context.store.transaction():
        move(context, who, name, alias, version)
        return context.store.models.get(who.tenant, name, str(version))


def remove_alias(context: Context, who: Principal, name: str, alias: str) -> None:
    """Forget an alias. Raises NotFound, InvalidSpec."""
    check_alias(alias)
    with context.store.transaction():
        context.store.models.get(who.tenant, name, alias)
        move(context, who, name, alias, None)


def limit_running(context: Context, who: Principal, name: str, most: int | None) -> None:
    """How many jobs of this model may run at once; None: as many as fit. Raises NotFound."""
    context.store.models.limit_running(who.tenant, name, most)


def trust(context: Context, who: Principal, reference: str) -> ModelVersion:
    """Allow the digest of this version to run code, then load it to learn its signature.

    Raises NotFound, or the error of a model that turns out not to load; it is trusted all the same.
    """
    version = get(context, who, reference)
    with context.store.transaction():
        # Before any of its code runs it is written down who let it.
        context.store.trust.trust(version.digest, version.reference, who.name)
        audit.record(context, who, "model.trust", version.reference, digest=version.digest)
    if version.signature is None:
        python = interpreter(context, version.environment)
        with named(version.path, version.reference):
            signature = inspect(context, _facts(version), python)
        context.store.models.set_signature(version.tenant, version.name, version.version, signature)
    return get(context, who, version.reference)


def check(context: Context, who: Principal, reference: str) -> ModelCheck:
    """Whether a version's bytes are those that were registered, and whether it loads. Raises NotFound."""
    version = get(context, who, reference)
    python = interpreter(context, version.environment)
    told: dict[str, Any] = {"reference": version.reference, "digest": version.digest}
    problem = _damage(context, version, python)
    if problem is not None:
        return ModelCheck(**told, intact=False, loads=None, problem=problem)
    if not may_load(context, version.carries_code, version.digest):
        why = f"It was not loaded: it carries code and is not trusted; see: tidemill models trust {version.reference}"
        return ModelCheck(**told, intact=True, loads=None, problem=why)
    try:
        with named(version.path, version.reference):
            inspect(context, _facts(version), python)
    except TidemillError as exc:
        return ModelCheck(**told, intact=True, loads=False, problem=str(exc))
    return ModelCheck(**told, intact=True, loads=True, problem=None)


def sweep_unfinished(context: Context, now: datetime) -> int:
    """Remove what was left by additions that never ended; how many folders that were."""
    store, before = context.store, (now - UNFINISHED).timestamp()
    return modelfiles.sweep(root(context), store.models.paths_in_use, store.jobs.model_digests_in_use, before)


def sweep_environments(context: Context, before: datetime, limit: int) -> int:
    """Remove environments that no version asks for and that were not used since; how many, at most `limit`."""
    folder = Path(os.path.abspath(context.places.environments))
    return environment_homes.sweep(folder, context.store.models.requirements_in_use(), before.timestamp(), limit)


def describe(version: ModelVersion) -> ModelVersionOut:
    """A version as the doors show it: credentials in its requirements are left out."""
    environment = version.environment.to_json() if version.environment else None
    if environment is not None and environment["requirements"]:
        environment["requirements"] = _CREDENTIALS.sub("://***@", environment["requirements"])
    return ModelVersionOut(
        name=version.name,
        version=version.version,
        reference=version.reference,
        digest=version.digest,
        flavor=version.flavor,
        size_bytes=version.size_bytes,
        carries_code=version.carries_code,
        trusted=version.trusted,
        aliases=list(version.aliases),
        origin=version.origin,
        signature=version.signature,
        environment=environment,
        description=version.description,
        created_at=version.created_at,
        created_by=version.created_by,
    )


def check_alias(alias: str) -> str:
    """The alias, if it can be one. Raises InvalidSpec."""
    if alias == LATEST or alias[:1].isdigit():
        raise InvalidSpec(
            f"{alias!r} cannot be an alias: it reads like a version.", remedy="Choose a word such as champion."
        )
    return check_name(alias, "an alias")


def root(context: Context) -> Path:
    """The folder of the registry's files."""
    return Path(os.path.abspath(context.places.models))


def move(context: Context, who: Principal, name: str, alias: str, version: int | None) -> None:
    """Point an alias at a version, or take it away, and write down who did."""
    before = context.store.models.move_alias(who.tenant, name, alias, version)
    if before != version:
        old, new = (f"{name}@{number}" if number is not None else "-" for number in (before, version))
        audit.record(context, who, "alias.move", f"{name}@{alias}", old=old, new=new)


def interpreter(context: Context, environment: Environment | None) -> str | None:
    """The interpreter of a model's own environment, which is made if it is not there yet."""
    if environment is None:
        return None
    request = {**environment.to_json(), "folder": os.path.abspath(context.places.environments)}
    return str(context.executor.call(context.entries.environment, request)["python"])


def identify(context: Context, path: str, flavor: str | None, python: str | None) -> dict[str, Any]:
    """What `engine.models.identify` says, asked in the interpreter `python`."""
    return context.executor.call(context.entries.identify, {"path": path, "flavor": flavor}, python=python)


def stored(context: Context, facts: Mapping[str, Any]) -> Path | None:
    """Where the bytes of these facts lie already; None if they do not, or no longer are what they were."""
    path = modelfiles.stored(root(context), facts["digest"])
    if path is None:
        return None
    try:
        found = identify(context, str(path), facts["flavor"], None)
    except TidemillError:
        return None
    return path if found["digest"] == facts["digest"] else None


def inspect(context: Context, facts: Mapping[str, Any], python: str | None) -> dict[str, Any]:
    """Load the model of these facts in a child; its signature as JSON."""
    answer = context.executor.call(
        context.tasks.inspect,
        {"model": dict(facts)},
        preload=(*context.compute.preload, *facts["preload"]),
        timeout_seconds=LOAD_SECONDS,
        memory_bytes=context.compute.memory_bytes,
        python=python,
    )
    signature: dict[str, Any] = answer["signature"]
    return signature


def _facts(version: ModelVersion) -> dict[str, Any]:
    return {
        "path": version.path,
        "digest": version.digest,
        "flavor": version.flavor,
        "preload": version.preload,
        "trusted": True,
    }


def may_load(context: Context, carries_code: bool, digest: str) -> bool:
    """Whether loading these bytes runs no code, or code that a person trusts."""
    return not carries_code or context.store.trust.is_trusted(digest)


def _damage(context: Context, version: ModelVersion, python: str | None) -> str | None:
    try:
        found = identify(context, version.path, version.flavor, python)
    except NotFound:
        return "The bytes that were registered are gone."
    except TidemillError as exc:
        return str(exc)
    if found["digest"] != version.digest:
        return f"The stored bytes have the sha256 {found['digest']}: they changed since they were registered."
    return None


@contextmanager
def named(path: str, shown: str) -> Iterator[None]:
    """Errors speak of what the user knows, not of where the bytes lie; a child's death is the model's."""
    try:
        yield
    except ChildDied as exc:
        raise ModelUnusable(
            f"{shown} cannot be loaded. {exc.message.replace(path, shown)}",
            remedy=exc.remedy or "Save the model again; it may be damaged.",
        ) from exc
    except TidemillError as exc:
        kind = ModelUnusable if type(exc) is JobFailed else type(exc)
        raise kind(exc.message.replace(path, shown), remedy=exc.remedy) from exc

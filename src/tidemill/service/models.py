"""The registry of models: immutable versions by digest, aliases that move, and trust that a person gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import (
    ChildDied,
    InvalidSpec,
    JobFailed,
    ModelUnusable,
    NotAllowed,
    NotFound,
    NotTrusted,
    TidemillError,
)
from tidemill.domain.model import Environment, ModelVersion, Pin, check_name, split_reference
from tidemill.engine import environment_homes
from tidemill.service import audit, fetching, modelfiles
from tidemill.service.context import Context
from tidemill.service.modelfiles import Arrival
from tidemill.wire.api import ModelCheck, ModelPage, ModelVersionOut

LATEST = "latest"
SENT = "sent"
LOAD_SECONDS = 600.0
MAX_DESCRIPTION = 2000
MAX_DIGITS = 9
"""Of a version's number."""
UNFINISHED = timedelta(hours=1)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The words of an addition, checked."""

    name: str
    flavor: str | None
    aliases: tuple[str, ...]
    environment: Environment | None
    description: str


def add(
    context: Context,
    who: Principal,
    name: str,
    source: str,
    *,
    flavor: str | None = None,
    aliases: Iterable[str] = (),
    environment: Environment | None = None,
    description: str = "",
) -> ModelVersion:
    """Register the model at `source`: a path, a URL, or "module:Class". It may take minutes.

    The bytes that the newest version has already make no new one, but the aliases move. Raises InvalidSpec,
    NotFound, NotAllowed, TooLarge, UnknownFormat, EnvironmentUnusable, or the flavor's error for a model that
    cannot be loaded; then nothing is left behind.
    """
    asked = _asked(who, name, flavor, aliases, environment, description)
    _check_text(source, "source")
    if not source:
        raise InvalidSpec("The source is empty.", remedy="Give a path, a URL, or module:Class.")
    if fetching.is_url(source):
        return _add_url(context, who, asked, source)
    if _SCHEME.match(source):
        raise InvalidSpec(
            f"Models cannot be added from {source.partition(':')[0]}: addresses.",
            remedy="Give a path, an http or https URL, or send the file.",
        )
    if _is_class(source):
        return _add_class(context, who, asked, source)
    return _add_path(context, who, asked, source)


def receive(
    context: Context,
    who: Principal,
    name: str,
    filename: str,
    pieces: Iterable[bytes],
    *,
    flavor: str | None = None,
    aliases: Iterable[str] = (),
    environment: Environment | None = None,
    description: str = "",
) -> ModelVersion:
    """Register a model file whose bytes are sent. Raises as `add` does."""
    with closing(Receiving(context, filename)) as receiving:
        for piece in pieces:
            receiving.write(piece)
        return receiving.add(
            who, name, flavor=flavor, aliases=aliases, environment=environment, description=description
        )


class Receiving:
    """A model file that comes in pieces, from one thread after another. `close` it; without `add` before
    nothing stays of it."""

    def __init__(self, context: Context, filename: str) -> None:
        self._context = context
        self._arrival, self._lock = modelfiles.begin(_root(context), filename, context.policy.max_upload_bytes)

    def close(self) -> None:
        """Remove what was not registered. Safe to repeat."""
        modelfiles.end(self._arrival, self._lock)

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises TooLarge, OutputUnwritable."""
        self._arrival.write(piece)

    def add(
        self,
        who: Principal,
        name: str,
        *,
        flavor: str | None = None,
        aliases: Iterable[str] = (),
        environment: Environment | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Register what was written."""
        asked = _asked(who, name, flavor, aliases, environment, description)
        return _register(self._context, who, asked, self._arrival, origin=SENT, shown=self._arrival.path.name)


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
    if not _may_load(context, version.carries_code, version.digest):
        raise NotTrusted(
            f"{version.reference} is a {version.flavor} model (sha256 {version.digest[:12]}): loading it runs code"
            " that it carries.",
            remedy=f"If its origin can be trusted, an administrator says: tidemill models trust {version.reference}",
        )
    return version.pin(reference)


def move_alias(context: Context, who: Principal, name: str, alias: str, version: int) -> ModelVersion:
    """Point an alias at a version; jobs that were submitted keep theirs. Raises NotFound, InvalidSpec."""
    _check_alias(alias)
    with context.store.transaction():
        _move(context, who, name, alias, version)
        return context.store.models.get(who.tenant, name, str(version))


def remove_alias(context: Context, who: Principal, name: str, alias: str) -> None:
    """Forget an alias. Raises NotFound, InvalidSpec."""
    _check_alias(alias)
    with context.store.transaction():
        context.store.models.get(who.tenant, name, alias)
        _move(context, who, name, alias, None)


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
        python = _interpreter(context, version.environment)
        with _named(version.path, version.reference):
            signature = _inspect(context, _facts(version), python)
        context.store.models.set_signature(version.tenant, version.name, version.version, signature)
    return get(context, who, version.reference)


def check(context: Context, who: Principal, reference: str) -> ModelCheck:
    """Whether a version's bytes are those that were registered, and whether it loads. Raises NotFound."""
    version = get(context, who, reference)
    python = _interpreter(context, version.environment)
    told: dict[str, Any] = {"reference": version.reference, "digest": version.digest}
    problem = _damage(context, version, python)
    if problem is not None:
        return ModelCheck(**told, intact=False, loads=None, problem=problem)
    if not _may_load(context, version.carries_code, version.digest):
        why = f"It was not loaded: it carries code and is not trusted; see: tidemill models trust {version.reference}"
        return ModelCheck(**told, intact=True, loads=None, problem=why)
    try:
        with _named(version.path, version.reference):
            _inspect(context, _facts(version), python)
    except TidemillError as exc:
        return ModelCheck(**told, intact=True, loads=False, problem=str(exc))
    return ModelCheck(**told, intact=True, loads=True, problem=None)


def sweep_unfinished(context: Context, now: datetime) -> int:
    """Remove what was left by additions that never ended; how many folders that were."""
    return modelfiles.sweep(_root(context), context.store.models.paths_in_use, (now - UNFINISHED).timestamp())


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


def _root(context: Context) -> Path:
    return Path(os.path.abspath(context.places.models))


def _is_class(source: str) -> bool:
    target, colon, name = source.rpartition(":")
    return bool(colon and target) and name.isidentifier() and not os.path.exists(source)


def _asked(
    who: Principal,
    name: str,
    flavor: str | None,
    aliases: Iterable[str],
    environment: Environment | None,
    description: str,
) -> _Asked:
    if environment is not None:
        _check_environment(who, environment)
    _check_text(description, "description")
    if len(description) > MAX_DESCRIPTION:
        raise InvalidSpec(f"The description is longer than {MAX_DESCRIPTION:,} characters.", remedy="Say less.")
    return _Asked(
        name=check_name(name, "a model"),
        flavor=flavor,
        aliases=tuple(_check_alias(alias) for alias in dict.fromkeys(aliases)),
        environment=environment,
        description=description,
    )


def _check_text(text: str, word: str) -> None:
    if "\0" in text:
        raise InvalidSpec(f"The {word} has a zero byte in it.", remedy="Leave it out.")


def _check_alias(alias: str) -> str:
    if alias == LATEST or alias[:1].isdigit():
        raise InvalidSpec(
            f"{alias!r} cannot be an alias: it reads like a version.", remedy="Choose a word such as champion."
        )
    return check_name(alias, "an alias")


def _check_environment(who: Principal, environment: Environment) -> None:
    """Installing packages and starting an interpreter run code on the service."""
    if not who.may(Action.TRUST_MODELS):
        raise NotAllowed(
            f"A {who.role.value}'s key cannot choose the environment of a model: making one runs code.",
            remedy="Ask an administrator to add this version.",
        )
    if (environment.requirements is None) == (environment.python is None):
        raise InvalidSpec(
            "An environment is either requirements or an interpreter.", remedy="Give one of the two, and not both."
        )
    _check_text(environment.requirements or environment.python or "", "environment")
    if environment.python is not None and not os.path.isabs(environment.python):
        raise InvalidSpec(
            f"The interpreter {environment.python!r} is no absolute path.", remedy="Name it by its absolute path."
        )


def _add_class(context: Context, who: Principal, asked: _Asked, source: str) -> ModelVersion:
    if who.key_id is not None:
        raise NotAllowed(
            "A Python class can be registered only by the person at the service's machine: its code lies there.",
            remedy="Save the model to a file and send it, or ask the operator.",
        )
    target, _, name = source.rpartition(":")
    path = f"{os.path.abspath(target)}:{name}" if target.endswith(".py") else source
    python = _interpreter(context, asked.environment)
    with _named(path, source):
        facts = _identify(context, path, asked.flavor, python)
        signature = _inspect(context, {**facts, "trusted": True}, python)
    return _store(context, who, asked, _version(who, asked, facts, origin=source, signature=signature))


def _add_url(context: Context, who: Principal, asked: _Asked, url: str) -> ModelVersion:
    policy = context.policy
    reach = fetching.Reach(anywhere=who.key_id is None, hosts=policy.model_hosts)
    origin = fetching.without_secrets(url)
    with modelfiles.arriving(_root(context), fetching.name_of(url), policy.max_upload_bytes) as arrival:
        fetching.fetch(url, arrival.write, reach=reach, max_bytes=policy.max_upload_bytes)
        return _register(context, who, asked, arrival, origin=origin, shown=origin)


def _add_path(context: Context, who: Principal, asked: _Asked, source: str) -> ModelVersion:
    path = Path(os.path.abspath(os.path.expanduser(source) if who.key_id is None else source))
    roots = context.policy.data_roots or ()

    def allowed(real: Path) -> bool:
        return who.key_id is None or any(real.is_relative_to(root) for root in roots)

    if not allowed(_real(path)):
        raise NotAllowed(
            f"An API key cannot make the service read {path}.",
            remedy="Send the model's bytes, or ask the operator to name its folder in the setting data_roots.",
        )
    if not path.exists():
        raise modelfiles.not_there(path)
    with modelfiles.arriving(_root(context), path.name, context.policy.max_upload_bytes) as arrival:
        arrival.copy(path, allowed)
        return _register(context, who, asked, arrival, origin=str(path), shown=str(path))


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as exc:
        raise modelfiles.not_there(path) from exc


def _register(
    context: Context, who: Principal, asked: _Asked, arrival: Arrival, *, origin: str, shown: str
) -> ModelVersion:
    """Bytes that have arrived become a version. `shown` is what errors call them."""
    arrival.seal()
    python = _interpreter(context, asked.environment)
    with _named(str(arrival.path), shown):
        facts = _identify(context, str(arrival.path), asked.flavor, python)
        signature = None
        if _may_load(context, facts["carries_code"], facts["digest"]):
            signature = _inspect(context, {**facts, "trusted": True}, python)
    root, digest = _root(context), facts["digest"]
    with modelfiles.holding(root, digest):
        path = _stored(context, root, facts)
        if path is None:
            arrival.call(_registered_name(context, root, digest) or arrival.path.name)
            path = modelfiles.place(root, digest, arrival)
        version = _version(who, asked, {**facts, "path": str(path)}, origin=origin, signature=signature)
        return _store(context, who, asked, version)


def _stored(context: Context, root: Path, facts: Mapping[str, Any]) -> Path | None:
    """Where these bytes lie already; None if they do not, or no longer are what they were."""
    path = modelfiles.stored(root, facts["digest"])
    if path is None:
        return None
    try:
        found = _identify(context, str(path), facts["flavor"], None)
    except TidemillError:
        return None
    return path if found["digest"] == facts["digest"] else None


def _registered_name(context: Context, root: Path, digest: str) -> str | None:
    """What versions call these bytes that are gone or damaged: repaired, they must be found there again."""
    folder = modelfiles.folder_of(root, digest)
    return next((Path(path).name for path in context.store.models.paths_in_use() if Path(path).parent == folder), None)


def _version(
    who: Principal, asked: _Asked, facts: Mapping[str, Any], *, origin: str, signature: dict[str, Any] | None
) -> ModelVersion:
    return ModelVersion(
        tenant=who.tenant,
        name=asked.name,
        version=0,
        digest=facts["digest"],
        flavor=facts["flavor"],
        carries_code=facts["carries_code"],
        preload=tuple(facts["preload"]),
        path=facts["path"],
        size_bytes=facts["size_bytes"],
        origin=origin,
        signature=signature,
        environment=asked.environment,
        description=asked.description,
        created_at=datetime.now(UTC),
        created_by=who.name,
    )


def _store(context: Context, who: Principal, asked: _Asked, version: ModelVersion) -> ModelVersion:
    models = context.store.models
    with context.store.transaction():
        before = _find(context, who, asked.name)
        added = models.add_version(version)
        if added.flavor != version.flavor:
            raise InvalidSpec(
                f"{added.reference} has these very bytes, as a model of the flavor {added.flavor}.",
                remedy="Add them under another name.",
            )
        if added.signature is None and version.signature is not None:
            models.set_signature(who.tenant, asked.name, added.version, version.signature)
        if before is None or added.version != before.version:
            audit.record(context, who, "model.add", added.reference, digest=added.digest, origin=added.origin)
        for alias in asked.aliases:
            _move(context, who, asked.name, alias, added.version)
        return models.get(who.tenant, asked.name, str(added.version))


def _find(context: Context, who: Principal, name: str) -> ModelVersion | None:
    try:
        return context.store.models.get(who.tenant, name, LATEST)
    except NotFound:
        return None


def _move(context: Context, who: Principal, name: str, alias: str, version: int | None) -> None:
    before = context.store.models.move_alias(who.tenant, name, alias, version)
    if before != version:
        old, new = (f"{name}@{number}" if number is not None else "-" for number in (before, version))
        audit.record(context, who, "alias.move", f"{name}@{alias}", old=old, new=new)


def _interpreter(context: Context, environment: Environment | None) -> str | None:
    """The interpreter of a model's own environment, which is made if it is not there yet."""
    if environment is None:
        return None
    request = {**environment.to_json(), "folder": os.path.abspath(context.places.environments)}
    return str(context.executor.call(context.entries.environment, request)["python"])


def _identify(context: Context, path: str, flavor: str | None, python: str | None) -> dict[str, Any]:
    return context.executor.call(
        context.entries.identify, {"path": path, "flavor": flavor}, preload=context.compute.preload, python=python
    )


def _inspect(context: Context, facts: Mapping[str, Any], python: str | None) -> dict[str, Any]:
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


def _may_load(context: Context, carries_code: bool, digest: str) -> bool:
    return not carries_code or context.store.trust.is_trusted(digest)


def _damage(context: Context, version: ModelVersion, python: str | None) -> str | None:
    try:
        found = _identify(context, version.path, version.flavor, python)
    except NotFound:
        return "The bytes that were registered are gone."
    except TidemillError as exc:
        return str(exc)
    if found["digest"] != version.digest:
        return f"The stored bytes have the sha256 {found['digest']}: they changed since they were registered."
    return None


@contextmanager
def _named(path: str, shown: str) -> Iterator[None]:
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

"""Adding a version to the registry of models: from a path, a URL, a class, or bytes that are sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.domain.model import Environment, ModelVersion, check_name, is_mlflow
from tidemill.service import audit, fetching, mlflow, modelfiles, models, places
from tidemill.service.context import Context
from tidemill.service.modelfiles import Arrival
from tidemill.service.reach import Reach, parsed, without_secrets

SENT = "sent"
MAX_DESCRIPTION = 2000

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The words of an addition, checked."""

    name: str
    flavor: str | None
    aliases: tuple[str, ...]
    environment: Environment | None
    description: str
    authorization: str | None = None
    """secret:NAME for the host of a URL."""


def add(
    context: Context,
    who: Principal,
    name: str,
    source: str,
    *,
    authorization: str | None = None,
    flavor: str | None = None,
    aliases: Iterable[str] = (),
    environment: Environment | None = None,
    description: str = "",
) -> ModelVersion:
    """Register the model at `source`: a path, a URL, an address on an MLflow server, or "module:Class". It may
    take minutes. `authorization` is for URLs: the secret (secret:NAME) that is sent there.

    The bytes that the newest version has already make no new one, but the aliases move. Raises InvalidSpec,
    NotFound, NotAllowed, TooLarge, UnknownFormat, EnvironmentUnusable, or the flavor's error for a model that
    cannot be loaded; then nothing is left behind.
    """
    asked = replace(_asked(who, name, flavor, aliases, environment, description), authorization=authorization)
    _check_text(source, "source")
    if not source:
        raise InvalidSpec("The source is empty.", remedy="Give a path, a URL, or module:Class.")
    if authorization is not None and not fetching.is_url(source):
        raise InvalidSpec(f"{source} is no URL, and only those are asked with a secret.", remedy="Leave it out.")
    if fetching.is_url(source):
        return _add_url(context, who, asked, source)
    if is_mlflow(source):
        return _add_mlflow(context, who, asked, source)
    if _SCHEME.match(source):
        raise InvalidSpec(
            f"Models cannot be added from {source.partition(':')[0]}: addresses.",
            remedy="Give a path, an http or https URL, models:/NAME@ALIAS of MLflow, or send the file.",
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
        self._arrival, self._lock = modelfiles.begin(models.root(context), filename, context.policy.max_upload_bytes)

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
        aliases=tuple(models.check_alias(alias) for alias in dict.fromkeys(aliases)),
        environment=environment,
        description=description,
    )


def _check_text(text: str, word: str) -> None:
    if "\0" in text:
        raise InvalidSpec(f"The {word} has a zero byte in it.", remedy="Leave it out.")


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
    if not who.is_here:
        raise NotAllowed(
            "A Python class can be registered only by the person at the service's machine: its code lies there.",
            remedy="Save the model to a file and send it, or ask the operator.",
        )
    target, _, name = source.rpartition(":")
    path = f"{os.path.abspath(target)}:{name}" if target.endswith(".py") else source
    python = models.interpreter(context, asked.environment)
    with models.named(path, source):
        facts = models.identify(context, path, asked.flavor, python)
        signature = models.inspect(context, {**facts, "trusted": True}, python)
    return _store(context, who, asked, _version(who, asked, facts, origin=source, signature=signature))


def _add_url(context: Context, who: Principal, asked: _Asked, url: str) -> ModelVersion:
    places.check_scheme(context, who, url)
    policy = context.policy
    reach = Reach(anywhere=who.is_here, hosts=policy.model_hosts)
    origin = without_secrets(url)
    header = None
    if asked.authorization is not None:
        header = _authorization(context, who, asked.authorization, url)
    with modelfiles.arriving(models.root(context), fetching.name_of(url), policy.max_upload_bytes) as arrival:
        fetching.fetch(url, arrival.write, reach=reach, max_bytes=policy.max_upload_bytes, authorization=header)
        return _register(context, who, asked, arrival, origin=origin, shown=origin)


def _authorization(context: Context, who: Principal, reference: str, url: str) -> str:
    target = parsed(url)
    if target.scheme != "https" and not who.is_here and target.host not in context.policy.model_hosts:
        raise NotAllowed(
            f"{without_secrets(target)} is not https: a secret sent there could be read on its way.",
            remedy="Give an https URL.",
        )
    return context.secrets.authorization(who, reference, target.host)


def _add_mlflow(context: Context, who: Principal, asked: _Asked, uri: str) -> ModelVersion:
    places.check_scheme(context, who, uri)
    mlflow.check_may(who, uri)
    with mlflow.arriving(context, uri) as (arrival, origin):
        return _register(context, who, asked, arrival, origin=origin, shown=uri)


def _add_path(context: Context, who: Principal, asked: _Asked, source: str) -> ModelVersion:
    path = Path(os.path.abspath(os.path.expanduser(source) if who.is_here else source))
    confines = places.confines_of_keys(context)

    def allowed(real: Path) -> bool:
        return who.is_here or confines.hold(str(real))

    if not allowed(_real(path)):
        raise NotAllowed(
            f"An API key cannot make the service read {path}.",
            remedy="Send the model's bytes, or ask the operator to name its folder in the setting data_roots.",
        )
    if not path.exists():
        raise modelfiles.not_there(path)
    with modelfiles.arriving(models.root(context), path.name, context.policy.max_upload_bytes) as arrival:
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
    python = models.interpreter(context, asked.environment)
    with models.named(str(arrival.path), shown):
        facts = models.identify(context, str(arrival.path), asked.flavor, python)
        signature = None
        if models.may_load(context, facts["carries_code"], facts["digest"]):
            signature = models.inspect(context, {**facts, "trusted": True}, python)
    root, digest = models.root(context), facts["digest"]
    with modelfiles.holding(root, digest):
        path = models.stored(context, facts)
        if path is None:
            arrival.call(_registered_name(context, root, digest) or arrival.path.name)
            path = modelfiles.place(root, digest, arrival)
        version = _version(who, asked, {**facts, "path": str(path)}, origin=origin, signature=signature)
        return _store(context, who, asked, version)


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
    kept = context.store.models
    with context.store.transaction():
        before = _find(context, who, asked.name)
        added = kept.add_version(version)
        if added.flavor != version.flavor:
            raise InvalidSpec(
                f"{added.reference} has these very bytes, as a model of the flavor {added.flavor}.",
                remedy="Add them under another name.",
            )
        if added.signature is None and version.signature is not None:
            kept.set_signature(who.tenant, asked.name, added.version, version.signature)
        if before is None or added.version != before.version:
            audit.record(context, who, "model.add", added.reference, digest=added.digest, origin=added.origin)
        for alias in asked.aliases:
            models.move(context, who, asked.name, alias, added.version)
        return kept.get(who.tenant, asked.name, str(added.version))


def _find(context: Context, who: Principal, name: str) -> ModelVersion | None:
    try:
        return context.store.models.get(who.tenant, name, models.LATEST)
    except NotFound:
        return None

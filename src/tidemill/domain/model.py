"""Models that the registry knows."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from tidemill.domain.errors import InvalidSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REFERENCE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})@(?P<version>[A-Za-z0-9][A-Za-z0-9._-]{0,99})")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a model version's scorers run, when not in the service's own Python."""

    requirements: str | None = None
    """The text of a requirements file; a virtual environment is made from it once, by its hash."""
    python: str | None = None
    """Or an interpreter that is there already, by its absolute path."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The very model a job scores with; decided when it is submitted and never again."""

    asked: str
    """What the spec said: a path, "module:Class", "name@alias", "name@3"."""
    path: str
    """Where its bytes are: absolute, or "module:Class"."""
    digest: str
    flavor: str
    carries_code: bool
    preload: tuple[str, ...] = ()
    size_bytes: int = 0
    name: str | None = None
    """In the registry, with `version`; None for a plain path."""
    version: int | None = None
    environment: Environment | None = None
    origin: str | None = None
    """The exact version on an MLflow server that `asked` meant: models:/churn/3."""

    @property
    def reference(self) -> str:
        """For people: "churn@3", or the path."""
        return self.path if self.name is None else f"{self.name}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Pin:
        environment = data.get("environment")
        return Pin(
            **{
                **data,
                "preload": tuple(data["preload"]),
                "environment": None if environment is None else Environment(**environment),
            }
        )


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One immutable version of a model in the registry of a tenant."""

    tenant: str
    name: str
    version: int
    """From 1, without gaps."""
    digest: str
    flavor: str
    carries_code: bool
    preload: tuple[str, ...]
    path: str
    """Where the registry keeps its bytes."""
    size_bytes: int
    origin: str
    """Where it came from: a path, a URL, "sent"."""
    signature: dict[str, Any] | None
    """`domain.signature.ModelInfo` as JSON; None while the format's code is not trusted."""
    environment: Environment | None = None
    description: str = ""
    created_at: datetime
    created_by: str
    aliases: tuple[str, ...] = field(default=())
    trusted: bool = False
    """Whether its digest may run code."""

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    def pin(self, asked: str) -> Pin:
        """What a job that asked for this version is bound to."""
        return Pin(
            asked=asked,
            path=self.path,
            digest=self.digest,
            flavor=self.flavor,
            carries_code=self.carries_code,
            preload=self.preload,
            size_bytes=self.size_bytes,
            name=self.name,
            version=self.version,
            environment=self.environment,
        )


def split_reference(text: str) -> tuple[str, str] | None:
    """("churn", "champion") of "churn@champion"; None if it is no reference to a registered model."""
    found = _REFERENCE.fullmatch(text)
    return (found["name"], found["version"]) if found else None


def is_mlflow(text: str) -> bool:
    """Whether a model is named by its address on an MLflow server: "models:/churn@champion", "runs:/ID/model"."""
    return text.startswith(("models:/", "runs:/"))


def check_name(text: str, what: str) -> str:
    """The name again. Raises InvalidSpec for one that could not stand in a reference."""
    if not _NAME.fullmatch(text):
        raise InvalidSpec(
            f"{text!r} cannot be the name of {what}.",
            remedy="Use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 100.",
        )
    return text

"""Secrets by reference: `secret:NAME` stands in settings and requests; the text is read when it is used.

The text lies in a file of the operator's folder of secrets, as Kubernetes and systemd put them there, or in the
environment. It is never stored, and whoever uses it hands it to nobody but the place that it is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.domain.showing import holds_credential, is_secret_name

MARK = "secret:"
MAX_BYTES = 1 << 16
ENVIRONMENT = "TIDEMILL_SECRET_"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SCHEME = re.compile(r"[A-Za-z]+ \S.*")


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Where secrets are found, and what those may be used for that requests name."""

    folder: Path | None = None
    """Files, each named as its secret. None: only the environment is looked at."""
    hosts: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By name, the hosts that somebody with a key may have a secret sent to. Others may not be named by them."""

    def text(self, name: str) -> str:
        """The secret itself. Raises NotFound, InvalidSpec."""
        check_name(name)
        found = self._in_folder(name)
        if found is None:
            found = os.environ.get(variable_of(name))
        if found is None:
            raise NotFound(
                f"There is no secret {name}.",
                remedy=f"Put it into the file {name} of the folder in the setting secrets_dir, or into the environment"
                f" variable {variable_of(name)}.",
            )
        if not found or not found.isprintable():
            raise InvalidSpec(
                f"The secret {name} is empty or more than one line of text.", remedy="Write its text alone."
            )
        return found

    def resolved(self, value: str) -> str:
        """The value of a setting: what it refers to, or else itself. Raises as `text`."""
        return self.text(value.removeprefix(MARK)) if value.startswith(MARK) else value

    def authorization(self, who: Principal, reference: str, host: str) -> str:
        """The header Authorization for a request to that host. Raises NotAllowed, and as `text`.

        A text without a scheme of its own is a bearer token.
        """
        name = reference.removeprefix(MARK)
        check_name(name)
        allowed = {each.lower().rstrip(".") for each in self.hosts.get(name, ())}
        if not who.is_here and host.lower().rstrip(".") not in allowed:
            raise NotAllowed(
                f"An API key may not have the secret {name} sent to {host}.",
                remedy=f"Ask the operator to name the host in the setting secret_hosts, under {name}.",
            )
        text = self.text(name)
        return text if _SCHEME.fullmatch(text) else f"Bearer {text}"

    def _in_folder(self, name: str) -> str | None:
        if self.folder is None:
            return None
        try:
            with (self.folder / name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise InvalidSpec(f"The secret {name} is longer than {MAX_BYTES:,} bytes.", remedy="Check the file.")
            return data.decode().removesuffix("\n").removesuffix("\r")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise InvalidSpec(
                f"The secret {name} cannot be read from {self.folder}: {reason}.", remedy="Check the file."
            ) from exc


def variable_of(name: str) -> str:
    """The environment variable of a secret: TIDEMILL_SECRET_MODEL_HUB of "model-hub"."""
    return ENVIRONMENT + re.sub(r"[.-]", "_", name).upper()


def check_name(name: str) -> None:
    """Raises InvalidSpec for what could be a path, or is no name."""
    if not _NAME.fullmatch(name):
        raise InvalidSpec(
            f"{name[:100]!r} is no name of a secret.",
            remedy="Names have letters, digits, dots, dashes and underscores.",
        )


def refuse_credentials(words: Mapping[str, Any]) -> None:
    """Look through a spec, which is stored, shown and published. Raises InvalidSpec that says where and not what."""
    for where, name, text in _texts(words):
        named = is_secret_name(name) and where[-2:-1] != ("schema",) and not text.startswith(MARK)
        if named or holds_credential(text):
            raise InvalidSpec(
                f"{'.'.join(where)} holds what looks like a password, token or key. Specs are stored and shown.",
                remedy="Leave it out, or name a secret that the operator keeps: secret:NAME.",
            )


def _texts(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every text with its place and the name that it has there."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(each, (*where, str(name)))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, where)
    elif isinstance(value, str):
        yield where, where[-1] if where else "", value

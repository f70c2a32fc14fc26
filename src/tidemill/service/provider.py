"""What the use cases know of a login provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tidemill.domain.login import Person

LOGIN = "/login/provider"
"""The page that sends the browser there."""
LOGIN_BACK = f"{LOGIN}/back"
"""Where the provider sends it back to; it has to know this address of the service."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A login that was begun: what only the browser that began it knows."""

    state: str
    nonce: str
    verifier: str
    """Of PKCE; it is shown to the provider alone."""


class Provider(Protocol):
    """Where people log in. Calls go over the network and take seconds at most."""

    name: str
    """For people: the host."""

    def begin(self) -> tuple[str, Attempt]:
        """The address to send the browser to, and what it must bring back. Raises NotAuthenticated."""

    def finish(self, attempt: Attempt, answer: Mapping[str, str]) -> Person:
        """Who it is, by the query that the browser came back with.

        Raises NotAuthenticated: the provider said no, does not answer, or said something that is not believed.
        """

    def logout_url(self) -> str | None:
        """Where to log out of the provider itself, if it has such a place and says so now."""

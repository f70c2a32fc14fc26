"""What requests come with to be let in, and what was found out about it a moment ago."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from tidemill.domain.access import Principal
from tidemill.domain.login import Person

_MAX_REMEMBERED = 4096

Credential = str | Person | None
"""The text of a key or of a login's token, somebody whom a trusted proxy vouches for, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Who a credential stands for."""

    who: Principal
    requests_per_minute: int | None = None
    """None: as the service has it."""


class Remembered:
    """Credentials that were checked a moment ago, texts by their hash; the oldest go first."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes | Person | None, tuple[float, Known]] = OrderedDict()

    def find(self, credential: Credential) -> Known | None:
        with self._lock:
            at, known = self._entries.get(_hashed(credential), (float("-inf"), None))
        return known if self._clock() - at < self._seconds else None

    def remember(self, credential: str | Person, known: Known) -> None:
        with self._lock:
            self._entries[_hashed(credential)] = (self._clock(), known)
            self._entries.move_to_end(_hashed(credential))
            if len(self._entries) > _MAX_REMEMBERED:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


def text_of(request: Request) -> str | None:
    """The text of a key or token as it was sent; "" for another scheme, which is no valid key."""
    given = request.headers.get("authorization")
    if given is None:
        return request.headers.get("x-api-key")
    scheme, _, text = given.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def _hashed(credential: Credential) -> bytes | Person | None:
    if isinstance(credential, str):
        return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
    return credential

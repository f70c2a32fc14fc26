"""Secrets that are shown once: `tm_<id>_<secret>`. Only the SHA-256 of the secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from tidemill.domain.ids import new_id

_TEXT = re.compile(r"tm_(?P<id>[a-z]{1,20}_[0-9a-z]{16})_(?P<secret>[0-9a-f]{48})")
_SECRET_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class Token:
    """An id, and what proves that its bearer was given it."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """As people and browsers send it."""
        return f"tm_{self.id}_{self.secret}"

    @property
    def sha256(self) -> str:
        """Of the secret: what a store keeps."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


NO_TOKEN = Token(id="", secret="-")
"""Opens nothing."""


def new_token(kind: str) -> Token:
    """A new one whose id begins with this word."""
    return Token(id=new_id(kind), secret=secrets.token_hex(_SECRET_BYTES))


def read_token(text: str) -> Token:
    """The token of this text; `NO_TOKEN` for any other text."""
    parts = _TEXT.fullmatch(text)
    return NO_TOKEN if parts is None else Token(id=parts["id"], secret=parts["secret"])


def is_genuine(token: Token, kept_sha256: str | None) -> bool:
    """Whether the secret is the one that is kept. It takes as long where none is kept, so that time tells nothing."""
    return hmac.compare_digest(token.sha256, kept_sha256 or "0" * 64) and kept_sha256 is not None

"""The key that secrets of webhooks are derived from. It never lies in the store: one file, or a setting."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from tidemill.domain import webhook
from tidemill.domain.errors import Refused
from tidemill.domain.webhook import Webhook
from tidemill.durable.files import fsync_file, fsync_folder, make_folder, remove_file

SETTING = "TIDEMILL_WEBHOOK_KEY"
LEAST_CHARACTERS = 32
_KEY_BYTES = 32


class SigningKey:
    """A machine's signing key: the setting if there is one, else a file that is made for the first webhook."""

    def __init__(self, path: Path, given: str | None = None) -> None:
        self.path = path
        self._text = given
        """None: not given, and not read yet."""
        if given is not None:
            self._check(given, f"The setting {SETTING}")

    def find(self) -> bytes | None:
        """The key, or None if there is none yet. Raises Refused for one that is too short."""
        if self._text is None:
            try:
                text = self.path.read_text(encoding="ascii", errors="replace").strip()
            except FileNotFoundError:
                return None
            except OSError as exc:
                raise Refused(
                    f"The signing key {self.path} cannot be read: {exc.strerror or exc}.",
                    remedy="Make it readable for the user of the service, and for nobody else.",
                ) from exc
            self._check(text, f"The file {self.path}")
            self._text = text
        return self._text.encode()

    def make(self) -> bytes:
        """The key; a new file of it, for this user alone, if there is none. Of several makers one wins."""
        found = self.find()
        return self._write() if found is None else found

    def _write(self) -> bytes:
        try:
            make_folder(self.path.parent)
            descriptor, scratch = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            fsync_file(scratch)
            with suppress(FileExistsError):
                os.link(scratch, self.path)
            remove_file(scratch)
            fsync_folder(self.path.parent)
        except OSError as exc:
            raise Refused(
                f"The signing key {self.path} cannot be written: {exc.strerror or exc}.",
                remedy=f"Make its folder writable, or give a key by {SETTING}.",
            ) from exc
        made = self.find()
        assert made is not None, "it was just made"
        return made

    @staticmethod
    def _check(text: str, where: str) -> None:
        if len(text) < LEAST_CHARACTERS:
            raise Refused(
                f"{where} holds {len(text)} characters; a signing key has at least {LEAST_CHARACTERS}.",
                remedy=f"Bring back the key from its backup, or give the same one on all machines by {SETTING}.",
            )


def key_id(key: bytes) -> str:
    """Names a key and tells nothing of it."""
    return hashlib.sha256(b"tidemill signing key\n" + key).hexdigest()[:16]


def newest_secret(key: bytes, hook: Webhook) -> str:
    """The secret that its receiver is to know."""
    return webhook.secret_text(webhook.secret(key, hook.id, hook.generation))

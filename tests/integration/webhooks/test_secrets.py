"""Secrets: shown once, derived from a key that is nowhere in the store, and the same on all machines."""

from __future__ import annotations

import base64
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.api.house import House
from tests.integration.webhooks.conftest import Sending, opened
from tests.integration.webhooks.receivers import receiving, status, until
from tests.integration.webhooks.test_sending import add, settled
from tidemill.bootstrap.wiring import opened as opened_context
from tidemill.config import Settings
from tidemill.domain.errors import Refused
from tidemill.domain.webhook import DeliveryState
from tidemill.service import audit, webhooks
from tidemill.service.signing import SigningKey, key_id

GIVEN = "g" * 40


def test_a_secret_is_shown_once(house: House, sending_from: Sending, caplog: pytest.LogCaptureFixture) -> None:
    """Not in any other answer, the store, a backup of it, the audit log or the log."""
    caplog.set_level(logging.DEBUG)
    with receiving(status(410)) as receiver:
        hook = add(house, f"{receiver.url}/hush")
        rotated = webhooks.rotate(house.context, house.here, hook.id)
        house.finish(house.submit())
        sending_from(house)
        settled(house, hook)
    house.context.store.back_up(str(house.folder / "backup.db"))
    raw = [base64.b64decode(each.secret.removeprefix("whsec_")) for each in (hook, rotated)]
    key = (house.folder / "home" / "webhook.key").read_bytes().strip()
    files = [path for path in house.folder.rglob("*") if path.is_file() and path.name != "webhook.key"]
    assert {"backup.db", "tidemill.db"} <= {path.name for path in files}
    seen = b"".join(path.read_bytes() for path in files)
    assert hook.id.encode() in seen
    told = [
        str(webhooks.describe(webhooks.get(house.context, house.here, hook.id))),
        *(str(entry) for entry in audit.list(house.context, house.here)),
        caplog.text,
    ]
    assert hook.id in caplog.text
    for secret in [*raw, key]:
        forms = {secret, secret.hex().encode(), base64.b64encode(secret), base64.b64encode(secret).rstrip(b"=")}
        assert not [form for form in forms if form in seen]
        assert not [form for form in forms if form.decode("latin-1") in "".join(told)]


def test_the_key_is_a_file_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "webhook.key"
    assert SigningKey(path).find() is None
    assert not path.parent.exists()
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: SigningKey(path).make(), range(16)))
    assert len(made) == 1
    assert SigningKey(path).find() in made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["webhook.key"]


@pytest.mark.parametrize("text", ["", "short", "x" * 31])
def test_a_key_that_is_too_short_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "webhook.key"
    path.write_text(text)
    with pytest.raises(Refused, match=r"webhook\.key holds") as refused:
        SigningKey(path).find()
    assert "TIDEMILL_WEBHOOK_KEY" in str(refused.value)
    with pytest.raises(Refused, match="TIDEMILL_WEBHOOK_KEY holds"):
        SigningKey(path, text)


def test_the_same_key_on_another_machine_gives_the_same_secrets(tmp_path: Path) -> None:
    """By its file, or its text as a setting."""
    first = SigningKey(tmp_path / "webhook.key")
    made = first.make()
    text = first.path.read_text().strip()
    (tmp_path / "copy.key").write_text(text + "\n\n")
    assert SigningKey(tmp_path / "copy.key").find() == SigningKey(tmp_path / "none.key", text).find() == made
    assert len({key_id(made), key_id(GIVEN.encode())}) == 2


class CountedKey(SigningKey):
    """Knows how often it was looked for: senders do so before each claim."""

    looks = 0

    def find(self) -> bytes | None:
        self.looks += 1
        return super().find()


def test_a_machine_with_another_key_neither_signs_nor_makes_webhooks(tmp_path: Path, sending_from: Sending) -> None:
    with receiving() as receiver, opened(tmp_path) as house:
        hook = add(house, receiver.url)
        webhooks.ping(house.context, house.here, hook.id)
        for other in (CountedKey(tmp_path / "other.key"), CountedKey(tmp_path / "other.key", GIVEN)):
            elsewhere = House(replace(house.context, signing=other), tmp_path)
            for use in (
                lambda there=elsewhere: add(there, receiver.url),
                lambda there=elsewhere: webhooks.rotate(there.context, there.here, hook.id),
            ):
                with pytest.raises(Refused, match="signed with another key") as refused:
                    use()
                assert str(other.path) in str(refused.value)
            sender, looked = sending_from(elsewhere), other.looks
            until(lambda key=other, before=looked: key.looks > before + 2)
            (waiting,) = webhooks.deliveries(house.context, house.here, hook.id)
            assert waiting.attempts == 0
            sender.stop()
            assert sender.join(30)
        assert not (tmp_path / "other.key").exists()
        sending_from(house)
        assert settled(house, hook)[0].state is DeliveryState.DELIVERED


def test_the_key_may_be_a_setting(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, webhook_key=GIVEN, webhook_hosts=["127.0.0.1"])
    with opened_context(settings, children=False) as context:
        made = add(House(context, tmp_path), "http://127.0.0.1:1/")
        assert context.store.webhooks.get(made.id).key_id == key_id(GIVEN.encode())
    assert not (tmp_path / "webhook.key").exists()
    assert GIVEN not in repr(settings)

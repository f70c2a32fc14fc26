"""No request goes where the operator did not allow it, whoever asks and however the address is dressed up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.api.house import House
from tests.integration.webhooks.conftest import Sending
from tests.integration.webhooks.receivers import certificate_of, receiving
from tests.integration.webhooks.test_sending import add, settled
from tidemill.domain.access import Role
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.domain.webhook import DeliveryState, WebhookChange
from tidemill.service import reach, webhooks
from tidemill.wire.webhooks import AddWebhook, ChangeWebhook

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data",
    "http://metadata.example/",
    "http://localhost:8642/",
    "http://127.0.0.2/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.7]/",
    "http://[64:ff9b::a00:7]/",
    "http://0.0.0.0/",
    "http://2130706434/",
    "http://10.1.2.3/",
    "http://192.168.0.1:8080/",
    "http://half.example/",
]
NAMES = {
    "metadata.example": ["169.254.169.254"],
    "localhost": ["127.0.0.1"],
    "2130706434": ["127.0.0.2"],
    "half.example": ["8.8.8.8", "10.0.0.7"],
    "good.example": ["8.8.8.8"],
}
Resolve = Callable[[dict[str, list[str]]], None]


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Sets what names resolve to; others are not known, addresses are what they are."""

    def resolve(names: dict[str, list[str]]) -> None:
        def getaddrinfo(host: str, port: int, *rest: object, **words: object) -> list[tuple[object, ...]]:
            known = names.get(host)
            if known is None:
                return real(host, port, *rest, flags=socket.AI_NUMERICHOST)  # type: ignore[arg-type]
            return [(2, 1, 6, "", (address, port)) for address in known]

        monkeypatch.setattr(reach.socket, "getaddrinfo", getaddrinfo)

    real = socket.getaddrinfo
    return resolve


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_webhook_to_a_private_address_is_refused(house: House, resolving: Resolve, url: str) -> None:
    """Also by the person at the machine: who asked is not who sends."""
    resolving(NAMES)
    good = add(house, "https://good.example/hook")
    who, _ = house.key(Role.ADMIN)
    for asking in (house.here, who):
        with pytest.raises(NotAllowed, match="not on the public internet") as refused:
            webhooks.add(house.context, asking, AddWebhook(url=url))
        assert "webhook_hosts" in str(refused.value)
    with pytest.raises(NotAllowed):
        webhooks.change(house.context, house.here, good.id, ChangeWebhook(url=url))
    assert [hook.url for hook in house.context.store.webhooks.list()] == ["https://good.example/hook"]


@pytest.mark.parametrize("url", FORBIDDEN)
def test_no_request_goes_to_a_private_address(
    house: House, resolving: Resolve, sending_from: Sending, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The address was public when the webhook was made; nobody connects to what it is now."""
    connected: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    resolving(NAMES)
    hook = add(house, "https://good.example/hook")
    house.context.store.webhooks.change(hook.id, WebhookChange(url=url))
    webhooks.ping(house.context, house.here, hook.id)
    sending_from(house)
    (done,) = settled(house, hook)
    assert (done.state, done.status) == (DeliveryState.GIVEN_UP, None)
    assert "not on the public internet" in str(done.problem)
    assert connected == []


def test_the_probe_sees_a_request_to_a_public_address(
    house: House, resolving: Resolve, sending_from: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test above proves something."""
    connected: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    resolving(NAMES)
    hook = add(house, "https://good.example/hook")
    webhooks.ping(house.context, house.here, hook.id)
    sending_from(house)
    settled(house, hook)
    assert connected == [("8.8.8.8", 443)]


def test_a_name_that_changes_its_address_gains_nothing(
    house: House, resolving: Resolve, sending_from: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever connects does not look it up again, and the receiver hears the name."""
    monkeypatch.setattr(reach, "is_public", lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(reach, "own_addresses", frozenset)
    with receiving() as receiver:
        names = {"hooks.example": ["127.0.0.1"]}
        resolving(names)
        hook = add(house, f"http://hooks.example:{receiver.port}/x")
        asked: list[str] = []
        look_up = reach.socket.getaddrinfo

        def getaddrinfo(host: str, port: int, *rest: object, **words: object) -> object:
            asked.append(host)
            found = look_up(host, port, *rest, **words)  # type: ignore[arg-type]
            names["hooks.example"] = ["127.0.0.2"]
            return found

        monkeypatch.setattr(reach.socket, "getaddrinfo", getaddrinfo)
        webhooks.ping(house.context, house.here, hook.id)
        sending_from(house)
        (request,) = receiver.wait()
        (done,) = settled(house, hook)
        webhooks.ping(house.context, house.here, hook.id)
        second = settled(house, hook, 2)[0]
    assert request.headers["host"] == f"hooks.example:{receiver.port}"
    assert done.state is DeliveryState.DELIVERED
    assert asked.count("hooks.example") == 2
    assert "not on the public internet" in str(second.problem)
    assert len(receiver.requests) == 1


def test_the_certificate_is_checked_by_name_though_the_address_is_pinned(
    house: House, resolving: Resolve, sending_from: Sending, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reach, "is_public", lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(reach, "own_addresses", frozenset)
    certificate = certificate_of("hooks.example", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    resolving({"hooks.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    with receiving(certificate=certificate) as receiver:
        done = {}
        for name in ("hooks.example", "other.example"):
            hook = add(house, f"https://{name}:{receiver.port}/")
            webhooks.ping(house.context, house.here, hook.id)
            sender = sending_from(house)
            (done[name],) = settled(house, hook)
            sender.stop()
        assert len(receiver.requests) == 1
    assert done["hooks.example"].state is DeliveryState.DELIVERED
    assert "certificate verify failed" in str(done["other.example"].problem)


def test_a_proxy_of_the_environment_is_not_asked(
    house: House, sending_from: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        hook = add(house, receiver.url)
        webhooks.ping(house.context, house.here, hook.id)
        sending_from(house)
        receiver.wait()
        assert proxy.requests == []


def test_a_name_that_is_not_known_is_told_at_once(house: House, resolving: Resolve) -> None:
    resolving({})
    with pytest.raises(NotFound, match=r"'typo\.example' is not known"):
        add(house, "https://typo.example/")


@pytest.mark.parametrize(
    "url",
    ["ftp://good.example/", "good.example", "http://", "http://user:hush@good.example/", "http://good.example/#part"],
)
def test_what_is_no_url_for_a_webhook(house: House, resolving: Resolve, url: str) -> None:
    resolving(NAMES)
    with pytest.raises(InvalidSpec) as refused:
        add(house, url)
    assert "hush" not in str(refused.value)

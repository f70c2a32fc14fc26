"""Where a URL may lead: every form of an address that is not on the public internet."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence

import pytest

from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.service import reach
from tidemill.service.reach import Reach, aim, is_public, own_addresses

INTERNET = Reach(anywhere=False)

PRIVATE = {
    "this machine": ("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::"),
    "private networks": ("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fdff::1", "fec0::1"),
    "link-local": ("169.254.1.1", "fe80::1", "febf::1"),
    "metadata of clouds": (
        "169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192",
        "168.63.129.16",
    ),
    "carrier's NAT": ("100.64.0.1", "100.127.255.254"),
    "multicast and broadcast": ("224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "ff02::1", "ff0e::1"),
    "documentation and tests": ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "3fff::1"),
    "relays": ("192.88.99.1",),
    "IPv4-mapped": ("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::ffff:168.63.129.16"),
    "IPv4-compatible": ("::127.0.0.1", "::a9fe:a9fe", "::8.8.8.8"),
    "IPv4-translated": ("::ffff:0:127.0.0.1", "::ffff:0:a9fe:a9fe"),
    "NAT64": ("64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1"),
    "NAT64 of one's own network": ("64:ff9b:1::1", "64:ff9b:1:ffff::808:808"),
    "6to4": ("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:0a00:0001::1"),
    "Teredo": ("2001:0:53aa:64c::1", "2001::5601:5601"),
    "ISATAP": ("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:169.254.169.254", "fe80::5efe:127.0.0.1"),
    "discard, segment routing, what is not given out": ("100::1", "100:0:0:1::1", "5f00::1", "4000::1", "200::1"),
}  # fmt: skip


@pytest.mark.parametrize("address", [each for group in PRIVATE.values() for each in group])
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "169.253.1.1", "192.0.1.1", "11.0.0.1"),
        *("2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1"),
    ],
)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


Answers = Mapping[str, Sequence[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], list[str]]:
    """A name service of our own before the system's, which still reads numbers; what it was asked."""
    system = socket.getaddrinfo

    def install(known: Answers) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *rest: object, **words: object) -> object:
            asked.append(host)
            if host in known:
                return [(2, 1, 6, "", (address, port)) for address in known[host]]
            return system(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

        monkeypatch.setattr(reach.socket, "getaddrinfo", getaddrinfo)
        return asked

    return install


HOSTILE = [
    "127.0.0.1", "127.0.0.1:9", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.0x1", "017700000001", "0177.1",
    "0", "0x0", "10.1", "169.254.43518", "0xa9fea9fe", "2852039166", "025177524776", "127。0。0。1", "127．0．0．1",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fd00:ec2::254]", "user@127.0.0.1", "1.1.1.1@127.0.0.1", "1.1.1.1:80@127.0.0.1:22",
    "1.1.1.1%2f@10.0.0.1", "1.1.1.1\\@10.0.0.1", "localhost", "LOCALHOST", "localhost.", "inside.example",
    "two.example", "six.example",
]  # fmt: skip
"""What may stand between http:// and the path. Each is out of reach."""

NAMES: Answers = {
    "localhost": ["127.0.0.1"],
    "localhost.": ["127.0.0.1"],
    "inside.example": ["10.0.0.7"],
    "two.example": ["1.1.1.1", "10.0.0.7"],
    "six.example": ["2606:4700::1111", "fe80::1%eth0"],
}


@pytest.mark.parametrize("authority", HOSTILE)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_a_key_reaches_no_private_address(names: Callable[[Answers], list[str]], authority: str, scheme: str) -> None:
    asked = names(NAMES)
    with pytest.raises(NotAllowed, match="not on the public internet"):
        aim(f"{scheme}://{authority}/latest/meta-data", INTERNET)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1./", "http://4294967297/", "http://256.256.256.256/", "http://1.1.1.1.1/"),
        *("http://①②⑦.0.0.1/", "http://１２７.0.0.1/", "http://ⓛocalhost/", "http://0177.0.0.1/"),
        *("http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://%31%32%37.0.0.1/", "http://local%68ost/"),
        *("http://127.0.0.1%00.example/", "http://127.0.0.1%0d%0a.example/", "http://a\r\nHost: b/", "http://a\0b/"),
        *("http:127.0.0.1/", "http:///127.0.0.1/", "//127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/"),
        *(
            "ftp://127.0.0.1/",
            "http://[::1/",
            "http://[::1]x/",
            "http://127.0.0.1:99999/",
            "http://1.1.1.1:0/",
            "http://:80/",
            "http://-/",
        ),
    ],
)
def test_what_leads_nowhere(names: Callable[[Answers], list[str]], url: str) -> None:
    """No URL, or a host that nobody knows: refused before anything is connected to."""
    names({})
    with pytest.raises((InvalidSpec, NotFound)):
        aim(url, INTERNET)


def test_a_name_is_looked_up_once_and_its_address_pinned(names: Callable[[Answers], list[str]]) -> None:
    asked = names({"models.example": ["1.1.1.1", "1.0.0.1"]})
    found = aim("https://me:hush@Models.Example:8443/a/b?c=d", INTERNET)
    assert str(found.url).replace("me:hush@", "") == "https://1.1.1.1:8443/a/b?c=d"
    assert found.headers == {"Host": "models.example:8443"}
    assert found.extensions == {"sni_hostname": "models.example"}
    assert (found.shown, asked) == ("https://models.example:8443/a/b", ["models.example"])


def test_addresses_of_the_internet_are_pinned_in_every_form(names: Callable[[Answers], list[str]]) -> None:
    names({"mapped.example": ["::ffff:1.1.1.1"], "six.example.": ["2606:4700::1111"], "xn--fa-hia.de": ["1.1.1.1"]})
    assert aim("http://mapped.example/", INTERNET).url.host == "1.1.1.1"
    assert aim("http://six.example./", INTERNET).url.netloc == b"[2606:4700::1111]"
    assert aim("https://six.example./", INTERNET).extensions == {"sni_hostname": "six.example"}
    assert aim("http://16843009/", INTERNET).url.host == "1.1.1.1"
    assert aim("http://faß.de/", INTERNET).headers == {"Host": "xn--fa-hia.de"}


def test_the_machines_own_public_address_is_not_the_internet(
    names: Callable[[Answers], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What listens there may count on the firewall between."""
    names({"me.example": ["1.1.1.1"]})
    monkeypatch.setattr(reach, "own_addresses", lambda: frozenset({ipaddress.ip_address("1.1.1.1")}))
    with pytest.raises(NotAllowed):
        aim("http://me.example/", INTERNET)


def test_the_machine_knows_its_own_addresses() -> None:
    assert ipaddress.ip_address("127.0.0.1") in own_addresses()


@pytest.mark.parametrize("url", ["http://10.0.0.7/x", "http://Inside.Example./x", "http://[fd00::7]:80/x"])
def test_hosts_that_the_operator_names_are_within_reach(names: Callable[[Answers], list[str]], url: str) -> None:
    names({})
    allowed = Reach(anywhere=False, hosts=("10.0.0.7", "INSIDE.example", "fd00::7"), setting="webhook_hosts")
    assert str(aim(url, allowed).url.path) == "/x"
    for other in ("http://10.0.0.8/", "http://10.0.0.7.evil.invalid/", "http://10.0.0.7@127.0.0.1/"):
        with pytest.raises((NotAllowed, NotFound)) as refused:
            aim(other, allowed)
        assert not isinstance(refused.value, NotAllowed) or "webhook_hosts" in str(refused.value.remedy)


def test_the_person_at_the_machine_goes_anywhere(names: Callable[[Answers], list[str]]) -> None:
    asked = names({})
    assert str(aim("http://localhost:1/x", Reach(anywhere=True)).url) == "http://localhost:1/x"
    assert asked == []


@pytest.mark.parametrize("anywhere", [True, False])
def test_a_client_follows_nothing_and_trusts_a_proxy_only_of_ones_own(anywhere: bool) -> None:
    with reach.client(Reach(anywhere=anywhere), reach.httpx2.Timeout(1)) as made:
        assert (made.follow_redirects, made.trust_env) == (False, anywhere)

"""Where the service may connect to when somebody names a URL: nobody's way into the operator's network.

Whoever sends a request asks `aim` first and connects to what it returns, without following redirects: where
one leads is another URL, to be aimed at anew.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import httpx2
import psutil

from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_:](?:[a-z0-9_.:-]*[a-z0-9_.:])?", re.IGNORECASE)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that the internet's IPv6 has been given out from: what stands outside is local, or a wrapping of IPv4."""
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        # Named here because what Python takes for global changes with its version.
        *("192.0.0.0/24", "192.88.99.0/24"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and 6to4 are tunnels to any IPv4 address.
        # A cloud's own door to its machines, though it has a public address.
        "168.63.129.16/32",
    )
)
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The third quarter of addresses that are tunnels to the IPv4 address in the fourth."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a request may go."""

    anywhere: bool
    """As the person at the machine may, with the proxies of their environment. Else only addresses of
    the public internet that are not this machine's own, whatever a name resolves to."""
    hosts: Collection[str] = ()
    """Names and addresses of private hosts that may be reached nevertheless."""
    setting: str = "model_hosts"
    """Where an operator names them."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A URL that may be reached, ready to be sent: `client.stream("GET", aim.url, headers=aim.headers,
    extensions=aim.extensions)` of a client made by `client`."""

    asked: httpx2.URL
    url: httpx2.URL
    """The URL to connect to: with the very address that was checked, so that no second look-up differs."""
    headers: Mapping[str, str]
    """Host, as it was asked for."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """The name that the server's certificate must have, when the address stands in the URL."""

    @property
    def shown(self) -> str:
        """The URL asked for, without its secrets."""
        return without_secrets(self.asked)


def client(reach: Reach, timeout: httpx2.Timeout) -> httpx2.Client:
    """A client for aims of that reach: it follows no redirects, and knows a proxy only where one may go anywhere,
    since a proxy would look names up anew."""
    return httpx2.Client(timeout=timeout, trust_env=reach.anywhere, follow_redirects=False)


def aim(url: str | httpx2.URL, reach: Reach) -> Aim:
    """Look the host up, once, and decide. Raises InvalidSpec, NotAllowed (out of reach), NotFound (no such host)."""
    asked = parsed(url)
    headers = {"Host": asked.netloc.decode("ascii")}
    if reach.anywhere or _plain(_host(asked)) in {_plain(host) for host in reach.hosts}:
        return Aim(asked=asked, url=asked, headers=headers)
    addresses = _look_up(_host(asked), asked.port or _PORTS[asked.scheme])
    own = own_addresses()
    if not all(is_public(address) and address not in own for address in addresses):
        raise NotAllowed(
            f"The host {asked.host!r} is not on the public internet; an API key cannot make the service go there.",
            remedy=f"Ask the operator to name the host in the setting {reach.setting}, or do without it.",
        )
    return Aim(
        asked=asked,
        url=asked.copy_with(host=str(addresses[0])),
        headers=headers,
        extensions={"sni_hostname": _plain(_host(asked))} if asked.scheme == "https" else {},
    )


def parsed(url: str | httpx2.URL) -> httpx2.URL:
    """The URL, of the web and with a host. Raises InvalidSpec."""
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as exc:
        raise InvalidSpec(f"{url!r} is not a URL: {exc}.", remedy="Give http:// or https:// and a host.") from exc
    if found.scheme not in _PORTS or not found.host:
        raise InvalidSpec(f"{str(url)!r} is not a URL of the web.", remedy="Give http:// or https:// and a host.")
    if not _HOST.fullmatch(_host(found)):
        raise InvalidSpec(
            f"{found.host!r} is no name or address of a host.", remedy="Give its name in letters, digits and dots."
        )
    if found.port is not None and not 0 < found.port < 1 << 16:
        raise InvalidSpec(f"There is no port {found.port}.", remedy="Give a port from 1 to 65535, or none.")
    return found


def without_secrets(url: str | httpx2.URL) -> str:
    """The URL without user, password, query and fragment, which may hold keys: to show and to store."""
    return str(parsed(url).copy_with(userinfo=b"", query=None, fragment=None))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and so does the IPv4 address that it may wrap."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in _UNICAST or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _SPECIAL)


def own_addresses() -> frozenset[Address]:
    """Those of this machine, public ones too: what listens there may count on the firewall before it."""
    return frozenset(
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _look_up(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise NotFound(f"The host {host!r} is not known.", remedy="Check the URL.") from exc
    return [_unmapped(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in found]


def _unmapped(address: Address) -> Address:
    """What the system connects to for ::ffff:a.b.c.d."""
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")

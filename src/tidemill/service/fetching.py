"""Getting a model's bytes from a URL, without becoming somebody's way into the network."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound, TooLarge

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
WHOLE_SECONDS = 3600.0

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a fetch may go."""

    anywhere: bool
    """As the person at the machine may, with the proxies of their environment. Else only addresses of
    the public internet, whatever a name resolves to and wherever a redirect leads."""
    hosts: Collection[str] = ()
    """Names and addresses of private hosts that may be reached nevertheless."""


def is_url(source: str) -> bool:
    """Whether a model's source is to be fetched rather than found on disk."""
    return source.lower().startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """The URL without user, password, query and fragment, which may hold keys: to show and to store."""
    parts = _parsed(url)
    return str(parts.copy_with(userinfo=b"", query=None, fragment=None))


def name_of(url: str) -> str:
    """The file name that a URL ends with; may be empty."""
    return _parsed(url).path.rpartition("/")[2]


def fetch(url: str, write: Callable[[bytes], object], *, reach: Reach, max_bytes: int) -> None:
    """GET `url` and hand its bytes to `write`, at most `max_bytes` of them.

    Raises InvalidSpec, NotAllowed (an address out of reach), NotFound (it cannot be fetched), TooLarge.
    """
    shown = without_secrets(url)
    deadline = time.monotonic() + WHOLE_SECONDS
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx2.Client(timeout=timeout, trust_env=reach.anywhere, follow_redirects=False) as client,
            _answer(client, _parsed(url), reach) as answer,
        ):
            _check_size(answer, shown, max_bytes)
            size = 0
            for piece in answer.iter_bytes():
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(shown, max_bytes)
                if time.monotonic() > deadline:
                    raise NotFound(f"{shown} took longer than {WHOLE_SECONDS:g} s.", remedy="Send the file instead.")
                write(piece)
    except httpx2.HTTPError as exc:
        raise NotFound(
            f"The model at {shown} cannot be fetched: {exc or type(exc).__name__}.", remedy="Check the URL."
        ) from exc


@contextmanager
def _answer(client: httpx2.Client, url: httpx2.URL, reach: Reach) -> Iterator[httpx2.Response]:
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        with client.stream("GET", _pinned(url, reach), headers=_headers(url), extensions=_names(url)) as answer:
            if answer.status_code not in _REDIRECTS:
                _check_status(answer, without_secrets(str(url)))
                yield answer
                return
            url = _next(url, answer)
    raise NotFound(
        f"{without_secrets(str(first))} redirects more than {MAX_REDIRECTS} times.", remedy="Give the last URL."
    )


def _headers(url: httpx2.URL) -> dict[str, str]:
    # A coding undone here could make much of little; the bytes are wanted as they are.
    return {"Host": url.netloc.decode("ascii"), "Accept": "*/*", "Accept-Encoding": "identity"}


def _names(url: httpx2.URL) -> dict[str, str]:
    """The name that the server's certificate must have, when the address stands in the URL."""
    return {"sni_hostname": url.raw_host.decode("ascii").strip("[]")} if url.scheme == "https" else {}


def _next(url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
    location = answer.headers.get("location")
    if not location:
        raise NotFound(f"{without_secrets(str(url))} redirects to nowhere.", remedy="Check the URL.")
    try:
        target = url.join(location)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise NotFound(
            f"{without_secrets(str(url))} redirects to something that is no URL.", remedy="Check the URL."
        ) from exc
    if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
        raise NotAllowed(
            f"{without_secrets(str(url))} redirects from {url.scheme} to {target.scheme}.",
            remedy="Give the URL that it leads to, if you trust it.",
        )
    return target


def _pinned(url: httpx2.URL, reach: Reach) -> httpx2.URL:
    """The URL to connect to: with the very address that was checked, so that no second look-up differs."""
    if reach.anywhere or url.host in reach.hosts:
        return url
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise NotFound(f"The host {url.host!r} is not known.", remedy="Check the URL.") from exc
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise NotAllowed(
            f"The host {url.host!r} is not on the public internet; an API key cannot make the service go there.",
            remedy="Send the file itself, or ask the operator to name the host in the setting model_hosts.",
        )
    return url.copy_with(host=str(addresses[0]))


def is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address it may wrap, belongs to the public internet."""
    return all(each.is_global and not each.is_multicast for each in (address, *_wrapped(address)))


def _wrapped(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    if address.teredo is not None:
        found += address.teredo
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as exc:
        raise InvalidSpec(f"{url!r} is not a URL: {exc}.", remedy="Give http:// or https:// and a host.") from exc
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSpec(f"{url!r} is not a URL of the web.", remedy="Give http:// or https:// and a host.")
    return parsed


def _check_status(answer: httpx2.Response, shown: str) -> None:
    status = answer.status_code
    if status == 200:
        return
    if status in _GONE:
        raise NotFound(f"There is nothing at {shown} (it answered {status}).", remedy="Check the URL.")
    raise NotFound(f"The model at {shown} cannot be fetched: it answered {status}.", remedy="Check the URL.")


def _check_size(answer: httpx2.Response, shown: str, max_bytes: int) -> None:
    said = answer.headers.get("content-length", "")
    if said.isdigit() and int(said) > max_bytes:
        raise _too_large(shown, max_bytes)


def _too_large(shown: str, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The model at {shown} is larger than {max_bytes:,} bytes.", remedy="Raise the setting max_upload_bytes."
    )

"""Getting a model's bytes from a URL, without becoming somebody's way into the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2

from tidemill.domain.errors import NotAllowed, NotFound, TooLarge
from tidemill.service import reach as reaching
from tidemill.service.reach import Reach, parsed, without_secrets

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
WHOLE_SECONDS = 3600.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
# A coding undone here could make much of little; the bytes are wanted as they are.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}


def is_url(source: str) -> bool:
    """Whether a model's source is to be fetched rather than found on disk."""
    return source.lower().startswith(("http://", "https://"))


def name_of(url: str) -> str:
    """The file name that a URL ends with; may be empty."""
    return parsed(url).path.rpartition("/")[2]


def fetch(
    url: str, write: Callable[[bytes], object], *, reach: Reach, max_bytes: int, authorization: str | None = None
) -> None:
    """GET `url` and hand its bytes to `write`, at most `max_bytes` of them. The header `authorization` goes to its
    origin, and not where that redirects to.

    Raises InvalidSpec, NotAllowed (an address out of reach), NotFound (it cannot be fetched), TooLarge.
    """
    shown = without_secrets(url)
    deadline = time.monotonic() + WHOLE_SECONDS
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            reaching.client(reach, timeout) as client,
            _answer(client, parsed(url), reach, authorization) as answer,
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
def _answer(
    client: httpx2.Client, url: httpx2.URL, reach: Reach, authorization: str | None
) -> Iterator[httpx2.Response]:
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        aim = reaching.aim(url, reach)
        headers = {**_HEADERS, **aim.headers}
        if authorization is not None and _origin(url) == _origin(first):
            headers["Authorization"] = authorization
        with client.stream("GET", aim.url, headers=headers, extensions=dict(aim.extensions)) as answer:
            if answer.status_code not in _REDIRECTS:
                _check_status(answer, without_secrets(url))
                yield answer
                return
            url = _next(url, answer)
    raise NotFound(f"{without_secrets(first)} redirects more than {MAX_REDIRECTS} times.", remedy="Give the last URL.")


def _origin(url: httpx2.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _next(url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
    location = answer.headers.get("location")
    if not location:
        raise NotFound(f"{without_secrets(url)} redirects to nowhere.", remedy="Check the URL.")
    try:
        target = url.join(location)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise NotFound(
            f"{without_secrets(url)} redirects to something that is no URL.", remedy="Check the URL."
        ) from exc
    if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
        raise NotAllowed(
            f"{without_secrets(url)} redirects from {url.scheme} to {target.scheme}.",
            remedy="Give the URL that it leads to, if you trust it.",
        )
    return target


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

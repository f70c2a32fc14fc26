"""HTTP to one service: addresses, the key, retries, and problems turned into typed errors."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from tidemill.domain.errors import BY_CODE, InvalidSpec, ServiceUnreachable, TidemillError
from tidemill.wire.api import Problem

API = "/api/v1"
IDEMPOTENCY_KEY = "Idempotency-Key"
SAFE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be repeated whatever became of the first try; POST may with an Idempotency-Key."""
BUSY = frozenset({429, 503})

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
LOST_TRIES = 4
"""How often a request is sent whose connection fails."""

M = TypeVar("M", bound=BaseModel)
Content = Callable[[], Iterator[bytes]]
"""Makes the body anew for each try."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, which may be sent more than once."""

    method: str
    path: str
    """Below /api/v1, or absolute below the service's address as in links of answers."""
    query: Mapping[str, Any] = field(default_factory=dict)
    """None values are left out."""
    body: BaseModel | Mapping[str, Any] | None = None
    content: Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_seconds: float = ANSWER_SECONDS
    accept: frozenset[int] = frozenset()
    """Statuses that are answers here and no errors, beside those of success."""

    @property
    def repeatable(self) -> bool:
        return self.method in SAFE or IDEMPOTENCY_KEY in self.headers


def once(key: str | None = None) -> dict[str, str]:
    """Headers of a request that makes one thing however often it is sent: by this key or one of its own."""
    return {IDEMPOTENCY_KEY: key or f"auto-{uuid.uuid4().hex}"}


class Connection:
    """Requests to the service at `url`. For use by one thread at a time; close it.

    `patience_seconds` is how long one request is repeated in all while the service says that it is busy.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        patience_seconds: float = 60.0,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.url = _checked(url)
        self.patience_seconds = patience_seconds
        self._sleep = sleep or time.sleep
        headers = {"User-Agent": f"tidemill/{version('tidemill')}", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._http = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            transport=transport,
            # A proxy of the environment does not lead to this very machine.
            trust_env=not _is_loopback(self.url),
        )

    def close(self) -> None:
        """Give connections back."""
        self._http.close()

    def ask(self, kind: type[M], call: Call) -> M:
        """Send it and read the answer as that type."""
        response = self._send(call, whole=True)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as exc:
            raise self._not_ours(response) from exc

    def tell(self, call: Call) -> None:
        """Send it; the answer has nothing to read."""
        self._send(call, whole=True)

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx2.Response]:
        """Send it; the body of the answer is read inside the block. Raises what a problem says."""
        response = self._send(call, whole=False)
        try:
            yield response
        except httpx2.TransportError as exc:
            raise self._unreachable(exc) from exc
        finally:
            response.close()

    def _send(self, call: Call, *, whole: bool) -> httpx2.Response:
        """The answer, with its body if it is to be `whole`: an answer that breaks off is none."""
        end = time.monotonic() + self.patience_seconds
        lost = 0
        while True:
            try:
                response = self._http.send(self._request(call), stream=not whole)
            except httpx2.TransportError as exc:
                lost += 1
                if not call.repeatable or lost >= LOST_TRIES:
                    raise self._unreachable(exc) from exc
                wait: float | None = None
            else:
                if response.is_success or response.status_code in call.accept:
                    return response
                wait = _asked_to_wait(response)
                error = self._error(response)
                if wait is None or not call.repeatable or time.monotonic() + wait > end:
                    raise error
            if wait is None:
                self.pause(lost)
            else:
                self._sleep(max(wait, FIRST_PAUSE_SECONDS))

    def pause(self, failures: int) -> None:
        """Wait before the next try, longer after each failure."""
        self._sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1)))

    def _request(self, call: Call) -> httpx2.Request:
        json = call.body.model_dump(mode="json") if isinstance(call.body, BaseModel) else call.body
        return self._http.build_request(
            call.method,
            self.address(call.path),
            params={name: value for name, value in call.query.items() if value is not None} or None,
            json=json,
            content=call.content() if call.content else None,
            headers=dict(call.headers),
            timeout=httpx2.Timeout(call.read_seconds, connect=CONNECT_SECONDS),
        )

    def address(self, path: str) -> str:
        """The whole URL of a path, also of one that begins with the API's own prefix.

        Answers name paths as the service sees them; before it may stand a proxy with a prefix of its own.
        """
        before, found, after = path.partition(API)
        below = after if found and (not before or "://" in before) else path
        return f"{self.url}{API}{below}"

    def _error(self, response: httpx2.Response) -> TidemillError:
        try:
            response.read()
            problem = Problem.model_validate_json(response.content)
        except (httpx2.TransportError, ValidationError):
            return self._not_ours(response)
        finally:
            response.close()
        kind = BY_CODE.get(problem.code, TidemillError)
        return kind(_with_faults(problem), remedy=problem.remedy)

    def _unreachable(self, cause: httpx2.TransportError) -> ServiceUnreachable:
        reason = (str(cause) or type(cause).__name__).rstrip(".")
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ServiceUnreachable(
                f"No Tidemill service answers at {self.url}: {reason}.",
                remedy="Check the address (--server, TIDEMILL_SERVER) and that `tidemill serve` runs there.",
            )
        return ServiceUnreachable(
            f"The connection to {self.url} was lost: {reason}.",
            remedy="Try again; see whether the service, or a proxy before it, was restarted.",
        )

    def _not_ours(self, response: httpx2.Response) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"{response.request.method} {response.request.url} was answered with {response.status_code}"
            f" {response.reason_phrase}, but not in the words of a Tidemill service.",
            remedy="Check the address; a proxy, or a service of another version, may stand there.",
        )


def _checked(url: str) -> str:
    text = url.strip().rstrip("/").removesuffix(API)
    try:
        parts = httpx2.URL(text)
    except httpx2.InvalidURL:
        parts = httpx2.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidSpec(
            f"{url!r} is not the address of a service.", remedy="Write it as http://host:8642 or https://host."
        )
    return text


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _asked_to_wait(response: httpx2.Response) -> float | None:
    """Seconds after which the service wants to be asked again; None if it is no use."""
    if response.status_code not in BUSY:
        return None
    text = response.headers.get("Retry-After")
    if text is None:
        return FIRST_PAUSE_SECONDS if response.status_code == 429 else None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _with_faults(problem: Problem) -> str:
    """The message, with the faults of the request that it does not name itself."""
    faults = [f"{fault.get('where')}: {fault.get('message')}" for fault in problem.errors[:3]]
    more = [fault for fault in faults if fault not in problem.detail]
    return f"{problem.detail} ({'; '.join(more)})" if more else problem.detail

"""Sending deliveries: signed, at least once, each with the same id until it arrived or is given up.

One loop of its own beside a server; any number of servers may share a store. What a delivery waits for is a
receiver of somebody else's, so everything has a bound: the whole attempt by the clock, attempts at once in all and to
one webhook; of an answer only the status is read.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import httpx2

from tidemill.domain.errors import StoreUnusable, TidemillError
from tidemill.domain.version import __version__
from tidemill.domain.webhook import Claimed, Delivery, EventType, body, retry_seconds, secret, signed_headers
from tidemill.service import reach, signing, webhooks
from tidemill.service.context import Context
from tidemill.service.reach import Aim

log = logging.getLogger(__name__)

R = TypeVar("R")
Told = Callable[[str], None]
"""Hears what became of each attempt: "delivered", "failed" or "given_up"."""

_GONE = 410
_SLOW_DOWN = frozenset({429, 503})
_LONGEST_ASKED_SECONDS = 86_400
_PAUSE_SECONDS = 5.0
"""After the store did not answer."""


@dataclass(frozen=True, kw_only=True)
class SenderOptions:
    """Bounds of one sender."""

    at_once: int = 64
    at_once_each: int = 4
    """To one webhook."""
    connect_seconds: float = 5.0
    attempt_seconds: float = 15.0
    """From looking the host up to the status of the answer."""
    lease_seconds: float = 60.0
    """When a sender died in an attempt, it is made again after so long."""
    look_seconds: float = 0.5
    """How often it looks for what is due."""
    leave_seconds: float = 3.0
    """How long attempts may go on when the sender ends; others are made again."""


DEFAULTS = SenderOptions()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an attempt."""

    status: int | None = None
    problem: str | None = None
    """None: it arrived."""
    asked_seconds: float = 0.0
    """How long the receiver asked to wait, at least."""


class Sender:
    """Sends what is due until it is stopped. All methods are thread-safe."""

    def __init__(self, context: Context, options: SenderOptions = DEFAULTS, told: Told | None = None) -> None:
        self._context, self._options, self._told = context, options, told
        # Looking up a host cannot be broken off, only left alone: a slow name service must not hold up the store.
        self._names = ThreadPoolExecutor(options.at_once, thread_name_prefix="webhook-names")
        self._books = ThreadPoolExecutor(4, thread_name_prefix="webhook-books")
        self._flying: dict[asyncio.Task[None], str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more. Returns at once; safe to repeat."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # It has ended meanwhile.
                loop.call_soon_threadsafe(self._wake.set)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until a stopped sender has ended; whether it did."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            log.exception("webhooks are not sent any more: this is a defect of Tidemill")
        finally:
            self._names.shutdown(wait=False, cancel_futures=True)
            self._books.shutdown(wait=False, cancel_futures=True)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with _client(self._options) as client:
            while not self._stopping.is_set():
                pause = await self._take(client)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._wake.clear()
            await self._leave()

    async def _leave(self) -> None:
        if self._flying:
            await asyncio.wait(self._flying, timeout=self._options.leave_seconds)
        left = list(self._flying)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _take(self, client: httpx2.AsyncClient) -> float:
        """Start what is due; how long to wait before the next look."""
        # Read here: only the loop's own thread changes it.
        free, busy = self._options.at_once - len(self._flying), frozenset(self._flying.values())
        try:
            claimed = await self._asked(lambda: self._claim(free, busy))
        except StoreUnusable as exc:
            if not self._away:
                log.warning("webhooks wait while the store does not answer: %s", exc)
            self._away = True
            return _PAUSE_SECONDS
        except TidemillError as exc:
            log.error("webhooks cannot be sent: %s", exc)
            return _PAUSE_SECONDS
        except Exception:
            log.exception("sending webhooks failed; it is tried again")
            return _PAUSE_SECONDS
        self._away = False
        for each in claimed:
            task = asyncio.create_task(self._deliver(client, each))
            self._flying[task] = each.webhook.id
            task.add_done_callback(self._landed)
        return self._options.look_seconds

    def _claim(self, free: int, busy: frozenset[str]) -> list[Claimed]:
        options, key = self._options, self._context.signing.find()
        if key is None or free <= 0:
            return []
        return self._context.store.outbox.claim_due(
            signing.key_id(key),
            limit=free,
            each=options.at_once_each,
            lease_seconds=options.lease_seconds,
            busy=busy,
        )

    def _landed(self, task: asyncio.Task[None]) -> None:
        del self._flying[task]
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a delivery ended with an error that is a defect of Tidemill", exc_info=task.exception())

    async def _deliver(self, client: httpx2.AsyncClient, claimed: Claimed) -> None:
        outcome = await attempt(self._context, client, claimed, self._options, self._names)
        try:
            became = await self._asked(lambda: record(self._context, claimed, outcome))
        except StoreUnusable as exc:
            log.warning("%s is sent again, since what became of it cannot be stored: %s", claimed.delivery.id, exc)
            return
        if became is not None and self._told is not None:
            self._told(became)

    async def _asked(self, question: Callable[[], R]) -> R:
        """The answer of the store, without holding up the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._books, question)


def send_now(context: Context, delivery: Delivery, options: SenderOptions = DEFAULTS) -> None:
    """Attempt this one here, unless a sender has taken it: for a machine on which no server runs."""
    key = context.signing.find()
    if key is None:
        return
    claimed = context.store.outbox.claim(delivery.id, signing.key_id(key), lease_seconds=options.lease_seconds)
    if claimed is not None:
        record(context, claimed, asyncio.run(_once(context, claimed, options)))


async def _once(context: Context, claimed: Claimed, options: SenderOptions) -> Outcome:
    async with _client(options) as client:
        return await attempt(context, client, claimed, options, None)


async def attempt(
    context: Context, client: httpx2.AsyncClient, claimed: Claimed, options: SenderOptions, names: Executor | None
) -> Outcome:
    """POST one message once; hosts are looked up in `names`. Raises nothing that a receiver can cause."""
    try:
        async with asyncio.timeout(options.attempt_seconds):
            aim = await asyncio.get_running_loop().run_in_executor(
                names, reach.aim, claimed.webhook.url, webhooks.reach_of(context)
            )
            content = body(claimed.delivery, context.policy.public_url or "")
            return await _post(client, aim, _signed(context, claimed, content), content)
    except TimeoutError:
        return Outcome(problem=f"No answer within {options.attempt_seconds:g} s.")
    except TidemillError as exc:
        return Outcome(problem=str(exc))
    except httpx2.RemoteProtocolError:
        # The library quotes what came; nothing of an answer is shown.
        return Outcome(problem="It closed the connection, or what it answered is no HTTP.")
    except httpx2.HTTPError as exc:
        return Outcome(problem=f"It cannot be reached: {exc or type(exc).__name__}.")


async def _post(client: httpx2.AsyncClient, aim: Aim, signed: dict[str, str], content: bytes) -> Outcome:
    headers = {
        **aim.headers,
        **signed,
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"Tidemill/{__version__}",
        "Connection": "close",
    }
    async with client.stream(
        "POST", aim.url, content=content, headers=headers, extensions=dict(aim.extensions)
    ) as answer:
        # The body is not read: it could be anything, of any length, and it says nothing.
        status = answer.status_code
        if 200 <= status < 300:
            return Outcome(status=status)
        return Outcome(status=status, problem=_refusal(status), asked_seconds=_asked_seconds(status, answer.headers))


def record(context: Context, claimed: Claimed, outcome: Outcome) -> str | None:
    """Write down what came of an attempt; as `Told` hears it, or None if somebody else has taken it over."""
    outbox, delivery = context.store.outbox, claimed.delivery
    if outcome.problem is None:
        assert outcome.status is not None
        return "delivered" if outbox.delivered_if_current(claimed, outcome.status) else None
    gone = outcome.status == _GONE
    once = gone or delivery.type is EventType.PING
    pause = None if once else retry_seconds(delivery.attempts, random.random())
    if pause is not None:
        pause = max(pause, outcome.asked_seconds)
    if not outbox.failed_if_current(claimed, outcome.problem, status=outcome.status, retry_seconds=pause):
        return None
    if gone:
        context.store.webhooks.disable(claimed.webhook.id, "The receiver answered 410: it is gone.")
    if pause is None:
        where = reach.without_secrets(claimed.webhook.url)
        log.warning("%s to %s (%s) is given up: %s", delivery.id, where, claimed.webhook.id, outcome.problem)
    return "failed" if pause is not None else "given_up"


def _signed(context: Context, claimed: Claimed, content: bytes) -> dict[str, str]:
    key = context.signing.find()
    assert key is not None, "it was claimed by that key's id"
    hook = claimed.webhook
    generations = [hook.generation]
    if hook.previous_until is not None and datetime.now(UTC) < hook.previous_until:
        generations.append(hook.generation - 1)
    secrets = [secret(key, hook.id, generation) for generation in generations]
    return signed_headers(secrets, claimed.delivery.id, int(time.time()), content)


def _client(options: SenderOptions) -> httpx2.AsyncClient:
    """No proxy, which would look names up anew; no redirects; a connection for each attempt.

    Of the environment only SSL_CERT_FILE and SSL_CERT_DIR count: receivers inside may have certificates of their own.
    """
    return httpx2.AsyncClient(
        verify=httpx2.create_ssl_context(),
        timeout=httpx2.Timeout(options.attempt_seconds, connect=options.connect_seconds),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        trust_env=False,
        follow_redirects=False,
    )


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"It answered {status}: redirects are not followed; give the webhook the URL that it leads to."
    return f"It answered {status}."


def _asked_seconds(status: int, headers: httpx2.Headers) -> float:
    said = headers.get("retry-after", "")
    if status not in _SLOW_DOWN or not (said.isascii() and said.isdigit()):
        return 0.0
    return float(min(int(said[:9]), _LONGEST_ASKED_SECONDS))

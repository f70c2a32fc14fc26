"""What a page is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from tidemill.domain.access import Action, Principal
from tidemill.domain.login import shown_owner
from tidemill.service import keys
from tidemill.service.context import Context
from tidemill.ui import session
from tidemill.ui.rendering import Templates


class Door(Protocol):
    """The API's own rule of who is let in."""

    def authenticate(self, request: Request) -> Principal:
        """Who sends this request. Raises NotAuthenticated, NotAllowed, TooManyRequests."""

    def forget(self) -> None:
        """A login was just ended here: ask the store again."""

    def count_refusal(self, request: Request) -> None:
        """Somebody could not be let in. Raises TooManyRequests if that happened too often."""


class Ear(Protocol):
    """Hears that something was written to the store."""

    async def wait(self, timeout_seconds: float) -> bool:
        """Until that happened or the time is over; False: the service ends."""


class Pulse(Protocol):
    """The API's own watch of the store, for many listeners."""

    def check_room(self) -> None:
        """Raises TooManyRequests if no more can listen."""

    def listen(self) -> AbstractContextManager[Ear]:
        """Only in the event loop. Raises TooManyRequests."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every page works with."""

    context: Context
    door: Door
    pulse: Pulse
    templates: Templates = field(default_factory=Templates)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request of somebody who may make it."""

    site: Site
    request: Request
    who: Principal
    form: Mapping[str, str]

    @property
    def context(self) -> Context:
        return self.site.context

    @property
    def base_url(self) -> str:
        """What to type to reach this service, for people; a proxy in between may have said "https"."""
        url = self.request.base_url
        if self.request.headers.get("x-forwarded-proto") == "https":
            url = url.replace(scheme="https")
        return str(url).rstrip("/")

    def owner_names(self) -> Callable[[str], str]:
        """What to call those whose jobs these are: a key by its name, everybody else by their own."""
        names = {key.id: key.name for key in keys.list(self.context, self.who)}
        return lambda owner: names.get(owner) or shown_owner(owner)

    def answer(self, template: str, **values: Any) -> Response:
        """A page, with what all pages show: who looks at it, and what they may do."""
        return self.site.templates.answer(
            template,
            who=self.who,
            signed_in=session.COOKIE in self.request.cookies,
            may_run=self.who.may(Action.RUN_JOBS),
            **values,
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """An address and what answers there. Those that change something are posts."""

    path: str
    show: Callable[[Visit], Response]
    needs: Action = Action.SEE
    method: str = "GET"

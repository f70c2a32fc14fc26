"""A site over a real store, with a job in every state and keys of two tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.homes import furnish
from tests.integration.ui.made import HERE, Jobs
from tidemill import ui
from tidemill.api.access import Access, Bounds
from tidemill.api.pulse import Pulse
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal, Role
from tidemill.domain.job import JobState
from tidemill.service import keys
from tidemill.service.context import Context
from tidemill.wire.api import AddKey


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with opened(Settings(home=furnish(tmp_path / "home")), children=False) as wired:
        yield wired


@pytest.fixture
def jobs(context: Context) -> Jobs:
    return Jobs(context=context)


@pytest.fixture
def full(jobs: Jobs) -> dict[JobState, str]:
    """A job in every state, by state."""
    return {state: jobs.add(number, state) for number, state in enumerate(JobState)}


@pytest.fixture
def app(context: Context) -> Iterator[FastAPI]:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    access = Access(context, Bounds(max_body_bytes=1 << 20, requests_per_minute=6000))

    @app.post("/api/v1/who")
    @app.get("/api/v1/who")
    def who(request: Request) -> str:
        return access.authenticate(request).name

    app.state.pulse = Pulse(context.store)
    ui.mount(app, context, access, app.state.pulse)
    yield app
    app.state.pulse.close()


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    """On the service's own machine."""
    with TestClient(app, base_url=HERE, client=("127.0.0.1", 50_000), follow_redirects=False) as client:
        yield client


@pytest.fixture
def key_of(context: Context) -> Callable[..., str]:
    """Makes a key and returns its text."""

    def made(name: str, *, role: Role = Role.OPERATOR, tenant: str = "default") -> str:
        wanted = AddKey(name=name, role=role.value, tenant=tenant)
        return keys.add(context, Principal(name="me"), wanted)[1]

    return made

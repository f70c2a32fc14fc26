"""A job's event stream: every change of state once, in order, from where the client left off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.integration.api.house import House, opened_house, served
from tests.postgres import Server
from tidemill.api import pulse
from tidemill.api.app import create_app
from tidemill.api.routes import events
from tidemill.domain.access import Role
from tidemill.domain.job import Job, JobState
from tidemill.testing.store import new_plan, new_receipt
from tidemill.wire.api import JobEventOut, JobProgressOut

MOST_SECONDS = 20.0
MANY_SECONDS = 60.0


@dataclass(frozen=True)
class Event:
    name: str
    id: int | None
    data: str

    @property
    def state(self) -> str:
        return JobEventOut.model_validate_json(self.data).state

    @property
    def progress(self) -> JobProgressOut:
        return JobProgressOut.model_validate_json(self.data)


def events_of(answer: httpx2.Response, lines: Iterator[str] | None = None) -> Iterator[Event]:
    """What a client of the format reads; `lines` are those that are left of the answer."""
    words: dict[str, str] = {}
    for line in lines or answer.iter_lines():
        if not line:
            if "data" in words:
                yield Event(words["event"], int(words["id"]) if "id" in words else None, words["data"])
            words = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            words[name] = value


@pytest.fixture
def url(house: House) -> Iterator[str]:
    with served(create_app(house.context)) as address:
        yield address


def stream(url: str, job: Job, headers: dict[str, str] | None = None) -> list[Event]:
    """All events until the server ends the stream."""
    with httpx2.stream(
        "GET", f"{url}/api/v1/jobs/{job.id}/events", headers=headers or {}, timeout=MOST_SECONDS
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events_of(answer))


def test_a_jobs_whole_way_is_told_as_it_happens(house: House, url: str) -> None:
    job = house.submit()
    seen: list[Event] = []
    began = threading.Event()

    def read() -> None:
        with httpx2.stream("GET", f"{url}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as answer:
            for event in events_of(answer):
                seen.append(event)
                began.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(MOST_SECONDS)
    lease = house.claim(job)
    ledger = house.context.store.ledger
    assert ledger.record_plan_if_current(lease, new_plan(2))
    assert ledger.commit_chunks_if_current(lease, [new_receipt(0)])
    wait_until(lambda: any(e.name == "progress" and e.progress.counts.predicted == 10 for e in seen))
    assert ledger.commit_chunks_if_current(lease, [new_receipt(1, rejected=4)])
    assert ledger.begin_commit_if_current(lease, {"files": []}, {})
    assert house.context.store.jobs.end_if_current(lease, JobState.SUCCEEDED_WITH_REJECTIONS)
    reader.join(MOST_SECONDS)
    assert not reader.is_alive(), "the stream must end with the job"
    states = [event for event in seen if event.name == "state"]
    assert [event.state for event in states] == [
        "queued", "planning", "running", "committing", "succeeded_with_rejections",
    ]  # fmt: skip
    numbers = [event.id for event in states]
    assert None not in numbers
    assert numbers == sorted(set(numbers))
    progress = [event for event in seen if event.name == "progress"]
    assert {event.id for event in progress} == {None}
    last = progress[-1].progress
    assert (last.counts.predicted, last.counts.rejected, last.percent) == (16, 4, 100.0)
    assert last.state == "succeeded_with_rejections"


def wait_until(so: object) -> None:
    assert callable(so)
    stop = time.monotonic() + MOST_SECONDS
    while not so():
        assert time.monotonic() < stop
        time.sleep(0.01)


def test_a_client_goes_on_where_it_left_off(house: House, url: str) -> None:
    job = house.finish(house.submit())
    everything = [event for event in stream(url, job) if event.name == "state"]
    assert [event.state for event in everything] == ["queued", "planning", "running", "committing", "succeeded"]
    for number, event in enumerate(everything[:-1]):
        rest = stream(url, job, {"Last-Event-ID": str(event.id)})
        assert [each for each in rest if each.name == "state"] == everything[number + 1 :]
    last = httpx2.get(
        f"{url}/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(everything[-1].id)}, timeout=MOST_SECONDS
    )
    assert (last.status_code, last.content) == (204, b"")


def test_a_failed_jobs_stream_ends(house: House, url: str) -> None:
    states = [event.state for event in stream(url, house.fail(house.submit())) if event.name == "state"]
    assert states == ["queued", "planning", "failed"]


def test_waiting_streams_hold_no_threads(house: House, url: str) -> None:
    """More of them than the server has threads, and others are still answered; one watch serves all."""
    jobs = [house.submit() for _ in range(3)]

    async def read(client: httpx2.AsyncClient, job: Job, began: asyncio.Event) -> str:
        last = ""
        async with client.stream("GET", f"/api/v1/jobs/{job.id}/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    last = line
                    began.set()
        return last

    async def all_of_them() -> list[str]:
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(base_url=url, timeout=MANY_SECONDS, limits=limits) as client:
            begun = [asyncio.Event() for _ in jobs * 20]
            streams = [
                asyncio.create_task(read(client, job, began)) for job, began in zip(jobs * 20, begun, strict=True)
            ]
            await asyncio.wait_for(asyncio.gather(*(began.wait() for began in begun)), MANY_SECONDS)
            assert (await client.get("/api/v1/service")).status_code == 200
            assert [thread.name for thread in threading.enumerate()].count("tidemill-pulse") == 1
            for job in jobs:
                await asyncio.to_thread(house.fail, job)
            return await asyncio.gather(*streams)

    ended = asyncio.run(all_of_them())
    assert len(ended) == 60
    assert all('"state":"failed"' in last for last in ended)


def test_streams_are_bounded(house: House, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "MAX_LISTENERS", 1)
    job = house.submit()
    with httpx2.stream("GET", f"{url}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as first:
        reading = events_of(first)
        assert next(reading).state == "queued"
        refused = httpx2.get(f"{url}/api/v1/jobs/{job.id}", params={"wait": 5}, timeout=MOST_SECONDS)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        refused = httpx2.get(f"{url}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    wait_until(
        lambda: (
            httpx2.get(f"{url}/api/v1/jobs/{job.id}", params={"wait": 0.01}, timeout=MOST_SECONDS).status_code == 200
        )
    )


def test_a_server_that_ends_ends_its_streams(house: House) -> None:
    job = house.submit()
    app = create_app(house.context)
    with served(app) as address:
        with httpx2.stream("GET", f"{address}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as answer:
            told = events_of(answer)
            assert next(told).state == "queued"
            app.state.pulse.close()
            assert [event.name for event in told] in ([], ["progress"])


def test_a_quiet_stream_says_that_it_is_there(house: House, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_KEEPALIVE_SECONDS", 0.0)
    job = house.submit()
    with httpx2.stream("GET", f"{url}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as answer:
        assert ": still here" in answer.iter_lines()


def test_a_stream_does_not_last_for_ever(house: House, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a key which was revoked meanwhile is asked for again."""
    monkeypatch.setattr(events, "MAX_STREAM_SECONDS", 0.0)
    assert [event.name for event in stream(url, house.submit())] == ["state", "progress"]


def test_a_store_that_goes_away_and_comes_back(tmp_path: Path, postgres: Server, postgres_url: str) -> None:
    """Meanwhile requests are refused with 503, and a stream goes on afterwards without a gap."""
    with opened_house(tmp_path, store=postgres_url) as house:
        house.model()
        job = house.submit()
        with served(create_app(house.context)) as address:
            with httpx2.stream("GET", f"{address}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as answer:
                lines = answer.iter_lines()
                assert "event: progress" in lines
                postgres.stop()
                try:
                    for path in ("/api/v1/jobs", f"/api/v1/jobs/{job.id}", "/health"):
                        refused = httpx2.get(address + path, timeout=MOST_SECONDS)
                        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2"), path
                    assert ": the job store does not answer" in lines
                finally:
                    postgres.start()
                wait_until(lambda: httpx2.get(f"{address}/health", timeout=MOST_SECONDS).status_code == 200)
                house.fail(job)
                states = [event.state for event in events_of(answer, lines) if event.name == "state"]
    assert states == ["planning", "failed"]


def test_another_tenants_events_are_not_there(house: House, url: str) -> None:
    job = house.submit()
    _, key = house.key(Role.ADMIN, "red")
    answer = httpx2.get(
        f"{url}/api/v1/jobs/{job.id}/events", headers={"Authorization": f"Bearer {key}"}, timeout=MOST_SECONDS
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

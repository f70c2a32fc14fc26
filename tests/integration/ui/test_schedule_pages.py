"""Pages of schedules: empty, full, and their buttons."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.testclient import TestClient

from tests.integration.ui.made import EVIL
from tests.integration.ui.test_pages import get
from tidemill.domain.job import JobState
from tidemill.domain.schedule import FiringState
from tidemill.service.context import Context
from tidemill.testing.store import new_firing, new_job, new_schedule

T0 = datetime(2026, 11, 26, 1, tzinfo=UTC)
SAME_SITE = {"Origin": "http://127.0.0.1:8642"}


def fill(context: Context) -> None:
    """One schedule with a firing of each kind; its words are somebody's who means evil."""
    spec = {"model": EVIL, "input": {"path": [f"/in/{EVIL}/{{{{ due | date }}}}"]}, "output": {"path": "/out"}}
    context.store.schedules.add(new_schedule(spec=spec, created_by=EVIL, next_due=T0))
    context.store.schedules.add(new_schedule("resting", paused=True))
    context.store.jobs.submit(new_job("job_aaaaaa"))
    for hour, state in enumerate(FiringState):
        started = {"job_id": "job_aaaaaa", "job_state": JobState.SUCCEEDED_WITH_REJECTIONS}
        reason = {"reason": {"code": "not_found", "message": f"Why {state}: {EVIL}", "remedy": "Mend it."}}
        changes = started if state is FiringState.STARTED else reason
        context.store.firings.record_if_new(new_firing(T0 + timedelta(hours=hour), state, **changes))


def test_nothing_yet(browser: TestClient) -> None:
    words = get(browser, "/schedules").words
    assert "No schedules yet" in words
    assert "schedules add churn@latest 'server:/lake/{{ due - 1d | date }}'" in words
    assert "There is no schedule" in get(browser, "/schedules/nightly", 404).words


def test_all(browser: TestClient, context: Context) -> None:
    fill(context)
    page = get(browser, "/schedules")
    assert {"/schedules/nightly", "/schedules/resting", "/api/v1/schedules"} <= set(page.links())
    assert "2026-11-26 02:00:00 CET" in page.words
    assert "paused" in page.words and "refused" in page.words
    assert "tidemill --server http://127.0.0.1:8642 schedules list" in page.words
    assert EVIL not in browser.get("/schedules").text


def test_one(browser: TestClient, context: Context) -> None:
    fill(context)
    page = get(browser, "/schedules/nightly")
    assert "/jobs/job_aaaaaa" in page.links()
    for words in ("succeeded with rejections", "Why waiting", "Why skipped", "Why refused", "Mend it.", "overlap skip"):
        assert words in page.words
    assert "all but the first will be refused" in page.words
    assert EVIL not in browser.get("/schedules/nightly").text
    assert get(browser, "/schedules/sched_nightly").words == page.words


def test_buttons(browser: TestClient, context: Context) -> None:
    fill(context)

    def actions() -> list[str]:
        return [action.rpartition("/")[2] for action in get(browser, "/schedules/nightly").links("form", "action")]

    assert actions()[:2] == ["run", "pause"]
    pressed = browser.post("/schedules/nightly/pause", headers=SAME_SITE, follow_redirects=False)
    assert (pressed.status_code, pressed.headers["location"]) == (303, "/schedules/nightly")
    assert context.store.schedules.get("default", "nightly").paused
    assert actions()[:2] == ["run", "resume"]
    browser.post("/schedules/nightly/resume", headers=SAME_SITE)
    assert not context.store.schedules.get("default", "nightly").paused
    refused = browser.post("/schedules/nightly/run", headers=SAME_SITE)
    assert refused.status_code == 409 and "skips what overlaps" in refused.text
    assert browser.post("/schedules/nightly/pause", headers={"Origin": "http://evil.example"}).status_code == 403


def test_pages_of_many(browser: TestClient, context: Context) -> None:
    for number in range(101):
        context.store.schedules.add(new_schedule(f"s{number:03d}"))
    first = get(browser, "/schedules")
    (more,) = [link for link in first.links() if "after=" in link and not link.startswith("/api")]
    second = get(browser, more)
    assert "s100" in second.words and "s098" not in second.words

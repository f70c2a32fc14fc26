"""Pages answer whatever the database holds, and show what it holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import served
from tests.integration.ui.made import EVIL, Jobs
from tidemill import ui
from tidemill.api import pulse
from tidemill.api.app import create_app
from tidemill.domain.access import Role
from tidemill.domain.job import JobState, Want
from tidemill.domain.webhook import JOB_EVENTS
from tidemill.service import results
from tidemill.service.context import Context
from tidemill.testing.store.factories import KEY_ID, new_webhook
from tidemill.ui.pages import PAGES
from tidemill.ui.pages import jobs as jobs_page
from tidemill.ui.pages.jobs import JOBS_ON_A_PAGE
from tidemill.wire.api import ResultInfo

STATIC = Path(ui.__file__).parent / "static"
GETS = [
    page.path
    for page in PAGES
    if page.method == "GET" and not page.path.endswith("/events") and not page.path.startswith("/schedules")
]
"""Those of jobs."""


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self, tag: str = "a", name: str = "href") -> list[str]:
        return [value for found, attributes in self.tags if found == tag and (value := attributes.get(name))]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def get(browser: TestClient, path: str, status: int = 200) -> Page:
    answer = browser.get(path)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


@pytest.mark.parametrize("path", GETS)
def test_answers_on_an_empty_database(browser: TestClient, path: str) -> None:
    page = get(browser, path.replace("{job_id}", "job_nothere"), 404 if "{" in path else 200)
    assert ("There is no job job_nothere" if "{" in path else "No jobs yet") in page.words


@pytest.mark.parametrize("path", GETS)
def test_answers_on_a_full_database(browser: TestClient, full: dict[JobState, str], path: str) -> None:
    for state, job_id in full.items():
        query = f"?seen={state}" if path.endswith("{job_id}/live") else f"?state={state}"
        assert "nightly" in get(browser, path.replace("{job_id}", job_id) + query).words


def test_says_what_to_type_when_there_is_nothing(browser: TestClient) -> None:
    words = get(browser, "/").words
    for command in ("models add churn model.txt", "submit churn@latest"):
        assert f"tidemill --server http://127.0.0.1:8642 {command}" in words
    assert "no worker is alive" in words


def test_lists_jobs_newest_first_with_their_figures(browser: TestClient, full: dict[JobState, str]) -> None:
    page = get(browser, "/")
    listed = [path.removeprefix("/jobs/") for path in page.links() if path.startswith("/jobs/")]
    assert listed == sorted(full.values(), reverse=True)
    assert "All 9" in page.words
    assert "churn@3" in page.words
    assert "2 rejected" in page.words


def test_filters_by_state(browser: TestClient, full: dict[JobState, str]) -> None:
    for state, job_id in full.items():
        page = get(browser, f"/?state={state}")
        assert [path for path in page.links() if path.startswith("/jobs/")] == [f"/jobs/{job_id}"]
        assert f"jobs list --state {state}" in page.words
    assert "'lost' is no state of a job" in get(browser, "/?state=lost", 422).words


def test_pages_lead_through_all_jobs_once(browser: TestClient, jobs: Jobs) -> None:
    made = [jobs.add(number, JobState.QUEUED) for number in range(2 * JOBS_ON_A_PAGE + 3)]

    def walk(path: str) -> Iterator[str]:
        page = get(browser, path)
        yield from (link.removeprefix("/jobs/") for link in page.links() if link.startswith("/jobs/"))
        for tag, attributes in page.tags:
            if tag == "a" and attributes.get("rel") == "next":
                yield from walk(str(attributes["href"]))

    assert list(walk("/?state=queued")) == made[::-1]


def test_a_page_further_back_stays_where_it_is_while_it_renews_itself(browser: TestClient, jobs: Jobs) -> None:
    made = [jobs.add(number, JobState.QUEUED) for number in range(JOBS_ON_A_PAGE + 2)]
    page = get(browser, f"/?state=queued&before={made[5]}")
    (live,) = page.links("div", "hx-get")
    again = get(browser, live)
    assert [link for link in again.links() if link.startswith("/jobs/")] == [f"/jobs/{one}" for one in made[4::-1]]


def test_says_why_a_job_waits(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.QUEUED)
    why = jobs.context.store.history.waiting([job_id])[job_id]
    assert why.detail in get(browser, "/").words
    assert f"Place {why.place} in the queue. {why.detail}" in get(browser, f"/jobs/{job_id}").words


def test_shows_counts_that_reconcile(browser: TestClient, full: dict[JobState, str]) -> None:
    done = get(browser, f"/jobs/{full[JobState.SUCCEEDED_WITH_REJECTIONS]}").words
    assert "30 = 28 predicted + 2 rejected " in done
    assert "Rejected rows" in done
    assert "in.parquet" in done
    running = get(browser, f"/jobs/{full[JobState.RUNNING]}").words
    assert "30 = 10 predicted + 0 rejected + 20 to do" in running


def test_shows_the_error_with_its_remedy(browser: TestClient, full: dict[JobState, str]) -> None:
    words = get(browser, f"/jobs/{full[JobState.FAILED]}").words
    assert "a.parquet changed." in words
    assert "Run it again." in words
    assert "input_changed" in words


def test_shows_the_spec_as_it_was_asked_for_and_its_twins(browser: TestClient, full: dict[JobState, str]) -> None:
    job_id = full[JobState.RUNNING]
    page = get(browser, f"/jobs/{job_id}")
    assert "model: churn@champion input: path: - /data/in.parquet keep: - id" in page.words
    assert f"/api/v1/jobs/{job_id}" in page.links()
    assert f"jobs show {job_id}" in page.words


def test_shows_the_end_of_the_log(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.RUNNING)
    path = jobs.context.places.logs / f"{job_id}.log"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"line {number}\n" for number in range(300)))
    words = get(browser, f"/jobs/{job_id}").words
    assert "line 100 line 101" in words
    assert "line 99 " not in words


@pytest.mark.parametrize("state", JobState)
def test_offers_what_the_state_allows(browser: TestClient, full: dict[JobState, str], state: JobState) -> None:
    page = get(browser, f"/jobs/{full[state]}")
    moving = {"pause", "cancel"}
    offered = {
        JobState.QUEUED: moving,
        JobState.PLANNING: moving,
        JobState.RUNNING: moving,
        JobState.PAUSED: {"resume", "cancel"},
        JobState.FAILED: {"resume", "cancel"},
        JobState.SUCCEEDED_WITH_REJECTIONS: {"retry"},
    }.get(state, set())
    actions = [path for path in page.links("form", "action") if path.startswith("/jobs/")]
    assert {path.rpartition("/")[2] for path in actions} == offered


def test_a_live_page_asks_to_be_fetched_anew_when_the_job_ends(browser: TestClient, full: dict[JobState, str]) -> None:
    answer = browser.get(f"/jobs/{full[JobState.SUCCEEDED]}/live?seen=running")
    assert (answer.status_code, answer.headers["hx-refresh"]) == (204, "true")
    answer = browser.get(f"/jobs/{full[JobState.COMMITTING]}/live?seen=running")
    assert answer.status_code == 200
    assert "hx-refresh" not in answer.headers
    (live,) = get(browser, f"/jobs/{full[JobState.RUNNING]}").links("div", "hx-get")
    assert live == f"/jobs/{full[JobState.RUNNING]}/live?seen=running"
    assert get(browser, f"/jobs/{full[JobState.SUCCEEDED]}").links("div", "hx-get") == []


def test_live_pages_follow_the_event_stream(context: Context, jobs: Jobs) -> None:
    """What a page listens to tells of every change; and its script does with each what the page waits for."""
    script = (STATIC / "page.js").read_text()
    heard = set(re.findall(r'"(\w+)"', re.findall(r"for \(const name of (\[.*?\])\) stream", script)[0]))
    with served(create_app(context)) as url:
        job_id = jobs.add(1, JobState.QUEUED)
        for path, change in (("/", Want.PAUSE), (f"/jobs/{job_id}", Want.RUN)):
            (live,) = [words for _, words in Page(httpx2.get(url + path).text).tags if words.get("id") == "live"]
            assert f'new Event("{live["hx-trigger"]}")' in script
            assert float(live["data-pace"] or 0) > 0
            with httpx2.stream("GET", url + str(live["data-events"]), timeout=60) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                names = (line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: "))
                if path != "/":
                    assert {next(names) for _ in range(3)} == {"state", "progress"}, "what was is told first"
                context.store.jobs.wish(job_id, change)
                assert next(names) in heard


def test_a_list_that_nobody_changes_is_told_of_its_age(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_page, "_AGE_SECONDS", 0.05)
    monkeypatch.setattr(jobs_page, "MAX_STREAM_SECONDS", 1.0)
    with served(create_app(context)) as url, httpx2.stream("GET", f"{url}/live/events", timeout=60) as answer:
        lines = list(answer.iter_lines())
    assert lines[:5] == ["retry: 2000", "", "event: changed", "data: {}", ""]


def test_a_stream_too_many_is_refused(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "MAX_LISTENERS", 0)
    with served(create_app(context)) as url:
        assert httpx2.get(f"{url}/live/events").status_code == 429


def test_escapes_what_people_wrote(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.RUNNING, name=EVIL)
    for path in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/live?seen=running"):
        html = browser.get(path).text
        assert EVIL not in html
        assert "&lt;script&gt;alert(1)" in html
    assert EVIL not in browser.get(f"/jobs/{EVIL}").text
    assert EVIL not in browser.get("/", params={"state": EVIL}).text


@pytest.mark.parametrize("path", ["/", "/live", "/jobs/job_nothere", "/login"])
def test_pages_need_nothing_that_their_policy_forbids(
    browser: TestClient, full: dict[JobState, str], path: str
) -> None:
    answer = browser.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    for tag, attributes in Page(answer.text).tags:
        assert tag != "style"
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)


def test_static_files_that_pages_name_are_there(browser: TestClient) -> None:
    page = get(browser, "/")
    named = [*page.links("script", "src"), *page.links("link"), *page.links("img", "src")]
    assert len(named) >= 4
    assert {path: browser.get(path).status_code for path in named} == dict.fromkeys(named, 200)


def test_vendored_files_are_the_published_ones() -> None:
    listed = dict(reversed(line.split("  ")) for line in (STATIC / "vendor" / "SHA256SUMS").read_text().splitlines())
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "vendor").iterdir()
        if path.name != "SHA256SUMS"
    }
    assert there == listed


def test_own_files_ask_nobody_else(context: Context) -> None:
    own = [path for path in STATIC.iterdir() if path.suffix in (".css", ".js")]
    assert len(own) == 2
    assert [path.name for path in own if re.search(r"https?:|@import|url\(", path.read_text())] == []


def test_downloads_name_the_retries_whose_rows_they_hold(
    browser: TestClient, full: dict[JobState, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    retries = [{"job_id": "job_again", "shown": True}, {"job_id": "job_gone", "shown": False, "why": "deleted"}]
    told = ResultInfo(
        manifest={"retries": retries}, downloads={"csv": "/d?format=csv"}, rejected_downloads={}, expires_at=None
    )
    monkeypatch.setattr(results, "info", lambda context, who, job_id: told)
    page = get(browser, f"/jobs/{full[JobState.SUCCEEDED_WITH_REJECTIONS]}")
    assert "/jobs/job_again" in page.links()
    assert "job_gone" not in page.words
    assert "/d?format=csv" in page.links()


def test_says_why_a_result_is_not_there(browser: TestClient, full: dict[JobState, str]) -> None:
    page = get(browser, f"/jobs/{full[JobState.SUCCEEDED]}")
    assert "is not kept any more" in page.words
    assert not [link for link in page.links() if "/result/" in link]


def test_a_job_shows_who_was_told_to_whoever_makes_webhooks(
    browser: TestClient, context: Context, jobs: Jobs, key_of: Callable[..., str]
) -> None:
    """What a receiver answered is text like any other."""
    hook = new_webhook("whk_0000000000000007", events=JOB_EVENTS)
    assert context.store.webhooks.add(hook, most=1)
    job_id = jobs.add(1, JobState.SUCCEEDED)
    (first,) = context.store.outbox.claim_due(KEY_ID, limit=1, each=1, lease_seconds=60)
    context.store.outbox.failed_if_current(first, f"It answered 500. {EVIL}", status=500, retry_seconds=None)
    words = get(browser, f"/jobs/{job_id}").words
    assert f"{hook.id}job.succeededwaiting0" in words
    assert f"{hook.id}job.startedgiven up1It answered 500. {EVIL}" in words
    for role, sees in ((Role.VIEWER, False), (Role.OPERATOR, True)):
        answer = browser.get(f"/jobs/{job_id}", headers={"Authorization": f"Bearer {key_of(role.value, role=role)}"})
        assert answer.status_code == 200
        assert (hook.id in answer.text) == sees

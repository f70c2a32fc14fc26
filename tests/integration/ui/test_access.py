"""The pages let in whom the API lets in, and no other site makes a browser do something here."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.integration.ui.made import HERE, SAME_ORIGIN, Jobs
from tidemill.domain.access import Role
from tidemill.domain.job import JobState, Want
from tidemill.service.context import Context
from tidemill.ui.page import Page
from tidemill.ui.pages import PAGES
from tidemill.ui.session import COOKIE

KeyOf = Callable[..., str]


def sign_in(browser: TestClient, key: str) -> None:
    answer = browser.post("/login", data={"key": key, "place": "/"}, headers=SAME_ORIGIN)
    assert answer.status_code == 303, answer.text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.method} {page.path}")
def test_without_a_key_every_page_is_the_login(
    browser: TestClient, key_of: KeyOf, full: dict[JobState, str], page: Page
) -> None:
    key_of("somebody")
    path = page.path.replace("{job_id}", full[JobState.RUNNING])
    answer = browser.request(page.method, path, headers=SAME_ORIGIN)
    assert answer.status_code == 401
    assert 'action="/login"' in answer.text
    assert "nightly" not in answer.text


def test_a_key_opens_the_page_that_was_asked_for(browser: TestClient, key_of: KeyOf) -> None:
    key = key_of("alice")
    assert 'name="place" value="/?state=failed"' in browser.get("/?state=failed").text
    answer = browser.post("/login", data={"key": f" {key} ", "place": "/?state=failed"}, headers=SAME_ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?state=failed")
    cookie = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert (cookie.value, cookie["httponly"], cookie["samesite"], cookie["secure"]) == (key, True, "strict", "")
    page = browser.get("/?state=failed")
    assert page.status_code == 200
    assert "alice" in page.text
    assert key not in page.text


def test_the_cookie_is_kept_to_https_when_the_browser_speaks_it(browser: TestClient, key_of: KeyOf) -> None:
    headers = {"Origin": "https://127.0.0.1:8642", **SAME_ORIGIN}
    answer = browser.post("/login", data={"key": key_of("alice")}, headers=headers)
    assert SimpleCookie(answer.headers["set-cookie"])[COOKIE]["secure"] is True


@pytest.mark.parametrize("key", ["", "tm_x", "tm_key_0000000000000000_" + "0" * 48, "ключ", "a\r\nb"])
def test_a_wrong_key_opens_nothing(browser: TestClient, key_of: KeyOf, key: str) -> None:
    key_of("alice")
    answer = browser.post("/login", data={"key": key}, headers=SAME_ORIGIN)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("place", ["//evil.example", "https://evil.example", "/\\evil.example", "\t//evil.example", ""])
def test_signing_in_never_leads_away(browser: TestClient, key_of: KeyOf, place: str) -> None:
    answer = browser.post("/login", data={"key": key_of("alice"), "place": place}, headers=SAME_ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_link_elsewhere_is_followed_once_more_from_here(browser: TestClient, key_of: KeyOf) -> None:
    key_of("alice")
    assert 'http-equiv="refresh"' in browser.get("/", headers={"Sec-Fetch-Site": "cross-site"}).text
    again = browser.get("/", headers=SAME_ORIGIN).text
    assert '<meta http-equiv="refresh"' not in again.replace("<noscript><meta", "")


def test_signing_out_forgets_the_key(browser: TestClient, key_of: KeyOf) -> None:
    sign_in(browser, key_of("alice"))
    assert browser.get("/").status_code == 200
    assert browser.post("/logout", headers=SAME_ORIGIN).status_code == 303
    assert browser.get("/").status_code == 401


def test_a_revoked_key_opens_nothing(browser: TestClient, context: Context, key_of: KeyOf) -> None:
    browser.cookies.set(COOKIE, key_of("alice"))
    (key,) = context.store.keys.list()
    context.store.keys.revoke(key.id)
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "{job_id}" in page.path], ids=lambda page: f"{page.method} {page.path}"
)
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PAUSED, JobState.SUCCEEDED_WITH_REJECTIONS])
def test_no_page_knows_another_tenants_job(
    browser: TestClient, jobs: Jobs, key_of: KeyOf, page: Page, state: JobState
) -> None:
    theirs = jobs.add(2, state, tenant="other", name="secret")
    sign_in(browser, key_of("alice"))
    answer = browser.request(page.method, page.path.replace("{job_id}", theirs), headers=SAME_ORIGIN)
    assert answer.status_code == 404
    assert "secret" not in answer.text
    assert jobs.context.store.jobs.get(theirs).state is state
    assert len(jobs.context.store.jobs.list()) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if page.method == "POST"], ids=lambda page: page.path)
def test_without_a_key_no_button_does_anything(browser: TestClient, jobs: Jobs, key_of: KeyOf, page: Page) -> None:
    made = {state: jobs.add(number, state) for number, state in enumerate(JobState)}
    key_of("somebody")
    for state, job_id in made.items():
        answer = browser.post(page.path.replace("{job_id}", job_id), headers=SAME_ORIGIN)
        assert answer.status_code == 401
        assert jobs.context.store.jobs.get(job_id).state is state
        assert jobs.context.store.jobs.get(job_id).want is Want.RUN or state in (JobState.PAUSED, JobState.CANCELLED)
    assert len(jobs.context.store.jobs.list()) == len(made)


@pytest.mark.parametrize("path", ["/", "/live", "/?state=queued"])
def test_lists_hold_the_own_tenants_jobs_only(browser: TestClient, jobs: Jobs, key_of: KeyOf, path: str) -> None:
    ours, theirs = jobs.add(1, JobState.QUEUED), jobs.add(2, JobState.QUEUED, tenant="other", name="secret")
    sign_in(browser, key_of("alice"))
    page = browser.get(path).text
    assert ours in page
    assert theirs not in page and "secret" not in page
    assert "All <b>1</b>" in page


@pytest.mark.parametrize(
    ("before", "button", "after"),
    [
        (JobState.QUEUED, "pause", JobState.PAUSED),
        (JobState.QUEUED, "cancel", JobState.CANCELLED),
        (JobState.PAUSED, "resume", JobState.QUEUED),
        (JobState.PAUSED, "cancel", JobState.CANCELLED),
        (JobState.FAILED, "resume", JobState.QUEUED),
    ],
)
def test_buttons_do_what_they_say(
    browser: TestClient, jobs: Jobs, before: JobState, button: str, after: JobState
) -> None:
    job_id = jobs.add(1, before)
    answer = browser.post(f"/jobs/{job_id}/{button}", headers=SAME_ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job_id}")
    assert jobs.context.store.jobs.get(job_id).state is after


def test_a_wish_for_a_running_job_is_shown(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.RUNNING)
    browser.post(f"/jobs/{job_id}/cancel", headers=SAME_ORIGIN)
    assert jobs.context.store.jobs.get(job_id).want is Want.CANCEL
    page = browser.get(f"/jobs/{job_id}").text
    assert "cancelling" in page
    assert f"/jobs/{job_id}/cancel" not in page


def test_a_button_that_came_too_late_says_so(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.SUCCEEDED)
    answer = browser.post(f"/jobs/{job_id}/cancel", headers=SAME_ORIGIN)
    assert answer.status_code == 409
    assert "cannot be cancelled" in answer.text


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("with_key", [False, True])
def test_another_site_changes_nothing(
    browser: TestClient, jobs: Jobs, key_of: KeyOf, headers: dict[str, str], with_key: bool
) -> None:
    job_id = jobs.add(1, JobState.QUEUED)
    if with_key:
        sign_in(browser, key_of("alice"))
    answer = browser.post(f"/jobs/{job_id}/cancel", headers=headers)
    assert answer.status_code in (401, 403)
    assert jobs.context.store.jobs.get(job_id).state is JobState.QUEUED


def test_the_origin_counts_where_browsers_say_no_more(browser: TestClient, jobs: Jobs) -> None:
    job_id = jobs.add(1, JobState.QUEUED)
    assert browser.post(f"/jobs/{job_id}/pause", headers={"Origin": HERE}).status_code == 303


def test_a_viewer_sees_but_does_nothing(browser: TestClient, jobs: Jobs, key_of: KeyOf) -> None:
    job_id = jobs.add(1, JobState.QUEUED)
    sign_in(browser, key_of("reader", role=Role.VIEWER))
    page = browser.get(f"/jobs/{job_id}")
    assert page.status_code == 200
    assert f"/jobs/{job_id}/cancel" not in page.text
    assert browser.post(f"/jobs/{job_id}/cancel", headers=SAME_ORIGIN).status_code == 403
    assert jobs.context.store.jobs.get(job_id).state is JobState.QUEUED


def test_the_cookie_opens_the_api_to_reading_and_to_own_pages_only(browser: TestClient, key_of: KeyOf) -> None:
    sign_in(browser, key_of("alice"))
    assert browser.get("/api/v1/who").json() == "alice"
    assert browser.post("/api/v1/who", headers=SAME_ORIGIN).json() == "alice"
    with pytest.raises(Exception, match="needs an API key"):
        browser.post("/api/v1/who", headers={"Sec-Fetch-Site": "cross-site"})


def test_a_header_wins_over_the_cookie(browser: TestClient, key_of: KeyOf) -> None:
    sign_in(browser, key_of("alice"))
    bob = key_of("bob")
    assert browser.get("/api/v1/who", headers={"Authorization": f"Bearer {bob}"}).json() == "bob"


def test_another_machine_needs_a_key_even_where_there_is_none(app: FastAPI) -> None:
    with TestClient(app, base_url=HERE, client=("192.0.2.7", 50_000)) as browser:
        assert browser.get("/").status_code == 401


def test_a_form_that_is_too_big_is_no_login(browser: TestClient, key_of: KeyOf) -> None:
    key_of("alice")
    answer = browser.post("/login", data={"key": "x" * 100_000}, headers=SAME_ORIGIN)
    assert answer.status_code == 401

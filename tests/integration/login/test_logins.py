"""People log in at a provider and use the pages: from the first click to the last, over real HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.cookies import SimpleCookie
from pathlib import Path

import httpx2
import pytest

import tidemill
from tests import warm
from tests.integration.login.conftest import OPERATORS, SAME_ORIGIN, Browser, Service, service_at
from tests.integration.login.provider import ADA, FakeProvider
from tidemill.bootstrap.server import check_reach
from tidemill.domain.access import Principal, Role
from tidemill.domain.errors import MissingExtra, NotFound
from tidemill.domain.job import JobState
from tidemill.ui.login import ATTEMPT_COOKIE
from tidemill.ui.session import COOKIE

ADA_HERE = Principal(name="ada@example.org", tenant="growth", role=Role.OPERATOR, id="user:ada@example.org")


def test_a_person_logs_in_works_and_leaves(service: Service, provider: FakeProvider) -> None:
    house, browser = service.house, service.browser()
    house.model("churn", "growth")
    asked = browser.get("/?state=failed")
    assert asked.status_code == 401
    assert 'href="/login/provider?place=/%3Fstate%3Dfailed">Sign in with 127.0.0.1</a>' in asked.text

    back = browser.log_in("/?state=failed")
    assert back.status_code == 200, back.text
    assert '<meta http-equiv="refresh" content="0; url=/?state=failed">' in back.text
    cookie = SimpleCookie(back.headers.get_list("set-cookie")[0])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"], cookie["path"]) == (True, "strict", "", "/")
    page = browser.get("/").text
    assert "ada@example.org" in page and "operator" in page and 'title="tenant growth"' in page

    (session,) = house.context.store.sessions.list()
    assert browser.get("/api/v1/service").json()["authenticated_as"] == "ada@example.org"
    job = house.submit(ADA_HERE)
    assert browser.get(f"/jobs/{job.id}").text.count("user:") == 0
    assert browser.post(f"/jobs/{job.id}/pause", headers=SAME_ORIGIN).status_code == 303
    assert browser.post(f"/api/v1/jobs/{job.id}/cancel", headers=SAME_ORIGIN).status_code == 200
    assert house.again(job).state is JobState.CANCELLED
    assert browser.get("/api/v1/audit").status_code == 403

    token = browser.cookies[COOKIE]
    left = browser.post("/logout", headers=SAME_ORIGIN)
    assert f'href="{provider.url}/logout?client_id=tidemill&amp;' in left.text
    assert COOKIE not in browser.cookies
    assert house.context.store.sessions.list() == []
    kept = httpx2.get(f"{service.url}/", cookies={COOKIE: token}, verify=False)
    assert kept.status_code == 401 and "This login is over" in kept.text

    told = {(entry.actor, entry.action, entry.subject): entry for entry in house.context.store.audit.list("growth")}
    assert told["ada@example.org", "login", session.id].detail == {
        "by": provider.url, "role": "operator", "actor_id": "user:ada@example.org",
    }  # fmt: skip
    assert ("ada@example.org", "logout", session.id) in told


def test_of_a_token_only_the_hash_is_kept(service: Service) -> None:
    browser = service.browser()
    browser.log_in()
    secret = browser.cookies[COOKIE].rpartition("_")[2]
    assert len(secret) == 48
    for path in service.house.folder.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_token_is_believed_for_its_secret(service: Service) -> None:
    """The session's id is no secret: administrators and the audit log show it."""
    service.browser().log_in()
    (session,) = service.house.context.store.sessions.list()
    for text in (f"tm_{session.id}_" + "0" * 48, f"tm_{session.id}_", session.id):
        for words in ({"cookies": {COOKIE: text}}, {"headers": {"Authorization": f"Bearer {text}"}}):
            assert httpx2.get(f"{service.url}/api/v1/service", verify=False, **words).status_code == 401
        forged = Browser(base_url=service.url, cookies={COOKIE: text}, verify=False)
        forged.post("/logout", headers=SAME_ORIGIN)
    assert service.house.context.store.sessions.list() == [session]


@pytest.mark.parametrize(
    "place",
    [
        "//evil.example", "https://evil.example", "/\\evil.example", "\\/evil", "/\t/evil", "javascript:alert(1)",
        "", "/a b", "/" + "x" * 3000,
    ],
)  # fmt: skip
def test_a_login_never_leads_away(service: Service, place: str) -> None:
    browser = service.browser()
    link = browser.begin(place)
    assert len(browser.cookies[ATTEMPT_COOKIE]) < 4000, "browsers drop larger ones"
    assert 'content="0; url=/"' in browser.get(link).text


def test_another_browser_cannot_finish_it(service: Service) -> None:
    """Or somebody could log others in as themselves, and read what they then do."""
    mine, theirs = service.browser(), service.browser()
    link = mine.begin()
    for answer in (theirs.get(link), theirs.get("/login/provider/back"), theirs.get(link)):
        assert answer.status_code == 401
        assert "was not begun in this browser" in answer.text
    theirs.begin()
    answer = theirs.get(link)
    assert (answer.status_code, "begun somewhere else" in answer.text) == (401, True)
    assert not theirs.is_known()
    assert service.house.context.store.sessions.list() == []
    assert mine.get(link).status_code == 200


def test_an_answer_is_good_once(service: Service, provider: FakeProvider) -> None:
    browser = service.browser()
    link = browser.begin()
    kept = browser.cookies[ATTEMPT_COOKIE]
    assert browser.get(link).status_code == 200
    again = browser.get(link)
    assert (again.status_code, "was not begun in this browser" in again.text) == (401, True)
    thief = Browser(base_url=service.url, cookies={ATTEMPT_COOKIE: kept}, verify=False)
    answer = thief.get(link)
    assert (answer.status_code, "This code is not valid" in answer.text) == (401, True)
    assert len(service.house.context.store.sessions.list()) == 1


@pytest.mark.parametrize("cookie", ["", "nonsense", "e30=", "W10=", "eyJzdGF0ZSI6IDF9"])
def test_a_spoilt_cookie_begins_nothing(service: Service, cookie: str) -> None:
    browser = Browser(base_url=service.url, cookies={ATTEMPT_COOKIE: cookie}, verify=False)
    assert browser.get("/login/provider/back?code=x&state=").status_code == 401


def test_a_token_that_is_refused_lets_nobody_in(service: Service, provider: FakeProvider) -> None:
    provider.change = lambda claims: {**claims, "nonce": "another"}
    browser = service.browser()
    answer = browser.log_in()
    assert answer.status_code == 401
    assert "could not be logged in" in answer.text and "tell the operator" in answer.text
    assert COOKIE not in browser.cookies
    assert service.house.context.store.sessions.list() == []


def test_whom_no_rule_names_is_refused(service: Service, provider: FakeProvider) -> None:
    provider.person["groups"] = ["sales"]
    browser = service.browser()
    answer = browser.log_in()
    assert answer.status_code == 403
    assert "You are known as ada@example.org, but nobody let you in here" in answer.text
    assert COOKIE not in browser.cookies
    assert service.house.context.store.sessions.list() == []


def test_another_site_changes_nothing(service: Service) -> None:
    browser = service.browser()
    browser.log_in()
    service.house.model("churn", "growth")
    job = service.house.submit(ADA_HERE)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        for path in (f"/jobs/{job.id}/cancel", f"/api/v1/jobs/{job.id}/cancel", "/logout"):
            assert browser.post(path, headers=headers).status_code in (401, 403), (path, headers)
    assert service.house.again(job).state is JobState.QUEUED
    assert browser.is_known()


def test_a_session_holds_on_every_server_and_after_a_restart(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider) as one, service_at(tmp_path, provider) as two:
        browser = one.browser()
        browser.log_in()
        elsewhere = Browser(base_url=two.url, cookies=browser.cookies, verify=False)
        assert elsewhere.is_known()
    with service_at(tmp_path, provider) as again:
        browser = Browser(base_url=again.url, cookies=browser.cookies, verify=False)
        assert browser.is_known()
        assert browser.post("/logout", headers=SAME_ORIGIN).status_code == 200
    with service_at(tmp_path, provider) as last:
        assert not Browser(base_url=last.url, cookies=elsewhere.cookies, verify=False).is_known()


def test_rules_of_today_hold_for_logins_of_yesterday(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider) as service:
        browser = service.browser()
        browser.log_in()
    for rules, wanted in (
        ([{"user": "ADA@example.org", "role": "viewer", "tenant": "red"}, *OPERATORS], ("viewer", "red")),
        ([{"user": "*", "role": "admin"}], ("admin", "default")),
        ([{"group": "sales", "role": "admin"}], None),
    ):
        with service_at(tmp_path, provider, logins=rules) as service:
            again = Browser(base_url=service.url, cookies=browser.cookies, verify=False)
            answer = again.get("/")
            if wanted is None:
                assert (answer.status_code, "nobody let you in" in answer.text) == (403, True)
                assert again.get("/api/v1/service").status_code == 403
            else:
                assert again.get("/api/v1/service").json()["role"] == wanted[0]
                assert f'title="tenant {wanted[1]}"' in answer.text


def test_without_any_login_a_session_opens_nothing(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider) as service:
        browser = service.browser()
        browser.log_in()
    with service_at(tmp_path, provider, oidc_issuer=None, logins=[]) as service:
        assert Browser(base_url=service.url, cookies=browser.cookies, verify=False).get("/").status_code == 401


def test_a_session_is_over_at_its_end(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider, session_hours=1e-9) as service:
        browser = service.browser()
        assert browser.log_in().status_code == 200
        answer = browser.get("/")
        assert (answer.status_code, "This login is over" in answer.text) == (401, True)
        assert COOKIE not in browser.cookies


def test_an_administrator_ends_sessions_of_their_tenant(service: Service) -> None:
    browser, house = service.browser(), service.house
    browser.log_in()
    (session,) = house.context.store.sessions.list()
    _, red = house.key(Role.ADMIN, "red")
    with tidemill.Client(service.url, red) as stranger:
        assert stranger.sessions.list() == []
        with pytest.raises(NotFound, match="no session"):
            stranger.sessions.end(session.id)
    _, key = house.key(Role.ADMIN, "growth")
    with tidemill.Client(service.url, key) as boss:
        (told,) = boss.sessions.list()
        assert (told.id, told.name, told.role, told.tenant) == (session.id, "ada@example.org", "operator", "growth")
        assert browser.is_known()
        assert boss.sessions.end(session.id) == told
        assert not browser.is_known()
        assert boss.sessions.list() == []
        with pytest.raises(NotFound):
            boss.sessions.end(session.id)
    entry = house.context.store.audit.list("growth")[0]
    assert (entry.actor, entry.action, entry.subject) == ("growth-admin", "session.end", session.id)
    assert entry.detail["name"] == "ada@example.org"


@pytest.mark.parametrize("place", ["there", "here"])
def test_the_command_lists_and_ends_them(service: Service, place: str) -> None:
    service.browser().log_in()
    (session,) = service.house.context.store.sessions.list()
    _, key = service.house.key(Role.ADMIN, "growth")
    environment = {"TIDEMILL_HOME": str(service.house.folder / "home"), "COLUMNS": "200"}
    if place == "there":
        environment |= {"TIDEMILL_SERVER": service.url, "TIDEMILL_API_KEY": key}

    def say(*words: str) -> subprocess.CompletedProcess[str]:
        return warm.tidemill(["sessions", *words], cwd=Path.cwd(), environ={**os.environ, **environment}, seconds=60)

    (told,) = json.loads(say("list", "--json").stdout)
    assert (told["id"], told["name"]) == (session.id, "ada@example.org")
    # Which role it gives is in the service's settings, which these commands here do not have.
    assert told["role"] == ("operator" if place == "there" else None)
    if place == "there":
        assert "ada@example.org" in say("list").stdout
    ended = say("end", session.id)
    assert (ended.returncode, "of ada@example.org opens nothing any more" in ended.stderr) == (0, True)
    again = say("end", session.id)
    assert (again.returncode, "There is no session" in again.stderr) == (2, True)
    if place == "there":
        assert "nobody is logged in" in say("list").stderr


def test_https_is_kept_to(tmp_path: Path, provider: FakeProvider) -> None:
    """A browser that speaks it does not send these cookies without."""
    with service_at(tmp_path, provider, public_url="https://tidemill.example.org/") as service:
        browser = service.browser()
        sent = browser.get("/login/provider")
        assert "redirect_uri=https%3A%2F%2Ftidemill.example.org%2Flogin%2Fprovider%2Fback" in sent.headers["location"]
        cookie = sent.headers["set-cookie"]
        assert "; Secure" in cookie and "; HttpOnly" in cookie and "SameSite=lax" in cookie
        kept = {ATTEMPT_COOKIE: SimpleCookie(cookie)[ATTEMPT_COOKIE].value}
        back = httpx2.URL(httpx2.get(sent.headers["location"], verify=False).headers["location"])
        answer = httpx2.get(f"{service.url}{back.raw_path.decode()}", cookies=kept, verify=False)
        assert answer.status_code == 200, answer.text
        assert all("; Secure" in each for each in answer.headers.get_list("set-cookie"))


def test_a_provider_that_is_away_is_said(service: Service, provider: FakeProvider) -> None:
    provider.document["issuer"] = "https://elsewhere.example"
    answer = service.browser().get("/login/provider")
    assert answer.status_code == 401
    assert "it calls itself https://elsewhere.example" in answer.text


def test_failing_all_the_time_has_a_rate(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider, requests_per_minute=6) as service:
        provider.document["issuer"] = "https://elsewhere.example"
        browser = service.browser()
        answers = [browser.get(f"/login/provider{path}").status_code for path in ("", "/back", "/back", "")]
    assert (answers[0], 429 in answers[1:]) == (401, True)


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tidemill.service.oidc", raising=False)
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tidemill\[oidc\]'"), service_at(tmp_path, provider):
        pass


def test_without_a_provider_nothing_speaks_of_one(tmp_path: Path, provider: FakeProvider) -> None:
    with service_at(tmp_path, provider, oidc_issuer=None, logins=[]) as service:
        browser = service.browser()
        assert "Sign in with" not in browser.get("/login").text
        assert browser.get("/login/provider").status_code == 404
        assert browser.get("/login/provider/back").status_code == 401


def test_whoever_can_log_in_must(service: Service) -> None:
    """The door without a key is closed, also at this machine; so others may be listened to."""
    assert service.browser().get("/api/v1/jobs").status_code == 401
    check_reach(service.house.context, "0.0.0.0")
    _, key = service.house.key()
    assert service.browser().get("/api/v1/jobs", headers={"X-API-Key": key}).status_code == 200


def test_people_submit_as_themselves_and_see_one_another(service: Service, provider: FakeProvider) -> None:
    """Each with a share of the machines of their own, and no more of its files than a key may read."""
    service.house.model("churn", "growth")
    jobs = []
    for email in ("ada@example.org", "bob@example.org"):
        provider.person = {**ADA, "email": email}
        browser = service.browser()
        browser.log_in()
        words = {"model": "churn@1", "input": {"path": "/etc/hosts"}}
        refused = browser.post("/api/v1/jobs", json=words, headers=SAME_ORIGIN)
        assert (refused.status_code, "data_roots" in refused.text) == (403, True)
        words["input"] = {"path": str(service.house.input)}
        made = browser.post("/api/v1/jobs", json=words, headers=SAME_ORIGIN)
        assert made.status_code == 202, made.text
        jobs.append(service.house.context.store.jobs.get(made.json()["id"]))
    assert [job.owner for job in jobs] == ["user:ada@example.org", "user:bob@example.org"]
    page = browser.get("/").text
    assert "ada@example.org" in page and "bob@example.org" in page and "user:" not in page

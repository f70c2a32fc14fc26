"""Logging in and out in Chromium, at a provider on another site: real rules for cookies and redirects."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.integration.login.conftest import service_at
from tests.integration.login.provider import fake_provider


def test_a_person_logs_in_at_another_site_and_out(page: Page, tmp_path: Path) -> None:
    with fake_provider("localhost") as provider, service_at(tmp_path, provider) as service:
        page.goto(f"{service.url}/?state=failed")
        page.click("text=Sign in with localhost")
        page.wait_for_selector(".who")
        assert page.url == f"{service.url}/?state=failed"
        assert "ada@example.org" in page.inner_text(".who")
        assert page.evaluate("document.cookie") == "", "no script sees it"
        page.reload()
        assert page.is_visible("text=No failed jobs")
        page.click("text=Sign out")
        page.wait_for_selector("text=You are signed out of Tidemill")
        page.click("text=Sign out of localhost, too")
        page.wait_for_url(f"{provider.url}/logout?client_id=tidemill&post_logout_redirect_uri=**")
        page.goto(service.url)
        assert page.is_visible("text=Sign in with localhost")


def test_what_the_provider_got_wrong_is_said_on_the_page(page: Page, tmp_path: Path) -> None:
    with fake_provider("localhost") as provider, service_at(tmp_path, provider) as service:
        provider.person["email_verified"] = False
        page.goto(f"{service.url}/login")
        page.click("text=Sign in with localhost")
        assert "it has not verified the address ada@example.org" in page.inner_text(".notice")
        provider.person["email_verified"] = True
        page.click("text=Sign in with localhost")
        page.wait_for_selector(".who")


def test_a_link_on_another_site_opens_the_page_of_who_is_logged_in(page: Page, tmp_path: Path) -> None:
    """The strict cookie is not sent with it; the page asks for itself once more."""
    with fake_provider("localhost") as provider, service_at(tmp_path, provider) as service:
        page.goto(f"{service.url}/login")
        page.click("text=Sign in with localhost")
        page.wait_for_selector(".who")
        elsewhere = f"{provider.url}/page.html"
        link = f'<a href="{service.url}/?state=paused">there</a>'
        page.route(elsewhere, lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto(elsewhere)
        page.click("text=there")
        page.wait_for_selector(".who")
        assert page.url == f"{service.url}/?state=paused"

"""A real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "there is no chromium; `make test` installs it"
    with sync_playwright() as playwright:
        # As root it starts only without its sandbox; it sees nothing but our own pages.
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A new window with cookies and storage of its own. An error that a script did not catch fails the test."""
    errors: list[str] = []
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context.new_page()
    context.close()
    assert errors == []

"""Templates into answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from tidemill.domain.job import JobState
from tidemill.domain.version import __version__
from tidemill.ui import figures

HERE = Path(__file__).parent
STATIC = HERE / "static"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every page. No script, style or frame from elsewhere, and none inside the page itself."""

STATE_WORDS = {state: state.value.replace("_", " ") for state in JobState}


class Templates:
    """The pages' templates, which escape everything that is put into them."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            count=figures.count,
            short_count=figures.short_count,
            size=figures.size,
            seconds=figures.seconds,
            ago=figures.ago,
            moment=figures.moment,
            money=figures.money,
            yaml=_yaml,
        )
        self._environment.globals.update(share=figures.share, state_words=STATE_WORDS, version=__version__)

    def answer(
        self, name: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any
    ) -> HTMLResponse:
        """A page or a piece of one; every template knows `now`."""
        html = self._environment.get_template(name).render(now=datetime.now(UTC), **values)
        return HTMLResponse(html, status_code=status, headers={**HEADERS, **(headers or {})})


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)

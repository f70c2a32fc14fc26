"""The OpenAPI document: it changes on purpose only, and the service does what it says."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from schemathesis import AuthContext, Case, SerializationContext
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, StopReason, events, from_schema

from tests.integration.api.house import House, opened_house, served
from tidemill.api.app import create_app, described_app
from tidemill.domain.access import Role
from tidemill.domain.errors import NotAuthenticated
from tidemill.service import keys
from tools import openapi

OPERATIONS = [
    (method.upper(), path)
    for path, item in described_app().openapi()["paths"].items()
    for method in item
    if path != "/api/v1/openapi.json"
]
LONG = bool(os.environ.get("TIDEMILL_TEST_LONG"))
"""Else one database does, the stricter one, and half as many examples."""
EXAMPLES, CHAINS = (6, 4) if LONG else (3, 2)

CONFIG = {
    "generation": {
        # No store takes a zero character in text, and JSON Schema has no word for that: it is refused by 422.
        "allow-x00": False,
        "max-examples": EXAMPLES,
        "deterministic": True,
        "no-shrink": True,
    },
    "phases": {"stateful": {"generation": {"max-examples": CHAINS}}},
    "operations": [
        {
            # What the bytes or the model turn out to be decides, and no schema describes that.
            "include-operation-id": name,
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "422"]}},
        }
        for name in ("send_model_version", "add_model_version", "trust_model_version", "send_upload", "preview_upload")
    ]
    + [
        {
            # Which text is a URL, what its host resolves to and whether that may be reached, no schema describes.
            "include-operation-id": name,
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "422"]}},
        }
        for name in ("add_webhook", "change_webhook")
    ]
    + [
        {
            # Whether five words are a cron expression and days lie in order, no schema says.
            "include-operation-id": name,
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "413", "422"]}
            },
        }
        for name in ("add_schedule", "backfill_schedule")
    ]
    + [
        {
            # tus has statuses of its own, and what is there decides whether bytes go on. Headers that nobody
            # knows, which count as wrong data here, do no harm.
            "include-operation-id": name,
            "checks": {
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "400", "401", "403", "404", "409", "413", "415", "422", "460"]
                },
                "negative_data_rejection": {
                    "expected-statuses": ["2xx", "400", "401", "403", "404", "405", "409", "412", "413", "415", "422"]
                },
                "missing_required_header": {"expected-statuses": ["401", "404", "412", "415", "422"]},
            },
        }
        for name in (
            "create_unfinished_upload",
            "get_upload_offset",
            "append_to_upload",
            "append_to_upload_by_post",
            "delete_unfinished_upload",
        )
    ],
}


@schemathesis.serializer("application/offset+octet-stream")
def as_it_is(context: SerializationContext, value: object) -> bytes:
    """Bytes of an upload."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def test_the_document_changes_only_on_purpose() -> None:
    assert openapi.document() == openapi.TARGET.read_text(encoding="utf-8"), "run: python tools/openapi.py"


@pytest.fixture(params=["sqlite", "postgres"] if LONG else ["postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A service that has something to show; what one database takes the other may not."""
    store = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    settings = {"requests_per_minute": 1_000_000, "data_roots": [tmp_path / "data"], "store": store}
    with opened_house(tmp_path, **settings) as opened:
        opened.model(alias="champion")
        opened.finish(opened.submit(), rejected=1, series="churn")
        opened.submit(labels={"team": "growth"})
        yield opened


def current_key_of(house: House) -> type:
    """An administrator's key that opens: generated requests revoke the keys they find."""

    class CurrentKey:
        text = ""

        def get(self, case: Case, context: AuthContext) -> str:
            try:
                keys.check(house.context, self.text)
            except NotAuthenticated:
                _, self.text = house.key(Role.ADMIN)
            return self.text

        def set(self, case: Case, data: str, context: AuthContext) -> None:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}

    return CurrentKey


@pytest.mark.timeout(900)
def test_the_service_keeps_to_the_document(house: House) -> None:
    """All checks of schemathesis, with data that fits the document and data that does not."""
    _, key = house.key(Role.ADMIN)
    statuses: dict[str, Counter[int]] = {}
    wrong: set[str] = set()
    checked: set[str] = set()
    with served(create_app(house.context)) as url:
        document = schemathesis.openapi.from_url(
            f"{url}/api/v1/openapi.json",
            headers={"Authorization": f"Bearer {key}"},
            config=SchemathesisConfig.from_dict(CONFIG),
        )
        document.auth(refresh_interval=None)(current_key_of(house))
        for event in from_schema(document).execute():
            if isinstance(event, events.ScenarioFinished):
                wrong |= set(_faults(event))
                checked |= {check.name for checks in event.recorder.checks.values() for check in checks}
                _count(event, statuses)
            elif isinstance(event, events.NonFatalError):
                wrong.add(f"{event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                raise event.exception
            elif isinstance(event, events.EngineFinished):
                assert event.stop_reason is StopReason.COMPLETED
    assert not wrong, "\n\n".join(sorted(wrong))
    assert set(CHECKS.get_all_names()) - checked == set(), "a check is turned off"
    tested = {label for label, seen in statuses.items() if seen}
    assert {f"{method} {path}" for method, path in OPERATIONS} - tested == set()
    # It did get in, and not only to be turned away.
    for label in ("GET /api/v1/jobs", "GET /api/v1/service", "GET /api/v1/models", "POST /api/v1/keys"):
        assert statuses[label].keys() & {200, 201}, label
    assert not any(status >= 500 for seen in statuses.values() for status in seen)


def _faults(event: events.ScenarioFinished) -> Iterator[str]:
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            if check.status is Status.FAILURE and check.failure_info is not None:
                case = event.recorder.cases[case_id].value
                answer = event.recorder.interactions[case_id].response
                told = answer.text if answer is not None else ""
                yield f"{event.label}: {check.name}: {check.failure_info.failure}\n{case.as_curl_command()}\n{told}"


def _count(event: events.ScenarioFinished, statuses: dict[str, Counter[int]]) -> None:
    seen = statuses.setdefault(event.label or "", Counter())
    for interaction in event.recorder.interactions.values():
        if interaction.response is not None:
            seen[interaction.response.status_code] += 1

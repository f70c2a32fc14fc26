"""The due time in names and paths: these forms, nothing else, nothing run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidSpec
from tidemill.domain.templates import has_template, render
from tidemill.wire.spec import JobSpec
from tidemill.wire.templates import spec_at

NIGHT = datetime(2026, 11, 26, 1, 0, tzinfo=UTC)
BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ due }}", "2026-11-26T02:00:00+01:00"),
        ("{{due}}", "2026-11-26T02:00:00+01:00"),
        ("/in/{{ due | date }}/x", "/in/2026-11-26/x"),
        ("{{due|date}}", "2026-11-26"),
        ("{{ due - 1d | date }}", "2026-11-25"),
        ("{{ due + 1 w | date }}", "2026-12-03"),
        ("{{ due - 26h | date }}", "2026-11-25"),
        ('{{ due - 90m | date("%H:%M") }}', "00:30"),
        ('{{ due | date("%Y/%m/%d") }}', "2026/11/26"),
        ("{{ due | date('%G-W%V-%u %j %y %S%%') }}", "2026-W48-4 330 26 00%"),
        ('{{ due | date("") }}', ""),
        ("{{ due | date }}{{ due - 1d | date }}", "2026-11-262026-11-25"),
        ("{ due } }", "{ due } }"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert render(text, NIGHT, BERLIN) == expected


def test_days_are_of_the_calendar_and_hours_pass() -> None:
    """The night in which clocks go forward, at 03:00 instead of 02:30."""
    due = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    said = '{{ due | date("%d %H:%M") }}, {{ due - 1d | date("%d %H:%M") }}, {{ due - 24h | date("%d %H:%M") }}'
    assert render(said, due, BERLIN) == "29 03:00, 28 03:00, 28 02:00"
    assert render("{{ due - 1d }}", due, BERLIN) == "2026-03-28T03:00:00+01:00"


@pytest.mark.parametrize(
    "text",
    [
        "{{ now }}", "{{ due.year }}", "{{ due | upper }}", "{{ due() }}", "{{ due - 1y | date }}", "{{ due - d }}",
        "{{ due | date(%Y) }}", "{{ due | date('%Y\") }}", "{{ due - 1d - 1d }}", "{{ due | date | date }}", "{{}}",
        "{{ due", "due }}", "}} {{", "{{ due | date('%B') }}", "{{ due | date('%') }}", "{{ due | date('%Y%') }}",
        "{{ due | date('%-d') }}", "{{ ''.__class__ }}", "{% for x in y %}{{ x }}", "{{ due - 99999d | date }}",
        "{{ {{ due }} }}",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        render(text, NIGHT, BERLIN)
    assert caught.value.remedy


def test_before_all_dates() -> None:
    with pytest.raises(InvalidSpec, match="all dates"):
        render("{{ due - 9999w }}", datetime(3, 1, 1, tzinfo=UTC), "UTC")


@given(st.text(alphabet="{} due|-1dhdate()\"'%Y", max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    try:
        done = render(text, NIGHT, "UTC")
    except InvalidSpec:
        return
    assert has_template(text) or done == text


def spec(**words: Any) -> JobSpec:
    return JobSpec.model_validate({"model": "churn@1", "input": {"path": ["/in"]}, **words})


def test_a_spec_of_one_due_time() -> None:
    made = spec_at(
        spec(
            name="scores of {{ due | date }}",
            input={"path": ["/in/{{ due - 1d | date }}", "/more"], "options": {"delimiter": ";"}},
            output={"path": "/out/{{ due | date }}/", "mode": "append"},
            labels={"day": "{{ due | date }}"},
        ),
        NIGHT,
        BERLIN,
    )
    assert (made.name, made.input.path) == ("scores of 2026-11-26", ["/in/2026-11-25", "/more"])
    assert made.output is not None
    assert (made.output.path, made.output.mode, made.labels) == ("/out/2026-11-26/", "append", {"day": "2026-11-26"})
    assert made.input.options == {"delimiter": ";"}


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ({"model": "churn@{{ due | date }}"}, "model"),
        ({"keep": ["{{ due }}"]}, "keep"),
        ({"input": {"path": ["/in"], "options": {"sheet": ["{{ due }}"]}}}, "input.options.sheet"),
        ({"output": {"path": "/out", "options": {"x": "}}"}}}, "output.options.x"),
    ],
)
def test_elsewhere_templates_are_refused(words: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidSpec, match=where) as caught:
        spec_at(spec(**words), NIGHT, BERLIN)
    assert "input.path" in (caught.value.remedy or "")


def test_what_a_template_gives_may_hold_no_template() -> None:
    with pytest.raises(InvalidSpec):
        spec_at(spec(input={"path": ["/{{ due | date('{{') }}"]}), NIGHT, BERLIN)

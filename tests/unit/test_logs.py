"""What a long-running process says of itself."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tidemill.telemetry import logs


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def said(monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(as_json=as_json)
    log = logging.getLogger("tidemill.test")
    log.debug("unheard")
    log.info("took %s", "job_1")
    log.warning("Grüße\nin two lines")
    try:
        raise ZeroDivisionError("a defect")
    except ZeroDivisionError:
        log.exception("failed")
    return stream.getvalue().splitlines()


@pytest.mark.usefixtures("restored")
def test_json_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in said(monkeypatch, as_json=True)]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "took job_1"),
        ("warning", "Grüße\nin two lines"),
        ("error", "failed"),
    ]
    assert "ZeroDivisionError: a defect" in lines[2]["error"]
    assert {line["logger"] for line in lines} == {"tidemill.test"}


@pytest.mark.usefixtures("restored")
def test_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch, as_json=False)
    assert lines[0].endswith(" took job_1")
    assert lines[1].endswith(r" warning: Grüße\nin two lines")
    assert any(line.endswith("ZeroDivisionError: a defect") for line in lines)

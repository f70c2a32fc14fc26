"""The code of the page about webhooks checks what the service really signs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.webhook import JOB_EVENTS, RETRY_SECONDS, secret, secret_text, signed_headers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "be-told-when-a-job-ends.md").read_text("utf-8")


@pytest.fixture
def verified() -> Callable[[str, dict[str, str], bytes], dict[str, Any]]:
    code = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)
    found: Callable[[str, dict[str, str], bytes], dict[str, Any]] = names["verified"]
    return found


def test_the_code_of_the_page_verifies_signatures(
    verified: Callable[[str, dict[str, str], bytes], dict[str, Any]],
) -> None:
    old, new, other = (secret(b"k" * 32, "whk_1", generation) for generation in (1, 2, 3))
    body, now = b'{"type": "job.failed"}', int(time.time())
    headers = signed_headers([new, old], "msg_1", now, body)
    for each in (old, new):
        assert verified(secret_text(each), headers, body) == json.loads(body)
    for wrong, signed, content in (
        (other, headers, body),
        (new, headers, body + b" "),
        (new, {**headers, "webhook-id": "msg_2"}, body),
        (new, signed_headers([new], "msg_1", now - 400, body), body),
    ):
        with pytest.raises(ValueError, match=r"not signed|too old"):
            verified(secret_text(wrong), signed, content)


def test_the_page_names_every_event() -> None:
    assert set(re.findall(r"^\| `(job\.\w+)` \|", PAGE, re.MULTILINE)) == {event.value for event in JOB_EVENTS}


def test_the_page_tells_the_times_of_retries() -> None:
    hours = [str(seconds // 3600) for seconds in RETRY_SECONDS[3:]]
    told = f"5 seconds, 5 minutes, 30 minutes, then {', '.join(hours[:-1])} and {hours[-1]} hours"
    assert told in " ".join(PAGE.split())
    assert RETRY_SECONDS[:3] == (5, 300, 1800)

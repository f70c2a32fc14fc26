"""What others called their things cannot forge lines, steer terminals or carry secrets out."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.api.house import House, client_of
from tidemill.cli import output
from tidemill.cli.console import PlainConsole
from tidemill.cli.output import print_error, print_line, print_table
from tidemill.config import Settings
from tidemill.domain.errors import InvalidSpec, TidemillError
from tidemill.domain.showing import holds_credential, is_secret_name, one_line, redacted, visible
from tidemill.service.joblog import JobLog
from tidemill.telemetry import logs

KEY = "tm_key_0123456789abcdef_" + "a1" * 24


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hush@db/x", "postgresql://me:***@db/x"),
        ("at https://me:h%40sh@host:1/p?q and s3://k:hush@b", "at https://me:***@host:1/p?q and s3://k:***@b"),
        ("https://ghp_hush@github.example/x", "https://***@github.example/x"),
        (f"key {KEY}.", "key tm_key_0123456789abcdef_***."),
        ("Authorization: Bearer hush.hush-1", "Authorization: Bearer ***"),
        ("basic aHVzaDpodXNo!", "basic ***!"),
        ("password=hush token = 'hush', x", "password=*** token = '***', x"),
        ("https://h/x?X-Amz-Signature=hush&X-Amz-Date=1&sig=hush", "https://h/x?X-Amz-Signature=***&X-Amz-Date=1&sig=***"),
        ('{"api_key": "hush", "name": "x"}', '{"api_key": "***", "name": "x"}'),
        ("AWS_SECRET_ACCESS_KEY=hush PGPASSWORD=hush", "AWS_SECRET_ACCESS_KEY=*** PGPASSWORD=***"),
        ("my-hub-token=hush&x=1", "my-hub-token=***&x=1"),
    ],
)  # fmt: skip
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert "hush" not in str(TidemillError(text, remedy=text))
    assert "hush" not in json.dumps(TidemillError(text, remedy=text).to_json())


@pytest.mark.parametrize(
    "text",
    [
        *("postgresql://me@db/x", "http://host:80/a@b", "secret:hub", "models:/churn@champion", "upload:upload_1"),
        *("column 'token' is missing", "the tokenizer = fast", "Send it as `Authorization: Bearer KEY`.", "a = b"),
        *("lightgbm@1 me@example.com", "basic words", "monkey=1 keyboard=2 tokens=3 sigma=0.5", "http://[::1]:80/x"),
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text
    assert not holds_credential(text)


def test_names_of_secrets() -> None:
    for name in ("password", "Passwd", "api_key", "apikey", "hub_token", "AWS_SECRET_ACCESS_KEY", "client-secret"):
        assert is_secret_name(name), name
    for name in ("key", "keys", "tokens", "token_count", "passwords_seen", "sheet", "name", "secretary"):
        assert not is_secret_name(name), name


HOSTILE = [
    "\x1b[2J\x1b[1;1Hgone", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "\x9b31m",
    "a\rb", "a\x00b", "a\x08\x08b", "a\x7fb", "\u202egnp.exe", "a\u2028b", "a\x85b", "\ufeffa", "\u2066x\u2069",
]  # fmt: skip
"""What steers a terminal, or hides what it says."""
FORGED = "harmless\n2026-01-01T00:00:00Z error: forged\r\nSet-Cookie: a=b"


def steering(text: str) -> list[str]:
    """The characters in it that no terminal should be told of."""
    return [
        c
        for c in text
        if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2028\ufeff\u2066\u2069"
    ]


@pytest.mark.parametrize("text", [*HOSTILE, FORGED, "\ud800"])
def test_steering_characters_become_visible(text: str) -> None:
    assert not steering(visible(text))
    assert not steering(one_line(text))
    assert "\n" not in one_line(text)
    visible(text).encode()
    assert visible(visible(text)) == visible(text)


def test_other_characters_stay() -> None:
    text = "Grüße 日本 🎉 [red]\tx\\n"
    assert visible(text) == one_line(text) == text
    assert visible("a\nb") == "a\nb"
    assert one_line("a\nb\x1b") == r"a\nb\x1b"


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger, as it was before."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
def test_a_log_line_is_one_line_without_secrets(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    logged = io.StringIO()
    monkeypatch.setattr(sys, "stderr", logged)
    logs.configure(as_json=as_json)
    log = logging.getLogger("tidemill.test")
    for text in (*HOSTILE, FORGED):
        log.error("job %s failed at postgresql://me:hush@db", text)
    try:
        raise ValueError(f"{FORGED} password=hush \x1b[2J")
    except ValueError:
        log.exception("with a trace of %s", FORGED)
    logging.getLogger("httpx2").info("HTTP Request: GET https://h/x?opaque=hush")
    lines = logged.getvalue().split("\n")[:-1]
    assert not steering(logged.getvalue())
    assert "hush" not in logged.getvalue()
    if as_json:
        assert len(lines) == len(HOSTILE) + 2
        assert json.loads(lines[0])["message"].startswith("job \x1b[2J")
    else:
        own = [line for line in lines if not line.startswith("  ")]
        assert len(own) == len(HOSTILE) + 2
        assert all(line.startswith("20") and " error: " in line for line in own)
        assert not any(line.startswith("2026-01-01") for line in lines)


def test_a_jobs_log_tells_lines_of_others_apart(tmp_path: Path) -> None:
    log = JobLog(tmp_path, "job_1", "worker_1")
    log.say(f"rejected: {FORGED} \x1b[2J api_key=hush")
    log.say("\n".join(HOSTILE))
    text = (tmp_path / "job_1.log").read_text()
    assert not steering(text)
    assert "hush" not in text
    assert [line[:2] for line in text.splitlines()] == ["20", "  ", "  ", "20", *["  "] * (len(HOSTILE) - 1)]


@pytest.mark.parametrize("text", [*HOSTILE, FORGED])
def test_a_terminal_is_not_steered(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, labels, reasons and log lines that a service tells of."""
    stream = io.StringIO()
    for name in ("people", "data"):
        monkeypatch.setattr(output, name, PlainConsole(file=stream, highlight=False, soft_wrap=True))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    print_error(TidemillError(text, remedy=text))
    print_table([f"[red]{text}"], [[text], [f"[link=x]{text}"]])
    print_line(text)
    output.print_json({"name": text})
    assert not steering(stream.getvalue())


def test_a_pipe_gets_the_data_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    print_line("a\x1b[2Jb")
    assert stream.getvalue() == "a\x1b[2Jb\n"


MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}${7*7}{% raw %}"


def test_pages_and_answers_escape_names(house: House) -> None:
    """Of jobs, labels, files and errors, in HTML, headers and JSON."""
    names = [name for name in (*HOSTILE, FORGED, MARKUP) if "\x00" not in name]  # No store takes that.
    with client_of(house) as client:
        for name in names:
            job = house.fail(house.submit(name=name, labels={f"k{name}": name}))
            for path in (f"/jobs/{job.id}", "/"):
                page = client.get(path, headers={"Accept": "text/html"})
                assert page.status_code == 200, path
                assert "<script>alert" not in page.text
                assert "onerror=alert(1)>" not in page.text
                assert ("{{7*7}}" in page.text) is (name is MARKUP)
                assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            answer = client.get(f"/api/v1/jobs/{job.id}")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["name"] == name
            for response in (page, answer):
                assert "set-cookie" not in response.headers
                assert not any(steering(value) for value in response.headers.values())


@pytest.mark.parametrize(
    "name", ["a\r\nSet-Cookie: x=y.csv", 'a";filename=evil.exe', "ü\u202e.csv", "../../etc/passwd", "\x1b.csv"]
)
def test_what_an_upload_is_called_stays_in_its_place(house: House, name: str) -> None:
    with client_of(house) as client:
        made = client.put(f"/api/v1/uploads/{quote(name, safe='')}", content=b"a\n1\n")
        if made.status_code == 201:
            assert made.json()["name"] == name
        else:  # A slash is a border of the path, and control characters are refused.
            assert made.status_code == (404 if "/" in name else 422)
        for response in (made, client.get("/api/v1/uploads")):
            assert "set-cookie" not in response.headers
            assert not any(steering(value) for value in response.headers.values())
    folder = house.folder / "home" / "uploads"
    assert {path.relative_to(folder).parts[0] for path in folder.rglob("*")} <= {"default"}
    assert not (house.folder / "etc").exists()


@pytest.mark.parametrize("header", ["Location", "X-Request-Id", "Host"])
def test_request_headers_come_back_nowhere(house: House, header: str) -> None:
    with client_of(house) as client:
        answer = client.get("/api/v1/nowhere", headers={header: "evil.example"})
    assert "evil.example" not in str(answer.headers)
    assert "evil.example" not in answer.text


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_PORT", "hush")
    (tmp_path / "config.toml").write_text('stroe = "postgresql://me:hush@db/x"\n')
    with pytest.raises(InvalidSpec, match=r"port: .*stroe: |stroe: .*port: ") as refused:
        Settings()
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__

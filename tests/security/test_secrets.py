"""Secrets are used and seen nowhere: by reference, refused in specs, and searched for after a tour."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from tests.integration.api.house import LOCAL, House, opened_house
from tidemill.api.app import create_app
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal, Role
from tidemill.domain.admission import Needs
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound, Refused
from tidemill.service import keys, mlflow, registration, submission
from tidemill.service.secrets import Secrets, variable_of
from tidemill.service.work import Pool, PoolOptions
from tidemill.stores.sql.store import SqlStore
from tidemill.stores.sql.tables import metadata
from tidemill.telemetry import logs
from tidemill.wire.api import AddKey
from tidemill.wire.spec import JobSpec

HERE = Principal(name="somebody")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    made.mkdir()
    (made / "hub").write_text("from a file\n")
    return made


def test_a_secret_is_a_file_or_a_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets(folder=folder)
    monkeypatch.setenv("TIDEMILL_SECRET_HUB", "from the environment")
    monkeypatch.setenv(variable_of("model-hub.2"), "other")
    assert variable_of("model-hub.2") == "TIDEMILL_SECRET_MODEL_HUB_2"
    assert (secrets.text("hub"), secrets.text("model-hub.2")) == ("from a file", "other")
    assert Secrets().text("hub") == "from the environment"
    assert (secrets.resolved("secret:hub"), secrets.resolved("plain")) == ("from a file", "plain")
    (folder / "hub").write_text("rotated")
    assert secrets.text("hub") == "rotated"


def test_what_is_mounted_by_kubernetes_is_found(folder: Path) -> None:
    """A link to a file behind a link to a folder that is exchanged when the secret changes."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / "token").write_text("mounted")
    (folder / "..data").symlink_to("..2026")
    (folder / "token").symlink_to("..data/token")
    assert Secrets(folder=folder).text("token") == "mounted"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../hub", "a/b", "/etc/passwd", "hub\0", "hub\n", "\u2024\u2024/hub", "%2e%2e", "x" * 101),
        *(".hub", "-hub"),
    ],
)
def test_a_name_is_no_path(folder: Path, name: str) -> None:
    with pytest.raises(InvalidSpec, match="no name of a secret"):
        Secrets(folder=folder).text(name)


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "a\r\nX: y", "tab\there", "\x1b[0m", "a\0b"])
def test_a_secret_that_would_break_a_header_is_refused(folder: Path, text: str) -> None:
    (folder / "hub").write_bytes(text.encode())
    with pytest.raises(InvalidSpec) as refused:
        Secrets(folder=folder).text("hub")
    assert "two" not in str(refused.value)
    (folder / "hub").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSpec, match="not UTF-8"):
        Secrets(folder=folder).text("hub")
    (folder / "hub").write_bytes(b"x" * (1 << 17))
    with pytest.raises(InvalidSpec, match="longer than"):
        Secrets(folder=folder).text("hub")


def test_a_secret_that_is_not_there_says_where_it_belongs(folder: Path) -> None:
    with pytest.raises(NotFound) as refused:
        Secrets(folder=folder).text("other")
    assert "secrets_dir" in str(refused.value)
    assert "TIDEMILL_SECRET_OTHER" in str(refused.value)


def test_a_key_has_a_secret_sent_only_where_the_operator_says(folder: Path) -> None:
    secrets = Secrets(folder=folder, hosts={"hub": ["models.example"]})
    who = Principal(name="x", id="key_x")
    assert secrets.authorization(who, "secret:hub", "Models.Example.") == "from a file"
    for host in ("evil.example", "models.example.evil.example", "xmodels.example", "127.0.0.1", ""):
        with pytest.raises(NotAllowed, match="may not have the secret hub"):
            secrets.authorization(who, "secret:hub", host)
    with pytest.raises(NotAllowed):  # Not even whether there is such a secret.
        secrets.authorization(who, "secret:nowhere", "models.example")
    (folder / "hub").write_text("token")
    assert secrets.authorization(HERE, "secret:hub", "evil.example") == "Bearer token"


def test_credentials_of_systemd_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert Settings(home=tmp_path).secrets_dir == folder


def test_the_stores_url_may_be_a_secret(folder: Path, tmp_path: Path) -> None:
    (folder / "store").write_text(str(tmp_path / "elsewhere"))
    with opened(Settings(home=tmp_path / "home", store="secret:store", secrets_dir=folder), children=False) as context:
        context.store.jobs.list()
    assert (tmp_path / "elsewhere" / "tidemill.db").exists()
    with (
        pytest.raises(NotFound, match="no secret other"),
        opened(Settings(home=tmp_path / "home", store="secret:other"), children=False),
    ):
        pass


def test_mlflow_gets_what_its_variables_refer_to(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret:hub")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    with opened_house(tmp_path, secrets_dir=folder) as house:
        asked: list[Mapping[str, Any]] = []

        class Child:
            name = "local"

            def call(self, entry: str, request: Mapping[str, Any], **options: Any) -> Any:
                asked.append(request)
                raise NotFound("no server")

        context = replace(house.context, executor=Child())  # type: ignore[arg-type]
        with pytest.raises(NotFound), mlflow.arriving(context, "models:/churn/1"):
            pass
    assert [request["credentials"] for request in asked] == [{"MLFLOW_TRACKING_TOKEN": "from a file"}]


CREDENTIALS: list[dict[str, Any]] = [
    {"input": {"path": ["/data/x"], "options": {"password": "hush"}}},
    {"input": {"path": ["/data/x"], "options": {"nested": {"hub_token": "hush"}}}},
    {"input": {"path": ["s3://key:hush@bucket/x"]}},
    {"input": {"path": ["https://hush@data.example/x"]}},
    {"input": {"path": ["https://data.example/x?X-Amz-Signature=hush"]}},
    {"output": {"path": "postgresql://me:hush@db/scores"}},
    {"output": {"path": "/data/out", "options": {"AWS_SECRET_ACCESS_KEY": "hush"}}},
    {"predict": {"options": {"api_key": "hush"}}},
    {"labels": {"token": "hush"}},
    {"labels": {"x": "Bearer hushhush"}},
    {"name": "at ftp://me:hush@host"},
    {"name": "tm_key_0123456789abcdef_" + "a1" * 24},
    {"model": "https://me:hush@models.example/model.txt"},
]


@pytest.mark.parametrize("words", CREDENTIALS)
def test_a_spec_with_a_credential_is_refused_and_not_kept(house: House, words: dict[str, Any]) -> None:
    operator, _ = house.key()
    for who in (operator, house.here):
        with pytest.raises(InvalidSpec, match="looks like a password, token or key") as refused:
            house.submit(who, **words)
        assert "secret:NAME" in str(refused.value)
        assert "hush" not in str(refused.value)
    assert house.context.store.jobs.list() == []


def test_words_that_only_sound_so_are_taken(house: House) -> None:
    words: dict[str, Any] = {
        "schema": {"token": "string", "password": "string"}, "keep": ["secret"], "labels": {"team": "secret:hub"},
        "predict": {"options": {"token": "secret:hub"}}, "name": "tokens = 3",
    }  # fmt: skip
    assert house.submit(**words).spec["schema"] == words["schema"]


# -- the tour

PLANTED = {name: f"pLaNtEd-{name}-7f3a91" for name in ("hub", "query", "userinfo", "model", "spec", "store", "echo")}


@dataclass
class Hub:
    """Where a model lies that only those who have a secret get."""

    data: bytes
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Authorization) of every request."""
    port: int = 0

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers["Authorization"]
                hub.seen.append((self.path, given))
                if self.path.startswith("/to-other"):
                    self._answer(302, b"", {"Location": f"http://localhost:{hub.port}/open.txt"})
                elif self.path.startswith("/refuse"):
                    self._answer(403, f"not you: {given}".encode(), {"X-Given": str(given)})
                elif self.path.startswith("/model") and given is None:
                    self._answer(401, b"who are you?", {})
                else:
                    self._answer(200, hub.data, {})

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.close_connection = True
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join(30)
            server.server_close()


class Tour:
    """Asks a service, and remembers all that it said."""

    def __init__(self, app: Any, key: str) -> None:
        self.client = TestClient(
            app, base_url="http://127.0.0.1", client=LOCAL, headers={"Authorization": f"Bearer {key}"}
        )
        self.heard: list[bytes] = []

    def ask(self, method: str, path: str, **words: Any) -> Any:
        answer = self.client.request(method, path, **words)
        self.heard += [answer.content, repr(answer.headers).encode()]
        return answer


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else None


def test_planted_secrets_are_found_nowhere(store: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a tour through the service: not in database, logs, answers, errors, outputs, staging or uploads."""
    log = io.StringIO()
    root, before, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    monkeypatch.setattr("sys.stderr", log)
    logs.configure(as_json=True, level=logging.DEBUG)
    monkeypatch.setenv("TEST_PLANTED_URL", f"postgresql://me:{PLANTED['store']}@db/x")
    monkeypatch.setenv("TEST_PLANTED_TOKEN", PLANTED["model"])
    monkeypatch.setenv("TIDEMILL_SECRET_HUB", PLANTED["hub"])
    data = tmp_path / "data"
    data.mkdir()
    numbers = pa.table({"n": pa.array(range(40), pa.int64())})
    pq.write_table(numbers, data / "in.parquet")
    pq.write_table(pa.table({"n": pa.array([777], pa.int64())}), data / "abort.parquet")
    model = Path(__file__).parents[2] / "src" / "tidemill" / "cli" / "demo_data" / "model.txt"
    settings = Settings(
        home=tmp_path / "home", cores=1, store=store, data_roots=[data], model_hosts=["127.0.0.1", "localhost"],
        secret_hosts={"hub": ["127.0.0.1"]},
    )  # fmt: skip
    try:
        with Hub(model.read_bytes()).serving() as hub, opened(settings) as context:
            options = PoolOptions(jobs_at_once=1, host=Needs(cpus=1, memory_bytes=4 << 30), drain_seconds=5)
            pool = Pool(context, options)
            pool.start()
            try:
                _, admin = keys.add(context, HERE, AddKey(name="admin", role=Role.ADMIN.value))
                tour = Tour(create_app(context), admin)
                with tour.client:
                    walk(tour, context, hub, data)
            finally:
                pool.stop()
                pool.join(30)
            told = {"database": rows_of(context.store), "answers": b"\n".join(tour.heard)}
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    told["log"] = log.getvalue().encode()
    told |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # The search finds what is there: a job's name in the store and in answers, its outcome in the log.
    assert b"wanted-name" in told["database"]
    assert b"wanted-name" in told["answers"]
    assert b"succeeded_with_rejections" in told["log"]
    hidden = {**PLANTED, "key": admin.rpartition("_")[2]}
    assert [(name, place) for name, text in hidden.items() for place in told if text.encode() in told[place]] == []
    assert any(b"***" in content for place, content in told.items() if place.endswith(".log"))


def rows_of(store: Any) -> bytes:
    """Every value of every table, as text."""
    assert isinstance(store, SqlStore)
    with store.database.read() as connection:
        rows = [repr(row) for table in metadata.sorted_tables for row in connection.execute(select(table)).all()]
    return "\n".join(rows).encode()


def walk(tour: Tour, context: Any, hub: Hub, data: Path) -> None:
    """Models from a place that wants a secret, jobs that fail in all ways, and everything that can be asked of them."""
    site = f"http://127.0.0.1:{hub.port}"
    versions = "/api/v1/models/wanted-name/versions"
    let_in = {"source": f"{site}/model.txt?sig={PLANTED['query']}", "authorization": "secret:hub"}
    assert tour.ask("POST", versions, json=let_in).status_code == 201
    assert hub.seen[-1][1] == f"Bearer {PLANTED['hub']}"
    by_name = {"source": f"{site.replace('//', '//me:' + PLANTED['userinfo'] + '@')}/model.txt"}
    assert tour.ask("POST", versions, json=by_name).status_code == 201
    away = {"source": f"{site}/to-other?{PLANTED['echo']}", "authorization": "secret:hub"}
    assert tour.ask("POST", versions, json=away).status_code == 201
    assert hub.seen[-1] == ("/open.txt", None)
    for source in (f"{site}/refuse/{'x' * 5}?{PLANTED['echo']}", f"http://me:{PLANTED['userinfo']}@localhost:1/x"):
        assert tour.ask("POST", versions, json={"source": source}).status_code == 404
    elsewhere = {"source": f"http://localhost:{hub.port}/model.txt", "authorization": "secret:hub"}
    assert tour.ask("POST", versions, json=elsewhere).status_code == 403
    wrong = {"source": f"http://me:{PLANTED['userinfo']}@/x"}
    assert tour.ask("POST", versions, json=wrong).status_code == 422
    for words in CREDENTIALS:
        said = json.loads(json.dumps(words).replace("hush", PLANTED["spec"]))
        spec = {"model": "wanted-name@1", "input": {"path": [str(data / "in.parquet")]}, **said}
        assert tour.ask("POST", "/api/v1/jobs", json=spec).status_code == 422
    (data / "linked").mkdir()
    (data / "linked" / "out.parquet").symlink_to(Path(__file__))
    spec = {"model": "wanted-name@1", "input": {"path": [str(data / "linked")]}}
    led_out = tour.ask("POST", "/api/v1/jobs", json=spec).json()["id"]
    ended = tour.ask("GET", f"/api/v1/jobs/{led_out}", params={"wait": 60}).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "not_allowed"), ended
    context.store.trust.trust(_digest_of_chatty(context), "tests", "tests")
    ids = [_run(context, data, name, tour) for name in ("in", "abort")]
    for job_id in ids:
        for path in ("", "/logs", "/result", "/result/head", "/result/head?rejected=true", "/result/rejected"):
            tour.ask("GET", f"/api/v1/jobs/{job_id}{path}")
        tour.ask("GET", f"/jobs/{job_id}")
        for form in ("csv", "jsonl", "arrow", "parquet"):
            tour.ask("GET", f"/api/v1/jobs/{job_id}/result/download", params={"format": form})
    sent = tour.ask("PUT", "/api/v1/uploads/wanted-name.csv", content=b"n\n1\n").json()
    below = ("jobs", "models", "models/wanted-name", "keys", "audit", "service", "usage?by=model")
    for path in (*(f"/api/v1/{path}" for path in below), f"/api/v1/uploads/{sent['id']}/preview", "/metrics", "/"):
        assert tour.ask("GET", path).status_code == 200, path


CHATTY = f"{Path(__file__).with_name('chatty.py')}:Chatty"


def _digest_of_chatty(context: Any) -> str:
    return str(context.executor.call(context.entries.identify, {"path": CHATTY, "flavor": None})["digest"])


def _run(context: Any, data: Path, name: str, tour: Tour) -> str:
    spec = {"model": CHATTY, "input": {"path": [str(data / f"{name}.parquet")]}, "name": f"wanted-name-{name}",
            "id": ["n"], "limits": {"rejected": "none"}}  # fmt: skip
    job, _ = submission.submit(context, HERE, JobSpec.model_validate(spec))
    status = tour.ask("GET", f"/api/v1/jobs/{job.id}", params={"wait": 60}).json()
    assert status["state"] in ("succeeded_with_rejections", "failed"), status
    return job.id


def test_a_key_names_a_secret_only_of_urls_it_may(house: House) -> None:
    operator, _ = house.key()
    for source, error in (
        ("/data/x", InvalidSpec), ("models:/x/1", InvalidSpec), ("http://models.example/x", NotAllowed),
        ("https://models.example/x", NotAllowed),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            registration.add(house.context, operator, "x", source, authorization="secret:hub")
        assert type(refused.value) is error

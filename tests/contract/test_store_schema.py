"""The schema on both databases: what it refuses, how it grows, and that workers of the version before go on.

The limit of the last: no worker of an old version runs here. What its statements did to the tables is
frozen below as SQL in the words of version 1; what an old worker does around them is not tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from tidemill.domain.access import AuditEntry
from tidemill.domain.job import LEASED, TRANSITIONS, JobState
from tidemill.stores.sql import postgres, schema, sqlite, tables
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.store import SqlStore, open_store
from tidemill.testing.store import HOST, LONG, claim_next, new_job, new_key, new_pin, new_version, new_webhook
from tidemill.testing.store.sessions import new_session

LEASE = {"token": "t", "worker_id": "w", "lease_until_ms": 1}


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sql(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    place = str(tmp_path / "home") if kind == "sqlite" else request.getfixturevalue("given_postgres_url")
    store = open_store(place, **LONG)
    yield store
    store.close()


@pytest.fixture
def blank(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if kind == "sqlite":
        database = sqlite.open_database(tmp_path / "tidemill.db")
    else:
        database = postgres.open_database(request.getfixturevalue("blank_postgres_url"))
    yield database
    database.close()


def is_refused(connection: Connection, statement: Any, values: dict[str, Any] | None = None) -> bool:
    """Whether the database refuses it. Nothing is changed either way."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(statement, values or {})
    except IntegrityError:
        return True
    finally:
        savepoint.rollback()
    return False


# Constraints


def test_the_database_holds_the_table_of_transitions(sql: SqlStore) -> None:
    with sql.database.read() as connection:
        stored = {(row.before, row.after) for row in connection.execute(tables.transitions.select())}
    assert stored == {(before.value, after.value) for before in TRANSITIONS for after in TRANSITIONS[before]}


def test_the_database_refuses_other_transitions(sql: SqlStore) -> None:
    def values(state: JobState) -> dict[str, Any]:
        rejected = int(state is JobState.SUCCEEDED_WITH_REJECTIONS)
        held: dict[str, Any] = LEASE if state in LEASED else dict.fromkeys(LEASE)
        return {"state": state.value, "rows_total": rejected, "rows_rejected": rejected, **held}

    sql.jobs.submit(new_job("job_a"))
    refused = set()
    with sql.database.write() as connection:
        for before, way in _ways().items():
            there = connection.begin_nested()
            for state in way:
                connection.execute(tables.jobs.update().values(values(state)))
            for after in JobState:
                if is_refused(connection, tables.jobs.update().values(values(after))):
                    refused.add((before, after))
            there.rollback()
    allowed = {(before, after) for before in JobState for after in JobState} - refused
    assert allowed == {(state, state) for state in JobState} | {
        (before, after) for before in TRANSITIONS for after in TRANSITIONS[before]
    }


def _ways() -> dict[JobState, list[JobState]]:
    """How a queued job gets to each state."""
    ways: dict[JobState, list[JobState]] = {JobState.QUEUED: []}
    while len(ways) < len(JobState):
        for state, way in list(ways.items()):
            for after in TRANSITIONS[state]:
                ways.setdefault(after, [*way, after])
    return ways


def test_a_job_starts_queued_or_planning(sql: SqlStore) -> None:
    sql.jobs.submit(new_job("job_a"))
    with sql.database.write() as connection:
        (row,) = connection.execute(tables.jobs.select()).mappings()
        for state in JobState:
            held = LEASE if state in LEASED else {}
            new = {**row, "number": 999, "id": "job_b", "state": state.value, **held}
            refused = is_refused(connection, tables.jobs.insert().values(new))
            assert refused == (state not in (JobState.QUEUED, JobState.PLANNING)), state


def test_the_database_refuses_impossible_rows(sql: SqlStore) -> None:
    sql.jobs.submit(new_job("job_a"))
    sql.models.add_version(new_version())
    sql.keys.add(new_key("key_1"), "a" * 64)
    assert sql.webhooks.add(new_webhook("whk_1"), most=1)
    sql.outbox.ping("whk_1")
    sql.sessions.add(new_session("session_1"), "a" * 64)
    sql.audit.record(AuditEntry(tenant="default", actor="ada", action="a", subject="s", detail={}))
    wrongs: dict[str, list[dict[str, Any]]] = {
        "jobs": [
            *({"state": "done"}, {"want": "sleep"}, {"epoch": -1}, {"crashes": -1}, {"token": "t"}, {"name": None}),
            *({"lease_until_ms": 1}, {"state": "planning"}, {"state": "planning", "token": "t", "worker_id": "w"}),
            *({"rows_predicted": 1}, {"chunks_done": 1}, {"rows_rejected": -1}, {"tenant": ""}, {"tenant": None}),
            *({"cpus": -1}, {"memory_bytes": -1}, {"gpus": -1}, {"model_key": None}, {"owner": None}),
        ],
        "documents": [{"body": "{}"}],
        "model_versions": [{"version": 0}, {"name": ""}, {"size_bytes": -1}, {"tenant": ""}],
        "api_keys": [{"role": "root"}, {"secret_sha256": "abc"}, {"max_running": -1}, {"tenant": ""}],
        "sessions": [{"id": ""}, {"secret_sha256": "abc"}, {"name": ""}, {"groups": None}, {"expires_at_ms": None}],
        "audit": [{"actor": "eve"}],
        "webhooks": [{"tenant": ""}, {"url": ""}, {"generation": 0}, {"events": None}],
        "deliveries": [{"state": "lost"}, {"state": "delivered"}, {"next_at_ms": None}, {"attempts": -1}],
    }
    with sql.database.write() as connection:
        for table, rows in wrongs.items():
            for wrong in rows:
                assignments = ", ".join(f"{name} = :{name}" for name in wrong)
                assert is_refused(connection, text(f"UPDATE {table} SET {assignments}"), wrong), (table, wrong)


def test_rows_belong_to_what_is_there(sql: SqlStore) -> None:
    sql.jobs.submit(new_job("job_a"))
    sql.models.add_version(new_version())
    document = {"job_id": "job_a", "kind": "plan", "body": {}}
    chunk = {"job_id": "job_a", "chunk": 0, "epoch": 1, "rows": 0, "predicted": 0, "rejected": 0, "receipt": {}}
    alias = {"tenant": "default", "name": "churn", "alias": "champion", "version": 1}
    event = {"job_id": "job_a", "at_ms": 1, "state": "queued"}
    with sql.database.write() as connection:
        for table, row, wrongs in [
            (tables.documents, document, [{"job_id": "job_none"}, {"kind": "poem"}, {"kind": "spec"}]),
            (tables.chunks, {**chunk, "committed_at_ms": 0}, [{"job_id": "job_none"}, {"rows": 1}, {"epoch": 0}]),
            (tables.aliases, alias, [{"version": 2}, {"name": "other"}, {"tenant": "acme"}, {"alias": ""}]),
            (tables.events, event, [{"job_id": "job_none"}]),
        ]:
            assert not is_refused(connection, table.insert().values(row)), table.name
            for wrong in wrongs:
                assert is_refused(connection, table.insert().values({**row, **wrong})), (table.name, wrong)


def test_tables_and_migrations_agree(sql: SqlStore) -> None:
    with sql.database.read() as connection:
        inspector = inspect(connection)
        assert set(inspector.get_table_names()) == set(tables.metadata.tables)
        for table in tables.metadata.tables.values():
            there = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
            keys = set(inspector.get_pk_constraint(table.name)["constrained_columns"])
            assert list(there) == [column.name for column in table.columns]
            assert keys == {column.name for column in table.primary_key}
            assert {name: null for name, null in there.items() if name not in keys} == {
                column.name: column.nullable for column in table.columns if column.name not in keys
            }


def test_the_line_is_read_from_an_index(sql: SqlStore, kind: str) -> None:
    plan = (
        "EXPLAIN QUERY PLAN SELECT owner, priority, min(number), count(*) FROM jobs"
        " WHERE state = 'queued' AND foreground IS 0 GROUP BY owner, priority"
        if kind == "sqlite"
        else "EXPLAIN SELECT owner, priority, min(number), count(*) FROM jobs"
        " WHERE state = 'queued' AND foreground IS FALSE GROUP BY owner, priority"
    )
    with sql.database.read() as connection:
        if kind == "postgres":
            # An empty table is read in any way: what remains is what needs neither the table nor a sort.
            for way in ("seqscan", "bitmapscan", "sort", "incremental_sort", "hashagg"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        steps = " ".join(str(column) for row in connection.exec_driver_sql(plan) for column in row)
    assert "jobs_in_line" in steps


# From the version before


def _at_version(database: Database, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "NEWEST", version)
        schema.upgrade(database)


NEW_JOB = """
    INSERT INTO jobs (id, name, want, want_told, spec_digest, model_digest, output, staging, foreground, priority,
        crashes, rows_total, rows_predicted, rows_rejected, chunks_total, chunks_done, labels, usage, created_at_ms,
        state, epoch, token, worker_id, lease_until_ms, started_at_ms)
    VALUES (:id, 'nightly', 'run', 'run', '5', '6', '/data/out', '/data/.out', :foreground, 0, 0, 0, 0, 0, 0, 0,
        '{}', '{"read_seconds": 0}', 1000, :state, :epoch, :token, :worker, :until, NULL)
"""
NEW_DOCUMENT = "INSERT INTO documents (job_id, kind, body) VALUES (:id, :kind, :body)"
CLAIM = """
    UPDATE jobs SET state = 'planning', epoch = epoch + 1, token = 'old', worker_id = 'w0', lease_until_ms = 9000,
        started_at_ms = coalesce(started_at_ms, 2000), want_told = want
    WHERE id = :id AND epoch = 0 AND token IS NULL AND state = 'queued' RETURNING id
"""
PLAN = """
    UPDATE jobs SET state = 'running', rows_total = 20, chunks_total = 2
    WHERE id = :id AND epoch = 1 AND token = 'old' AND state = 'planning' RETURNING id
"""
COMMIT = """
    UPDATE jobs SET rows_predicted = rows_predicted + 10, chunks_done = chunks_done + 1, crashes = 0
    WHERE id = :id AND epoch = 1 AND token = 'old' AND state = 'running' RETURNING chunks_total, usage
"""
CHUNK = """
    INSERT INTO chunks (job_id, chunk, epoch, rows, predicted, rejected, receipt, committed_at_ms)
    VALUES (:id, :chunk, 1, 10, 10, 0, '{"chunk": 0}', 3000)
"""
RENEW = """
    UPDATE jobs SET lease_until_ms = 9999, want_told = want
    WHERE id = :id AND epoch = 1 AND token = 'old' AND worker_id = 'w0' RETURNING want
"""
BEGIN = """
    UPDATE jobs SET state = 'committing' WHERE id = :id AND epoch = 1 AND token = 'old' AND state = 'running'
    RETURNING id
"""
END = """
    UPDATE jobs SET state = 'succeeded', error = NULL, finished_at_ms = 4000, token = NULL, worker_id = NULL,
        lease_until_ms = NULL
    WHERE id = :id AND epoch = 1 AND token = 'old' AND state IN ('committing') RETURNING want, want_told
"""
REQUEUE = """
    UPDATE jobs SET state = 'queued', want = 'run', want_told = 'run', crashes = 0, error = NULL, finished_at_ms = NULL
    WHERE id = :id AND state IN ('paused', 'failed')
"""
READ = """
    SELECT jobs.number, jobs.id, jobs.state, jobs.usage, spec.body AS spec, plan.body AS plan FROM jobs
    JOIN documents AS spec ON spec.job_id = jobs.id AND spec.kind = 'spec'
    LEFT OUTER JOIN documents AS plan ON plan.job_id = jobs.id AND plan.kind = 'plan' WHERE jobs.id = :id
"""
TRUST = (
    "INSERT INTO trusted (digest, name, trusted_by, trusted_at_ms) VALUES ('d', 'n', 'ada', 1) ON CONFLICT DO NOTHING"
)


def _submit_as_before(connection: Connection, job_id: str, **changes: Any) -> None:
    queued = {"state": "queued", "epoch": 0, "token": None, "worker": None, "until": None, "foreground": False}
    connection.execute(text(NEW_JOB), {"id": job_id, **queued, **changes})
    connection.execute(text(NEW_DOCUMENT), {"id": job_id, "kind": "spec", "body": '{"name": "n"}'})


def _work_as_before(connection: Connection, job_id: str) -> None:
    """From claim to end, in the words of version 1."""
    here = {"id": job_id}
    assert connection.execute(text(CLAIM), here).first() is not None
    assert connection.execute(text(RENEW), here).scalar_one() == "run"
    assert connection.execute(text(PLAN), here).first() is not None
    connection.execute(text(NEW_DOCUMENT), {**here, "kind": "plan", "body": '{"digest": "7"}'})
    for chunk in range(2):
        assert connection.execute(text(COMMIT), here).one().chunks_total == 2
        connection.execute(text(CHUNK), {**here, "chunk": chunk})
    assert connection.execute(text(BEGIN), here).first() is not None
    for kind in ("manifest", "journal"):
        connection.execute(text(NEW_DOCUMENT), {**here, "kind": kind, "body": "{}"})
    assert connection.execute(text(READ), here).one().state == "committing"
    assert connection.execute(text(END), here).first() is not None
    connection.execute(text(TRUST))


def test_a_worker_of_the_version_before_goes_on(sql: SqlStore) -> None:
    sql.jobs.submit(new_job("job_new", model=new_pin(), owner="key_1", tenant="acme"))
    with sql.database.write() as connection:
        _submit_as_before(connection, "job_old")
        held = {"state": "planning", "epoch": 1, "token": "mine", "worker": "w0", "until": 9000}
        _submit_as_before(connection, "job_foreground", foreground=True, **held)
    with sql.database.write() as connection:
        for job_id in ("job_old", "job_new"):
            _work_as_before(connection, job_id)
        paused = (
            "UPDATE jobs SET state = 'paused', token = NULL, worker_id = NULL, lease_until_ms = NULL WHERE id = :id"
        )
        connection.execute(text(paused), {"id": "job_foreground"})
        connection.execute(text(REQUEUE), {"id": "job_foreground"})
    states = ["queued", "planning", "running", "committing", "succeeded"]
    for job_id in ("job_old", "job_new"):
        assert [event.state.value for event in sql.history.events(job_id)] == states
    old, new = sql.jobs.get("job_old"), sql.jobs.get("job_new")
    assert (old.state, old.tenant, old.owner, old.model) == (JobState.SUCCEEDED, "default", "", None)
    assert (new.state, new.tenant, new.owner, new.model) == (JobState.SUCCEEDED, "acme", "key_1", new_pin())
    assert [event.state.value for event in sql.history.events("job_foreground")] == ["planning", "paused", "queued"]
    assert sql.trust.is_trusted("d")
    with sql.database.read() as connection:
        keys = dict(tuple(row) for row in connection.execute(text("SELECT id, model_key FROM jobs")))
    assert keys == {"job_old": "6", "job_foreground": "6", "job_new": "acme/churn"}


def test_what_was_there_is_kept(blank: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _at_version(blank, 1, monkeypatch)
    with blank.write() as connection:
        _submit_as_before(connection, "job_done")
        _work_as_before(connection, "job_done")
        _submit_as_before(connection, "job_queued")
        held = {"state": "planning", "epoch": 1, "token": "mine", "worker": "w0", "until": 9000}
        _submit_as_before(connection, "job_held", foreground=True, **held)
    schema.upgrade(blank)
    assert schema.version(blank) == schema.NEWEST
    with blank.read() as connection:
        events = connection.execute(text("SELECT job_id, at_ms, state FROM events ORDER BY number")).all()
        documents = connection.execute(text("SELECT job_id, kind FROM documents ORDER BY 1, 2")).all()
        defaults = connection.execute(text("SELECT DISTINCT tenant, owner, model_key, cpus, gpus FROM jobs")).all()
    assert [tuple(row) for row in events] == [
        ("job_done", 1000, "queued"),
        ("job_queued", 1000, "queued"),
        ("job_held", 1000, "planning"),
        ("job_done", 4000, "succeeded"),
    ]
    assert [tuple(row) for row in documents] == [
        *(("job_done", kind) for kind in ("journal", "manifest", "plan", "spec")),
        *(("job_held", "spec"), ("job_queued", "spec")),
    ]
    assert [tuple(row) for row in defaults] == [("default", "", "6", 1, 0)]
    with blank.write() as connection:
        assert is_refused(connection, text("UPDATE documents SET body = '{}'"))


def test_an_open_connection_of_the_version_before_goes_on(blank: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with statements that it had prepared."""
    _at_version(blank, 1, monkeypatch)
    other = type(blank)(blank.engine, blank.dialect)
    with other.engine.connect() as connection:
        for number in range(8):
            with connection.begin():
                _submit_as_before(connection, f"job_{number}")
                _work_as_before(connection, f"job_{number}")
        schema.upgrade(blank)
        for number in range(8, 10):
            with connection.begin():
                _submit_as_before(connection, f"job_{number}")
                _work_as_before(connection, f"job_{number}")
        with connection.begin():
            assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() == 8 * 2 + 2 * 5


def test_a_claim_of_this_version_takes_a_job_of_the_one_before(sql: SqlStore) -> None:
    with sql.database.write() as connection:
        _submit_as_before(connection, "job_old")
    claimed = claim_next(sql, "w")
    assert claimed is not None
    assert (claimed[0].id, claimed[0].needs.fit(HOST)) == ("job_old", True)

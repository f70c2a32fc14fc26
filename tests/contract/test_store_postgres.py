"""The store on Postgres: the contract, and what only Postgres must answer for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.contract.commit_proxy import CommitProxy, Fault, proxied
from tests.postgres import Server
from tidemill.domain.access import AuditEntry
from tidemill.domain.errors import InvalidSpec, MissingExtra, Refused, StoreUnavailable, StoreUnusable
from tidemill.domain.job import Idempotency, Job, JobState, Lease, Want
from tidemill.ports.store import Store
from tidemill.stores.sql import database as sql_database
from tidemill.stores.sql import postgres as sql_postgres
from tidemill.stores.sql import tables
from tidemill.stores.sql.store import SqlStore, open_store
from tidemill.testing.store import (
    HOST,
    LONG,
    StoreContract,
    claim_next,
    new_job,
    new_key,
    new_plan,
    new_receipt,
    new_version,
    new_webhook,
)
from tidemill.testing.store.children import next_line, running_child, say
from tidemill.testing.store.factories import KEY_ID

OPENER = "tidemill.stores.sql.store:open_store"


class TestPostgresStore(StoreContract):
    opener = OPENER

    @pytest.fixture
    def store_url(self, given_postgres_url: str) -> str:
        return given_postgres_url


@pytest.fixture
def sql(postgres_url: str) -> Iterator[SqlStore]:
    store = open_store(postgres_url)
    yield store
    store.close()


# The handle


def test_times_are_those_of_a_server(sql: SqlStore) -> None:
    assert (sql.lease_seconds, sql.heartbeat_seconds) == (10.0, 2.0)


def test_every_session_is_bounded(sql: SqlStore) -> None:
    for transaction in (sql.database.read, sql.database.write, sql.database.take_turn):
        with transaction() as connection:
            found = {
                name: connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
            }
        assert found == {
            "idle_in_transaction_session_timeout": "4s",
            "lock_timeout": "8s",
            "statement_timeout": "30s",
        }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://ada:s3cret@db:5433/mill", "postgresql://ada@db:5433/mill"),
        ("postgres://ada:s3cret@db/mill?sslmode=require", "postgresql://ada@db/mill?sslmode=require"),
        ("postgresql+psycopg://db/mill?password=s3cret", "postgresql://db/mill"),
        ("postgresql:///mill?host=/run/pg&sslpassword=s3cret", "postgresql:///mill?host=%2Frun%2Fpg"),
    ],
)
def test_the_url_holds_no_password(given: str, shown: str) -> None:
    database = sql_postgres.open_database(given)
    assert database.dialect.url == shown
    assert given.count("s3cret") == 1
    assert "s3cret" not in repr(database.dialect.explain(psycopg.OperationalError("refused")))


def test_a_url_that_cannot_be_read() -> None:
    with pytest.raises(StoreUnusable) as caught:
        open_store("postgresql://db:port:s3cret/x")
    assert "s3cret" not in str(caught.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra) as caught:
        open_store("postgresql://localhost/tidemill")
    assert caught.value.remedy == "Run: pip install 'tidemill[postgres]'"


def test_lock_files_lie_in_the_home_that_is_named(postgres_url: str, tmp_path: Path) -> None:
    store = open_store(postgres_url, home=tmp_path / "home")
    assert store.workers.register("w") == str(tmp_path / "home" / "workers" / "w.lock")
    assert store.workers.is_alive("somebody else on another machine")
    store.close()


def test_text_with_nul_is_refused(sql: SqlStore) -> None:
    for call in (
        lambda: sql.jobs.submit(new_job("job_a", name="a\0b")),
        lambda: sql.jobs.submit(new_job("job_a"), Idempotency(key="a\0b", request_digest="a" * 64)),
        lambda: sql.jobs.get("job_\0aaaaaa"),
    ):
        with pytest.raises(InvalidSpec, match="NUL"):
            call()
    assert sql.jobs.list() == []


def test_a_backup_is_left_to_pg_dump(sql: SqlStore, postgres: Server, tmp_path: Path) -> None:
    sql.jobs.submit(new_job("job_a"))
    with pytest.raises(Refused) as caught:
        sql.back_up(str(tmp_path / "dump"))
    assert "pg_dump" in (caught.value.remedy or "")
    assert not (tmp_path / "dump").exists()


def test_a_dump_can_be_restored(sql: SqlStore, blank_postgres_url: str, postgres: Server, tmp_path: Path) -> None:
    sql.trust.trust("d", "n", "ada")
    dumped = postgres.program("pg_dump", "--format=custom", f"--file={tmp_path}/dump", sql.url)
    assert dumped.returncode == 0, dumped.stderr
    restored = postgres.program("pg_restore", "--no-owner", f"--dbname={blank_postgres_url}", f"{tmp_path}/dump")
    assert restored.returncode == 0, restored.stderr
    store = open_store(blank_postgres_url)
    assert store.trust.is_trusted("d")
    store.jobs.submit(new_job("job_a"))
    assert [event.state for event in store.history.events("job_a")] == [JobState.QUEUED]
    store.close()


# Opening


def test_several_processes_make_the_tables_at_once(blank_postgres_url: str) -> None:
    children = [running_child(OPENER, blank_postgres_url, "open_and_submit", name) for name in "abc"]
    with children[0] as a, children[1] as b, children[2] as c:
        everyone = (a, b, c)
        assert [next_line(child) for child in everyone] == ["ready"] * 3
        for child in everyone:
            say(child, "go")
        assert [next_line(child) for child in everyone] == ["job_of_a", "job_of_b", "job_of_c"]


def test_without_upgrade_a_blank_database_is_refused(blank_postgres_url: str) -> None:
    with pytest.raises(StoreUnusable) as caught:
        open_store(blank_postgres_url, upgrade=False)
    assert caught.value.remedy == "Run: tidemill db upgrade"
    open_store(blank_postgres_url).close()
    open_store(blank_postgres_url, upgrade=False).close()


def test_a_newer_schema_is_refused(blank_postgres_url: str) -> None:
    store = open_store(blank_postgres_url)
    with store.database.write() as connection:
        connection.execute(text("INSERT INTO schema_version VALUES (999, 0)"))
    for call in (lambda: open_store(blank_postgres_url), store.check):
        with pytest.raises(StoreUnusable, match="999") as caught:
            call()
        assert "Upgrade" in (caught.value.remedy or "")
    store.close()


def test_somebody_elses_database_is_refused(blank_postgres_url: str) -> None:
    with psycopg.connect(blank_postgres_url) as connection:
        connection.execute("CREATE TABLE customers (id INT)")
    with pytest.raises(StoreUnusable, match="customers"):
        open_store(blank_postgres_url)


# The server goes away


@pytest.mark.parametrize(
    "url",
    ["postgresql://ada@127.0.0.1:1/mill", "postgresql://ada@/mill?host=/nowhere", "postgresql://127.0.0.1:1/?user=x"],
)
def test_no_server(url: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_store(url)
    assert "mill" in caught.value.message or "127.0.0.1" in caught.value.message
    assert "psql" in (caught.value.remedy or "")


def test_no_database(postgres: Server) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        open_store(postgres.url("nowhere"))


def test_terminated_backends_are_replaced(sql: SqlStore, postgres_url: str) -> None:
    sql.jobs.submit(new_job("job_a"))
    for number in range(3):
        _terminate_all(postgres_url)
        assert sql.jobs.get("job_a").id == "job_a"
        _terminate_all(postgres_url)
        sql.jobs.submit(new_job(f"job_b{number}"))
    assert len(sql.jobs.list()) == 4


def test_a_backend_that_ends_amid_a_transaction(sql: SqlStore, postgres_url: str) -> None:
    sql.jobs.submit(new_job("job_a"))
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        with sql.transaction():
            sql.jobs.wish("job_a", Want.CANCEL)
            _terminate_all(postgres_url)
            sql.trust.trust("d", "n", "ada")
    assert "psql" in (caught.value.remedy or "")
    with pytest.raises(StoreUnavailable, match="Nothing was changed"):
        with sql.transaction():
            sql.jobs.wish("job_a", Want.CANCEL)
            _terminate_all(postgres_url)
    assert sql.jobs.get("job_a").state is JobState.QUEUED
    assert not sql.trust.is_trusted("d")


def test_a_server_that_is_stopped_and_started(sql: SqlStore, postgres: Server, postgres_url: str) -> None:
    sql.jobs.submit(new_job("job_a"))
    claimed = sql.jobs.claim_next("w", free=HOST, host=HOST)
    assert claimed is not None
    watch = sql.watch()
    while watch.wait(4):
        pass
    postgres.stop()
    try:
        for call in (
            lambda: sql.jobs.get("job_a"),
            lambda: sql.jobs.submit(new_job("job_b")),
            lambda: sql.jobs.renew_if_current([claimed[1]], "w"),
            lambda: sql.jobs.claim_next("w", free=HOST, host=HOST),
            sql.check,
        ):
            with pytest.raises(StoreUnavailable):
                call()
        assert not watch.wait(0)
    finally:
        postgres.start()
    assert watch.wait(60)
    assert sql.jobs.renew_if_current([claimed[1]], "w") == {"job_a": Want.RUN}
    assert sql.jobs.get("job_a") == claimed[0]
    while watch.wait(0.6):
        pass
    other = open_store(postgres_url)
    other.jobs.submit(new_job("job_b"))
    assert watch.wait(60)
    other.close()
    watch.close()


def test_who_is_frozen_inside_a_transaction_stops_nobody(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server process ends the transaction; when it thaws it learns that nothing was changed."""
    with monkeypatch.context() as patch:
        patch.setitem(sql_postgres.SESSION, "idle_in_transaction_session_timeout", 600_000)
        frozen = open_store(postgres_url)
        frozen.jobs.submit(new_job("job_a"))
    store = open_store(postgres_url)
    with pytest.raises(StoreUnavailable, match="Nothing was changed"):
        with frozen.transaction():
            mine = claim_next(frozen, "w")
            assert mine is not None
            with frozen.database.write() as connection:
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 300"))
            # It holds the job and the turn of all claims, and comes to no end.
            claimed = claim_next(store, "v")
            assert claimed is not None
            assert (claimed[0].id, claimed[0].worker_id) == ("job_a", "v")
    assert not frozen.jobs.is_current(mine[1])
    assert frozen.jobs.is_current(claimed[1])
    store.close()
    frozen.close()


def test_a_lock_that_is_held_for_long_is_not_waited_for(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sql_postgres.SESSION, "lock_timeout", 100)
    store = open_store(postgres_url)
    store.jobs.submit(new_job("job_a"))
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM jobs FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.jobs.wish("job_a", Want.CANCEL)
    assert store.jobs.wish("job_a", Want.CANCEL).state is JobState.CANCELLED
    store.close()


# The answer to a COMMIT gets lost


def test_a_webhook_that_is_just_removed_holds_up_no_job(sql: SqlStore, postgres_url: str) -> None:
    """Nor fails it: what would have been told is told to nobody."""
    assert sql.webhooks.add(new_webhook("whk_1"), most=1)
    sql.jobs.submit(new_job("job_a"))
    with psycopg.connect(postgres_url) as removing:
        removing.execute("DELETE FROM webhooks")
        # Whoever waited for that would give up in the end.
        assert sql.jobs.wish("job_a", Want.CANCEL).state is JobState.CANCELLED
    assert sql.outbox.claim_due(KEY_ID, limit=9, each=9, lease_seconds=9) == []


@pytest.fixture
def proxy(postgres: Server) -> Iterator[CommitProxy]:
    with proxied(postgres.folder / ".s.PGSQL.5432") as proxy:
        yield proxy


class Bench:
    """A store behind the proxy with a job at work, and the same store reached directly."""

    def __init__(self, near: Store, far: Store) -> None:
        self.near, self.far = near, far
        near.workers.register("w")
        near.jobs.submit_claimed(new_job("job_planning"), "w")
        self.planning = self._held("job_planning")
        near.jobs.submit_claimed(new_job("job_running"), "w")
        self.running = self._held("job_running")
        near.ledger.record_plan_if_current(self.running, new_plan(3))
        near.jobs.submit_claimed(new_job("job_done"), "w")
        self.done = self._held("job_done")
        near.ledger.record_plan_if_current(self.done, new_plan(1))
        near.ledger.commit_chunks_if_current(self.done, [new_receipt(0)])
        near.jobs.submit(new_job("job_queued"))
        near.models.add_version(new_version())
        near.keys.add(new_key("key_0"), "a" * 64)

    def _held(self, job_id: str) -> Lease:
        with self.near.database.read() as connection:  # type: ignore[attr-defined]
            row = connection.execute(text("SELECT epoch, token FROM jobs WHERE id = :id"), {"id": job_id}).one()
        return Lease(job_id=job_id, epoch=row.epoch, token=row.token)

    def seen(self) -> list[Any]:
        """All that the database holds, asked directly."""
        with self.near.database.read() as connection:  # type: ignore[attr-defined]
            tables = connection.execute(
                text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
            ).scalars()
            return [
                sorted(repr(tuple(row)) for row in connection.execute(text(f"SELECT * FROM {table}")))
                for table in tables.all()
            ]


def _transaction(bench: Bench) -> str:
    with bench.far.transaction():
        bench.far.models.move_alias("default", "churn", "champion", 1)
        bench.far.audit.record(_ENTRY)
    return "done"


_ENTRY = AuditEntry(tenant="default", actor="ada", action="alias.move", subject="churn", detail={})
_PROMISE = Idempotency(key="k", request_digest="a" * 64)

WRITES: dict[str, Callable[[Bench], Any]] = {
    "submit": lambda bench: bench.far.jobs.submit(new_job("job_new")),
    "submit with a key": lambda bench: bench.far.jobs.submit(new_job("job_new"), _PROMISE),
    "submit claimed": lambda bench: bench.far.jobs.submit_claimed(new_job("job_new"), "w"),
    "claim next": lambda bench: claim_next(bench.far, "w"),
    "claim": lambda bench: bench.far.jobs.claim("job_queued", "w"),
    "hand over": lambda bench: bench.far.jobs.hand_over_if_current(bench.running),
    "end": lambda bench: bench.far.jobs.end_if_current(bench.running, JobState.CANCELLED),
    "crash": lambda bench: bench.far.jobs.count_crash_if_current(bench.running),
    "wish": lambda bench: bench.far.jobs.wish("job_queued", Want.CANCEL),
    "plan": lambda bench: bench.far.ledger.record_plan_if_current(bench.planning, new_plan(3)),
    "commit": lambda bench: bench.far.ledger.commit_chunks_if_current(bench.running, [new_receipt(0), new_receipt(2)]),
    "begin": lambda bench: bench.far.ledger.begin_commit_if_current(bench.done, {"files": []}, {}),
    "version": lambda bench: bench.far.models.add_version(new_version(digest="7" * 64)),
    "key": lambda bench: bench.far.keys.add(new_key("key_1"), "b" * 64),
    "transaction": _transaction,
}


@pytest.fixture
def bench(postgres_url: str, proxy: CommitProxy, tmp_path: Path) -> Iterator[Bench]:
    with (
        closing(open_store(postgres_url, **LONG)) as near,
        closing(open_store(proxy.url(postgres_url), home=tmp_path, **LONG)) as far,
    ):
        yield Bench(near, far)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.REQUEST_LATE], ids=lambda fault: fault.name)
def test_a_commit_whose_answer_got_lost_was_made(bench: Bench, proxy: CommitProxy, name: str, fault: Fault) -> None:
    before = bench.seen()
    proxy.fault = fault
    answer = WRITES[name](bench)
    assert proxy.faults == 1
    after = bench.seen()
    assert after != before
    assert answer not in (False, None) or name == "key"
    job = answer[0] if isinstance(answer, tuple) else answer
    if isinstance(job, Job):
        assert job == bench.near.jobs.get(job.id)
    if isinstance(answer, tuple) and isinstance(answer[1], Lease):
        assert bench.near.jobs.is_current(answer[1])


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("fault", [Fault.REQUEST_LOST, Fault.REQUEST_STUCK], ids=lambda fault: fault.name)
def test_a_commit_that_got_lost_changed_nothing(bench: Bench, proxy: CommitProxy, name: str, fault: Fault) -> None:
    before = bench.seen()
    proxy.fault = fault
    with pytest.raises(StoreUnavailable, match="Nothing was changed"):
        WRITES[name](bench)
    assert proxy.faults == 1
    assert bench.seen() == before
    assert WRITES[name](bench) not in (False, None) or name == "key"
    assert bench.seen() != before


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.REQUEST_LOST], ids=lambda fault: fault.name)
def test_what_nobody_can_tell_is_not_called_undone(
    bench: Bench, proxy: CommitProxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder repeats it when the server answers again, and it counts once."""
    monkeypatch.setattr(sql_database, "SETTLE_SECONDS", 0.3)
    for write in (
        lambda: bench.far.ledger.record_plan_if_current(bench.planning, new_plan(3)),
        lambda: bench.far.ledger.commit_chunks_if_current(bench.running, [new_receipt(1)]),
        lambda: bench.far.ledger.begin_commit_if_current(bench.done, {"files": []}, {}),
    ):
        proxy.fault, proxy.closed = fault, True
        with pytest.raises(StoreUnavailable, match="not known"):
            write()
        proxy.closed = False
        assert write()
        done = bench.seen()
        assert write()
        assert bench.seen() == done
    assert bench.near.jobs.get("job_running").chunks_done == 1


def test_a_renewal_is_not_asked_after(bench: Bench, proxy: CommitProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fault = Fault.ANSWER_LOST
    monkeypatch.setattr(sql_database, "SETTLE_SECONDS", 3600)
    proxy.closed = True
    with pytest.raises(StoreUnavailable):
        bench.far.jobs.renew_if_current([bench.running], "w")
    proxy.closed = False
    assert bench.far.jobs.renew_if_current([bench.running], "w") == {"job_running": Want.RUN}


def test_after_many_rows_an_idle_transaction_is_still_watched(sql: SqlStore, postgres_url: str) -> None:
    """One statement for all of them: after the driver's pipeline for many, the server would wait for ever."""
    for number in range(3):
        rows = [{"digest": f"{number}{row}", "name": "n", "trusted_by": "ada", "trusted_at_ms": 1} for row in range(3)]
        with pytest.raises(StoreUnavailable, match="idle"):
            with sql.database.write() as connection:
                backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 500"))
                sql_database.insert_rows(connection, tables.trusted, rows)
                _await_end(postgres_url, backend)
                connection.execute(text("SELECT 1"))
    with sql.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM trusted")).scalar_one() == 0


def _await_end(url: str, backend: int) -> None:
    stop = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [backend]).fetchone():
            assert time.monotonic() < stop, "it waits for ever"
            time.sleep(0.05)


def _terminate_all(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

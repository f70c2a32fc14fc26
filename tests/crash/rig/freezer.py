"""A worker that can be made to freeze itself in the middle of a commit or of publishing.

python freezer.py TOKENS LOG WORDS...    runs `tidemill WORDS`

Where a file with the name of a place is in the folder TOKENS, whoever comes by that place first takes it and
stops itself; somebody else lets it go on. Each thaw is a JSON line in LOG: where, of which job and epoch,
when and for how long, the job's epoch when it thawed, and what came of the call ("result": what it returned,
or the error's class).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tidemill.cli.main import main
from tidemill.domain.job import Lease
from tidemill.engine.worker import Worker
from tidemill.sinks import local
from tidemill.sinks.local import LocalSink
from tidemill.stores.sql.ledger import SqlLedger

PLACES = (
    "commit before",
    "commit inside",
    "commit after",
    "publish before",
    "publish between",
    "publish manifest",
    "publish after",
)
_mine = threading.local()


class Freezer:
    """Takes tokens, stops this process, writes down what happened."""

    def __init__(self, tokens: Path, log: Path) -> None:
        self.tokens, self.log = tokens, log

    def around(self, place: str, call: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        """The same call, which may freeze right before or right after."""

        def wrapped(*words: Any, **more: Any) -> Any:
            if after:
                result = call(*words, **more)
                # Only after something was done: a commit that was refused is over already.
                if result is not False:
                    self.write(self.freeze(place), repr(result))
                return result
            thaw = self.freeze(place)
            try:
                result = call(*words, **more)
            except BaseException as exc:
                self.write(thaw, type(exc).__name__)
                raise
            self.write(thaw, repr(result))
            return result

        return wrapped

    def freeze(self, place: str) -> dict[str, Any] | None:
        lease: Lease | None = getattr(_mine, "lease", None)
        if lease is None or not self.take(place):
            return None
        frozen_at = time.time()
        # To this very thread: a signal to the process may stop another one first, and this one goes on a little.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return {
            "place": place,
            "pid": os.getpid(),
            "job": lease.job_id,
            "epoch": lease.epoch,
            "frozen_at": frozen_at,
            "seconds": time.time() - frozen_at,
            "epoch_then": _epoch_of(lease.job_id),
        }

    def take(self, place: str) -> bool:
        try:
            os.unlink(self.tokens / place)
        except FileNotFoundError:
            return False
        return True

    def write(self, thaw: dict[str, Any] | None, result: str) -> None:
        if thaw is not None:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(fd, (json.dumps({**thaw, "result": result}) + "\n").encode())
            os.close(fd)


def _epoch_of(job_id: str) -> int:
    """Asked beside the store's own connections, one of which may be in the middle of a transaction."""
    with psycopg.connect(os.environ["TIDEMILL_STORE"]) as connection:
        row = connection.execute("SELECT epoch FROM jobs WHERE id = %s", (job_id,)).fetchone()
    assert row is not None
    return int(row[0])


def install(freezer: Freezer) -> None:
    """Put the places around the real calls."""
    run = Worker.run

    def run_noting(self: Worker, job: Any, lease: Lease) -> Any:
        _mine.lease = lease
        return run(self, job, lease)

    Worker.run = run_noting  # type: ignore[method-assign]
    ledger: Any = SqlLedger
    ledger.commit_chunks_if_current = freezer.around(
        "commit before", freezer.around("commit after", ledger.commit_chunks_if_current, after=True)
    )
    ledger._commit = freezer.around("commit inside", ledger._commit, after=True)
    sink: Any = LocalSink
    sink.publish = freezer.around("publish before", freezer.around("publish after", sink.publish, after=True))
    sink._put_manifest = freezer.around("publish manifest", sink._put_manifest)
    module: Any = local
    module.put = freezer.around("publish between", module.put, after=True)


if __name__ == "__main__":
    install(Freezer(Path(sys.argv[1]), Path(sys.argv[2])))
    sys.argv[1:] = sys.argv[3:]
    main()

"""`tidemill` that is killed at one moment: python killed.py MOMENT WORDS...

A moment is "WRITE before", "WRITE after", or "record inside": within the transaction in which the job succeeds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tidemill.cli.main import main
from tidemill.domain.job import FINISHED
from tidemill.stores.sql import queue
from tidemill.stores.sql.ledger import SqlLedger
from tidemill.stores.sql.queue import SqlQueue
from tidemill.stores.sql.series import SqlSeries

WRITES: dict[str, tuple[type, str]] = {
    "hold": (SqlSeries, "hold_if_current"),
    "add": (SqlSeries, "add_if_current"),
    "plan": (SqlLedger, "record_plan_if_current"),
    "commit": (SqlLedger, "commit_chunks_if_current"),
    "publish": (SqlLedger, "begin_commit_if_current"),
    "succeed": (SqlQueue, "end_if_current"),
}
MOMENTS = [f"{write} {when}" for write in WRITES for when in ("before", "after")] + ["record inside"]


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL came back")


def arm(moment: str) -> None:
    """From now on this process does not survive that moment."""
    write, when = moment.split()
    if write == "record":
        queue.record_files = die
        return
    owner, name = WRITES[write]
    real: Callable[..., Any] = getattr(owner, name)

    def deadly(self: Any, *given: Any) -> Any:
        if write == "succeed" and given[1] not in FINISHED:
            return real(self, *given)
        if when == "before":
            die()
        real(self, *given)
        die()

    setattr(owner, name, deadly)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main()

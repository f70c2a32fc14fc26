"""A sender that is killed after the receiver answered and before that is written down: run as a program.

python killed.py HOME STORE   (STORE "-" for SQLite in HOME)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.webhook import Claimed
from tidemill.service.context import Context
from tidemill.service.sender import Sender, SenderOptions


def die(self: object, claimed: Claimed, status: int) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def main(context: Context) -> None:
    type(context.store.outbox).delivered_if_current = die  # type: ignore[method-assign, assignment]
    Sender(context, SenderOptions(look_seconds=0.05, lease_seconds=1.0)).start()
    time.sleep(60)


if __name__ == "__main__":
    home, store = sys.argv[1:]
    settings = Settings(home=Path(home), store=None if store == "-" else store, webhook_hosts=["127.0.0.1"])
    with opened(settings, children=False) as opened_context:
        main(opened_context)

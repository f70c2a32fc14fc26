"""Shared files of a job: one process at a time, none of an epoch that is over."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tidemill.domain.errors import LeaseLost, OutputBusy
from tidemill.engine.fence import fenced


def test_a_later_epoch_keeps_earlier_ones_out(tmp_path: Path) -> None:
    with fenced(tmp_path, 3):
        pass
    with fenced(tmp_path, 3):
        pass
    with fenced(tmp_path, 4):
        pass
    with pytest.raises(LeaseLost), fenced(tmp_path, 3):
        raise AssertionError("the earlier epoch got in")
    with fenced(tmp_path, 5):
        pass


def test_waits_for_whoever_is_inside(tmp_path: Path) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def earlier() -> None:
        with fenced(tmp_path, 1):
            inside.set()
            leave.wait(60)
            order.append("earlier ends")

    thread = threading.Thread(target=earlier)
    thread.start()
    assert inside.wait(60)
    threading.Timer(0.2, leave.set).start()
    with fenced(tmp_path, 2):
        order.append("later begins")
    thread.join(60)
    assert order == ["earlier ends", "later begins"]


def test_does_not_wait_for_ever(tmp_path: Path) -> None:
    with fenced(tmp_path, 1), pytest.raises(OutputBusy), fenced(tmp_path, 2, patience_seconds=0.2):
        raise AssertionError("two at once")

"""What is piped in is kept by its content, until nobody needs it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.errors import InvalidSpec
from tidemill.service import jobs, stdin
from tidemill.service.context import Context
from tidemill.testing.source import pin
from tidemill.wire.spec import InputSpec, JobSpec


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with opened(Settings(home=tmp_path / "home"), children=False) as made:
        yield made


def test_the_same_bytes_are_the_same_pinned_file(context: Context) -> None:
    data = bytes(range(256)) * 10_000
    path = stdin.spooled(context, io.BytesIO(data))
    first = pin(path)
    assert path.read_bytes() == data
    assert pin(stdin.spooled(context, io.BytesIO(data))) == first
    other = stdin.spooled(context, io.BytesIO(b""))
    assert other != path and other.read_bytes() == b""
    assert len(list(context.places.stdin.iterdir())) == 2, "nothing of the second time is left"


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the pipe broke")


def test_a_pipe_that_breaks_leaves_nothing(context: Context) -> None:
    with pytest.raises(OSError, match="the pipe broke"):
        stdin.spooled(context, Broken())
    assert list(context.places.stdin.iterdir()) == []


def test_it_goes_when_it_is_old_and_no_job_needs_it(context: Context) -> None:
    kept, gone = (stdin.spooled(context, io.BytesIO(data)) for data in (b"a", b"b"))
    now = datetime.now(UTC)
    assert stdin.sweep(context, now, 10) == 0
    later = now + timedelta(days=context.policy.upload_days + 1)
    assert stdin.sweep(context, later, 10, in_use={str(kept)}) == 1
    assert kept.exists() and not gone.parent.exists()


def test_elsewhere_than_at_a_pipe_it_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="Standard input"):
        jobs.resolve(JobSpec(model="m.txt", input=InputSpec(path=["-"])))

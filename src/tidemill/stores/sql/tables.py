"""The tables as queries see them. `migrations` makes them and holds their constraints."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, ColumnElement, ForeignKey, MetaData, Table, Text, and_

from tidemill.domain.job import Lease

metadata = MetaData()
_Json = JSON(none_as_null=True)

jobs = Table(
    "jobs",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("want", Text, nullable=False),
    Column("want_told", Text, nullable=False),
    Column("spec_digest", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("staging", Text, nullable=False),
    Column("foreground", Boolean, nullable=False),
    Column("priority", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("token", Text),
    Column("worker_id", Text),
    Column("lease_until_ms", BigInteger),
    Column("crashes", BigInteger, nullable=False),
    Column("rows_total", BigInteger, nullable=False),
    Column("rows_predicted", BigInteger, nullable=False),
    Column("rows_rejected", BigInteger, nullable=False),
    Column("chunks_total", BigInteger, nullable=False),
    Column("chunks_done", BigInteger, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("usage", _Json, nullable=False),
    Column("error", _Json),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("finished_at_ms", BigInteger),
)

# What is big and never changes lies apart: every commit and heartbeat writes the whole row of its job.
documents = Table(
    "documents",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("body", _Json, nullable=False),
)

chunks = Table(
    "chunks",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("chunk", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("predicted", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("receipt", _Json, nullable=False),
    Column("committed_at_ms", BigInteger, nullable=False),
)

trusted = Table(
    "trusted",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("trusted_by", Text, nullable=False),
    Column("trusted_at_ms", BigInteger, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("before", Text, primary_key=True),
    Column("after", Text, primary_key=True),
)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("applied_at_ms", BigInteger, nullable=False),
)


def held_by(lease: Lease) -> ColumnElement[bool]:
    """The fence: true of the job's row while nobody took it from this lease.

    Rows in a leased state have a token and others have none, so this implies a leased state.
    """
    return and_(jobs.c.id == lease.job_id, jobs.c.epoch == lease.epoch, jobs.c.token == lease.token)

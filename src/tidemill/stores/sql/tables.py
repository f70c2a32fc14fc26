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
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("model_key", Text, nullable=False),
    Column("model_name", Text),
    Column("cpus", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("gpus", BigInteger, nullable=False),
    Column("parent_id", Text),
    Column("managed", Boolean, nullable=False),
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

# Triggers on jobs fill it, so no statement can forget to.
events = Table(
    "events",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_digest", Text, nullable=False),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
)

trusted = Table(
    "trusted",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("trusted_by", Text, nullable=False),
    Column("trusted_at_ms", BigInteger, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("flavor", Text, nullable=False),
    Column("carries_code", Boolean, nullable=False),
    Column("preload", _Json, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("signature", _Json),
    Column("environment", _Json),
    Column("description", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

model_limits = Table(
    "model_limits",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("max_running", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),
    Column("max_running", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
)

series = Table(
    "series",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("job_id", Text),
    Column("recorded_at_ms", BigInteger),
)

# Rows of a job that has not succeeded have a number above `series.jobs`, and do not count.
scored_files = Table(
    "scored_files",
    metadata,
    Column("series", BigInteger, ForeignKey("series.number"), primary_key=True, autoincrement=False),
    Column("path", Text, primary_key=True),
    Column("job", BigInteger, primary_key=True, autoincrement=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_sha256", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("vouched_by", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", _Json, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("cpus", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("gpus", BigInteger, nullable=False),
    Column("free_cpus", BigInteger, nullable=False),
    Column("free_memory_bytes", BigInteger, nullable=False),
    Column("free_gpus", BigInteger, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("events", _Json, nullable=False),
    Column("job_name", Text),
    Column("labels", _Json, nullable=False),
    Column("description", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("key_id", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("previous_until_ms", BigInteger),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)

# A trigger on events fills it, so no change of a job's state can forget to.
deliveries = Table(
    "deliveries",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("webhook_id", Text, nullable=False),
    Column("job_id", Text),
    Column("type", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("facts", _Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("next_at_ms", BigInteger),
    Column("token", Text),
    Column("tried_at_ms", BigInteger),
    Column("status", BigInteger),
    Column("problem", Text),
)

schedules = Table(
    "schedules",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", _Json, nullable=False),
    Column("trigger_spec", _Json, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("catch_up", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("key_id", Text),
    Column("created_by", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("next_due_ms", BigInteger),
    Column("checked_at_ms", BigInteger, nullable=False),
    Column("request_key", Text),
    Column("request_digest", Text),
)

# A trigger on jobs keeps `job_state`: it stays when the job itself is forgotten.
firings = Table(
    "firings",
    metadata,
    Column("schedule_id", Text, ForeignKey("schedules.id"), primary_key=True),
    Column("due_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("job_id", Text),
    Column("job_state", Text),
    Column("reason", _Json),
    Column("fired_at_ms", BigInteger, nullable=False),
    Column("request_key", Text),
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

"""Rows to values of the domain: jobs with their documents, moments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, select

from tidemill.domain.admission import Needs
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.domain.job import Counts, Job, JobState, Want
from tidemill.domain.model import Pin
from tidemill.stores.sql.tables import documents, jobs


def moment(milliseconds: int) -> datetime:
    """Aware UTC of milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def moment_or_none(milliseconds: int | None) -> datetime | None:
    """The same of a column that may be empty."""
    return None if milliseconds is None else moment(milliseconds)


def milliseconds(at: datetime) -> int:
    """Milliseconds since 1970 of an aware time."""
    return round(at.timestamp() * 1000)


def no_such_job(job_id: str) -> NotFound:
    """The error for a job that is not there."""
    return NotFound(f"There is no job {job_id!r}.", remedy="`tidemill jobs list` shows what is there.")


def read_job(connection: Connection, job_id: str) -> Job | None:
    """The job of this very id."""
    row = connection.execute(_ONE_JOB, {"wanted": job_id}).mappings().first()
    return None if row is None else job_of(row)


def read_jobs(connection: Connection, page: Select[Any]) -> list[Job]:
    """The jobs that `page`, a bounded select of whole rows of jobs, names; newest first."""
    rows = connection.execute(page.order_by(None).order_by(jobs.c.number.desc())).mappings().all()
    # Asked for by themselves: building a join over all columns anew would take longer than both statements.
    bodies: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"plan": None, "model": None})
    for row in connection.execute(select(documents).where(documents.c.job_id.in_([row["id"] for row in rows]))):
        bodies[row.job_id][row.kind] = row.body
    # One without a spec is just being forgotten.
    return [job_of({**row, **bodies[row["id"]]}) for row in rows if "spec" in bodies[row["id"]]]


_SPEC, _PLAN, _MODEL = (documents.alias(kind) for kind in ("spec", "plan", "model"))
_ONE_JOB = (
    select(jobs, _SPEC.c.body.label("spec"), _PLAN.c.body.label("plan"), _MODEL.c.body.label("model"))
    .join(_SPEC, and_(_SPEC.c.job_id == jobs.c.id, _SPEC.c.kind == "spec"))
    .outerjoin(_PLAN, and_(_PLAN.c.job_id == jobs.c.id, _PLAN.c.kind == "plan"))
    .outerjoin(_MODEL, and_(_MODEL.c.job_id == jobs.c.id, _MODEL.c.kind == "model"))
    .where(jobs.c.id == bindparam("wanted"))
)


def job_of(row: Mapping[Any, Any]) -> Job:
    """The job of a whole row of jobs with the documents "spec", "plan" and "model"."""
    return Job(
        id=row["id"],
        name=row["name"],
        state=JobState(row["state"]),
        want=Want(row["want"]),
        spec=row["spec"],
        spec_digest=row["spec_digest"],
        model_digest=row["model_digest"],
        output=row["output"],
        staging=row["staging"],
        foreground=row["foreground"],
        priority=row["priority"],
        epoch=row["epoch"],
        crashes=row["crashes"],
        worker_id=row["worker_id"],
        counts=Counts(total=row["rows_total"], predicted=row["rows_predicted"], rejected=row["rows_rejected"]),
        chunks_total=row["chunks_total"],
        chunks_done=row["chunks_done"],
        plan=row["plan"],
        error=row["error"],
        usage=row["usage"],
        created_at=moment(row["created_at_ms"]),
        started_at=moment_or_none(row["started_at_ms"]),
        finished_at=moment_or_none(row["finished_at_ms"]),
        labels=row["labels"],
        tenant=row["tenant"],
        owner=row["owner"],
        model=None if row["model"] is None else Pin.from_json(row["model"]),
        needs=Needs(cpus=row["cpus"], memory_bytes=row["memory_bytes"], gpus=row["gpus"]),
        parent_id=row["parent_id"],
        managed=row["managed"],
    )


def check_labels(labels: dict[str, str]) -> None:
    """Labels are searched in the database, and one of them that it cannot read would break every search."""
    for text in [*labels, *labels.values()]:
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InvalidSpec(f"The label {text!r} is no text.", remedy="Use valid Unicode without NUL.")

"""What has been committed of each job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from tidemill.domain.errors import CountsDiffer
from tidemill.domain.job import JobState, Lease
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import NO_USAGE, Receipt, Usage
from tidemill.ports.store import Ledger
from tidemill.stores.sql.database import Database, insert_rows
from tidemill.stores.sql.tables import chunks, documents, held_by, jobs

RECEIPTS_PER_PAGE = 500
CHUNKS_PER_PAGE = 10_000


class SqlLedger(Ledger):
    """Readers page by chunk number, each page in a short transaction: memory and write-ahead log stay bounded.

    A write that the same holder repeats, because it did not learn what became of it, is true again and writes
    nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_plan_if_current(self, lease: Lease, plan: PlanSummary, used: Usage = NO_USAGE) -> bool:
        planned = (
            update(jobs)
            .where(held_by(lease), jobs.c.state == JobState.PLANNING.value)
            .values(state=JobState.RUNNING.value, rows_total=plan.rows, chunks_total=plan.chunks)
            .returning(jobs.c.usage)
        )
        frozen = {"plan": plan.to_json()}
        with self._database.write() as connection:
            row = connection.execute(planned).first()
            if row is None:
                return _is_repeated(connection, lease, JobState.RUNNING, frozen)
            _store(connection, lease.job_id, frozen)
            _add_usage(connection, lease, row.usage, used)
            return True

    def commit_chunks_if_current(self, lease: Lease, receipts: Sequence[Receipt]) -> bool:
        """Raises CountsDiffer, and nothing was written, for a chunk that another attempt committed already or that
        was never planned, and for counts that pass the plan's."""
        try:
            with self._database.write() as connection:
                return self._commit(connection, lease, receipts)
        except _Contradiction as exc:
            if self._is_committed(lease, receipts):
                return True
            raise CountsDiffer(
                f"Chunks {_numbers(receipts)} of job {lease.job_id} cannot be committed: {exc}.",
                remedy="Report this: a chunk was committed twice or its receipt is wrong.",
            ) from exc

    def committed_chunks(self, job_id: str) -> Iterator[tuple[int, int]]:
        start = stop = -1
        for first, end in self._ranges(job_id):
            if first == stop:
                stop = end
                continue
            if stop > start:
                yield start, stop
            start, stop = first, end
        if stop > start:
            yield start, stop

    def receipts(self, job_id: str) -> Iterator[Receipt]:
        after = -1
        while True:
            page = (
                select(chunks.c.chunk, chunks.c.receipt)
                .where(chunks.c.job_id == job_id, chunks.c.chunk > after)
                .order_by(chunks.c.chunk)
                .limit(RECEIPTS_PER_PAGE)
            )
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield Receipt.from_json(row.receipt)
            if len(rows) < RECEIPTS_PER_PAGE:
                return
            after = rows[-1].chunk

    def begin_commit_if_current(
        self, lease: Lease, manifest: dict[str, Any], journal: dict[str, Any], used: Usage = NO_USAGE
    ) -> bool:
        """Raises CountsDiffer if the committed chunks are not the planned ones."""
        committing = (
            update(jobs)
            .where(held_by(lease), jobs.c.state == JobState.RUNNING.value)
            .values(state=JobState.COMMITTING.value)
            .returning(jobs.c.usage)
        )
        documents = {"manifest": manifest, "journal": journal}
        with self._database.write() as connection:
            try:
                row = connection.execute(committing).first()
            except IntegrityError as exc:
                raise CountsDiffer(
                    f"Job {lease.job_id} cannot be published: not every planned row is committed.",
                    remedy="Report this: it was to be published too early.",
                ) from exc
            if row is None:
                return _is_repeated(connection, lease, JobState.COMMITTING, documents)
            _store(connection, lease.job_id, documents)
            _add_usage(connection, lease, row.usage, used)
            return True

    def find_manifest(self, job_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        stored = select(documents.c.kind, documents.c.body).where(
            documents.c.job_id == job_id, documents.c.kind.in_(["manifest", "journal"])
        )
        with self._database.read() as connection:
            found = {row.kind: row.body for row in connection.execute(stored)}
        return (found["manifest"], found["journal"]) if found else None

    def _commit(self, connection: Connection, lease: Lease, receipts: Sequence[Receipt]) -> bool:
        fenced = (
            update(jobs)
            .where(held_by(lease), jobs.c.state == JobState.RUNNING.value)
            .values(
                rows_predicted=jobs.c.rows_predicted + sum(receipt.predicted for receipt in receipts),
                rows_rejected=jobs.c.rows_rejected + sum(receipt.rejected for receipt in receipts),
                chunks_done=jobs.c.chunks_done + len(receipts),
                **({"crashes": 0} if receipts else {}),
            )
            .returning(jobs.c.chunks_total, jobs.c.usage)
        )
        try:
            job = connection.execute(fenced).first()
            if job is None:
                return False
            if any(receipt.chunk >= job.chunks_total for receipt in receipts):
                raise _Contradiction(f"the plan has {job.chunks_total} chunks")
            if receipts:
                self._insert(connection, lease, receipts)
                _add_usage(connection, lease, job.usage, *(receipt.usage for receipt in receipts))
        except IntegrityError as exc:
            raise _Contradiction(str(exc.orig)) from exc
        return True

    def _is_committed(self, lease: Lease, receipts: Sequence[Receipt]) -> bool:
        """Whether this holder committed all of these very attempts before."""
        numbers = [receipt.chunk for receipt in receipts]
        stored = (
            select(chunks.c.chunk, chunks.c.epoch, chunks.c.receipt)
            .join(jobs, jobs.c.id == chunks.c.job_id)
            .where(held_by(lease), chunks.c.chunk.in_(numbers))
        )
        with self._database.read() as connection:
            found = {(row.chunk, row.epoch, row.receipt["attempt"]) for row in connection.execute(stored)}
        return found == {(receipt.chunk, lease.epoch, receipt.attempt) for receipt in receipts}

    def _insert(self, connection: Connection, lease: Lease, receipts: Sequence[Receipt]) -> None:
        now = self._database.now(connection)
        insert_rows(
            connection,
            chunks,
            [
                {
                    "job_id": lease.job_id,
                    "chunk": receipt.chunk,
                    "epoch": lease.epoch,
                    "rows": receipt.rows,
                    "predicted": receipt.predicted,
                    "rejected": receipt.rejected,
                    "receipt": receipt.to_json(),
                    "committed_at_ms": now,
                }
                for receipt in receipts
            ],
        )

    def _ranges(self, job_id: str) -> Iterator[tuple[int, int]]:
        """Ranges [first, end) of each page; one that goes on over a page's end comes in pieces."""
        after = -1
        while True:
            page = (
                select(chunks.c.chunk)
                .where(chunks.c.job_id == job_id, chunks.c.chunk > after)
                .order_by(chunks.c.chunk)
                .limit(CHUNKS_PER_PAGE)
                .subquery()
            )
            # Neighbours keep the same distance to their place in the order, so it names their range.
            numbered = select(
                page.c.chunk, (page.c.chunk - func.row_number().over(order_by=page.c.chunk)).label("distance")
            ).subquery()
            ranges = (
                select(func.min(numbered.c.chunk), func.max(numbered.c.chunk) + 1)
                .group_by(numbered.c.distance)
                .order_by(numbered.c.distance)
            )
            with self._database.read() as connection:
                found = [(int(first), int(end)) for first, end in connection.execute(ranges)]
            yield from found
            if sum(end - first for first, end in found) < CHUNKS_PER_PAGE:
                return
            after = found[-1][1] - 1


class _Contradiction(Exception):
    """The ledger's constraints refuse these receipts."""


def _store(connection: Connection, job_id: str, bodies: dict[str, dict[str, Any]]) -> None:
    insert_rows(
        connection, documents, [{"job_id": job_id, "kind": kind, "body": body} for kind, body in bodies.items()]
    )


def _add_usage(connection: Connection, lease: Lease, before: dict[str, Any], *used: Usage) -> None:
    usage = sum(used, Usage(**before))
    connection.execute(update(jobs).where(held_by(lease)).values(usage=asdict(usage)))


def _is_repeated(connection: Connection, lease: Lease, state: JobState, bodies: dict[str, dict[str, Any]]) -> bool:
    """Whether this holder brought the job to this state before, with these documents."""
    held = select(jobs.c.id).where(held_by(lease), jobs.c.state == state.value)
    if connection.execute(held).first() is None:
        return False
    stored = select(documents.c.kind, documents.c.body).where(
        documents.c.job_id == lease.job_id, documents.c.kind.in_(list(bodies))
    )
    found = {row.kind: row.body for row in connection.execute(stored)}
    same: bool = found == json.loads(json.dumps(bodies))
    return same


def _numbers(receipts: Sequence[Receipt]) -> str:
    shown = ", ".join(str(receipt.chunk) for receipt in receipts[:5])
    return f"{shown}, ..." if len(receipts) > 5 else shown

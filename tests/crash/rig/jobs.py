"""Many small jobs on one Postgres: the words of each, what the database says of them, whether their rows are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests import checker
from tests.crash.rig.job import MODELS, write_inputs

ROWS = (420, 380)
ROWS_PER_CHUNK = 250
INPUTS = 4
"""So many different inputs: a prediction also proves which job it belongs to."""


class Jobs:
    """Jobs that were acknowledged. The database is asked by plain SQL."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.inputs = [tuple(write_inputs(folder / f"in{n}", rows=ROWS, first=10 * n)) for n in range(INPUTS)]
        self.acknowledged: dict[str, dict[str, Any]] = {}
        """The words of each, by its id."""
        self._made = 0

    def words(self, *, rows_per_chunk: int = ROWS_PER_CHUNK, **options: Any) -> dict[str, Any]:
        """A new job. Its output is in a folder of its own: nothing else may lie there in the end."""
        number, self._made = self._made, self._made + 1
        return {
            "model": f"{MODELS / 'pooled.py'}:Pooled",
            "input": {"path": [str(path) for path in self.inputs[number % INPUTS]]},
            "output": {"path": str(self.folder / "out" / f"{number:04d}" / "scores")},
            "keep": ["file_no", "row_no", "note"],
            "predict": {"options": options},
            "compute": {"scorers": 1, "rows_per_chunk": rows_per_chunk, "batch_rows": rows_per_chunk},
            "limits": {"rejected": "none"},
        }

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, values).fetchall()

    def open_ones(self) -> int:
        moving = "state IN ('queued', 'planning', 'running', 'committing')"
        return int(self.rows(f"SELECT count(*) FROM jobs WHERE {moving}")[0][0])

    def busy(self) -> set[int]:
        """Process ids of workers that hold a job."""
        held = "SELECT DISTINCT w.pid FROM jobs j JOIN workers w ON w.id = j.worker_id WHERE j.token IS NOT NULL"
        return {pid for (pid,) in self.rows(held)}

    def check(self) -> None:
        """Those that are there are those that were acknowledged. Each ended well, its chunks add up, and its output
        is what its input and the model demand."""
        states = dict(self.rows("SELECT id, state FROM jobs"))
        assert set(states) == set(self.acknowledged)
        errors = self.rows("SELECT id, state, error FROM jobs WHERE state NOT LIKE 'succeeded%%'")
        assert not errors, errors[:3]
        torn = self.rows(
            "SELECT j.id FROM jobs j JOIN chunks c ON c.job_id = j.id GROUP BY j.number"
            " HAVING count(*) <> j.chunks_total OR j.chunks_done <> j.chunks_total OR sum(c.rows) <> j.rows_total"
            " OR sum(c.predicted) <> j.rows_predicted OR max(c.epoch) > j.epoch"
        )
        assert not torn, torn[:3]
        for job_id, words in self.acknowledged.items():
            output = Path(words["output"]["path"])
            found = checker.check([Path(path) for path in words["input"]["path"]], output)
            assert found.rows == sum(ROWS)
            assert checker.read_manifest(output)["job_id"] == job_id

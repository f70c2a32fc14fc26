"""A whole service in this process: API, one worker, children; shared by a module's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from tidemill.api.app import create_app
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.domain.admission import Needs
from tidemill.service.context import Context
from tidemill.service.work import Pool, PoolOptions

MODEL = f"{Path(__file__).with_name('flagged.py')}:Flagged"
ROWS = 1_000
BAD = [n for n in range(ROWS) if n % 27 == 13]
HERE = Principal(name="local")
STRANGER = Principal(name="stranger", tenant="elsewhere", id="key_stranger")


@dataclass(frozen=True, kw_only=True)
class House:
    """The service, its data, and the file that mends the model."""

    context: Context
    folder: Path
    flag: Path
    client: TestClient

    @property
    def data(self) -> Path:
        return self.folder / "data.parquet"

    def submit(self, **words: Any) -> str:
        """A job over the data; its id."""
        spec = {
            "model": MODEL,
            "id": "n",
            "input": {"path": str(self.data)},
            "compute": {"rows_per_chunk": 300, "batch_rows": 64},
            **words,
        }
        answer = self.client.post("/api/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job's status once it is at rest; it must have succeeded."""
        status: dict[str, Any] = self.client.get(f"/api/v1/jobs/{job_id}", params={"wait": 60}).json()
        assert status["state"].startswith("succeeded"), status
        return status

    def get(self, path: str, **words: Any) -> Any:
        """The answer's JSON."""
        answer = self.client.get(f"/api/v1{path}", **words)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    flag = folder / "mended"
    before = os.environ.get("TEST_FLAG")
    os.environ["TEST_FLAG"] = str(flag)
    table = pa.table({"n": pa.array(range(ROWS), pa.int64()), "name": [f"row {n}" for n in range(ROWS)]})
    pq.write_table(table, folder / "data.parquet", row_group_size=90)
    try:
        with opened(Settings(home=folder / "home", cores=2, max_upload_bytes=1 << 20)) as context:
            options = PoolOptions(
                jobs_at_once=2, host=Needs(cpus=2, memory_bytes=8 << 30), drain_seconds=5, sweep_seconds=3600
            )
            pool = Pool(context, options)
            pool.start()
            try:
                app = create_app(context)
                with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50_000)) as client:
                    yield House(context=context, folder=folder, flag=flag, client=client)
            finally:
                pool.stop()
                pool.join(30)
    finally:
        if before is None:
            del os.environ["TEST_FLAG"]
        else:
            os.environ["TEST_FLAG"] = before

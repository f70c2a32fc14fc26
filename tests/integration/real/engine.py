"""Planner and scorer in this process, without the worker: what becomes of an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt
from tidemill.engine import acceleration, models, planner
from tidemill.engine.careful import run_carefully
from tidemill.engine.chunkout import Meter
from tidemill.engine.chunkscorer import ChunkScorer, ModelKeeper
from tidemill.ports.executor import ChunkRun
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec, PredictSpec


@dataclass(kw_only=True)
class Engine:
    """Scores files with one model, which is loaded once by the planner and once for all chunks."""

    model: str
    predict: Mapping[str, Any]
    features: Sequence[str]
    accelerate: bool = False
    """Whether a kernel must predict."""

    def __post_init__(self) -> None:
        self._facts = {**models.identify(self.model), "trusted": True}
        self._info: dict[str, Any] | None = None
        self._keeper = ModelKeeper()

    @property
    def flavor(self) -> str:
        return str(self._facts["flavor"])

    def score(self, path: Path, staging: Path) -> tuple[pa.Table, Receipt]:
        """All predictions of the file in a table, and the receipt of its one chunk."""
        plan = self._plan(path, staging)
        assert plan.chunks == 1
        job: dict[str, Any] = {
            "staging": str(staging),
            "plan_digest": plan.digest,
            "model": self._facts,
            "threads": 1,
            "max_rejected": plan.rows,
        }
        if self.accelerate:
            job["acceleration"] = acceleration.check(job, lambda told: None)["acceleration"]
            assert job["acceleration"]["kernel"] is not None, job["acceleration"]
        said: list[dict[str, Any]] = []
        run_carefully(ChunkScorer(job, self._keeper, Meter()), ChunkRun(chunk=0, attempt="a"), said.append)
        receipt = Receipt.from_json(said[-1]["receipt"])
        (part,) = [part for part in receipt.parts if part.kind == "predictions"]
        return pq.read_table(staging / part.name), receipt

    def _plan(self, path: Path, staging: Path) -> PlanSummary:
        for name in ("plan", "parts", "spool"):
            (staging / name).mkdir(parents=True)
        spec = JobSpec(
            model=self.model,
            input=InputSpec(path=[str(path)]),
            output=OutputSpec(path=str(staging / "scores"), format="parquet"),
            keep="auto",
            features=list(self.features),
            predict=PredictSpec.model_validate(dict(self.predict)),
        )
        request = {
            "brief": spec.brief().to_json(),
            "staging": str(staging),
            "epoch": 1,
            "model": self._facts,
            "info": self._info,
        }
        return PlanSummary.from_json(planner.plan(request, self._remember)["plan"])

    def _remember(self, told: dict[str, Any]) -> None:
        self._info = told.get("info", self._info)

"""What our flavors claim of real models holds on real data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.real.data_sets import penguins, write
from tests.integration.real.makers import MAKERS
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.service import trials
from tidemill.service.context import Context
from tidemill.wire.spec import InputSpec, JobSpec, PredictSpec

ROWS = 60

CLAIMANTS = ("lightgbm", "xgboost", "catboost", "sklearn-joblib", "onnx", "torch")
"""Those that say something of threads or batches."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with opened(Settings(home=tmp_path_factory.mktemp("home"))) as wired:
        yield wired


@pytest.mark.parametrize("flavor", CLAIMANTS)
def test_claims_are_kept(flavor: str, context: Context, tmp_path: Path) -> None:
    made = MAKERS[flavor](penguins(), tmp_path)
    spec = JobSpec(
        model=made.path,
        input=InputSpec(path=[str(write(penguins(), "csv", tmp_path / "penguins.csv"))]),
        features=list(made.features),
        predict=PredictSpec.model_validate(dict(made.predict)),
    )
    found = trials.check(context, spec, rows=ROWS, ask_trust=lambda model: True)
    assert found.info.layout == "threads"
    assert found.defects == [], [trial.why for trial in found.trials]
    assert found.deterministic is True
    assert found.thread_safe is True
    assert not found.info.batch_invariant or found.batch_invariant is True
    assert found.sample.rows + found.sample.rejected == ROWS
    assert bool(found.sample.rejected) is bool(made.rejected)

"""Daft with a class UDF.

Daft documentation, "Stateful Class UDFs with @daft.cls": the model is loaded once for each instance, `max_concurrency`
instances, one for each core; a batch method gets whole columns, `batch_size` rows at a time. `use_process` is left to
Daft, which measures whether threads or processes are faster. `select` before the UDF prunes the columns of the read.

The script ends without Python's own end: one run in 23 died in it with all files written, probably since a thread of
Daft 0.7.26 still ran.
"""

import os
import sys

import daft
import pyarrow as pa
from scoring import BATCH_ROWS, CORES, Scorer, asked, run

job = asked()


@daft.cls(max_concurrency=CORES)
class Predictor:
    """An instance that holds the model."""

    def __init__(self, model: str, features: tuple[str, ...]) -> None:
        self._scorer = Scorer(model, features, threads=1)

    @daft.method.batch(return_dtype=daft.DataType.float64(), batch_size=BATCH_ROWS)
    def predict(self, *columns: daft.Series):  # type: ignore[no-untyped-def]
        arrays = [column.to_arrow() for column in columns]
        return self._scorer.of_arrow(pa.table(arrays, names=list(self._scorer.columns)))


def score(source: str, target: str) -> None:
    columns = list(Scorer(job.model, job.features, threads=1).columns)
    rows = daft.read_csv(f"{source}/*.csv") if job.csv else daft.read_parquet(f"{source}/*.parquet")
    predictor = Predictor(job.model, job.features)
    wanted = rows.select("id", *columns)
    predictions = predictor.predict(*(daft.col(name) for name in columns)).alias("prediction")
    wanted.select("id", predictions).write_parquet(target)


run(job, score)
sys.stdout.flush()
os._exit(0)

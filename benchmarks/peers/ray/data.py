"""Ray Data `map_batches`, with tasks (--tasks) or a pool of actors (--actors).

Ray documentation, "End-to-end: Offline Batch Inference" and "Transforming Data": a callable class loads the model once
for each actor; a pool of fixed size, one actor for each core. "Advanced: Performance Tips and Tuning": columns are
selected in the read, batches are Arrow so that nothing is converted or copied, `num_cpus` of the read tasks below one
so that reading and the actors share the cores. Ray sets OMP_NUM_THREADS from `num_cpus`: one library thread each.
"""

import pyarrow as pa
import ray
from scoring import BATCH_ROWS, CORES, Scorer, asked, loaded, run

job = asked("actors", "tasks")
READ_CPUS = 0.25


class Predictor:
    """An actor that holds the model."""

    def __init__(self, model: str, features: tuple[str, ...]) -> None:
        self._scorer = Scorer(model, features, threads=1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_batches([self._scorer.scored(batch)])


def predict(batch: pa.Table, model: str, features: tuple[str, ...]) -> pa.Table:
    """A task. Worker processes stay between tasks: the model is loaded once in each."""
    return pa.Table.from_batches([loaded(model, features, 1).scored(batch)])


def score(source: str, target: str) -> None:
    columns = ["id", *loaded(job.model, job.features, 1).columns]
    if job.csv:
        from pyarrow import csv

        rows = ray.data.read_csv(
            source, num_cpus=READ_CPUS, convert_options=csv.ConvertOptions(include_columns=columns)
        )
    else:
        rows = ray.data.read_parquet(source, num_cpus=READ_CPUS, columns=columns)
    how = {"batch_format": "pyarrow", "batch_size": BATCH_ROWS, "zero_copy_batch": True}
    if job.variant == "tasks":
        scored = rows.map_batches(predict, fn_args=(job.model, job.features), **how)
    else:
        scored = rows.map_batches(
            Predictor,
            fn_constructor_args=(job.model, job.features),
            # Half of a core each: tasks that list, read and write need one of the same cores, or nothing moves.
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=CORES),
            **how,
        )
    scored.write_parquet(target)


ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, configure_logging=True, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
run(job, score)
ray.shutdown()

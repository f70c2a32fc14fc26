"""Dask DataFrame with `map_partitions`.

Dask documentation, "Best Practices" of DataFrames (columns are selected when reading) and of Dask ("Avoid very large
partitions"; one library thread for each of Dask's: OMP_NUM_THREADS=1). "Scheduling": threads where the model releases
the interpreter's lock, processes where it is Python's own code.
"""

import dask
import dask.dataframe as dd
import pandas as pd
from scoring import CORES, asked, loaded, run

job = asked()


def predict(frame: pd.DataFrame, model: str, features: tuple[str, ...]) -> pd.DataFrame:
    """One partition. The model is loaded once in each process."""
    return frame[["id"]].assign(prediction=loaded(model, features, 1).of_frame(frame))


def score(source: str, target: str) -> None:
    columns = ["id", *loaded(job.model, job.features, 1).columns]
    if job.csv:
        frame = dd.read_csv(f"{source}/*.csv", usecols=columns, engine="pyarrow", blocksize=None)
    else:
        # Row groups as partitions: "adaptive" splits files whose row groups are small enough.
        frame = dd.read_parquet(source, columns=columns, split_row_groups="adaptive")
    scored = frame.map_partitions(predict, job.model, job.features, meta={"id": "int64", "prediction": "float64"})
    scored.to_parquet(target, write_index=False)


if __name__ == "__main__":
    scheduler = "processes" if job.model.endswith(".joblib") else "threads"
    with dask.config.set(scheduler=scheduler, num_workers=CORES):
        run(job, score)

"""Spark in local mode: `mapInArrow` (--arrow), `predict_batch_udf` (--udf) or MLflow's `spark_udf` (--mlflow).

PySpark user guide, "Apache Arrow in PySpark": `maxRecordsPerBatch` up from 10,000; the API page of
`predict_batch_udf`: the model is loaded once in each Python worker, which is reused. "Tuning Spark": as many partitions
as give each core a few (`maxPartitionBytes`), and a heap that fits the machine; the console's progress and the web UI
are off. MLflow documentation, "mlflow.pyfunc.spark_udf": `env_manager="local"` needs no new environment, and a struct's
field names are the names of the model's columns.
Spark sets OMP_NUM_THREADS to the cores of one task: one library thread each.
"""

import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import array, col, struct
from pyspark.sql.types import DoubleType
from scoring import BATCH_ROWS, CORES, asked, loaded, run

# "Python Package Management": workers are this environment's Python, too, not the first one on the path.
os.environ["PYSPARK_PYTHON"] = sys.executable

job = asked("arrow", "udf", "mlflow")
SCHEMA = "id long, prediction double"


def by_arrow(rows: DataFrame, columns: list[str]) -> DataFrame:
    model, features = job.model, job.features

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        one = loaded(model, features, 1)
        for batch in batches:
            yield one.scored(batch)

    return rows.mapInArrow(predict, SCHEMA)


def by_udf(rows: DataFrame, columns: list[str]) -> DataFrame:
    model, features = job.model, job.features

    def make() -> Callable[[np.ndarray], np.ndarray]:
        return loaded(model, features, 1).of_matrix

    udf = predict_batch_udf(make, return_type=DoubleType(), batch_size=BATCH_ROWS, input_tensor_shapes=[[len(columns)]])
    return rows.select("id", udf(array(*(col(name).cast("double") for name in columns))).alias("prediction"))


def by_mlflow(rows: DataFrame, columns: list[str]) -> DataFrame:
    import mlflow

    folder = os.path.join(os.path.dirname(job.model), "mlflow")
    udf = mlflow.pyfunc.spark_udf(session, folder, result_type="double", env_manager="local")
    # A field of a struct that is an expression has no name of its own, and MLflow finds the model's columns by name.
    named = struct(*(col(name).cast("double").alias(name) for name in columns))
    return rows.select("id", udf(named).alias("prediction"))


def score(source: str, target: str) -> None:
    columns = list(loaded(job.model, job.features, 1).columns)
    if job.csv:
        # A schema from the first file: inferring it would read all of them twice.
        first = session.read.csv(f"{source}/00000.csv", header=True, inferSchema=True).schema
        rows = session.read.csv(source, header=True, schema=first)
    else:
        rows = session.read.parquet(source)
    how = {"arrow": by_arrow, "udf": by_udf, "mlflow": by_mlflow}[job.variant]
    how(rows.select("id", *columns), columns).write.parquet(target)


session = (
    SparkSession.builder.master(f"local[{CORES}]")
    .config("spark.driver.memory", "4g")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH_ROWS)
    .config("spark.sql.files.maxPartitionBytes", "32m")
    .config("spark.local.dir", os.path.dirname(job.target))
    .getOrCreate()
)
session.sparkContext.setLogLevel("ERROR")
run(job, score)
session.stop()

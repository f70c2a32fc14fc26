"""Who runs in which workload."""

from __future__ import annotations

OWN = ("tidemill", "tidemill-library")
FLOORS = ("floor", "predict-alone")
SCRIPTS = ("pandas", "pyarrow", "dask", "daft")
CLUSTERS = ("ray-actors", "ray-actors-warm", "spark-arrow", "spark-arrow-warm")
MAIN = (*FLOORS, *OWN, *SCRIPTS, *CLUSTERS)
"""One way for each engine, the fastest of those tried in W1."""

ALL = (*MAIN, "ray-tasks", "ray-tasks-warm", "spark-udf", "spark-udf-warm", "spark-mlflow", "spark-mlflow-warm")
SMALL = ("floor", "tidemill", *SCRIPTS, "ray-actors", "spark-arrow")

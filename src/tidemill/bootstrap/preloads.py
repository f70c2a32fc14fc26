"""What the process that children are forked from imports ahead of them."""

from __future__ import annotations

TASKS = "tidemill.bootstrap.tasks"
LOOKUPS = "tidemill.bootstrap.lookups"

PRELOAD = (
    "numpy",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.parquet",
    TASKS,
    "tidemill.bootstrap.scorer",
    "tidemill.bootstrap.preloaded",
)

JOB_PRELOAD = (
    *PRELOAD,
    "tidemill.sources.listing",
    "tidemill.sources.parquet",
    "tidemill.sources.csv",
    "tidemill.sources.jsonl",
    "tidemill.sources.arrow",
    "tidemill.sources.orc",
    "tidemill.sources.avro",
    "tidemill.sources.excel",
    "tidemill.sources.partitioned",
    "tidemill.encoders.parquet",
    "tidemill.flavors.lightgbm",
    "tidemill.flavors.xgboost",
    "tidemill.flavors.catboost",
    "tidemill.flavors.python",
    "tidemill.flavors.sklearn",
    "tidemill.flavors.onnx",
    "tidemill.flavors.torch",
    "tidemill.flavors.transformers",
)
"""What the children of a job need as well; those that answer a question start sooner without. One child asks each of
these flavors whether a model is its own; none brings its library along."""

LOOKUP_PRELOAD = (LOOKUPS, "tidemill.sources.listing")
"""What a command needs that finds its output finished and nothing changed."""

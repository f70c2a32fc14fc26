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
)
"""What the children of a job need as well; those that answer a question start sooner without."""

LOOKUP_PRELOAD = (LOOKUPS, "tidemill.sources.listing")
"""What a command needs that finds its output finished and nothing changed."""

"""pyarrow: what careful people write. Bounded memory, needed columns only, decoding and predicting overlap.

Apache Arrow's Python documentation, "Reading and Writing the Apache Parquet Format" (`iter_batches`) and "Tabular
Datasets" (`Scanner`): a scanner with a projection reads ahead in threads while the model, which uses all cores by
itself, predicts. "Reading CSV files": `include_columns` parses no others.
"""

from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from scoring import BATCH_ROWS, OUTPUT, Scorer, asked, run

job = asked()


def score(source: str, target: str) -> None:
    scorer = Scorer(job.model, job.features)
    files = ds.dataset(source, format="csv" if job.csv else "parquet")
    Path(target).mkdir()
    # Read-ahead is small: the default keeps 16 batches of 4 files in memory, for no gain when the model is slower.
    scanner = files.scanner(
        columns=["id", *scorer.columns], batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1
    )
    with pq.ParquetWriter(f"{target}/scores.parquet", OUTPUT) as writer:
        for batch in scanner.to_batches():
            if batch.num_rows:
                writer.write_batch(scorer.scored(batch))


run(job, score)

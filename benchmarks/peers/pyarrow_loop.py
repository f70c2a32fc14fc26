"""What careful people write: python pyarrow_loop.py MODEL INPUT_FOLDER OUTPUT_FILE"""

import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

model, source, target = sys.argv[1:]
booster = lgb.Booster(model_file=model)
features = booster.feature_name()
schema = pa.schema([("id", pa.int64()), ("prediction", pa.float64())])
with pq.ParquetWriter(target, schema) as writer:
    for path in sorted(Path(source).iterdir()):
        for batch in pq.ParquetFile(path).iter_batches(65_536, columns=["id", *features]):
            matrix = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in features])
            writer.write_batch(pa.record_batch([batch["id"], pa.array(booster.predict(matrix))], schema=schema))

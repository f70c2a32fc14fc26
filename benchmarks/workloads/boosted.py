"""Boosted trees on 20 of 36 columns: W1 (Parquet), W4 (CSV), W6 (a small job), W8 (killed half way)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.workloads import rows
from benchmarks.workloads.line_ups import ALL, MAIN, SMALL
from benchmarks.workloads.workload import Prepared, Workload, made

SMALL_ROWS = 1_000


def lightgbm_model(*, trees: int, leaves: int) -> Path:
    """A regression as text. Beside it the same as an MLflow folder."""

    def make(folder: Path) -> None:
        import lightgbm as lgb

        matrix, target = rows.training()
        settings = {
            "objective": "regression",
            "num_leaves": leaves,
            "learning_rate": 0.05,
            "verbose": -1,
            "seed": 1,
            "num_threads": 1,
        }
        data = lgb.Dataset(matrix, target, feature_name=list(rows.FEATURES))
        booster = lgb.train(settings, data, num_boost_round=trees)
        booster.save_model(folder / "model.txt")
        _save_with_mlflow(booster, folder / "mlflow")

    return made(f"lightgbm-{trees}x{leaves}", make) / "model.txt"


def _save_with_mlflow(booster: object, folder: Path) -> None:
    import mlflow.lightgbm
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("double", name, required=False) for name in rows.FEATURES])
    signature = ModelSignature(inputs=inputs, outputs=Schema([ColSpec("double")]))
    mlflow.lightgbm.save_model(booster, str(folder), signature=signature)


def xgboost_model(*, trees: int, leaves: int) -> Path:
    """A regression in UBJSON, trees grown leaf by leaf as LightGBM's."""

    def make(folder: Path) -> None:
        import xgboost as xgb

        matrix, target = rows.training()
        settings = {
            "tree_method": "hist",
            "grow_policy": "lossguide",
            "max_leaves": leaves,
            "max_depth": 0,
            "nthread": 1,
            "eta": 0.05,
        }
        data = xgb.DMatrix(matrix, target, feature_names=list(rows.FEATURES))
        xgb.train(settings, data, num_boost_round=trees).save_model(folder / "model.ubj")

    return made(f"xgboost-{trees}x{leaves}", make) / "model.ubj"


def _lightgbm(count: int) -> Prepared:
    model = lightgbm_model(trees=200, leaves=63)
    return Prepared(model=model, source=rows.input_folder(count), small=rows.input_folder(SMALL_ROWS))


def _xgboost(count: int) -> Prepared:
    model = xgboost_model(trees=200, leaves=63)
    return Prepared(model=model, source=rows.input_folder(count), small=rows.input_folder(SMALL_ROWS))


def _from_csv(count: int) -> Prepared:
    model = lightgbm_model(trees=200, leaves=63)
    return Prepared(model=model, source=rows.csv_folder(count), small=rows.csv_folder(SMALL_ROWS))


WORKLOADS = (
    Workload(
        name="W1-lightgbm",
        title="LightGBM, 200 trees of 63 leaves, 20 of 36 columns of Parquet",
        rows=1_000_000,
        quick_rows=100_000,
        make=_lightgbm,
        tolerance=1e-12,
        contestants=ALL,
        family="lightgbm",
        kernel_target=3,
    ),
    Workload(
        name="W1-xgboost",
        title="XGBoost, 200 trees of 63 leaves, 20 of 36 columns of Parquet",
        rows=3_000_000,
        quick_rows=100_000,
        make=_xgboost,
        tolerance=1e-6,
        contestants=MAIN,
        family="xgboost",
        kernel_target=2,
    ),
    Workload(
        name="W4-csv",
        title="LightGBM, 200 trees of 63 leaves, 20 of 36 columns of CSV",
        rows=500_000,
        quick_rows=50_000,
        make=_from_csv,
        tolerance=1e-12,
        contestants=MAIN,
        family="lightgbm",
    ),
    Workload(
        name="W6-small",
        title="LightGBM, 200 trees of 63 leaves, by the command line",
        rows=SMALL_ROWS,
        quick_rows=SMALL_ROWS,
        make=_lightgbm,
        tolerance=1e-12,
        contestants=SMALL,
        family="lightgbm",
        small_job=True,
        rounds=5,
    ),
    Workload(
        name="W8-killed",
        title="LightGBM, 200 trees of 63 leaves, killed half way and started again",
        rows=4_000_000,
        quick_rows=400_000,
        make=_lightgbm,
        tolerance=1e-12,
        contestants=("floor", "tidemill-library", "tidemill-killed"),
        family="lightgbm",
    ),
)

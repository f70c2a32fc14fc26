"""Types in skops files that can be loaded without asking anybody.

skops itself trusts scikit-learn's public estimators and numpy's arrays. These are the inner parts of
fitted estimators that it leaves to the caller: plain data holders and pure functions of scikit-learn,
SciPy, LightGBM and XGBoost that build or call nothing a file could choose.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tidemill.domain.errors import NotTrusted
from tidemill.registry import hiding

_METRICS = (
    *("BrayCurtis", "Canberra", "Chebyshev", "Dice", "Euclidean", "Hamming", "Haversine", "Jaccard", "Kulsinski"),
    *("Mahalanobis", "Manhattan", "Matching", "Minkowski", "RogersTanimoto", "RussellRao", "SEuclidean"),
    *("SokalMichener", "SokalSneath"),
)
_KERNELS = (
    *("CompoundKernel", "ConstantKernel", "DotProduct", "ExpSineSquared", "Exponentiation", "Matern"),
    *("PairwiseKernel", "Product", "RBF", "RationalQuadratic", "Sum", "WhiteKernel"),
)
_LGBM = ("LGBMClassifier", "LGBMModel", "LGBMRanker", "LGBMRegressor")
_XGB = ("XGBClassifier", "XGBModel", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker", "XGBRegressor")

TRUSTED: frozenset[str] = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "functools.partial",
        "lightgbm.basic.Booster",
        *(f"lightgbm.sklearn.{name}" for name in _LGBM),
        "numpy.dtype",
        "numpy.mean",
        "numpy.median",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csc.csc_matrix",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        *(
            f"sklearn.feature_selection._univariate_selection.{name}"
            for name in ("chi2", "f_classif", "f_regression", "r_regression")
        ),
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        *(f"sklearn.gaussian_process.kernels.{name}" for name in _KERNELS),
        "sklearn.metrics._classification.accuracy_score",
        "sklearn.metrics._classification.balanced_accuracy_score",
        "sklearn.metrics._classification.f1_score",
        "sklearn.metrics._regression.r2_score",
        "sklearn.metrics._scorer._CurveScorer",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.metrics._scorer._Scorer",
        *(f"sklearn.metrics._dist_metrics.{name}Distance{bits}" for name in _METRICS for bits in (32, 64)),
        *(
            f"sklearn.model_selection._split.{name}"
            for name in ("GroupKFold", "KFold", "ShuffleSplit", "StratifiedKFold", "TimeSeriesSplit")
        ),
        "sklearn.multiclass._ConstantPredictor",
        *(f"sklearn.neighbors._{tree}_tree.{kind}" for tree, kind in (("ball", "BallTree"), ("kd", "KDTree"))),
        *(f"sklearn.neighbors._{tree}_tree.{kind}64" for tree, kind in (("ball", "BallTree"), ("kd", "KDTree"))),
        *(f"sklearn.neighbors._{tree}_tree.{kind}32" for tree, kind in (("ball", "BallTree"), ("kd", "KDTree"))),
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
        "sklearn.utils.validation.check_array",
        "xgboost.core.Booster",
        *(f"xgboost.sklearn.{name}" for name in _XGB),
    }
)


def skops_io() -> Any:
    """The module skops.io. Raises ModuleNotFoundError.

    It imports every package of scikit-learn to list the estimators, and some of them import whatever array library
    is there: two seconds and 200 MB for torch, of which nothing is used.
    """
    with hiding("torch", "cupy", "dask", "jax"):
        return import_module("skops.io")


def load_trusted(path: str, skops: Any) -> Any:
    """Load a skops file by skops.io if it holds nothing but trusted types. Raises NotTrusted listing the others."""
    found = skops.get_untrusted_types(file=path)
    strangers = sorted(set(found) - TRUSTED)
    if strangers:
        raise NotTrusted(
            f"{path} holds types that are not known to be harmless: {', '.join(strangers)}.",
            remedy="If you know them, save the model with joblib or pickle and trust that file with --trust.",
        )
    return skops.load(path, trusted=found)

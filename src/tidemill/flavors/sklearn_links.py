"""What scikit-learn's linear models make of their sums: values, classes, probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.flavors.decision import ClassRule, Rule, ValueRule
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.linear import Array


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Of rows: values, (rows,) or (rows, sums), or positions of classes, (rows,); probabilities, (rows, classes)."""

    values: Array
    probabilities: Array | None = None


ROUNDING = 1e-15
"""Of a probability."""
TILE_NUMBERS = 32_768
"""Sums that are decided at a time: they stay in the caches."""


class Link(ABC):
    """One model's way from sums to predictions."""

    values_are_sums = False
    """Whether what is written are the sums themselves, so that cancellation shows in them."""

    def __init__(self, weights: Any, start: Any) -> None:
        """`weights` are (sums, features) or (features,), `start` what is added to each sum."""
        self.weights = np.atleast_2d(np.asarray(weights, np.float64))
        self.start = np.array(np.broadcast_to(np.ravel(np.asarray(start, np.float64)), (len(self.weights),)))

    @abstractmethod
    def decide(self, sums: Array, slack: float) -> Decided | None:
        """Predictions of sums, (sums, rows), whose rounding may be off by `slack`; None if a class hangs on that."""


class Values(Link):
    """The sums themselves, or a function of each."""

    def __init__(self, weights: Any, start: Any, inverse: Callable[[Array], Array] | None = None) -> None:
        super().__init__(weights, start)
        self._inverse = inverse
        self.values_are_sums = inverse is None

    def decide(self, sums: Array, slack: float) -> Decided:
        with np.errstate(over="ignore"):
            found = sums if self._inverse is None else self._inverse(sums)
        return Decided(values=found[0] if len(found) == 1 else found.T)


Probabilities = Callable[[Array], Array | None]
"""Of sums, (sums, rows), probabilities, (rows, classes); None where they hang on digits that are not there."""


class Classes(Link):
    """A score for each class, or one for the second of two."""

    def __init__(self, weights: Any, start: Any, rule: ClassRule, probabilities: Probabilities | None = None) -> None:
        super().__init__(weights, start)
        classes = len(rule.labels)
        if len(self.weights) != (1 if classes == 2 else classes):
            raise NotCompilable(f"it has {len(self.weights)} scores for {classes} classes")
        self._threshold = rule.threshold
        self._probabilities = probabilities if rule.writes_probabilities else None

    def decide(self, sums: Array, slack: float) -> Decided | None:
        scores, rows = sums.shape
        positions = np.empty(rows, np.int64)
        shares = None if self._probabilities is None else np.empty((max(scores, 2), rows))
        tile_rows = max(TILE_NUMBERS // scores, 1)
        for begin in range(0, rows, tile_rows):
            tile = slice(begin, begin + tile_rows)
            here = sums[:, tile]
            if self._probabilities is not None and shares is not None:
                found = self._probabilities(here)
                if found is None:
                    return None
                shares[:, tile] = found.T
            if self._threshold is not None and shares is not None:
                # A probability moves by no more than a quarter of what its score moves, and is rounded itself.
                decided = _above(shares[1, tile] - self._threshold, slack + ROUNDING, at_zero=True)
            elif scores == 1:
                decided = _above(here[0], slack, at_zero=False)
            else:
                decided = _largest(here, slack)
            if decided is None:
                return None
            positions[tile] = decided
        return Decided(values=positions, probabilities=None if shares is None else shares.T)


def _above(distances: Array, slack: float, *, at_zero: bool) -> Array | None:
    """Whether each is above zero; None if one may as well not be."""
    if ((distances <= slack) & (distances >= -slack)).any():
        return None
    return distances >= 0 if at_zero else distances > 0


def _largest(scores: Array, slack: float) -> Array | None:
    """The place of the largest of each row, (scores, rows); None if another may as well be it."""
    best = scores.max(axis=0)
    near, found = best - slack, np.empty(scores.shape[1], np.int64)
    if sum(np.count_nonzero(each >= near) for each in scores) > len(found):
        return None
    for place, each in enumerate(scores):
        np.copyto(found, place, where=each == best)
    return found


def logistic(sums: Array) -> Array:
    """1 / (1 + exp(-sum)), without a power that overflows."""
    small = np.exp(-np.abs(sums))
    return np.divide(np.where(sums < 0, small, 1.0), 1.0 + small)


def _both(second: Array) -> Array:
    both = np.empty((len(second), 2), order="F")
    both[:, 1] = second
    np.subtract(1.0, second, out=both[:, 0])
    return both


def _logistic_shares(sums: Array) -> Array | None:
    """One against all others."""
    if len(sums) == 1:
        return _both(logistic(sums[0]))
    if _any_within(sums.max(axis=0), *_VANISHING):
        return None
    return _shares(logistic(sums))


def _huber_shares(sums: Array) -> Array | None:
    if len(sums) > 1 and _any_within(sums.max(axis=0), -1 - _CANCELLING, -1 + _CANCELLING):
        return None
    found = (np.clip(sums, -1.0, 1.0) + 1.0) / 2.0
    return _both(found[0]) if len(found) == 1 else _shares(found)


_VANISHING = -750.0, -670.0
"""Where the largest of the powers that are shared out loses its digits, or vanishes for one of two who compute it."""
_CANCELLING = 1e-3
"""Around -1, where the largest of the parts that are shared out is what is left of it."""


def _any_within(values: Array, low: float, high: float) -> bool:
    return bool(((values >= low) & (values <= high)).any())


def _shares(parts: Array) -> Array:
    """Parts of each class, (classes, rows), as shares of their sum; equal ones where all are zero."""
    whole = parts.sum(axis=0)
    parts[:, whole == 0] = 1.0
    parts /= np.where(whole == 0, float(len(parts)), whole)
    return np.asarray(parts.T)


def _softmax(sums: Array) -> Array:
    if len(sums) == 1:
        return _both(logistic(sums[0]))
    found = sums - sums.max(axis=0)
    np.exp(found, out=found)
    found /= found.sum(axis=0)
    return np.asarray(found.T)


def _values(final: Any, rule: Rule) -> Link:
    if not isinstance(rule, ValueRule) or rule.type != "double":
        raise NotCompilable("its predictions are no numbers")
    return Values(final.coef_, final.intercept_)


def _generalized(final: Any, rule: Rule) -> Link:
    link = type(final._base_loss.link).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise NotCompilable(f"its link is a {link}")
    return Values(final.coef_, final.intercept_, None if link == "IdentityLink" else np.exp)


def _classes(final: Any, rule: Rule) -> Link:
    if not isinstance(rule, ClassRule):
        raise NotCompilable("it answers several questions")
    if rule.probability_type not in (None, "double"):
        raise NotCompilable("its probabilities are numbers of 32 bits")
    if rule.probability_type is None:
        return Classes(final.coef_, final.intercept_, rule)
    shares = _PROBABILITIES.get(type(final).predict_proba.__qualname__)
    if shares is None:
        raise NotCompilable(f"there is no kernel for the probabilities of a {type(final).__name__}")
    if shares is _logistic_shares and getattr(final, "loss", "log_loss") == "modified_huber":
        shares = _huber_shares
    return Classes(final.coef_, final.intercept_, rule, shares)


def _one_against_rest(final: Any, rule: Rule) -> Link:
    parts = final.estimators_
    if not isinstance(rule, ClassRule) or final.multilabel_:
        raise NotCompilable("it answers several questions")
    if any(link_of(part) is not _classes for part in parts):
        raise NotCompilable(f"there is no kernel for a OneVsRestClassifier of a {type(parts[0]).__name__}")
    weights, start = np.concatenate([part.coef_ for part in parts]), np.concatenate([part.intercept_ for part in parts])
    if rule.probability_type is None:
        return Classes(weights, start, rule)
    names = {type(part).predict_proba.__qualname__ for part in parts}
    if not names <= set(_PROBABILITIES) or rule.probability_type != "double":
        raise NotCompilable(f"there is no kernel for the probabilities of a {type(parts[0]).__name__}")
    huber = getattr(parts[0], "loss", "log_loss") == "modified_huber"
    return Classes(weights, start, rule, _huber_shares if huber else _logistic_shares)


_PROBABILITIES: dict[str, Probabilities] = {
    "LogisticRegression.predict_proba": _softmax,
    "LinearDiscriminantAnalysis.predict_proba": _softmax,
    "SGDClassifier.predict_proba": _logistic_shares,
}
_LINKS: dict[str, Callable[[Any, Rule], Link]] = {
    **dict.fromkeys(
        (
            "LinearModel.predict", "MultiOutputLinearModel.predict", "BaseSGDRegressor.predict", "Ridge.predict",
            "RidgeCV.predict", "BayesianRidge.predict", "ARDRegression.predict",
        ),
        _values,
    ),
    "_GeneralizedLinearRegressor.predict": _generalized,
    "LinearClassifierMixin.predict": _classes,
    "_RidgeClassifierMixin.predict": _classes,
    "OneVsRestClassifier.predict": _one_against_rest,
}  # fmt: skip
"""By the method that predicts: who inherits it predicts by it."""
_MODULES = ("sklearn.linear_model.", "sklearn.svm.", "sklearn.discriminant_analysis", "sklearn.multiclass")


def link_of(final: Any) -> Callable[[Any, Rule], Link] | None:
    """What makes the link of an estimator and of what is written of it, if there may be one; it raises NotCompilable,
    or AttributeError and the like for an estimator that is kept in another way."""
    if not type(final).__module__.startswith(_MODULES):
        return None
    return _LINKS.get(getattr(getattr(type(final), "predict", None), "__qualname__", ""))

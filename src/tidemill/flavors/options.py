"""What a job may ask of a flavor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `Flavor.load`, checked. `extra` is what no flavor knows: for the user's own code."""

    probabilities: bool = False
    threshold: float | None = None
    features: tuple[str, ...] = ()
    """The model's input columns in its order, when it does not know them."""
    classes: tuple[str | int | float | bool, ...] = ()
    """Names of a classifier's classes in its order, when it does not know them."""
    threads: int = 1
    accelerate: bool = False
    """Whether a kernel is to predict in place of the library, if one can."""
    kernel_file: str | None = None
    """Where the kernel of this very model is kept from job to job: a path without the ending. None: nowhere."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(options: Mapping[str, Any]) -> PredictOptions:
        """Take `spec.predict` (whose own `options` may hold any of these words) plus features and threads."""
        words = dict(options)
        # Never a word of the user's: files are written there.
        kernel_file = words.pop("kernel_file", None)
        words.update(words.pop("options", None) or {})
        accelerate = bool(words.pop("accelerate", False))
        threshold = words.pop("threshold", None)
        return PredictOptions(
            probabilities=bool(words.pop("probabilities", False)),
            threshold=None if threshold is None else _share(threshold),
            features=_names("features", words.pop("features", None) or ()),
            classes=tuple(words.pop("classes", None) or ()),
            threads=int(words.pop("threads", None) or 1),
            accelerate=accelerate,
            kernel_file=kernel_file,
            extra=words,
        )

    def refuse_extra(self, flavor: str, own: Sequence[str] = ()) -> None:
        """Raise InvalidSpec if there are words that this flavor, which knows its `own`, would silently ignore."""
        unknown = sorted(set(self.extra) - set(own))
        if unknown:
            raise InvalidSpec(
                f"The flavor {flavor} knows no option called {', '.join(unknown)}.",
                remedy=f"It knows: {', '.join(['probabilities', 'threshold', 'features', 'classes', *own])}.",
            )

    def refuse_decisions(self, what: str) -> None:
        """Raise InvalidSpec if probabilities, a threshold or classes are asked of a model without classes."""
        words = ("probabilities", "threshold", "classes")
        asked = [word for word in words if getattr(self, word) not in (False, None, ())]
        if asked:
            raise InvalidSpec(f"{what} has no {' or '.join(asked)}.", remedy=f"Leave {' and '.join(asked)} out.")


def _share(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = float("nan")
    if not 0 <= share <= 1:
        raise InvalidSpec(f"threshold {value!r} is not a probability.", remedy="Give a number from 0 to 1.")
    return share


def _names(option: str, value: str | Iterable[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise InvalidSpec(
            f"{option} must be different, non-empty names, not {list(names)!r}.", remedy="Name every column once."
        )
    return names

"""scikit-learn models: skops files, and pickles of whatever predicts.

A skops file holds data and names of types; only types known to be harmless are built. A pickle (plain,
or joblib's) runs code when it is loaded, so the engine asks for trust first; then the class of the object
in it decides how it predicts. There is no fallback from one to the other.
"""

from __future__ import annotations

import bz2
import lzma
import os
import sys
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from zipfile import BadZipFile, ZipFile

from tidemill.domain.errors import MissingExtra, ModelUnusable, TidemillError
from tidemill.flavors.catboost import CatBoostModel
from tidemill.flavors.lightgbm import LightGBMModel
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.sklearn_model import ScikitModel
from tidemill.flavors.sklearn_named import LOOKED_AT_BYTES, modules_named
from tidemill.flavors.skops_trust import load_trusted, skops_io
from tidemill.flavors.xgboost import XGBoostModel
from tidemill.ports.flavor import Flavor, Model
from tidemill.registry import extra_of, missing_extra


class SklearnFlavor(Flavor):
    """skops files: a zip with `schema.json`."""

    name: ClassVar[str] = "sklearn"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.sklearn_library", "tidemill.flavors.skops_library")

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        if not head.startswith(b"PK\x03\x04"):
            return False
        try:
            with ZipFile(path) as archive:
                return "schema.json" in archive.namelist()
        except (BadZipFile, OSError, ValueError, NotImplementedError):
            # The last two: the name of a member is no text, or the version is none that there is.
            return False

    @classmethod
    def preload_for(cls, path: str) -> tuple[str, ...]:
        with suppress(BadZipFile, OSError, ValueError, NotImplementedError, KeyError, zlib.error):
            with ZipFile(path) as archive, archive.open("schema.json") as schema:
                return (*cls.preload, *modules_named(schema.read(LOOKED_AT_BYTES)))
        return cls.preload

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        try:
            skops = skops_io()
        except ModuleNotFoundError as exc:
            raise missing_extra("sklearn", exc) from exc
        loaded, notes = _loaded(path, lambda: load_trusted(path, skops))
        return model_of(loaded, path, PredictOptions.of(options), notes)


class PickleFlavor(Flavor):
    """Pickles, joblib's and compressed ones included."""

    name: ClassVar[str] = "pickle"
    carries_code: ClassVar[bool] = True
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.sklearn_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        start = _decompressed(head, 64)
        return len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and start[2:3] in _FIRST_OPCODES

    @classmethod
    def preload_for(cls, path: str) -> tuple[str, ...]:
        with suppress(OSError), open(path, "rb") as file:
            data = _decompressed(file.read(LOOKED_AT_BYTES), LOOKED_AT_BYTES)
            return (*cls.preload, *modules_named(data))
        return cls.preload

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        try:
            import joblib  # type: ignore[import-untyped]
        except ModuleNotFoundError as exc:
            raise missing_extra("sklearn", exc) from exc
        if (folder := os.getcwd()) not in sys.path:
            sys.path.insert(0, folder)
        loaded, notes = _loaded(path, lambda: joblib.load(path))
        return model_of(loaded, path, PredictOptions.of(options), notes)


_FIRST_OPCODES = tuple(bytes([code]) for code in b"\x95\x8c(]})ctcNK}XUq\x8a\x88\x89")
"""What a pickle of protocol 2 to 5 can begin with after its header."""


def _decompressed(head: bytes, most: int) -> bytes:
    """At most so many first bytes of what a compressed head holds; the head itself if it is not compressed."""
    try:
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(head, most)
        if head[:1] == b"\x78":
            return zlib.decompressobj().decompress(head, most)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, most)
        if head.startswith((b"\xfd7zXZ", b"\x5d\x00")):
            return lzma.LZMADecompressor().decompress(head, most)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return b""
    return head


def _loaded(path: str, load: Any) -> tuple[Any, tuple[str, ...]]:
    """What `load` gives, and what it warned of. Raises ModelUnusable, MissingExtra, NotTrusted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = load()
        except TidemillError:
            raise
        except ModuleNotFoundError as exc:
            raise _missing(path, exc) from exc
        except Exception as exc:
            raise ModelUnusable(
                f"{path} cannot be loaded: {type(exc).__name__}: {exc}.",
                remedy="Load it with the versions of Python and of the libraries that saved it, or save it again.",
            ) from exc
    return loaded, tuple(dict.fromkeys(filter(None, (_version_note(each.message) for each in caught))))


def _missing(path: str, exc: ModuleNotFoundError) -> TidemillError:
    extra = extra_of(exc.name or "")
    if extra is not None:
        return missing_extra(extra, exc)
    return MissingExtra(
        f"{path} needs the module {exc.name!r}, which is not there.",
        remedy="Install the package it comes from, or run in the folder that it lies in.",
    )


def _version_note(warning: Any) -> str | None:
    """scikit-learn's warning that another version saved an estimator."""
    saved = getattr(warning, "original_sklearn_version", None)
    here = getattr(warning, "current_sklearn_version", None)
    return f"saved by scikit-learn {saved}, loaded by {here}: values may differ" if saved else None


def model_of(loaded: Any, path: str, options: PredictOptions, notes: tuple[str, ...]) -> Model:
    """The model that a loaded object is, by its class. Raises ModelUnusable for what cannot predict rows."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(loaded).__mro__}
    if "lightgbm.basic.Booster" in kinds:
        return LightGBMModel(loaded.model_to_string().encode(), path, options)
    if "lightgbm.sklearn.LGBMModel" in kinds:
        return _lightgbm(loaded, path, options)
    if "xgboost.core.Booster" in kinds:
        return XGBoostModel(bytes(loaded.save_raw("ubj")), path, options)
    if "xgboost.sklearn.XGBModel" in kinds:
        return _xgboost(loaded, path, options)
    if "catboost.core.CatBoost" in kinds:
        return _catboost(loaded, path, options)
    return ScikitModel(loaded, path, options, notes)


def _xgboost(estimator: Any, path: str, options: PredictOptions) -> Model:
    """An XGBClassifier or its like is its booster, plus the number that stands for a missing one."""
    try:
        booster = estimator.get_booster()
    except Exception as exc:
        raise _unfitted(estimator, path) from exc
    if hasattr(estimator, "classes_"):
        booster.set_attr(scikit_learn='{"_estimator_type": "classifier"}')
    return XGBoostModel(bytes(booster.save_raw("ubj")), path, options, missing=estimator.missing)


def _catboost(estimator: Any, path: str, options: PredictOptions) -> Model:
    """A CatBoostClassifier or its like is what its own file says of it."""
    if not estimator.is_fitted():
        raise _unfitted(estimator, path)
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.cbm")
        estimator.save_model(str(file))
        return CatBoostModel(file.read_bytes(), path, options)


def _unfitted(estimator: Any, path: str) -> ModelUnusable:
    return ModelUnusable(
        f"{path} holds a {type(estimator).__name__} that is not fitted.", remedy="Fit it before it is saved."
    )


def _lightgbm(estimator: Any, path: str, options: PredictOptions) -> Model:
    """An LGBMClassifier or its like is its booster, plus the names of the classes."""
    try:
        booster = estimator.booster_
    except Exception as exc:
        raise _unfitted(estimator, path) from exc
    labels = list(estimator.classes_) if hasattr(estimator, "classes_") else None
    return LightGBMModel(booster.model_to_string().encode(), path, options, labels=labels)

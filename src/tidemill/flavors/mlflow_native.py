"""MLflow folders whose model lies in them as a file that is data and no code, scored without MLflow.

The file is read by the flavor of its framework, as if it had been named itself: no trust is asked, and the
columns written are those of that flavor. What MLflow's python_function would return is among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from tidemill import registry
from tidemill.domain.errors import ModelUnusable, NotTrusted
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors import mlflow_folder
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.skops_trust import TRUSTED
from tidemill.ports.flavor import Flavor, Model

HEAD_BYTES = 64 << 10


class MlflowNativeFlavor(Flavor):
    """Folders of MLflow with a file that a flavor which runs no code can read."""

    name: ClassVar[str] = "mlflow_native"

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        if not mlflow_folder.is_folder(path):
            return False
        try:
            folder = mlflow_folder.read(path)
        except ModelUnusable:
            return False  # The flavor that takes every such folder says what is wrong.
        return _reader_of(folder) is not None

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        folder = mlflow_folder.read(path)
        found = _reader_of(folder)
        if found is None:
            raise ModelUnusable(
                f"{path} holds no model file that can be read without running code.",
                remedy="Score it as MLflow does, with --flavor mlflow.",
            )
        file, kind = found
        try:
            model = _loaded(kind, str(file), options, folder.names)
        except NotTrusted as exc:
            raise NotTrusted(
                exc.message, remedy="If you know them, score the folder as MLflow does: --flavor mlflow --trust."
            ) from exc
        model.info = _signed(model.info, folder)
        return model


def _reader_of(folder: mlflow_folder.Folder) -> tuple[Path, type[Flavor]] | None:
    """The file in the folder and the flavor that reads it, by its content; None if there is none."""
    file = folder.native
    if file is None or not folder.untrusted_types <= TRUSTED:
        return None
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    for name in registry.flavors.names():
        kind = registry.flavors.get(name)
        if not kind.carries_code and kind.matches(head, str(file)):
            return file, kind
    return None


def _loaded(kind: type[Flavor], file: str, options: Mapping[str, Any], names: tuple[str, ...]) -> Model:
    """The model, with the signature's names for its columns if it knows none of its own."""
    if PredictOptions.of(options).features:
        return kind().load(file, options)
    model = kind().load(file, options)
    own = {field.name for field in model.info.inputs}
    if own & set(names) or len(own) != len(names):
        return model
    model.close()
    return kind().load(file, {**options, "features": names})


def _signed(info: ModelInfo, folder: mlflow_folder.Folder) -> ModelInfo:
    """What the model says, and the types that MLflow lets pass for the columns of its signature."""
    accepts = {column.name: column.accepts for column in folder.inputs}

    def signed(field: Field) -> Field:
        return replace(field, accepts=accepts.get(field.name, ()))

    return replace(
        info,
        inputs=tuple(map(signed, info.inputs)),
        notes=(*info.notes, f"an MLflow folder; its model is read as {info.flavor}"),
    )

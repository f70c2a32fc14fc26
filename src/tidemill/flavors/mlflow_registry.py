"""Models that an MLflow server keeps: which version an address means now, and its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.registry import missing_extra

_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[0-9]+|latest)")
_LOGGED = re.compile(r"models:/m-[0-9A-Za-z]+")
_RUN = re.compile(r"runs:/[^/]+/.+")
_SERVERS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""Unless the environment says otherwise: MLflow itself tries for several minutes."""


def download(uri: str, folder: str) -> dict[str, str]:
    """Bring what `uri` means now into `folder`, which is empty.

    `uri` is models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest, models:/m-ID or runs:/RUN/PATH; the server
    is MLFLOW_TRACKING_URI. Returns {"path": where the files are, "origin": the address with an exact version}.
    Raises InvalidSpec, NotFound, MissingExtra.
    """
    if not any(pattern.fullmatch(uri) for pattern in (_ALIAS, _VERSION, _LOGGED, _RUN)):
        raise InvalidSpec(
            f"{uri} is no address of a model on an MLflow server.",
            remedy="Say models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/PATH.",
        )
    if not any(os.environ.get(name) for name in _SERVERS):
        raise InvalidSpec(
            f"{uri} is on an MLflow server, and nothing says where that is.",
            remedy="Set MLFLOW_TRACKING_URI, for example to http://mlflow.example:5000.",
        )
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    client = _client()
    with _told(uri):
        exact = _exact(client, uri)
        from mlflow.artifacts import download_artifacts

        return {"path": download_artifacts(artifact_uri=exact, dst_path=folder), "origin": exact}


def _client() -> Any:
    from tidemill.flavors import mlflow_library  # noqa: F401 (its settings come first)

    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as exc:
        raise missing_extra("mlflow", exc) from exc
    return MlflowClient()


def _exact(client: Any, uri: str) -> str:
    """The address of the very version that an alias or "latest" means now."""
    if found := _ALIAS.fullmatch(uri):
        version = client.get_model_version_by_alias(found["name"], found["alias"]).version
        return f"models:/{found['name']}/{version}"
    found = _VERSION.fullmatch(uri)
    if found is None or found["version"] != "latest":
        return uri
    name = found["name"].replace("'", "")
    newest = client.search_model_versions(f"name='{name}'", max_results=1, order_by=["version_number DESC"])
    if not newest:
        raise NotFound(f"{uri}: the MLflow server has no model of this name.", remedy="Check the name.")
    return f"models:/{found['name']}/{newest[0].version}"


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Errors of MLflow say which model and which server."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as exc:
        server = next(filter(None, map(os.environ.get, _SERVERS)))
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise NotFound(
            _CREDENTIALS.sub("://", f"{uri} cannot be had from the MLflow server {server}: {lines[0].rstrip('.')}."),
            remedy="Check the name, the alias and MLFLOW_TRACKING_URI, and that the server is up and lets you in.",
        ) from exc

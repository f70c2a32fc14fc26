"""Models on an MLflow server: fetched when they are asked for, and kept here for whoever scores with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import NotAllowed
from tidemill.domain.model import Pin
from tidemill.durable.files import remove_tree
from tidemill.service import modelfiles, models
from tidemill.service.context import Context
from tidemill.service.modelfiles import Arrival
from tidemill.service.secrets import MARK

FETCH_SECONDS = 3600.0
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables of MLflow's own that may hold secret:NAME here."""


def check_may(who: Principal, uri: str) -> None:
    """Raise NotAllowed for keys that may not trust models: what a server names as a model's place is fetched with
    the rights of this service."""
    if not who.is_here and not who.may(Action.TRUST_MODELS):
        raise NotAllowed(
            f"A {who.role.value}'s key cannot make the service fetch {uri}.",
            remedy=f"Ask an administrator for: tidemill models add NAME {uri}",
        )


@contextmanager
def arriving(context: Context, uri: str) -> Iterator[tuple[Arrival, str]]:
    """The model on its way in, sealed, and the address of its exact version. Raises NotFound, InvalidSpec,
    MissingExtra, TooLarge."""
    with modelfiles.arriving(models.root(context), _name_of(uri), context.policy.max_upload_bytes) as arrival:
        fetched = arrival.folder / f".{arrival.path.name}.fetched"
        fetched.mkdir()
        answer = context.executor.call(
            context.tasks.fetch_mlflow,
            {"uri": uri, "folder": str(fetched), "credentials": _credentials(context)},
            timeout_seconds=FETCH_SECONDS,
            memory_bytes=context.compute.memory_bytes,
        )
        arrival.copy(Path(answer["path"]), lambda real: real.is_relative_to(fetched.resolve()))
        remove_tree(fetched)
        arrival.seal()
        yield arrival, answer["origin"]


def _credentials(context: Context) -> dict[str, str]:
    """What the environment says by reference."""
    given = {name: os.environ.get(name, "") for name in CREDENTIALS}
    return {name: context.secrets.resolved(value) for name, value in given.items() if value.startswith(MARK)}


def pin(context: Context, uri: str, flavor: str | None) -> Pin:
    """What a job that asks for `uri` scores with, whatever becomes of its alias and of the server: a copy that
    stays while the job is remembered. Raises as `arriving` does, and UnknownFormat."""
    with arriving(context, uri) as (arrival, origin):
        with models.named(str(arrival.path), uri):
            facts = models.identify(context, str(arrival.path), flavor, None)
        return Pin(
            asked=uri,
            origin=origin,
            path=str(_kept(context, arrival, facts)),
            digest=facts["digest"],
            flavor=facts["flavor"],
            carries_code=facts["carries_code"],
            preload=tuple(facts["preload"]),
            size_bytes=facts["size_bytes"],
        )


def _kept(context: Context, arrival: Arrival, facts: dict[str, Any]) -> Path:
    root, digest = models.root(context), facts["digest"]
    with modelfiles.holding(root, digest):
        path = models.stored(context, facts)
        if path is None:
            return modelfiles.place(root, digest, arrival)
        os.utime(path.parent)  # A sweeper takes nothing that is new: until the job is stored, nothing else holds it.
        return path


def _name_of(uri: str) -> str:
    """A file name for a model: "churn" of models:/churn@champion and models:/churn/3, "model" of runs:/ID/model."""
    scheme, _, rest = uri.partition(":/")
    return rest.rpartition("/")[2] if scheme == "runs" else rest.partition("/")[0].partition("@")[0]

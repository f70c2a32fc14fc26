"""Which places on the service's machine a job or a model may name, and the refusals."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tidemill.domain.access import Principal, is_from_elsewhere
from tidemill.domain.confines import Confines
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.domain.job import Job
from tidemill.service.context import Context

What = Literal["input", "output", "model"]

_INSTEAD: dict[What, str] = {
    "input": "Send the data",
    "output": "Leave the output out and download the result",
    "model": "Add the model with `tidemill models add NAME PATH` and submit it as NAME@VERSION",
}
"""What a key may do instead of naming a place on the service's machine."""


def confines_of_keys(context: Context) -> Confines:
    """What somebody who comes with a key may name."""
    return Confines(
        allowed=tuple(map(os.path.realpath, context.policy.data_roots or ())),
        kept=tuple(map(os.path.realpath, context.policy.kept_folders)),
    )


def confines_of_job(context: Context, job: Job) -> Confines | None:
    """Where the job may read and write, as the settings are on the machine where it runs; None: anywhere."""
    if not is_from_elsewhere(job.owner):
        return None
    confines = confines_of_keys(context)
    own = [context.places.uploads / job.tenant, *([Path(job.output).parent] if job.managed else [])]
    return replace(confines, allowed=(*confines.allowed, *map(os.path.realpath, own)))


def check(context: Context, who: Principal, path: str, what: What) -> None:
    """Whether somebody may name this place; symbolic links are followed first.

    Of a pattern or a folder only what is fixed: whoever lists it looks at every file. Raises NotFound, InvalidSpec,
    NotAllowed.
    """
    if not os.path.isabs(path):
        raise _not_absolute(path, what)
    if "\0" in path:
        raise NotFound(f"The {what} {path!r} holds a zero byte.", remedy="Check the path.")
    if who.is_here:
        return
    confines = confines_of_keys(context)
    plain = os.path.abspath(path)
    real = _real(fixed_part(plain) if what == "input" else plain)
    if real is None or not (confines.hold_output(real) if what == "output" else confines.hold(real)):
        raise NotAllowed(
            f"An API key cannot name the {what} {path} on the service's machine.",
            remedy=f"{_INSTEAD[what]}, or ask the operator to name the folder in the setting data_roots.",
        )


def check_scheme(context: Context, who: Principal, address: str) -> None:
    """Whether somebody may have a model fetched from an address that begins so. Raises NotAllowed."""
    scheme = address.partition(":")[0].lower()
    if not who.is_here and scheme not in context.policy.model_schemes:
        raise NotAllowed(
            f"An API key cannot have a model fetched by {scheme}:.",
            remedy="Send the file, or ask the operator for the scheme in the setting model_schemes.",
        )


def check_model_folder(context: Context, who: Principal, path: str) -> None:
    """Whether all files of a model that is a folder lie where that somebody may read. Raises NotAllowed."""
    if who.is_here or not os.path.isdir(path):
        return
    confines = confines_of_keys(context)
    for here, folders, files in os.walk(path):
        for name in (*folders, *files):
            real = _real(os.path.join(here, name))
            if real is None or not confines.hold(real):
                raise NotAllowed(
                    f"{os.path.join(here, name)} leads out of where an API key may read.",
                    remedy=f"Put the file itself there. Or: {_INSTEAD['model']}.",
                )


def fixed_part(path: str) -> str:
    """The path up to its first pattern."""
    if not glob.has_magic(path) or os.path.lexists(path):
        return path
    while glob.has_magic(path):
        path = os.path.dirname(path)
    return path


def check_there(path: str, what: What) -> None:
    """Raises NotFound."""
    try:
        os.stat(path)
    except OSError as exc:
        raise NotFound(
            f"There is no {what} {path} on the service's machine ({exc.strerror}).", remedy="Check the path."
        ) from exc


def _real(path: str) -> str | None:
    """The path, links followed; None where that cannot be told."""
    try:
        return os.path.realpath(path)
    except OSError:
        return None


def _not_absolute(path: str, what: What) -> InvalidSpec | NotFound:
    if what == "output":
        return InvalidSpec(
            f"The output {path!r} is no absolute path on the service's machine.",
            remedy="Give an absolute path there, or leave the output out and download the result.",
        )
    return NotFound(
        f"{path!r} is no absolute path on the service's machine.",
        remedy="Name a file there by its absolute path, or send yours with: tidemill --server, or PUT"
        " /api/v1/uploads and then upload:ID.",
    )

"""Which words of a spec are files of this machine, to be sent, and which the service finds by itself."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.domain.input_list import LIST_MARK, listed_paths
from tidemill.domain.model import is_mlflow, split_reference
from tidemill.domain.partition import partitions_of
from tidemill.wire.spec import JobSpec

ON_SERVER = "server:"
"""Before a path: it is one of the service's own disk."""
UPLOAD = "upload:"
SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "arrow": (".arrow", ".feather", ".arrows", ".ipc"),
    "orc": (".orc",),
    "avro": (".avro",),
    "excel": (".xlsx", ".xls", ".xlsb", ".xlsm", ".ods"),
}
"""Endings of the files that count in a folder, as the service lists them."""
COMPRESSIONS = (".gz", ".zst")

_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = (".", "_")


@dataclass(frozen=True, kw_only=True)
class Routed:
    """One path of the input: `there` is what the service is told, or `files` are sent instead."""

    there: str | None = None
    files: tuple[Path, ...] = ()


def route(spec: JobSpec, *, input_on_server: bool = False) -> list[Routed]:
    """What to do with each path of the input. Raises NotFound for one that is not here."""
    suffixes = SUFFIXES.get(spec.input.format) or tuple(end for ends in SUFFIXES.values() for end in ends)
    paths = [path for text in spec.input.path for path in _listed(text)]
    routed = [_route(path, suffixes, on_server=input_on_server) for path in paths]
    if spec.input.options.get("partitions", True):
        _refuse_partitions(file for each in routed for file in each.files)
    return routed


def _listed(text: str) -> list[str]:
    """The path, or those in the list on this machine that it names. Raises NotFound, InvalidSpec."""
    if text == "-":
        raise InvalidSpec("Standard input is not sent to a service.", remedy="Write it to a file and name that.")
    if not text.startswith(LIST_MARK):
        return [text]
    path = os.path.abspath(os.path.expanduser(text.removeprefix(LIST_MARK)))
    try:
        with open(path, "rb") as lines:
            return list(listed_paths(lines, path))
    except OSError as exc:
        raise NotFound(
            f"The list {path} cannot be read: {exc.strerror}.", remedy="Name a file with a path on each line."
        ) from exc


def _refuse_partitions(files: Iterable[Path]) -> None:
    """What is sent has its name, but no folders: their values would be lost."""
    for file in files:
        if values := partitions_of(str(file)):
            named = "/".join(f"{name}={value}" for name, value in values.items())
            raise InvalidSpec(
                f"The folders of {file} hold values ({named}) that are not sent with it.",
                remedy="Name the folder on the service's own disk, server:/..., or say --input-option partitions=false"
                " to do without them.",
            )


def found_there(path: str, *, on_server: bool = False) -> str | None:
    """An input that the service finds by itself, as it is told of it; None for one of this machine."""
    if path.startswith(UPLOAD) or _is_url(path):
        return path
    return _of_server(path) if on_server or path.startswith(ON_SERVER) else None


def _route(path: str, suffixes: tuple[str, ...], *, on_server: bool) -> Routed:
    there = found_there(path, on_server=on_server)
    if there is not None:
        return Routed(there=there)
    return Routed(files=tuple(local_files(path, suffixes)))


def local_files(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The files of a path on this machine in the order in which a job would read them. Raises NotFound."""
    absolute = os.path.abspath(os.path.expanduser(path.removeprefix("file://")))
    if os.path.isdir(absolute):
        found = [file for file in _below(absolute) if _has_suffix(file, suffixes)]
        nothing = f"There are no files ending in {', '.join(suffixes)} in {absolute}."
    elif os.path.lexists(absolute):
        found, nothing = [absolute], ""
    elif absolute.endswith("/**"):
        return local_files(absolute.removesuffix("/**") or "/", suffixes)
    elif _MAGIC.search(absolute):
        found = [file for match in _matches(absolute) for file in _matched(match, suffixes)]
        nothing = f"No file of this machine matches {absolute}."
    else:
        found, nothing = [], f"There is no file or folder {absolute} on this machine, so nothing can be sent."
    if not found:
        raise NotFound(nothing, remedy=f"Check the spelling; a path of the service's own disk is {as_of_server(path)}.")
    return [Path(file) for file in sorted(dict.fromkeys(found), key=os.fsencode)]


def _matches(pattern: str) -> Iterator[str]:
    """What a pattern matches. A hidden name counts only if the pattern asks for it: `_old*`, not `*`."""
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    for match in glob.iglob(pattern, recursive=True):
        names = match.rstrip("/").split("/")[fixed:]
        if all(_counts(name, parts[fixed:]) for name in names):
            yield match


def _counts(name: str, parts: Sequence[str]) -> bool:
    return not name.startswith(_HIDDEN) or any(
        part[:1] == name[:1] and fnmatch.fnmatchcase(name, part) for part in parts
    )


def _matched(match: str, suffixes: Sequence[str]) -> Iterator[str]:
    if os.path.isdir(match):
        yield from (file for file in _below(match) if _has_suffix(file, suffixes))
    else:
        yield match


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        yield from (os.path.join(parent, name) for name in names if not name.startswith(_HIDDEN))


def _has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    name = os.path.basename(path).lower()
    plain = next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)
    return plain.endswith(tuple(suffixes))


def model_there(model: str) -> str:
    """The model as the service is told of it. Raises InvalidSpec for a file of this machine."""
    if model.startswith(ON_SERVER):
        return _of_server(model)
    if split_reference(model) is not None or is_mlflow(model) or _is_url(model):
        return model
    path = Path(model).expanduser()
    file = model.rpartition(":")[0]
    if path.exists() or (file and Path(file).expanduser().exists()):
        raise InvalidSpec(
            f"The model {model} is on this machine, where the service cannot read it.",
            remedy=f"Send it once: tidemill models add NAME {model}; then use NAME@latest as the model.",
        )
    if os.sep in model:
        raise NotFound(
            f"There is no model {model} on this machine.",
            remedy=f"A model of the service's own disk is {as_of_server(model)}; a registered one is NAME@ALIAS.",
        )
    return model


def output_there(path: str) -> str:
    """The output as the service is told of it. Raises InvalidSpec for one that would seem to be here."""
    if path.startswith(ON_SERVER):
        return _of_server(path)
    if _is_url(path):
        return path
    raise InvalidSpec(
        f"The service would write the output {path} to its own disk, not to this machine's.",
        remedy=f"Leave the output out and download the result; or say {as_of_server(path)} if you mean its disk.",
    )


def as_of_server(path: str) -> str:
    """How to write that a path is one of the service's own disk, for people."""
    return f"{ON_SERVER}{path}" if path.startswith("/") else f"{ON_SERVER}/..."


def _of_server(path: str) -> str:
    plain = path.removeprefix(ON_SERVER)
    if not plain.startswith("/"):
        raise InvalidSpec(
            f"{plain!r} is no absolute path, and the service's folder is not yours.",
            remedy=f"Write a path of the service's disk from the root: {ON_SERVER}/...",
        )
    return plain


def _is_url(text: str) -> bool:
    return "://" in text and not text.startswith("file://")

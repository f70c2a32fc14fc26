"""The input as a job sees it: which files, and a digest of them. Nothing of it is opened. Runs in children."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tidemill import registry
from tidemill.domain.confines import Confines
from tidemill.domain.errors import InputUnreadable
from tidemill.domain.partition import partitions_of
from tidemill.domain.plan import InputFile
from tidemill.engine import models
from tidemill.engine.increment import Same, Unscored

Progress = Callable[[dict[str, Any]], None]


def facts(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """What tells whether model or input changed: {"model" (a path or "module:Class"), "input" (of a spec)} ->
    {"model" (its digest), "snapshot" (the input's)}. Raises NotFound, ModelUnusable, InputUnreadable.
    """
    given = request["input"]
    listing = Listing(given["path"], registry.suffixes_of(given["format"]))
    for _ in with_progress(listing, progress):
        pass
    return {"model": models.digest_of(request["model"])[0], "snapshot": listing.digest()}


class Listing:
    """The snapshot as it is listed: digest, number and size of files so far."""

    def __init__(
        self,
        paths: Sequence[str],
        suffixes: tuple[str, ...],
        confines: Confines | None = None,
        only: Unscored | Same | None = None,
    ) -> None:
        self.paths, self.suffixes, self.confines, self.only = paths, suffixes, confines, only
        self.files = self.bytes = 0
        self._hash, self._content_hash = hashlib.sha256(), hashlib.sha256()

    def __iter__(self) -> Iterator[InputFile]:
        grows = isinstance(self.only, Unscored)
        for file in registry.list_inputs()(self.paths, self.suffixes, self.confines, may_be_empty=grows):
            _check_name(file.path)
            if self.only is not None and not self.only.takes(file):
                continue
            self.files += 1
            self.bytes += file.size_bytes
            self._hash.update(f"{file.path}\0{file.size_bytes}\0{file.mtime_ns}\n".encode())
            name = "".join(f"{key}={value}\0" for key, value in partitions_of(file.path).items())
            name += os.path.basename(file.path)
            self._content_hash.update(f"{name}\0{file.size_bytes}\n".encode())
            yield file

    def digest(self) -> str:
        """Of what was listed so far: paths, sizes and times."""
        return self._hash.hexdigest()

    def content_digest(self) -> str:
        """Names and sizes without places and times: what parts carry, so that a file that was sent to a
        service gives the same bytes there as at home."""
        return self._content_hash.hexdigest()


def chosen(request: Mapping[str, Any]) -> Unscored | Same | None:
    """Which of the input's files a job means, when not all."""
    if request.get("unscored") is not None:
        return Unscored(request["unscored"], now_ns=time.time_ns())
    return Same(request["same"]) if request.get("same") is not None else None


def confines_of(request: Mapping[str, Any]) -> Confines | None:
    """Where the files must lie, if anywhere."""
    confines = request.get("confines")
    return None if confines is None else Confines.from_json(confines)


def _check_name(path: str) -> None:
    """Results name the file of a rejected row, and are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputUnreadable(
            f"The name of the file {path!a} is not UTF-8.", remedy="Rename it, or leave it out."
        ) from None


def with_progress(files: Listing, progress: Progress) -> Iterator[InputFile]:
    """The files, while somebody is told now and then how many they are."""
    told = time.monotonic()
    for file in files:
        yield file
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            progress({"files": files.files})

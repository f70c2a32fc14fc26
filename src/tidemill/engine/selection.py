"""Which rows of the snapshot a job scores again: those that its parent rejected. Runs in children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tidemill.domain.errors import InputChanged, InvalidSpec
from tidemill.domain.plan import InputFile, Selection
from tidemill.engine.manifest import own_files
from tidemill.engine.published import KEY_TYPES, PublishedFiles, row_keys

NO_ROWS: tuple[int, ...] = ()


class RejectedRows:
    """The parent's rejected rows, handed out file by file as the same snapshot is gone through again."""

    def __init__(self, parent: Mapping[str, Any]) -> None:
        """`parent` is the parent's manifest. Raises InvalidSpec if it rejected nothing."""
        self.parent_id: str = parent["job_id"]
        self.snapshot_digest: str = parent["snapshot"]["digest"]
        paths = own_files(parent, "rejected")
        if not paths:
            raise InvalidSpec(
                f"{self.parent_id} rejected no rows.", remedy="There is nothing to score again: its result is whole."
            )
        self._keys = row_keys(PublishedFiles(paths=paths, format=parent["format"], types=KEY_TYPES))
        self._next = next(self._keys, None)
        self._rows_before = 0
        self._first_rows: list[int] = []
        self.rows = 0
        """How many were handed out."""

    def of(self, file: InputFile, rows: int) -> tuple[int, ...]:
        """The numbers, ascending, of rows to score again of the next file, which has so many rows."""
        selected = NO_ROWS
        if self._next is not None and self._next[0] == file.path:
            numbers = self._next[1]
            if int(numbers[-1]) >= rows or (np.diff(numbers) <= 0).any():
                raise self.changed(f"{file.path} has {rows:,} rows, but row {int(numbers.max()):,} was rejected.")
            selected = tuple(numbers.tolist())
            self._first_rows.append(self._rows_before)
            self._next = next(self._keys, None)
        self._rows_before += rows
        self.rows += len(selected)
        return selected

    def finish(self, snapshot_digest: str) -> Selection:
        """What was selected, once every file was gone through. Raises InputChanged if it is another input."""
        if snapshot_digest != self.snapshot_digest or self._next is not None:
            raise self.changed("Files were added, removed or written to.")
        return Selection(parent_id=self.parent_id, snapshot_rows=self._rows_before, first_rows=tuple(self._first_rows))

    def changed(self, how: str) -> InputChanged:
        """The error for an input that is not the parent's."""
        return InputChanged(
            f"The input is not the one that {self.parent_id} scored any more, so its rejected rows cannot be found"
            f" again. {how}",
            remedy="Put the old files back, or score the new ones as a job of their own.",
        )


def places(keys: Iterator[tuple[str, np.ndarray[Any, Any]]], first_rows: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Places among all rows of the snapshot of rows given by their keys. Raises KeyError for a file without one."""
    found = [first_rows[path] + rows for path, rows in keys]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

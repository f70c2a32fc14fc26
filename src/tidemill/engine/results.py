"""Reading finished results: the first rows, rows by value, all rows as one file. Runs in children.

A view is one job's result, or the union of it with jobs that scored its rejected rows again. A row's
place among all rows of the snapshot puts the union in input order; of several jobs that predicted the
same row the first counts, so what was shown once stays. Requests name a view as
{"members": [{"files": {kind: [{"path", "rows"}]}, "format", "types": {kind: {column: type}}, "target",
"selected": {"paths", "format"} | null, "first_rows"}]}: member 0 is the job itself, `target` the number
of the member whose rejected rows a member scored, `selected` the rejected files it took its rows from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tidemill import registry
from tidemill.domain.errors import Damaged
from tidemill.durable.files import fsync_folder, remove_file, translated
from tidemill.engine.jsonvalues import json_rows
from tidemill.engine.lookup import Condition, conditions_of, matches
from tidemill.engine.planner import check_writable
from tidemill.engine.published import KEY_TYPES, PublishedFiles, row_keys
from tidemill.engine.selection import places

Kind = Literal["predictions", "rejected"]
Progress = Callable[[dict[str, Any]], None]
Places = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

MAX_LOOK_UP_ROWS = 100
METADATA_PREFIX = "tidemill."

Numbered = tuple[pa.RecordBatch, Places]
"""Rows and their places among all rows of the snapshot, ascending."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One job's published files."""

    files: Mapping[Kind, PublishedFiles]
    rows: Mapping[Kind, tuple[int, ...]]
    """Rows of each file."""
    target: int | None
    selected: PublishedFiles | None
    first_rows: tuple[int, ...]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Member:
        kinds: tuple[Kind, Kind] = ("predictions", "rejected")
        selected = data.get("selected")
        return Member(
            files={
                kind: PublishedFiles(
                    paths=[entry["path"] for entry in data["files"][kind]],
                    format=data["format"],
                    types=data.get("types", {}) if kind == "predictions" else KEY_TYPES,
                )
                for kind in kinds
            },
            rows={kind: tuple(int(entry["rows"]) for entry in data["files"][kind]) for kind in kinds},
            target=data.get("target"),
            selected=None if selected is None else PublishedFiles(**selected, types=KEY_TYPES),
            first_rows=tuple(data.get("first_rows") or ()),
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of a member's rows of one kind the union shows.

    `places` are the places of its rows, `shown` says which of them count (None: all). Without `places`
    the rows are those of the whole snapshot but for the gaps: `before` says for each gap, ascending, how
    many rows there are before it.
    """

    places: Places | None = None
    shown: Mask | None = None
    before: Places | None = None

    @staticmethod
    def around(gaps: Places) -> Share:
        """All rows of the snapshot but those at the gaps' places."""
        return Share(before=gaps - np.arange(len(gaps), dtype=np.int64))

    def of(self, rows: Places) -> tuple[Places, Mask | None]:
        """Places of rows given by their numbers in the member's output, and which of them count."""
        if self.places is not None:
            return self.places[rows], None if self.shown is None else self.shown[rows]
        if self.before is None:
            return rows, None
        return rows + np.searchsorted(self.before, rows, side="right"), None

    @property
    def count(self) -> int:
        """How many rows it shows of those it lists."""
        return 0 if self.shown is None else int(np.count_nonzero(self.shown))


@dataclass(kw_only=True)
class View:
    """A result to be read."""

    members: Sequence[Member]
    shares: dict[Kind, list[Share]] = field(default_factory=dict)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> View:
        view = View(members=[Member.from_json(member) for member in data["members"]])
        if len(view.members) > 1:
            view.shares = _shares(view.members)
        else:
            alone = [Share()]
            view.shares = {"predictions": alone, "rejected": alone}
        return view

    def schema(self, kind: Kind) -> pa.Schema:
        """Columns of the rows of a kind: those of the first member that has files of it."""
        for member in self.members:
            if member.files[kind].paths:
                return member.files[kind].schema()
        return pa.schema([])

    def rows(self, kind: Kind) -> Iterator[pa.RecordBatch]:
        """All rows of a kind that the view shows, in input order."""
        schema = self.schema(kind)
        streams = [
            self._stream(number, kind, schema) for number, member in enumerate(self.members) if member.files[kind].paths
        ]
        if len(self.members) == 1:
            return (batch for stream in streams for batch, _ in stream)
        return _merged(streams, schema)

    def _stream(self, number: int, kind: Kind, schema: pa.Schema) -> Iterator[Numbered]:
        share, start = self.shares[kind][number], 0
        for batch in self.members[number].files[kind].batches():
            found, shown = self._numbered(share, start, batch.num_rows)
            start += batch.num_rows
            batch = _as(batch, schema)
            if shown is not None:
                batch, found = batch.filter(pa.array(shown)), found[shown]
            yield batch, found

    @staticmethod
    def _numbered(share: Share, start: int, rows: int) -> tuple[Places, Mask | None]:
        try:
            return share.of(np.arange(start, start + rows, dtype=np.int64))
        except IndexError:
            raise Damaged("A result has more rows than its job counted.", remedy="See `tidemill verify`.") from None

    def counts(self) -> dict[str, int]:
        """{"predicted", "rejected"} of the view."""
        own = {kind: sum(self.members[0].rows[kind]) for kind in self.members[0].rows}
        if len(self.members) == 1:
            return {"predicted": own["predictions"], "rejected": own["rejected"]}
        added = sum(share.count for share in self.shares["predictions"][1:])
        left = sum(share.count for share in self.shares["rejected"])
        return {"predicted": own["predictions"] + added, "rejected": left}


def _shares(members: Sequence[Member]) -> dict[Kind, list[Share]]:
    """Who shows which rows of a union."""
    first_rows: dict[str, int] = {}
    selected: list[Places | None] = []
    for member in members:
        if member.selected is None:
            selected.append(None)
            continue
        keys = list(row_keys(member.selected))
        first_rows.update(zip((path for path, _ in keys), member.first_rows, strict=True))
        selected.append(places(iter(keys), first_rows))
    rejected = [places(row_keys(member.files["rejected"]), first_rows) for member in members]
    shares: dict[Kind, list[Share]] = {"predictions": [], "rejected": []}
    left = rejected[0]
    for chosen, bad in zip(selected, rejected, strict=True):
        if chosen is None:
            shares["predictions"].append(Share.around(bad))
            continue
        good = np.setdiff1d(chosen, bad, assume_unique=True)
        if not shares["predictions"]:
            shares["predictions"].append(Share(places=good))
            continue
        shown = np.isin(good, left)
        left = np.setdiff1d(left, good[shown], assume_unique=True)
        shares["predictions"].append(Share(places=good, shown=shown))
    for bad in reversed(rejected):
        # The last attempt tells best why a row is still rejected.
        shown = np.isin(bad, left)
        left = np.setdiff1d(left, bad[shown], assume_unique=True)
        shares["rejected"].insert(0, Share(places=bad, shown=shown))
    return shares


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly those columns; of rejected rows some may be missing."""
    if batch.schema.equals(schema):
        return batch
    there = set(batch.schema.names)
    columns = [
        batch.column(column.name).cast(column.type) if column.name in there else pa.nulls(batch.num_rows, column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _merged(streams: Sequence[Iterator[Numbered]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of all streams by their places, holding one batch of each."""
    heads: dict[int, Numbered] = {}
    for number in range(len(streams)):
        _refill(streams, heads, number)
    while heads:
        border = min(int(found[-1]) for _, found in heads.values())
        taken: list[Numbered] = []
        for number, (batch, found) in list(heads.items()):
            count = int(np.searchsorted(found, border, side="right"))
            if count:
                taken.append((batch.slice(0, count), found[:count]))
            heads[number] = (batch.slice(count), found[count:])
            if count == len(found):
                _refill(streams, heads, number)
        if len(taken) == 1:
            yield taken[0][0]
            continue
        order = np.argsort(np.concatenate([found for _, found in taken]), kind="stable")
        table = pa.Table.from_batches([batch for batch, _ in taken], schema=schema)
        yield from table.take(pa.array(order)).combine_chunks().to_batches()


def _refill(streams: Sequence[Iterator[Numbered]], heads: dict[int, Numbered], number: int) -> None:
    heads.pop(number, None)
    for batch, found in streams[number]:
        if len(found):
            heads[number] = (batch, found)
            return


def read(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer request["ask"]: "counts", "head", "look_up" or "export", as the function of that name."""
    return _ASKED[request["ask"]](request, progress)


def counts(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Rows that a view shows: {"members"} -> {"predicted", "rejected"}."""
    return View.from_json(request).counts()


def head(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The first rows of a view: {"members", "kind", "rows"} -> `wire.api.Rows`."""
    view, kind, wanted = View.from_json(request), request["kind"], int(request["rows"])
    found: list[pa.RecordBatch] = []
    rows = 0
    for batch in view.rows(kind) if wanted else ():
        found.append(batch.slice(0, wanted - rows))
        rows += found[-1].num_rows
        if rows >= wanted:
            break
    return _rows(found, view.schema(kind))


def _rows(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> dict[str, Any]:
    return {
        "columns": schema.names,
        "types": [str(column.type) for column in schema],
        "rows": [row for batch in batches for row in json_rows(batch)],
    }


def look_up(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Predicted rows in which columns have values: {"members", "where": {column: text}, "rows"} -> `wire.api.Rows`.

    Parquet only: row groups whose statistics exclude a value are not read. Raises NotFound for an
    unknown column, InvalidSpec for a value that is not of the column's type.
    """
    view, most = View.from_json(request), min(int(request["rows"]), MAX_LOOK_UP_ROWS)
    schema = view.schema("predictions")
    conditions = conditions_of(request["where"], schema)
    found: list[Numbered] = []
    for number in range(len(view.members)):
        found += _look_up_member(view, number, conditions, schema, most)
    if not found:
        return _rows([], schema)
    order = np.argsort(np.concatenate([numbers for _, numbers in found]), kind="stable")[:most]
    table = pa.Table.from_batches([batch for batch, _ in found], schema=schema).take(pa.array(order))
    return _rows(table.to_batches(), schema)


def _look_up_member(
    view: View, number: int, conditions: Sequence[Condition], schema: pa.Schema, most: int
) -> Iterator[Numbered]:
    share, start = view.shares["predictions"][number], 0
    member = view.members[number]
    for path, rows in zip(member.files["predictions"].paths, member.rows["predictions"], strict=True):
        for batch, positions in matches(path, conditions):
            found, shown = share.of(positions + start)
            if shown is not None:
                batch, found = batch.filter(pa.array(shown)), found[shown]
            batch = _as(batch, schema).slice(0, most)
            most -= batch.num_rows
            yield batch, found[: batch.num_rows]
            if most <= 0:
                return
        start += rows


def export(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Make one file of a view: {"members", "kind", "format", "target"} -> {"rows", "size_bytes", "sha256"}.

    The file appears by one rename. Parts of the asked format are joined as the assembly of a single file
    joins them, so both give the same bytes. Raises UnsupportedType, OutputUnwritable, NotFound, Damaged.
    """
    view, kind, form = View.from_json(request), request["kind"], request["format"]
    target = Path(request["target"])
    encoder = registry.encoders.get(form)(request.get("options") or {})
    own = view.members[0].files[kind]
    if len(view.members) == 1 and own.paths and own.format == form and not request.get("recode"):
        metadata = _metadata(own.paths[0], form)
        written = encoder.assemble([Path(path) for path in own.paths], target, metadata)
        return vars(written)
    schema = view.schema(kind)
    check_writable(encoder, schema)
    scratch = target.with_name(f".{target.name}.partial")
    remove_file(scratch)
    writer = encoder.open(scratch, schema, _metadata(own.paths[0], own.format) if own.paths else {})
    try:
        for batch in view.rows(kind):
            writer.write(batch)
        written = writer.close()
    except BaseException:
        writer.abort()
        raise
    with translated(target):
        os.rename(scratch, target)
        fsync_folder(target.parent)
    return vars(written)


def _metadata(path: str, form: str) -> dict[str, str]:
    """What a part says of model, spec and snapshot; text says nothing."""
    if form == "parquet":
        found = pq.read_schema(path).metadata
    elif form == "arrow":
        with pa.memory_map(path) as mapped:
            found = pa.ipc.open_file(mapped).schema.metadata
    else:
        found = None
    return {
        key.decode(): value.decode() for key, value in (found or {}).items() if key.startswith(METADATA_PREFIX.encode())
    }


_ASKED = {"counts": counts, "head": head, "look_up": look_up, "export": export}

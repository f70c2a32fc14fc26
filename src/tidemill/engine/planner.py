"""Making the plan: snapshot, schema check over all files, chunks. Runs in children."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill import registry
from tidemill.domain.brief import Brief
from tidemill.domain.confines import Confines
from tidemill.domain.errors import InputUnreadable, NotFound, Refused, TooLarge, UnsupportedType
from tidemill.domain.plan import Block, InputFile, PlanSummary
from tidemill.domain.signature import ModelInfo
from tidemill.engine import models, planfile
from tidemill.engine.chunking import borders_of, cut_chunks, cut_selected
from tidemill.engine.fence import fenced
from tidemill.engine.increment import FILES_PER_MESSAGE, Same, Unscored, nothing_new
from tidemill.engine.listing import Listing, chosen, confines_of, with_progress
from tidemill.engine.schema import Columns, InputSchema
from tidemill.engine.selection import RejectedRows
from tidemill.ports.encoder import Encoder
from tidemill.ports.source import Source

Progress = Callable[[dict[str, Any]], None]

BYTES_PER_BATCH = 16 << 20
"""With fewer rows than the model would take, a batch has a power of two of them: columns' buffers grow by doubling."""
MAX_SINGLE_FILE_ROWS = 200_000_000
REJECTED_FIELDS = (
    pa.field("_file", pa.string()),
    pa.field("_row", pa.int64()),
    pa.field("_stage", pa.string()),
    pa.field("_error", pa.string()),
    pa.field("_message", pa.string()),
    pa.field("_raw", pa.string()),
)


def snapshot(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """List the input without opening it: {"digest", "files", "bytes", "changes", "increment"}.

    With request["staging"], "changes" names what differs from the plan there, a few lines for people. With
    request["unscored"], as `increment.Unscored` wants it, only files that no job of the series scored count, and
    "increment" is `Increment.to_json`. request["confines"] as `plan` takes it.
    """
    only = chosen(request)
    listing = Listing(
        request["input"]["path"], registry.suffixes_of(request["input"]["format"]), confines_of(request), only
    )
    planned = dict(_planned_files(request.get("staging")))
    changes = []
    for file in with_progress(listing, progress):
        before = planned.pop(file.path, None)
        if before is None:
            changes.append(f"new file {file.path}")
        elif before != file:
            changes.append(f"changed file {file.path}")
    changes += [f"missing file {path}" for path in planned]
    return {
        "digest": listing.digest(),
        "files": listing.files,
        "bytes": listing.bytes,
        "changes": changes[:5],
        "increment": only.increment.to_json() if isinstance(only, Unscored) else None,
    }


def still_planned(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Look at the files of the plan in request["staging"], and at no others: {"changes"} as `snapshot`."""
    changes = []
    for path, file in _planned_files(request["staging"]):
        try:
            found = os.stat(path)
        except OSError:
            changes.append(f"missing file {path}")
        else:
            if (found.st_size, found.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
                changes.append(f"changed file {path}")
    return {"changes": changes[:5]}


def _planned_files(staging: str | None) -> Iterator[tuple[str, InputFile]]:
    if staging and (Path(staging) / planfile.FILES).exists():
        yield from ((file.path, file) for file in planfile.PlanReader(Path(staging)).files())


def plan(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Plan a job and leave the plan in its staging folder.

    request: {"brief", "staging", "epoch", "model" (as `models.identify` gave it, with "trusted"), "info", "parent",
    "confines", "unscored", "same"}. "confines" are where the input's files must lie (`Confines.to_json`), or None.
    "info" is what is known of this very model, loaded so, from an earlier plan: then it is not loaded. A model
    that was loaded is told of by progress, {"info"}. With `rejected_of` in the brief, "parent" is that
    job's manifest, and only the rows it rejected are planned. With "unscored", as `increment.Unscored` wants it, only
    files that no job of the series scored are planned, and told by progress, {"scores": [[path, size, mtime], ...]};
    with "same", the path of a record, only those that are in it.
    Returns {"plan": `PlanSummary.to_json`, "cpu_seconds"}. Raises Refused kinds for everything that can be known
    before the first row, InputUnreadable, ModelUnusable; LeaseLost if a later epoch was planned already.
    """
    started = time.process_time()
    brief = Brief.from_json(request["brief"])
    assert brief.output_path is not None, "a preview is not planned"
    rejected = None
    if brief.rejected_of is not None:
        rejected = RejectedRows(request["parent"])
    staging = Path(request["staging"])
    with fenced(staging, request.get("epoch", 0)):
        info = request.get("info")
        known = None if info is None else ModelInfo.from_json(info)
        within = confines_of(request)
        made = _Planner(brief, staging, request["model"], known, rejected, chosen(request), progress, within).run()
    return {"plan": made.to_json(), "cpu_seconds": time.process_time() - started}


class _Planner:
    def __init__(
        self,
        brief: Brief,
        staging: Path,
        model: Mapping[str, Any],
        known: ModelInfo | None,
        rejected: RejectedRows | None,
        only: Unscored | Same | None,
        progress: Progress,
        confines: Confines | None,
    ) -> None:
        self.brief, self.staging, self.rejected, self.progress = brief, staging, rejected, progress
        self.model_facts = model
        self.only = only
        self.listing = Listing(brief.paths, registry.suffixes_of(brief.input_format), confines, only)
        self.info = known or self._load_model()

    def _load_model(self) -> ModelInfo:
        model = models.load(self.model_facts, self.brief.load_options())
        try:
            self.progress({"info": model.info.to_json()})
            return model.info
        finally:
            model.close()

    def run(self) -> PlanSummary:
        files = with_progress(self.listing, self.progress)
        if isinstance(self.only, Unscored):
            files = self._told(files)
        first = next(files, None)
        if first is None:
            raise self._no_files()
        source_name = self.brief.input_format
        if source_name == "auto":
            source_name = registry.detect_format()(first)
        source = registry.open_source()(source_name, self.brief.input_options, self.staging / "spool")
        schema = InputSchema(self.info, self.brief, source)
        snapshot_rows, chunks = self._write_files_and_chunks(source, schema, first, files)
        selection = None if self.rejected is None else self.rejected.finish(self.listing.digest())
        rows = snapshot_rows if self.rejected is None else self.rejected.rows
        columns = schema.resolve()
        output = self._output(columns, source)
        self._check_single_file(rows)
        summary = PlanSummary(
            digest="",
            snapshot_digest=self.listing.digest(),
            files=self.listing.files,
            chunks=chunks,
            rows=rows,
            input_bytes=self.listing.bytes,
            source=source_name,
            source_options=dict(self.brief.input_options),
            partitions=dict(source.partitions),
            columns=tuple(columns.read.names),
            kept=tuple(columns.kept.names),
            types=columns.source_types,
            model=replace(self.info, inputs=columns.inputs),
            batch_rows=self._batch_rows(schema, snapshot_rows),
            predict=dict(self.brief.predict),
            output_format=output["format"],
            output_options=output["options"],
            output_schema=tuple((field.name, str(field.type)) for field in columns.predictions),
            schemas={
                "read": _pack(columns.read),
                "predictions": _pack(columns.predictions),
                "rejected": _pack(output["rejected"]),
            },
            metadata={
                "model": self.model_facts["digest"],
                "spec": self.brief.digest,
                "snapshot": self.listing.content_digest(),
            },
            libraries=_libraries(self.info),
            warnings=tuple(columns.warnings),
            selection=selection,
            increment=self.only.increment if isinstance(self.only, Unscored) else None,
        )
        return planfile.write_summary(self.staging, summary)

    def _told(self, files: Iterator[InputFile]) -> Iterator[InputFile]:
        """The files, told to the worker as well: it keeps what the series scores."""
        some: list[tuple[str, int, int]] = []
        for file in files:
            some.append((file.path, file.size_bytes, file.mtime_ns))
            if len(some) == FILES_PER_MESSAGE:
                self.progress({"scores": some})
                some = []
            yield file
        if some:
            self.progress({"scores": some})

    def _no_files(self) -> Refused:
        if isinstance(self.only, Unscored):
            return nothing_new(self.only.increment)
        return NotFound("The input has no files.", remedy="Check the path; names that begin with . or _ are left out.")

    def _write_files_and_chunks(
        self, source: Source, schema: InputSchema, first: InputFile, rest: Iterator[InputFile]
    ) -> tuple[int, int]:
        """(Rows of the snapshot, chunks)."""
        total = 0

        def examined() -> Iterator[tuple[int, InputFile, tuple[Block, ...]]]:
            nonlocal total
            with planfile.files_table(self.staging) as table:
                for number, file in enumerate(_chain(first, rest)):
                    with self._of_one_format(source, first, file):
                        facts = source.examine(file, infer=schema.needs_inference)
                        schema.add(file, facts)
                    table.add(asdict(file))
                    total += facts.rows
                    yield number, file, facts.blocks

        borders = borders_of(self.info, rows_per_chunk=self.brief.rows_per_chunk, batch_rows=self.brief.batch_rows)
        if self.rejected is None:
            cut = cut_chunks(examined(), borders)
        else:
            cut = cut_selected(self._with_rejected(self.rejected, examined()), borders)
        chunks = planfile.write_chunks(self.staging, cut, selected=self.rejected is not None)
        return total, chunks

    @contextmanager
    def _of_one_format(self, source: Source, first: InputFile, file: InputFile) -> Iterator[None]:
        """What is wrong with a file that cannot be read as the first one may be that it is of another format."""
        try:
            yield
        except (Refused, InputUnreadable) as exc:
            if self.brief.input_format != "auto" or file is first:
                raise
            found = registry.detect_format()(file)
            if found == source.name:
                raise
            raise InputUnreadable(
                f"{file.path} is not {source.name} like the first file, {first.path}: it looks like {found}.",
                remedy="Score the files of each format in a run of their own.",
            ) from exc

    def _with_rejected(
        self, rejected: RejectedRows, examined: Iterator[tuple[int, InputFile, tuple[Block, ...]]]
    ) -> Iterator[tuple[int, InputFile, tuple[Block, ...], tuple[int, ...]]]:
        for number, file, blocks in examined:
            yield number, file, blocks, rejected.of(file, sum(block.rows for block in blocks))

    def _batch_rows(self, schema: InputSchema, rows: int) -> int:
        asked = self.brief.batch_rows
        if asked != "auto":
            return asked
        row_bytes = max(1, schema.decoded_bytes // max(rows, 1))
        fitting = max(1, BYTES_PER_BATCH // row_bytes)
        return min(self.info.batch_rows, 1 << (fitting.bit_length() - 1))

    def _output(self, columns: Columns, source: Source) -> dict[str, Any]:
        name, options = self.brief.output_format, dict(self.brief.output_options)
        encoder = registry.encoders.get(name)(options)
        check_writable(encoder, columns.predictions, [field.name for field in self.info.outputs])
        rejected = _rejected_schema(encoder, columns.read)
        return {"format": name, "options": options, "rejected": rejected}

    def _check_single_file(self, rows: int) -> None:
        if rows > MAX_SINGLE_FILE_ROWS and self.brief.output_options.get("single_file"):
            raise TooLarge(
                f"{rows:,} rows are too many for the single file {self.brief.output_path}"
                f" (at most {MAX_SINGLE_FILE_ROWS:,}).",
                remedy="Give a folder as output.",
            )


def _chain(first: InputFile, rest: Iterator[InputFile]) -> Iterator[InputFile]:
    yield first
    yield from rest


def check_writable(encoder: Encoder, schema: pa.Schema, written: Collection[str] = ()) -> None:
    """Raises UnsupportedType naming the columns that the output format cannot hold unchanged. `written` are those
    that the model writes: they cannot be left out."""
    bad = encoder.unwritable(schema)
    if bad:
        own = [column.column for column in bad if column.column in written]
        remedy = f"Choose Parquet or Arrow as output: the model writes {', '.join(own[:5])}." if own else bad[0].remedy
        listed = "; ".join(f"{column.column} ({column.type})" for column in bad[:5])
        raise UnsupportedType(f"{encoder.name} cannot hold these columns unchanged: {listed}.", remedy=remedy)


def _rejected_schema(encoder: Encoder, read: pa.Schema) -> pa.Schema:
    """What is written of rejected rows: an output that cannot hold a column leaves it out there."""
    own = {field.name for field in REJECTED_FIELDS}
    columns = pa.schema([field.with_nullable(True) for field in read if field.name not in own])
    left_out = {column.column for column in encoder.unwritable(columns)}
    return pa.schema([*REJECTED_FIELDS, *(field for field in columns if field.name not in left_out)])


def _pack(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def unpack_schema(text: str) -> pa.Schema:
    """The schema that the plan holds under a name in `PlanSummary.schemas`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _libraries(info: ModelInfo) -> tuple[tuple[str, str], ...]:
    names = {"tidemill": "", "pyarrow": "", "numpy": "", **dict(info.libraries)}
    return tuple(sorted(models.versions(names).items()))

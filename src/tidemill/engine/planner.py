"""Making the plan: snapshot, schema check over all files, chunks. Runs in children."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill import registry
from tidemill.domain.errors import InputUnreadable, NotFound, TooLarge, UnsupportedType
from tidemill.domain.plan import Block, InputFile, PlanSummary
from tidemill.domain.signature import ModelInfo
from tidemill.engine import models, planfile
from tidemill.engine.chunking import BYTES_PER_CHUNK, Borders, cut_chunks
from tidemill.engine.schema import Columns, InputSchema
from tidemill.ports.encoder import Encoder
from tidemill.ports.source import Source
from tidemill.wire.spec import JobSpec

Progress = Callable[[dict[str, Any]], None]

BYTES_PER_BATCH = 64 << 20
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
    """List the input without opening it: {"digest", "files", "bytes", "changes"}.

    With request["staging"], "changes" names what differs from the plan there, a few lines for people.
    """
    listing = _Listing(request["input"]["path"], _suffixes(request["input"]["format"]))
    planned = dict(_planned_files(request.get("staging")))
    changes = []
    for file in _with_progress(listing, progress):
        before = planned.pop(file.path, None)
        if before is None:
            changes.append(f"new file {file.path}")
        elif before != file:
            changes.append(f"changed file {file.path}")
    changes += [f"missing file {path}" for path in planned]
    return {"digest": listing.digest(), "files": listing.files, "bytes": listing.bytes, "changes": changes[:5]}


def _planned_files(staging: str | None) -> Iterator[tuple[str, InputFile]]:
    if staging and (Path(staging) / planfile.FILES).exists():
        yield from ((file.path, file) for file in planfile.PlanReader(Path(staging)).files())


def _suffixes(input_format: str) -> tuple[str, ...]:
    names = registry.sources.names() if input_format == "auto" else [input_format]
    return tuple(suffix for name in names for suffix in registry.sources.get(name).suffixes)


class _Listing:
    """The snapshot as it is listed: digest, number and size of files so far."""

    def __init__(self, paths: list[str], suffixes: tuple[str, ...]) -> None:
        self.paths, self.suffixes = paths, suffixes
        self.files = self.bytes = 0
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[InputFile]:
        for file in registry.list_inputs()(self.paths, self.suffixes):
            _check_name(file.path)
            self.files += 1
            self.bytes += file.size_bytes
            self._hash.update(f"{file.path}\0{file.size_bytes}\0{file.mtime_ns}\n".encode())
            yield file

    def digest(self) -> str:
        return self._hash.hexdigest()


def _check_name(path: str) -> None:
    """Results name the file of a rejected row, and are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputUnreadable(
            f"The name of the file {path!a} is not UTF-8.", remedy="Rename it, or leave it out."
        ) from None


def _with_progress(files: _Listing, progress: Progress) -> Iterator[InputFile]:
    told = time.monotonic()
    for file in files:
        yield file
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            progress({"files": files.files})


def plan(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Plan a job and leave the plan in its staging folder.

    request: {"spec", "staging", "model" (as `models.identify` gave it, with "trusted"), "threads"}.
    Returns `PlanSummary.to_json`. Raises Refused kinds for everything that can be known before the
    first row, InputUnreadable, ModelUnusable.
    """
    spec = JobSpec.model_validate(request["spec"])
    assert spec.output is not None, "a preview is not planned"
    return _Planner(spec, Path(request["staging"]), request["model"], progress).run().to_json()


class _Planner:
    def __init__(self, spec: JobSpec, staging: Path, model: Mapping[str, Any], progress: Progress) -> None:
        self.spec, self.staging, self.progress = spec, staging, progress
        self.model_facts = model
        self.listing = _Listing(spec.input.path, _suffixes(spec.input.format))
        self.info = self._load_model()

    def _load_model(self) -> ModelInfo:
        options = {**self.spec.predict.model_dump(), "features": self.spec.features, "threads": 1}
        model = models.load(self.model_facts, options)
        try:
            return model.info
        finally:
            model.close()

    def run(self) -> PlanSummary:
        files = _with_progress(self.listing, self.progress)
        first = next(files, None)
        if first is None:
            raise NotFound(
                "The input has no files.", remedy="Check the path; names that begin with . or _ are left out."
            )
        source_name: str = self.spec.input.format
        if source_name == "auto":
            source_name = registry.detect_format()(first)
        source = registry.sources.get(source_name)(self.spec.input.options, self.staging / "spool")
        schema = InputSchema(self.info, self.spec, source)
        rows, chunks = self._write_files_and_chunks(source, schema, first, files)
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
            source_options=self.spec.input.options,
            columns=tuple(columns.read.names),
            kept=tuple(columns.kept.names),
            types=columns.source_types,
            model=replace(self.info, inputs=columns.inputs),
            batch_rows=self._batch_rows(schema, rows),
            predict=self.spec.predict.model_dump(),
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
                "spec": self.spec.digest(),
                "snapshot": self.listing.digest(),
            },
            libraries=_libraries(self.info),
            warnings=tuple(columns.warnings),
        )
        return planfile.write_summary(self.staging, summary)

    def _write_files_and_chunks(
        self, source: Source, schema: InputSchema, first: InputFile, rest: Iterator[InputFile]
    ) -> tuple[int, int]:
        total = 0

        def examined() -> Iterator[tuple[int, InputFile, tuple[Block, ...]]]:
            nonlocal total
            number = 0
            with planfile.files_table(self.staging) as table:
                for file in _chain(first, rest):
                    facts = source.examine(file, infer=schema.needs_inference)
                    schema.add(file, facts)
                    table.add(asdict(file))
                    total += facts.rows
                    yield number, file, facts.blocks
                    number += 1

        chunks = planfile.write_chunks(self.staging, cut_chunks(examined(), self._borders()))
        return total, chunks

    def _borders(self) -> Borders:
        asked = self.spec.compute.rows_per_chunk
        if asked == "auto":
            return Borders(rows=self.info.rows_per_chunk)
        return Borders(rows=asked, decoded_bytes=BYTES_PER_CHUNK, exact=True)

    def _batch_rows(self, schema: InputSchema, rows: int) -> int:
        asked = self.spec.compute.batch_rows
        if asked != "auto":
            return asked
        row_bytes = max(1, schema.decoded_bytes // max(rows, 1))
        return max(1, min(self.info.batch_rows, BYTES_PER_BATCH // row_bytes))

    def _output(self, columns: Columns, source: Source) -> dict[str, Any]:
        assert self.spec.output is not None
        name, options = self.spec.output.format, dict(self.spec.output.options)
        encoder = registry.encoders.get(name)(options)
        check_writable(encoder, columns.predictions)
        rejected = _rejected_schema(encoder, columns.read)
        return {"format": name, "options": options, "rejected": rejected}

    def _check_single_file(self, rows: int) -> None:
        assert self.spec.output is not None
        if rows > MAX_SINGLE_FILE_ROWS and self.spec.output.options.get("single_file"):
            raise TooLarge(
                f"{rows:,} rows are too many for the single file {self.spec.output.path}"
                f" (at most {MAX_SINGLE_FILE_ROWS:,}).",
                remedy="Give a folder as output.",
            )


def _chain(first: InputFile, rest: Iterator[InputFile]) -> Iterator[InputFile]:
    yield first
    yield from rest


def check_writable(encoder: Encoder, schema: pa.Schema) -> None:
    """Raises UnsupportedType naming the columns that the output format cannot hold unchanged."""
    bad = encoder.unwritable(schema)
    if bad:
        listed = "; ".join(f"{column.column} ({column.type})" for column in bad[:5])
        raise UnsupportedType(f"{encoder.name} cannot hold these columns unchanged: {listed}.", remedy=bad[0].remedy)


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

"""Some rows spread over the input, as a model would get them. Runs in children."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from tidemill import registry
from tidemill.domain.brief import Brief
from tidemill.domain.errors import NotFound
from tidemill.domain.plan import Block, Chunk, InputFile, PlanSummary, Segment
from tidemill.domain.signature import ModelInfo
from tidemill.engine import models
from tidemill.engine.batching import BadRow, by_reason, keys_of, read_batches
from tidemill.engine.features import Features
from tidemill.engine.schema import Columns, InputSchema
from tidemill.ports.source import FileFacts, Source

MOST_FILES = 8
"""That are opened; so many, spread over the input."""
MOST_BLOCKS = 16
"""That are read, spread over those files: what is read is bounded, whatever the size of the input."""
MOST_REASONS = 3
BATCH_ROWS = 65_536

FEATURES, KEYS = "features.arrow", "keys.arrow"

Progress = Callable[[dict[str, Any]], None]
T = TypeVar("T")


def sample(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Draw rows from the input and leave them in a folder, cast to what the model takes.

    request: {"brief", "model" (with "trusted"), "rows" (at most so many), "folder"}. Writes `FEATURES` and `KEYS`
    (file, row) there. Returns {"info", "files", "files_read", "rows", "rejected", "rejections"}. Tells by progress
    when the model is "loaded". Raises what planning a job would, NotFound for an input without files.
    """
    brief = Brief.from_json(request["brief"])
    model = models.load(request["model"], brief.load_options())
    info = model.info
    model.close()
    progress({"loaded": True})
    folder = Path(request["folder"])
    drawn = _Drawn(brief, info, folder / "spool", int(request["rows"]))
    features, keys, bad = drawn.read()
    save(folder / FEATURES, features)
    save(folder / KEYS, keys)
    return {
        "info": replace(info, inputs=drawn.columns.inputs).to_json(),
        "files": drawn.files,
        "files_read": len(drawn.facts),
        "rows": features.num_rows,
        "rejected": len(bad),
        "rejections": list(_rejections(drawn.chunk, bad))[:MOST_REASONS],
    }


class _Drawn:
    """The rows that were drawn, not read yet."""

    def __init__(self, brief: Brief, info: ModelInfo, spool: Path, rows: int) -> None:
        listed = _Counted(registry.list_inputs()(brief.paths, registry.suffixes_of(brief.input_format)))
        chosen = thinned(listed, MOST_FILES)
        if not chosen:
            raise NotFound(
                "The input has no files.", remedy="Check the path; names that begin with . or _ are left out."
            )
        self.files = listed.count
        name = brief.input_format if brief.input_format != "auto" else registry.detect_format()(chosen[0])
        spool.mkdir(exist_ok=True)
        self.source: Source = registry.open_source()(name, brief.input_options, spool)
        schema = InputSchema(info, brief, self.source)
        self.facts: list[tuple[InputFile, FileFacts]] = []
        for file in chosen:
            facts = self.source.examine(file, infer=schema.needs_inference)
            schema.add(file, facts)
            self.facts.append((file, facts))
        self.columns: Columns = schema.resolve()
        self.info = info
        self.chunk = Chunk(number=0, segments=tuple(_segments(self.facts, rows)))

    def read(self) -> tuple[pa.RecordBatch, pa.RecordBatch, list[BadRow]]:
        """Features, their keys, and rows that could not be read or converted."""
        plan = PlanSummary(
            digest="",
            snapshot_digest="",
            files=len(self.facts),
            chunks=1,
            rows=self.chunk.rows,
            input_bytes=0,
            source=self.source.name,
            columns=tuple(self.columns.read.names),
            types=self.columns.source_types,
            model=self.info,
            batch_rows=BATCH_ROWS,
        )
        inputs = tuple((field.name, field.type) for field in self.columns.inputs)
        cast_text = self.source.cast_text if self.source.casts_text else None
        taken = Features(self.columns.read, inputs, cast_text)
        pieces, numbers, bad = [], [], []
        for batch in read_batches(self.source, self.chunk, plan, self.columns.read):
            features, fits, unfit = taken.of(batch.data, batch.numbers)
            pieces.append(features if fits is None else features.filter(pa.array(fits)))
            numbers += (batch.numbers if fits is None else batch.numbers[fits]).tolist()
            bad += [*batch.bad, *unfit]
        return _together(pieces), self._keys(numbers), bad

    def _keys(self, numbers: Sequence[int]) -> pa.RecordBatch:
        keys = [keys_of(self.chunk, number) for number in numbers]
        files, rows = [file for file, _ in keys], [row for _, row in keys]
        return pa.RecordBatch.from_arrays([pa.array(files, pa.string()), pa.array(rows, pa.int64())], ["file", "row"])


class _Counted:
    """Files as they are listed, and how many they were."""

    def __init__(self, files: Iterable[InputFile]) -> None:
        self._files, self.count = files, 0

    def __iter__(self) -> Iterator[InputFile]:
        for file in self._files:
            self.count += 1
            yield file


def thinned(items: Iterable[T], most: int) -> list[T]:
    """At most so many of them, at even distances from the first on, holding twice as many at once and no more."""
    kept: list[T] = []
    step = 1
    for number, item in enumerate(items):
        if number % step:
            continue
        kept.append(item)
        if len(kept) > 2 * most:
            kept, step = kept[::2], step * 2
    return [kept[place] for place in spread(len(kept), most)]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, at even distances, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // max(most - 1, 1) for place in range(most)]


def _segments(facts: Sequence[tuple[InputFile, FileFacts]], rows: int) -> Iterator[Segment]:
    """Segments that select so many rows of the input, spread over some of its blocks."""
    blocks = list(_blocks(facts))
    chosen = [blocks[place] for place in spread(len(blocks), MOST_BLOCKS)]
    wanted = spread(sum(block.rows for _, _, block, _ in chosen), rows)
    before = 0
    for number, file, block, first in chosen:
        inside = [place - before for place in wanted if before <= place < before + block.rows]
        before += block.rows
        if inside:
            yield Segment(
                file_number=number,
                file=file,
                row_start=first,
                row_stop=first + block.rows,
                block_row=first,
                start=block.start,
                stop=block.stop,
                selected=tuple(first + place for place in inside),
            )


def _blocks(facts: Sequence[tuple[InputFile, FileFacts]]) -> Iterator[tuple[int, InputFile, Block, int]]:
    """File number, file, block, and the number of the block's first row, of all blocks with rows."""
    for number, (file, known) in enumerate(facts):
        first = 0
        for block in known.blocks:
            if block.rows:
                yield number, file, block, first
            first += block.rows


def _together(pieces: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all; columns with a dictionary for each piece get one for all."""
    if not pieces:
        return pa.RecordBatch.from_arrays([], names=[])
    table = pa.Table.from_batches(pieces).unify_dictionaries().combine_chunks()
    return table.to_batches()[0] if table.num_rows else pieces[0]


def _rejections(chunk: Chunk, bad: Sequence[BadRow]) -> Iterator[dict[str, Any]]:
    for reason in by_reason(bad):
        file, row = keys_of(chunk, reason.pop("first_row"))
        yield {"file": file, "row": row, **reason}


def save(path: Path, batch: pa.RecordBatch) -> None:
    """Write one batch as an Arrow file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def saved(path: Path) -> pa.RecordBatch:
    """What `save` wrote."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).get_batch(0)

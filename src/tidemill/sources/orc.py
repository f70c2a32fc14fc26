"""ORC: a span is a stripe, columns come with the types that Arrow has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile
from tidemill.sources.blocks import COPY_AGAIN, MAX_BATCH_BYTES, BlockSource, OpenFile, Span, bounded_rows
from tidemill.sources.compression import compression_of
from tidemill.sources.mapped import Splice, mapped
from tidemill.sources.orc_tail import MAGIC, NotOrc, Stripe, Tail, decoded_bytes
from tidemill.sources.pinned import check_pinned
from tidemill.sources.text import option, refuse_unknown


class OrcSource(BlockSource):
    """Options: max_batch_bytes, the bound of one decoded batch."""

    name: ClassVar[str] = "orc"
    suffixes: ClassVar[tuple[str, ...]] = (".orc",)

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("max_batch_bytes",))
        self.max_batch_bytes = option(self.options, "max_batch_bytes", int, MAX_BATCH_BYTES)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return head.startswith(MAGIC) or (not head and path.lower().endswith(cls.suffixes))

    @contextmanager
    def _open(self, file: InputFile) -> Iterator[OpenFile]:
        with mapped(file) as data:
            _refuse_other(file, bytes(data[:4]))
            try:
                yield _OpenOrc(file, data, self.max_batch_bytes)
            except (NotOrc, pa.ArrowException, UnicodeDecodeError) as exc:
                check_pinned(file)
                raise InputUnreadable(f"{file.path} is not a whole ORC file: {exc}.", remedy=COPY_AGAIN) from exc


def _refuse_other(file: InputFile, head: bytes) -> None:
    if compression_of(head) is not None:
        raise InputUnreadable(f"{file.path} is a compressed file, not ORC.", remedy="Decompress it first.")
    if not head.startswith(MAGIC):
        what = "is not an ORC file" if head else "is empty, so it is not an ORC file"
        raise InputUnreadable(f"{file.path} {what}.", remedy="Name its format, or take it out of the input.")


class _OpenOrc(OpenFile):
    def __init__(self, file: InputFile, data: memoryview, max_batch_bytes: int) -> None:
        from pyarrow import orc

        self.data, self.max_batch_bytes = data, max_batch_bytes
        try:
            opened = orc.ORCFile(pa.BufferReader(pa.py_buffer(data)))
            self.schema = opened.schema
            self.tail = Tail(opened.reader.serialized_file_tail())
        except OSError as exc:
            raise NotOrc(str(exc)) from exc
        if self.tail.is_encrypted:
            raise InputUnreadable(
                f"{file.path} is encrypted ORC.", remedy="Decrypt it first; there is no key for it here."
            )
        self.rows = sum(stripe.rows for stripe in self.tail.stripes)
        if any(not len(MAGIC) <= stripe.start <= stripe.stop <= len(data) for stripe in self.tail.stripes):
            raise NotOrc("a stripe lies outside of it")

    def blocks(self) -> Iterator[Block]:
        for number, stripe in enumerate(self.tail.stripes):
            if stripe.rows:
                size = max(1, sum(self._sizes(stripe).values()))
                yield Block(rows=stripe.rows, decoded_bytes=size, start=number, stop=number + 1)

    def _sizes(self, stripe: Stripe) -> dict[str, int]:
        return decoded_bytes(self.tail.columns, self.schema, stripe.rows, self.rows)

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        for number, stripe in list(enumerate(self.tail.stripes))[start:stop]:
            yield Span(what=f"Stripe {number}", rows=stripe.rows, batches=partial(self._batches, stripe))

    def _batches(self, stripe: Stripe, names: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """A stripe may decode to far more than it takes in the file, and pyarrow's own call for one stripe
        decodes it whole. Its scanner goes by batches, but through a whole file: so this makes one of the stripe."""
        from pyarrow import dataset

        sizes = self._sizes(stripe)
        names = names or self.schema.names[:1]
        width = sum(sizes[name] for name in names) // max(stripe.rows, 1)
        file = Splice(
            [
                (0, self.data[: len(MAGIC)]),
                (stripe.start, self.data[stripe.start : stripe.stop]),
                (stripe.stop, memoryview(self.tail.of_one_stripe(stripe))),
            ]
        )
        scanner = dataset.Scanner.from_fragment(
            dataset.OrcFileFormat().make_fragment(file.open()),
            columns=names,
            batch_size=bounded_rows(batch_rows, width, self.max_batch_bytes),
            batch_readahead=0,
            fragment_readahead=0,
            use_threads=False,
        )
        for batch in scanner.to_batches():
            # Text may hold bytes that are none.
            batch.validate(full=True)
            yield batch

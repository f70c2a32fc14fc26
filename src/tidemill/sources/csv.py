"""CSV: records of delimited text with a header line.

Every column comes as the text it is; an empty value without quotes is null, a quoted one the empty
string. Columns with a type in the plan are cast, and there `null_values` (by default those of pandas:
"", NA, NaN, null, ...) are missing values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.csv as pacsv

from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.domain.plan import InputFile
from tidemill.ports.source import UnreadRow
from tidemill.sources.cast import PANDAS_NULLS, Caster, Inference
from tidemill.sources.compression import HEAD_BYTES
from tidemill.sources.csv_numbers import plain_kinds, typed_batch
from tidemill.sources.records import CsvGrammar, Piece, pieces
from tidemill.sources.text import BOM, Decoded, Layout, Survey, TextSource, cut_raw, empty_batch, option

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class CsvSource(TextSource):
    """Options: delimiter, quote ("" for none), encoding, header, null_values; bounds: block_bytes,
    max_record_bytes, max_spool_bytes."""

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    known_options = ("delimiter", "quote", "encoding", "header", *TextSource.known_options)

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        self.delimiter = option(self.options, "delimiter", str, ",")
        self.quote = option(self.options, "quote", str, '"')
        self.encoding = option(self.options, "encoding", str, "utf-8")
        self.header = option(self.options, "header", bool, True)
        self._check_marks()

    def _check_marks(self) -> None:
        for name, value, sizes in (("delimiter", self.delimiter, (1,)), ("quote", self.quote, (0, 1))):
            if len(value) not in sizes or not value.isascii() or value in ("\r", "\n"):
                raise InvalidSpec(f"The CSV {name} {value!r} is not one ASCII character.")
        if self.delimiter == self.quote:
            raise InvalidSpec("The CSV delimiter and quote are the same character.")

    @classmethod
    def default_null_values(cls) -> tuple[str, ...]:
        return PANDAS_NULLS

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        if not head:
            return path.lower().endswith(cls.suffixes)
        return head.startswith(_UTF16) or (b"\0" not in head[:1024] and not head.startswith((b"PAR1", b"PK\x03\x04")))

    def _layout(self, file: InputFile, text: IO[bytes]) -> Layout:
        stop = text.seek(0, 2)
        text.seek(0)
        head = text.read(len(BOM))
        start = len(BOM) if head == BOM else 0
        if head.startswith(_UTF16):
            raise InputUnreadable(f"{file.path} is UTF-16.", remedy='Set the input option encoding to "utf-16".')
        first, length = self._first_record(file, text, start, stop)
        fields = [self._header_field(file, value) for value in self._grammar(2).fields(first)]
        names = tuple(fields) if self.header else tuple(f"f{number}" for number in range(len(fields)))
        _refuse_duplicates(file, names)
        return Layout(
            grammar=self._grammar(len(names)), start=start + length if self.header else start, stop=stop, columns=names
        )

    def _grammar(self, columns: int) -> CsvGrammar:
        # Where there is one column, an empty line is a row with no value; where there are more, it is nothing.
        return CsvGrammar(self.delimiter, self.quote, keep_empty=columns == 1)

    def _first_record(self, file: InputFile, text: IO[bytes], start: int, stop: int) -> tuple[bytes, int]:
        """The first record that is not empty, and how far it reaches from `start`."""
        grammar = self._grammar(2)
        for piece in pieces(text, start, stop, grammar, min(HEAD_BYTES, self.block_bytes), self.max_record_bytes):
            if piece.broken:
                raise InputUnreadable(
                    f"The first line of {file.path} cannot be read. {piece.broken}",
                    remedy="Repair the line, or set the input option quote.",
                )
            if piece.records:
                first = grammar.records(piece.data)[0]
                ends = grammar.ends(piece.data, True).tolist()
                end = next(end for end in ends if piece.data[:end].strip(b"\r\n"))
                return first, piece.offset - start + end
        raise InputUnreadable(
            f"{file.path} is empty: it has not even a header line.",
            remedy="Remove it from the input or write it again.",
        )

    def _header_field(self, file: InputFile, value: bytes) -> str:
        if not self.header:
            return ""
        try:
            return value.decode()
        except UnicodeDecodeError as exc:
            raise InputUnreadable(
                f"The header of {file.path} is not {self.encoding}.",
                remedy='Set the input option encoding, for example to "latin-1" or "cp1252".',
            ) from exc

    def _survey(self, layout: Layout, infer: bool) -> Survey:
        assert layout.columns is not None
        return _TypeSurvey(self, layout, layout.columns) if infer else Survey(layout.columns)

    def _parts(self, piece: Piece, layout: Layout, columns: Sequence[str], caster: Caster) -> Iterator[Decoded]:
        """What a kernel can read comes with its types; from the first record on that it leaves, all comes as text."""
        found = None if piece.broken else typed_batch(piece, layout, columns, caster)
        if found is not None:
            batch, length = found
            yield Decoded(batch=batch, records=batch.num_rows)
            if batch.num_rows == piece.records:
                return
            piece = replace(
                piece,
                offset=piece.offset + length,
                length=piece.length - length,
                buffer=piece.data[length:],
                records=piece.records - batch.num_rows,
            )
        yield from super()._parts(piece, layout, columns, caster)

    def _decode(self, piece: Piece, layout: Layout, columns: Sequence[str]) -> Decoded:
        batch = _parse(piece.data, layout, columns)
        if batch is not None and batch.num_rows == piece.records:
            return Decoded(batch=batch, records=piece.records)
        return _decode_by_record(piece, layout, columns)


class _TypeSurvey(Survey):
    def __init__(self, source: CsvSource, layout: Layout, columns: Sequence[str]) -> None:
        super().__init__(columns)
        self._source, self._layout = source, layout
        self._inferences = {name: Inference(source.nulls) for name in columns}

    def learn(self, piece: Piece) -> None:
        if piece.broken or not piece.records:
            return
        kinds = plain_kinds(piece, self._layout, self._source.nulls) or {}
        for name, (kind, missing) in kinds.items():
            self._inferences[name].learn_kind(kind, missing=missing)
        others = [name for name in self.columns if name not in kinds and not self._inferences[name].final]
        if others:
            batch = self._source._decode(piece, self._layout, others).batch
            for name in others:
                self._inferences[name].learn(batch[name])

    def schema(self, file: InputFile) -> pa.Schema:
        return pa.schema([(name, pa.type_for_alias(self._inferences[name].kind)) for name in self.columns])


def _refuse_duplicates(file: InputFile, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputUnreadable(
            f"{file.path} has more than one column called {', '.join(map(repr, twice))}.",
            remedy="Rename the columns in the header.",
        )


def _parse(data: bytes, layout: Layout, columns: Sequence[str]) -> pa.RecordBatch | None:
    """The records by pyarrow, or None if it finds fault with any."""
    grammar = layout.grammar
    assert isinstance(grammar, CsvGrammar)
    assert layout.columns is not None
    names = list(layout.columns)
    skipped = 0
    if not data.endswith((b"\n", b"\r")):
        # Without it pyarrow takes an empty last value behind a quoted one for a quoted one.
        data += b"\n"
    if data.startswith(BOM):
        # pyarrow would drop a byte order mark, which here stands inside the text, not at its beginning.
        data, skipped = b"\n" + data, 1
    wanted = list(columns) or names[:1]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(data) + 1, skip_rows=skipped
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=grammar.delimiter.decode(),
                quote_char=grammar.quote.decode() or False,
                newlines_in_values=bool(grammar.quote) and grammar.quote in data,
                ignore_empty_lines=not grammar.keep_empty,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=wanted,
                column_types={name: pa.string() for name in wanted},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    batches = table.combine_chunks().to_batches()
    batch = batches[0] if batches else empty_batch(wanted)
    return batch.select(list(columns))


def _decode_by_record(piece: Piece, layout: Layout, columns: Sequence[str]) -> Decoded:
    """Set the records at fault aside, one by one, and parse the others."""
    grammar = layout.grammar
    assert isinstance(grammar, CsvGrammar)
    good: list[bytes] = []
    good_rows: list[int] = []
    bad: list[UnreadRow] = []
    for number, record in enumerate(grammar.records(piece.data)):
        fault = _fault(record, grammar, layout, columns)
        if fault is None:
            good.append(record)
            good_rows.append(number)
        else:
            bad.append(UnreadRow(row=number, error=fault[0], message=fault[1], raw=cut_raw(record)))
    batches: list[pa.RecordBatch] = []
    _parse_by_halves(good, good_rows, layout, columns, batches, bad)
    batch = pa.Table.from_batches(batches, empty_batch(columns).schema).combine_chunks().to_batches()
    return Decoded(
        batch=batch[0] if len(batch) == 1 else empty_batch(columns),
        records=piece.records,
        bad=tuple(sorted(bad, key=lambda row: row.row)),
    )


def _parse_by_halves(
    records: list[bytes],
    rows: list[int],
    layout: Layout,
    columns: Sequence[str],
    batches: list[pa.RecordBatch],
    bad: list[UnreadRow],
) -> None:
    """Parse records without known fault; should pyarrow still refuse some, find which."""
    if not records:
        return
    batch = _parse(b"".join(record + b"\n" for record in records), layout, columns)
    if batch is not None and batch.num_rows == len(records):
        batches.append(batch)
    elif len(records) == 1:
        bad.append(
            UnreadRow(row=rows[0], error="ParseError", message="The row is not valid CSV.", raw=cut_raw(records[0]))
        )
    else:
        middle = len(records) // 2
        _parse_by_halves(records[:middle], rows[:middle], layout, columns, batches, bad)
        _parse_by_halves(records[middle:], rows[middle:], layout, columns, batches, bad)


def _fault(record: bytes, grammar: CsvGrammar, layout: Layout, columns: Sequence[str]) -> tuple[str, str] | None:
    """(error, message) of a record that cannot be read, or None."""
    names = layout.columns
    assert names is not None
    fields = grammar.fields(record)
    if len(fields) != len(names):
        return "ParseError", f"The row has {len(fields)} fields, the file {len(names)} columns."
    try:
        record.decode()
    except UnicodeDecodeError:
        for name, value in zip(names, fields, strict=True):
            if name in columns and not _is_utf8(value):
                why = "bytes that are no text in the file's encoding (the input option encoding names another)"
                return "EncodingError", f"Column {name!r} holds {why}."
    return None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True

"""JSON Lines: one object a line.

Columns are the keys of all objects in order of appearance; a missing key is null. Values come as
text: strings as they are, numbers with the digits that they were written with, `true` and `false`,
objects and arrays as compact JSON. Lines go through the standard library's parser one by one:
pyarrow's crashes on some of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any, ClassVar

import pyarrow as pa

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import InputFile
from tidemill.ports.source import UnreadRow
from tidemill.sources.cast import Inference, NullValues
from tidemill.sources.records import LineGrammar, Piece
from tidemill.sources.text import BOM, Decoded, Layout, Survey, TextSource, cut_raw

MAX_COLUMNS = 50_000
MAX_DEPTH = 200


class JsonlSource(TextSource):
    """Options: null_values (texts that are missing values in columns with a type; none by default);
    bounds: block_bytes, max_record_bytes, max_spool_bytes."""

    name: ClassVar[str] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    fixed_columns = False

    @classmethod
    def default_null_values(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        text = head.removeprefix(BOM).lstrip()
        if not text:
            return path.lower().endswith(cls.suffixes)
        line, ended, _ = text.partition(b"\n")
        return line.startswith(b"{") and (not ended or not isinstance(parse_line(line), str))

    def _layout(self, file: InputFile, text: IO[bytes]) -> Layout:
        stop = text.seek(0, 2)
        text.seek(0)
        start = len(BOM) if text.read(len(BOM)) == BOM else 0
        return Layout(grammar=LineGrammar(), start=start, stop=stop, columns=None)

    def _survey(self, layout: Layout, infer: bool) -> Survey:
        return _KeySurvey(layout, infer, self.nulls)

    def _decode(self, piece: Piece, layout: Layout, columns: Sequence[str]) -> Decoded:
        rows: list[dict[str, Any]] = []
        lines: list[bytes] = []
        bad: list[UnreadRow] = []
        for number, line in enumerate(layout.grammar.records(piece.data)):
            parsed = parse_line(line)
            if isinstance(parsed, str):
                error = "EncodingError" if parsed == NOT_UTF8 else "ParseError"
                bad.append(UnreadRow(row=number, error=error, message=parsed, raw=cut_raw(line)))
            else:
                rows.append(parsed)
                lines.append(line)
        arrays = [_text_array(name, rows, lines) for name in columns]
        # A batch without columns still has to count its rows.
        counted = pa.RecordBatch.from_arrays([pa.nulls(len(rows)), *arrays], names=["", *columns])
        batch = counted.select(list(range(1, len(columns) + 1)))
        return Decoded(batch=batch, records=piece.records, bad=tuple(bad))


class _KeySurvey(Survey):
    def __init__(self, layout: Layout, infer: bool, nulls: NullValues) -> None:
        from pydantic_core import from_json  # Only here: it takes as long to import as all other sources.

        super().__init__(())
        self._parse = from_json
        self._layout, self._infer = layout, infer
        self._nulls = nulls
        self._inferences: dict[str, Inference] = {}
        self._rows = 0

    def learn(self, piece: Piece) -> None:
        if piece.broken or len(self._inferences) > MAX_COLUMNS:
            return
        lines = self._layout.grammar.records(piece.data)
        if self._infer:
            self._learn_types(lines)
            return
        for line in lines:
            if not self._knows_keys(line):
                self._learn_keys(line)

    def _knows_keys(self, line: bytes) -> bool:
        """Whether a quick look finds nothing new in the line."""
        try:
            found = self._parse(line)
        except ValueError:
            return False
        return isinstance(found, dict) and found.keys() <= self._inferences.keys()

    def _learn_keys(self, line: bytes) -> dict[str, Any] | None:
        parsed = parse_line(line, exact=self._infer)
        if isinstance(parsed, str):
            return None
        for name in parsed:
            if name not in self._inferences:
                self._add(name)
        return parsed

    def _learn_types(self, lines: list[bytes]) -> None:
        rows = [row for line in lines if (row := self._learn_keys(line)) is not None]
        for name, inference in self._inferences.items():
            _learn_values(inference, [row.get(name) for row in rows], self._nulls)
        self._rows += len(rows)

    def _add(self, name: str) -> None:
        inference = Inference(self._nulls)
        inference.learn_kind("null", missing=self._rows > 0)
        self._inferences[name] = inference
        self.columns.append(name)

    def schema(self, file: InputFile) -> pa.Schema:
        if len(self.columns) > MAX_COLUMNS:
            raise InputUnreadable(
                f"The objects in {file.path} have more than {MAX_COLUMNS:,} different keys.",
                remedy="Keys must be column names; put what varies into values.",
            )
        return pa.schema(
            [
                (name, pa.type_for_alias(inference.kind) if self._infer else pa.string())
                for name, inference in self._inferences.items()
            ]
        )


class Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


class _Refused(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Refused(f"The key {twice[:100]!r} stands twice in one object.")
    return found


def _decoder(number: type[str]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object, parse_float=number, parse_int=number, parse_constant=number)


_QUICK, _EXACT = _decoder(str), _decoder(Number)
NOT_UTF8 = "The line holds bytes or escapes that are no text in UTF-8."
_TOO_DEEP = f"The line is nested more than {MAX_DEPTH} levels deep."


def parse_line(line: bytes, *, exact: bool = False) -> dict[str, Any] | str:
    """The object, or why the line is none. Numbers come as str, or if `exact` as `Number`."""
    try:
        text = line.decode()
        if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            return _TOO_DEEP
        found = (_EXACT if exact else _QUICK).decode(text)
        if b"\\u" in line:
            # Half of a surrogate pair is valid JSON but no text.
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError:
        return NOT_UTF8
    except _Refused as exc:
        return str(exc)
    except ValueError as exc:
        return f"The line is not valid JSON: {exc}."
    if not isinstance(found, dict):
        return f"The line is not a JSON object but {_KINDS.get(text.lstrip()[:1], 'a number')}."
    return found


_KINDS = {"[": "an array", '"': "a string", "t": "true or false", "f": "true or false", "n": "null"}


def _depth(line: bytes) -> int:
    """How deep brackets are nested outside strings."""
    depth = deepest = 0
    quoted = escaped = False
    for byte in line:
        if escaped:
            escaped = False
        elif byte == 0x22:
            quoted = not quoted
        elif quoted:
            escaped = byte == 0x5C
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _text_array(name: str, rows: list[dict[str, Any]], lines: list[bytes]) -> pa.Array:
    values = [row.get(name) for row in rows]
    if not set(map(type, values)) <= {str, type(None)}:
        values = [
            value if value is None or isinstance(value, str) else _value_text(value, name, line)
            for value, line in zip(values, lines, strict=True)
        ]
    return pa.array(values, pa.string())


def _value_text(value: Any, name: str, line: bytes) -> str:
    if isinstance(value, dict | list):
        # Inside it, numbers must be told from strings again.
        parsed = parse_line(line, exact=True)
        assert isinstance(parsed, dict)
        value = parsed[name]
    return json_text(value)


def json_text(value: Any) -> str:
    """A parsed value as compact JSON, numbers with the digits they had."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{json_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    if isinstance(value, Number):
        return str(value)
    return _quoted(value)


def _quoted(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _learn_values(inference: Inference, values: list[Any], nulls: NullValues) -> None:
    kinds = set(map(type, values))
    missing = type(None) in kinds
    kinds.discard(type(None))
    if kinds == {Number}:
        inference.learn(pa.array(values, pa.string()))
    elif kinds == {bool}:
        inference.learn_kind("bool", missing=missing)
    else:
        inference.learn_kind("string" if kinds else "null", missing=missing)

"""What the input has against what the model wants, over all files. Runs in children."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from tidemill.domain.brief import Brief
from tidemill.domain.errors import InvalidSpec, SchemaMismatch
from tidemill.domain.plan import InputFile
from tidemill.domain.signature import Field, ModelInfo
from tidemill.engine.casting import can_cast, can_parse, is_text, type_of
from tidemill.ports.source import FileFacts, Source

MAX_KEPT_BY_DEFAULT = 50
EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a job. `read` are the input columns that are read, with their types there."""

    read: pa.Schema
    kept: pa.Schema
    inputs: tuple[Field, ...]
    predictions: pa.Schema
    source_types: dict[str, str]
    warnings: tuple[str, ...]


class InputSchema:
    """Collects the schemas of all files, remembers disagreements, and settles on one."""

    def __init__(self, info: ModelInfo, brief: Brief, source: Source | type[Source]) -> None:
        self.info, self.brief = info, brief
        self.typed, self.fixed_columns = source.typed, source.fixed_columns
        self.casts_text, self.mixes = source.casts_text, source.mixes
        self._source = source
        self.decoded_bytes = 0
        self.files = 0
        self._seen: pa.Schema | None = None
        self._filled = 0
        self._first_path = ""
        self._lacking: tuple[str, ...] = ()
        """What the last file lacks of the columns of all before it."""
        self._fields: dict[str, pa.DataType] = {}
        self._absent: dict[str, list[str]] = {}
        """Column -> a few files that lack it."""
        self._absent_files: dict[str, int] = {}
        self._required: set[str] = set()
        """The features that must be there, once they are known."""
        self._retyped: dict[str, str] = {}
        """Column -> how its types differ, for people."""

    @property
    def needs_inference(self) -> bool:
        """Whether text columns must be looked through for their types: the model does not say them."""
        return not self.typed and (self.info.takes_all or any(f.type == "any" for f in self.info.inputs))

    def add(self, file: InputFile, facts: FileFacts) -> None:
        """Take one more file into account. One without rows and columns lacks nothing."""
        self.files += 1
        if not facts.rows and not len(facts.schema):
            return
        self._filled += 1
        self.decoded_bytes += sum(block.decoded_bytes for block in facts.blocks)
        if self._seen is not None and facts.schema.equals(self._seen):
            for name in self._lacking:
                self._note_absent(name, file.path)
            return
        if self._seen is None:
            self._first_path = file.path
            self._fields = {field.name: field.type for field in facts.schema}
        else:
            self._compare(file, facts.schema)
        self._seen = facts.schema

    def _compare(self, file: InputFile, schema: pa.Schema) -> None:
        here = {field.name: field.type for field in schema}
        self._lacking = tuple(name for name in self._fields if name not in here)
        for name in self._lacking:
            self._note_absent(name, file.path)
        for name in [name for name in here if name not in self._fields]:
            self._note_absent(name, self._first_path, files=self._filled - 1)
            self._fields[name] = here[name]
        for name, kind in here.items():
            self._fields[name] = self._merge(name, self._fields[name], kind, file)

    def _note_absent(self, name: str, path: str, files: int = 1) -> None:
        self._absent_files[name] = self._absent_files.get(name, 0) + files
        examples = self._absent.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(path)

    def _merge(self, name: str, before: pa.DataType, here: pa.DataType, file: InputFile) -> pa.DataType:
        if before == here:
            return before
        if not self.typed:
            return type_of(Source.merge_types(str(before), str(here)))
        merged = _widened(before, here) or (_mixed(before, here) if self.mixes else None)
        if merged is None:
            self._retyped.setdefault(name, f"{before} in earlier files but {here} in {file.path}")
            return before
        return merged

    def resolve(self) -> Columns:
        """Settle. Raises SchemaMismatch listing everything that is wrong, InvalidSpec."""
        if not self._fields:
            raise SchemaMismatch(
                "The input is empty: it has no rows and no columns.", remedy="Score files that hold rows."
            )
        # What they are is known only now that every file was seen.
        partitions = self._source.partitions
        self._fields |= {name: type_of(kind) for name, kind in partitions.items() if name in self._fields}
        features = self._features()
        self._required = {field.name for field in features if not field.optional} if self._is_fixed else set()
        inputs = tuple(self._settled(field) for field in features if not self._left_out(field))
        problems = [*self._missing(features), *self._mistyped(inputs)]
        kept = self._kept([field.name for field in inputs])
        read_names = {*(field.name for field in inputs), *kept}
        problems += self._disagreements(read_names)
        if problems:
            more = f" And {len(problems) - 8} more." if len(problems) > 8 else ""
            raise SchemaMismatch(
                "The input and the model disagree: " + " ".join(problems[:8]) + more,
                remedy="Rename or fix the columns, or score other files.",
            )
        source_types = self._source_types(inputs, set(kept))
        read = pa.schema(
            [pa.field(name, self._read_type(name, source_types)) for name in self._fields if name in read_names]
        )
        kept_schema = pa.schema([pa.field(name, read.field(name).type) for name in kept])
        return Columns(
            read=read,
            kept=kept_schema,
            inputs=inputs,
            predictions=self._predictions(kept_schema),
            source_types=source_types,
            warnings=(*self.info.notes, *self._position_notes(features)),
        )

    @property
    def _by_position(self) -> bool:
        """Whether the model takes the input's columns in their order: it does not find names that it made up."""
        made_up = [field.name for field in self.info.inputs]
        return self.info.positional > 0 and not (made_up and set(made_up) <= set(self._fields))

    @property
    def _is_fixed(self) -> bool:
        return not self.info.takes_all or self.info.positional > 0

    def _position_notes(self, features: Sequence[Field]) -> tuple[str, ...]:
        if not self._by_position:
            return ()
        taken = _some([field.name for field in features])
        return (f"the model knows no names of columns: it takes {taken}, in this order; --features says others",)

    def _positional(self) -> tuple[Field, ...]:
        """The input's columns in their order, without those that only stand beside them."""
        wanted = self.info.positional
        beside = {*self.brief.id, *self._source.partitions}
        kept = self.brief.keep if isinstance(self.brief.keep, tuple) else ()
        free = [name for name in self._fields if name not in beside]
        for names in (free, [name for name in free if name not in kept]):
            if len(names) == wanted or (self.info.takes_all and len(names) == 1 and _is_list(self._fields[names[0]])):
                named = self.info.inputs or tuple(Field(name=name) for name in names)
                return tuple(replace(field, name=name) for field, name in zip(named, names, strict=True))
        raise SchemaMismatch(
            f"The model does not know the names of its {wanted} input column(s), and the input has"
            f" {len(free)}{' beside those of --id' if self.brief.id else ''}: {_some(free)}.",
            remedy="Name them in the order it was trained with: --features a,b,c.",
        )

    def _features(self) -> tuple[Field, ...]:
        if self._by_position:
            return self._positional()
        if not self.info.takes_all:
            return self.info.inputs
        names = self.brief.features or [name for name in self._fields if name not in self.brief.id]
        if self.info.takes_text and not self.brief.features:
            return (Field(name=self._only_text(names), type="string"),)
        return tuple(Field(name=name) for name in names)

    def _left_out(self, field: Field) -> bool:
        return field.optional and field.name not in self._fields

    def _only_text(self, names: Sequence[str]) -> str:
        """The one of these columns that holds text."""
        texts = [name for name in names if is_text(self._fields[name])]
        if len(texts) == 1:
            return texts[0]
        found = f"has several: {', '.join(texts[:20])}" if texts else "has none"
        raise SchemaMismatch(
            f"The model takes a column of text, and the input {found}.",
            remedy="Name the one to score: --features COLUMN." if texts else "Score rows that have text.",
        )

    def _settled(self, field: Field) -> Field:
        if field.type != "any" or field.name not in self._fields:
            return field
        if self.typed:
            return field
        found = str(self._fields[field.name])
        return replace(field, type="double" if found == "null" else found)

    def _missing(self, features: Sequence[Field]) -> list[str]:
        missing = [field.name for field in features if field.name not in self._fields and not field.optional]
        wanted = {field.name for field in features}
        unused = [name for name in self._fields if name not in wanted]
        return [
            f"The model needs column {name!r}, which is not there{_did_you_mean(name, unused)}." for name in missing
        ]

    def _mistyped(self, inputs: Iterable[Field]) -> list[str]:
        problems = []
        for field in inputs:
            found = self._fields.get(field.name)
            if found is None:
                continue
            if not self.casts_text and not _accepted(found, field):
                problems.append(
                    f"Column {field.name!r} is {found}, which the model's signature does not take for"
                    f" {field.type}: it takes {', '.join(field.accepts)}."
                )
            elif field.type == "any":
                continue
            elif not can_cast(found, type_of(field.type), text=self.casts_text):
                problems.append(f"Column {field.name!r} is {found} but the model wants {field.type}.")
        return problems

    def _disagreements(self, names: set[str]) -> list[str]:
        absent = [
            f"Column {name!r} is missing in {self._absent_files[name]:,} of {self.files:,} files, e.g. {files[0]}."
            for name, files in self._absent.items()
            if name in names and self._missing_matters(name)
        ]
        return absent + [f"Column {name!r} is {how}." for name, how in self._retyped.items() if name in names]

    def _missing_matters(self, name: str) -> bool:
        return self.fixed_columns or name in self._required

    def _kept(self, features: Sequence[str]) -> list[str]:
        keep, ids = self.brief.keep, list(self.brief.id)
        self._check_known(ids, "--id")
        if keep == "none":
            return ids
        if keep == "all":
            chosen = list(self._fields)
        elif keep == "auto":
            used = set(features)
            chosen = [name for name in self._fields if name not in used]
            if len(chosen) > MAX_KEPT_BY_DEFAULT:
                raise InvalidSpec(
                    f"The input has {len(chosen)} columns beside the features; which to keep is not clear.",
                    remedy="Say --keep all, --keep none or --keep with the names of columns.",
                )
        else:
            chosen = list(keep)
            self._check_known(chosen, "--keep")
        known = set(ids)
        return [*ids, *(name for name in chosen if name not in known)]

    def _check_known(self, names: Sequence[str], flag: str) -> None:
        for name in names:
            if name not in self._fields:
                raise SchemaMismatch(
                    f"{flag} names column {name!r}, which is not in the input{_did_you_mean(name, self._fields)}.",
                    remedy="A preview, the same command without -o, shows what there is.",
                )

    def _read_type(self, name: str, source_types: dict[str, str]) -> pa.DataType:
        if self.typed or (name in self._source.partitions and name not in source_types):
            return self._fields[name]
        return type_of(source_types[name]) if name in source_types else pa.string()

    def _source_types(self, inputs: Sequence[Field], kept: set[str]) -> dict[str, str]:
        """What a text source casts while it reads: only what the user named, and features that are not
        kept, since kept columns stay the text they were."""
        named = {name: str(self._named_type(name, kind)) for name, kind in self.brief.schema.items()}
        if self.typed:
            return {}
        left_out = kept | set(self._source.partitions)
        only_features = {f.name: f.type for f in inputs if f.name not in left_out and f.type not in ("any", "string")}
        return {**only_features, **named}

    def _named_type(self, column: str, name: str) -> pa.DataType:
        self._check_known([column], "--schema")
        if self.typed:
            raise InvalidSpec(
                f"--schema names a type for column {column!r}, but the input has types of its own.",
                remedy="Leave --schema out; it is for text, CSV and JSON Lines.",
            )
        try:
            kind = type_of(name)
        except ValueError as exc:
            raise InvalidSpec(f"Column {column!r}: {exc}.", remedy='For example "int64", "double", "string".') from exc
        if not can_parse(kind):
            raise InvalidSpec(
                f"Column {column!r}: text cannot become {kind}.", remedy="Leave it the text that it is, or use Parquet."
            )
        return kind

    def _predictions(self, kept: pa.Schema) -> pa.Schema:
        outputs = [pa.field(field.name, type_of(field.type)) for field in self.info.outputs]
        clash = {field.name for field in outputs} & set(kept.names)
        if clash:
            raise SchemaMismatch(
                f"The kept column {sorted(clash)[0]!r} has the name of a column that the model writes.",
                remedy="Leave it out with --keep, or rename it in the input.",
            )
        return pa.schema([*kept, *outputs])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _accepted(found: pa.DataType, field: Field) -> bool:
    kind = found.value_type if pa.types.is_dictionary(found) else found
    return (
        not field.accepts
        or pa.types.is_null(kind)
        or {str(kind), str(kind).partition("(")[0]} & {*field.accepts} != set()
    )


def _widened(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """A type that holds both without changing a value, or None."""
    if pa.types.is_null(first) or pa.types.is_null(second):
        return second if pa.types.is_null(first) else first
    signed = pa.types.is_signed_integer(first) and pa.types.is_signed_integer(second)
    unsigned = pa.types.is_unsigned_integer(first) and pa.types.is_unsigned_integer(second)
    floating = pa.types.is_floating(first) and pa.types.is_floating(second)
    if signed or unsigned or floating:
        return first if first.bit_width >= second.bit_width else second
    texts = {pa.string(), pa.large_string()}
    return pa.large_string() if {first, second} == texts else None


def _mixed(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """A type that holds both where the values decided: numbers, moments, or text as Arrow writes it."""
    for narrow, wide in ((pa.int64(), pa.float64()), (pa.date32(), pa.timestamp("us"))):
        if {first, second} == {narrow, wide}:
            return wide
    return pa.string()


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    folded = {other.lower().replace(" ", "_"): other for other in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""

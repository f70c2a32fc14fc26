"""Model against input, over all files: what is refused, in which words, and what is settled."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, SchemaMismatch
from tidemill.domain.plan import Block, InputFile
from tidemill.domain.signature import Field, ModelInfo
from tidemill.engine.schema import Columns, InputSchema
from tidemill.ports.source import FileFacts
from tidemill.sources.csv import CsvSource
from tidemill.sources.excel import ExcelSource
from tidemill.sources.jsonl import JsonlSource
from tidemill.sources.parquet import ParquetSource
from tidemill.wire.spec import JobSpec

BLOCK = Block(rows=1, decoded_bytes=8, start=0, stop=1)
X = Field(name="x", type="double")
OUT = (Field(name="prediction", type="double"),)


def resolve(
    *schemas: dict[str, pa.DataType],
    inputs: tuple[Field, ...] = (X,),
    typed: bool = True,
    loose: bool = False,
    takes_text: bool = False,
    positional: int = 0,
    **spec: Any,
) -> Columns:
    info = ModelInfo(
        flavor="python",
        inputs=inputs,
        outputs=OUT,
        takes_all=not inputs,
        takes_text=takes_text,
        positional=positional,
    )
    words = JobSpec.model_validate({"model": "m", "input": {"path": "in"}, **spec})
    collected = InputSchema(info, words.brief(), ParquetSource if typed else JsonlSource if loose else CsvSource)
    for number, fields in enumerate(schemas):
        file = InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1)
        collected.add(file, FileFacts(schema=pa.schema(list(fields.items())), blocks=()))
    return collected.resolve()


def refusal(*schemas: dict[str, pa.DataType], **more: Any) -> str:
    with pytest.raises(SchemaMismatch) as raised:
        resolve(*schemas, **more)
    assert raised.value.remedy
    return raised.value.message


def test_features_are_read_and_the_rest_is_kept() -> None:
    found = resolve({"id": pa.int64(), "x": pa.int32(), "note": pa.string()})
    assert found.read == pa.schema([("id", pa.int64()), ("x", pa.int32()), ("note", pa.string())])
    assert found.kept.names == ["id", "note"]
    assert found.predictions.names == ["id", "note", "prediction"]


def test_ids_come_first_and_once() -> None:
    fields = {"a": pa.int64(), "x": pa.float64(), "id": pa.int64()}
    assert resolve(fields, id=["id"]).kept.names == ["id", "a"]
    assert resolve(fields, id=["id"], keep="none").kept.names == ["id"]
    assert resolve(fields, keep="none").kept.names == []
    assert resolve(fields, keep="all").kept.names == ["a", "x", "id"]
    assert resolve(fields, keep=["x", "id"], id=["id"]).kept.names == ["id", "x"]
    assert resolve(fields, keep="none").read.names == ["x"]


def test_missing_columns_and_what_they_may_be_called() -> None:
    assert "'x'" in refusal({"y": pa.float64()})
    assert "did you mean 'X '" in refusal({"X ": pa.float64()})
    assert "did you mean 'dep_delay'" in refusal({"dep_delay": pa.float64()}, inputs=(Field(name="DepDelay"),))
    assert "did you mean" not in refusal({"quite another": pa.float64()})
    many = tuple(Field(name=f"c{k}") for k in range(20))
    assert "And 12 more." in refusal({"y": pa.float64()}, inputs=many)


def test_a_column_that_some_files_lack() -> None:
    both, less = {"x": pa.float64(), "k": pa.int64()}, {"k": pa.int64()}
    assert "'x' is missing in 2 of 4 files, e.g. /in/1" in refusal(both, less, less, both)
    assert "'x' is missing in 2 of 3 files, e.g. /in/0" in refusal(less, less, both)
    without = {"x": pa.float64()}
    assert "'k' is missing in 1 of 2 files, e.g. /in/1" in refusal(both, without)
    assert resolve(both, without, keep="none").read.names == ["x"]
    assert "'k' is missing" in refusal(both, without, typed=False)
    assert resolve(both, without, typed=False, loose=True).kept.names == ["k"], "JSON Lines give nulls"


def test_files_that_are_empty() -> None:
    assert "'x' is missing in 1 of 3 files, e.g. /in/1" in refusal({}, {"k": pa.int64()}, {"x": pa.float64()})
    assert resolve({}, {"x": pa.float64()}, {}).read.names == ["x"]
    assert "no rows and no columns" in refusal({}, {})


def test_a_column_whose_type_changes() -> None:
    def with_x(kind: pa.DataType) -> dict[str, pa.DataType]:
        return {"x": kind}

    assert resolve(with_x(pa.int32()), with_x(pa.int64())).read.field("x").type == pa.int64()
    assert resolve(with_x(pa.float64()), with_x(pa.float32())).read.field("x").type == pa.float64()
    assert resolve(with_x(pa.null()), with_x(pa.int8())).read.field("x").type == pa.int8()
    assert "'x' is double in earlier files but string in /in/1" in refusal(with_x(pa.float64()), with_x(pa.string()))
    assert "'x' is int64 in earlier files but uint64" in refusal(with_x(pa.int64()), with_x(pa.uint64()))


def test_types_that_cannot_feed_the_model() -> None:
    assert "Column 'x' is string but the model wants double" in refusal({"x": pa.string()})
    assert resolve({"x": pa.string()}, typed=False).source_types == {"x": "double"}


def test_text_types() -> None:
    text = {"x": pa.string(), "id": pa.string()}
    kept = resolve(text, typed=False, keep=["id", "x"])
    assert kept.source_types == {}, "a feature that is kept stays the text it was"
    assert kept.read.field("x").type == pa.string()
    named = resolve(text, typed=False, schema={"id": "int64"})
    assert named.kept.field("id").type == pa.int64()
    assert resolve(text, typed=False, schema={"id": "decimal(10, 2)"}).source_types["id"] == "decimal128(10, 2)"
    inferred = resolve({"x": pa.int64()}, {"x": pa.float64()}, typed=False, inputs=(Field(name="x"),))
    assert inferred.inputs == (Field(name="x", type="double"),)
    nothing = resolve({"x": pa.null()}, typed=False, inputs=(Field(name="x"),))
    assert nothing.inputs == (Field(name="x", type="double"),)


@pytest.mark.parametrize(
    ("schema", "typed", "message"),
    [
        ({"id": "number"}, False, "'number' is not the name of an Arrow type"),
        ({"id": "time64[us]"}, False, "text cannot become time64"),
        ({"id": "int64"}, True, "has types of its own"),
        ({"nobody": "int64"}, False, "'nobody', which is not in the input"),
    ],
)
def test_types_that_cannot_be_asked_for(schema: dict[str, str], typed: bool, message: str) -> None:
    with pytest.raises((InvalidSpec, SchemaMismatch), match=re.escape(message)) as raised:
        resolve({"x": pa.float64() if typed else pa.string(), "id": pa.string()}, typed=typed, schema=schema)
    assert raised.value.remedy


def test_a_model_that_takes_all() -> None:
    fields = {"id": pa.int64(), "a": pa.float64(), "b": pa.float64()}
    assert [f.name for f in resolve(fields, inputs=(), id=["id"]).inputs] == ["a", "b"]
    assert [f.name for f in resolve(fields, inputs=(), features=["b"]).inputs] == ["b"]


def test_columns_by_position() -> None:
    fields = {"id": pa.int64(), "a": pa.int64(), "b": pa.float64()}
    made_up = (Field(name="column_0", type="double"), Field(name="column_1", type="double"))
    found = resolve(fields, inputs=made_up, positional=2, id=["id"])
    assert found.inputs == (Field(name="a", type="double"), Field(name="b", type="double"))
    assert found.kept.names == ["id"]
    assert "it takes a, b, in this order" in found.warnings[0]
    assert resolve(fields, inputs=made_up, positional=2, keep=["id"]).inputs == found.inputs
    message = refusal(fields, inputs=made_up, positional=2)
    assert "its 2 input column(s), and the input has 3: id, a, b." in message
    assert "is missing in 1 of 2 files" in refusal(
        fields, {"id": pa.int64(), "a": pa.int64()}, inputs=made_up, positional=2, id=["id"], keep="none"
    )


def test_a_row_of_numbers_by_position_may_be_a_list() -> None:
    lists = {"id": pa.int64(), "image": pa.list_(pa.float32())}
    assert [f.name for f in resolve(lists, inputs=(), positional=64, id=["id"]).inputs] == ["image"]
    assert "its 64 input" in refusal({"image": pa.float32()}, inputs=(), positional=64)
    assert "its 2 input" in refusal({"image": lists["image"]}, inputs=(X, X), positional=2)


def test_a_model_that_takes_the_only_column_of_text() -> None:
    fields = {"id": pa.string(), "n": pa.int64(), "review": pa.dictionary(pa.int32(), pa.string())}
    found = resolve(fields, inputs=(), takes_text=True, id=["id"])
    assert found.inputs == (Field(name="review", type="string"),)
    assert found.kept.names == ["id", "n"]
    found = resolve(fields, inputs=(Field(name="id", type="string"),), takes_text=False, features=["id"])
    assert [field.name for field in found.inputs] == ["id"]
    assert "has several: id, review" in refusal(fields, inputs=(), takes_text=True)
    assert "has none" in refusal({"n": pa.int64(), "v": pa.list_(pa.string())}, inputs=(), takes_text=True)


def test_too_many_columns_to_keep_must_be_named() -> None:
    wide = {"x": pa.float64(), **{f"c{k}": pa.int64() for k in range(51)}}
    with pytest.raises(InvalidSpec, match="51 columns"):
        resolve(wide)
    assert len(resolve(wide, keep="all").kept) == 52
    assert "did you mean 'c50'" in refusal(wide, keep=["c_50"])


def test_a_kept_column_called_like_a_prediction() -> None:
    assert "'prediction'" in refusal({"x": pa.float64(), "prediction": pa.int64()})
    assert resolve({"x": pa.float64(), "prediction": pa.int64()}, keep="none").predictions.names == ["prediction"]


@pytest.mark.parametrize(
    "first, second, both",
    [
        (pa.int64(), pa.float64(), "double"),
        (pa.date32(), pa.timestamp("us"), "timestamp[us]"),
        (pa.float64(), pa.string(), "string"),
        (pa.bool_(), pa.int64(), "string"),
        (pa.null(), pa.int64(), "int64"),
    ],
)
def test_where_values_decide_types_files_agree_on_one_that_holds_both(
    first: pa.DataType, second: pa.DataType, both: str
) -> None:
    words = JobSpec.model_validate({"model": "m", "input": {"path": "in"}})
    collected = InputSchema(ModelInfo(flavor="python", inputs=(X,), outputs=OUT), words.brief(), ExcelSource)
    for number, kind in enumerate((first, second)):
        file = InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1)
        collected.add(file, FileFacts(schema=pa.schema([("x", pa.string()), ("k", kind)]), blocks=(BLOCK,)))
    columns = collected.resolve()
    assert str(columns.kept.field("k").type) == both
    assert columns.source_types == {}, "text may feed a number, but is cast before predicting"


STRICT = Field(name="x", type="double", accepts=("double", "int32", "decimal128"))


@pytest.mark.parametrize("kind", [pa.int32(), pa.decimal128(5, 2), pa.dictionary(pa.int8(), pa.int32()), pa.null()])
def test_types_that_the_model_accepts(kind: pa.DataType) -> None:
    assert resolve({"x": kind}, inputs=(STRICT,)).inputs == (STRICT,)


def test_types_that_it_does_not_accept_are_all_told() -> None:
    anything = Field(name="y", accepts=("binary",))
    text = refusal({"x": pa.int64(), "y": pa.string()}, inputs=(STRICT, anything))
    assert "Column 'x' is int64, which the model's signature does not take for double: it takes double, int32" in text
    assert "Column 'y' is string" in text


def test_text_is_parsed_whatever_is_accepted() -> None:
    assert resolve({"x": pa.string()}, inputs=(STRICT,), typed=False).inputs == (STRICT,)


def test_an_optional_column_is_left_out_where_it_is_absent() -> None:
    maybe = Field(name="y", type="double", optional=True)
    assert resolve({"x": pa.float64()}, inputs=(X, maybe)).inputs == (X,)
    assert resolve({"x": pa.float64(), "y": pa.float64()}, inputs=(X, maybe)).inputs == (X, maybe)
    some = ({"x": pa.string()}, {"x": pa.string(), "y": pa.string()})
    assert resolve(*some, inputs=(X, maybe), typed=False, loose=True).inputs == (X, maybe)
    assert "'y' is missing in 1 of 2 files" in refusal(*some, inputs=(X, maybe), typed=False)
    assert "needs column 'x'" in refusal({"y": pa.float64()}, inputs=(X, maybe))

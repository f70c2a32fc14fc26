"""Classes of one's own on the shipped suite, and everything that their `predict` may return."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.domain.signature import Field
from tidemill.flavors.python import PythonFlavor
from tidemill.ports.flavor import Model
from tidemill.testing.flavor import Case, FlavorContract

Write = Callable[..., str]

DOUBLER = """
    import numpy as np
    class Doubler:
        inputs = {"x": "double", "name": "string"}
        outputs = {"prediction": "double", "name": "string"}
        threads_safe = True
        batch_invariant = True
        batch_rows = 100
        rows_per_chunk = 1000
        def predict(self, batch):
            return {"prediction": np.asarray(batch["x"]) * 2, "name": batch["name"]}
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(source: str, name: str = "model.py") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return str(path)

    return make


class TestPython(FlavorContract):
    flavor_class = PythonFlavor
    framework = ("numpy.random", "pandas", "model")

    @pytest.fixture(autouse=True)
    def _made(self, write: Write) -> None:
        self._path = write(DOUBLER) + ":Doubler"

    def case(self) -> Case:
        rows = pa.RecordBatch.from_pydict({"x": [n / 3 for n in range(100)], "name": [f"n{n}" for n in range(100)]})
        expected = {"prediction": pa.array([n / 3 * 2 for n in range(100)]), "name": rows.column("name")}
        return Case(path=self._path, rows=rows, expected=expected)


def load(path: str, **options: Any) -> Model:
    return PythonFlavor().load(path, options)


def returning(write: Write, expression: str, attributes: str = "") -> Model:
    source = (
        "import numpy as np, pyarrow as pa\n"
        f"class M:\n    inputs = ['x']\n    {attributes}\n"
        f"    def predict(self, batch):\n        x = batch['x']\n        n = len(x)\n        return {expression}\n"
    )
    path = write(source, f"m{abs(hash(source))}.py")
    return load(f"{path}:M")


ROWS = pa.RecordBatch.from_pydict({"x": [1.0, 2.5, -3.0]})


@pytest.mark.parametrize(
    "expression",
    [
        "np.asarray(x) * 2",
        "(np.asarray(x) * 2).astype('f4')",
        "(np.asarray(x) * 2).reshape(-1, 1)",
        "[v * 2 for v in x.to_pylist()]",
        "tuple(v * 2 for v in x.to_pylist())",
        "[[v * 2] for v in x.to_pylist()]",
        "pa.array([v * 2 for v in x.to_pylist()])",
        "pa.chunked_array([[2.0], [5.0, -6.0]])",
        "pa.table({'prediction': pa.chunked_array([[2.0], [5.0, -6.0]])})",
        "pa.record_batch({'prediction': [2.0, 5.0, -6.0]})",
        "{'prediction': [2, 5, -6]}",
    ],
)
def test_anything_that_is_a_column(write: Write, expression: str) -> None:
    found = returning(write, expression).predict(ROWS).columns
    assert found.to_pydict() == {"prediction": [2.0, 5.0, -6.0]}
    assert found.schema.field(0).type == pa.float64()


@pytest.mark.parametrize(
    "expression, words",
    [
        ("None", "None"),
        ("3.5", "one float"),
        ("'yes'", "one str"),
        ("np.float64(1)", "one float64"),
        ("[1.0, 2.0]", "2 values of 'prediction' for 3 rows"),
        ("np.zeros(4)", "4 values of 'prediction' for 3 rows"),
        ("np.zeros((3, 2))", "2 column(s); expected 1: prediction"),
        ("np.zeros((3, 2, 2))", "shape (3, 2, 2)"),
        ("['a', 'b', 'c']", "'prediction' as string; expected double"),
        ("np.array(['a', 'b', 'c'])", "as string; expected double"),
        ("[None] * 3", "only None"),
        ("[1.0, 'x', 2.0]", "no column of values"),
        ("[object()] * 3", "no column of values"),
        ("np.array([object()] * 3)", "no column of values"),
        ("np.zeros(3, complex)", "no column of values"),
        ("object()", "no column of values"),
        ("{'a': [1, 2, 3], 'b': [1, 2, 3]}", "columns a, b; expected prediction"),
        ("{}", "columns none; expected prediction"),
    ],
)
def test_anything_else_is_named(write: Write, expression: str, words: str) -> None:
    model = returning(write, expression)
    with pytest.raises((TypeError, ValueError)) as caught:
        model.predict(ROWS)
    assert words in str(caught.value)


def test_single_missing_values_stay_missing(write: Write) -> None:
    assert returning(write, "[1.0, None, float('nan')]").predict(ROWS).columns.column(0).null_count == 1


@pytest.mark.parametrize(
    "outputs, expression, wanted",
    [
        (
            "{'label': 'string', 'score': 'float'}",
            "{'score': [1, 2, 3], 'label': ['a', None, 'c']}",
            ["label", "score"],
        ),
        ("{'a': 'int64', 'b': 'int64'}", "np.arange(6).reshape(3, 2)", ["a", "b"]),
        ("{'flag': 'bool'}", "np.asarray(x) > 0", ["flag"]),
        ("{'when': pa.timestamp('us', 'UTC')}", "pa.array([0, 1, 2], pa.timestamp('us', 'UTC'))", ["when"]),
        ("{'when': 'timestamp[us, tz=UTC]'}", "pa.array([0, 1, 2], pa.timestamp('us', 'UTC'))", ["when"]),
    ],
)
def test_declared_outputs(write: Write, outputs: str, expression: str, wanted: list[str]) -> None:
    model = returning(write, expression, f"outputs = {outputs}")
    found = model.predict(ROWS).columns
    assert found.schema.names == wanted
    assert [each.type for each in model.info.outputs] == [str(each.type) for each in found.schema]


def test_values_that_do_not_fit_the_declared_type_are_named(write: Write) -> None:
    with pytest.raises(TypeError, match="as double; expected int64"):
        returning(write, "[0.5, 1.0, 2.0]", "outputs = {'n': 'int64'}").predict(ROWS)
    with pytest.raises(TypeError, match="as int64; expected string"):
        returning(write, "[1, 2, 3]", "outputs = {'n': 'string'}").predict(ROWS)


def test_outputs_are_learned_from_no_rows(write: Write) -> None:
    source = """
        import pyarrow as pa
        class M:
            inputs = {"x": "double"}
            def predict(self, batch):
                return pa.record_batch({"label": batch["x"].cast("string"), "double": batch["x"]})
    """
    model = load(write(source) + ":M")
    assert model.info.outputs == (Field(name="label", type="string"), Field(name="double", type="double"))


@pytest.mark.parametrize("body", ["return [v * 2 for v in batch['x'].to_pylist()]", "return [batch['x'][0].as_py()]"])
def test_outputs_that_cannot_be_learned_are_doubles(write: Write, body: str) -> None:
    source = f"class M:\n    inputs = {{'x': 'double'}}\n    def predict(self, batch):\n        {body}\n"
    model = load(write(source) + ":M")
    assert model.info.outputs == (Field(name="prediction", type="double"),)
    assert bool(model.info.notes) == ("[0]" in body)


def test_without_inputs_it_takes_all_columns(write: Write) -> None:
    path = write("class M:\n    def predict(self, batch):\n        return [len(batch.schema)] * len(batch)\n") + ":M"
    model = load(path)
    assert (model.info.takes_all, model.info.inputs) == (True, ())
    assert model.predict(pa.RecordBatch.from_pydict({"a": [1], "b": [2]})).columns.to_pydict() == {"prediction": [2.0]}
    assert load(path, features=["b"]).info.inputs == (Field(name="b"),)


@pytest.mark.parametrize(
    "constructor, options, wanted",
    [
        ("def __init__(self): self.k = 1", {}, 1.0),
        ("def __init__(self, k=3): self.k = k", {"k": 5}, 3.0),
        ("def __init__(self, options): self.k = options['k']", {"k": 5}, 5.0),
        ("def __init__(self, options=None): self.k = options['k']", {"k": 7}, 7.0),
        ("def __init__(self, settings): self.k = settings.get('k', 9)", {}, 9.0),
    ],
)
def test_constructor_gets_the_options_if_it_wants_them(
    write: Write, constructor: str, options: dict[str, Any], wanted: float
) -> None:
    source = f"class M:\n    {constructor}\n    def predict(self, batch):\n        return [self.k] * len(batch)\n"
    model = load(write(source) + ":M", options=options)
    assert model.predict(pa.RecordBatch.from_pydict({"a": [0]})).columns.to_pydict() == {"prediction": [wanted]}


@pytest.mark.parametrize(
    "source, words",
    [
        ("x = 1\n", "has no class called M"),
        ("M = 5\n", "has a int, not a class, called M"),
        ("class M: pass\n", "has no method predict"),
        ("import nothing_like_that\n", "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_that'"),
        ("class M(\n", "cannot be imported: SyntaxError"),
        ("class M:\n    def __init__(self): raise KeyError('no weights')\n", "cannot be made: KeyError: 'no weights'"),
        ("class M:\n    inputs = 'x'\n    def predict(self, b): ...\n", "inputs = 'x'"),
        ("class M:\n    inputs = {'x': 'numeric'}\n    def predict(self, b): ...\n", "'numeric' of column 'x'"),
        ("class M:\n    outputs = ['y']\n    def predict(self, b): ...\n", "outputs = ['y']"),
        ("class M:\n    batch_rows = 0\n    def predict(self, b): ...\n", "batch_rows = 0"),
        ("class M:\n    rows_per_chunk = 'many'\n    def predict(self, b): ...\n", "rows_per_chunk = 'many'"),
    ],
)
def test_classes_that_cannot_be_used_say_why(write: Write, source: str, words: str) -> None:
    path = write(source)
    with pytest.raises(ModelUnusable) as caught:
        load(f"{path}:M")
    assert words in caught.value.message
    assert path in caught.value.message
    assert caught.value.remedy


def test_decisions_are_the_class_s_own(write: Write) -> None:
    path = write("class M:\n    def predict(self, b): ...\n") + ":M"
    with pytest.raises(InvalidSpec, match="threshold"):
        load(path, threshold=0.5)


@pytest.mark.parametrize(
    "path, wanted",
    [
        ("module:Class", True),
        ("package.module:Class", True),
        ("folder/file.py:Class", True),
        ("/a b/file.py:Class", True),
        ("model.txt", False),
        ("folder/model.bin", False),
        ("s3://bucket/model", False),
        ("module:", False),
        (":Class", False),
        ("module:not a name", False),
        ("folder/module:Class", False),
    ],
)
def test_names_of_classes_are_recognised(path: str, wanted: bool) -> None:
    assert PythonFlavor.matches(b"", path) is wanted


def test_neighbours_can_be_imported_and_modules_found_in_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("FACTOR = 3.0\n", "neighbour_of_mine.py")
    source = "import neighbour_of_mine as n\nclass M:\n    def predict(self, b): return [n.FACTOR] * len(b)\n"
    path = write(source, "my_own_model.py")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    rows = pa.RecordBatch.from_pydict({"a": [0]})
    assert load(f"{path}:M").predict(rows).columns.to_pydict() == {"prediction": [3.0]}
    monkeypatch.chdir(tmp_path)
    assert load("my_own_model:M").predict(rows).columns.to_pydict() == {"prediction": [3.0]}


def test_two_files_of_one_name_do_not_mix(write: Write, tmp_path: Path) -> None:
    rows = pa.RecordBatch.from_pydict({"a": [0]})
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write(f"class M:\n    def predict(self, b): return [{number}]\n", f"{number}/same.py")
        found.append(load(f"{path}:M"))
    assert [each.predict(rows).columns.column(0).to_pylist() for each in found] == [[1.0], [2.0]]


def test_close_reaches_the_class(write: Write) -> None:
    source = "class M:\n    closed = 0\n    def predict(self, b): ...\n    def close(self): type(self).closed += 1\n"
    model = load(write(source) + ":M")
    model.close()
    assert model._instance.closed == 1  # type: ignore[attr-defined]


def test_exceptions_of_the_class_rise_as_they_are(write: Write) -> None:
    model = returning(write, "1 / 0")
    with pytest.raises(ZeroDivisionError):
        model.predict(ROWS)

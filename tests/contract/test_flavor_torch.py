"""TorchScript archives and exported programs on the shipped suite, and what only PyTorch can get wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from tidemill.domain.errors import InvalidSpec, MissingExtra, ModelUnusable, SchemaMismatch
from tidemill.flavors.sklearn import PickleFlavor, SklearnFlavor
from tidemill.flavors.torch import TorchFlavor
from tidemill.ports.flavor import Model
from tidemill.testing.flavor import Case, FileFlavorContract, bits, head_of

ROWS = 64
NAMES = ["a", "b", "c"]
ROWS_DIMENSION = torch.export.Dim("rows")


@cache
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).normal(size=(ROWS, 3)).astype(np.float32)


@cache
def network(*outputs: Any) -> nn.Module:
    """Three numbers to as many as said; dropout and batch normalisation show whether it is in eval mode."""
    torch.manual_seed(3)
    layers = [nn.Linear(3, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, *outputs)]
    made = nn.Sequential(*layers)
    with torch.no_grad():
        made(torch.randn(100, 3))
    return made.eval()


def own(module: nn.Module, *inputs: Any) -> Any:
    """What PyTorch itself says, in one thread: with more, sums differ in last bits."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return module(*(torch.from_numpy(np.array(each)) for each in inputs or (data(),)))


def batch(columns: Sequence[Any] | None = None, names: Sequence[str] = NAMES) -> pa.RecordBatch:
    arrays = [pa.array(each, pa.float32()) for each in data().T] if columns is None else list(columns)
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def scripted(module: nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(path)
    return str(path)


def exported(module: nn.Module, path: Path, *inputs: Any, rows: Any = ROWS_DIMENSION) -> str:
    inputs = inputs or (torch.zeros(4, 3),)
    shapes = None if rows is None else tuple({0: rows} for _ in inputs)
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), path)
    return str(path)


def load(path: str, **options: Any) -> Model:
    """On the CPU, of which PyTorch itself was asked for what is expected."""
    return TorchFlavor().load(path, {"features": NAMES, "device": "cpu", **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The network with three outputs, saved in each of the ways."""
    folder = tmp_path_factory.mktemp("torch")

    @cache
    def make(kind: str) -> str:
        path = folder / f"net.{kind}"
        if kind == "script":
            return scripted(network(3), path)
        if kind == "program":
            return exported(network(3), path)
        if kind == "static":
            return exported(network(3), path, torch.zeros(5, 3), rows=None)
        if kind == "module":
            torch.save(network(3), path)
        elif kind == "weights":
            torch.save(network(3).state_dict(), path)
        else:
            torch.save(network(3).state_dict(), path, _use_new_zipfile_serialization=False)
        return str(path)

    return make


class TestTorchScript(FileFlavorContract):
    flavor_class = TorchFlavor
    framework = ("torch", "sympy", "pandas")
    kind = "script"

    @pytest.fixture(autouse=True)
    def _made(self, made: Callable[[str], str]) -> None:
        self._path = made(self.kind)

    def case(self) -> Case:
        p = torch.softmax(own(network(3)), 1).numpy()
        expected: dict[str, Any] = {"prediction": pa.array(np.array(["x", "y", "z"])[p.argmax(axis=1)].tolist())}
        expected |= {f"probability_{name}": pa.array(p[:, n]) for n, name in enumerate("xyz")}
        options = {"features": NAMES, "probabilities": True, "activation": "softmax", "classes": ["x", "y", "z"]}
        options["device"] = "cpu"
        return Case(path=self._path, rows=batch(), expected=expected, options=options)


class TestExportedProgram(TestTorchScript):
    kind = "program"


KINDS = pytest.mark.parametrize("kind", ["script", "program"])


@KINDS
def test_without_an_activation_outputs_are_values(made: Callable[[str], str], kind: str) -> None:
    model = load(made(kind))
    found = model.predict(batch()).columns
    assert found.schema.names == ["prediction_0", "prediction_1", "prediction_2"]
    assert np.column_stack(found.columns).tobytes() == own(network(3)).numpy().tobytes()
    assert (model.info.task, model.info.layout, model.info.batch_rows) == ("regression", "threads", 16_384)
    assert model.info.batch_invariant is False
    for words in ({"probabilities": True}, {"threshold": 0.5}, {"classes": ["x", "y", "z"]}):
        with pytest.raises(InvalidSpec, match="probabilities or what becomes them") as caught:
            load(made(kind), **words)
        assert "softmax" in str(caught.value.remedy)


def test_values_do_depend_on_the_batch_so_it_does_not_say_otherwise() -> None:
    """MKL multiplies few rows in another order than many: why `batch_invariant` is False."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 3)).eval()
    rows = np.random.default_rng(0).normal(size=(4096, 30)).astype(np.float32)
    whole = own(wide, rows)
    assert any(not torch.equal(own(wide, rows[:few]), whole[:few]) for few in (1, 2, 3, 5))


def test_one_output_of_a_sigmoid_is_binary(tmp_path: Path) -> None:
    path = scripted(network(1), tmp_path / "m.pt")
    p = torch.sigmoid(own(network(1))).numpy().reshape(-1)
    model = load(path, activation="sigmoid", options={"classes": ["no", "yes"]})
    found = model.predict(batch()).columns
    assert model.info.positive_class == "yes"
    assert found.column("probability").to_numpy().tobytes() == p.tobytes()
    assert found.column("prediction").to_pylist() == np.where(p > 0.5, "yes", "no").tolist()
    found = load(path, activation="sigmoid", threshold=0.3).predict(batch()).columns
    assert found.column("prediction").to_pylist() == (p >= np.float32(0.3)).astype(int).tolist()
    with pytest.raises(InvalidSpec, match="softmax is of several"):
        load(path, activation="softmax")


def test_several_outputs_of_a_sigmoid_are_labels_that_do_not_exclude_each_other(made: Callable[[str], str]) -> None:
    p = torch.sigmoid(own(network(3))).numpy()
    found = load(made("script"), activation="sigmoid", classes=["x", "y", "z"]).predict(batch()).columns
    wanted = (p > 0.5).astype(int)
    assert set(wanted.sum(axis=1)) >= {0, 1, 2}
    for position, label in enumerate("xyz"):
        assert found.column(f"prediction_{label}").to_pylist() == wanted[:, position].tolist()
        probability = found.column(f"probability_{label}").to_numpy()
        assert probability.tobytes() == np.ascontiguousarray(p[:, position]).tobytes()
    plain = load(made("script"), activation="sigmoid", threshold=0.9).predict(batch()).columns
    assert plain.column("prediction_1").to_pylist() == (p[:, 1] >= np.float32(0.9)).astype(int).tolist()
    with pytest.raises(InvalidSpec, match="names 2 classes but the model has 3"):
        load(made("script"), activation="sigmoid", classes=["x", "y"])


def test_probabilities_are_taken_as_they_are(tmp_path: Path) -> None:
    path = scripted(nn.Sequential(network(2), nn.Softmax(1)), tmp_path / "m.pt")
    p = torch.softmax(own(network(2)), 1).numpy()
    found = load(path, activation="none").predict(batch()).columns
    assert found.column("probability").to_numpy().tobytes() == np.ascontiguousarray(p[:, 1]).tobytes()
    assert found.column("prediction").to_pylist() == (p[:, 1] > p[:, 0]).astype(int).tolist()


@pytest.mark.parametrize("words", [{"activation": "relu"}, {"device": "tpu"}, {"dtype": "complex64"}, {"depth": 1}])
def test_unknown_options_are_refused(made: Callable[[str], str], words: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=next(iter(words))) as caught:
        load(made("script"), **words)
    assert caught.value.remedy


def test_a_gpu_that_is_not_there_is_refused_and_auto_is_the_first_or_the_cpu(made: Callable[[str], str]) -> None:
    there = torch.cuda.device_count()
    with pytest.raises(InvalidSpec, match=rf"cuda:{there} is not there.*sees {there} GPU"):
        load(made("script"), device=f"cuda:{there}")
    first = "cuda" if there else "cpu"
    assert load(made("script"), device="auto").info == load(made("script"), device=first).info


def test_without_pytorch_it_says_what_to_install(made: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = made("script")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="'torch' needs the package 'torch'") as caught:
        load(path)
    assert "pip install 'tidemill[torch]'" in str(caught.value.remedy)


# ---- columns to tensors


@KINDS
def test_without_features_columns_are_taken_in_their_order(made: Callable[[str], str], kind: str) -> None:
    model = TorchFlavor().load(made(kind), {"device": "cpu"})
    assert (model.info.takes_all, model.info.inputs) == (True, ())
    assert (model.info.positional, load(made(kind)).info.positional) == (3, 0)
    assert bits(model.predict(batch())) == bits(load(made(kind)).predict(batch()))
    doubles = batch([pa.array(each.astype(float)) for each in data().T])
    assert bits(model.predict(doubles)) == bits(model.predict(batch()))
    with pytest.raises(SchemaMismatch, match=r"takes 3 column.s. but gets 4: a, b, c, d") as caught:
        model.predict(batch([*batch().columns, batch().column(0)], [*NAMES, "d"]))
    assert "--features" in str(caught.value.remedy)
    with pytest.raises(SchemaMismatch, match="Column 'b' holds string"):
        model.predict(batch([batch().column(0), pa.array(["x"] * ROWS), batch().column(2)]))


@KINDS
def test_a_wrong_number_of_features_is_refused(made: Callable[[str], str], kind: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"3 column|2 columns") as caught:
        load(made(kind), features=["a", "b"])
    assert "--features" in str(caught.value.remedy)


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


def test_a_program_of_any_width_wants_features(tmp_path: Path) -> None:
    path = scripted(Total(), tmp_path / "total.pt")
    with pytest.raises(SchemaMismatch, match="does not say how many columns"):
        TorchFlavor().load(path, {})
    found = load(path).predict(batch()).columns.column(0)
    assert found.to_numpy().tobytes() == own(Total()).numpy().tobytes()


@KINDS
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "variable"])
def test_a_column_of_lists_is_one_tensor(made: Callable[[str], str], kind: str, fixed: bool) -> None:
    listed = pa.array(data().tolist(), pa.list_(pa.float32(), 3) if fixed else pa.list_(pa.float64()))
    model = load(made(kind), features=["v"])
    assert [(each.name, each.type) for each in model.info.inputs] == [("v", "any")]
    rows = batch([listed], ["v"])
    assert bits(model.predict(rows)) == bits(load(made(kind)).predict(batch()))
    assert bits(model.predict(rows.slice(5, 9))) == bits(load(made(kind)).predict(batch().slice(5, 9)))
    with pytest.raises(SchemaMismatch, match=r"'v' holds float but .* takes 3 number"):
        model.predict(batch([batch().column(0)], ["v"]))


def test_lists_that_do_not_fit_are_rejected_rows(made: Callable[[str], str]) -> None:
    lists = [[1.0, 2.0, 3.0], None, [1.0], [1.0, None, 3.0], [4.0, 5.0, 6.0]]
    found = load(made("program"), features=["v"]).predict(batch([pa.array(lists, pa.list_(pa.float32()))], ["v"]))
    assert found.row_errors[1].startswith("column 'v' is missing")
    assert found.row_errors[2] == "column 'v' has 1 numbers, not 3"
    assert sorted(found.row_errors) == [1, 2]
    assert np.isnan(found.columns.column(0)[3].as_py())
    good = np.array([[1, 2, 3], [1, np.nan, 3], [4, 5, 6]], np.float32)
    wanted = own(network(3), good).numpy()
    assert np.array([found.columns.column(0)[n].as_py() for n in (0, 4)]).tolist() == wanted[[0, 2], 0].tolist()


def test_lists_of_any_length_go_with_their_like(tmp_path: Path) -> None:
    path = exported(Total(), tmp_path / "m.pt2", torch.zeros(4, 3), rows=torch.export.Dim("rows"))
    assert load(path, features=["v"]).predict(batch([pa.array([[1.0, 2.0]])], ["v"])).row_errors
    scripted_path = scripted(Total(), tmp_path / "m.pt")
    lists = [[1.0], [1.0, 2.0, 3.0], [5.0], [], [2.0, 2.0, 2.0]]
    found = load(scripted_path, features=["v"]).predict(batch([pa.array(lists)], ["v"]))
    assert found.columns.column(0).to_pylist() == [1.0, 6.0, 5.0, 0.0, 6.0]


class Picture(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].sum((1, 2)) - x[:, 1].sum((1, 2))


@KINDS
def test_a_list_has_the_shape_that_is_said(tmp_path: Path, kind: str) -> None:
    pixels = np.arange(3 * 2 * 2 * 2, dtype=np.float32).reshape(3, 2, 2, 2) ** 2
    flat = pa.array(pixels.reshape(3, 8).tolist(), pa.list_(pa.float32(), 8))
    nested = pa.array(pixels.tolist(), pa.list_(pa.list_(pa.list_(pa.float32(), 2), 2), 2))
    if kind == "script":
        path, options = scripted(Picture(), tmp_path / "m"), {"shape": [2, 2, 2]}
    else:
        path, options = exported(Picture(), tmp_path / "m", torch.zeros(4, 2, 2, 2)), {}
    model = load(path, features=["p"], **options)
    for column in (flat, nested):
        assert model.predict(batch([column], ["p"])).columns.column(0).to_pylist() == own(Picture(), pixels).tolist()


class Separate(nn.Module):
    def forward(self, user: torch.Tensor, price: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": user * price, "pair": torch.stack([price, user], 1)}


@KINDS
def test_one_tensor_for_each_column_and_outputs_by_name(tmp_path: Path, kind: str) -> None:
    if kind == "script":
        path, options = scripted(Separate(), tmp_path / "m"), {"dtype": {"user": "int64"}}
    else:
        inputs = (torch.zeros(4, dtype=torch.int64), torch.zeros(4))
        path, options = exported(Separate(), tmp_path / "m", *inputs), {}
    model = TorchFlavor().load(path, options)
    assert [each.name for each in model.info.inputs] == ["user", "price"]
    user, price = np.array([3, 1, 2]), np.array([0.5, 2.0, -1.0], np.float32)
    found = model.predict(batch([pa.array(user), pa.array(price)], ["user", "price"])).columns
    assert found.to_pydict() == {"score": [1.5, 2.0, -2.0], "pair_0": [0.5, 2, -1], "pair_1": [3, 1, 2]}
    gaps = model.predict(batch([pa.array([1, None, 3]), pa.array([None, 2.0, 3.0], pa.float32())], ["user", "price"]))
    assert list(gaps.row_errors) == [1]
    assert gaps.row_errors[1].startswith("column 'user' is missing, and for int64")
    assert np.isnan(gaps.columns.column("score")[0].as_py())
    assert gaps.columns.column("score")[2].as_py() == 9.0
    chosen = TorchFlavor().load(path, {**options, "output": "score"})
    assert chosen.info.outputs[0].name == "prediction"
    with pytest.raises(InvalidSpec, match="no output 'scores'") as caught:
        TorchFlavor().load(path, {**options, "output": "scores"})
    assert "score, pair" in str(caught.value.remedy)
    with pytest.raises(InvalidSpec, match="several outputs"):
        TorchFlavor().load(path, {**options, "activation": "none"})


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum((1, 2))


def test_whole_numbers_by_dtype(tmp_path: Path) -> None:
    module = Embedded().eval()
    model = load(scripted(module, tmp_path / "m"), features=["i", "j"], dtype="int64")
    assert [each.type for each in model.info.inputs] == ["int64", "int64"]
    ids = np.array([[1, 2], [9, 0]])
    rows = batch([pa.array(each) for each in ids.T], ["i", "j"])
    assert model.predict(rows).columns.column(0).to_pylist() == own(module, ids).tolist()
    with pytest.raises(ValueError, match=r"\Aindex out of range in self\Z"):
        model.predict(batch([pa.array([1, 12]), pa.array([1, 1])], ["i", "j"]))


# ---- programs of another number of rows than comes


def test_a_program_of_so_many_rows_is_called_with_so_many(made: Callable[[str], str]) -> None:
    model = load(made("static"))
    assert any("5 row(s) a call" in note for note in model.info.notes)
    found = np.column_stack(model.predict(batch()).columns.columns)
    padded = np.concatenate([data(), data()[-1:]])
    wanted = np.concatenate([own(network(3), padded[n : n + 5]).numpy() for n in range(0, len(padded), 5)])[:ROWS]
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


class Relative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1) / x.abs().min()


def test_what_fills_a_call_up_is_the_last_row_again(tmp_path: Path) -> None:
    model = load(exported(Relative(), tmp_path / "m.pt2", torch.ones(5, 3), rows=None))
    wanted = own(Relative(), data()[[0, 1, 2, 2, 2]])[:3].tolist()
    assert model.predict(batch().slice(0, 3)).columns.column(0).to_pylist() == wanted


def test_bounds_of_a_dynamic_dimension_hold(tmp_path: Path) -> None:
    path = exported(network(3), tmp_path / "m.pt2", rows=torch.export.Dim("rows", min=2, max=24))
    model = load(path)
    wanted = np.concatenate([own(network(3), data()[n : n + 24]).numpy() for n in range(0, ROWS, 24)])
    assert np.column_stack(model.predict(batch()).columns.columns).tobytes() == wanted.tobytes()
    alone = own(network(3), data()[[0, 0]]).numpy()[:1]
    assert np.column_stack(model.predict(batch().slice(0, 1)).columns.columns).tobytes() == alone.tobytes()


class Shrinking(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:1]


class Deep(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(2)


class Talking(nn.Module):
    def forward(self, x: torch.Tensor, loud: bool) -> torch.Tensor:
        return x


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    "module, words",
    [
        (Shrinking(), "'prediction' is of shape .1, 3. for 2 rows"),
        (Deep(), "'prediction' does not have one row of values"),
        (Talking(), "forward takes 'loud' as bool"),
        (Random(), "other values each time"),
    ],
)
def test_programs_that_do_not_score_rows_are_refused(tmp_path: Path, module: nn.Module, words: str) -> None:
    with pytest.raises((ModelUnusable, SchemaMismatch), match=words) as caught:
        load(scripted(module, tmp_path / "m.pt"))
    assert caught.value.remedy
    assert "m.pt" in str(caught.value)


def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    path = exported(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(), tmp_path / "m.pt2")
    with pytest.raises(ModelUnusable, match="training mode") as caught:
        load(path)
    assert "eval()" in str(caught.value.remedy)


# ---- files


@pytest.mark.parametrize("kind", ["module", "weights", "legacy"])
def test_pickles_are_recognised_and_refused(made: Callable[[str], str], kind: str) -> None:
    path = made(kind)
    assert TorchFlavor.matches(head_of(path), path)
    with pytest.raises(ModelUnusable, match="no program that can be run") as caught:
        load(path)
    assert "torch.export.save" in str(caught.value.remedy)
    assert "module:Class" in str(caught.value.remedy)


def test_strangers_zips_are_none(tmp_path: Path) -> None:
    for names in (["schema.json"], ["a/b.npy"], ["x/data.pkl"], ["mimetype"]):
        path = tmp_path / "z.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        assert not TorchFlavor.matches(head_of(str(path)), str(path))


@KINDS
def test_other_flavors_do_not_take_them(made: Callable[[str], str], kind: str) -> None:
    head = head_of(made(kind))
    assert not SklearnFlavor.matches(head, made(kind))
    assert not PickleFlavor.matches(head, made(kind))


@KINDS
def test_a_file_that_was_cut_off_is_still_known(made: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut"
    path.write_bytes(Path(made(kind)).read_bytes()[:900])
    assert TorchFlavor.matches(head_of(str(path)), str(path))


@KINDS
def test_damaged_weights_and_names_are_found_out(made: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """PyTorch itself loads the first and predicts with it; the second stops Python's zipfile with a UnicodeError."""
    whole = Path(made(kind)).read_bytes()
    weight = network(3)[0].weight.detach().numpy().tobytes()
    assert whole.count(weight) == 1
    flipped = whole.replace(weight, bytes([weight[0] ^ 1]) + weight[1:])
    last = whole.rindex(b"serialization_id")
    renamed = whole[:last] + b"\xaf" + whole[last + 1 :]
    for number, content in enumerate((flipped, renamed)):
        path = tmp_path / f"damaged-{number}"
        path.write_bytes(content)
        assert TorchFlavor.matches(head_of(str(path)), str(path))
        assert not SklearnFlavor.matches(head_of(str(path)), str(path))
        with pytest.raises(ModelUnusable, match=f"damaged-{number} is cut off or damaged") as caught:
            load(str(path))
        assert "Copy the file again" in str(caught.value.remedy)


class Writing(nn.Module):
    """Saves a tensor to a file when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.w, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.w = state[0]
        self.training = state[1]
        torch.save(self.w, "written-by-a-model")


def rewritten(path: str, target: Path, change: Callable[[str, bytes], bytes]) -> str:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member.filename)))
    return str(target)


def test_why_they_carry_code(made: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ADR 0015 rests on: both formats run what is in the file while it is loaded."""
    monkeypatch.chdir(tmp_path)
    assert TorchFlavor.carries_code
    path = scripted(Writing(), tmp_path / "writing.pt")
    assert not Path("written-by-a-model").exists()
    load(path)
    assert Path("written-by-a-model").exists()
    symbol = b"Symbol('s"

    def evaluated(name: str, content: bytes) -> bytes:
        return content.replace(symbol, b"open('opened-by-a-model', 'w') and " + symbol)

    load(rewritten(made("program"), tmp_path / "evaluated.pt2", evaluated))
    assert Path("opened-by-a-model").exists()


class _Opening:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("opened-by-a-pickle", "w")


def test_pickles_within_a_program_are_not_loaded(
    made: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = io.BytesIO()
    torch.save((_Opening(),), pickled)

    def change(name: str, content: bytes) -> bytes:
        return pickled.getvalue() if "sample_inputs" in name else content

    with pytest.raises(ModelUnusable, match=r"evil\.pt2.*Weights only"):
        load(rewritten(made("program"), tmp_path / "evil.pt2", change))
    assert not Path("opened-by-a-pickle").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


_FORKED = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
import tidemill.flavors.torch_export_library, tidemill.flavors.torch_library
threads = len(os.listdir("/proc/self/task"))
read, write = os.pipe()
if os.fork() == 0:
    import pyarrow as pa
    from tidemill.flavors.torch import TorchFlavor
    model = TorchFlavor().load(sys.argv[1], {"features": ["a", "b", "c"]})
    rows = pa.RecordBatch.from_pydict({name: [1.0, 2.0, 3.0] for name in "abc"})
    with ThreadPoolExecutor(2) as pool:
        found = [each.columns.to_pydict() for each in pool.map(model.predict, [rows] * 4)]
    import torch
    os.write(write, json.dumps([found, torch.get_num_threads()]).encode())
    os._exit(0)
os.close(write)
print(json.dumps([threads, "torch" in sys.modules, json.load(os.fdopen(read))]))
"""


def test_preloading_starts_no_thread_and_survives_a_fork(made: Callable[[str], str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _FORKED, made("program")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    threads, preloaded, (found, inside) = json.loads(done.stdout)
    assert (threads, preloaded, inside) == (1, True, 1)
    rows = np.repeat(np.array([[1], [2], [3]], np.float32), 3, axis=1)
    wanted = {f"prediction_{n}": column.tolist() for n, column in enumerate(own(network(3), rows).numpy().T)}
    assert found == [wanted] * 4

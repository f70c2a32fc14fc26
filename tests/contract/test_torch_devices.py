"""Networks of PyTorch where it can compute: on the CPU, and on a GPU if there is one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from tests.contract.transformers_folders import TEXTS, Make, maker, sentence_folder
from tests.contract.transformers_folders import batch as text_batch
from tidemill.flavors.torch import TorchFlavor
from tidemill.flavors.transformers import TransformersFlavor
from tidemill.ports.flavor import Model

DEVICES = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
KINDS = pytest.mark.parametrize("kind", ["script", "program"])
ROWS, COLUMNS = 3_000, 20
NAMES = [f"c{number}" for number in range(COLUMNS)]
NEAR = 1e-5
"""Between two devices; with floats of 19 bits it would be a hundred times as much."""


def dense(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 2))


def convolution() -> nn.Module:
    layers = [nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64 * 2 * 3, 2))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x[:, 0].long())


class Greedy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            return x.new_empty(1 << 46).sum() + x
        return x


def saved(module: nn.Module, kind: str, path: Path) -> str:
    torch.manual_seed(7)
    for parameter in module.eval().parameters():
        nn.init.normal_(parameter, std=0.1)
    if kind == "program":
        rows = torch.export.Dim("rows")
        program = torch.export.export(module, (torch.zeros(4, COLUMNS),), dynamic_shapes=({0: rows},))
        torch.export.save(program, path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(module).save(path)
    return str(path)


def load(path: str, device: str) -> Model:
    return TorchFlavor().load(path, {"features": NAMES, "device": device})


def rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def batch(matrix: np.ndarray[Any, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(np.ascontiguousarray(column)) for column in matrix.T], names=NAMES)


def found(model: Model, data: pa.RecordBatch) -> np.ndarray[Any, Any]:
    return np.column_stack([column.to_numpy() for column in model.predict(data).columns.columns])


@DEVICES
@KINDS
@pytest.mark.parametrize("network", [dense, convolution])
def test_values_are_those_of_the_cpu_and_the_same_again(tmp_path: Path, network: Any, kind: str, device: str) -> None:
    module = network()
    path = saved(module, kind, tmp_path / "m.pt2")
    torch.set_num_threads(1)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(rows())).numpy()
    model = load(path, device)
    once = found(model, batch(rows()))
    assert np.abs(once - wanted).max() < NEAR * np.abs(wanted).max()
    assert found(load(path, device), batch(rows())).tobytes() == once.tobytes()
    assert any("computed on cuda" in note for note in model.info.notes) is (device == "cuda")
    assert model.info.on_gpu is (device == "cuda")
    model.close()


@DEVICES
def test_rows_that_cannot_be_scored_are_told_wherever_it_computes(tmp_path: Path, device: str) -> None:
    model = load(saved(dense(), "script", tmp_path / "m.pt"), device)
    data = batch(rows()[:4]).set_column(0, "c0", pa.array([1.0, None, 3.0, 4.0], pa.float32()))
    assert np.isfinite(found(model, data)).all(axis=1).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="50 rows"):
        load(saved(Shrinking(), "script", tmp_path / "s.pt"), device).predict(batch(rows()[:50]))


class Shrinking(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:2]


@DEVICES
def test_memory_that_is_not_there_is_a_memory_error(tmp_path: Path, device: str) -> None:
    """So that the rows are scored in smaller pieces."""
    model = load(saved(Greedy(), "script", tmp_path / "m.pt"), device)
    with pytest.raises(MemoryError):
        model.predict(batch(rows()[:50]))
    assert found(model, batch(rows()[:2])).shape == (2, COLUMNS)


OUT_OF_RANGE = """
import sys
import pyarrow as pa
from tidemill.flavors.torch import TorchFlavor
from tidemill.domain.errors import Unrecoverable
model = TorchFlavor().load(sys.argv[1], {"features": sys.argv[3].split(","), "device": sys.argv[2]})
for value in (1.0, 50.0, 1.0):
    try:
        columns = [pa.array([value, 2.0])] * len(sys.argv[3].split(","))
        model.predict(pa.RecordBatch.from_arrays(columns, names=sys.argv[3].split(",")))
        print("predicted")
    except ValueError:
        print("a bad row")
    except Unrecoverable:
        print("lost")
"""


@DEVICES
def test_a_row_that_ruins_a_gpu_for_the_process_says_so(tmp_path: Path, device: str) -> None:
    """Else all rows after it would be rejected, too. On a CPU it is a row like others that cannot be scored."""
    path = saved(Embedded(), "script", tmp_path / "m.pt")
    words = [sys.executable, "-c", OUT_OF_RANGE, path, device, ",".join(NAMES)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=200, check=True).stdout.splitlines()
    assert told == ["predicted", *(["lost", "lost"] if device == "cuda" else ["a bad row", "predicted"])]


@DEVICES
@pytest.mark.parametrize(
    ("width", "on_cpu", "on_gpu"), [(8, 16_384, 65_536), (128, 4_096, 65_536), (2_000, 256, 16_384)]
)
def test_the_wider_a_network_the_fewer_rows_a_call(
    tmp_path: Path, device: str, width: int, on_cpu: int, on_gpu: int
) -> None:
    model = load(saved(dense(width), "program", tmp_path / "m.pt2"), device)
    assert model.info.batch_rows == (on_cpu if device == "cpu" else on_gpu)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("transformers"))


@DEVICES
def test_texts_get_the_answers_of_the_cpu(folders: Make, tmp_path: Path, device: str) -> None:
    classifier = folders("BertForSequenceClassification", labels=("bad", "fine", "good"))
    sentences = sentence_folder(folders("BertModel"), tmp_path / device, {"pooling_mode_mean_tokens": True})
    texts = text_batch([text for text in TEXTS if text] * 40)
    for path, options in ((classifier, {"probabilities": True}), (sentences, {})):
        there = TransformersFlavor().load(path, {**options, "device": device})
        once, here = there.predict(texts).columns, TransformersFlavor().load(path, {**options, "device": "cpu"})
        wanted = here.predict(texts).columns
        for name in wanted.schema.names:
            if name != "prediction":
                answers, own = (np.array(each.column(name).to_pylist()) for each in (once, wanted))
                assert np.abs(answers - own).max() < NEAR
        assert there.predict(texts).columns.equals(once)
        there.close()

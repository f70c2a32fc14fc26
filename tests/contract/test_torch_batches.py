"""How many rows a network of PyTorch gets at once: by the widest of its layers, and by nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tidemill.flavors.torch import TorchFlavor

COLUMNS = 3
UNKNOWN = 1_024


def scripted(module: nn.Module, path: Path) -> None:
    torch.jit.script(module).save(path)


def traced(module: nn.Module, path: Path) -> None:
    torch.jit.trace(module, torch.zeros(4, COLUMNS)).save(path)


def exported(module: nn.Module, path: Path) -> None:
    rows = torch.export.Dim("rows")
    torch.export.save(torch.export.export(module, (torch.zeros(4, COLUMNS),), dynamic_shapes=({0: rows},)), path)


SAVED = pytest.mark.parametrize("save", [scripted, traced, exported])
Save = Callable[[nn.Module, Path], None]


def rows_of(save: Save, module: nn.Module, folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(module.eval(), folder / "model.pt2")
    options = {"features": [f"c{number}" for number in range(COLUMNS)], "device": "cpu"}
    return TorchFlavor().load(str(folder / "model.pt2"), options).info.batch_rows


@SAVED
@pytest.mark.parametrize(("width", "rows"), [(8, 16_384), (128, 4_096), (200, 2_048), (2_000, 256)])
def test_the_wider_a_network_the_fewer_rows_it_gets(tmp_path: Path, save: Save, width: int, rows: int) -> None:
    layers = [nn.Linear(COLUMNS, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1)]
    assert rows_of(save, nn.Sequential(*layers, nn.Sigmoid()), tmp_path) == rows


class Spread(nn.Module):
    """Each number becomes 500."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.ones(500))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.unsqueeze(2) * self.frequencies).flatten(1).sum(1)


def convolution() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, COLUMNS)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(4, 1))


@SAVED
@pytest.mark.parametrize("made", [Spread, convolution])
def test_a_layer_that_its_weights_do_not_tell_leaves_it_as_it_was(
    tmp_path: Path, save: Save, made: Callable[[], nn.Module]
) -> None:
    assert rows_of(save, made(), tmp_path) == UNKNOWN

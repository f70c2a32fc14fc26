"""PyTorch models: TorchScript archives and exported programs.

Both can run code while they are loaded, so the engine asks for trust first (docs/adr/0016). Whole modules
and bare weights, as plain `torch.save` writes them, hold no program: they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import ModelUnusable, SchemaMismatch, TidemillError
from tidemill.domain.signature import ModelInfo
from tidemill.flavors import dense, torch_file, torch_program
from tidemill.flavors.bad_rows import predicted_without
from tidemill.flavors.matrix import Array, to_arrow
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.torch_device import Device, last_line
from tidemill.flavors.torch_inputs import Feed, list_lengths, told
from tidemill.flavors.torch_outputs import Outputs, Reader, outputs_of
from tidemill.flavors.torch_program import DTYPES, Argument, Program
from tidemill.ports.flavor import Flavor, Model, Predicted
from tidemill.registry import missing_extra

OPTIONS = ("activation", "device", "dtype", "output", "shape")
ROWS_PER_CHUNK = 131_072

_SAMPLE_ROWS = 2
_OTHER_WIDTHS = (1, 2, 3)
"""A program that takes several of these beside those of its weights takes any."""

_REFUSED = {
    "pickled": ("holds a pickled module or bare weights, and no program that can be run", "Export the program"),
    "compiled": ("is compiled for one machine by AOTInductor", "Save the program before it is compiled"),
    "damaged": ("is cut off or damaged", "Copy the file again, or save it again"),
}
_HOW = "torch.export.save(torch.export.export(model.eval(), ...), 'model.pt2'); or give a module:Class"


class TorchFlavor(Flavor):
    """Files of `torch.jit.save` and `torch.export.save`."""

    name: ClassVar[str] = "torch"
    carries_code: ClassVar[bool] = True
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.torch_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return torch_file.kind_of(head, path) is not None

    @classmethod
    def preload_for(cls, path: str) -> tuple[str, ...]:
        with suppress(OSError), open(path, "rb") as file:
            if torch_file.kind_of(file.read(64), path) == "program":
                return (*cls.preload, "tidemill.flavors.torch_export_library")
        return cls.preload

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        with open(path, "rb") as file:
            kind = torch_file.kind_of(file.read(64), path)
        if kind in ("script", "program") and not torch_file.is_whole(path):
            kind = "damaged"
        if kind not in ("script", "program"):
            what, remedy = _REFUSED.get(str(kind), ("is no file of PyTorch", "Give a file that PyTorch saved"))
            raise ModelUnusable(f"{path} {what}.", remedy=f"{remedy}: {_HOW}.")
        try:
            import torch
        except ModuleNotFoundError as exc:
            raise missing_extra("torch", exc) from exc
        chosen = PredictOptions.of(options)
        chosen.refuse_extra("torch", OPTIONS)
        device = Device(torch, chosen.extra.get("device"))
        load = torch_program.script if kind == "script" else torch_program.exported
        return TorchModel(torch, path, load(torch, path, device.place), device, chosen)


class TorchModel(Model):
    """A program on one device; thread-safe, each call runs in its own thread alone."""

    def __init__(self, torch: Any, path: str, program: Program, device: Device, options: PredictOptions) -> None:
        self._torch, self._path, self._program, self._device = torch, path, program, device
        arguments = told(program.arguments, options.extra.get("dtype"), options.extra.get("shape"))
        self._reader = Reader(torch, path, options.extra.get("output"), options.extra.get("activation"))
        self._tensors = [(DTYPES[each.dtype], getattr(torch, each.dtype)) for each in arguments]
        if program.random:
            raise ModelUnusable(
                f"{path} was exported in training mode: its dropout gives other values each time.",
                remedy="Call model.eval() before torch.export.export.",
            )
        arguments, sample = self._sample(arguments, len(options.features))
        self._feed = Feed(path, arguments, options.features)
        self._outputs: Outputs = outputs_of(path, sample, self._reader.activation, options)
        rule = self._outputs.rule
        rows_of = dense.gpu_batch_rows if device.is_gpu else dense.batch_rows
        self.info = ModelInfo(
            flavor="torch",
            inputs=self._feed.fields,
            outputs=rule.outputs,
            takes_all=not self._feed.fields,
            positional=self._feed.positional,
            task=rule.task,
            classes=rule.labels,
            positive_class=rule.positive,
            layout="threads",
            on_gpu=device.is_gpu,
            batch_rows=rows_of(program.widest),
            rows_per_chunk=ROWS_PER_CHUNK,
            libraries=(("torch", torch.__version__),),
            notes=(*rule.notes, *self._notes(), *device.notes),
        )

    def _notes(self) -> list[str]:
        notes = []
        if self._program.most_rows is not None:
            notes.append(f"exported for {self._program.most_rows} row(s) a call: a dynamic first dimension is faster")
        return notes

    def _sample(self, arguments: tuple[Argument, ...], columns: int) -> tuple[tuple[Argument, ...], dict[str, Array]]:
        """The outputs for one made-up row, and the arguments with the width that was found out."""
        if len(arguments) == 1 and arguments[0].row_shape in (None, (-1,)):
            argument, sample = self._width(arguments[0], columns)
            return (argument,), sample
        try:
            return arguments, self._made_up(arguments)
        except TidemillError:
            raise
        except Exception as exc:
            raise ModelUnusable(
                f"{self._path} cannot score a made-up row of ones: {last_line(exc)}.",
                remedy="Tell the options dtype and shape of its inputs, or wrap the model in a module that takes rows.",
            ) from exc

    def _width(self, argument: Argument, columns: int) -> tuple[Argument, dict[str, Array]]:
        """How many numbers a row of the only argument has: as many as `columns`, or as wide as some weight."""
        widths = [columns] if columns > 1 else list(dict.fromkeys([*self._program.widths, *_OTHER_WIDTHS]))
        works: dict[int, dict[str, Array]] = {}
        failure: Exception | None = None
        for width in widths:
            try:
                works[width] = self._made_up((replace(argument, row_shape=(width,)),))
            except TidemillError:
                raise
            except Exception as exc:
                failure = failure or exc
        if failure is not None and not works:
            what = f"{columns} columns" if columns > 1 else "a matrix of numbers"
            raise SchemaMismatch(
                f"{self._path} does not take {what}: {last_line(failure)}.",
                remedy="Name the columns it was trained with, in that order: --features a,b,c; or tell the options "
                "dtype and shape of its input.",
            ) from failure
        if len(works) > 1 and columns == 0:
            raise SchemaMismatch(
                f"{self._path} does not say how many columns it takes.",
                remedy="Name those it was trained with, in that order: --features a,b,c.",
            )
        width, sample = next(iter(works.items()))
        return (argument if len(works) > 1 else replace(argument, row_shape=(width,))), sample

    def _made_up(self, arguments: Sequence[Argument]) -> dict[str, Array]:
        """Outputs for a row of ones. Raises ModelUnusable if they are not the same when asked again."""
        rows = max(_SAMPLE_ROWS, self._program.least_rows)
        shapes = [(abs(size) for size in each.row_shape or ()) for each in arguments]
        arrays = [np.ones((rows, *shape), dtype) for shape, (dtype, _) in zip(shapes, self._tensors, strict=True)]
        once, again = self._run(arrays), self._run(arrays)
        if any(once[name].tobytes() != again[name].tobytes() for name in once):
            raise ModelUnusable(
                f"{self._path} gives other values each time it is asked.",
                remedy="Save it in eval mode, without dropout or random numbers.",
            )
        return {name: values[:1] for name, values in once.items()}

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        return predicted_without(batch, self._feed.missing(batch), self._outputs.rule, self._columns)

    def _columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """All rows at once; where lists differ in length, those of one length at once."""
        lengths = list_lengths(batch)
        kinds, kind = np.unique(lengths, axis=0, return_inverse=True) if lengths.size else (lengths[:1], None)
        if len(kinds) <= 1 or kind is None:
            return self._outputs.columns(self._run(self._feed.arrays(batch)), batch.num_rows)
        order = np.argsort(kind.reshape(-1), kind="stable")
        pieces = []
        for number in range(len(kinds)):
            rows = batch.take(to_arrow(np.flatnonzero(kind.reshape(-1) == number)))
            pieces.append(self._outputs.columns(self._run(self._feed.arrays(rows)), rows.num_rows))
        return pa.concat_batches(pieces).take(to_arrow(np.argsort(order, kind="stable")))

    def _run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """Arrays by name of output. Calls have as many rows as the program allows."""
        rows = len(arrays[0])
        step = self._program.most_rows or rows
        pieces = [self._call([array[start : start + step] for array in arrays]) for start in range(0, rows, step)]
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _call(self, arrays: Sequence[Array]) -> dict[str, Array]:
        rows = len(arrays[0])
        lacking = self._program.least_rows - rows
        if lacking > 0:
            # Copies of a real row: zeros might be outside of what the program can compute.
            arrays = [np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)]) for array in arrays]
        torch = self._torch
        with self._device.computing():
            tensors = [
                torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device.place, dtype)
                for array, (_, dtype) in zip(arrays, self._tensors, strict=True)
            ]
            found = self._reader.read(self._program.call(*tensors))
        return {name: _rows_of(name, tensor, rows + max(lacking, 0))[:rows] for name, tensor in found.items()}

    def close(self) -> None:
        self._device.close()


def _rows_of(name: str, tensor: Any, rows: int) -> Array:
    """An output as numpy. Raises ValueError unless its first dimension are the rows."""
    if not tensor.ndim or tensor.shape[0] != rows:
        raise ValueError(f"the output {name!r} is of shape {list(tensor.shape)} for {rows} rows")
    return np.asarray(tensor.numpy())

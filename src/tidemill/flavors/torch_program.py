"""A loaded TorchScript archive or exported program, as one thing that can be called."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tidemill.domain.errors import ModelUnusable

DTYPES = {
    "float16": "f4",
    "bfloat16": "f4",
    "float32": "f4",
    "float64": "f8",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "bool": "?",
}
"""Types of input tensors, and the numpy type that they are filled through."""

_DAMAGED_REMEDY = "Copy the file again, or save it again with the PyTorch that is installed here."
_MOST_WIDTHS = 64
_DENSE_OPERATORS = frozenset(
    {
        *(
            "linear",
            "addmm",
            "matmul",
            "mm",
            "batch_norm",
            "layer_norm",
            "dropout",
            "cat",
            "to",
            "contiguous",
            "detach",
        ),
        *(
            "relu",
            "relu_",
            "leaky_relu",
            "elu",
            "selu",
            "celu",
            "gelu",
            "silu",
            "mish",
            "prelu",
            "softplus",
            "hardtanh",
        ),
        *(
            "sigmoid",
            "tanh",
            "softmax",
            "log_softmax",
            "clamp",
            "add",
            "add_",
            "sub",
            "mul",
            "div",
            "pow",
            "neg",
            "abs",
        ),
        *(
            "exp",
            "log",
            "sqrt",
            "where",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "argmax",
            "mean",
            "sum",
            "flatten",
            "view",
        ),
        *("reshape", "squeeze", "size", "dim", "len", "format", "__getitem__", "select", "slice", "t"),
    }
)
"""With these alone no layer holds more numbers for a row than the largest dimension of a weight. Convolutions,
attention and what adds a dimension hold more, and their weights do not say how many."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One input tensor: its first dimension are the rows, `row_shape` is what follows.

    -1 stands for any length; `row_shape` None if the file does not say. `dtype` is a word of DTYPES.
    """

    name: str
    dtype: str = "float32"
    row_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """`call` takes one tensor for each argument, all of the same number of rows, in eval mode."""

    call: Callable[..., Any]
    arguments: tuple[Argument, ...]
    least_rows: int = 1
    most_rows: int | None = None
    widths: tuple[int, ...] = ()
    """Sizes that occur in the weights: a matrix of inputs is as wide as one of them."""
    widest: int | None = None
    """How many numbers the widest layer has for each row; None if the weights do not tell."""
    random: bool = False
    """Exported in training mode, so dropout still draws numbers."""


def script(torch: Any, path: str, device: Any) -> Program:
    """Load what `torch.jit.save` wrote. Raises ModelUnusable."""
    with _loading(path), warnings.catch_warnings():
        # It says that TorchScript is deprecated.
        warnings.simplefilter("ignore")
        module = torch.jit.load(path, map_location=device).eval()
        schema = module.forward.schema

    def call(*tensors: Any) -> Any:
        # Optimising rewrites the code after the first calls; values must not depend on how often it ran.
        with torch.jit.optimized_execution(False):
            return module(*tensors)

    state = module.state_dict()
    return Program(
        call=call,
        arguments=tuple(_script_arguments(path, schema)),
        widths=_widths(state),
        widest=_widest(state, _script_operators(module.inlined_graph)),
    )


def _script_operators(block: Any) -> Iterator[str]:
    """Operators on tensors, with those in branches and loops."""
    for node in block.nodes():
        space, _, name = node.kind().partition("::")
        if space != "prim":
            yield name
        for inner in node.blocks():
            yield from _script_operators(inner)


def _script_arguments(path: str, schema: Any) -> Iterator[Argument]:
    for argument in schema.arguments[1:]:
        if argument.has_default_value():
            return
        if str(argument.type) != "Tensor":
            raise ModelUnusable(
                f"{path}: forward takes {argument.name!r} as {argument.type}, not as a tensor.",
                remedy="Wrap the model in a module whose forward takes tensors of shape [rows] or [rows, columns].",
            )
        yield Argument(name=argument.name)


def exported(torch: Any, path: str, device: Any) -> Program:
    """Load what `torch.export.save` wrote. Raises ModelUnusable."""
    from torch.export.passes import move_to_device_pass
    from torch.utils import _pytree as pytree

    with _loading(path), _only_weights():
        program = torch.export.load(path)
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        module = program.module()
    wanted = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    arguments = tuple(_exported_argument(path, node) for node in inputs)
    if not arguments or len(arguments) != len(program.graph_signature.user_inputs):
        raise _no_rows(path, "it takes arguments that are not tensors")
    least, most = _row_range(path, program, [node.meta["val"].shape[0] for node in inputs])
    structure = program.call_spec.in_spec

    def call(*tensors: Any) -> Any:
        arguments, named = pytree.tree_unflatten(list(tensors), structure)
        return module(*arguments, **named)

    return Program(
        call=call,
        arguments=arguments,
        least_rows=least,
        most_rows=most,
        widths=_widths(program.state_dict),
        widest=_widest(program.state_dict, _exported_operators(program.graph)),
        random=any(_draws(node) for node in program.graph.nodes),
    )


@contextmanager
def _loading(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        words = str(exc).strip().splitlines() or ["no message"]
        raise ModelUnusable(
            f"PyTorch cannot load {path}: {type(exc).__name__}: {words[0]}", remedy=_DAMAGED_REMEDY
        ) from exc


@contextmanager
def _only_weights() -> Iterator[None]:
    """Hold `torch.load` to tensors: for the example inputs in a program it would else fall back to unpickling."""
    name, logger = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", logging.getLogger("torch.export")
    before, level = os.environ.get(name), logger.level
    os.environ[name] = "1"
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _exported_argument(path: str, node: Any) -> Argument:
    value = node.meta.get("val")
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if dtype not in DTYPES:
        raise _no_rows(path, f"the input {node.name!r} is {dtype or 'no tensor'}")
    if not value.shape:
        raise _no_rows(path, f"the input {node.name!r} is a single number")
    row_shape = tuple(size if isinstance(size, int) else -1 for size in value.shape[1:])
    if row_shape.count(-1) > 1:
        raise _no_rows(path, f"the input {node.name!r} has several dimensions of any length")
    return Argument(name=node.name, dtype=dtype, row_shape=row_shape)


def _row_range(path: str, program: Any, sizes: Sequence[Any]) -> tuple[int, int | None]:
    """How many rows one call takes: at least, at most (None: no bound)."""
    if len({str(size) for size in sizes}) != 1:
        raise _no_rows(path, f"its inputs begin with different dimensions: {', '.join(map(str, sizes))}")
    size = sizes[0]
    if isinstance(size, int):
        return size, size
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        raise _no_rows(path, f"the number of rows is computed: {size}")
    least = max(1, int(bounds.lower))
    most = int(bounds.upper) if getattr(bounds.upper, "is_Integer", False) else None
    return least, most


def _no_rows(path: str, why: str) -> ModelUnusable:
    return ModelUnusable(
        f"{path} does not take rows: {why}.",
        remedy="Export it with input tensors whose first dimension is the rows, dynamic (dynamic_shapes) and the same "
        "for all of them.",
    )


def _draws(node: Any) -> bool:
    """Whether a node of the graph is told to behave as in training."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or "dropout" not in schema.name:
        return False
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return given.get("train") is True


def _exported_operators(graph: Any) -> Iterator[str]:
    """Operators on tensors; of anything else that is called, some other text."""
    for node in graph.nodes:
        if node.op not in ("placeholder", "get_attr", "output"):
            schema = getattr(node.target, "_schema", None)
            yield str(node.target) if schema is None else schema.name.rpartition("::")[2]


def _widest(state: Any, operators: Iterable[str]) -> int | None:
    if not _DENSE_OPERATORS.issuperset(operators):
        return None
    return max((int(size) for tensor in state.values() for size in tensor.shape), default=0)


def _widths(state: Any) -> tuple[int, ...]:
    """The last dimension of each weight, in order, each once."""
    found = dict.fromkeys(int(tensor.shape[-1]) for tensor in state.values() if getattr(tensor, "ndim", 0))
    return tuple(list(found)[:_MOST_WIDTHS])

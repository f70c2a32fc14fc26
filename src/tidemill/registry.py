"""Names to members, imported only when asked for: the one table of built-ins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Generic, TypeVar, cast

from tidemill.domain.errors import MissingExtra, UnknownFormat
from tidemill.domain.plan import InputFile
from tidemill.ports.encoder import Encoder
from tidemill.ports.executor import Executor
from tidemill.ports.flavor import Flavor
from tidemill.ports.sink import Sink
from tidemill.ports.source import Source

T = TypeVar("T")


class Registry(Generic[T]):
    """A read-only table of one kind. Third parties add members by the entry point `tidemill.<kind>`."""

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.builtin = MappingProxyType(dict(builtin))

    def names(self) -> list[str]:
        """Built-ins in their order, then third parties' by name."""
        return [*self.builtin, *sorted({e.name for e in self._entry_points()} - set(self.builtin))]

    def get(self, name: str) -> type[T]:
        """The member's class. Raises UnknownFormat for a name that nobody registered, MissingExtra."""
        target = self.builtin.get(name)
        if target is None:
            found = [e for e in self._entry_points() if e.name == name]
            if len(found) != 1:
                raise UnknownFormat(
                    f"No {self.kind[:-1]} is called {name!r}.", remedy=f"Known: {', '.join(self.names())}."
                )
            target = found[0].value
        module, _, attribute = target.partition(":")
        try:
            return cast("type[T]", getattr(import_module(module), attribute))
        except ModuleNotFoundError as exc:
            if (exc.name or "").startswith("tidemill"):
                raise
            raise missing_extra(name, exc) from exc

    def members(self) -> Iterator[type[T]]:
        """All classes, in the order of `names`."""
        return (self.get(name) for name in self.names())

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        return installed(f"tidemill.{self.kind}")


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """Third parties' members. Looked up once in a process: it reads every installed distribution."""
    return tuple(entry_points(group=group))


def missing_extra(extra: str, cause: ModuleNotFoundError) -> MissingExtra:
    """The error for an optional library that is not there, with the line that installs it."""
    return MissingExtra(f"{extra!r} needs the package {cause.name!r}.", remedy=f"Run: pip install 'tidemill[{extra}]'")


class _Hidden(MetaPathFinder):
    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self._packages:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def hiding(*packages: str) -> Iterator[None]:
    """Meanwhile nobody finds these packages; what is imported already stays.

    For libraries that import others only because they are there.
    """
    hidden = _Hidden(packages)
    sys.meta_path.insert(0, hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(hidden)


sources: Registry[Source] = Registry(
    "sources",
    {
        "parquet": "tidemill.sources.parquet:ParquetSource",
        "csv": "tidemill.sources.csv:CsvSource",
        "jsonl": "tidemill.sources.jsonl:JsonlSource",
        "arrow": "tidemill.sources.arrow:ArrowSource",
        "orc": "tidemill.sources.orc:OrcSource",
        "avro": "tidemill.sources.avro:AvroSource",
        "excel": "tidemill.sources.excel:ExcelSource",
    },
)

encoders: Registry[Encoder] = Registry(
    "encoders",
    {
        "parquet": "tidemill.encoders.parquet:ParquetEncoder",
        "csv": "tidemill.encoders.csv:CsvEncoder",
        "jsonl": "tidemill.encoders.jsonl:JsonLinesEncoder",
        "arrow": "tidemill.encoders.arrow:ArrowEncoder",
        "orc": "tidemill.encoders.orc:OrcEncoder",
    },
)

sinks: Registry[Sink] = Registry("sinks", {"local": "tidemill.sinks.local:LocalSink"})

flavors: Registry[Flavor] = Registry(
    "flavors",
    {
        "lightgbm": "tidemill.flavors.lightgbm:LightGBMFlavor",
        "xgboost": "tidemill.flavors.xgboost:XGBoostFlavor",
        "catboost": "tidemill.flavors.catboost:CatBoostFlavor",
        "python": "tidemill.flavors.python:PythonFlavor",
        "sklearn": "tidemill.flavors.sklearn:SklearnFlavor",
        "onnx": "tidemill.flavors.onnx:OnnxFlavor",
        "torch": "tidemill.flavors.torch:TorchFlavor",
        "transformers": "tidemill.flavors.transformers:TransformersFlavor",
        "pickle": "tidemill.flavors.sklearn:PickleFlavor",
        "mlflow_native": "tidemill.flavors.mlflow_native:MlflowNativeFlavor",
        "mlflow": "tidemill.flavors.mlflow:MlflowFlavor",
    },
)


def list_inputs() -> Callable[..., Iterator[InputFile]]:
    """The function that lists local input files: (paths, suffixes, confines) -> InputFile in order."""
    return cast("Callable[..., Iterator[InputFile]]", import_module("tidemill.sources.listing").list_inputs)


def suffixes_of(input_format: str) -> tuple[str, ...]:
    """What the files of a format end with that a folder is searched for; "auto" is every format."""
    names = sources.names() if input_format == "auto" else [input_format]
    return tuple(suffix for name in names for suffix in sources.get(name).suffixes)


def detect_format() -> Callable[[InputFile], str]:
    """The function that names the source for a file by its content."""
    detect = import_module("tidemill.sources.listing").detect_format
    return lambda file: str(detect(file, [sources.get(name) for name in sources.names()]))


def open_source() -> Callable[..., Source]:
    """The function that opens a source: (name, options, spool, types of partitions once they are settled)."""
    return cast("Callable[..., Source]", import_module("tidemill.sources.partitioned").open_source)


def read_head() -> Callable[[InputFile, int], bytes]:
    """The function that gives the first bytes of a file's content, decompressed: (file, how many at most)."""
    return cast("Callable[[InputFile, int], bytes]", import_module("tidemill.sources.compression").read_head)


executors: Registry[Executor] = Registry("executors", {"local": "tidemill.executors.local:LocalExecutor"})

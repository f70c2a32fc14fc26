"""Names to members, imported only when asked for: the one table of built-ins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, distributions
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from tidemill.domain.errors import MissingExtra, UnknownFormat

if TYPE_CHECKING:
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
            return self._others(name)
        module, _, attribute = target.partition(":")
        return cast("type[T]", getattr(import_module(module), attribute))

    def members(self) -> Iterator[type[T]]:
        """All classes, in the order of `names`."""
        return (self.get(name) for name in self.names())

    def _others(self, name: str) -> type[T]:
        """A third party's member, whose module may lack what it imports."""
        found = [each for each in self._entry_points() if each.name == name]
        if len(found) != 1:
            raise UnknownFormat(f"No {self.kind[:-1]} is called {name!r}.", remedy=f"Known: {', '.join(self.names())}.")
        try:
            return cast("type[T]", found[0].load())
        except ModuleNotFoundError as exc:
            owner = f" of {found[0].dist.name}" if found[0].dist else ""
            raise MissingExtra(
                f"The {self.kind[:-1]} {name!r}{owner} needs the module {exc.name!r}, which is not there.",
                remedy="Install the package that it comes from.",
            ) from exc

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        return installed(f"tidemill.{self.kind}")


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Third parties' members."""
    return tuple(entry for entry in _all_installed() if entry.group == group)


@cache
def _all_installed() -> tuple[EntryPoint, ...]:
    """Of every kind. Looked up once in a process: it opens a file of every installed distribution.

    `importlib.metadata.entry_points` would parse them all, once for each group.
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if "[tidemill." in (distribution.read_text("entry_points.txt") or ""):
            # The first one of a name is the one that is imported.
            found.setdefault(distribution.name, distribution)
    return tuple(entry for each in found.values() for entry in each.entry_points)


_EXTRAS = MappingProxyType(
    {
        **{name: name for name in ("lightgbm", "xgboost", "catboost", "torch", "transformers", "mlflow")},
        **dict.fromkeys(("sklearn", "skops", "joblib", "scipy", "pandas"), "sklearn"),
        "onnxruntime": "onnx",
        "fastavro": "avro",
        "python_calamine": "excel",
        "psycopg": "postgres",
        "tokenizers": "transformers",
    }
)
"""Top-level module -> the extra that brings it."""


def extra_of(module: str) -> str | None:
    """The extra that brings a module ("sklearn.tree._tree" -> "sklearn"), if one does."""
    return _EXTRAS.get(module.partition(".")[0])


def missing_extra(extra: str, cause: ModuleNotFoundError) -> MissingExtra:
    """The error for an optional library that is not there, with the line that installs it."""
    return MissingExtra(f"{extra!r} needs the package {cause.name!r}.", remedy=f"Run: pip install 'tidemill[{extra}]'")


class _Hidden:
    """A finder on `sys.meta_path`."""

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

_SUFFIXES = MappingProxyType(
    {
        "parquet": (".parquet", ".pq"),
        "csv": (".csv", ".tsv"),
        "jsonl": (".jsonl", ".ndjson"),
        "arrow": (".arrow", ".feather", ".arrows", ".ipc"),
        "orc": (".orc",),
        "avro": (".avro",),
        "excel": (".xlsx", ".xls", ".xlsb", ".xlsm", ".ods"),
    }
)
"""`Source.suffixes` of the built-ins: a folder is listed without importing what reads its files."""

encoders: Registry[Encoder] = Registry(
    "encoders",
    {
        "parquet": "tidemill.encoders.parquet:ParquetEncoder",
        "csv": "tidemill.encoders.csv:CsvEncoder",
        "jsonl": "tidemill.encoders.jsonl:JsonLinesEncoder",
        "arrow": "tidemill.encoders.arrow:ArrowEncoder",
        "orc": "tidemill.encoders.orc:OrcEncoder",
        "avro": "tidemill.encoders.avro:AvroEncoder",
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
    return tuple(suffix for name in names for suffix in _SUFFIXES.get(name) or sources.get(name).suffixes)


def detect_format() -> Callable[[InputFile], str]:
    """The function that names the source for a file by its content."""
    detect = import_module("tidemill.sources.detection").detect_format
    return lambda file: str(detect(file, [sources.get(name) for name in sources.names()]))


def open_source() -> Callable[..., Source]:
    """The function that opens a source: (name, options, spool, types of partitions once they are settled)."""
    return cast("Callable[..., Source]", import_module("tidemill.sources.partitioned").open_source)


def read_head() -> Callable[[InputFile, int], bytes]:
    """The function that gives the first bytes of a file's content, decompressed: (file, how many at most)."""
    return cast("Callable[[InputFile, int], bytes]", import_module("tidemill.sources.compression").read_head)


executors: Registry[Executor] = Registry("executors", {"local": "tidemill.executors.local:LocalExecutor"})

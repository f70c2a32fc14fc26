"""Which model is this, and may it be loaded. Runs in children."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill import registry
from tidemill.domain.errors import ModelUnusable, NotFound, NotTrusted, TidemillError, UnknownFormat
from tidemill.ports.flavor import Flavor, Model

HEAD_BYTES = 64 << 10


def identify(path: str, flavor: str | None = None) -> dict[str, Any]:
    """Digest and flavor of the model at `path`, by content; nothing is loaded.

    Returns {"path", "digest", "flavor", "carries_code", "preload", "size_bytes"}. Raises NotFound,
    UnknownFormat.
    """
    name, kind = _recognise(path, flavor)
    digest, size = digest_of(path)
    return {
        "path": path,
        "digest": digest,
        "flavor": name,
        "carries_code": kind.carries_code,
        "preload": [kind.__module__, *kind.preload_for(path), *_named_by_code(path)],
        "size_bytes": size,
    }


def _recognise(path: str, flavor: str | None) -> tuple[str, type[Flavor]]:
    if flavor is not None:
        return flavor, registry.flavors.get(flavor)
    head = _head(path)
    for name in registry.flavors.names():
        kind = registry.flavors.get(name)
        if kind.matches(head, path):
            return name, kind
    raise UnknownFormat(
        f"{path} is not a model of a known format.",
        remedy=f"Known flavors: {', '.join(registry.flavors.names())}; name one with --flavor.",
    )


def _named_by_code(path: str) -> tuple[str, ...]:
    """What the zygote had better import for code: pandas, if its source speaks of it; else each scorer would."""
    if not is_code(path):
        return ()
    return ("pandas",) if b"pandas" in _source_file(path.rpartition(":")[0]).read_bytes() else ()


def _head(path: str) -> bytes:
    if is_code(path) or os.path.isdir(path):
        return b""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if not head:
        raise ModelUnusable(f"The model {path} is empty.", remedy="Save the model again.")
    return head


def _unreadable(path: str, exc: OSError) -> TidemillError:
    if isinstance(exc, FileNotFoundError):
        return NotFound(f"There is no model at {path}.", remedy="Give a model file, a folder, or module:Class.")
    return ModelUnusable(f"The model {path} cannot be read: {exc.strerror}.", remedy="Check its permissions.")


def versions(given: Mapping[str, str]) -> dict[str, str]:
    """The installed version of each distribution; what is no distribution keeps the given one."""
    found = {}
    for name, version in given.items():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = version
    return found


def is_code(path: str) -> bool:
    """Whether `path` means "module:Class" or "file.py:Class" rather than a file."""
    target, colon, name = path.rpartition(":")
    return bool(colon) and name.isidentifier() and not os.path.exists(path) and bool(target)


def digest_of(path: str) -> tuple[str, int]:
    """sha256 and size in bytes: of a file its bytes, of a folder its sorted (path, size, sha256), of
    code the source file, the class name and the version of the distribution it comes from.

    Raises NotFound, ModelUnusable for what cannot be read.
    """
    try:
        return _digest_of_code(path) if is_code(path) else _digest_of_files(Path(path))
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _digest_of_files(target: Path) -> tuple[str, int]:
    if not target.is_dir():
        return _digest_of_file(target)
    total, size = hashlib.sha256(), 0
    for file in sorted(p for p in target.rglob("*") if p.is_file()):
        digest, bytes_ = _digest_of_file(file)
        total.update(f"{file.relative_to(target).as_posix()}\0{bytes_}\0{digest}\n".encode())
        size += bytes_
    return total.hexdigest(), size


def _digest_of_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _digest_of_code(path: str) -> tuple[str, int]:
    module, _, name = path.rpartition(":")
    source = _source_file(module)
    data = source.read_bytes()
    version = "" if module.endswith(".py") else _distribution_version(module, source)
    return hashlib.sha256(data + f"\0{name}\0{version}".encode()).hexdigest(), len(data)


def _source_file(module: str) -> Path:
    if module.endswith(".py"):
        if not os.path.isfile(module):
            raise NotFound(f"There is no file {module}.", remedy="Give module:Class or path/to/file.py:Class.")
        return Path(module)
    if (cwd := os.getcwd()) not in sys.path:
        sys.path.insert(0, cwd)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as exc:
        raise NotFound(
            f"The module {module!r} cannot be found: {exc}.",
            remedy="Run from the folder it lies in, or install it.",
        ) from exc
    if spec is None or not spec.origin or not os.path.isfile(spec.origin):
        raise NotFound(f"There is no module {module!r}.", remedy="Run from the folder it lies in, or install it.")
    return Path(spec.origin)


def _distribution_version(module: str, source: Path) -> str:
    """Name and version of the installed distribution that brings a module; "" for a file of one's own."""
    top = module.partition(".")[0]
    # The standard library's map of all modules parses every file name of every package: a fifth of a second.
    brought = re.compile(rf"^{re.escape(top)}(/|\.py,|\.[^/,]*(so|pyd),)", re.MULTILINE)
    for distribution in importlib.metadata.distributions():
        named = distribution.read_text("top_level.txt")
        if named:
            found = top in named.split()
        else:
            # Long lists, which name only what lies beside them.
            beside = source.is_relative_to(str(distribution.locate_file("")))
            found = beside and brought.search(distribution.read_text("RECORD") or "") is not None
        if found:
            return f"{distribution.name} {distribution.version}"
    return ""


def check_trusted(model: Mapping[str, Any]) -> None:
    """Raise NotTrusted for a format that can carry code, unless `model` has "trusted": whether a person
    allowed this digest to run code."""
    if registry.flavors.get(model["flavor"]).carries_code and not model.get("trusted"):
        raise NotTrusted(
            f"{model['path']} ({model['flavor']}, sha256 {model['digest'][:12]}) can run code when it is loaded.",
            remedy="If you know where it comes from, allow this very file with --trust.",
        )


def load(model: Mapping[str, Any], options: Mapping[str, Any]) -> Model:
    """Load the model that `identify` described, checking trust and digest again. Its "kernels" is the folder where
    compiled kernels are kept, if they are."""
    check_trusted(model)
    try:
        found, _ = digest_of(model["path"])
    except NotFound as exc:
        raise ModelUnusable(
            f"The model {model['path']} is gone since this job was submitted.", remedy="Put it back, or add it again."
        ) from exc
    if found != model["digest"]:
        raise ModelUnusable(f"The model {model['path']} changed since this job was submitted.", remedy="Run it again.")
    if options.get("accelerate") and model.get("kernels") is not None:
        options = {**options, "kernel_file": os.path.join(model["kernels"], f"{found}-{model['flavor']}")}
    return registry.flavors.get(model["flavor"])().load(model["path"], options)

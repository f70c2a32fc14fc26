"""Clean environments: the core of Tidemill, one extra, and the tools of its contract test; nothing else that is here.

They are made of the files that are installed for this Python, by symbolic links, in well under a second. What an extra
brings is read from `pyproject.toml` and the metadata of the installed distributions, as pip would read it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
import venv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: Mapping[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
GROUPS: Mapping[str, list[str]] = PYPROJECT["dependency-groups"]
CONTRACT = ROOT / "tests" / "contract"

Files = Mapping[str, Iterable[tuple[str, ...]]]
"""Distribution -> the parts of its files' paths below the folder they were installed in."""


@dataclass(frozen=True, kw_only=True)
class Clean:
    """An environment in a folder of its own, and a home for Tidemill."""

    python: Path
    home: Path

    def run(self, *words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python WORDS` there, without what leads back to the environment that this process runs in."""
        ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS")
        kept = {name: value for name, value in os.environ.items() if name not in ours and "TIDEMILL" not in name}
        return subprocess.run(
            [str(self.python), *words],
            cwd=cwd,
            env={**kept, "TIDEMILL_HOME": str(self.home), "NO_COLOR": "1", "CI": "true", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )


def needs_of(extra: str | None) -> list[str]:
    """What `tidemill[extra]` asks for, as pip is told it; of the core alone without one."""
    return [*PYPROJECT["project"]["dependencies"], *(EXTRAS[extra] if extra else ())]


def tools_of(extra: str | None) -> list[str]:
    """What the contract test of an extra needs besides."""
    return [*GROUPS["contract"], *GROUPS.get(f"contract-{extra}", ())]


def closure(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements bring, by their normal names."""
    found: dict[str, set[str]] = {}
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = {"", *wanted.extras}
        new = extras - found.get(name, set())
        if not new:
            continue
        found.setdefault(name, set()).update(new)
        waiting += [
            each
            for each in map(Requirement, metadata.distribution(name).requires or ())
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return set(found)


def clean_environment(folder: Path, requirements: Iterable[str]) -> Clean:
    """Make one with the distributions that the requirements bring, and with Tidemill's own source."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder / "venv")
    (target,) = (folder / "venv" / "lib").glob("python*/site-packages")
    chosen = closure(requirements)
    _link(target, installed_files(), chosen, ())
    (target / "tidemill").symlink_to(ROOT / "src" / "tidemill")
    return Clean(python=folder / "venv" / "bin" / "python", home=folder / "home")


@cache
def installed_files() -> Files:
    """Of all distributions here. Their scripts lie elsewhere and are not among them."""
    return {canonicalize_name(each.metadata["Name"]): list(_parts(each)) for each in metadata.distributions()}


def _parts(distribution: metadata.Distribution) -> Iterator[tuple[str, ...]]:
    # `distribution.files` makes an object of each line, which takes seconds for all of them.
    for line in (distribution.read_text("RECORD") or "").splitlines():
        path = re.match('"(?:[^"]|"")*"|[^,]*', line)
        parts = PurePosixPath(path[0].strip('"')).parts if path else ()
        if parts and parts[0] not in ("..", "/"):
            yield parts


def _link(target: Path, files: Files, chosen: set[str], within: tuple[str, ...]) -> None:
    """Link what lies in one folder; a folder that others share is made, and gone through."""
    owners: dict[str, dict[str, list[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(list))
    for name, paths in files.items():
        for parts in paths:
            owners[parts[len(within)]][name].append(parts)
    for entry, owned in owners.items():
        source = _site_packages() / Path(*within, entry)
        if not owned.keys() & chosen or not source.exists():
            continue
        if owned.keys() <= chosen or not source.is_dir():
            (target / entry).symlink_to(source)
        else:
            (target / entry).mkdir()
            _link(target / entry, owned, chosen, (*within, entry))


@cache
def _site_packages() -> Path:
    return Path(str(metadata.distribution("pytest").locate_file("")))

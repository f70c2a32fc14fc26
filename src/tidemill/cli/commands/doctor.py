"""`tidemill doctor`: what this installation is, and whether it will work."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer
from rich.markup import escape

from tidemill.bootstrap.wiring import opened
from tidemill.cli.options import Json
from tidemill.cli.output import EXIT_DONE, EXIT_FAILED, bytes_text, data, print_json
from tidemill.config import Settings, usable_memory_bytes
from tidemill.domain.config_files import config_files
from tidemill.domain.errors import TidemillError
from tidemill.domain.showing import redacted

LIBRARIES = (
    "pyarrow",
    "numpy",
    "lightgbm",
    "xgboost-cpu",
    "catboost",
    "scikit-learn",
    "skops",
    "onnxruntime",
    "torch",
    "transformers",
    "pandas",
    "tidemill-kernels",
)


def doctor(json: Json = False) -> None:
    """Check this installation and print every path and where each setting came from."""
    settings = Settings()
    facts = {
        "tidemill": version("tidemill"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "installed in": sysconfig.get_paths()["purelib"],
        "extras": ", ".join(sorted(_extras())) or "none",
        "cores": str(settings.cores),
        "memory for scorers": bytes_text(usable_memory_bytes(settings.memory_share)),
        "settings files": ", ".join(f"{path}{'' if path.exists() else ' (not there)'}" for path in config_files()),
    }
    checks = [*_setting_lines(settings), *_library_lines()]
    problem = _try_out(settings)
    if json:
        print_json({**facts, **dict(checks), "ok": problem is None, "problem": problem})
    else:
        lines = [*facts.items(), *checks]
        width = max(len(name) for name, _ in lines) + 2
        for name, value in lines:
            data.print(f"[bold]{name:{width}}[/]{escape(value)}")
        data.print(
            "[bold green]ok[/] store, child processes and pyarrow work"
            if problem is None
            else f"[bold red]broken[/] {escape(problem)}"
        )
    raise typer.Exit(EXIT_DONE if problem is None else EXIT_FAILED)


def _setting_lines(settings: Settings) -> list[tuple[str, str]]:
    lines = []
    for name in type(settings).model_fields:
        origin = "environment" if f"TIDEMILL_{name.upper()}" in os.environ else ""
        origin = origin or ("settings file" if name in settings.model_fields_set else "default")
        lines.append((f"setting {name}", f"{redacted(str(getattr(settings, name)))} ({origin})"))
    return lines


def _extras() -> set[str]:
    needed: dict[str, list[str]] = {}
    for requirement in requires("tidemill") or []:
        name, marker, rest = requirement.partition("extra ==")
        if marker:
            package = name.partition(";")[0].strip().rstrip("<>=!~0123456789. ")
            needed.setdefault(rest.strip().strip("'\""), []).append(package.partition("[")[0].partition(">")[0])
    return {extra for extra, packages in needed.items() if all(_installed(package) for package in packages)}


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _library_lines() -> list[tuple[str, str]]:
    return [(name, version(name) if _installed(name) else "not installed") for name in LIBRARIES]


def _try_out(settings: Settings) -> str | None:
    try:
        with opened(settings) as context:
            answer: dict[str, Any] = context.executor.call(
                context.entries.versions, {"pyarrow": ""}, preload=context.compute.preload
            )
            context.store.jobs.list(limit=1)
    except TidemillError as exc:
        return str(exc)
    return None if answer.get("pyarrow") else "pyarrow is not installed"

"""Job specs as files of YAML, which JSON is, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from tidemill.cli.output import people
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.wire.spec import JobSpec


def read_spec(path: Path) -> dict[str, Any]:
    """The words of a job spec. Raises NotFound, InvalidSpec."""
    try:
        words = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"There is no job spec {path}.", remedy="`tidemill run MODEL INPUT -o OUT --save FILE` writes one."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidSpec(f"{path} cannot be read: {exc}", remedy="Mend the file; it must be YAML or JSON.") from exc
    if not isinstance(words, dict):
        raise InvalidSpec(f"{path} is not a job spec.", remedy="See `tidemill spec schema`.")
    return words


def save_spec(spec: JobSpec, path: Path) -> None:
    """Write the spec as YAML, only what differs from the defaults."""
    words = spec.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(words, sort_keys=False, allow_unicode=True), encoding="utf-8")
    people.print(f"saved: run it with [bold]tidemill run {escape(str(path))}[/]")


def parsed(text: str) -> Any:
    """One value as YAML has it. Raises InvalidSpec."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InvalidSpec(f"{text!r} cannot be read.", remedy="Write a list as [a, b].") from exc

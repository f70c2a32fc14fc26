"""Write the pages of docs/reference that come from the code; `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import typer
from pydantic import IPvAnyNetwork, SecretStr

from tidemill.cli.main import app
from tidemill.config import LoginRule, Settings
from tidemill.domain import errors, job
from tidemill.wire.spec import JobSpec

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Made by `make reference` from {source}; change it there. -->"

_KINDS = {str: "text", SecretStr: "secret text", NoneType: "none", LoginRule: "rule", IPvAnyNetwork: "network"}

CLASSES = {
    errors.TidemillError: "Everything below is one of these, so one `except` catches all.",
    errors.Refused: "Nothing was started and nothing was changed: the request has to change. Exit code 2.",
    errors.JobFailed: "The job started and cannot succeed as it is. Nothing is visible at its output. Exit code 1.",
}


def errors_page() -> str:
    """The tree of errors, and every code with what it means."""
    lines = [
        "# Errors",
        "",
        NOTE.format(source="`src/tidemill/domain/errors.py`"),
        "",
        "Every failure is one of these: an exception in Python, a `code` in `--json` output and in the store.",
        "Its message says what, where and why; its remedy says what to do.",
        "Codes are stable: programs may rely on them.",
        "",
        "```text",
        *_tree_of(errors.__doc__ or ""),
        "```",
        "",
        "| code | class | is a | meaning |",
        "|---|---|---|---|",
    ]
    for code, kind in errors.BY_CODE.items():
        parent = kind.__mro__[1].__name__
        lines.append(f"| `{code}` | `{kind.__name__}` | `{parent}` | {_first_line(kind)} |")
    lines += ["", "## Families", ""]
    lines += [f"- `{kind.__name__}`: {text}" for kind, text in CLASSES.items()]
    return "\n".join(lines) + "\n"


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _tree_of(docstring: str) -> list[str]:
    _, _, drawing = docstring.partition("\n\n")
    return dedent(drawing).strip().splitlines()


def states_page() -> str:
    """The states of a job, drawn and as a table."""
    lines = [
        "# States of a job",
        "",
        NOTE.format(source="`src/tidemill/domain/job.py`"),
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {job.JobState.QUEUED}",
        f"    [*] --> {job.JobState.PLANNING}: tidemill run",
        *(f"    {before} --> {after}" for before in job.JobState for after in _after(before)),
        *(f"    {state} --> [*]" for state in job.JobState if state in job.ENDED),
        "```",
        "",
        "| state | may become | held by a worker | output is visible |",
        "|---|---|---|---|",
    ]
    for state in job.JobState:
        after = ", ".join(f"`{each}`" for each in _after(state)) or "nothing"
        lines.append(f"| `{state}` | {after} | {_yes(state in job.LEASED)} | {_yes(state in job.FINISHED)} |")
    lines += [
        "",
        "What people ask for (`run`, `pause`, `cancel`) is kept apart from the state, so no wish is lost:",
        "a job that nobody holds changes at once, one that is held changes when its worker sees the wish.",
        "While a job is `committing` wishes change nothing: it ends succeeded,",
        "or failed only after reading back that nothing was published.",
        "A claimed job goes on from where it had got to; that is why `queued` leads to `running` and `committing` too.",
    ]
    return "\n".join(lines) + "\n"


def _after(state: job.JobState) -> list[job.JobState]:
    return [each for each in job.JobState if job.can_follow(state, each)]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def settings_page() -> str:
    """Every setting with its type, default and meaning."""
    lines = [
        "# Settings",
        "",
        NOTE.format(source="`src/tidemill/config.py`"),
        "",
        "A flag wins over the environment, the environment over `./tidemill.toml`,",
        "that over `~/.config/tidemill/config.toml` (with `TIDEMILL_HOME` set: `$TIDEMILL_HOME/config.toml`),",
        "and all of them over the default.",
        "`tidemill doctor` shows what is in force.",
        "",
        "| setting | environment | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        variable = f"{Settings.model_config['env_prefix']}{name.upper()}"
        default = "of this machine" if field.default_factory else f"`{field.default}`"
        lines.append(f"| `{name}` | `{variable}` | {_kind(field.annotation)} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _kind(annotation: Any) -> str:
    """A type for people: "list of path or none"."""
    if isinstance(annotation, UnionType):
        return " or ".join(_kind(each) for each in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    return _KINDS.get(annotation) or str(annotation.__name__).lower()


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        NOTE.format(source="`src/tidemill/cli/commands/`"),
        "",
        "Data go to stdout, progress and messages to stderr; `--json` prints one JSON document instead.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done, or there was nothing to do |",
        "| 1 | failed: the job, a check, or a comparison |",
        "| 2 | refused: nothing was started and nothing changed |",
        "| 3 | finished, but rows were rejected (`--allow-rejected` makes it 0) |",
        "| 130 | interrupted: what was committed is kept |",
    ]
    for words, command in _commands(typer.main.get_command(app), ("tidemill",)):
        lines += ["", f"## `{' '.join(words)}`", "", *_usage(command)]
    return "\n".join(lines) + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield words, command
    for name, each in below.items():
        yield from _commands(each, (*words, name))


def _usage(command: Any) -> list[str]:
    text, *examples = re.split(r"\n\n *(?=tidemill )", dedent(command.help or "").strip(), maxsplit=1)
    lines = [re.sub(r"\[/?[a-z]?\]", "`", text), ""]
    if examples:
        lines += ["```text", *(line.strip() for line in examples[0].splitlines()), "```", ""]
    lines += ["| | |", "|---|---|"]
    for parameter in command.params:
        names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
        meaning = re.sub(r"\[/?[a-z]?\]", "`", parameter.help or "").replace("|", "\\|")
        if "--help" not in names:
            lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {meaning} |")
    return lines


def spec_page() -> str:
    """Every word of a job spec."""
    schema = JobSpec.model_json_schema(by_alias=True)
    lines = [
        "# Job spec",
        "",
        NOTE.format(source="`src/tidemill/wire/spec.py`"),
        "",
        "The same words in YAML, on the command line and in Python.",
        "`tidemill run ... --save job.yaml` writes one, `tidemill run job.yaml` runs it,",
        "`tidemill spec schema` prints the JSON Schema.",
        "",
        "| word | default |",
        "|---|---|",
        *(f"| `{word}` | {default} |" for word, default in _words(schema, schema, "")),
    ]
    return "\n".join(lines) + "\n"


def _words(schema: Mapping[str, Any], node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.get("properties", {}).items():
        reference = value.get("$ref") or next((each["$ref"] for each in value.get("anyOf", []) if "$ref" in each), None)
        if reference:
            yield from _words(schema, schema["$defs"][reference.rpartition("/")[2]], f"{prefix}{name}.")
        else:
            default = f"`{json.dumps(value['default'])}`" if "default" in value else "none: must be given"
            yield f"{prefix}{name}", default


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "spec.md": spec_page,
    "errors.md": errors_page,
    "settings.md": settings_page,
    "states.md": states_page,
}


def stale() -> list[str]:
    """Names of pages that are not what the code says."""
    return [name for name, page in PAGES.items() if not _equals(FOLDER / name, page())]


def _equals(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        names = stale()
        for name in names:
            print(f"docs/reference/{name} is not what the code says; run `make reference`", file=sys.stderr)
        return 1 if names else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

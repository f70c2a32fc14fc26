"""The words of a job spec as arguments and options, shared by every command that takes a job."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.markup import escape

from tidemill.cli.output import people
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.wire.spec import JobSpec, invalid_words

OUTER_COMMA = r",(?![^()\[\]]*[)\]])"
"""One that does not stand inside the brackets of a type."""

SPEC_ENDINGS = (".yaml", ".yml", ".json")
_SHORT = {"input": "path", "output": "path", "series": "name"}
"""Words that may be said shortly: `input: FILE` for `input: {path: FILE}`."""
_FIRST_WORD = re.compile(rb'\s*\{\s*"(\w+)"\s*:', re.ASCII)

Model = Annotated[
    str,
    typer.Argument(help="Model file, folder, [i]module:Class[/] or [i]name@alias[/]; or a job spec (.yaml, .json)."),
]
Inputs = Annotated[list[str] | None, typer.Argument(help="Files, folders, patterns, @LIST or - for standard input.")]


def _words(
    model: Model,
    inputs: Inputs = None,
    out: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Folder, or file (.parquet .csv .jsonl .arrow .orc .avro; .gz .zst)."),
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Columns that identify a row, kept first. COL,COL", metavar="COLS")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Input columns to keep: auto, all, none or COL,COL", metavar="COLS")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="The model's columns, if it does not know them. COL,COL", metavar="COLS")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="If the output is there: error, overwrite or append.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write a probability for each class.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Probability from which the positive class is predicted.")
    ] = None,
    schema: Annotated[
        str | None, typer.Option(help="Types of text columns. COL=TYPE,COL=TYPE", metavar="TYPES")
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(help="parquet, csv, jsonl, arrow, orc, avro, excel; by default told by content."),
    ] = None,
    input_option: Annotated[
        list[str] | None, typer.Option(help="Of the input format, e.g. delimiter=;", metavar="K=V")
    ] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Only files that no run has scored into this output yet; append to it.")
    ] = False,
    series: Annotated[
        str | None,
        typer.Option(help="Only files that no job of this series has scored yet.", metavar="NAME"),
    ] = None,
    settle: Annotated[
        str | None, typer.Option(help='Of a series: leave files written to within this time, e.g. "1m".')
    ] = None,
    changed: Annotated[
        str | None, typer.Option(help="Of a series: files that changed since they were scored: score or skip.")
    ] = None,
    flavor: Annotated[str | None, typer.Option(help="The kind of model, if it cannot be seen.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="What starts scorers: local, child processes of this machine.", metavar="NAME")
    ] = None,
    scorers: Annotated[int | None, typer.Option(help="Processes that score; by default as many as fit.")] = None,
    rows_per_chunk: Annotated[int | None, typer.Option(help="Rows that are committed together.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows that the model gets at once.")] = None,
    accelerate: Annotated[
        str | None,
        typer.Option(help="Predict by a kernel where it agrees with the library: auto, off or strict."),
    ] = None,
    memory_per_scorer: Annotated[
        str | None, typer.Option(help="Memory one scorer may take, e.g. 2GB; by default its share of the machine.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs that the job keeps for itself on a service.")] = None,
    max_rejected: Annotated[
        str | None, typer.Option(help="Rejected rows allowed: N, P% or none. Default: 1%, but at least 100.")
    ] = None,
    max_runtime: Annotated[str | None, typer.Option(help='Longest run, for example "90m".')] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="In a queue: higher goes first, -100 to 100; above 0 needs an admin's key.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label of the job; may be repeated.", metavar="K=V")] = None,
) -> JobSpec:
    """The spec that was typed."""
    flags = {
        "name": name,
        "priority": priority,
        "labels": dict(pair(item) for item in label or []) or None,
        "flavor": flavor,
        "id": names(id),
        "keep": keep,
        "features": names(features),
        "schema": types(schema),
        "input": {
            "path": inputs or None,
            "format": input_format,
            "options": pairs(input_option or []) or None,
            "series": {"name": series, "settle": settle, "changed": changed},
        },
        "output": {"path": out, "mode": mode},
        "predict": {"probabilities": probabilities or None, "threshold": threshold},
        "compute": {
            "executor": executor,
            "scorers": scorers,
            "rows_per_chunk": rows_per_chunk,
            "batch_rows": batch_rows,
            "accelerate": accelerate,
            "memory_per_scorer": memory_per_scorer,
            "gpus": gpus,
        },
        "limits": {"rejected": max_rejected, "runtime": max_runtime},
    }
    return build_spec(model, flags, only_new=only_new)


def takes_spec(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is a spec, all arguments and options that say one."""
    shared = inspect.signature(_words, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def typed(**given: Any) -> None:
        spec = _words(**{name: given.pop(name) for name in shared})
        command(spec, **given)

    parameters = [*shared.values(), *own]
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {each.name: each.annotation for each in parameters}
    return typed


def build_spec(model: str, flags: Mapping[str, Any], *, only_new: bool = False) -> JobSpec:
    """The spec from a file and flags (flags win), or from flags alone. Raises InvalidSpec, NotFound."""
    words: dict[str, Any] = {"model": model}
    if _is_spec(model):
        words = _read_spec(Path(model))
    if only_new:
        _overlay(words, flags)
        _overlay(words, _only_new(words))
    return spec_of(words, flags)


def _only_new(words: Mapping[str, Any]) -> dict[str, Any]:
    """What `--only-new` stands for: a series named after the output, which is appended to."""
    output = words.get("output")
    output = output if isinstance(output, Mapping) else {"path": output}
    if not output.get("path"):
        raise InvalidSpec(
            "--only-new is about an output, and none was given.",
            remedy="Name it with -o, or name a series with --series.",
        )
    path = os.path.abspath(os.path.expanduser(str(output["path"])))
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(path)).strip("-._")[:80] or "output"
    name = f"{readable}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    series = words["input"].get("series") if isinstance(words.get("input"), Mapping) else None
    named = series if isinstance(series, str) else (series or {}).get("name")
    return {"input": {"series": {"name": named or name}}, "output": {"mode": output.get("mode") or "append"}}


def spec_of(words: dict[str, Any], flags: Mapping[str, Any]) -> JobSpec:
    """The spec of these words and flags (flags win). Raises InvalidSpec."""
    _overlay(words, flags)
    if not words.get("input"):
        raise InvalidSpec(
            "There is nothing to score: no input was given.", remedy="Name it after the model: MODEL INPUT..."
        )
    try:
        return JobSpec.model_validate(words)
    except ValidationError as exc:
        raise invalid_words(exc) from exc


def _is_spec(model: str) -> bool:
    """Whether the first argument is a job spec. Models are JSON too (XGBoost's): the first word tells."""
    if not model.endswith(".json"):
        return model.endswith(SPEC_ENDINGS)
    try:
        with open(model, "rb") as file:
            first = _FIRST_WORD.match(file.read(4096))
    except OSError:
        return True
    words = {field.alias or name for name, field in JobSpec.model_fields.items()}
    return first is None or first[1].decode() in words


def _read_spec(path: Path) -> dict[str, Any]:
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


def _overlay(words: dict[str, Any], flags: Mapping[str, Any]) -> None:
    for key, value in flags.items():
        if isinstance(value, Mapping) and key != "schema":
            inner = words.get(key)
            inner = dict(inner) if isinstance(inner, Mapping) else ({_SHORT.get(key, "path"): inner} if inner else {})
            _overlay(inner, value)
            if inner:
                words[key] = inner
        elif value is not None and value != []:
            words[key] = value


def save_spec(spec: JobSpec, path: Path) -> None:
    """Write the spec as YAML, only what differs from the defaults."""
    words = spec.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(words, sort_keys=False, allow_unicode=True), encoding="utf-8")
    people.print(f"saved: run it with [bold]tidemill run {escape(str(path))}[/]")


def names(text: str | None) -> list[str] | None:
    """The columns in "COL,COL"."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def types(text: str | None) -> dict[str, Any] | None:
    """The types of columns in "COL=TYPE,COL=TYPE"."""
    return pairs(re.split(OUTER_COMMA, text)) if text else None


def pairs(items: list[str]) -> dict[str, Any]:
    """The options in NAME=VALUE, with truth and numbers as such. Raises InvalidSpec."""
    return {key: _value(value) for key, value in map(pair, items)}


def pair(item: str) -> tuple[str, str]:
    """Name and value of an option in NAME=VALUE. Raises InvalidSpec."""
    key, equals, value = item.partition("=")
    if not equals:
        raise InvalidSpec(f"{item!r} is not of the form NAME=VALUE.", remedy="See the command's --help.")
    return key.strip(), value


def _value(text: str) -> Any:
    """Truth, whole numbers and [lists] as such; everything else is text."""
    if text in ("true", "false") or text.isdecimal() or text.startswith("["):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise InvalidSpec(f"{text!r} cannot be read.", remedy="Write a list as [a, b].") from exc
    return text

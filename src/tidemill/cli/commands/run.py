"""`tidemill run` and `tidemill resume`."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.markup import escape

from tidemill.bootstrap.wiring import opened
from tidemill.cli.output import people
from tidemill.cli.progress import ProgressView
from tidemill.cli.summary import print_outcome, print_preview
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.service import jobs
from tidemill.wire.spec import JobSpec, invalid_words

OUTER_COMMA = r",(?![^()\[\]]*[)\]])"
"""One that does not stand inside the brackets of a type."""

SPEC_ENDINGS = (".yaml", ".yml", ".json")

Model = Annotated[str, typer.Argument(help="Model file, folder or [i]module:Class[/]; or a job spec (.yaml, .json).")]
Inputs = Annotated[list[str] | None, typer.Argument(help="Files, folders or glob patterns to score.")]


def run(
    model: Model,
    inputs: Inputs = None,
    out: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder, or file (.parquet .csv .jsonl .arrow; .gz .zst).")
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
        str | None, typer.Option(help="parquet, csv or jsonl; by default seen from the content.")
    ] = None,
    input_option: Annotated[
        list[str] | None, typer.Option(help="Of the input format, e.g. delimiter=;", metavar="K=V")
    ] = None,
    flavor: Annotated[str | None, typer.Option(help="The kind of model, if it cannot be seen.")] = None,
    scorers: Annotated[int | None, typer.Option(help="Processes that score; by default as many as fit.")] = None,
    rows_per_chunk: Annotated[int | None, typer.Option(help="Rows that are committed together.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows that the model gets at once.")] = None,
    memory_per_scorer: Annotated[
        str | None, typer.Option(help="Memory one scorer may take, e.g. 2GB; by default its share of the machine.")
    ] = None,
    max_rejected: Annotated[
        str | None, typer.Option(help="Rejected rows allowed: N, P% or none. Default 1%, at least 100.")
    ] = None,
    max_runtime: Annotated[str | None, typer.Option(help='Longest run, for example "90m".')] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow this model file to run the code that it carries.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an unfinished job at the output and start over.")
    ] = False,
    allow_upgrade: Annotated[bool, typer.Option("--allow-upgrade", help="Go on although libraries changed.")] = False,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Exit with 0 even if rows were rejected.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the job as a file that `tidemill run` takes, and stop.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and preview, write nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score files with a model, here and now.

    Without [b]-o[/] it previews: does the model fit the input, what do predictions look like, how long
    will it take. The same command after a crash goes on where it stopped; after success it says so.

      tidemill run model.txt 'customers/*.parquet' -o scores/
      tidemill run model.skops data.csv.gz -o scores.csv --id customer_id
      tidemill run job.yaml
    """
    flags = {
        "name": name,
        "flavor": flavor,
        "id": _names(id),
        "keep": keep,
        "features": _names(features),
        "schema": _pairs(re.split(OUTER_COMMA, schema)) if schema else None,
        "input": {"path": inputs or None, "format": input_format, "options": _pairs(input_option or []) or None},
        "output": {"path": out, "mode": mode},
        "predict": {"probabilities": probabilities or None, "threshold": threshold},
        "compute": {
            "scorers": scorers,
            "rows_per_chunk": rows_per_chunk,
            "batch_rows": batch_rows,
            "memory_per_scorer": memory_per_scorer,
        },
        "limits": {"rejected": max_rejected, "runtime": max_runtime},
    }
    spec = build_spec(model, flags)
    if save is not None:
        save_spec(spec, save)
        return
    with opened() as context:
        options = jobs.RunOptions(
            restart=restart, allow_upgrade=allow_upgrade, ask_trust=_asker(trust, json), stop_softly=_on_interrupt
        )
        if spec.output is None or dry_run:
            answer = jobs.preview(context, spec, options)
            print_preview(answer, spec, _command_line(), as_json=json)
            return
        with _interrupts(), ProgressView(quiet=quiet or json) as view:
            outcome = jobs.run(context, spec, [view], options)
        code = print_outcome(context, spec, outcome, as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)


def resume(
    job: Annotated[str, typer.Argument(help="Job id, or the end of one.")],
    allow_upgrade: Annotated[bool, typer.Option("--allow-upgrade", help="Go on although libraries changed.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow this model file to run the code that it carries.")
    ] = False,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Exit with 0 even if rows were rejected.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Go on with an unfinished job here.

    tidemill resume job_1jk9w3x2tq8m4c0z
    """
    with opened() as context:
        options = jobs.RunOptions(allow_upgrade=allow_upgrade, ask_trust=_asker(trust, json), stop_softly=_on_interrupt)
        with _interrupts(), ProgressView(quiet=quiet or json) as view:
            outcome = jobs.resume(context, job, [view], options)
        spec = JobSpec.model_validate(context.store.jobs.get(job).spec)
        code = print_outcome(context, spec, outcome, as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)


def build_spec(model: str, flags: Mapping[str, Any]) -> JobSpec:
    """The spec from a file and flags (flags win), or from flags alone. Raises InvalidSpec, NotFound."""
    words: dict[str, Any] = {"model": model}
    if model.endswith(SPEC_ENDINGS):
        words = _read_spec(Path(model))
    _overlay(words, flags)
    if not words.get("input"):
        raise InvalidSpec("There is nothing to score: no input was given.", remedy="tidemill run MODEL INPUT... -o OUT")
    try:
        return JobSpec.model_validate(words)
    except ValidationError as exc:
        raise invalid_words(exc) from exc


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
            inner = dict(inner) if isinstance(inner, Mapping) else ({"path": inner} if inner else {})
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


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def _pairs(items: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidSpec(f"{item!r} is not of the form NAME=VALUE.", remedy="See `tidemill run --help`.")
        pairs[key.strip()] = _value(value)
    return pairs


def _value(text: str) -> Any:
    """Truth, whole numbers and [lists] as such; everything else is text."""
    if text in ("true", "false") or text.isdecimal() or text.startswith("["):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise InvalidSpec(f"{text!r} cannot be read.", remedy="Write a list as [a, b].") from exc
    return text


def _command_line() -> str:
    return shlex.join(["tidemill", *sys.argv[1:]])


def _asker(trust: bool, as_json: bool) -> jobs.AskTrust:
    def ask(model: Mapping[str, Any]) -> bool:
        if trust:
            return True
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        people.print(f"[bold yellow]{escape(model['path'])}[/] is a {model['flavor']} model, sha256 {model['digest']}.")
        people.print(
            "Loading it runs code that is inside the file, with your rights. Only go on if you trust its author."
        )
        return typer.confirm("Trust this file from now on?", default=False, err=True)

    return ask


_stop: list[Callable[[], None]] = []


def _on_interrupt(stop: Callable[[], None]) -> None:
    _stop.append(stop)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C once: finish what is in flight and keep it. Twice: now."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        people.print("\n[bold]stopping[/] after what is in flight; press Ctrl-C again to stop now")
        if not _stop:
            raise KeyboardInterrupt
        _stop[-1]()

    before = signal.signal(signal.SIGINT, first)
    terminated = signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminated)
        _stop.clear()

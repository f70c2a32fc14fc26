"""`tidemill models check`: the stored bytes of a version, or how a model behaves on an input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.asking import Trust, asker
from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import EXIT_DONE, EXIT_FAILED, people, print_models
from tidemill.cli.trials import print_findings
from tidemill.cli.words import SPEC_ENDINGS, names, pairs, spec_of, types
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.trials import SAMPLE_ROWS
from tidemill.wire.api import ModelCheck


def check(
    model: Annotated[
        str, typer.Argument(help="NAME@3, NAME@ALIAS or NAME; with an input also a file, a folder or module:Class.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or glob patterns to draw rows from."),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, max=100_000, help="Predict at most so many, spread over the input.")] = (
        SAMPLE_ROWS
    ),
    features: Annotated[
        str | None, typer.Option(help="The model's columns, if it does not know them. COL,COL", metavar="COLS")
    ] = None,
    schema: Annotated[
        str | None, typer.Option(help="Types of text columns. COL=TYPE,COL=TYPE", metavar="TYPES")
    ] = None,
    input_format: Annotated[str | None, typer.Option(help="By default seen from the content.")] = None,
    input_option: Annotated[
        list[str] | None, typer.Option(help="Of the input format, e.g. delimiter=;", metavar="K=V")
    ] = None,
    flavor: Annotated[str | None, typer.Option(help="The kind of model, if it cannot be seen.")] = None,
    trust: Trust = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Find out whether a model is what it should be. Exit 1 if it is not.

    Without an input: compare a registered version's stored bytes with its digest, and load it.

    With one: predict some of its rows forwards, backwards, in batches of 1 and 7, from several threads and in fresh
    processes. Are the predictions always the same? Does the model keep what it claims, and what follows for jobs?

    tidemill models check churn@3

    tidemill models check model.txt customers/

    tidemill models check forecast.py:Model history.csv --rows 2000
    """
    words = {
        "flavor": flavor,
        "features": names(features),
        "schema": types(schema),
        "input": {"format": input_format, "options": pairs(input_option or []) or None},
    }
    if inputs:
        raise typer.Exit(_check_on_input(model, inputs, words, rows, trust=trust, server=server, as_json=json))
    _refuse_without_input(model, words, trust=trust)
    with chosen(server) as backend:
        told = ModelCheck.model_validate(backend.models_check(model))
    raise typer.Exit(_print_check(told, as_json=json))


def _check_on_input(
    model: str,
    inputs: Sequence[str],
    words: Mapping[str, Any],
    rows: int,
    *,
    trust: bool,
    server: str | None,
    as_json: bool,
) -> int:
    spec = spec_of({"model": model}, {**words, "input": {**words["input"], "path": list(inputs)}})
    with chosen(server) as backend, people.status("checking") as status:
        found = backend.models_try(
            spec, rows=rows, ask_trust=asker(trust, as_json), next_is=lambda label: status.update(escape(label))
        )
    return print_findings(found, as_json=as_json)


def _refuse_without_input(model: str, words: Mapping[str, Any], *, trust: bool) -> None:
    """Words about an input that is not there must not be swallowed."""
    if os.path.exists(model) or model.endswith(SPEC_ENDINGS) or ":" in model:
        raise InvalidSpec(
            f"{model} is not in the registry of models, so there is no digest to compare it with.",
            remedy=f"To try it out, say what on: tidemill models check {model} INPUT",
        )
    if trust or any(words[name] for name in ("flavor", "features", "schema")) or any(words["input"].values()):
        raise InvalidSpec(
            "--features, --schema, --flavor, --trust and --input-... belong to a check with an input.",
            remedy=f"Name it after the model: tidemill models check {model} INPUT",
        )


def _print_check(told: ModelCheck, *, as_json: bool) -> int:
    good = told.intact and told.loads is not False
    if as_json:
        print_models(told)
    elif good:
        loads = "and it loads" if told.loads else "; it was not loaded"
        people.print(f"[bold green]ok[/] {escape(told.reference)}: its bytes are what was registered {loads}")
        if told.problem:
            people.print(f"  [dim]→[/] {escape(told.problem)}")
    else:
        people.print(f"[bold red]broken[/] {escape(told.reference)}: {escape(told.problem or '')}")
        if not told.intact:
            people.print("  [dim]→[/] add the model again from where it came from: that repairs it")
    return EXIT_DONE if good else EXIT_FAILED

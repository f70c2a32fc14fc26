"""`tidemill models ...`: the registry of models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.backend import Backend, chosen
from tidemill.cli.commands.check import check
from tidemill.cli.options import Json, Server
from tidemill.cli.output import bytes_text, data, people, print_json, print_models, print_table, time_text
from tidemill.cli.requests import checked
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.model import split_reference
from tidemill.wire.api import AddModelVersion, EnvironmentSpec, ModelVersionOut

app = typer.Typer(help="Registered models: versions that never change, and aliases that move.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="NAME@3, NAME@ALIAS, or NAME for the newest version.")]
Name = Annotated[str, typer.Argument(help="Name of a model.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]


@app.command()
def add(
    name: Name,
    source: Annotated[
        str, typer.Argument(help="A model file or folder, a URL, models:/NAME@ALIAS of MLflow, or module:Class.")
    ],
    alias: Annotated[
        list[str] | None, typer.Option(help="An alias to point at the new version; may be repeated.")
    ] = None,
    authorization: Annotated[
        str | None,
        typer.Option(metavar="secret:NAME", help="For a URL: the secret that is sent there to be let in."),
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(help="A requirements file: its scorers run in an environment made from it.")
    ] = None,
    python: Annotated[Path | None, typer.Option(help="An interpreter that its scorers run in.")] = None,
    flavor: Annotated[str | None, typer.Option(help="What reads it, if the content does not tell.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    server: Server = None,
    json: Json = False,
) -> None:
    """Register a version of a model. The bytes are copied; the same bytes again make no new version.

    tidemill models add churn model.txt --alias champion

    tidemill models add churn pipeline.skops --environment requirements.txt
    """
    words = {
        "source": source,
        "authorization": authorization,
        "flavor": flavor,
        "aliases": alias or [],
        "environment": _environment(environment, python),
        "description": description,
    }
    with chosen(server) as backend:
        added = backend.models_add(name, checked(AddModelVersion, words))
    if json:
        print_models(added)
        return
    people.print(f"[bold]{escape(added.reference)}[/] {escape(_facts(added))}")
    if added.carries_code and not added.trusted:
        people.print(
            "  [dim]→[/] loading it runs code that it carries. If you know where it comes from:"
            f" tidemill models trust {escape(added.reference)}"
        )


def _environment(requirements: Path | None, python: Path | None) -> EnvironmentSpec | None:
    if requirements is None and python is None:
        return None
    if requirements is not None and python is not None:
        raise InvalidSpec("--environment and --python exclude each other.", remedy="Give one of the two.")
    if python is not None:
        return EnvironmentSpec(python=os.path.abspath(python))
    assert requirements is not None
    try:
        return EnvironmentSpec(requirements=requirements.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSpec(
            f"The requirements file {requirements} cannot be read: {exc}.", remedy="Name a text file."
        ) from exc


@app.command("list")
def list_models(
    name: Annotated[str | None, typer.Argument(help="Every version of this model; without it, all models.")] = None,
    limit: Limit = 50,
    server: Server = None,
    json: Json = False,
) -> None:
    """List models with their newest versions, or the versions of one.

    tidemill models list churn
    """
    with chosen(server) as backend:
        found = backend.models_list(limit=limit) if name is None else backend.models_versions(name, limit=limit)
    if json:
        print_models(found)
        return
    if not found:
        people.print("no models yet; register one with: tidemill models add NAME SOURCE")
        return
    rows = [
        (each.reference, ", ".join(each.aliases) or "-", each.flavor, bytes_text(each.size_bytes), _code(each),
         time_text(each.created_at), each.created_by, each.origin)
        for each in found
    ]  # fmt: skip
    print_table(["model", "aliases", "flavor", "size", "code", "added", "by", "origin"], rows, right=["size"])


@app.command()
def show(model: Reference, server: Server = None, json: Json = False) -> None:
    """Show a version: what it takes and gives, its aliases, who added it and when.

    tidemill models show churn@champion
    """
    with chosen(server) as backend:
        found = backend.models_show(model)
    if json:
        print_models(found)
        return
    _print_version(found)


@app.command()
def alias(
    model: Reference,
    alias: Annotated[str, typer.Argument(help="A word such as champion.")],
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias; MODEL is the name alone.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Point an alias at a version. Jobs that were submitted before keep the version they have.

    tidemill models alias churn@3 champion

    tidemill models alias churn challenger --remove
    """
    name, _, which = model.partition("@")
    if remove and which:
        raise InvalidSpec(f"--remove takes the name alone, not {model}.", remedy=f"Say {name}.")
    if not remove and not which:
        raise InvalidSpec(f"{model} names no version.", remedy=f"Say for example {name}@3.")
    with chosen(server) as backend:
        version = None if remove else _number(backend, model)
        backend.models_alias(name, alias, version)
    if json:
        print_json({"name": name, "alias": alias, "version": version})
    elif version is None:
        people.print(f"{escape(name)}@{escape(alias)} is no more")
    else:
        people.print(f"[bold]{escape(name)}@{escape(alias)}[/] is {escape(name)}@{version} now")


def _number(backend: Backend, reference: str) -> int:
    parts = split_reference(reference)
    return int(parts[1]) if parts and parts[1].isdigit() else backend.models_show(reference).version


app.command()(check)


@app.command()
def trust(model: Reference, server: Server = None, json: Json = False) -> None:
    """Allow a version to run the code that it carries. Written down in the audit log.

    tidemill models trust churn@3
    """
    with chosen(server) as backend:
        found = backend.models_trust(model)
    if json:
        print_models(found)
        return
    people.print(f"[bold]{escape(found.reference)}[/] (sha256 {found.digest[:12]}) may run its code now")


@app.command()
def limit(
    name: Name,
    most: Annotated[int | None, typer.Argument(min=1, help="So many; without it, as many as fit.")] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Say how many jobs of a model may run at once.

    tidemill models limit churn 2
    """
    with chosen(server) as backend:
        backend.models_limit(name, most)
    if json:
        print_json({"name": name, "max_running": most})
    else:
        people.print(f"{escape(name)}: {'as many jobs as fit' if most is None else f'at most {most:,}'} at once")


def _print_version(version: ModelVersionOut) -> None:
    environment = version.environment or {}
    lines = {
        "model": version.reference,
        "aliases": ", ".join(version.aliases) or "-",
        "flavor": version.flavor,
        "digest": f"sha256 {version.digest}",
        "size": bytes_text(version.size_bytes),
        "code": _code(version),
        "origin": version.origin,
        "added": f"{time_text(version.created_at)} by {version.created_by}",
    }
    if version.description:
        lines["about"] = version.description
    if environment.get("python"):
        lines["python"] = environment["python"]
    if environment.get("requirements"):
        lines["needs"] = ", ".join(_requirements(environment["requirements"]))
    for key, value in lines.items():
        data.print(f"[bold]{key:9}[/]{escape(value)}")
    if version.signature is None:
        people.print(f"what it takes and gives is known once it is trusted: tidemill models trust {version.reference}")
        return
    _print_signature(version.signature)


def _print_signature(signature: Mapping[str, Any]) -> None:
    data.print()
    rows = [*_fields("input", signature["inputs"]), *_fields("output", signature["outputs"])]
    if signature.get("takes_text"):
        rows.insert(0, ("input", "the only one of text", "string", "yes"))
    elif signature.get("takes_all"):
        rows.insert(0, ("input", "every column", "any", "yes"))
    if rows:
        print_table(["", "column", "type", "may be null"], rows)
    if signature.get("classes"):
        data.print(f"[bold]classes  [/]{escape(', '.join(map(str, signature['classes'])))}")
    if signature.get("positional"):
        people.print("[yellow]note[/] it knows no names of columns: jobs take theirs in their order, or say features")
    for note in signature.get("notes", ()):
        people.print(f"[yellow]note[/] {escape(note)}")


def _fields(kind: str, fields: Iterable[Mapping[str, Any]]) -> Sequence[tuple[str, str, str, str]]:
    return [(kind, field["name"], field["type"], "yes" if field["nullable"] else "no") for field in fields]


def _requirements(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _facts(version: ModelVersionOut) -> str:
    aliases = f", {', '.join(version.aliases)}" if version.aliases else ""
    return f"({version.flavor}, {bytes_text(version.size_bytes)}, sha256 {version.digest[:12]}{aliases})"


def _code(version: ModelVersionOut) -> str:
    if not version.carries_code:
        return "none"
    return "trusted" if version.trusted else "not trusted"

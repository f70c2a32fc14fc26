"""Outputs: where they are, what is in them, whether they are whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.domain.errors import Damaged, InvalidSpec, NotFound
from tidemill.service.context import Context
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec

FILE_ENDINGS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".orc": "orc",
    ".avro": "avro",
}
WORKBOOKS = (".xlsx", ".xls", ".xlsb", ".xlsm", ".ods")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def resolve(output: OutputSpec) -> OutputSpec:
    """The output with an absolute path and everything that its name says made explicit."""
    path = os.path.abspath(os.path.expanduser(output.path))
    stem, ending = os.path.splitext(path)
    compression = COMPRESSIONS.get(ending)
    if compression:
        stem, ending = os.path.splitext(stem)
    is_folder = output.path.endswith(("/", os.sep))
    if ending in WORKBOOKS and not is_folder:
        raise InvalidSpec(
            f"Workbooks are not written: {output.path}.",
            remedy="End the output in .parquet or .csv; or in / for a folder of that name, with Parquet in it.",
        )
    named = None if is_folder else FILE_ENDINGS.get(ending)
    single_file = named is not None
    if (stem if single_file else path).endswith(".rejected"):
        raise InvalidSpec(
            f"The output {output.path} has the name that rejected rows of another output get.",
            remedy="Choose a name that does not end in .rejected.",
        )
    form = named or "parquet" if output.format == "auto" else output.format
    if named is not None and form != named:
        raise InvalidSpec(
            f"The output {output.path} ends in {ending} but its format is {form}.",
            remedy="Leave out the format, or end the name in / to make a folder of that name.",
        )
    if compression and form not in ("csv", "jsonl"):
        raise InvalidSpec(
            f"{form} files are not compressed from outside: {output.path}.", remedy="Leave .gz or .zst off."
        )
    if single_file and output.mode == "append":
        raise InvalidSpec("A single file cannot be appended to.", remedy="Give a folder as output.")
    options = {**output.options, "single_file": single_file}
    if compression:
        options["compression"] = compression
    return output.model_copy(update={"path": path, "format": form, "options": options})


def published(context: Context, path: str) -> dict[str, Any]:
    """The manifest of the output at `path`. Raises NotFound."""
    path = os.path.expanduser(path)
    # A folder may be called like a file: scores.parquet/.
    output = resolve(OutputSpec(path=os.path.join(path, "") if os.path.isdir(path) else path))
    # Only the place matters here, so the rest of a spec may say anything.
    sink = context.open_sink(JobSpec(model="-", input=InputSpec(path=["-"]), output=output))
    state = sink.look()
    if state.other_output is not None:
        raise NotFound(
            f"There is no finished output at {output.path}: the manifest there is of {state.other_output}.",
            remedy="Name that one, or run the job of this one again with another output.",
        )
    if state.manifest is None:
        raise NotFound(f"There is no finished output at {output.path}.", remedy="`tidemill jobs list` shows your jobs.")
    return state.manifest


def paths_of(manifest: Mapping[str, Any], kind: str) -> list[str]:
    """Absolute paths of a manifest's files of one kind ("predictions", "rejected"), in order."""
    parent = Path(manifest["output"]).parent
    return [str(parent / file["name"]) for file in manifest["files"] if file["kind"] == kind]


def verify(context: Context, path: str) -> dict[str, Any]:
    """Check the output against its manifest. Raises Damaged naming every broken file, NotFound."""
    manifest = published(context, path)
    parent = os.path.dirname(os.path.abspath(os.path.expanduser(path)))
    request = {"parent": parent, "files": manifest["files"], "format": manifest["format"]}
    answer = context.executor.call(context.tasks.verify, request, preload=context.compute.preload)
    counts = manifest["counts"]
    if counts["total"] != counts["predicted"] + counts["rejected"]:
        answer["problems"].append("the counts in the manifest do not add up")
    if answer["problems"]:
        listed = "; ".join(answer["problems"][:5])
        raise Damaged(
            f"{len(answer['problems'])} of {answer['files']} files are not as published: {listed}.",
            remedy="Run the job again with --mode overwrite --restart.",
        )
    return {**answer, "counts": counts, "manifest": manifest}


def head(context: Context, target: str, rows: int, *, rejected: bool = False) -> dict[str, Any]:
    """The first predictions (or rejected rows) of an output path or a job id."""
    manifest = find(context, target)
    kind = "rejected" if rejected else "predictions"
    request = {"paths": paths_of(manifest, kind)[:50], "format": manifest["format"], "rows": rows}
    return context.executor.call(context.tasks.head, request, preload=context.compute.preload)


def find(context: Context, target: str) -> dict[str, Any]:
    """The manifest for an output path or a job id. Raises NotFound."""
    if os.sep in target or os.path.exists(target):
        return published(context, target)
    try:
        job = context.store.jobs.get(target)
    except NotFound:
        return published(context, target)
    return published(context, job.output)


def compare(context: Context, left: str, right: str) -> dict[str, Any]:
    """How the predictions of two outputs (paths or job ids) differ. Parquet only."""
    sides = []
    for target in (left, right):
        manifest = find(context, target)
        if manifest["format"] != "parquet":
            raise InvalidSpec(
                f"{target} is {manifest['format']}: only Parquet outputs can be compared.",
                remedy="Score into Parquet, a folder or a .parquet file, to compare.",
            )
        sides.append(paths_of(manifest, "predictions"))
    request = {"left": sides[0], "right": sides[1]}
    return context.executor.call(context.tasks.compare, request, preload=context.compute.preload)

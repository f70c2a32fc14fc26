"""What an input file holds, without a model. Runs in children."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill import registry
from tidemill.domain.plan import InputFile
from tidemill.engine.batching import batches_of_file
from tidemill.engine.jsonvalues import json_rows
from tidemill.engine.preview import Progress

TEXT_BYTES = 1 << 20
"""So much of a text file is looked at: scanning it whole takes as long as it is large."""
BATCH_ROWS = 1_000


def look(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Format, columns and first rows of one file: {"path", "rows" (how many), "spool" (a folder to write to)} ->
    {"format", "columns", "types", "rows", "total_rows" (None where that is not known)}.

    Rows that cannot be read are left out. Raises UnknownFormat, InputUnreadable.
    """
    file = _file(request["path"])
    form = registry.detect_format()(file)
    source = registry.sources.get(form)(spool=Path(request["spool"]))
    whole = True
    if not source.typed:
        file, whole = _beginning(file, Path(request["spool"]))
    facts = source.examine(file)
    rows: list[list[Any]] = []
    for batch in batches_of_file(source, file, facts, BATCH_ROWS):
        rows += json_rows(batch.slice(0, request["rows"] - len(rows)))
        if len(rows) >= request["rows"]:
            break
    return {
        "format": form,
        "columns": facts.schema.names,
        "types": [str(field.type) for field in facts.schema],
        "rows": rows,
        "total_rows": facts.rows if whole else None,
    }


def _file(path: str) -> InputFile:
    stat = os.stat(path)
    return InputFile(path=path, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _beginning(file: InputFile, spool: Path) -> tuple[InputFile, bool]:
    """The first lines of a text file as a file, and whether that is all of it."""
    text = registry.read_head()(file, TEXT_BYTES + 1)
    whole = len(text) <= TEXT_BYTES
    if not whole:
        text = text[: text.rfind(b"\n") + 1] or text
    target = spool / os.path.basename(file.path)
    target.write_bytes(text)
    return _file(str(target)), whole

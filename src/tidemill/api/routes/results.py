"""Results of finished jobs: manifest, first rows, rows by value, downloads."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, JobId, Who
from tidemill.api.errors import problems
from tidemill.api.sending import file_answer
from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import InvalidSpec
from tidemill.service import results
from tidemill.service.context import Context
from tidemill.service.results import Kind
from tidemill.wire.api import ResultFormat, ResultInfo, Rows

router = door("/jobs", "results")

MEDIA_TYPES: dict[ResultFormat, str] = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "arrow": "application/vnd.apache.arrow.file",
}
_BYTES = {kind.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": _BYTES,
        "headers": {
            "ETag": {"description": "Of these very bytes.", "schema": {"type": "string"}},
            "Repr-Digest": {"description": "SHA-256 of the whole file, where known.", "schema": {"type": "string"}},
        },
    },
    206: {"description": "The range that was asked for.", "content": _BYTES},
    304: {"description": "The caller has this file already, by If-None-Match."},
    **problems(404, 409, 416),
}
WHERE: dict[str, Any] = {
    "parameters": [
        {
            "name": "where",
            "in": "query",
            "required": True,
            "description": "Columns and the values to look for: ?customer_id=4711. All must hold.",
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
        }
    ]
}

Union = Annotated[bool, Query(description="With the rows that retries of the job have added.")]
Format = Annotated[ResultFormat | None, Query(description="By default that of the job's output.")]


@router.get("/{job_id}/result", responses=problems(404, 409))
@needs(Action.SEE)
def get_result(context: Here, who: Who, job_id: JobId, union: Union = True) -> ResultInfo:
    """The manifest of a finished job's result, and where to download it."""
    return results.info(context, who, job_id, union=union)


@router.delete("/{job_id}/result", status_code=204, responses=problems(404, 409))
@needs(Action.RUN_JOBS)
def delete_result(context: Here, who: Who, job_id: JobId) -> None:
    """Delete a result that the service keeps, before its time is over."""
    results.delete(context, who, job_id)


@router.get("/{job_id}/result/head", responses=problems(404, 409))
@needs(Action.SEE)
def get_result_head(
    context: Here,
    who: Who,
    job_id: JobId,
    rows: Annotated[int, Query(ge=1, le=results.MAX_ROWS)] = 10,
    rejected: Annotated[bool, Query(description="Rejected rows instead of predictions.")] = False,
    union: Union = True,
) -> Rows:
    """The first rows of a result."""
    return results.head(context, who, job_id, rows, rejected=rejected, union=union)


@router.get("/{job_id}/result/lookup", responses=problems(404, 409), openapi_extra=WHERE)
@needs(Action.SEE, any_query=True)
def look_up_result(request: Request, context: Here, who: Who, job_id: JobId, union: Union = True) -> Rows:
    """At most 100 predicted rows in which columns have these values. Parquet only."""
    asked = [(name, value) for name, value in request.query_params.multi_items() if name != "union"]
    twice = [name for name, count in Counter(name for name, _ in asked).items() if count > 1]
    if twice:
        raise InvalidSpec(f"Column {twice[0]!r} is named twice.", remedy="Ask for one value at a time.")
    return results.look_up(context, who, job_id, dict(asked), union=union)


@needs(Action.SEE)
async def download_result(
    request: Request, context: Here, who: Who, job_id: JobId, format: Format = None, union: Union = True
) -> Response:
    """All predictions as one file; `Range` gives parts of it. Another format than the output's is made first."""
    return await _file(request, context, who, job_id, format, "predictions", union)


@needs(Action.SEE)
async def download_rejected(
    request: Request, context: Here, who: Who, job_id: JobId, format: Format = None, union: Union = True
) -> Response:
    """All rejected rows as one file: their file, row, stage, error, message and input columns."""
    return await _file(request, context, who, job_id, format, "rejected", union)


for _path, _endpoint in (("download", download_result), ("rejected", download_rejected)):
    _words: dict[str, Any] = {"response_class": Response, "response_model": None, "responses": FILE}
    router.add_api_route(f"/{{job_id}}/result/{_path}", _endpoint, methods=["GET"], **_words)
    router.add_api_route(f"/{{job_id}}/result/{_path}", _endpoint, methods=["HEAD"], include_in_schema=False, **_words)


async def _file(
    request: Request, context: Context, who: Principal, job_id: str, form: ResultFormat | None, kind: Kind, union: bool
) -> Response:
    def export() -> results.Download:
        return results.export(context, who, job_id, form, kind, union=union)

    made = await run_sync(export)
    headers = {}
    if made.sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(made.sha256)).decode()}:"
    return file_answer(
        request, made.path, name=made.name, etag=made.etag, media_type=MEDIA_TYPES[made.form], headers=headers
    )

"""A service of a few answers on a real socket, with the faults that a network has."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Answer = Callable[[Request], Response]
JOB = "job_0123456789abcdef"


def status(state: str = "queued", **more: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    counts = {"total": 0, "predicted": 0, "rejected": 0, "remaining": 0}
    usage = dict.fromkeys(("cpu_seconds", "read_seconds", "model_seconds", "write_seconds"), 0.0)
    usage |= dict.fromkeys(("peak_memory_bytes", "input_bytes", "output_bytes"), 0)
    return {
        "id": JOB,
        "name": "churn",
        "state": state,
        "want": "run",
        "tenant": "default",
        "owner": "me",
        "priority": 0,
        "parent_id": None,
        "model": {"reference": "churn@3", "digest": "ab" * 32, "flavor": "lightgbm"},
        "spec": {"model": "churn@champion", "input": {"path": ["upload:up_1"]}},
        "output": None,
        "counts": counts,
        "chunks_total": 0,
        "chunks_done": 0,
        "percent": 0.0,
        "rows_per_second": None,
        "eta_seconds": None,
        "queue": None,
        "timestamps": {"created": "2026-11-22T10:00:00Z"},
        "error": None,
        "rejections": [],
        "usage": usage,
        "labels": {},
        "worker": None,
        "expires_at": None,
        "links": {"self": f"/api/v1/jobs/{JOB}"},
        **more,
    }


def problem(code: int, name: str, detail: str, *, remedy: str | None = None, **headers: str) -> Response:
    """An error as the API tells of it."""
    body = {"title": "x", "status": code, "detail": detail, "code": name, "remedy": remedy, "errors": []}
    return JSONResponse(body, status_code=code, headers=headers, media_type="application/problem+json")


@dataclass
class Fake:
    """What was asked, and what is answered: `answers` by (method, path), each used once but the last."""

    url: str = ""
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Answer | dict[str, Any]) -> None:
        """Answer so, in this order; the last one for ever. A dict is JSON."""
        made = [_json(answer) if isinstance(answer, dict) else answer for answer in answers]
        self.answers[(method, f"/api/v1{path}")] = made

    def of(self, method: str, path: str) -> list[Request]:
        """Requests of one kind."""
        return [each for each in self.asked if (each.method, each.scope["path"]) == (method, f"/api/v1{path}")]

    def forget(self) -> None:
        """As if nothing had been asked or told."""
        self.answers, self.asked, self.bodies = {}, [], []

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.asked.append(request)
        self.bodies.append(body)
        answers = self.answers.get((request.method, request.scope["path"]))
        if not answers:
            return problem(404, "not_found", f"There is no {request.scope['path']}.", remedy="Look elsewhere.")
        return (answers.pop(0) if len(answers) > 1 else answers[0])(request)


def _json(answer: dict[str, Any]) -> Answer:
    return lambda request: JSONResponse(answer)


def broken_off(data: bytes, sent: int, **headers: str) -> Answer:
    """An answer that promises all of `data` and ends after `sent` bytes of it."""

    async def pieces() -> AsyncIterator[bytes]:
        yield data[:sent]
        raise ConnectionResetError

    return lambda request: StreamingResponse(pieces(), headers={"Content-Length": str(len(data)), **headers})


def ranged(data: bytes, *, most: int | None = None) -> Answer:
    """A file with an ETag and Range; with `most` each answer breaks off after so many bytes."""
    etag = f'"{hashlib.sha256(data).hexdigest()}"'

    def answer(request: Request) -> Response:
        wanted = request.headers.get("range")
        start = 0
        if wanted and request.headers.get("if-range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        left = data[start:]
        headers = {"ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if most is not None and len(left) > most:
            response = broken_off(left, most, **headers)(request)
        else:
            response = Response(left, headers=headers)
        response.status_code = 206 if start else 200
        return response

    return answer


def stream(*texts: str, then_break: bool = False) -> Answer:
    """An event stream of these pieces."""

    async def pieces() -> AsyncIterator[str]:
        for text in texts:
            yield text
        if then_break:
            raise ConnectionResetError

    return lambda request: StreamingResponse(pieces(), media_type="text/event-stream")


@contextmanager
def served(fake: Fake) -> Iterator[Fake]:
    """The fake on a free port of this machine."""
    methods = ["GET", "POST", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", fake.answer, methods=methods)])
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        fake.url = f"http://127.0.0.1:{port}"
        yield fake
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()

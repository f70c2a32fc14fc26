"""Series of a service: what their jobs have scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tidemill.client.connection import Call, Connection
from tidemill.wire.series import ForgetFiles, Forgotten, ScoredFile, ScoredFilePage, SeriesOut, SeriesPage


class ManySeries:
    """`client.series`: which files jobs over an input that grows have scored."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, page_size: int = 100) -> Iterator[SeriesOut]:
        """By name; pages are fetched as they are needed."""
        query: dict[str, Any] = {"limit": page_size}
        while True:
            page = self._connection.ask(SeriesPage, Call(method="GET", path="/series", query=query))
            yield from page.items
            if page.next is None:
                return
            query["after"] = page.next

    def get(self, series: str) -> SeriesOut:
        """Raises NotFound."""
        return self._connection.ask(SeriesOut, Call(method="GET", path=_path(series)))

    def files(self, series: str, path: str = "/", *, page_size: int = 500) -> Iterator[ScoredFile]:
        """Files that were scored, by path: that one, or those in that folder of the service's machine."""
        query: dict[str, Any] = {"limit": page_size, "path": path}
        while True:
            page = self._connection.ask(ScoredFilePage, Call(method="GET", path=_path(series, "files"), query=query))
            yield from page.items
            if page.next is None:
                return
            query["after"] = page.next

    def forget(self, series: str, path: str) -> Forgotten:
        """Let that file, or those in that folder ("/": all), count as never scored. Raises NotFound, InvalidSpec."""
        body = ForgetFiles(path=path).model_dump(mode="json")
        return self._connection.ask(Forgotten, Call(method="POST", path=_path(series, "forget"), body=body))


def _path(series: str, *more: str) -> str:
    return "/".join(["/series", quote(series, safe=""), *more])

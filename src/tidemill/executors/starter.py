"""A thread that starts processes and outlives them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Starter:
    """Runs functions in one thread of its own, which lives until `end`.

    The kernel ends a process that asked to die with its parent when the *thread* that started it ends,
    and a zygote may first be needed in any thread of a worker.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="starter", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises; from any thread. Raises RuntimeError after `end`."""
        answer: Future[T] = Future()
        with self._asking:
            if self._ended:
                raise RuntimeError("the starter was ended")
            self._asked.put((answer, function))
        return answer.result()

    def end(self) -> None:
        """End the thread, and with it what it started and still runs."""
        with self._asking:
            self._ended = True
            self._asked.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            answer, function = asked
            try:
                answer.set_result(function())
            except BaseException as exc:
                answer.set_exception(exc)
            del asked, answer, function

"""What a long-running process says of itself: lines for people, or one JSON object a line.

Whatever others chose (names, labels, errors) stays one line, steers no terminal, and holds no credential.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from tidemill.domain.showing import one_line, redacted, visible

QUIET = ("sqlalchemy", "uvicorn", "httpx2", "httpcore2")
"""Libraries whose lines below a warning are noise here, or name URLs that hold keys."""


class JsonLines(logging.Formatter):
    """{"time", "level", "logger", "message"}, with "error" (a traceback) if there was one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            line["error"] = redacted(self.formatException(record.exc_info))
        return one_line(json.dumps(line, ensure_ascii=False))


class Lines(logging.Formatter):
    """Time, level if it is not just information, message."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{at} {level}{one_line(redacted(record.getMessage()))}"
        if not record.exc_info:
            return text
        trace = visible(redacted(self.formatException(record.exc_info)))
        return "\n  ".join([text, *trace.split("\n")])


def configure(*, as_json: bool, level: int = logging.INFO) -> None:
    """Send this process's log to stderr, from now on and instead of what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)

"""The log: one JSON object a line, with the id of the request, and never a word of what was said."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Of an exception, its class and the places in the code are kept. Its message is not: it may quote what a user wrote.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if record.name.startswith("sptune") else record.name,
        }
        line |= getattr(record, "note", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe_exception(record.exc_info[1])
        elif not record.name.startswith("sptune"):
            line["message"] = record.getMessage()
        return json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False)


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Class of an exception and the places it came through, without its message."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    described: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}", "frames": frames}
    cause = error.__cause__ or error.__context__
    if cause is not None:
        described["cause"] = describe_exception(cause)
    return described


def start_logging(level: str, stream: IO[str] | None = None) -> None:
    """Send the log of this package and of the HTTP server to `stream`, as JSON lines.

    Args:
        level: debug, info, warning or error.
        stream: standard error where None.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, lowest in (("sptune", level), ("uvicorn", "warning"), ("asyncio", "error")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(lowest.upper())

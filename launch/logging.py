"""Set-up of structured logs for long-lived processes: to stderr, for people on a terminal, as JSON lines otherwise.

`LAUNCH_LOG_LEVEL` (debug, info, warning, error) and `LAUNCH_LOG_FORMAT` (console, json) override what is chosen here.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Logger:
    """A logger of structlog's by name; structlog, and what it renders tracebacks with, comes with the first message."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        import structlog

        return getattr(structlog.get_logger(self._name), attribute)


def set_up_logging(*, level: str | None = None) -> None:
    """Configure structlog, and the standard library's root logger for what vendors say. Call once, first."""
    import structlog

    chosen = LEVELS.get((level or os.environ.get("LAUNCH_LOG_LEVEL", "info")).lower(), logging.INFO)
    form = os.environ.get("LAUNCH_LOG_FORMAT") or ("console" if sys.stderr.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        # Plain tracebacks: the default ones show local variables, and with them secrets.
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if form == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(chosen),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(chosen, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")

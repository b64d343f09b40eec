"""Logs: one place that decides what a line looks like, which lines there are, and what is in none of them.

Everything that is logged in the process goes through here, libraries included: `time`, `level`, `msg` and fields, as
`logfmt` or JSON with the names that the stock agent uses, so that what collects its logs understands ours. Tracebacks
come without the values of variables. `job_fields` are the fields that every line about a job has.
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Final, TextIO

import msgspec
import structlog
from structlog.typing import Processor

from agent.base.errors import UsageError
from agent.observe.redaction import Redaction

_LEVELS: Final = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
"""The names that Velero's flags know."""
_WORKER_LEVELS: Final = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}
_QUIET: Final = ("botocore", "aiobotocore", "kubernetes", "aiohttp", "urllib3", "asyncio")
"""Libraries whose details hold headers and bodies of requests: only their warnings are logged, whatever the level."""


class LogFormat(StrEnum):
    """How a line is written (`--log-format`)."""

    TEXT = "text"
    JSON = "json"


class LogOptions(msgspec.Struct, frozen=True):
    """What the command line says."""

    format: LogFormat = LogFormat.TEXT
    level: str = "info"


def level_number(name: str) -> int:
    """A level by its name in any case. Raises `UsageError`."""
    number = _LEVELS.get(name.lower())
    if number is None:
        raise UsageError(f"there is no log level {name[:32]!r}", hint=f"known are {', '.join(_LEVELS)}")
    return number


def worker_level(name: str) -> int:
    """Of a line that a worker says at this level; what it prints, and anything unknown, is information."""
    return _WORKER_LEVELS.get(name, logging.INFO)


def job_fields(kind: str, name: str, volume: str, job: str) -> dict[str, str]:
    """What each line about a job says of it. `volume` is `<namespace>/<name>`, `job` the uid of the object."""
    return {"kind": kind, "name": name, "volume": volume, "job": job}


class Logging:
    """The logs of this process. `install` once, at the start."""

    def __init__(self, options: LogOptions, stream: TextIO | None = None) -> None:
        """Raises `UsageError` for a level that does not exist. `stream` is standard output, as the stock agent's."""
        self.redaction = Redaction()
        self._options = options
        self._level = level_number(options.level)
        self._handler = logging.StreamHandler(stream or sys.stdout)

    def install(self) -> None:
        """From now on everything that is logged in this process looks as it should."""
        before: list[Processor] = [
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        ]
        self._handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[*before, structlog.stdlib.ExtraAdder()],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.EventRenamer("msg"),
                    structlog.processors.format_exc_info,
                    self.redaction,
                    _renderer(self._options.format),
                ],
            )
        )
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                *before,
                structlog.stdlib.PositionalArgumentsFormatter(),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )
        root = logging.getLogger()
        root.handlers = [self._handler]
        root.setLevel(self._level)
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)

    def set_level(self, name: str) -> None:
        """From now on; empty: that of the command line. Raises `UsageError`."""
        self._level = level_number(name or self._options.level)
        logging.getLogger().setLevel(self._level)


def _renderer(form: LogFormat) -> Processor:
    if form is LogFormat.JSON:
        return structlog.processors.JSONRenderer(ensure_ascii=False, sort_keys=False)
    return _logfmt


_logfmt_renderer = structlog.processors.LogfmtRenderer(
    key_order=["time", "level", "msg"], drop_missing=True, bool_as_flag=False
)


def _logfmt(logger: object, method: str, event: structlog.typing.EventDict) -> str:
    """One line of `key=value`; what is no text, number or nothing is written as JSON would have it."""
    flat = {name.replace(" ", "_"): value if _is_flat(value) else str(value) for name, value in event.items()}
    return _logfmt_renderer(logger, method, flat)


def _is_flat(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)

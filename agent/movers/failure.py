"""Errors as data and back, and the words that must not be in them.

A worker describes its error with a `JobError`; the supervisor raises the same leaf of the tree again, so that the
agent's controllers tell a wrong password from a full disk without reading texts.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Iterator
from urllib.parse import unquote

from agent.base.errors import CanceledError, LighterageError, MoverOutOfMemory
from agent.movers.spec import JobError, Secrets

MAX_TEXT = 4_096
"""Characters of a message, hint or line of a log."""
_NO_MEMORY = re.compile(
    r"MemoryError|[Cc]annot allocate memory|bad_alloc|out of memory|malloc failure|start new thread"
)
_HIDDEN = "***"
_SHORTEST_IN_FILE = 8


class Redactor:
    """Takes the secrets of one job out of texts, those that were replaced while it ran too."""

    def __init__(self, *secrets: Secrets) -> None:
        self._words = sorted({word for known in secrets for word in secret_words(known)}, key=len, reverse=True)
        self.longest = max(map(len, self._words), default=0)
        """Characters of the longest secret."""

    def __call__(self, text: str) -> str:
        """`text` without them."""
        for word in self._words:
            text = text.replace(word, _HIDDEN)
        return text

    def clip(self, text: str) -> str:
        """The same, no longer than `MAX_TEXT`, and something that can be encoded: names in volumes are any bytes."""
        text = self(text).encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def secret_words(secrets: Secrets) -> Iterator[str]:
    """Every text that must not be seen, and the parts of one that somebody could print alone."""
    plain = (secrets.password, secrets.access_key, secrets.secret_key, secrets.session_token, secrets.proxy)
    yield from filter(None, plain)
    if "@" in secrets.proxy:
        user_info = secrets.proxy.rpartition("@")[0].rpartition("//")[2]
        yield from filter(None, (user_info, user_info.partition(":")[2]))
    if secrets.sse_customer_key:
        yield secrets.sse_customer_key.hex()
    for header in secrets.trace_headers.split(","):
        value = unquote(header.partition("=")[2]).strip()
        yield from (word for word in (value, *value.split()) if len(word) >= _SHORTEST_IN_FILE)
    for line in secrets.credentials.splitlines():
        value = line.partition("=")[2].strip()
        if len(value) >= _SHORTEST_IN_FILE:
            yield value


def describe(error: BaseException, redact: Redactor) -> JobError:
    """An error as it goes over the wire, without secrets and of bounded length."""
    error = _first(error)
    if isinstance(error, LighterageError):
        return JobError(code=error.code, message=redact.clip(error.message), hint=redact.clip(error.hint))
    if is_out_of_memory(error):
        return JobError(
            code=MoverOutOfMemory.code,
            message="the worker needed more memory than it was allowed",
            hint="raise the memory limit of workers, or lower the number of threads of a job",
        )
    if isinstance(error, asyncio.CancelledError):
        return JobError(code=CanceledError.code, message="the job was canceled")
    return JobError(
        code=LighterageError.code, message=redact.clip(f"unexpected {type(error).__name__}: {error}"), hint=""
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is what a memory limit looks like from inside."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    # what libraries make of it
    return isinstance(error, RuntimeError | ValueError) and tells_of_lack_of_memory(str(error))


def tells_of_lack_of_memory(text: str) -> bool:
    """Whether a line that a worker printed, or the text of a library's error, is about it."""
    return _NO_MEMORY.search(text) is not None


def rebuild(described: JobError) -> LighterageError:
    """The leaf with this code; a code that nobody knows becomes the root of the tree."""
    leaves: list[type[LighterageError]] = [LighterageError, *_leaves(LighterageError)]
    for leaf in leaves:
        if leaf.code == described.code:
            return leaf(described.message, hint=described.hint)
    return LighterageError(f"{described.code}: {described.message}", hint=described.hint)


def _leaves(cls: type[LighterageError]) -> Iterator[type[LighterageError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _leaves(sub)


def _first(error: BaseException) -> BaseException:
    """What a group is about: one of our leaves if there is one, lack of memory before anything else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_first(member) for member in error.exceptions]
    for wanted in (is_out_of_memory, lambda e: isinstance(e, LighterageError)):
        for member in inner:
            if wanted(member):
                return member
    return inner[0]

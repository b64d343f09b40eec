"""What a worker prints, as lines without secrets, also when a line comes in pieces or never ends."""

from __future__ import annotations

import codecs
from collections import deque

from agent.movers.failure import MAX_TEXT, Redactor

_TAIL = 20


class OutputLines:
    """Bytes in, lines out. Keeps the last few lines for the message about a crash."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""
        self.tail: deque[str] = deque(maxlen=_TAIL)

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """The lines that `data` completes; with `final` also what has no end."""
        text = self._rest + self._decoder.decode(data, final)
        *lines, rest = text.split("\n")
        if final:
            lines, rest = [*lines, rest], ""
        elif len(rest) > MAX_TEXT + self._redact.longest:
            # Cut where no secret can be in two.
            rest = self._redact(rest)
            cut = len(rest) - self._redact.longest
            lines, rest = [*lines, rest[:cut]], rest[cut:]
        self._rest = rest
        found = [clean for line in lines if (clean := self._redact.clip(line.rstrip()))]
        self.tail += found
        return found

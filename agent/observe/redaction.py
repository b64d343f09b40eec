"""What must not be seen is taken out of everything that is logged, by construction: the last step before a line is
written knows no type that it lets through as it is, but numbers and texts without secrets.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

HIDDEN: Final = "***"
_SHORTEST: Final = 6
"""Characters of a word that is looked for: shorter ones would tear ordinary words."""
_MOST_WORDS = 2_000
_MOST_TEXT = 16_384
_DEPTH = 6
_SECRET_KEY = re.compile(r"password|passwd|secret|token|credential|authorization|private|access_?key", re.IGNORECASE)
_PATTERNS: Final = (
    (re.compile(r"(?<=//)[^/@\s\"']+@"), f"{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(aws_secret_access_key|aws_session_token)(\s*[=:]\s*)\S+"), rf"\1\2{HIDDEN}"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Redaction:
    """Knows the secret words of late; a processor of structlog."""

    def __init__(self) -> None:
        self._words: OrderedDict[str, None] = OrderedDict()
        self._search: re.Pattern[str] | None = None

    def hide(self, words: Iterable[str]) -> None:
        """From now on these are seen nowhere. The oldest are forgotten when there are thousands."""
        changed = False
        for word in words:
            if len(word) >= _SHORTEST:
                changed |= word not in self._words
                self._words[word] = None
                self._words.move_to_end(word)
        if not changed:
            return
        while len(self._words) > _MOST_WORDS:
            self._words.popitem(last=False)
        longest_first = sorted(self._words, key=len, reverse=True)
        self._search = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """`text` without them, without what looks like one, and without characters that a terminal acts on."""
        if self._search is not None:
            text = self._search.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        text = text.encode("utf-8", "backslashreplace").decode()
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """One line on its way out."""
        return {self.text(str(key)): self._value(str(key), value, 0) for key, value in event.items()}

    def _value(self, key: str, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if _SECRET_KEY.search(key):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if depth < _DEPTH and isinstance(value, Mapping):
            return {self.text(str(name)): self._value(str(name), below, depth + 1) for name, below in value.items()}
        if depth < _DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._value("", below, depth + 1) for below in value]
        return self.text(repr(value))

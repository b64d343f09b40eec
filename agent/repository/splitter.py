"""Where objects are cut into contents (§6.3).

Any cut can be read back; cutting like other clients is what makes contents deduplicate with theirs, and small edits
move few cuts. The rolling hashes are compiled (`agent/native/split.c`). The object writer keeps the chunk being filled
in one buffer and asks here for its end.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from agent import _native
from agent.base.errors import AlgorithmUnsupported
from agent.storage.base import Buffer

DEFAULT_SPLITTER = "DYNAMIC-4M-BUZHASH"

_K = 1024
_SIZES = {
    "128K": 128 * _K,
    "256K": 256 * _K,
    "512K": 512 * _K,
    "1M": 1024 * _K,
    "2M": 2048 * _K,
    "4M": 4096 * _K,
    "8M": 8192 * _K,
}


SPLITTER_NAMES = tuple(
    f"{kind}-{size}{function}"
    for kind, function in (("FIXED", ""), ("DYNAMIC", "-BUZHASH"), ("DYNAMIC", "-RABINKARP"))
    for size in _SIZES
)


class _Method(Enum):
    FIXED = "fixed"
    BUZHASH = "buzhash"
    RABIN_KARP = "rabin-karp"


class Splitter(msgspec.Struct, frozen=True):
    """One way to cut; immutable, so any number of objects may be cut with it at once."""

    name: str
    min_chunk: int
    """Bytes; only an object's last chunk is shorter."""
    max_chunk: int
    """Bytes; no chunk is longer."""
    method: _Method

    def find_cut(self, buffer: Buffer, length: int, scanned: int) -> int:
        """The length of the chunk that begins with `buffer`, or 0 when `length` bytes do not tell yet.

        Only the first `length` bytes of `buffer` count, and cuts up to `scanned` were looked for by earlier calls.
        The interpreter lock is released while it looks.
        """
        if self.method is _Method.BUZHASH:
            return _native.buzhash_cut(buffer, length, scanned, self.min_chunk, self.max_chunk, self.min_chunk * 2 - 1)
        if self.method is _Method.RABIN_KARP:
            return _native.rabin_karp_cut(
                buffer, length, scanned, self.min_chunk, self.max_chunk, self.min_chunk * 2 - 1
            )
        return self.max_chunk if length >= self.max_chunk else 0

    def zero_run_chunks(self, length: int) -> tuple[int, int]:
        """How a run of `length` zero bytes is cut that begins where a chunk begins: (n, rest).

        n chunks of `min_chunk` zeros each, then `rest` zeros that begin the next chunk. A rolling hash over zeros is
        zero, so the first possible cut is always taken; a sparse device needs no reading to know this.
        """
        return divmod(length, self.min_chunk)


def new_splitter(name: str) -> Splitter:
    """The splitter of that name; the empty name is that of a format blob without one. Raises `AlgorithmUnsupported`."""
    full = {"": "FIXED-4M", "FIXED": "FIXED-4M", "DYNAMIC": DEFAULT_SPLITTER}.get(name, name)
    kind, _, rest = full.partition("-")
    size_name, _, function = rest.partition("-")
    size = _SIZES.get(size_name, 0)
    if size and (kind, function) == ("FIXED", ""):
        return Splitter(name, size, size, _Method.FIXED)
    if size and (kind, function) == ("DYNAMIC", "BUZHASH"):
        return Splitter(name, size // 2, size * 2, _Method.BUZHASH)
    if size and (kind, function) == ("DYNAMIC", "RABINKARP"):
        return Splitter(name, size // 2, size * 2, _Method.RABIN_KARP)
    raise AlgorithmUnsupported(
        f"the repository or policy uses the splitter {name[:80]!r}, which is not supported",
        hint="supported are FIXED-<size>, DYNAMIC-<size>-BUZHASH and DYNAMIC-<size>-RABINKARP",
    )

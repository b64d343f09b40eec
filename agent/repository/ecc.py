"""Error correction around sealed bytes (§3.6, §13.4): Reed-Solomon shards, each with its CRC.

A repository made with it wraps everything that is sealed, except format, configuration and maintenance blobs.
`EccCipher` puts the wrapping around a `ContentCipher` and is a `Cipher` itself, so nobody else needs to know;
`new_cipher` chooses. Damage is repaired while reading as long as enough shards are whole. It is Python, table look-ups
and big integers, and does some 50 MB/s writing and 100 MB/s reading at the usual few percent: they are rare.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from agent.base.errors import AlgorithmUnsupported, CorruptContent, CorruptFormat
from agent.repository.encryption import Cipher, ContentCipher
from agent.storage.base import Buffer

REED_SOLOMON = "REED-SOLOMON-CRC32"

_CRC = 4
_LENGTH = 4
_SMALL_DATA, _SMALL_PARITY = 6, 2


def new_cipher(encryption: str, master_key: bytes, *, ecc: str = "", overhead_percent: int = 0) -> Cipher:
    """A format's cipher, error correction around it when on. Raises `AlgorithmUnsupported`, `CorruptFormat`."""
    cipher = ContentCipher(encryption, master_key)
    if not ecc or overhead_percent == 0:
        return cipher
    if ecc != REED_SOLOMON:
        raise AlgorithmUnsupported(
            f"the repository uses the error correction {ecc[:80]!r}, which is not supported",
            hint=f"supported is {REED_SOLOMON}",
        )
    return EccCipher(cipher, overhead_percent)


class EccCipher:
    """A `Cipher` whose sealed form survives damage of about `overhead_percent` of its bytes."""

    __slots__ = ("_correction", "_inner")

    def __init__(self, inner: Cipher, overhead_percent: int) -> None:
        self._inner = inner
        self._correction = ErrorCorrection(overhead_percent)

    def sealed_length(self, length: int, /) -> int:
        """See `Cipher`."""
        return self._correction.wrapped_length(self._inner.sealed_length(length))

    def seal(self, data: Buffer, iv: bytes, /) -> bytes:
        """See `Cipher`."""
        return self._correction.wrap(self._inner.seal(data, iv))

    def seal_into(self, data: Buffer, iv: bytes, out: memoryview, /) -> int:
        """See `Cipher`."""
        wrapped = self.seal(data, iv)
        out[: len(wrapped)] = wrapped
        return len(wrapped)

    def open_in_place(self, sealed: memoryview, iv: bytes, /) -> Buffer:
        """See `Cipher`."""
        return self.open(sealed, iv)

    def open(self, sealed: Buffer, iv: bytes, /) -> bytes:
        """See `Cipher`."""
        return self._inner.open(self._correction.unwrap(sealed), iv)


class _Layout(msgspec.Struct, frozen=True):
    """How one byte string is cut up: `blocks` times `data` + `parity` shards of `shard` bytes."""

    blocks: int
    data: int
    parity: int
    shard: int
    padded: bool
    """The padding of the data is stored."""


class ErrorCorrection:
    """Wrapping of byte strings at one overhead."""

    __slots__ = ("_data", "_max_shard", "_parity")

    def __init__(self, overhead_percent: int) -> None:
        if not 1 <= overhead_percent <= 100:
            raise CorruptFormat(f"an error correction overhead of {overhead_percent} % is not between 1 and 100")
        self._max_shard = {1: 1024, 2: 512, 3: 256, 4: 128, 5: 128, 6: 128}.get(overhead_percent, 64)
        free = max(overhead_percent - 100 * _CRC / self._max_shard, 0.01)
        self._data, self._parity = 128, min(max(int(128 * free / 100), 1), 128)
        if self._parity == 1:
            self._data, self._parity = min(max(int(2 * 100 / free), 128), 254), 2

    def wrapped_length(self, length: int) -> int:
        """How long the wrapped form of `length` bytes is."""
        layout = self._layout(length)
        stored = layout.data * layout.shard if layout.padded else _LENGTH + length
        return layout.blocks * layout.parity * (_CRC + layout.shard) + -(-stored // layout.shard) * _CRC + stored

    def wrap(self, data: bytes) -> bytes:
        """All parity shards, then all data shards, each behind its CRC."""
        layout = self._layout(len(data))
        size = layout.shard
        stored = layout.data * size if layout.padded else _LENGTH + len(data)
        padded = (len(data).to_bytes(_LENGTH, "big") + data).ljust(layout.blocks * layout.data * size, b"\0")
        shards = [padded[at : at + size] for at in range(0, len(padded), size)]
        out: list[bytes] = []
        for first in range(0, len(shards), layout.data):
            for row in _parity_rows(layout.data, layout.parity):
                shard = _combine(row, shards[first : first + layout.data], size)
                out += (_crc(shard), shard)
        for index, shard in enumerate(shards[: -(-stored // size)]):
            out += (_crc(shard), shard[: stored - index * size])
        return b"".join(out)

    def unwrap(self, wrapped: Buffer) -> bytes:
        """What was wrapped, repaired where it had to be and could be. Raises `CorruptContent`."""
        layout = self._stored_layout(len(wrapped))
        step = _CRC + layout.shard
        data_start = layout.blocks * layout.parity * step
        stored = bytes(wrapped).ljust(layout.blocks * (layout.parity + layout.data) * step, b"\0")
        parts: list[bytes] = []
        for block in range(layout.blocks):
            first = data_start + block * layout.data * step
            shards = [
                _checked(stored, at, step, trusted=at >= len(wrapped))
                for at in range(first, first + layout.data * step, step)
            ]
            if None in shards:
                first = block * layout.parity * step
                parity = [_checked(stored, at, step) for at in range(first, first + layout.parity * step, step)]
                parts += _repair(shards, parity, layout)
            else:
                parts += (shard for shard in shards if shard is not None)
        padded = b"".join(parts)
        end = _LENGTH + int.from_bytes(padded[:_LENGTH], "big")
        if end > len(padded):
            raise CorruptContent(f"{len(wrapped)} bytes with error correction say that they hold {end - _LENGTH}")
        return padded[_LENGTH:end]

    def _layout(self, length: int) -> _Layout:
        length += _LENGTH
        if length <= 2 * _CRC * (self._data + self._parity):
            return _Layout(1, _SMALL_DATA, _SMALL_PARITY, -(-length // _SMALL_DATA), padded=True)
        if length <= self._data * self._max_shard:
            return _Layout(1, self._data, self._parity, -(-length // self._data), padded=True)
        blocks = -(-length // (self._data * self._max_shard))
        return _Layout(blocks, self._data, self._parity, self._max_shard, padded=False)

    def _stored_layout(self, stored: int) -> _Layout:
        """The layout of a wrapped form, known from its length alone."""
        both = self._data + self._parity
        small = _SMALL_DATA + _SMALL_PARITY
        if stored <= small * (_CRC + -(-2 * _CRC * both // _SMALL_DATA)):
            return _Layout(1, _SMALL_DATA, _SMALL_PARITY, max(-(-stored // small) - _CRC, 1), padded=True)
        if stored <= both * (_CRC + self._max_shard):
            return _Layout(1, self._data, self._parity, max(-(-stored // both) - _CRC, 1), padded=True)
        blocks = -(-stored // (both * (_CRC + self._max_shard)))
        return _Layout(blocks, self._data, self._parity, self._max_shard, padded=False)


def _crc(shard: bytes) -> bytes:
    return zlib.crc32(shard).to_bytes(_CRC, "big")


def _checked(stored: bytes, at: int, step: int, *, trusted: bool = False) -> bytes | None:
    """The shard at `at`, or None when its CRC says that it is damaged. Padding that was not stored has no CRC."""
    shard = stored[at + _CRC : at + step]
    return shard if trusted or stored[at : at + _CRC] == _crc(shard) else None


def _repair(shards: Sequence[bytes | None], parity: Sequence[bytes | None], layout: _Layout) -> list[bytes]:
    """The data shards of a block, the missing ones computed by solving as many parity equations."""
    missing = [column for column, shard in enumerate(shards) if shard is None]
    rows = _parity_rows(layout.data, layout.parity)
    known = [shard or bytes(layout.shard) for shard in shards]
    equations: list[tuple[bytes, bytes]] = []
    for row, shard in zip(rows, parity, strict=True):
        if shard is not None and len(equations) < len(missing):
            rest = _xor(shard, _combine(row, known, layout.shard))
            equations.append((bytes(row[column] for column in missing), rest))
    if len(equations) < len(missing):
        raise CorruptContent(
            f"{len(missing)} of {layout.data} shards are damaged and only {len(equations)} can be repaired"
        )
    for column, solution in zip(missing, _solve(equations), strict=True):
        known[column] = solution
    return known


def _solve(equations: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Gauss-Jordan over GF(2^8); a square part of the parity rows always has an inverse."""
    for pivot in range(len(equations)):
        swap = next(row for row in range(pivot, len(equations)) if equations[row][0][pivot])
        equations[pivot], equations[swap] = equations[swap], equations[pivot]
        coefficients, value = equations[pivot]
        scale = _multiples(_inverse(coefficients[pivot]))
        coefficients, value = coefficients.translate(scale), value.translate(scale)
        equations[pivot] = coefficients, value
        for row, (others, rest) in enumerate(equations):
            if row != pivot and others[pivot]:
                factor = _multiples(others[pivot])
                equations[row] = (
                    _xor(others, coefficients.translate(factor)),
                    _xor(rest, value.translate(factor)),
                )
    return [value for _, value in equations]


def _combine(row: bytes, shards: Sequence[bytes], size: int) -> bytes:
    """The sum of the shards, each multiplied by its factor."""
    total = 0
    for factor, shard in zip(row, shards, strict=True):
        total ^= int.from_bytes(shard.translate(_multiples(factor)), "little")
    return total.to_bytes(size, "little")


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _powers() -> tuple[bytes, bytes]:
    """Powers of the generator 2 modulo the polynomial 0x11D, and their logarithms."""
    power, log = bytearray(255), bytearray(256)
    value = 1
    for exponent in range(255):
        power[exponent] = value
        log[value] = exponent
        value = value << 1 ^ (0x11D if value & 0x80 else 0)
    return bytes(power), bytes(log)


_POWER, _LOG = _powers()


def _inverse(value: int) -> int:
    return _POWER[-_LOG[value] % 255]


@lru_cache(maxsize=256)
def _multiples(factor: int) -> bytes:
    """`factor` times each byte, as a translation table."""
    if factor == 0:
        return bytes(256)
    return bytes(1) + bytes(_POWER[(_LOG[factor] + _LOG[value]) % 255] for value in range(1, 256))


@lru_cache(maxsize=4)
def _parity_rows(data: int, parity: int) -> tuple[bytes, ...]:
    """The parity rows of the systematic Vandermonde matrix.

    Row r of V·(top of V)^-1 with V[r][c] = r^c holds the values at r of the Lagrange polynomials over the nodes
    0..data-1, which are products and quotients of differences, so sums of logarithms.
    """
    logs_of_denominators = [sum(_LOG[j ^ k] for k in range(data) if k != j) for j in range(data)]
    rows = []
    for r in range(data, data + parity):
        numerator = sum(_LOG[r ^ k] for k in range(data))
        rows.append(bytes(_POWER[(numerator - _LOG[r ^ j] - logs_of_denominators[j]) % 255] for j in range(data)))
    return tuple(rows)

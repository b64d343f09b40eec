"""The keyed hashes that name contents and blobs (§3.1).

A hasher is made once for a repository and used by every thread for each content, most of them tiny. So the work that
depends only on the secret is done once: BLAKE2 and HMAC start from copies of states that have taken the key. Inputs
over 2 KiB are hashed with the interpreter lock released.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from blake3 import blake3

from agent import _native
from agent.base.errors import AlgorithmUnsupported, CorruptFormat
from agent.storage.base import Buffer

DEFAULT_HASH = "BLAKE2B-256-128"

_BLAKE3_CONTEXT = "kopia blake3 derived key v1"
_BLAKE3_KEY = 32


class Hasher(Protocol):
    """`hasher(data)` is the digest, `digest_size` bytes long. Immutable, so any thread may call it."""

    digest_size: int

    def __call__(self, data: Buffer, /) -> bytes:
        """The digest of `data`."""

    def many(self, data: Sequence[Buffer], /) -> list[bytes]:
        """The digest of each, for less than one by one where the processor can work on several."""


class _OneByOne(ABC):
    """`many` of a hash that does one after the other."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, data: Buffer, /) -> bytes: ...

    def many(self, data: Sequence[Buffer], /) -> list[bytes]:
        """The digest of each."""
        return [self(item) for item in data]


class _State(Protocol):
    """What this module needs of a hashlib object."""

    def copy(self) -> _State: ...
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class _Blake2(_OneByOne):
    """BLAKE2 with its own keying."""

    __slots__ = ("_state", "digest_size")

    def __init__(self, state: _State, size: int) -> None:
        self._state = state
        self.digest_size = size

    def __call__(self, data: Buffer, /) -> bytes:
        state = self._state.copy()
        state.update(data)
        return state.digest()[: self.digest_size]


class _NativeBlake2b:
    """Keyed BLAKE2b of our own, where the processor can run it."""

    __slots__ = ("_secret", "digest_size")

    def __init__(self, secret: bytes, size: int) -> None:
        if len(secret) > hashlib.blake2b.MAX_KEY_SIZE:
            raise ValueError(f"BLAKE2b takes no key of {len(secret)} bytes")
        self._secret = secret
        self.digest_size = size

    def __call__(self, data: Buffer, /) -> bytes:
        return _native.blake2b(data, self._secret, 32)[: self.digest_size]

    def many(self, data: Sequence[Buffer], /) -> list[bytes]:
        """The digest of each, four at a time."""
        size = self.digest_size
        return [digest[:size] for digest in _native.blake2b_many(data, self._secret, 32)]


class Hmac(_OneByOne):
    """HMAC over a hashlib hash, twice as fast for short inputs as the standard library's."""

    __slots__ = ("_inner", "_outer", "digest_size")

    def __init__(self, function: Callable[[bytes], hashlib._Hash], secret: bytes, size: int) -> None:
        block_size = function(b"").block_size
        key = (function(secret).digest() if len(secret) > block_size else secret).ljust(block_size, b"\0")
        self._inner: _State = function(bytes(byte ^ 0x36 for byte in key))
        self._outer: _State = function(bytes(byte ^ 0x5C for byte in key))
        self.digest_size = size

    def __call__(self, data: Buffer, /) -> bytes:
        """The first `digest_size` bytes of the HMAC of `data`."""
        inner = self._inner.copy()
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: self.digest_size]


class _Blake3(_OneByOne):
    """BLAKE3 with its own keying."""

    __slots__ = ("_key", "digest_size")

    def __init__(self, secret: bytes, size: int) -> None:
        self._key = (
            secret[:_BLAKE3_KEY]
            if len(secret) >= _BLAKE3_KEY
            else blake3(secret, derive_key_context=_BLAKE3_CONTEXT).digest()
        )
        self.digest_size = size

    def __call__(self, data: Buffer, /) -> bytes:
        return blake3(data, key=self._key).digest(self.digest_size)


def _blake2b(size: int) -> Callable[[bytes], Hasher]:
    if _native.blake2b_supported():
        return lambda secret: _NativeBlake2b(secret, size)
    return lambda secret: _Blake2(hashlib.blake2b(digest_size=32, key=secret), size)


def _blake2s(size: int) -> Callable[[bytes], Hasher]:
    return lambda secret: _Blake2(hashlib.blake2s(digest_size=size, key=secret), size)


def _blake3(size: int) -> Callable[[bytes], Hasher]:
    return lambda secret: _Blake3(secret, size)


def _hmac(function: Callable[[bytes], hashlib._Hash], size: int) -> Callable[[bytes], Hasher]:
    return lambda secret: Hmac(function, secret, size)


_HASHES: dict[str, Callable[[bytes], Hasher]] = {
    "BLAKE2B-256": _blake2b(32),
    "BLAKE2B-256-128": _blake2b(16),
    "BLAKE2S-128": _blake2s(16),
    "BLAKE2S-256": _blake2s(32),
    "BLAKE3-256": _blake3(32),
    "BLAKE3-256-128": _blake3(16),
    "HMAC-SHA224": _hmac(hashlib.sha224, 28),
    "HMAC-SHA256": _hmac(hashlib.sha256, 32),
    "HMAC-SHA256-128": _hmac(hashlib.sha256, 16),
    "HMAC-SHA3-224": _hmac(hashlib.sha3_224, 28),
    "HMAC-SHA3-256": _hmac(hashlib.sha3_256, 32),
}

HASH_NAMES = tuple(_HASHES)


def new_hasher(name: str, secret: bytes) -> Hasher:
    """The hash `name` keyed with the repository's hash secret.

    Raises `AlgorithmUnsupported`, and `CorruptFormat` for a secret that the function cannot take.
    """
    make = _HASHES.get(name)
    if make is None:
        raise AlgorithmUnsupported(
            f"the repository uses the hash {name[:80]!r}, which is not supported",
            hint=f"supported are {', '.join(_HASHES)}",
        )
    try:
        return make(secret)
    except ValueError as error:
        raise CorruptFormat(f"a hash secret of {len(secret)} bytes is too long for {name}") from error

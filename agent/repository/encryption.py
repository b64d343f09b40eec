"""Sealing of contents: each with its own key, derived from its hash (§3.2).

Sealed bytes are `nonce (12) || ciphertext || tag (16)`. `Cipher` is what the rest of the package sees; with error
correction the same interface comes from `agent.repository.ecc`. The length of the sealed form is known before sealing,
so a pack can reserve its range first and threads can seal straight into it.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from agent.base.errors import AlgorithmUnsupported, CorruptContent
from agent.repository.hashing import Hmac
from agent.repository.kdf import content_key
from agent.storage.base import Buffer

DEFAULT_ENCRYPTION = "AES256-GCM-HMAC-SHA256"
ENCRYPTION_NAMES = (DEFAULT_ENCRYPTION, "CHACHA20-POLY1305-HMAC-SHA256")
OVERHEAD = 28
"""Bytes by which an AEAD's sealed form is longer than the plaintext."""
IV_SIZE = 16
"""Bytes of a content's hash, from its end, that select its key; a pack's local index uses its whole hash (§3.5)."""

_NONCE = 12
_TAG = 16
_NONCES_AT_ONCE = 256


class Cipher(Protocol):
    """Seals and opens contents and blobs; any thread may call it."""

    def sealed_length(self, length: int, /) -> int:
        """How long the sealed form of `length` bytes will be."""

    def seal(self, data: Buffer, iv: bytes, /) -> bytes:
        """The sealed form of `data` with the key that `iv` selects."""

    def seal_into(self, data: Buffer, iv: bytes, out: memoryview, /) -> int:
        """Write the sealed form to the start of `out` (flat, writable bytes, long enough); its length."""

    def open(self, sealed: Buffer, iv: bytes, /) -> bytes:
        """The plaintext. Raises `CorruptContent` when `sealed` was damaged or the `iv` is another one."""

    def open_in_place(self, sealed: memoryview, iv: bytes, /) -> Buffer:
        """As `open`; where it can, the plaintext is a part of `sealed`, which is overwritten, also when this raises."""


class _Nonces:
    """Random nonces, drawn many at a time: a system call for each costs more than hashing a small file.

    A forked child must not repeat its parent's nonces, so there the stock is dropped.
    """

    __slots__ = ("__weakref__", "_random", "_stock")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._stock: list[bytes] = []
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _forget(self) -> None:
        self._stock.clear()

    def take(self) -> bytes:
        """A nonce nobody else gets: `list.pop` is atomic."""
        try:
            return self._stock.pop()
        except IndexError:
            block = self._random(_NONCE * _NONCES_AT_ONCE)
            fresh = [block[at : at + _NONCE] for at in range(0, len(block), _NONCE)]
            nonce = fresh.pop()
            self._stock.extend(fresh)
            return nonce


class ContentCipher:
    """One of the two AEADs, keyed per content by HMAC-SHA256 of the `iv`."""

    __slots__ = ("_aead", "_content_key", "_nonce")

    overhead = OVERHEAD

    def __init__(self, name: str, master_key: bytes, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """`name` as the format blob has it. Raises `AlgorithmUnsupported`."""
        self._aead = _aead(name)
        self._content_key = Hmac(hashlib.sha256, content_key(master_key), 32)
        self._nonce = _Nonces(random).take

    def sealed_length(self, length: int, /) -> int:
        """See `Cipher`."""
        return length + OVERHEAD

    def seal(self, data: Buffer, iv: bytes, /) -> bytes:
        """See `Cipher`."""
        nonce = self._nonce()
        return nonce + self._aead(self._content_key(iv)).encrypt(nonce, data, iv)

    def seal_into(self, data: Buffer, iv: bytes, out: memoryview, /) -> int:
        """See `Cipher`. No copy besides; the interpreter lock is released while it encrypts."""
        nonce = self._nonce()
        end = memoryview(data).nbytes + OVERHEAD
        out[:_NONCE] = nonce
        self._aead(self._content_key(iv)).encrypt_into(nonce, data, iv, out[_NONCE:end])
        return end

    def open(self, sealed: Buffer, iv: bytes, /) -> bytes:
        """See `Cipher`."""
        view = _sealed(sealed)
        try:
            return self._aead(self._content_key(iv)).decrypt(view[:_NONCE], view[_NONCE:], iv)
        except InvalidTag as error:
            raise _damaged(view, iv) from error

    def open_in_place(self, sealed: memoryview, iv: bytes, /) -> Buffer:
        """See `Cipher`. No second buffer: a fresh one costs several times its decryption."""
        view = _sealed(sealed)
        plain = view[_NONCE : view.nbytes - _TAG]
        try:
            self._aead(self._content_key(iv)).decrypt_into(bytes(view[:_NONCE]), view[_NONCE:], iv, plain)
        except InvalidTag as error:
            raise _damaged(view, iv) from error
        return plain


def _sealed(sealed: Buffer) -> memoryview:
    view = memoryview(sealed)
    if view.nbytes < OVERHEAD:
        raise CorruptContent(f"a sealed content of {view.nbytes} bytes cannot be decrypted, it is too short")
    return view


def _damaged(view: memoryview, iv: bytes) -> CorruptContent:
    return CorruptContent(
        f"a content of {view.nbytes} sealed bytes with hash ending {iv.hex()} does not decrypt, it is damaged"
    )


def _aead(name: str) -> type[AESGCM] | type[ChaCha20Poly1305]:
    if name == DEFAULT_ENCRYPTION:
        return AESGCM
    if name == "CHACHA20-POLY1305-HMAC-SHA256":
        return ChaCha20Poly1305
    raise AlgorithmUnsupported(
        f"the repository uses the encryption {name[:80]!r}, which is not supported",
        hint=f"supported are {DEFAULT_ENCRYPTION} and CHACHA20-POLY1305-HMAC-SHA256",
    )

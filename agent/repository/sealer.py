"""Whole blobs that are sealed under a name made from their hash (§3.4): indexes, session markers, logs.

The modules that own such blobs call this; packs seal content by content (`agent.repository.encryption`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TypeVar

from agent.base.errors import CorruptBlob, CorruptContent
from agent.repository.encryption import IV_SIZE, Cipher
from agent.repository.hashing import Hasher
from agent.storage.base import BlobId, Buffer

S = TypeVar("S", bound=Buffer)
B = TypeVar("B", bound=Buffer)


class BlobSealer:
    """Names, seals and opens whole blobs; any thread may call it."""

    __slots__ = ("_cipher", "_hasher")

    def __init__(self, hasher: Hasher, cipher: Cipher) -> None:
        self._hasher = hasher
        self._cipher = cipher

    def name_and_seal(self, prefix: str, data: Buffer, suffix: str = "") -> tuple[BlobId, bytes]:
        """The blob id `prefix || hex(hash) || [-suffix]` and the sealed bytes of `data`.

        `prefix` holds no `-`: the hash is looked for before the first one.
        """
        if "-" in prefix:
            raise ValueError(f"a blob prefix with a dash cannot be opened again: {prefix!r}")
        digest = self._hasher(data)
        blob_id = f"{prefix}{digest.hex()}" + (f"-{suffix}" if suffix else "")
        return BlobId(blob_id), self._cipher.seal(data, digest[-IV_SIZE:])

    def open(self, blob_id: BlobId, sealed: Buffer) -> bytes:
        """The plaintext, after its hash was found to be the one in `blob_id`. Raises `CorruptBlob`."""
        return self._open(blob_id, sealed, self._cipher.open)

    def open_in_place(self, blob_id: BlobId, sealed: Buffer) -> Buffer:
        """As `open`, without memory for a second copy: where it can be written, `sealed` is overwritten."""
        view = memoryview(sealed)
        if view.readonly:
            return self.open(blob_id, sealed)
        return self._open(blob_id, view, self._cipher.open_in_place)

    def _open(self, blob_id: BlobId, sealed: S, cipher: Callable[[S, bytes], B]) -> B:
        stem = blob_id.partition("-")[0]
        try:
            named = bytes.fromhex(stem[-2 * self._hasher.digest_size :])
        except ValueError:
            named = b""
        if len(named) != self._hasher.digest_size:
            raise CorruptBlob(f"the name of blob {blob_id[:200]!r} holds no hash, so it cannot be decrypted")
        try:
            plaintext = cipher(sealed, named[-IV_SIZE:])
        except CorruptContent as error:
            raise CorruptBlob(f"blob {blob_id!r} ({memoryview(sealed).nbytes} bytes) does not decrypt") from error
        if not hmac.compare_digest(self._hasher(plaintext), named):
            raise CorruptBlob(f"blob {blob_id!r} decrypts, but to other bytes than its name says")
        return plaintext

"""Keys from the password and from other keys; sealing of the few blobs that use them directly (§2.1, §2.2, §3.3).

The password gives the *password key*; it seals only the inner part of `kopia.repository` and `kopia.blobcfg`.
Everything else hangs on the random master key inside. The format modules call this; contents go through
`agent.repository.encryption`.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent import _native
from agent.base.errors import AlgorithmUnsupported, CorruptBlob, CorruptFormat, RepositoryError, WrongPassword

DEFAULT_KEY_ALGORITHM = "scrypt-65536-8-1"
PBKDF2_KEY_ALGORITHM = "pbkdf2-sha256-600000"
INSECURE_KEY_ALGORITHM = "testing-only-insecure"

KEY_SIZE = 32
_MIN_SALT = 16
_SCRYPT_N, _SCRYPT_R = 65_536, 8
_SCRYPT_STRIDE = 8
"""An eighth of scrypt's memory, in the time that the interpreter's own needs with all of it."""
_NONCE = 12
_TAG = 16
_SCHEDULE_AAD = b"maintenance"


def derive_password_key(algorithm: str, password: str, unique_id: bytes, *, allow_insecure: bool = False) -> bytes:
    """The 32-byte password key (§2.1). Slow by design (0.1 to 1 s, 8 MiB): call it in a thread, keep the result.

    `unique_id` is the salt; `allow_insecure` admits the algorithm of test repositories.
    Raises `AlgorithmUnsupported`, `CorruptFormat` for a salt that is too short.
    """
    if len(unique_id) < _MIN_SALT:
        raise CorruptFormat(f"the repository's unique id has {len(unique_id)} bytes, at least {_MIN_SALT} are needed")
    secret = password.encode("utf-8", "surrogateescape")
    if algorithm == DEFAULT_KEY_ALGORITHM:
        return scrypt(secret, unique_id, n=_SCRYPT_N, r=_SCRYPT_R, length=KEY_SIZE)
    if algorithm == PBKDF2_KEY_ALGORITHM:
        return hashlib.pbkdf2_hmac("sha256", secret, unique_id, 600_000, KEY_SIZE)
    if algorithm == INSECURE_KEY_ALGORITHM and allow_insecure:
        return hashlib.sha256(secret).digest()
    raise AlgorithmUnsupported(
        f"the repository derives its key from the password with {algorithm[:80]!r}, which is not supported",
        hint=f"supported are {DEFAULT_KEY_ALGORITHM} and {PBKDF2_KEY_ALGORITHM}",
    )


def scrypt(secret: bytes, salt: bytes, *, n: int, r: int, length: int) -> bytes:
    """scrypt with p = 1 (RFC 7914 §6)."""
    block = hashlib.pbkdf2_hmac("sha256", secret, salt, 1, 128 * r)
    return hashlib.pbkdf2_hmac("sha256", secret, _native.scrypt_romix(block, n, _SCRYPT_STRIDE), 1, length)


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def seal_format_part(key: bytes, unique_id: bytes, plaintext: bytes, nonce: bytes | None = None) -> bytes:
    """Seal the inner part of the format blob, or `kopia.blobcfg`, with the password key (§2.2)."""
    return _seal(hkdf(key, unique_id, b"AES", KEY_SIZE), plaintext, hkdf(key, unique_id, b"CHECKSUM", KEY_SIZE), nonce)


def open_format_part(key: bytes, unique_id: bytes, sealed: bytes, *, or_raise: RepositoryError | None = None) -> bytes:
    """The plaintext of what `seal_format_part` made.

    When it does not open, raises `or_raise`; `WrongPassword` unless the caller knows that the key is right.
    """
    plaintext = _open(hkdf(key, unique_id, b"AES", KEY_SIZE), sealed, hkdf(key, unique_id, b"CHECKSUM", KEY_SIZE))
    if plaintext is None:
        raise or_raise or WrongPassword(
            "the password does not open the repository",
            hint="check the password, and that this is the right repository",
        )
    return plaintext


def content_key(master_key: bytes) -> bytes:
    """The key from which the key of each content comes (§3.2). Here, and only here, the purpose is the salt."""
    return hkdf(master_key, b"encryption", b"", KEY_SIZE)


def maintenance_key(secret: bytes, unique_id: bytes) -> bytes:
    """The key of `kopia.maintenance` (§8.2).

    `secret` is the master key; the password key when the format's `enablePasswordChange` is false (§13.1).
    """
    return hkdf(secret, unique_id, b"maintenance schedule", KEY_SIZE)


def cache_integrity_key(secret: bytes, unique_id: bytes) -> bytes:
    """The 16-byte key that authenticates locally cached data (§3.3).

    `secret` is the hash secret; the password key when the format's `enablePasswordChange` is false (§13.1).
    """
    return hkdf(secret, unique_id, b"local-cache-integrity", 16)


def seal_maintenance_schedule(key: bytes, plaintext: bytes, nonce: bytes | None = None) -> bytes:
    """Seal the JSON of `kopia.maintenance` with `maintenance_key` (§8.2)."""
    return _seal(key, plaintext, _SCHEDULE_AAD, nonce)


def open_maintenance_schedule(key: bytes, sealed: bytes) -> bytes:
    """The JSON of `kopia.maintenance`. Raises `CorruptBlob`."""
    plaintext = _open(key, sealed, _SCHEDULE_AAD)
    if plaintext is None:
        raise CorruptBlob(f"kopia.maintenance ({len(sealed)} bytes) does not decrypt with this repository's key")
    return plaintext


def _seal(key: bytes, plaintext: bytes, aad: bytes, nonce: bytes | None) -> bytes:
    nonce = os.urandom(_NONCE) if nonce is None else nonce
    return nonce + AESGCM(key).encrypt(nonce, plaintext, aad)


def _open(key: bytes, sealed: bytes, aad: bytes) -> bytes | None:
    if len(sealed) < _NONCE + _TAG:
        return None
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], aad)
    except InvalidTag:
        return None

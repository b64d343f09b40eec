"""New repositories (§2.3, §2.4, §10.2).

Everything that must be right before a byte is written is checked first; then `kopia.blobcfg`, `kopia.repository`, the
maintenance manifest, and for Velero its own marker, in this order. The manifest goes through the ordinary writer, which
lives above this module: the caller passes a function that opens the new repository and puts it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from agent.base.clock import Clock, SystemClock
from agent.base.errors import BlobExists, RepositoryExists, UsageError
from agent.repository import gojson
from agent.repository.ecc import REED_SOLOMON, new_cipher
from agent.repository.encryption import DEFAULT_ENCRYPTION
from agent.repository.format_blob import (
    BLOBCFG_BLOB,
    DEFAULT_EPOCH_PARAMETERS,
    DEFAULT_MAX_PACK_SIZE,
    DEFAULT_SPLITTER,
    FORMAT_BLOB,
    MAX_FORMAT_VERSION,
    EpochParameters,
    InnerFormat,
    ObjectLock,
    RepositoryFormat,
    build_blobcfg,
    build_envelope,
    open_format,
)
from agent.repository.hashing import DEFAULT_HASH, new_hasher
from agent.repository.kdf import DEFAULT_KEY_ALGORITHM, derive_password_key
from agent.repository.maintenance import DEFAULT_OWNER, MANIFEST_LABELS, default_parameters, encode_parameters
from agent.repository.splitter import new_splitter
from agent.storage.base import BlobId, BlobStorage

VELERO_MARKER = BlobId("udmrepo.Repository")
"""Velero >= 1.18 takes a repository without this blob for one that was not initialised (§10.2)."""

MIN_PACK_SIZE = 10 << 20
MAX_PACK_SIZE = 120 << 20
RETENTION_MODES = ("GOVERNANCE", "COMPLIANCE")

_SECRET_LENGTH = 32
_BUILD_VERSION = "lighterage"


class CreateOptions(msgspec.Struct, frozen=True):
    """The choices of a new repository; the defaults are Velero's."""

    format_version: int = MAX_FORMAT_VERSION
    """1 has no epochs, no content compression and a password that can never change; 2 and 3 differ in the number."""
    hash: str = DEFAULT_HASH
    encryption: str = DEFAULT_ENCRYPTION
    splitter: str = DEFAULT_SPLITTER
    key_algorithm: str = DEFAULT_KEY_ALGORITHM
    ecc: str = ""
    """`REED-SOLOMON-CRC32`, or none. The overhead below is that of its parity, 1 to 100."""
    ecc_overhead_percent: int = 0
    max_pack_size: int = DEFAULT_MAX_PACK_SIZE
    epoch_parameters: EpochParameters = DEFAULT_EPOCH_PARAMETERS
    object_lock: ObjectLock | None = None
    """Retention that every client asks for when it puts a blob that must not vanish."""
    maintenance_owner: str = DEFAULT_OWNER
    for_velero: bool = False


ManifestWriter = Callable[[Mapping[str, str], msgspec.Raw], Awaitable[None]]
"""Puts a manifest with these labels and this data into the repository just created, and flushes."""


async def create_repository(
    storage: BlobStorage,
    password: str,
    options: CreateOptions,
    write_manifest: ManifestWriter,
    *,
    random: Callable[[int], bytes] = os.urandom,
    clock: Clock | None = None,
) -> RepositoryFormat:
    """Create a repository in an empty location.

    Raises `UsageError` or `AlgorithmUnsupported` for options that make none, `RepositoryExists` when anything at all
    is at the location, `StorageUnsupported` when the store cannot lock objects as asked.
    """
    check_options(password, options)
    async for blob in storage.list():
        raise RepositoryExists(
            f"{storage.location} is not empty, it holds {blob.blob_id[:200]!r}, so no repository is created there",
            hint="use another location or prefix, or delete what is there",
        )
    created = await _write_format(storage, password, options, random, clock or SystemClock())
    parameters = default_parameters(options.maintenance_owner)
    await write_manifest(MANIFEST_LABELS, msgspec.Raw(encode_parameters(parameters)))
    if options.for_velero:
        await storage.put(VELERO_MARKER, [gojson.encode({"uniqueID": created.unique_id})])
    return created


def check_options(password: str, options: CreateOptions) -> None:
    """Raise `UsageError` or `AlgorithmUnsupported` when no repository can be created with these."""
    if not password:
        raise UsageError("the password is empty", hint="without a password nobody could tell your data from anybody's")
    if not 1 <= options.format_version <= MAX_FORMAT_VERSION:
        raise UsageError(f"format version {options.format_version} does not exist", hint="the versions are 1, 2 and 3")
    if not MIN_PACK_SIZE <= options.max_pack_size <= MAX_PACK_SIZE:
        raise UsageError(f"a pack size of {options.max_pack_size} bytes is outside 10 MiB to 120 MiB")
    user, at, host = options.maintenance_owner.partition("@")
    if not (user and at and host):
        raise UsageError(f"the maintenance owner {options.maintenance_owner[:200]!r} is not of the form user@host")
    if bool(options.ecc) != bool(options.ecc_overhead_percent) or not 0 <= options.ecc_overhead_percent <= 100:
        raise UsageError(
            f"error correction {options.ecc[:80]!r} with {options.ecc_overhead_percent} % overhead makes no sense",
            hint=f"give both, {REED_SOLOMON} and 1 to 100 percent, or none",
        )
    if options.object_lock is not None:
        options.object_lock.check()
        if options.object_lock.mode not in RETENTION_MODES:
            raise UsageError(
                f"the retention mode {options.object_lock.mode[:80]!r} does not exist",
                hint=f"the modes are {' and '.join(RETENTION_MODES)}",
            )
    if options.format_version > 1:
        if not options.epoch_parameters.enabled:
            raise UsageError(f"format version {options.format_version} cannot be without epochs")
        options.epoch_parameters.check()
    new_hasher(options.hash, bytes(_SECRET_LENGTH))
    new_cipher(
        options.encryption, bytes(_SECRET_LENGTH), ecc=options.ecc, overhead_percent=options.ecc_overhead_percent
    )
    new_splitter(options.splitter)


async def _write_format(
    storage: BlobStorage, password: str, options: CreateOptions, random: Callable[[int], bytes], clock: Clock
) -> RepositoryFormat:
    unique_id = random(_SECRET_LENGTH)
    key = await asyncio.to_thread(derive_password_key, options.key_algorithm, password, unique_id)
    epochs = options.format_version > 1
    inner = InnerFormat(
        hash=options.hash,
        encryption=options.encryption,
        secret=random(_SECRET_LENGTH),
        master_key=random(_SECRET_LENGTH),
        version=options.format_version,
        max_pack_size=options.max_pack_size,
        index_version=2 if epochs else 1,
        epoch_parameters=options.epoch_parameters if epochs else EpochParameters(),
        enable_password_change=epochs,
        splitter=options.splitter,
        ecc=options.ecc,
        ecc_overhead_percent=options.ecc_overhead_percent,
    )
    envelope = build_envelope(unique_id, options.key_algorithm, key, inner, build_version=_BUILD_VERSION)
    created = open_format(envelope, key)
    blobcfg = build_blobcfg(options.object_lock, unique_id, key)
    retention = None if options.object_lock is None else options.object_lock.retention(clock.now_ns())
    try:
        await storage.put(BLOBCFG_BLOB, [blobcfg], if_absent=True, retention=retention)
        await storage.put(FORMAT_BLOB, [envelope.blob], if_absent=True, retention=retention)
    except BlobExists as error:
        raise RepositoryExists(
            f"somebody else is creating a repository at {storage.location}", hint="connect to theirs"
        ) from error
    return created

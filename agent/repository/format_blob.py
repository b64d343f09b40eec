"""`kopia.repository` and `kopia.blobcfg`: parsed, checked, and written back without losing anything (§2).

The format blob is an outer JSON (`Envelope`) around a part sealed with the key that the password gives; the inner JSON
holds the master key, the hash secret and every parameter of the repository (`RepositoryFormat`). This module turns
bytes into these and back; `format_manager` loads, caches and refreshes them, `create` makes new ones. Whatever is
unknown here is refused by name, or kept as it was when the blob is rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from agent.base.errors import (
    AlgorithmUnsupported,
    CorruptFormat,
    NewerFormat,
    RepositoryLocked,
    RequiredFeatureUnknown,
    UsageError,
)
from agent.base.times import NANOSECONDS, format_rfc3339, parse_rfc3339
from agent.repository import gojson
from agent.repository.kdf import cache_integrity_key, maintenance_key, open_format_part, seal_format_part
from agent.storage.base import BlobId, Buffer, Retention

FORMAT_BLOB = BlobId("kopia.repository")
BLOBCFG_BLOB = BlobId("kopia.blobcfg")

MAX_FORMAT_VERSION = 3
MAX_INDEX_VERSION = 2
DEFAULT_MAX_PACK_SIZE = 20 << 20
DEFAULT_SPLITTER = "DYNAMIC-4M-BUZHASH"
LEGACY_SPLITTER = "FIXED"
SUPPORTED_FEATURES = frozenset({"index-v1", "index-v2"})

_FORMAT_ENCRYPTION = "AES256_GCM"
_MINUTE_NS = 60 * NANOSECONDS
_HOUR_NS = 60 * _MINUTE_NS
_DAY_NS = 24 * _HOUR_NS
_MIN_RETENTION_NS = _DAY_NS


class EpochParameters(msgspec.Struct, frozen=True, rename="pascal"):
    """How index blobs are grouped into epochs; durations are nanoseconds (§2.3)."""

    enabled: bool = False
    epoch_refresh_frequency: int = 0
    full_checkpoint_frequency: int = 0
    cleanup_safety_margin: int = 0
    min_epoch_duration: int = 0
    epoch_advance_on_count_threshold: int = 0
    epoch_advance_on_total_size_bytes_threshold: int = 0
    delete_parallelism: int = 0

    def check(self) -> None:
        """Raise `UsageError` when these cannot be the parameters of a new repository."""
        if not self.enabled:
            return
        problems = {
            "MinEpochDuration must be at least 10 minutes": self.min_epoch_duration < 10 * _MINUTE_NS,
            "EpochRefreshFrequency must be positive": self.epoch_refresh_frequency <= 0,
            "EpochRefreshFrequency must be at most a third of MinEpochDuration": 3 * self.epoch_refresh_frequency
            > self.min_epoch_duration,
            "FullCheckpointFrequency must be positive": self.full_checkpoint_frequency <= 0,
            "CleanupSafetyMargin must be at least three times EpochRefreshFrequency": self.cleanup_safety_margin
            < 3 * self.epoch_refresh_frequency,
            "EpochAdvanceOnCountThreshold must be at least 10": self.epoch_advance_on_count_threshold < 10,
            "EpochAdvanceOnTotalSizeBytesThreshold must be at least 1 MiB": (
                self.epoch_advance_on_total_size_bytes_threshold < 1 << 20
            ),
        }
        for problem, found in problems.items():
            if found:
                raise UsageError(f"invalid epoch parameters: {problem}")


DEFAULT_EPOCH_PARAMETERS = EpochParameters(
    enabled=True,
    epoch_refresh_frequency=20 * _MINUTE_NS,
    full_checkpoint_frequency=7,
    cleanup_safety_margin=4 * _HOUR_NS,
    min_epoch_duration=_DAY_NS,
    epoch_advance_on_count_threshold=20,
    epoch_advance_on_total_size_bytes_threshold=10 << 20,
    delete_parallelism=4,
)


class IfNotUnderstood(msgspec.Struct, frozen=True, rename={"upgrade_to_version": "upgradeToVersion"}):
    """What a client that lacks a feature has to do and to say."""

    warn: bool = False
    message: str = ""
    url: str = ""
    upgrade_to_version: str = ""


class RequiredFeature(msgspec.Struct, frozen=True, rename="camel"):
    """A feature that every client of the repository must have."""

    feature: str
    if_not_understood: IfNotUnderstood = IfNotUnderstood()

    def __str__(self) -> str:
        rest = self.if_not_understood
        upgrade = f"upgrade to version {rest.upgrade_to_version} or newer" if rest.upgrade_to_version else ""
        return " - ".join(part for part in (repr(self.feature[:200]), rest.message, rest.url, upgrade) if part)


class UpgradeLock(msgspec.Struct, frozen=True):
    """The intent of one client to upgrade the repository, for all others to see (§2.6); durations in nanoseconds."""

    owner: str
    creation_ns: int
    advance_notice_ns: int
    io_drain_timeout_ns: int
    max_clock_drift_ns: int
    message: str

    def locked(self, now_ns: int) -> bool:
        """Whether every client but the owner has to stop."""
        drain = self.max_clock_drift_ns + 2 * self.io_drain_timeout_ns
        return self.advance_notice_ns < drain or now_ns >= self.creation_ns + self.advance_notice_ns - drain


class ObjectLock(msgspec.Struct, frozen=True):
    """`kopia.blobcfg`: how long a store with object lock has to keep each blob that matters (§2.4)."""

    mode: str
    period_ns: int

    def retention(self, now_ns: int) -> Retention:
        """The parameters of a put at this time."""
        return Retention(self.mode, now_ns + self.period_ns)

    def check(self) -> None:
        """Raise `UsageError` when a new repository cannot have these."""
        if self.period_ns < _MIN_RETENTION_NS:
            raise UsageError("the retention period must be at least one day")


@dataclass(frozen=True, slots=True)
class RepositoryFormat:
    """Everything that the format blob says. The secrets do not appear in its repr."""

    unique_id: bytes
    """32 random bytes; also the salt of derivations."""
    key_algorithm: str
    """How the password gives the key that seals the format blob."""
    hash: str
    encryption: str
    splitter: str
    version: int
    index_version: int
    max_pack_size: int
    """Bytes; a pack is closed when it reaches this."""
    epoch_parameters: EpochParameters
    enable_password_change: bool
    """False also means: recovery copies in packs, and keys that derive from the password key (§13.1)."""
    ecc: str
    """Empty when error correction is off."""
    ecc_overhead_percent: int
    upgrade_lock: UpgradeLock | None
    required_features: Sequence[RequiredFeature]
    secret: bytes = field(repr=False)
    """Key of the hash; may be empty."""
    master_key: bytes = field(repr=False)
    password_key: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    """`kopia.repository` as it stands in storage."""

    @property
    def maintenance_key(self) -> bytes:
        """The key of `kopia.maintenance` (§8.2)."""
        return maintenance_key(self.master_key if self.enable_password_change else self.password_key, self.unique_id)

    @property
    def cache_key(self) -> bytes:
        """The key that authenticates local cache entries (§3.3)."""
        return cache_integrity_key(self.secret if self.enable_password_change else self.password_key, self.unique_id)

    @property
    def recovery_copy(self) -> bytes | None:
        """What every pack has to carry a copy of, if anything (§2.8)."""
        return None if self.enable_password_change else self.blob

    def unknown_features(self) -> Sequence[RequiredFeature]:
        """Required features that this release lacks but may do without, with a warning."""
        return [feature for feature in self.required_features if feature.feature not in SUPPORTED_FEATURES]


class _OuterJson(msgspec.Struct, frozen=True, rename={"unique_id": "uniqueID", "key_algorithm": "keyAlgo"}):
    unique_id: bytes
    key_algorithm: str
    encryption: str
    encryptedBlockFormat: bytes  # noqa: N815


class _UpgradeLockJson(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    creation_time: str
    owner_id: str = msgspec.field(default="", name="ownerID")
    advance_notice_duration: int = 0
    io_drain_timeout: int = msgspec.field(default=0, name="ioDrainTimeout")
    max_permitted_clock_drift: int = 0
    message: str = ""


class InnerFormat(msgspec.Struct, frozen=True, rename="camel"):
    """The inner JSON as stored, keys in kopia's order; only this module and `create` see it."""

    hash: str = ""
    encryption: str = ""
    ecc: str = ""
    ecc_overhead_percent: int = 0
    secret: bytes = b""
    master_key: bytes = b""
    version: int = 0
    max_pack_size: int = 0
    index_version: int = 0
    epoch_parameters: EpochParameters = EpochParameters()
    enable_password_change: bool = False
    splitter: str = ""
    upgrade_lock: _UpgradeLockJson | None = None
    required_features: list[RequiredFeature] | None = None

    def __repr__(self) -> str:
        return f"InnerFormat(version={self.version})"


class _SealedJson(msgspec.Struct, frozen=True):
    format: InnerFormat


class _BlobcfgJson(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    retention_mode: str = ""
    retention_period: int = 0


_OUTER = msgspec.json.Decoder(_OuterJson)
_OUTER_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SEALED = msgspec.json.Decoder(_SealedJson)
_BLOBCFG = msgspec.json.Decoder(_BlobcfgJson)
_OMITTED_WHEN_EMPTY = (
    "ecc",
    "eccOverheadPercent",
    "secret",
    "masterKey",
    "splitter",
    "upgradeLock",
    "requiredFeatures",
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The outer JSON of the format blob: what can be read without the password."""

    unique_id: bytes
    key_algorithm: str
    sealed: bytes = field(repr=False)
    blob: bytes = field(repr=False)

    def resealed(self, old_key: bytes, new_key: bytes) -> Envelope:
        """The same format, unknown keys of both layers included, sealed with another password key (§2.7)."""
        plaintext = open_format_part(old_key, self.unique_id, self.sealed)
        sealed = seal_format_part(new_key, self.unique_id, plaintext)
        outer: dict[str, object] = dict(gojson.decode(_OUTER_RAW, self.blob, FORMAT_BLOB, CorruptFormat))
        outer["encryptedBlockFormat"] = sealed
        blob = msgspec.json.format(msgspec.json.encode(outer), indent=2) + b"\n"
        return Envelope(self.unique_id, self.key_algorithm, sealed, blob)


def parse_envelope(blob: Buffer) -> Envelope:
    """The outer layer of `kopia.repository` (§2.1). Raises `CorruptFormat`, `AlgorithmUnsupported`."""
    data = bytes(blob)
    outer = gojson.decode(_OUTER, data, FORMAT_BLOB, CorruptFormat)
    if outer.encryption != _FORMAT_ENCRYPTION:
        raise AlgorithmUnsupported(
            f"{FORMAT_BLOB} is sealed with {outer.encryption[:80]!r}, which is not supported",
            hint=f"supported is {_FORMAT_ENCRYPTION}",
        )
    return Envelope(outer.unique_id, outer.key_algorithm, outer.encryptedBlockFormat, data)


def build_envelope(
    unique_id: bytes, key_algorithm: str, key: bytes, inner: InnerFormat, *, build_version: str
) -> Envelope:
    """A new format blob around `inner`, sealed with the password key."""
    fields = msgspec.to_builtins(inner, builtin_types=(bytes,))
    kept = {name: value for name, value in fields.items() if value or name not in _OMITTED_WHEN_EMPTY}
    plaintext = msgspec.json.encode({"format": kept})
    sealed = seal_format_part(key, unique_id, plaintext)
    outer = {
        "tool": "https://github.com/kopia/kopia",
        "buildVersion": build_version,
        "buildInfo": "",
        "uniqueID": unique_id,
        "keyAlgo": key_algorithm,
        "encryption": _FORMAT_ENCRYPTION,
        "encryptedBlockFormat": sealed,
    }
    return Envelope(unique_id, key_algorithm, sealed, msgspec.json.format(msgspec.json.encode(outer), indent=2) + b"\n")


def open_format(envelope: Envelope, key: bytes) -> RepositoryFormat:
    """The format inside `envelope`, opened with the password key and checked (§2.3).

    Raises `WrongPassword`, `CorruptFormat`, `NewerFormat`, and `RequiredFeatureUnknown` for a feature that this release
    lacks and must have.
    """
    plaintext = open_format_part(key, envelope.unique_id, envelope.sealed)
    inner = gojson.decode(_SEALED, plaintext, f"the sealed part of {FORMAT_BLOB}", CorruptFormat).format
    _check_version(inner)
    if inner.max_pack_size < 0 or not 0 <= inner.ecc_overhead_percent <= 100:
        raise CorruptFormat(
            f"{FORMAT_BLOB} has a pack size of {inner.max_pack_size} and an error correction overhead of "
            f"{inner.ecc_overhead_percent} percent"
        )
    if inner.epoch_parameters.enabled and inner.epoch_parameters.epoch_refresh_frequency <= 0:
        raise CorruptFormat(f"{FORMAT_BLOB} has an EpochRefreshFrequency that is not positive")
    parsed = RepositoryFormat(
        unique_id=envelope.unique_id,
        key_algorithm=envelope.key_algorithm,
        hash=inner.hash,
        encryption=inner.encryption,
        splitter=inner.splitter or LEGACY_SPLITTER,
        version=inner.version,
        index_version=inner.index_version or 1,
        max_pack_size=inner.max_pack_size or DEFAULT_MAX_PACK_SIZE,
        epoch_parameters=inner.epoch_parameters,
        enable_password_change=inner.enable_password_change,
        ecc=inner.ecc if inner.ecc_overhead_percent else "",
        ecc_overhead_percent=inner.ecc_overhead_percent if inner.ecc else 0,
        upgrade_lock=_upgrade_lock(inner.upgrade_lock),
        required_features=tuple(inner.required_features or ()),
        secret=inner.secret,
        master_key=inner.master_key,
        password_key=key,
        blob=envelope.blob,
    )
    for feature in parsed.unknown_features():
        if not feature.if_not_understood.warn:
            raise RequiredFeatureUnknown(
                f"the repository requires a feature that this release does not know: {feature}",
                hint="use a newer release",
            )
    return parsed


def ensure_unlocked(repository_format: RepositoryFormat, now_ns: int) -> None:
    """Raise `RepositoryLocked` while another client is upgrading the repository (§2.6)."""
    lock = repository_format.upgrade_lock
    if lock is not None and lock.locked(now_ns):
        raise RepositoryLocked(
            f"the repository is being upgraded by {lock.owner[:200]!r} since {format_rfc3339(lock.creation_ns)}: "
            f"{lock.message[:500]}",
            hint="wait until the upgrade is committed or rolled back",
        )


def parse_blobcfg(sealed: Buffer, unique_id: bytes, key: bytes) -> ObjectLock | None:
    """`kopia.blobcfg` opened with the password key; None when no retention is set. Raises `CorruptFormat` (§13.10)."""
    plaintext = open_format_part(
        key,
        unique_id,
        bytes(sealed),
        or_raise=CorruptFormat(
            f"{BLOBCFG_BLOB} does not decrypt with the key of {FORMAT_BLOB}",
            hint="if a change of the password was interrupted, repeat it with the same old and new passwords",
        ),
    )
    config = gojson.decode(_BLOBCFG, plaintext, BLOBCFG_BLOB, CorruptFormat)
    if not config.retention_mode or not config.retention_period:
        return None
    if config.retention_period < 0:
        raise CorruptFormat(f"{BLOBCFG_BLOB} has a retention period of {config.retention_period} ns")
    return ObjectLock(config.retention_mode, config.retention_period)


def build_blobcfg(lock: ObjectLock | None, unique_id: bytes, key: bytes) -> bytes:
    """`kopia.blobcfg` sealed with the password key."""
    config = _BlobcfgJson() if lock is None else _BlobcfgJson(lock.mode, lock.period_ns)
    return seal_format_part(key, unique_id, gojson.encode(config))


def _check_version(inner: InnerFormat) -> None:
    if inner.version > MAX_FORMAT_VERSION or inner.index_version > MAX_INDEX_VERSION:
        raise NewerFormat(
            f"the repository has format version {inner.version} with index version {inner.index_version}; "
            f"this release knows format versions up to {MAX_FORMAT_VERSION}, index versions up to {MAX_INDEX_VERSION}",
            hint="use a newer release",
        )
    if inner.version < 1 or inner.index_version < 0:
        raise CorruptFormat(
            f"{FORMAT_BLOB} has format version {inner.version} with index version {inner.index_version}"
        )


def _upgrade_lock(lock: _UpgradeLockJson | None) -> UpgradeLock | None:
    if lock is None:
        return None
    try:
        creation_ns = parse_rfc3339(lock.creation_time)
    except ValueError as error:
        raise CorruptFormat(f"the upgrade lock in {FORMAT_BLOB} holds a time that is none: {error}") from error
    return UpgradeLock(
        lock.owner_id,
        creation_ns,
        lock.advance_notice_duration,
        lock.io_drain_timeout,
        lock.max_permitted_clock_drift,
        lock.message,
    )

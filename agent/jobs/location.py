"""From a BackupStorageLocation to where a repository is (contract §5.3, §5.5).

Pure: whoever calls has read the certificates that a location refers to. Nothing in the object is trusted: a value that
would lead elsewhere, or that makes no sense, is refused with the name of its key; a key that nobody knows is told.
"""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from importlib.util import find_spec
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from agent.base.errors import LocationInvalid, LocationUnsupported, UsageError
from agent.kube.backup_storage_location import BackupStorageLocation
from agent.kube.names import is_dns_label
from agent.movers.spec import S3Location, Secrets, UrlLocation, s3_config
from agent.storage.s3_config import AUTO_REGION

_MAX_VALUE: Final = 1024
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_CHECKSUMS = ("CRC32", "CRC32C", "SHA1", "SHA256")
_S3_KEYS = frozenset(
    {
        "region",
        "s3Url",
        "insecureSkipTLSVerify",
        "profile",
        "credentialsFile",
        "enableSharedConfig",
        "s3ForcePathStyle",
        "publicUrl",
        "kmsKeyId",
        "serverSideEncryption",
        "customerKeyEncryptionFile",
        "checksumAlgorithm",
        "tagging",
        "signatureVersion",
    }
)
_FOLDER_KEYS = frozenset({"fspath"})


class Backend(StrEnum):
    """What kind of store it is."""

    S3 = "s3"
    FOLDER = "fs"


class Located(msgspec.Struct, frozen=True):
    """Where a repository is."""

    location: S3Location | UrlLocation
    warnings: tuple[str, ...] = ()
    """What in the object has no effect, a sentence each."""

    @property
    def endpoint(self) -> str:
        """The URL that requests go to; empty for a folder."""
        if isinstance(self.location, UrlLocation):
            return ""
        return self.location.endpoint or "https://s3.amazonaws.com"


def backend_of(location: BackupStorageLocation) -> Backend:
    """By the provider; any that has an `s3Url` speaks S3. Raises `LocationUnsupported`."""
    provider, name = location.spec.provider, location.metadata.name
    kind = provider.removeprefix("velero.io/")
    if kind == "aws":
        return Backend.S3
    if kind == "fs":
        return Backend.FOLDER
    if kind in ("azure", "gcp"):
        raise LocationUnsupported(
            f"the backup storage location {name} is of the provider {provider!r}, which this release does not know yet",
            hint="use a location of the provider aws, or any that speaks S3 by config.s3Url",
        )
    if location.spec.config.get("s3Url"):
        return Backend.S3
    raise LocationUnsupported(
        f"the backup storage location {name} is of the provider {provider!r}, which this release does not know",
        hint="known are aws, fs, and every provider with config.s3Url",
    )


def locate(location: BackupStorageLocation, volume_namespace: str, certificates: str = "") -> Located:
    """The repository of a namespace in a location. `certificates` is the PEM text to trust, if any.

    Raises `LocationInvalid` with the key that is wrong, `LocationUnsupported`.
    """
    config = _Config(location)
    if backend_of(location) is Backend.FOLDER:
        return _folder(config, _prefix(location, volume_namespace))
    return _bucket(config, _prefix(location, volume_namespace), certificates)


class _Config(msgspec.Struct):
    """`spec.config` of one location, asked key by key."""

    of: BackupStorageLocation
    warnings: list[str] = msgspec.field(default_factory=list)

    def text(self, key: str) -> str:
        value = self.of.spec.config.get(key, "")
        if len(value) > _MAX_VALUE or _UNPRINTABLE.search(value):
            raise self.wrong(key, "is too long or holds characters that do not belong there")
        return value

    def boolean(self, key: str) -> bool | None:
        value = self.text(key)
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        if value:
            raise self.wrong(key, f"is {value!r}, which is neither true nor false")
        return None

    def wrong(self, key: str, why: str) -> LocationInvalid:
        return wrong_field(self.of, f"config.{key}", why)

    def warn(self, text: str) -> None:
        self.warnings.append(f"backup storage location {self.of.metadata.name}: {text}")

    def warn_of_others(self, known: frozenset[str]) -> None:
        for key in sorted(self.of.spec.config.keys() - known)[:20]:
            self.warn(f"config.{key[:64]!a} is not known and has no effect")


def wrong_field(location: BackupStorageLocation, key: str, why: str) -> LocationInvalid:
    """The error for a value that makes no sense; `key` is its path in the spec."""
    return LocationInvalid(f"the backup storage location {location.metadata.name} cannot be used: {key} {why}")


def _prefix(location: BackupStorageLocation, volume_namespace: str) -> str:
    """`<prefix>/kopia/<namespace>/`, joined as Velero joins paths."""
    if not is_dns_label(volume_namespace):
        raise LocationInvalid(f"{volume_namespace[:64]!r} is no name of a namespace, so it has no repository")
    storage = location.spec.object_storage
    prefix = (storage.prefix if storage is not None else "").strip("/")
    if len(prefix) > _MAX_VALUE or _UNPRINTABLE.search(prefix) or ".." in prefix.split("/"):
        raise wrong_field(
            location, "objectStorage.prefix", "leads elsewhere or holds characters that do not belong there"
        )
    return posixpath.normpath(posixpath.join(prefix, "kopia", volume_namespace)) + "/"


def _folder(config: _Config, prefix: str) -> Located:
    root = config.text("fspath")
    if not root.startswith("/") or ".." in root.split("/"):
        raise config.wrong("fspath", f"is {root!r}, which is no absolute path")
    config.warn_of_others(_FOLDER_KEYS)
    return Located(UrlLocation(url="file://" + quote(posixpath.join(root, prefix))), tuple(config.warnings))


def _bucket(config: _Config, prefix: str, certificates: str) -> Located:
    sse, key = _encryption(config)
    if config.text("signatureVersion") not in ("", "4"):
        config.warn("config.signatureVersion has no effect: requests are signed with version 4")
    config.warn_of_others(_S3_KEYS)
    storage = config.of.spec.object_storage
    location = S3Location(
        bucket=storage.bucket if storage is not None else "",
        prefix=prefix,
        endpoint=_endpoint(config),
        region=_region(config),
        path_style=config.boolean("s3ForcePathStyle"),
        profile=config.text("profile"),
        ca_data=certificates,
        insecure_skip_tls_verify=config.boolean("insecureSkipTLSVerify") or False,
        sse=sse,
        sse_kms_key_id=key,
        tags=_tags(config),
        checksum=_checksum(config),
    )
    try:
        s3_config(location, Secrets(password=""), "")
    except UsageError as error:
        raise wrong_field(config.of, "objectStorage or config", f"cannot be understood: {error.message}") from error
    return Located(location, tuple(config.warnings))


def _endpoint(config: _Config) -> str:
    url = config.text("s3Url").strip()
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well_formed = False
    if not well_formed:
        raise config.wrong("s3Url", "cannot be understood: it has the form https://host or http://host:port")
    if "@" in parts.netloc:
        raise config.wrong("s3Url", "must not hold credentials: they belong into a Secret")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise config.wrong("s3Url", "holds more than https://host:port: a path belongs into objectStorage.prefix")
    return f"{parts.scheme}://{parts.netloc}"


def _region(config: _Config) -> str:
    """As given; without one, what the environment or the credentials say, else asked of the bucket."""
    region = config.text("region") or AUTO_REGION
    if not _REGION.fullmatch(region):
        raise config.wrong("region", f"is {region!r}, which is no name of a region")
    return region


def _encryption(config: _Config) -> tuple[str, str]:
    """What the store encrypts with: a KMS key comes before the algorithm, as in Velero's plug-in."""
    if config.text("customerKeyEncryptionFile"):
        config.warn(
            "config.customerKeyEncryptionFile has no effect on volume data: Velero's own maintenance could not read it"
        )
    if key := config.text("kmsKeyId"):
        return "aws:kms", key
    algorithm = config.text("serverSideEncryption")
    if algorithm not in ("", "AES256", "aws:kms"):
        raise config.wrong("serverSideEncryption", f"is {algorithm!r}, neither AES256 nor aws:kms")
    return algorithm, ""


def _checksum(config: _Config) -> str:
    name = config.text("checksumAlgorithm").upper()
    if name and name not in _CHECKSUMS:
        raise config.wrong("checksumAlgorithm", f"is {name!r}, none of {', '.join(_CHECKSUMS)}")
    if name == "CRC32C" and find_spec("awscrt") is None:
        config.warn("config.checksumAlgorithm: CRC32 is used, since this installation cannot compute CRC32C")
        return "CRC32"
    return name


def _tags(config: _Config) -> tuple[tuple[str, str], ...]:
    text = config.text("tagging")
    try:
        return tuple(parse_qsl(text, strict_parsing=True, keep_blank_values=True, max_num_fields=50)) if text else ()
    except ValueError:
        raise config.wrong("tagging", "has not the form Key1=Value1&Key2=Value2") from None

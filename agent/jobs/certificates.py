"""Certificates that a backup storage location asks to trust (contract §1.7, §5.5)."""

from __future__ import annotations

from agent.base.errors import LocationInvalid
from agent.jobs.location import wrong_field
from agent.jobs.secrets import SecretReader
from agent.kube.backup_storage_location import BackupStorageLocation

_BEGIN = "-----BEGIN CERTIFICATE-----"


async def trusted_certificates(location: BackupStorageLocation, secrets: SecretReader) -> str:
    """PEM text, empty for what the system trusts.

    Raises `LocationInvalid` when both ways are used or what is found is no PEM, `SecretMissing`, `SecretAwaited`,
    `KubeError`.
    """
    storage = location.spec.object_storage
    if storage is None:
        return ""
    if storage.ca_cert and storage.ca_cert_ref is not None:
        raise wrong_field(location, "objectStorage.caCert", "and objectStorage.caCertRef exclude one another")
    if storage.ca_cert:
        return _text(location, "objectStorage.caCert", storage.ca_cert)
    if storage.ca_cert_ref is None:
        return ""
    what_for = f"the certificates of the backup storage location {location.metadata.name}"
    return _text(location, "objectStorage.caCertRef", await secrets.read(storage.ca_cert_ref, what_for))


def _text(location: BackupStorageLocation, key: str, value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if _BEGIN not in text or not text.isascii():
        raise _no_certificates(location, key)
    return text


def _no_certificates(location: BackupStorageLocation, key: str) -> LocationInvalid:
    return wrong_field(location, key, f"holds no certificates as text ({_BEGIN} …)")

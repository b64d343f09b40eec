"""The keys, certificates and kubeconfigs of a control plane that lives for one test run."""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = datetime.timedelta(days=2)
_HOST_NAMES = ("localhost", "kubernetes", "kubernetes.default.svc")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Keys:
    """An authority and what it signed, in a folder: `ca.crt`, `NAME.crt`, `NAME.key`, `service-accounts.key`.

    `names` and `addresses` are those of servers beside loopback's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        life: datetime.timedelta = _LIFE,
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._life = life
        self._places: list[x509.GeneralName] = [
            *map(x509.DNSName, (*_HOST_NAMES, *names)),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", *addresses)),
        ]
        self._authority_key = ec.generate_private_key(ec.SECP256R1())
        self._authority_name = _name("lighterage tests")
        _write_certificate(self.authority, self._certificate(self._authority_name, self._authority_key, authority=True))
        _write_key(self.service_accounts, rsa.generate_private_key(65537, 2048))

    @property
    def authority(self) -> Path:
        """The certificate that everybody trusts."""
        return self.folder / "ca.crt"

    @property
    def service_accounts(self) -> Path:
        """The key that signs and verifies tokens."""
        return self.folder / "service-accounts.key"

    def issue(self, common_name: str, *groups: str) -> tuple[Path, Path]:
        """A certificate for a server and for a client of this name and groups: its file and its key's."""
        stem = common_name.replace(":", "-")
        certificate, key_file = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key_file, key)
        _write_certificate(certificate, self._certificate(_name(common_name, *groups), key))
        return certificate, key_file

    def _certificate(self, name: x509.Name, key: PrivateKey, *, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + self._life)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.SubjectAlternativeName(self._places), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(self._authority_key, hashes.SHA256())


def write_kubeconfig(
    path: Path, server: str, authority: Path, user: dict[str, str], namespace: str = "default"
) -> Path:
    """A kubeconfig (JSON is YAML) for one user: `client-certificate` and `client-key`, or `token`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
        "current-context": "test",
    }
    _write_private(path, json.dumps(config, indent=1).encode())
    return path


def _name(common_name: str, *groups: str) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: PrivateKey) -> None:
    kind = serialization.PrivateFormat.PKCS8
    _write_private(path, key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)

"""Keys and kubeconfigs of the cluster, made once per cluster."""

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

from hack.node.layout import NODE, NODE_IP, SERVICE_IP, Layout

_USERS = {
    "admin": ("system:masters", "admin"),
    "controller-manager": ("", "system:kube-controller-manager"),
    "scheduler": ("", "system:kube-scheduler"),
    "kubelet": ("system:nodes", f"system:node:{NODE}"),
    "apiserver-kubelet-client": ("system:masters", "apiserver"),
    "apiserver": ("", "kube-apiserver"),
}
"""Name of the files -> organisation (the group in Kubernetes) and common name (the user)."""
_ADDRESSES = {
    "apiserver": ("127.0.0.1", NODE_IP, SERVICE_IP, "localhost", "kubernetes.default.svc"),
    "kubelet": (NODE_IP, NODE),
}
_LIFETIME = datetime.timedelta(days=3650)


def make_keys(layout: Layout) -> None:
    """Make what is not there: an authority, certificates of users and servers, kubeconfigs, service account keys."""
    if layout.kubeconfig().exists():
        return
    layout.keys.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate(_name("", "test authority"), authority_key.public_key(), authority_key, None)
    _write(layout.keys / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
    for user, (organisation, common_name) in _USERS.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(
            _name(organisation, common_name), key.public_key(), authority_key, authority, _ADDRESSES.get(user, ())
        )
        _write(layout.keys / f"{user}.crt", certificate.public_bytes(serialization.Encoding.PEM))
        _write(layout.keys / f"{user}.key", _private(key))
    service_accounts = rsa.generate_private_key(65537, 2048)
    _write(layout.keys / "sa.key", _private(service_accounts))
    public = service_accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(layout.keys / "sa.pub", public)
    for user in ("controller-manager", "scheduler", "kubelet", "admin"):
        _write_kubeconfig(layout, user)


def _name(organisation: str, common_name: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    addresses: Sequence[str] = (),
) -> x509.Certificate:
    """A certificate for servers and clients; the authority's own without `authority`."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    if authority is not None:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    if addresses:
        builder = builder.add_extension(x509.SubjectAlternativeName([*map(_general_name, addresses)]), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write_kubeconfig(layout: Layout, user: str) -> None:
    # JSON is YAML; every client reads it.
    cluster = {"server": f"https://{SERVICE_IP}:443", "certificate-authority": str(layout.keys / "ca.crt")}
    credentials = {
        "client-certificate": str(layout.keys / f"{user}.crt"),
        "client-key": str(layout.keys / f"{user}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lighterage", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "lighterage", "context": {"cluster": "lighterage", "user": user}}],
        "current-context": "lighterage",
    }
    _write(layout.kubeconfig(user), json.dumps(config, indent=1).encode())


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)

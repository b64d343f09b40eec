import asyncio
import datetime
import ipaddress
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.base.errors import BadCertificate, UsageError
from agent.storage.base import BlobId
from agent.storage.s3 import S3Storage
from agent.testing.s3_server import SeaweedServer
from agent.testing.tcp_proxy import TcpProxy
from tests.storage.conftest import config_for

pytestmark = pytest.mark.s3

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def https(seaweed: SeaweedServer, certificate: Path) -> AsyncIterator[TcpProxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with TcpProxy(seaweed.port, tls=context) as proxy:
        yield proxy


async def test_an_unknown_authority_is_a_bad_certificate(https: TcpProxy, seaweed: SeaweedServer) -> None:
    storage = await S3Storage.open(config_for(seaweed, "blobs", endpoint=https.endpoint))
    with pytest.raises(BadCertificate, match="ca_file"):
        await storage.put(PACK, [b"x"])
    await storage.close()


async def test_a_given_authority_is_trusted(https: TcpProxy, seaweed: SeaweedServer, certificate: Path) -> None:
    config = config_for(seaweed, "blobs", endpoint=https.endpoint, ca_file=str(certificate))
    storage = await S3Storage.open(config)
    await storage.put(PACK, [b"x" * 1_000_000])
    assert len(await storage.get(PACK)) == 1_000_000
    await storage.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_large_blobs_come_whole_through_tls_in_either_loop(
    seaweed: SeaweedServer, certificate: Path, run: Callable[[Coroutine[object, object, None]], None]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    data = os.urandom((5 << 20) + 3)

    async def put_and_get() -> None:
        async with asyncio.timeout(60), TcpProxy(seaweed.port, tls=context) as https:
            storage = await S3Storage.open(
                config_for(seaweed, "blobs", endpoint=https.endpoint, ca_file=str(certificate))
            )
            await storage.put(PACK, [data])
            for start in (0, 1, 1 << 20):
                assert await storage.get(PACK, start) == data[start:]
            assert https.connections <= 2  # kept between requests
            await storage.close()

    run(put_and_get())


async def test_skipped_verification_works_and_warns_but_not_on_standard_output(
    https: TcpProxy, seaweed: SeaweedServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_for(seaweed, "blobs", endpoint=https.endpoint, insecure_skip_tls_verify=True)
    storage = await S3Storage.open(config)
    ((_, level, message),) = caplog.record_tuples
    assert (level, "not verified" in message, https.endpoint in message) == (logging.WARNING, True, True)
    assert not capfd.readouterr().out
    await storage.put(PACK, [b"x"])
    await storage.close()


async def test_a_given_authority_may_be_text(https: TcpProxy, seaweed: SeaweedServer, certificate: Path) -> None:
    text = certificate.read_text()
    config = config_for(seaweed, "blobs", endpoint=https.endpoint, ca_data=text[text.index("-----BEGIN CERT") :])
    assert "CERTIFICATE" not in repr(config)
    storage = await S3Storage.open(config)
    await storage.put(PACK, [b"x"])
    await storage.close()


async def test_an_authority_that_is_no_certificate_is_said_at_once(seaweed: SeaweedServer) -> None:
    with pytest.raises(BadCertificate, match="PEM"):
        await S3Storage.open(config_for(seaweed, "blobs", ca_data="not a certificate"))
    with pytest.raises(UsageError):
        config_for(seaweed, "blobs", ca_data="x", ca_file="y")

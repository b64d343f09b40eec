"""Agents that listen at an address, an authority that signs for them and their callers, and a call of every method."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.control.auth import ClusterGate, credentials
from agent.control.client import ControlClient, Target, connect
from agent.control.rights import RIGHTS
from agent.control.serve import SecureAddress, serve_address
from agent.control.v1 import jobs_pb2, limits_pb2, snapshots_pb2
from agent.kube.reviews import Identity
from agent.testing.fake_reviewer import FakeReviewer
from tests.unit.control.control_kit import World, job

JOB = jobs_pb2.JobId(kind=jobs_pb2.JOB_KIND_DATA_UPLOAD, name="a")
APP = snapshots_pb2.Repository(volume_namespace="app", storage_location="default")
ALICE = Identity("alice", ("backup-admins",), "uid-1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._own = self._signed(self._name, self._key, ca=True)
        self.pem = self._own.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *groups: str, expired: bool = False) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, ca=False, expired=expired)
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, expired: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("agent")]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


class TlsAgent:
    """One that listens at an address."""

    def __init__(self, folder: Path, authority: Authority, *, mutual: bool) -> None:
        self.world = World()
        self.world.jobs.put(job("a"))
        self.reviewer = FakeReviewer(tokens={"t": ALICE})
        self._authority = authority
        shown = authority.issue("agent")
        (folder / "tls.crt").write_bytes(shown.certificate)
        (folder / "tls.key").write_bytes(shown.key)
        (folder / "ca.crt").write_bytes(authority.pem)
        self._credentials = credentials(folder / "tls.crt", folder / "tls.key", folder / "ca.crt" if mutual else None)
        self.port = 0

    @asynccontextmanager
    async def listening(self, address: str = "127.0.0.1:0") -> AsyncIterator[None]:
        secure = SecureAddress(
            address=address, credentials=self._credentials, gate=ClusterGate(self.reviewer, "velero")
        )
        async with serve_address(self.world.parts, self.world.clock, secure) as self.port:
            yield

    def grant(self, user: str, *methods: str) -> None:
        for method in methods:
            self.reviewer.grant(user, RIGHTS[f"/lighterage.v1.{method}"].review("velero"))

    def channel(self) -> grpc.aio.Channel:
        """Without anything that says who calls."""
        options = [("grpc.ssl_target_name_override", "agent")]
        return grpc.aio.secure_channel(
            f"127.0.0.1:{self.port}", grpc.ssl_channel_credentials(self._authority.pem), options=options
        )

    @asynccontextmanager
    async def client(
        self, *, token: str = "", shown: Pair | None = None, ca: bytes = b""
    ) -> AsyncIterator[ControlClient]:
        target = Target(
            address=f"127.0.0.1:{self.port}",
            token=token,
            ca=ca or self._authority.pem,
            certificate=shown.certificate if shown else b"",
            key=shown.key if shown else b"",
            server_name="agent",
        )
        async with connect(target) as client:
            yield client


async def _list(client: ControlClient) -> object:
    return [one async for one in client.jobs(jobs_pb2.JobFilter())]


async def _watch(client: ControlClient) -> object:
    return await anext(client.watch(jobs_pb2.WatchJobsRequest()))


METHODS: dict[str, Callable[[ControlClient], Awaitable[object]]] = {
    "NodeService/GetNode": lambda client: client.node(),
    "JobService/ListJobs": _list,
    "JobService/GetJob": lambda client: client.job(JOB),
    "JobService/WatchJobs": _watch,
    "JobService/CancelJob": lambda client: client.cancel(JOB),
    "JobService/PauseJob": lambda client: client.pause(JOB),
    "JobService/ResumeJob": lambda client: client.resume(JOB),
    "LimitService/GetLimits": lambda client: client.limits(),
    "LimitService/SetLimits": lambda client: client.set_limits(limits_pb2.Limits(concurrency=3)),
    "LimitService/ResetLimits": lambda client: client.reset_limits(),
    "SnapshotService/ListSnapshots": lambda client: anext(client.snapshots(APP)),
    "SnapshotService/BrowseSnapshot": lambda client: anext(client.browse(APP, "s", b"")),
    "SnapshotService/ReadFile": lambda client: anext(client.read(APP, "s", b"f")),
    "SnapshotService/RestorePath": lambda client: anext(
        client.restore(snapshots_pb2.RestorePathRequest(repository=APP, snapshot="s"))
    ),
    "SnapshotService/VerifySnapshot": lambda client: client.verify(
        snapshots_pb2.VerifySnapshotRequest(repository=APP, snapshot="s")
    ),
}

"""Callers over TLS: with certificates, with tokens, with neither, and what each may."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from agent.base.errors import (
    ConfigurationError,
    ControlForbidden,
    ControlUnauthenticated,
    ControlUnreachable,
    KubeUnavailable,
)
from agent.control.auth import ClusterGate, credentials
from agent.control.client import ControlClient, Target, connect
from agent.control.rights import RIGHTS
from agent.control.serve import SecureAddress, serve_address
from agent.control.v1 import jobs_pb2, limits_pb2, snapshots_pb2
from agent.kube.reviews import Identity
from agent.testing.fake_reviewer import FakeReviewer
from tests.unit.control.control_kit import NODE, World, job

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


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("ours")


class Agent:
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
    async def listening(self) -> AsyncIterator[None]:
        secure = SecureAddress(
            address="127.0.0.1:0", credentials=self._credentials, gate=ClusterGate(self.reviewer, "velero")
        )
        async with serve_address(self.world.parts, self.world.clock, secure) as self.port:
            yield

    def grant(self, user: str, *methods: str) -> None:
        for method in methods:
            self.reviewer.grant(user, RIGHTS[f"/lighterage.v1.{method}"].review("velero"))

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


@pytest.fixture
def by_token(tmp_path: Path, authority: Authority) -> Agent:
    return Agent(tmp_path, authority, mutual=False)


@pytest.fixture
def by_certificate(tmp_path: Path, authority: Authority) -> Agent:
    return Agent(tmp_path, authority, mutual=True)


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


def test_every_method_is_in_this_contract() -> None:
    assert {f"/lighterage.v1.{name}" for name in METHODS} == set(RIGHTS)


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_needs_its_right_and_no_other(by_token: Agent, method: str) -> None:
    others = {name for name in METHODS if RIGHTS[f"/lighterage.v1.{name}"] != RIGHTS[f"/lighterage.v1.{method}"]}
    async with by_token.listening(), by_token.client(token="t") as client:
        by_token.grant("alice", *others)
        with pytest.raises(ControlForbidden, match="alice has not the right"):
            await METHODS[method](client)
        assert by_token.world.changes == 0
        by_token.grant("alice", method)
        assert await METHODS[method](client)
    assert by_token.reviewer.asked[0][0] == ALICE


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_answers_nobody_without_a_token(by_token: Agent, method: str) -> None:
    async with by_token.listening(), by_token.client() as client:
        with pytest.raises(ControlUnauthenticated):
            await METHODS[method](client)
    assert by_token.reviewer.asked == []


async def test_a_token_that_expires_counts_at_the_next_call(by_token: Agent) -> None:
    by_token.grant("alice", "NodeService/GetNode")
    async with by_token.listening(), by_token.client(token="t") as client:
        assert (await client.node()).name == NODE
        del by_token.reviewer.tokens["t"]
        with pytest.raises(ControlUnauthenticated, match="not valid"):
            await client.node()


async def test_while_the_api_server_is_away_nobody_is_admitted(by_token: Agent) -> None:
    by_token.grant("alice", "NodeService/GetNode")
    by_token.reviewer.error = KubeUnavailable("cannot ask whose token this is: 503", hint="it is tried again")
    async with by_token.listening(), by_token.client(token="t") as client:
        with pytest.raises(KubeUnavailable, match="503"):
            await client.node()


@pytest.mark.parametrize("value", ["t", "Basic t", "Bearer ", "Bearer " + "x" * 17_000])
async def test_what_is_no_bearer_token_is_refused(by_token: Agent, authority: Authority, value: str) -> None:
    by_token.grant("alice", "NodeService/GetNode")
    async with by_token.listening(), by_token.client() as client:
        call = client._node.GetNode(_node_request(), metadata=[("authorization", value)])
        with pytest.raises(ControlUnauthenticated):
            await client._asked(call)


def _node_request():  # type: ignore[no-untyped-def]
    from agent.control.v1 import node_pb2

    return node_pb2.GetNodeRequest()


async def test_without_tls_nobody_is_heard(by_token: Agent) -> None:
    async with by_token.listening(), grpc.aio.insecure_channel(f"127.0.0.1:{by_token.port}") as channel:
        client = ControlClient(channel, "here")
        with pytest.raises(ControlUnreachable):
            await client.node()


async def test_an_agent_with_another_certificate_is_not_spoken_to(by_token: Agent) -> None:
    async with by_token.listening(), by_token.client(token="t", ca=Authority("other").pem) as client:
        with pytest.raises(ControlUnreachable):
            await client.node()
    assert by_token.reviewer.asked == []


async def test_a_certificate_says_who_calls(by_certificate: Agent, authority: Authority) -> None:
    by_certificate.grant("bob", "NodeService/GetNode")
    async with (
        by_certificate.listening(),
        by_certificate.client(shown=authority.issue("bob", "operators")) as bob,
        by_certificate.client(shown=authority.issue("eve")) as eve,
    ):
        assert (await bob.node()).name == NODE
        with pytest.raises(ControlForbidden, match="eve"):
            await eve.node()
    assert by_certificate.reviewer.asked[0][0] == Identity("bob", ("operators",))


@pytest.mark.parametrize("kind", ["none", "of another authority", "expired"])
async def test_where_certificates_are_asked_for_a_wrong_one_is_not_heard(
    by_certificate: Agent, authority: Authority, kind: str
) -> None:
    by_certificate.grant("alice", "NodeService/GetNode")
    shown = {
        "none": None,
        "of another authority": Authority("other").issue("alice"),
        "expired": authority.issue("alice", expired=True),
    }[kind]
    async with by_certificate.listening(), by_certificate.client(token="t", shown=shown) as client:
        with pytest.raises(ControlUnreachable):
            await client.node()
    assert by_certificate.reviewer.asked == []


async def test_of_a_certificate_and_a_token_the_token_counts(by_certificate: Agent, authority: Authority) -> None:
    by_certificate.grant("alice", "NodeService/GetNode")
    async with by_certificate.listening(), by_certificate.client(token="t", shown=authority.issue("bob")) as client:
        assert (await client.node()).name == NODE


@pytest.mark.parametrize("names", [("system:admin",), ("bob", "system:masters")])
async def test_a_certificate_cannot_name_users_and_groups_of_the_cluster(
    by_certificate: Agent, authority: Authority, names: tuple[str, ...]
) -> None:
    by_certificate.grant(names[0], "NodeService/GetNode")
    async with by_certificate.listening(), by_certificate.client(shown=authority.issue(*names)) as client:
        with pytest.raises(ControlUnauthenticated, match="system:"):
            await client.node()


async def test_health_is_told_to_whoever_gets_through(by_token: Agent, authority: Authority) -> None:
    options = [("grpc.ssl_target_name_override", "agent")]
    async with (
        by_token.listening(),
        grpc.aio.secure_channel(
            f"127.0.0.1:{by_token.port}", grpc.ssl_channel_credentials(authority.pem), options=options
        ) as channel,
    ):
        health = await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_certificate_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.key"):
        credentials(tmp_path / "tls.crt", tmp_path / "tls.key", None)


async def test_an_address_that_is_taken_is_said(by_token: Agent) -> None:
    async with by_token.listening():
        secure = SecureAddress(
            address=f"127.0.0.1:{by_token.port}",
            credentials=by_token._credentials,
            gate=ClusterGate(by_token.reviewer, "velero"),
        )
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with serve_address(by_token.world.parts, by_token.world.clock, secure):
                pass

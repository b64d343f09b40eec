"""Callers over TLS: with certificates, with tokens, with neither, and what each may."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
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
from agent.control.client import ControlClient
from agent.control.rights import RIGHTS
from agent.control.serve import SecureAddress, serve_address
from agent.kube.reviews import Identity
from tests.unit.control.control_kit import NODE
from tests.unit.control.tls_kit import ALICE, METHODS, Authority, TlsAgent


def test_every_method_is_in_this_contract() -> None:
    assert {f"/lighterage.v1.{name}" for name in METHODS} == set(RIGHTS)


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_needs_its_right_and_no_other(by_token: TlsAgent, method: str) -> None:
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
async def test_a_method_answers_nobody_without_a_token(by_token: TlsAgent, method: str) -> None:
    async with by_token.listening(), by_token.client() as client:
        with pytest.raises(ControlUnauthenticated):
            await METHODS[method](client)
    assert by_token.reviewer.asked == []


@pytest.mark.parametrize("method", METHODS)
async def test_a_token_that_expires_counts_at_the_next_call(by_token: TlsAgent, method: str) -> None:
    by_token.grant("alice", method)
    async with by_token.listening(), by_token.client(token="t") as client:
        assert await METHODS[method](client)
        del by_token.reviewer.tokens["t"]
        with pytest.raises(ControlUnauthenticated, match="not valid"):
            await METHODS[method](client)


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_answers_a_certificate_that_has_its_right_and_no_other(
    by_certificate: TlsAgent, authority: Authority, method: str
) -> None:
    by_certificate.grant("bob", method)
    async with (
        by_certificate.listening(),
        by_certificate.client(shown=authority.issue("bob")) as bob,
        by_certificate.client(shown=authority.issue("eve")) as eve,
        by_certificate.client(shown=Authority("other").issue("bob")) as stranger,
    ):
        assert await METHODS[method](bob)
        with pytest.raises(ControlForbidden, match="eve has not the right"):
            await METHODS[method](eve)
        with pytest.raises(ControlUnreachable):
            await METHODS[method](stranger)


async def test_while_the_api_server_is_away_nobody_is_admitted(by_token: TlsAgent) -> None:
    by_token.grant("alice", "NodeService/GetNode")
    by_token.reviewer.error = KubeUnavailable("cannot ask whose token this is: 503", hint="it is tried again")
    async with by_token.listening(), by_token.client(token="t") as client:
        with pytest.raises(KubeUnavailable, match="503"):
            await client.node()


@pytest.mark.parametrize("value", ["t", "Basic t", "Bearer ", "Bearer " + "x" * 17_000])
async def test_what_is_no_bearer_token_is_refused(by_token: TlsAgent, authority: Authority, value: str) -> None:
    by_token.grant("alice", "NodeService/GetNode")
    async with by_token.listening(), by_token.client() as client:
        call = client._node.GetNode(_node_request(), metadata=[("authorization", value)])
        with pytest.raises(ControlUnauthenticated):
            await client._asked(call)


def _node_request():  # type: ignore[no-untyped-def]
    from agent.control.v1 import node_pb2

    return node_pb2.GetNodeRequest()


async def test_without_tls_nobody_is_heard(by_token: TlsAgent) -> None:
    async with by_token.listening(), grpc.aio.insecure_channel(f"127.0.0.1:{by_token.port}") as channel:
        client = ControlClient(channel, "here")
        with pytest.raises(ControlUnreachable):
            await client.node()


async def test_an_agent_with_another_certificate_is_not_spoken_to(by_token: TlsAgent) -> None:
    async with by_token.listening(), by_token.client(token="t", ca=Authority("other").pem) as client:
        with pytest.raises(ControlUnreachable):
            await client.node()
    assert by_token.reviewer.asked == []


async def test_a_certificate_says_who_calls(by_certificate: TlsAgent, authority: Authority) -> None:
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
    by_certificate: TlsAgent, authority: Authority, kind: str
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


async def test_of_a_certificate_and_a_token_the_token_counts(by_certificate: TlsAgent, authority: Authority) -> None:
    by_certificate.grant("alice", "NodeService/GetNode")
    async with by_certificate.listening(), by_certificate.client(token="t", shown=authority.issue("bob")) as client:
        assert (await client.node()).name == NODE


@pytest.mark.parametrize("names", [("system:admin",), ("bob", "system:masters")])
async def test_a_certificate_cannot_name_users_and_groups_of_the_cluster(
    by_certificate: TlsAgent, authority: Authority, names: tuple[str, ...]
) -> None:
    by_certificate.grant(names[0], "NodeService/GetNode")
    async with by_certificate.listening(), by_certificate.client(shown=authority.issue(*names)) as client:
        with pytest.raises(ControlUnauthenticated, match="system:"):
            await client.node()


async def test_health_is_told_to_whoever_gets_through(by_token: TlsAgent) -> None:
    async with by_token.listening(), by_token.channel() as channel:
        health = await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_certificate_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.key"):
        credentials(tmp_path / "tls.crt", tmp_path / "tls.key", None)


async def test_without_a_host_every_address_is_listened_at(by_token: TlsAgent) -> None:
    async with by_token.listening(":0"), by_token.client() as client:
        with pytest.raises(ControlUnauthenticated):
            await client.node()


async def test_an_address_that_is_taken_is_said(by_token: TlsAgent) -> None:
    async with by_token.listening():
        secure = SecureAddress(
            address=f"127.0.0.1:{by_token.port}",
            credentials=by_token._credentials,
            gate=ClusterGate(by_token.reviewer, "velero"),
        )
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with serve_address(by_token.world.parts, by_token.world.clock, secure):
                pass

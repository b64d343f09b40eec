"""A whole agent that listens at an address, by its flags: for tokens, for certificates, and never without TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.base.clock import SystemClock
from agent.base.errors import ConfigurationError, ControlForbidden, ControlUnauthenticated, ControlUnreachable
from agent.control.client import ControlClient, Target, connect
from agent.control.rights import RIGHTS
from agent.testing.fake_reviewer import FakeReviewer
from agent.testing.s3_server import free_ports
from tests.unit.control.tls_kit import ALICE, Authority, Pair
from tests.unit.server.agent_kit import NODE, AgentWorld
from tests.unit.server.server_kit import NAMESPACE
from tests.unit.server.test_app import Workers

GET_NODE = RIGHTS["/lighterage.v1.NodeService/GetNode"].review(NAMESPACE)


class Listening:
    """The flags, files and reviewer of an agent, and targets to reach it by."""

    def __init__(self, folder: Path, *, mutual: bool) -> None:
        self.authority = Authority("ours")
        own = self.authority.issue("agent")
        files = {"tls.crt": own.certificate, "tls.key": own.key, "ca.crt": self.authority.pem}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        flags = {
            "control_address": self.address,
            "control_cert": str(folder / "tls.crt"),
            "control_key": str(folder / "tls.key"),
            "control_client_ca": str(folder / "ca.crt") if mutual else "",
        }
        self.world = AgentWorld(folder, SystemClock(), **flags)
        self.world.reviewer = self.reviewer = FakeReviewer(tokens={"t": ALICE})

    def target(self, token: str = "", shown: Pair | None = None) -> Target:
        pair = shown or Pair(b"", b"")
        return Target(
            address=self.address,
            token=token,
            ca=self.authority.pem,
            certificate=pair.certificate,
            key=pair.key,
            server_name="agent",
        )


async def listens(client: ControlClient) -> None:
    """Wait until the agent is heard: it refuses whoever shows nothing."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.node()
            except ControlUnreachable:
                await asyncio.sleep(0.05)
            except ControlUnauthenticated:
                return


async def test_a_token_is_reviewed_and_its_right_asked_for(tmp_path: Path) -> None:
    listening = Listening(tmp_path, mutual=False)
    await listening.world.add_node(NODE)
    async with (
        listening.world.agent(Workers(listening.world)),
        connect(listening.target()) as nobody,
        connect(listening.target(token="t")) as alice,
    ):
        await listens(nobody)
        with pytest.raises(ControlForbidden, match="alice"):
            await alice.node()
        listening.reviewer.grant("alice", GET_NODE)
        assert (await alice.node()).name == NODE
        listening.reviewer.tokens.clear()
        with pytest.raises(ControlUnauthenticated, match="not valid"):
            await alice.node()


async def test_with_an_authority_for_callers_nobody_else_is_heard(tmp_path: Path) -> None:
    listening = Listening(tmp_path, mutual=True)
    await listening.world.add_node(NODE)
    listening.reviewer.grant("bob", GET_NODE)
    eve, bob = listening.authority.issue("system:admin"), listening.authority.issue("bob")
    async with (
        listening.world.agent(Workers(listening.world)),
        connect(listening.target(shown=eve)) as refused,
        connect(listening.target(shown=bob)) as admitted,
        connect(listening.target(token="t")) as unheard,
    ):
        await listens(refused)
        assert (await admitted.node()).name == NODE
        with pytest.raises(ControlUnreachable):
            await unheard.node()


async def test_an_address_without_a_certificate_ends_the_agent(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, SystemClock(), control_address="127.0.0.1:0")
    world.reviewer = FakeReviewer()
    await world.add_node(NODE)
    async with asyncio.timeout(60):
        with pytest.raises(ConfigurationError, match="only with a certificate"):
            async with world.agent(Workers(world)) as task:
                await task

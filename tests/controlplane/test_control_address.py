"""Agents that listen at an address, before a real API server that reviews tokens and rights: real processes, by flags.

The role, and how the agent gets the right to ask, are those of docs/control-api.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from agent.base.errors import ControlForbidden, ControlUnauthenticated, ControlUnreachable, LighterageError
from agent.control.client import ControlClient, Target, connect
from agent.control.rights import GROUP
from agent.control.v1 import jobs_pb2, snapshots_pb2
from agent.testing.control_plane import ControlPlane, Manifest
from agent.testing.control_plane_process import eventually
from agent.testing.s3_server import free_ports
from tests.controlplane.agents import LIGHTER
from tests.controlplane.control_agents import GUIDE, ControlAgent, ControlAgents, control_agents, right, storage
from tests.unit.movers.moving_kit import backup_of, done, new_repository, running

NAMESPACE: Final = "control-api"
APP: Final = snapshots_pb2.Repository(volume_namespace="app", storage_location="default")
FILES: Final = {"apiGroups": [GROUP], "resources": ["snapshots/files"], "verbs": ["get"]}
SNAPSHOTS: Final = {"apiGroups": [GROUP], "resources": ["snapshots"], "verbs": ["get", "list", "verify"]}


@dataclass(frozen=True)
class Listening:
    """An agent for tokens, and one that hears only callers with a certificate."""

    agents: ControlAgents
    for_tokens: ControlAgent
    for_certificates: ControlAgent

    @property
    def plane(self) -> ControlPlane:
        return self.agents.plane

    @property
    def folder(self) -> Path:
        return self.agents.folder

    @property
    def by_token(self) -> int:
        return self.for_tokens.control

    @property
    def by_certificate(self) -> int:
        return self.for_certificates.control

    def account(self, name: str) -> str:
        return self.agents.account(name)

    def grant(self, name: str, subject: Manifest, *rules: dict[str, Any]) -> None:
        self.agents.grant(name, subject, *rules)

    @asynccontextmanager
    async def client(
        self, token: str = "", *, shown: tuple[Path, Path] | None = None, port: int = 0
    ) -> AsyncIterator[ControlClient]:
        certificate, key = (file.read_bytes() for file in shown) if shown else (b"", b"")
        target = Target(
            address=f"127.0.0.1:{port or (self.by_certificate if shown else self.by_token)}",
            token=token,
            ca=self.plane.keys.authority.read_bytes(),
            certificate=certificate,
            key=key,
        )
        async with connect(target) as client:
            yield client


@pytest.fixture(scope="module")
def listening(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("control-address")
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    with (
        control_agents(plane, folder, NAMESPACE) as agents,
        agents.listening("t1", first) as for_tokens,
        agents.listening("c1", second, f"--control-client-ca={plane.keys.authority}") as for_certificates,
    ):
        yield Listening(agents, for_tokens, for_certificates)


async def test_a_token_may_what_roles_grant_its_account_until_they_do_not(listening: Listening) -> None:
    token = listening.account("operator")
    async with listening.client(token) as client:
        with pytest.raises(ControlForbidden, match=f"system:serviceaccount:{NAMESPACE}:operator has not the right"):
            await client.node()
        (rules,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
        listening.grant("operator", {"kind": "ServiceAccount", "name": "operator"}, *yaml.safe_load(rules)["rules"])
        await _sooner_or_later(lambda: _outcome(client.node()), "")
        assert (await client.node()).name == "t1"
        assert [one async for one in client.jobs(jobs_pb2.JobFilter())] == []
        assert await _outcome(anext(client.snapshots(APP))) == ControlForbidden.code, "no part of that role"
        listening.plane.kubectl("delete", "rolebinding", "operator", f"--namespace={NAMESPACE}")
        await _sooner_or_later(lambda: _outcome(client.node()), ControlForbidden.code)


async def test_tokens_that_are_expired_or_of_nobody_are_refused(listening: Listening) -> None:
    token = listening.account("late")
    everything = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"]}
    listening.grant("late", {"kind": "ServiceAccount", "name": "late"}, everything)
    async with listening.client(token) as client:
        await _sooner_or_later(lambda: _outcome(client.node()), "")
    signed = _with_claims(listening.plane, token)
    async with listening.client(signed) as client:
        assert (await client.node()).name == "t1", "signed again as it was"
    for bad in (_with_claims(listening.plane, token, iat=1_000, nbf=1_000, exp=2_000), f"{token}x", "garbage"):
        async with listening.client(bad) as client:
            with pytest.raises(ControlUnauthenticated, match="not valid, or not any more"):
                await client.node()
    async with listening.client() as client:
        assert await _outcome(client.node()) == ControlUnauthenticated.code


async def test_to_read_a_file_is_a_right_of_its_own(listening: Listening) -> None:
    location = await new_repository(listening.folder / "bucket" / "kopia" / "app")
    tree = listening.folder / "tree"
    tree.mkdir()
    (tree / "key.pem").write_bytes(b"secret of an application")
    async with running() as movers:
        snapshot = (await done(movers, backup_of(tree, location))).snapshot
    listening.plane.apply(*storage(NAMESPACE, listening.folder / "bucket"))
    token = listening.account("reader")
    listening.grant("reader", {"kind": "ServiceAccount", "name": "reader"}, SNAPSHOTS)
    async with listening.client(token) as client:
        await _sooner_or_later(lambda: _outcome(anext(client.snapshots(APP))), "")
        assert [one.name async for one in client.browse(APP, snapshot, b"")] == [b"key.pem"]
        assert await _outcome(anext(client.read(APP, snapshot, b"key.pem"))) == ControlForbidden.code
        restore = snapshots_pb2.RestorePathRequest(repository=APP, snapshot=snapshot)
        assert await _outcome(anext(client.restore(restore))) == ControlForbidden.code
        listening.grant("reader", {"kind": "ServiceAccount", "name": "reader"}, SNAPSHOTS, FILES)
        await _sooner_or_later(lambda: _outcome(anext(client.read(APP, snapshot, b"key.pem"))), "")
        assert await anext(client.read(APP, snapshot, b"key.pem")) == b"secret of an application"


async def test_a_certificate_is_a_user_of_its_organizations_and_never_one_of_the_cluster(listening: Listening) -> None:
    issue = listening.plane.keys.issue
    listening.grant("storage-team", {"kind": "Group", "name": "storage-team"}, right("get", "nodes"))
    async with listening.client(shown=issue("bob", "storage-team")) as client:
        await _sooner_or_later(lambda: _outcome(client.node()), "")
        assert (await client.node()).name == "c1"
        assert await _outcome(client.limits()) == ControlForbidden.code
    async with listening.client(shown=issue("root", "system:masters")) as client:
        assert await _outcome(client.node()) == ControlUnauthenticated.code
    async with listening.client(token=listening.account("alone"), port=listening.by_certificate) as client:
        assert await _outcome(client.node()) == ControlUnreachable.code


def test_the_command_shows_a_token_from_a_file(listening: Listening) -> None:
    token = listening.folder / "token"
    token.write_text(listening.account("command"))
    listening.grant("command", {"kind": "ServiceAccount", "name": "command"}, right("get", "nodes"))
    command = [LIGHTER, "agent", "status", f"--address=127.0.0.1:{listening.by_token}", f"--token-file={token}"]
    command += ["--json", f"--cacert={listening.plane.keys.authority}"]

    def answers() -> bool:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        return not said.returncode and '"t1"' in said.stdout

    eventually("the agent says which node it is", answers, seconds=20)


def test_an_agent_listens_at_its_addresses_and_nowhere_else(listening: Listening) -> None:
    for one in (listening.for_tokens, listening.for_certificates):
        processes = [one.program.pid, *_below(one.program.pid)]
        assert {port for pid in processes for port in _listening_ports(pid)} == {one.metrics, one.control}


def _below(pid: int) -> Iterator[int]:
    """Children, and theirs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _below(int(child))


def _listening_ports(pid: int) -> Iterator[int]:
    """Of TCP and UDP, on any address: 0A is listening, and a UDP socket without a peer is 07."""
    held = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    for name, state in ("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == state and f"socket:[{words[9]}]" in held:
                yield int(words[1].rpartition(":")[2], 16)


async def _outcome(call: Awaitable[object]) -> str:
    """The code of the error that a call ends with; empty when it ends well."""
    try:
        await call
    except LighterageError as error:
        return error.code
    return ""


async def _sooner_or_later(outcome: Callable[[], Awaitable[str]], wanted: str) -> None:
    """Roles count a moment after they are written."""
    for _ in range(200):
        if (last := await outcome()) == wanted:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"it ends with {last!r} and not with {wanted!r}")


def _with_claims(plane: ControlPlane, token: str, **claims: int) -> str:
    """The same token with other claims, signed by the cluster's own key."""
    header, payload, _ = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(payload + "==")) | claims
    text = f"{header}.{_base64(json.dumps(changed).encode())}"
    key = serialization.load_pem_private_key(plane.keys.service_accounts.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return f"{text}.{_base64(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

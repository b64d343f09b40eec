"""grpcurl, which knows the API only by reflection: at the socket, and over TLS with a token and with a certificate."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.control.serve import SERVICES, serve_socket
from agent.control.v1 import jobs_pb2, limits_pb2, node_pb2, snapshots_pb2
from agent.testing.control_plane_process import tool
from tests.unit.control.control_kit import NODE, World, job
from tests.unit.control.tls_kit import Authority, TlsAgent

STANDARD = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def grpcurl(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of the program from `hack/tool`."""
    process = await asyncio.create_subprocess_exec(
        tool("grpcurl"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_every_service_and_method_is_listed_described_and_called_at_the_socket(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "control.sock"
    world.jobs.put(job("a"), job("b"))
    there = ("-plaintext", "-unix", "-authority", "localhost")
    async with serve_socket(world.parts, world.clock, path):
        status, listed, _ = await grpcurl(*there, str(path), "list")
        assert status == 0
        assert set(listed.split()) == {*SERVICES, *STANDARD}
        for module in (node_pb2, jobs_pb2, limits_pb2, snapshots_pb2):
            for service in module.DESCRIPTOR.services_by_name.values():
                _, described, _ = await grpcurl(*there, str(path), "describe", service.full_name)
                assert [one.name for one in service.methods if f"rpc {one.name} (" not in described] == []
        _, message, _ = await grpcurl(*there, str(path), "describe", "lighterage.v1.JobProgress")
        assert "optional int64 bytes_total = 2;" in message
        status, answer, _ = await grpcurl(*there, str(path), "lighterage.v1.NodeService/GetNode")
        assert (status, json.loads(answer)["node"]["name"]) == (0, NODE)
        until_ended = '{"id": {"kind": "JOB_KIND_DATA_UPLOAD", "name": "no-such"}}'
        status, _, error = await grpcurl(*there, "-d", until_ended, str(path), "lighterage.v1.JobService/WatchJobs")
        assert status == 64 + 5, "grpcurl's exit status for NOT_FOUND"
        assert "control.job-not-found" in error


@pytest.fixture
def authority_file(tmp_path: Path, authority: Authority) -> str:
    file = tmp_path / "authority.crt"
    file.write_bytes(authority.pem)
    return str(file)


async def test_over_tls_a_token_opens_what_its_user_may(by_token: TlsAgent, authority_file: str) -> None:
    by_token.grant("alice", "JobService/ListJobs")
    there = ("-cacert", authority_file, "-servername", "agent")
    shown = ("-H", "authorization: Bearer t")
    async with by_token.listening():
        address = f"127.0.0.1:{by_token.port}"
        _, listed, _ = await grpcurl(*there, address, "list")
        assert set(SERVICES) < set(listed.split()), "reflection needs no right"
        only_unfinished = '{"filter": {"all_nodes": true, "unfinished_only": true}}'
        list_jobs = (*there, "-d", only_unfinished, *shown, address, "lighterage.v1.JobService/ListJobs")
        status, answer, _ = await grpcurl(*list_jobs)
        assert (status, json.loads(answer)["jobs"][0]["id"]["name"]) == (0, "a")
        refused, _, error = await grpcurl(*there, *shown, address, "lighterage.v1.NodeService/GetNode")
        assert refused == 64 + 7
        assert "control.forbidden" in error
        by_token.reviewer.tokens.clear()
        assert (await grpcurl(*list_jobs))[0] == 64 + 16, "UNAUTHENTICATED"


async def test_over_tls_a_certificate_says_who_calls(
    by_certificate: TlsAgent, authority: Authority, authority_file: str, tmp_path: Path
) -> None:
    by_certificate.grant("bob", "NodeService/GetNode")
    bob = authority.issue("bob")
    (tmp_path / "bob.crt").write_bytes(bob.certificate)
    (tmp_path / "bob.key").write_bytes(bob.key)
    there = ("-cacert", authority_file, "-servername", "agent")
    shown = ("-cert", str(tmp_path / "bob.crt"), "-key", str(tmp_path / "bob.key"))
    async with by_certificate.listening():
        get_node = (f"127.0.0.1:{by_certificate.port}", "lighterage.v1.NodeService/GetNode")
        status, answer, _ = await grpcurl(*there, *shown, *get_node)
        assert (status, json.loads(answer)["node"]["name"]) == (0, NODE)
        assert (await grpcurl(*there, "-connect-timeout", "3", *get_node))[0] != 0
    assert len(by_certificate.reviewer.asked) == 1

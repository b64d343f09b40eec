"""Snapshots through the control API of a whole agent with real workers: list, browse, read, restore, verify."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from agent.base.clock import SystemClock
from agent.base.errors import (
    ControlBusy,
    LocationNotFound,
    NotARepository,
    PathNotInSnapshot,
    SnapshotNotFound,
    SourceGone,
    UsageError,
)
from agent.cli.agent_snapshots import RemoteFile, RemoteList, RemoteRestore
from agent.control.client import ControlClient, Target, connect
from agent.control.v1 import snapshots_pb2 as pb
from agent.movers.supervisor import MoverOptions, Movers
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.storage.open import open_storage
from tests.unit.server.agent_kit import NODE, PASSWORD, AgentWorld
from tests.unit.server.test_control_api import lighter

APP = pb.Repository(volume_namespace="app", storage_location="default")
LARGE = os.urandom(3 << 20)
HUGE = 64 << 20
"""More than every buffer between a worker and a reader."""


@asynccontextmanager
async def backed_up(folder: Path) -> AsyncIterator[tuple[AgentWorld, ControlClient, str]]:
    """An agent that has backed up the volume of its pod once: the world, a client, the snapshot's id."""
    world = AgentWorld(folder, SystemClock(), control_socket=str(folder / "run" / "control.sock"))
    await world.add_node(NODE)
    below = world.volume / "below"
    below.mkdir()
    for number in range(5):
        (below / f"file-{number}").write_text(f"content {number}")
    (below / "large").write_bytes(LARGE)
    with (world.volume / "huge").open("wb") as file:
        file.truncate(HUGE)
    os.symlink("file-1", below / "link")
    (below / "añejo").write_text("not ASCII")
    storage = await open_storage(f"file://{folder}/bucket/kopia/app", create=True)
    await Repository.create(storage, PASSWORD, options=CreateOptions(for_velero=True))
    await storage.close()

    def workers(options: MoverOptions) -> Movers:
        return Movers(options, world.clock, {})

    async with asyncio.timeout(300), world.agent(workers):
        await world.add_backup()
        await world.until(lambda: world.phase().is_final, within=60)
        async with connect(Target(address=f"unix:{world.flags.control_socket}")) as client:
            yield world, client, (await world.backup()).status.snapshot_id


async def test_a_snapshot_is_listed_browsed_by_pages_read_and_verified(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (_, client, snapshot):
        (listed,) = [one async for one in client.snapshots(APP)]
        assert listed.id == snapshot
        assert listed.source.endswith(":snapshot-pod-volume/kopia/app/web/html")
        assert (listed.files, listed.incomplete) == (9, "")

        names = [one.name async for one in client.browse(APP, snapshot, b"below")]
        assert names == ["añejo".encode(), *(b"file-%d" % number for number in range(5)), b"large", b"link"]
        request = pb.BrowseSnapshotRequest(repository=APP, snapshot=snapshot, path=b"below", page_size=3)
        pages = []
        while True:
            answer = await client._snapshots.BrowseSnapshot(request)
            pages.append([entry.name for entry in answer.entries])
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        assert [len(page) for page in pages] == [3, 3, 2]
        assert [name for page in pages for name in page] == names

        assert b"".join([piece async for piece in client.read(APP, snapshot, b"below/large")]) == LARGE
        assert b"".join([piece async for piece in client.read(APP, snapshot, "below/añejo".encode())]) == b"not ASCII"
        verdict = await client.verify(pb.VerifySnapshotRequest(repository=APP, snapshot=snapshot[:8]))
        assert (verdict.failed, verdict.files, verdict.files_read) == (0, 10, 10)


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (world, client, snapshot):
        requests = set(world.api.requests)
        with pytest.raises(PathNotInSnapshot):
            await _all(client.read(APP, snapshot, b"../etc/passwd"))
        with pytest.raises(PathNotInSnapshot, match="folder"):
            await _all(client.read(APP, snapshot, b"below"))
        with pytest.raises(SnapshotNotFound):
            await _all(client.browse(APP, "0" * 32, b""))
        with pytest.raises(UsageError):
            await _all(client.browse(APP, "", b""))
        with pytest.raises(LocationNotFound):
            await _all(client.snapshots(pb.Repository(volume_namespace="app", storage_location="../secrets")))
        for namespace in ("other", "a,b=c"):
            with pytest.raises(NotARepository):
                await _all(client.snapshots(pb.Repository(volume_namespace=namespace, storage_location="default")))
        assert not {verb for verb, _ in set(world.api.requests) - requests} & {"create"}, "no repository is made"


async def test_a_folder_is_restored_into_a_volume_of_a_pod_of_the_node(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (world, client, snapshot):
        request = pb.RestorePathRequest(
            repository=APP, snapshot=snapshot, path=b"below", pod_namespace="app", pod="web", volume="html"
        )
        answers = await _all(client.restore(request))
        assert answers[-1].HasField("result")
        assert answers[-1].result.files == 8
        assert (world.volume / "large").read_bytes() == LARGE
        assert os.readlink(world.volume / "link") == "file-1"
        (world.volume / "file-1").write_text("newer")
        request.path = b"below/file-1"
        request.on_existing = pb.ON_EXISTING_OVERWRITE
        await _all(client.restore(request))
        assert (world.volume / "file-1").read_text() == "content 1"
        for pod, volume in (("web", "no-such"), ("no-such", "html"), ("web", "../html")):
            with pytest.raises(SourceGone):
                await _all(
                    client.restore(
                        pb.RestorePathRequest(
                            repository=APP, snapshot=snapshot, pod_namespace="app", pod=pod, volume=volume
                        )
                    )
                )


async def test_a_reader_that_stops_holds_one_worker_and_few_may(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (_, client, snapshot):
        readers = [client.read(APP, snapshot, b"huge") for _ in range(4)]
        assert all([await anext(reader) for reader in readers])
        with pytest.raises(ControlBusy):
            await _all(client.snapshots(APP))
        await readers[0].aclose()
        del readers[0]
        async with asyncio.timeout(60):
            while True:
                try:
                    assert len(await _all(client.snapshots(APP))) == 1
                    break
                except ControlBusy:
                    await asyncio.sleep(0.05)
        for reader in readers:
            assert sum([len(piece) async for piece in reader]) > HUGE // 2


async def test_the_command_line_lists_prints_and_restores(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (world, _, snapshot):
        at = ("--volume-namespace", "app", "--socket", world.flags.control_socket)
        (_, snapshots, _), (_, folder, _), (_, text, _), (_, length, _) = await asyncio.gather(
            lighter("agent", "ls", "--json", *at),
            lighter("agent", "ls", f"{snapshot}/below", "--json", *at),
            lighter("agent", "cat", f"{snapshot}/below/file-3", *at),
            lighter("agent", "cat", f"{snapshot}/below/large", "--json", *at),
        )
        assert [one.name for one in msgspec.json.decode(snapshots, type=RemoteList).entries] == [snapshot]
        assert {one.name for one in msgspec.json.decode(folder, type=RemoteList).entries} > {"añejo", "file-0", "link"}
        assert text == "content 3"
        assert msgspec.json.decode(length, type=RemoteFile) == RemoteFile(len(LARGE))
        into = ("--pod", "app/web", "--volume", "html")
        status, out, err = await lighter("agent", "restore", f"{snapshot}/below", *into, "--json", *at)
        assert (status, err) == (0, "")
        assert msgspec.json.decode(out, type=RemoteRestore).files == 8
        status, _, err = await lighter("agent", "restore", f"{snapshot}/below", *into, *at)
        assert status == 74
        assert "[snapshot.partial-restore]" in err


async def _all(items):  # type: ignore[no-untyped-def]
    return [item async for item in items]

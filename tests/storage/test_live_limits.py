"""A limit that is set while a backup runs: through the control API of an agent, with a real worker and a real store.

Here the rate is the thing itself, so real time counts. Bytes are counted as they arrive on the way to the store, by
threads that never wait for it, and windows in which those were kept from running say nothing.
"""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from agent.base.clock import SystemClock
from agent.control.client import ControlClient, Target, connect
from agent.control.v1 import limits_pb2
from agent.kube.backup_storage_location import (
    BackupStorageLocation,
    BackupStorageLocationSpec,
    ObjectStorage,
    SecretKey,
)
from agent.kube.cluster import Secret
from agent.kube.codec import encode
from agent.kube.job import Phase
from agent.kube.meta import ObjectMeta
from agent.kube.resource import BACKUP_STORAGE_LOCATIONS, SECRETS
from agent.movers.supervisor import Movers
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.storage.open import open_s3_storage
from agent.testing.s3_server import SeaweedServer
from tests.storage.conftest import config_for
from tests.unit.server.agent_kit import NODE, PASSWORD, AgentWorld
from tests.unit.server.server_kit import NAMESPACE

pytestmark = pytest.mark.s3

MIB = 1 << 20
VOLUME = 192 * MIB
LEFT = 48 * MIB
"""Of the volume, for the time after the limit."""
BEFORE = 16 * MIB
LIMIT = 5 * MIB
"""Bytes a second: of the time before, then."""
WINDOW = 5.0
STEP = 0.25
WINDOWS = 16
LATE = 0.15
"""Seconds between two looks of a watcher that wants to look each 50 ms: its threads were kept from running."""
SILENT = 0.4
"""Seconds without a byte, which are more than a limit of this size ever waits: worker or store were kept from it."""
_PIECE = 1 << 18


class Wire:
    """Passes connections on to a server, and remembers when which bytes to it arrived."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._totals: list[int] = []
        self.late: list[float] = []
        """When the watcher found that it was kept from running."""
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        for work in (self._accept, self._watch):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._listener.close()

    @property
    def total(self) -> int:
        with self._lock:
            return self._totals[-1] if self._totals else 0

    def passed(self, since: float, until: float) -> int:
        """Bytes that arrived between two moments."""
        with self._lock:
            before, after = (bisect_right(self._times, moment) for moment in (since, until))
            return (self._totals[after - 1] if after else 0) - (self._totals[before - 1] if before else 0)

    def was_watched(self, since: float, until: float) -> bool:
        """Whether everybody was there in this time: the watcher, the worker and the store."""
        if any(since - LATE < moment < until + STEP for moment in self.late):
            return False
        with self._lock:
            first, last = bisect_right(self._times, since), bisect_right(self._times, until)
            times = [since, *self._times[first:last], until]
        return all(later - earlier < SILENT for earlier, later in pairwise(times))

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            for work, arguments in (
                (self._take, (client, waiting)),
                (_give, (waiting, server)),
                (_answer, (server, client)),
            ):
                threading.Thread(target=work, args=arguments, daemon=True).start()

    def _take(self, client: socket.socket, waiting: queue.SimpleQueue[bytes]) -> None:
        for data in _read(client):
            with self._lock:
                self._times.append(time.monotonic())
                self._totals.append((self._totals[-1] if self._totals else 0) + len(data))
            waiting.put(data)
        waiting.put(b"")

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(0.05):
            now = time.monotonic()
            if now - last > LATE:
                self.late.append(now)
            last = now


def _read(connection: socket.socket) -> Iterator[bytes]:
    try:
        while data := connection.recv(_PIECE):
            yield data
    except OSError:
        return


def _give(waiting: queue.SimpleQueue[bytes], server: socket.socket) -> None:
    try:
        while data := waiting.get():
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _answer(server: socket.socket, client: socket.socket) -> None:
    try:
        for data in _read(server):
            client.sendall(data)
        client.close()
    except OSError:
        return


@asynccontextmanager
async def backing_up(
    folder: Path, seaweed: SeaweedServer, wire: Wire
) -> AsyncIterator[tuple[AgentWorld, ControlClient]]:
    """An agent whose worker sends a volume of random bytes along the wire, at a rate that was set before."""
    world = AgentWorld(folder, SystemClock(), control_socket=str(folder / "run" / "control.sock"))
    await world.add_node(NODE)
    with (world.volume / "random").open("wb") as file:
        for _ in range(VOLUME // MIB):
            file.write(os.urandom(MIB))
    await _put_location(world, seaweed, wire)
    async with (
        asyncio.timeout(300),
        world.agent(lambda options: Movers(options, world.clock, {})),
        connect(Target(address=f"unix:{world.flags.control_socket}")) as client,
    ):
        await world.until(lambda: Path(world.flags.control_socket).exists(), within=60)
        await client.set_limits(limits_pb2.Limits(upload_bytes_per_second=BEFORE))
        await world.add_backup()
        await world.until(lambda: wire.total > BEFORE, within=60)  # what a bucket has saved at first is gone
        yield world, client


async def _put_location(world: AgentWorld, seaweed: SeaweedServer, wire: Wire) -> None:
    seaweed.create_bucket("limits")
    storage = await open_s3_storage(config_for(seaweed, "limits", prefix="kopia/app/"))
    await Repository.create(storage, PASSWORD, options=CreateOptions(for_velero=True))
    await storage.close()
    keys = f"[default]\naws_access_key_id={seaweed.access_key}\naws_secret_access_key={seaweed.secret_key}\n"
    secret = Secret(
        api_version="v1",
        kind="Secret",
        metadata=ObjectMeta(name="bucket", namespace=NAMESPACE, uid="bucket"),
        data={"cloud": keys.encode()},
    )
    config = {"region": "us-east-1", "s3ForcePathStyle": "true", "s3Url": f"http://127.0.0.1:{wire.port}"}
    location = BackupStorageLocation(
        api_version="velero.io/v1",
        kind="BackupStorageLocation",
        metadata=ObjectMeta(name="default", namespace=NAMESPACE, uid="bsl"),
        spec=BackupStorageLocationSpec(
            provider="aws",
            config=config,
            credential=SecretKey(name="bucket", key="cloud"),
            object_storage=ObjectStorage(bucket="limits"),
        ),
    )
    world.api.put_raw(SECRETS, encode(secret))
    world.api.put_raw(BACKUP_STORAGE_LOCATIONS, encode(location))


async def test_a_limit_set_on_a_running_backup_is_kept_in_each_five_seconds_and_lifted_live(
    tmp_path: Path, seaweed: SeaweedServer
) -> None:
    with Wire(seaweed.port) as wire:
        async with backing_up(tmp_path, seaweed, wire) as (world, client):
            await client.set_limits(limits_pb2.Limits(upload_bytes_per_second=LIMIT))
            shares = await _shares_of_windows(wire, time.monotonic())
            await client.reset_limits()
            lifted = time.monotonic()
            await world.until(lambda: world.phase().is_final, within=120)
            ended = time.monotonic()
        backup = await world.backup()
    assert (backup.status.phase, backup.status.message) == (Phase.COMPLETED, "")
    assert len(shares) == WINDOWS, "the machine let nobody watch"
    assert max(shares) <= 1.1, shares
    assert min(shares) >= 0.9, shares
    assert max(wire.passed(at, at + 1) for at in _moments(lifted, ended)) > 2 * LIMIT


async def _shares_of_windows(wire: Wire, begun: float) -> list[float]:
    """What passed in windows that begin a step after each other, as parts of what may; those that say something."""
    shares: list[float] = []
    start = begun
    while len(shares) < WINDOWS and wire.total < VOLUME - LEFT:
        await asyncio.sleep(max(start + WINDOW + STEP - time.monotonic(), 0))
        if wire.was_watched(start, start + WINDOW):
            shares.append(wire.passed(start, start + WINDOW) / (LIMIT * WINDOW))
        start += STEP
    return shares


def _moments(begun: float, ended: float) -> Iterator[float]:
    at = begun
    while at <= ended:
        yield at
        at += STEP

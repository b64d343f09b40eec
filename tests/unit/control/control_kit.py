"""Agents to ask: a world of jobs in memory behind the real servers and the real client."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from agent.base.clock import Clock, SystemClock
from agent.base.errors import ControlJobNotFound, ControlNotCancelable
from agent.control.client import ControlClient, Target, connect
from agent.control.contract import JobState, NodeState
from agent.control.serve import Parts
from agent.kube.agent_config import AgentLimits
from agent.kube.job import Phase
from agent.movers.answers import Answer, End, EntryItem, Piece, SnapshotItem, Verdict
from agent.movers.protocol import encode_frame
from agent.movers.spec import (
    JobResult,
    JobSpec,
    ListFolder,
    ListSnapshots,
    Look,
    Progress,
    RateLimits,
    ReadFile,
    RestoreResult,
    RestoreTree,
    Secrets,
    UrlLocation,
    Verify,
)
from agent.movers.supervisor import JobCallbacks
from agent.server.capacity import Capacity
from agent.server.live_limits import LiveLimits

NODE = "node-1"
ANSWERS: dict[type, list[Answer]] = {
    ListSnapshots: [
        SnapshotItem(
            id="s",
            source=b"u@h:/p",
            description=b"",
            start_ns=1,
            end_ns=2,
            incomplete="",
            total_bytes=3,
            files=1,
            tags={},
        )
    ],
    ListFolder: [EntryItem(name=b"f", kind="f", mode=0o644, size=3, mtime_ns=-(2**63), uid=-2, gid=2**40)],
    ReadFile: [Piece(data=b"abc")],
    Verify: [Verdict(directories=1, files=1, files_read=1, bytes_read=3, failed=1, failures=((b"f", "c", "m"),))],
}
"""Also with what no volume should hold."""
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def end_of(answers: Sequence[Answer]) -> End:
    """What a worker says after them."""
    data = b"".join(one.data for one in answers if isinstance(one, Piece))
    return End(answers=len(answers), size=len(data), sha256=hashlib.sha256(data).digest())


def job(name: str = "a", *, kind: str = "DataUpload", phase: Phase = Phase.IN_PROGRESS, **more: object) -> JobState:
    state = JobState(kind=kind, name=name, uid=f"uid-{name}", phase=phase, node=NODE, created=BEGIN)
    return replace(state, **more)  # type: ignore[arg-type]


@dataclass
class FakeJobs:
    """Implements `Jobs`."""

    states: dict[tuple[str, str], JobState] = field(default_factory=dict)
    cancelable: bool = True

    def put(self, *states: JobState) -> None:
        for state in states:
            self.states[state.kind, state.name] = state

    def all(self) -> Iterator[JobState]:
        return iter(list(self.states.values()))

    def get(self, kind: str, name: str) -> JobState | None:
        return self.states.get((kind, name))

    async def cancel(self, kind: str, name: str) -> JobState:
        found = self.get(kind, name)
        if found is None:
            raise ControlJobNotFound(f"there is no {kind} {name!r}")
        if not self.cancelable:
            raise ControlNotCancelable("too old", hint="upgrade Velero")
        self.put(replace(found, canceled=True))
        return self.states[kind, name]

    async def pause(self, kind: str, name: str, *, paused: bool) -> JobState:
        found = self.get(kind, name)
        if found is None:
            raise ControlJobNotFound(f"there is no {kind} {name!r}")
        self.put(replace(found, paused=paused))
        return self.states[kind, name]

    def move(self, name: str, done: int) -> None:
        self.put(replace(self.states["DataUpload", name], progress=Progress(bytes_done=done, bytes_total=100)))


@dataclass
class FakeNode:
    """Implements `Node`."""

    not_ready: str = ""
    name: str = NODE

    def state(self) -> NodeState:
        return NodeState(
            name=self.name, version="1.2.3", namespace="velero", started_ns=10**18, not_ready=self.not_ready
        )


class FakeWorker:
    """A `WorkRunner` whose worker answers the same to everybody, and is its own `RunningWork`."""

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWorker]:
        if isinstance(spec.work, Look):
            _, writer = await asyncio.open_unix_connection(spec.work.listener)
            answers = ANSWERS[type(spec.work.question)]
            for answer in (*answers, end_of(answers)):
                writer.write(encode_frame(answer))
            writer.close()
        yield self

    async def updates(self) -> AsyncIterator[Progress]:
        yield Progress(bytes_done=1)

    def cancel(self, reason: str = "") -> None:
        raise AssertionError("nobody cancels it")

    def set_limits(self, limits: RateLimits) -> None:
        raise AssertionError("nobody limits it")

    async def result(self) -> JobResult:
        return RestoreResult(bytes=1, files=1, directories=0, downloaded_bytes=1, denied=0)


class FakeRepositories:
    """Implements `Repositories`."""

    runner = FakeWorker()
    folder = Path(tempfile.gettempdir())

    async def job(
        self, volume_namespace: str, storage_location: str, work: Look | RestoreTree
    ) -> tuple[JobSpec, Secrets]:
        return JobSpec(id="x", work=work, location=UrlLocation(url="file:///nowhere")), Secrets(password="p")

    async def volume(self, pod_namespace: str, pod: str, volume: str) -> str:
        return "/volume"


class World:
    """What an agent tells and does, for one test."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.jobs = FakeJobs()
        self.node = FakeNode()
        self.capacity = Capacity(2, AgentLimits(upload_bytes_per_second=1000))
        self.changes = 0
        self.limits = LiveLimits(lambda: self.capacity, self._count_change)

    def _count_change(self) -> None:
        self.changes += 1

    @property
    def parts(self) -> Parts:
        return Parts(node=self.node, jobs=self.jobs, limits=self.limits, repositories=FakeRepositories())


def local(path: Path) -> AbstractAsyncContextManager[ControlClient]:
    return connect(Target(address=f"unix:{path}"))


Admits = Callable[[int], bool]

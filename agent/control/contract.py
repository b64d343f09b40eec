"""What the services ask of the agent around them: protocols, and the plain values that cross them.

`server` implements them over controllers and workers. Everything is called on the event loop; what is no coroutine
answers from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from agent.kube.job import Phase
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Look, Progress, RestoreTree, Secrets


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """One object that agents work on, as it is now."""

    kind: str
    """`DataUpload`, …"""
    name: str
    uid: str
    phase: Phase
    node: str = ""
    """Whose agent looks after it; empty while nobody's does."""
    volume_namespace: str = ""
    volume: str = ""
    storage_location: str = ""
    snapshot_id: str = ""
    message: str = ""
    waiting_for: str = ""
    canceled: bool = False
    """Whether somebody wants its end."""
    paused: bool = False
    """Whether somebody wants its data to stand still."""
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    progress: Progress = msgspec.field(default_factory=Progress)


class Jobs(Protocol):
    """The objects of the four kinds in Velero's namespace."""

    def all(self) -> Iterator[JobState]:
        """Every one that is known, in no order."""
        ...

    def get(self, kind: str, name: str) -> JobState | None:
        """One of them."""
        ...

    async def cancel(self, kind: str, name: str) -> JobState:
        """Have it ended. Raises `ControlJobNotFound`, `ControlNotCancelable` and `KubeError`."""
        ...

    async def pause(self, kind: str, name: str, *, paused: bool) -> JobState:
        """Have its data stand still, or go on. Raises `ControlJobNotFound` and `KubeError`."""
        ...


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What all jobs of a node may take together; a rate of 0 is no limit."""

    upload_bytes_per_second: int
    download_bytes_per_second: int
    requests_per_second: int
    concurrency: int
    """Jobs at once, from 1."""


class LimitChange(msgspec.Struct, frozen=True, kw_only=True):
    """Some of it; None: as it is."""

    upload_bytes_per_second: int | None = None
    download_bytes_per_second: int | None = None
    requests_per_second: int | None = None
    concurrency: int | None = None


class Limits(Protocol):
    """The limits of the node, which may be changed while jobs run."""

    @property
    def configured(self) -> NodeLimits:
        """What the configuration says."""
        ...

    @property
    def override(self) -> LimitChange:
        """What was set on top of it."""
        ...

    @property
    def in_force(self) -> NodeLimits:
        """Both together."""
        ...

    def set(self, change: LimitChange) -> None:
        """From now on, also for jobs that run; what was set before and is not changed stays."""
        ...

    def reset(self) -> None:
        """What the configuration says counts again."""
        ...


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """The agent and its node, as they are now."""

    name: str
    version: str
    namespace: str
    started_ns: int
    not_ready: str = ""
    """Why no new objects are taken; empty when they are."""
    moves_pod_volumes: bool = False
    moves_snapshots: bool = False
    running: int = 0
    paused: int = 0
    """Of those that are running."""
    waiting: int = 0
    concurrency: int = 0
    bytes_done: int = 0


class Node(Protocol):
    """What the agent says of itself."""

    def state(self) -> NodeState:
        """As it is now."""
        ...


class Repositories(Protocol):
    """Repositories of Velero, and workers of this agent that open them."""

    @property
    def runner(self) -> WorkRunner:
        """The workers."""
        ...

    @property
    def folder(self) -> Path:
        """Where small private files may be made."""
        ...

    async def job(
        self, volume_namespace: str, storage_location: str, work: Look | RestoreTree
    ) -> tuple[JobSpec, Secrets]:
        """What to give to a worker. Raises `LocationError`, `RepositoryError`, `KubeError`."""
        ...

    async def volume(self, pod_namespace: str, pod: str, volume: str) -> str:
        """The folder that is a volume of a pod of this node. Raises `ExposeError` when there is none."""
        ...

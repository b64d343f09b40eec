"""An `Exposer` for tests in virtual time: a volume becomes accessible after a while, on a node, or never.

What it makes is a pod in the API server it is given, so faults, outages and crashes hit it as they hit the real ones;
`ExposerWorld.left` says which jobs something was made for and not removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic

from agent.base.clock import Clock
from agent.base.errors import ExposeError, KubeAlreadyExists, KubeNotFound
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.meta import Key, ObjectMeta, OwnerReference
from agent.kube.names import valid_name
from agent.kube.pods import Container, Pod, PodSpec
from agent.kube.resource import PODS
from agent.kube.volumes import VolumeMode


@dataclass(frozen=True, slots=True)
class ExposeScript:
    """How a volume behaves."""

    node: str
    seconds: float = 2.0
    """Until it is accessible."""
    error: ExposeError | None = None
    """Instead of becoming accessible."""
    finish_error: ExposeError | None = None
    """Instead of being handed over."""
    clean_up_seconds: float = 1.0


@dataclass(slots=True)
class ExposerWorld:
    """What all fake exposers of a test share."""

    script: Callable[[Key], ExposeScript]
    made_at: dict[Key, float] = field(default_factory=dict)
    cleaning_since: dict[Key, float] = field(default_factory=dict)
    finished: set[Key] = field(default_factory=set)

    @property
    def left(self) -> set[Key]:
        """Jobs whose exposed objects exist."""
        return set(self.made_at)


class FakeExposer(Generic[ObjectT]):
    """The exposer of one kind in one agent."""

    def __init__(self, world: ExposerWorld, api: KubeApi, clock: Clock, label: str) -> None:
        self._world = world
        self._api = api
        self._clock = clock
        self._label = label

    async def advance(self, job: ObjectT) -> Waiting | Ready | Broken:
        """Make the pod; ready after the script's time."""
        world, script = self._world, self._world.script(job.key)
        now = self._clock.monotonic()
        if job.key not in world.made_at:
            with contextlib.suppress(KubeAlreadyExists):
                await self._api.create(PODS, self._pod(job, script.node))
            world.made_at[job.key] = now
        if now - world.made_at[job.key] < script.seconds:
            return Waiting("the volume is being made")
        if script.error is not None:
            return Broken(script.error)
        return Ready(
            node=script.node, mode=VolumeMode.FILESYSTEM, path=f"/fake/{job.metadata.name}", runner=Runner.LOCAL
        )

    async def finish(self, job: ObjectT) -> Waiting | Done | Broken:
        """Remember it."""
        script = self._world.script(job.key)
        if script.finish_error is not None:
            return Broken(script.finish_error)
        self._world.finished.add(job.key)
        return Done()

    async def clean_up(self, job: ObjectT) -> Waiting | Done:
        """Remove the pod, which takes a while."""
        world, now = self._world, self._clock.monotonic()
        if job.key not in world.made_at:
            return Done()
        with contextlib.suppress(KubeNotFound):
            await self._api.delete(PODS, self._pod_key(job))
        since = world.cleaning_since.setdefault(job.key, now)
        if now - since < world.script(job.key).clean_up_seconds:
            return Waiting("the pod ends")
        del world.cleaning_since[job.key]
        del world.made_at[job.key]
        return Done()

    async def diagnose(self, job: ObjectT) -> tuple[str, ...]:
        """What the pod is."""
        return (f"the pod {self._pod_key(job)} is Pending",)

    def _pod_key(self, job: ObjectT) -> Key:
        return Key(job.metadata.namespace, f"{job.kind.lower()}-{job.metadata.name}")

    def _pod(self, job: ObjectT, node: str) -> Pod:
        owner = OwnerReference(
            api_version=job.api_version, kind=job.kind, name=job.metadata.name, uid=job.metadata.uid, controller=True
        )
        metadata = ObjectMeta(
            name=self._pod_key(job).name,
            namespace=job.metadata.namespace,
            labels={self._label: valid_name(job.metadata.name)},
            owner_references=(owner,),
        )
        spec = PodSpec(containers=(Container(name="hold"),), node_name=node)
        return Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec)

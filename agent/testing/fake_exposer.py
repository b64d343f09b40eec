"""An `Exposer` for tests in virtual time: a volume becomes accessible after a while, on a node, or never.

What it makes is a pod in the API server it is given, so faults, outages and crashes hit it as they hit the real ones,
and a volume in a storage that knows nothing of owners; `ExposerWorld.left` says which jobs' volumes were not removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Generic

import msgspec

from agent.base.clock import Clock
from agent.base.errors import ExposeError, KubeAlreadyExists, KubeConflict, KubeNotFound, PodBroken
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.leftovers import SweepReport
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key, ObjectMeta, OwnerReference
from agent.kube.names import valid_name
from agent.kube.pods import Container, Pod, PodSpec
from agent.kube.resource import PODS, Resource
from agent.kube.volumes import VolumeMode


class ExposeScript(msgspec.Struct, frozen=True):
    """How a volume behaves."""

    node: str
    seconds: float = 2.0
    """Until it is accessible."""
    error: ExposeError | None = None
    """Instead of becoming accessible."""
    finish_error: ExposeError | None = None
    """Instead of being handed over."""
    clean_up_seconds: float = 1.0


class ExposerWorld(msgspec.Struct):
    """What all fake exposers of a kind share: the storage and the kubelets, which know objects by their uid."""

    script: Callable[[Key], ExposeScript]
    volumes: dict[str, Key] = msgspec.field(default_factory=dict)
    """In the storage, by the uid of the job they were made for."""
    running_since: dict[str, float] = msgspec.field(default_factory=dict)
    cleaning_since: dict[str, float] = msgspec.field(default_factory=dict)
    finished: set[Key] = msgspec.field(default_factory=set)
    cleaned: set[Key] = msgspec.field(default_factory=set)
    """Jobs that were cleaned up to the end, also those for which nothing was made: Velero may have made something."""

    @property
    def left(self) -> set[Key]:
        """Jobs whose volumes exist."""
        return set(self.volumes.values())


class FakeExposer(Generic[ObjectT]):
    """The exposer of one kind in one agent."""

    def __init__(self, world: ExposerWorld, api: KubeApi, clock: Clock, label: str) -> None:
        self._world = world
        self._api = api
        self._clock = clock
        self._label = label

    async def advance(self, job: ObjectT) -> Waiting | Ready | Broken:
        """Make volume and pod; ready after the script's time."""
        world, uid, script = self._world, job.metadata.uid, self._world.script(job.key)
        try:
            pod = await self._api.get(PODS, self._pod_key(job))
        except KubeNotFound:
            return await self._make(job, script.node)
        if not any(owner.uid == uid for owner in pod.metadata.owner_references):
            return Waiting("a pod of an earlier object of this name is still there")
        if self._clock.monotonic() - world.running_since.setdefault(uid, self._clock.monotonic()) < script.seconds:
            return Waiting("the volume is being made", script.node)
        if script.error is not None:
            return Broken(script.error)
        if uid not in world.volumes:
            return Broken(PodBroken("the volume was removed"))
        return Ready(
            node=script.node, mode=VolumeMode.FILESYSTEM, path=f"/fake/{job.metadata.name}", runner=Runner.LOCAL
        )

    async def _make(self, job: ObjectT, node: str) -> Waiting | Broken:
        if isinstance(job, DataUpload | DataDownload) and job.status.node:
            return Broken(PodBroken("the pod that held the volume is gone"))
        world, uid = self._world, job.metadata.uid
        world.volumes[uid] = job.key
        with contextlib.suppress(KubeAlreadyExists):
            await self._api.create(PODS, self._pod(job, node))
        world.running_since[uid] = self._clock.monotonic()
        return Waiting("the pod starts")

    async def finish(self, job: ObjectT) -> Waiting | Done | Broken:
        """Remember it."""
        script = self._world.script(job.key)
        if script.finish_error is not None:
            return Broken(script.finish_error)
        self._world.finished.add(job.key)
        return Done()

    async def clean_up(self, job: ObjectT) -> Waiting | Done:
        """Remove the pod, then the volume, which takes a while."""
        world, uid, now = self._world, job.metadata.uid, self._clock.monotonic()
        with contextlib.suppress(KubeNotFound, KubeConflict):
            pod = await self._api.get(PODS, self._pod_key(job))
            if any(owner.uid == uid for owner in pod.metadata.owner_references):
                await self._api.delete(PODS, pod.key, uid=pod.metadata.uid)
        if uid not in world.volumes:
            world.cleaned.add(job.key)
            return Done()
        since = world.cleaning_since.setdefault(uid, now)
        if now - since < world.script(job.key).clean_up_seconds:
            return Waiting("the pod ends")
        del world.volumes[uid]
        world.cleaned.add(job.key)
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
        holder = Container(name="hold", image="none")
        spec = PodSpec(containers=(holder,), node_name=node, termination_grace_period_seconds=0)
        return Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec)


class FakeLeftovers(Generic[ObjectT]):
    """Removes volumes in the storage whose objects do not exist any more."""

    def __init__(self, world: ExposerWorld, api: KubeApi, resource: Resource[ObjectT], namespace: str) -> None:
        self._world = world
        self._api = api
        self._resource = resource
        self._namespace = namespace

    async def sweep(self) -> SweepReport:
        """A volume is left when no object has the uid that it was made for."""
        gone, token = set(self._world.volumes), ""
        while True:
            page = await self._api.list(self._resource, self._namespace, continue_token=token)
            gone -= {job.metadata.uid for job in page.items}
            token = page.continue_token
            if not token:
                break
        for uid in gone:
            self._world.volumes.pop(uid, None)
        return SweepReport(going=tuple(sorted(gone)))

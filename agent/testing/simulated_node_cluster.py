"""What scheduler and kubelets of a simulation see of the cluster and do to it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from agent.base.clock import Clock
from agent.base.errors import KubeAlreadyExists, KubeConflict, KubeNotFound
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import Transport
from agent.kube.api import KubeApi
from agent.kube.cluster import Event, EventSource
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.informer import Informer, InformerOptions
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import Pod
from agent.kube.resource import (
    EVENTS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
    Resource,
)
from agent.kube.times import time_from_ns
from agent.kube.volumes import (
    AttachmentSource,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    VolumeAttachment,
    VolumeAttachmentSpec,
)

_RESYNC_SECONDS = 2.0


class ClusterView:
    """The kinds that decide where pods go and how they run, followed; and the few writes of scheduler and kubelet."""

    def __init__(self, api: AioKubeApi, transport: Transport, clock: Clock, rng: random.Random) -> None:
        self.api: KubeApi = api
        self.clock = clock
        self._transport = transport
        self._rng = rng
        self.pods = self._informer(PODS)
        self.nodes = self._informer(NODES)
        self.claims = self._informer(PERSISTENT_VOLUME_CLAIMS)
        self.volumes = self._informer(PERSISTENT_VOLUMES)
        self.classes = self._informer(STORAGE_CLASSES)

    def _informer(self, resource: Resource[ObjectT]) -> Informer[ObjectT]:
        options = InformerOptions(resync=_RESYNC_SECONDS)
        return Informer(self.api, resource, self.clock, self._rng, options=options)

    @property
    def informers(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What has to run."""
        return (self.pods.run, self.nodes.run, self.claims.run, self.volumes.run, self.classes.run)

    async def wait_synced(self) -> None:
        """Wait until all kinds have been listed."""
        for informer in (self.nodes, self.claims, self.volumes, self.classes, self.pods):
            await informer.wait_synced()

    def claim_of(self, pod: Pod, volume: dict[str, object]) -> Key | None:
        """The claim behind a volume of a pod; None when it is none."""
        source, name = volume.get("persistentVolumeClaim"), volume.get("name")
        if isinstance(source, dict):
            return Key(pod.metadata.namespace, str(source.get("claimName")))
        return Key(pod.metadata.namespace, f"{pod.metadata.name}-{name}") if "ephemeral" in volume else None

    def bound(self, claim: PersistentVolumeClaim) -> PersistentVolume | None:
        """The volume of a claim, once both sides say so."""
        volume = self.volumes.store.get(Key("", claim.spec.volume_name)) if claim.spec.volume_name else None
        return volume if volume is not None and claim.status.phase == "Bound" else None

    async def bind(self, pod: Pod, node: str) -> None:
        """Give a pod its node, once."""
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.metadata.name, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._transport.request("bind a pod", "POST", _path(pod) + "/binding", body=body)
        except (KubeConflict, KubeNotFound):
            return

    async def remove(self, pod: Pod) -> None:
        """Say that a pod which is being deleted has ended."""
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod.metadata.uid},
        }
        try:
            await self._transport.request("remove a pod", "DELETE", _path(pod), body=body)
        except (KubeConflict, KubeNotFound):
            return

    async def set_status(self, pod: Pod, status: JsonObject) -> None:
        """Write what is known of a pod; one that is gone has no status."""
        try:
            await self.api.patch(PODS, pod.key, {"metadata": {"uid": pod.metadata.uid}, "status": status}, status=True)
        except (KubeConflict, KubeNotFound):
            return

    async def attach(self, volume: PersistentVolume, node: str) -> None:
        """Record that a CSI volume is attached to a node, as its attacher does for drivers that need one."""
        if volume.spec.csi is None:
            return
        attachment = VolumeAttachment(
            api_version=VOLUME_ATTACHMENTS.api_version,
            kind="VolumeAttachment",
            metadata=ObjectMeta(name=_attachment(volume.metadata.name, node)),
            spec=VolumeAttachmentSpec(
                attacher=volume.spec.csi.driver,
                node_name=node,
                source=AttachmentSource(persistent_volume_name=volume.metadata.name),
            ),
        )
        try:
            made = await self.api.create(VOLUME_ATTACHMENTS, attachment)
            await self.api.patch(VOLUME_ATTACHMENTS, made.key, {"status": {"attached": True}}, status=True)
        except (KubeAlreadyExists, KubeNotFound):
            return

    async def detach(self, volume: str, node: str) -> None:
        """Record that a volume is attached no more."""
        try:
            await self.api.delete(VOLUME_ATTACHMENTS, Key("", _attachment(volume, node)))
        except KubeNotFound:
            return

    async def tell(self, pod: Pod, reason: str, message: str, component: str) -> None:
        """An event about a pod; the same one is told once."""
        now = time_from_ns(self.clock.now_ns())
        name = f"{pod.metadata.name}.{abs(hash((pod.metadata.uid, reason, message))):016x}"
        event = Event(
            api_version="v1",
            kind="Event",
            metadata=ObjectMeta(name=name, namespace=pod.metadata.namespace),
            involved_object=ObjectReference(
                kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
            ),
            type="Warning",
            reason=reason,
            message=message[:1024],
            source=EventSource(component=component),
            count=1,
            first_timestamp=now,
            last_timestamp=now,
        )
        try:
            await self.api.create(EVENTS, event)
        except (KubeAlreadyExists, KubeNotFound):
            return


def now_text() -> str:
    """The time as status fields have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _attachment(volume: str, node: str) -> str:
    return "csi-" + hashlib.sha256(f"{volume}/{node}".encode()).hexdigest()


def _path(pod: Pod) -> str:
    return PODS.path(pod.metadata.namespace, pod.metadata.name)

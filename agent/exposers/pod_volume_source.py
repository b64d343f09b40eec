"""Which folder of the node a pod's volume is, by the pod's own objects (contract §3.3, steps 1 to 3).

The kubelet names the folder by the volume in the pod, or by the PersistentVolume where there is a claim. A generic
ephemeral volume has a claim too, called `<pod>-<volume>` and owned by the pod. Which plug-in mounted it, and so whether
it lies one folder deeper, is seen on the node (`host_path`): no driver and no annotation has to be asked about.
"""

from __future__ import annotations

import msgspec

from agent.base.errors import ExposeError, ExposeUnsupported, KubeNotFound, SourceGone, VolumeNotMounted
from agent.exposers.contract import Broken, Waiting
from agent.exposers.host_path import NodeVolumes
from agent.kube.api import KubeApi
from agent.kube.job import PodReference
from agent.kube.meta import Key
from agent.kube.pods import Pod, PodPhase, PodVolume
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PODS
from agent.kube.volumes import VolumeMode


class PodVolumeFolder(msgspec.Struct, frozen=True):
    """What `NodeVolumes.find` takes."""

    pod_uid: str
    name: str
    mode: VolumeMode


class MountedVolume(msgspec.Struct, frozen=True):
    """A pod's volume on this node."""

    pod: Pod
    path: str
    mode: VolumeMode


async def referenced_pod(api: KubeApi, reference: PodReference) -> Pod:
    """The pod that a PodVolumeBackup or PodVolumeRestore is about; `SourceGone` when it is not there any more."""
    key = Key(reference.namespace, reference.name)
    try:
        pod = await api.get(PODS, key)
    except KubeNotFound as error:
        raise SourceGone(f"the pod {key} does not exist any more") from error
    if reference.uid and pod.metadata.uid != reference.uid:
        raise SourceGone(f"the pod {key} was made anew: it is {pod.metadata.uid} and no longer {reference.uid}")
    return pod


async def volume_folder(api: KubeApi, pod: Pod, volume: str) -> PodVolumeFolder | Waiting:
    """The folder of a volume of a pod. `SourceGone` and `ExposeUnsupported` are definite."""
    what = f"the volume {volume!r} of the pod {pod.key}"
    try:
        source = pod.spec.volume(volume)
    except msgspec.ValidationError as error:
        raise ExposeUnsupported(f"{what} is of a kind that cannot be read: {error}") from error
    if source is None:
        raise SourceGone(f"{what} does not exist: the pod has no volume of that name")
    if source.host_path is not None:
        raise ExposeUnsupported(f"{what} is a folder of the node (hostPath), which is not among the pod's own volumes")
    claim = _claim_name(pod, source)
    if not claim:
        return PodVolumeFolder(pod.metadata.uid, volume, VolumeMode.FILESYSTEM)
    return await _claimed_folder(api, pod, source, Key(pod.metadata.namespace, claim), what)


async def mounted_volume(
    api: KubeApi, volumes: NodeVolumes, node: str, reference: PodReference, volume: str
) -> MountedVolume | Waiting | Broken:
    """A volume of a pod of this node as the agent sees it. What a started pod does not have mounted is `Broken`."""
    try:
        pod = await referenced_pod(api, reference)
        _check_node(pod, node)
        folder = await volume_folder(api, pod, volume)
        if isinstance(folder, Waiting):
            return folder
        path = await volumes.find(folder.pod_uid, folder.name, folder.mode)
    except VolumeNotMounted as error:
        return Broken(error) if _has_started(pod) else Waiting(str(error))
    except ExposeError as error:
        return Broken(error)
    return MountedVolume(pod, path, folder.mode)


def _claim_name(pod: Pod, source: PodVolume) -> str:
    if source.persistent_volume_claim is not None:
        return source.persistent_volume_claim.claim_name
    return f"{pod.metadata.name}-{source.name}" if source.ephemeral is not None else ""


async def _claimed_folder(api: KubeApi, pod: Pod, source: PodVolume, key: Key, what: str) -> PodVolumeFolder | Waiting:
    try:
        claim = await api.get(PERSISTENT_VOLUME_CLAIMS, key)
    except KubeNotFound as error:
        raise SourceGone(f"{what} has no claim any more: {key} does not exist") from error
    owners = {owner.uid for owner in claim.metadata.owner_references}
    if source.ephemeral is not None and pod.metadata.uid not in owners:
        raise SourceGone(f"{what} has no claim of its own: {key} belongs to somebody else")
    if not claim.spec.volume_name:
        return Waiting(f"the claim {key} has no volume yet")
    return PodVolumeFolder(pod.metadata.uid, claim.spec.volume_name, claim.spec.volume_mode)


def _check_node(pod: Pod, node: str) -> None:
    if pod.status.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}:
        raise SourceGone(f"the pod {pod.key} has ended ({pod.status.phase}), and its volumes are not mounted any more")
    if pod.spec.node_name and pod.spec.node_name != node:
        raise SourceGone(f"the pod {pod.key} runs on {pod.spec.node_name} and not on {node}")


def _has_started(pod: Pod) -> bool:
    """Whether the kubelet has mounted all volumes of the pod, which it does before any container starts."""
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return any(status.state.running is not None or status.state.terminated is not None for status in statuses)

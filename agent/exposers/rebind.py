"""From the claim that a restore filled to the claim of the user (contract §3.2, step 7), or away with the volume.

    the volume is marked and kept (Retain) -> our pod goes -> it is attached nowhere -> our claim goes
    -> the user's claim names the volume -> the volume names the user's claim -> both are Bound -> the mark goes

The mark, written in the same request that makes the volume outlive our claim, is all that is remembered: whose it is,
what its reclaim policy was, for which claim it is meant. So an agent that starts later goes on wherever an earlier one
ended, also without the DataDownload. From the moment that the user's claim names the volume it is the user's, and what
is left of the steps is done even for a restore that is taken back; before that, the volume is deleted.
"""

from __future__ import annotations

import msgspec

from agent.base.errors import KubeInvalid, RebindFailed
from agent.exposers.contract import Broken, Done, Waiting
from agent.exposers.discard import discard
from agent.exposers.made import every, find, is_made_for, made_for, request_removal
from agent.exposers.rebind_mark import MARK_ANNOTATION, RESTORED_ANNOTATION, Mark, mark_of
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.data_download import DataDownload
from agent.kube.meta import Key
from agent.kube.names import JOB_UID_LABEL
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTACHMENTS
from agent.kube.selector import Selector
from agent.kube.volumes import ObjectReference, PersistentVolume, PersistentVolumeClaim, ReclaimPolicy

_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"


def target_of(job: DataDownload) -> Key:
    """The user's claim that waits for the data."""
    return Key(job.spec.target_volume.namespace, job.spec.target_volume.pvc)


async def our_claim(api: KubeApi, job: DataDownload) -> PersistentVolumeClaim | None:
    """The claim that is restored to; it has the name of its DataDownload."""
    found = await find(api, PERSISTENT_VOLUME_CLAIMS, job.key)
    return found if found is not None and is_made_for(found, job) else None


async def tracked_volumes(api: KubeApi, job: DataDownload) -> list[PersistentVolume]:
    """Those of a DataDownload that are on their way to somewhere; there are two at most."""
    return [volume async for volume in every(api, PERSISTENT_VOLUMES, selector=Selector(labels=made_for(job)))]


async def hand_over(api: KubeApi, job: DataDownload) -> Waiting | Done | Broken:
    """The next steps towards a user's claim that is bound to the restored volume."""
    ours = await our_claim(api, job)
    target = await find(api, PERSISTENT_VOLUME_CLAIMS, target_of(job))
    if target is None:
        return _broken(f"the claim {target_of(job)} that waits for the restored volume does not exist any more")
    volume = await _volume(api, job, ours)
    if volume is None:
        return await _arrived(api, job, target)
    obstacle = _obstacle(job, ours, volume, target)
    if obstacle:
        return _broken(obstacle)
    if mark_of(volume) is None and ours is not None:
        volume = await _mark(api, job, ours, volume, target)
    if ours is not None and (waiting := await _let_go(api, job, ours, volume.metadata.name)) is not None:
        return waiting
    return await complete(api, volume, target)


def _obstacle(
    job: DataDownload, ours: PersistentVolumeClaim | None, volume: PersistentVolume, target: PersistentVolumeClaim
) -> str:
    """Why the claim and the volume can never come together; empty when they can."""
    name = volume.metadata.name
    if target.spec.volume_name not in {"", name}:
        return f"the claim {target.key} was bound to {target.spec.volume_name} meanwhile"
    if not target.spec.volume_name and target.metadata.deletion_timestamp is not None:
        return f"the claim {target.key} that waits for the restored volume is being deleted"
    if mark_of(volume) is None and (ours is None or JOB_UID_LABEL in volume.metadata.labels):
        return f"the restored volume {name} is being deleted already"
    return ""


async def complete(api: KubeApi, volume: PersistentVolume, target: PersistentVolumeClaim) -> Waiting | Done | Broken:
    """The steps after our claim has gone, for a marked volume."""
    name = volume.metadata.name
    try:
        if not target.spec.volume_name:
            target = await _point_to(api, target, name)
        if not _is_claimed_by(volume, target):
            volume = await _claim(api, volume, target)
    except KubeInvalid as error:
        return _broken(f"the API server does not let {target.key} be bound to the restored volume {name}: {error}")
    if target.status.phase == "Lost":
        return _broken(f"the claim {target.key} has lost its volume {name}")
    if not (_is_claimed_by(volume, target, by_uid=True) and target.status.phase == volume.status.phase == "Bound"):
        return Waiting(f"the claim {target.key} is being bound to the restored volume {name}")
    await release(api, volume)
    return Done()


async def release(api: KubeApi, volume: PersistentVolume) -> None:
    """Take the mark away and give the volume its reclaim policy back: it is the user's."""
    mark = mark_of(volume)
    restore = volume.metadata.labels.get(JOB_UID_LABEL)
    patch: JsonObject = {
        "metadata": {
            "labels": {JOB_UID_LABEL: None},
            "annotations": {MARK_ANNOTATION: None, RESTORED_ANNOTATION: restore},
        }
    }
    if mark is not None:
        patch["spec"] = {"persistentVolumeReclaimPolicy": mark.reclaim_policy.value}
    await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)


async def settle(api: KubeApi, volume: PersistentVolume, namespace: str) -> Waiting | Done:
    """End the way of a tracked volume, whether its restore and our claim, in Velero's `namespace`, exist or not.

    One that is the user's is handed over to the end; one of ours is deleted, with what the storage keeps for it.
    """
    mark = mark_of(volume)
    target = None if mark is None else await find(api, PERSISTENT_VOLUME_CLAIMS, mark.target)
    if target is not None and target.spec.volume_name == volume.metadata.name:
        state = await complete(api, volume, target)
        if isinstance(state, Broken):
            await release(api, volume)
            return Done()
        return state
    reference = volume.spec.claim_ref
    if mark is None and (reference is None or reference.namespace != namespace):
        return Done()  # it has our label, but never was a claim's of ours
    await discard(api, volume, volume.metadata.labels)
    return Waiting(f"the storage deletes the volume {volume.metadata.name}")


async def _volume(api: KubeApi, job: DataDownload, ours: PersistentVolumeClaim | None) -> PersistentVolume | None:
    """The restored volume: that of our claim, or the marked one when the claim is gone."""
    if ours is not None:
        name = ours.spec.volume_name
        return await find(api, PERSISTENT_VOLUMES, Key("", name)) if name else None
    marked = [volume for volume in await tracked_volumes(api, job) if mark_of(volume) is not None]
    return marked[0] if marked else None


async def _arrived(api: KubeApi, job: DataDownload, target: PersistentVolumeClaim) -> Done | Broken:
    """Whether there is no volume of ours because the user has it."""
    name = target.spec.volume_name
    volume = await find(api, PERSISTENT_VOLUMES, Key("", name)) if name else None
    if volume is not None and volume.metadata.annotations.get(RESTORED_ANNOTATION) == job.metadata.uid:
        return Done()
    return _broken(f"the volume that was restored for the claim {target.key} does not exist any more")


async def _mark(
    api: KubeApi,
    job: DataDownload,
    ours: PersistentVolumeClaim,
    volume: PersistentVolume,
    target: PersistentVolumeClaim,
) -> PersistentVolume:
    mark = Mark(
        volume_uid=volume.metadata.uid,
        reclaim_policy=volume.spec.persistent_volume_reclaim_policy,
        claim_namespace=ours.metadata.namespace,
        claim_name=ours.metadata.name,
        claim_uid=ours.metadata.uid,
        target_namespace=target.metadata.namespace,
        target_name=target.metadata.name,
    )
    patch: JsonObject = {
        "metadata": {
            "labels": {**made_for(job)},
            "annotations": {MARK_ANNOTATION: msgspec.json.encode(mark).decode()},
        },
        "spec": {"persistentVolumeReclaimPolicy": ReclaimPolicy.RETAIN.value},
    }
    return await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)


async def _let_go(api: KubeApi, job: DataDownload, ours: PersistentVolumeClaim, volume: str) -> Waiting | None:
    """Our pod, then the attachment, then our claim; None when none of them is left."""
    pod = await find(api, PODS, job.key)
    if pod is not None and is_made_for(pod, job):
        await request_removal(api, PODS, pod)
        if await find(api, PODS, job.key) is not None:
            return Waiting(f"the pod {job.key} that mounted the restored volume ends")
    if await _is_attached(api, volume):
        return Waiting(f"the restored volume {volume} is still attached to a node")
    await request_removal(api, PERSISTENT_VOLUME_CLAIMS, ours)
    if await our_claim(api, job) is not None:
        return Waiting(f"the claim {ours.key} that was restored to goes")
    return None


async def _is_attached(api: KubeApi, volume: str) -> bool:
    async for attachment in every(api, VOLUME_ATTACHMENTS):
        if attachment.spec.source.persistent_volume_name == volume:
            return True
    return False


async def _point_to(api: KubeApi, target: PersistentVolumeClaim, volume: str) -> PersistentVolumeClaim:
    patch: JsonObject = {
        "metadata": {"annotations": {_BIND_COMPLETED: None, _BOUND_BY_CONTROLLER: None}},
        "spec": {"volumeName": volume},
    }
    return await api.patch(
        PERSISTENT_VOLUME_CLAIMS, target.key, patch, resource_version=target.metadata.resource_version
    )


def _is_claimed_by(volume: PersistentVolume, target: PersistentVolumeClaim, *, by_uid: bool = False) -> bool:
    """Whether the volume is for this claim; it is for it `by_uid` once the cluster has seen that both fit."""
    reference = volume.spec.claim_ref or ObjectReference()
    uids = {target.metadata.uid} if by_uid else {"", target.metadata.uid}
    return Key(reference.namespace, reference.name) == target.key and reference.uid in uids


async def _claim(api: KubeApi, volume: PersistentVolume, target: PersistentVolumeClaim) -> PersistentVolume:
    """The volume for the user's claim, with the labels by which that claim and Velero's server find it."""
    selector = target.spec.selector
    patch: JsonObject = {
        "metadata": {
            "labels": dict(selector.match_labels) if selector is not None else {},
            "annotations": {_BOUND_BY_CONTROLLER: None},
        },
        "spec": {
            "claimRef": {
                "apiVersion": None,
                "kind": "PersistentVolumeClaim",
                "namespace": target.metadata.namespace,
                "name": target.metadata.name,
                "uid": None,
                "resourceVersion": None,
            }
        },
    }
    return await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)


def _broken(why: str) -> Broken:
    return Broken(RebindFailed(why, hint="the restored data is lost with its volume: restore once more"))

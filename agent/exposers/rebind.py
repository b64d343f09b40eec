"""From the claim that a restore filled to the claim of the user (contract §3.2, step 7), or away with the volume.

    the volume is marked and kept (Retain) -> our pod goes -> it is attached nowhere -> our claim goes
    -> the user's claim names the volume -> the volume names the user's claim -> both are Bound -> the mark goes

The mark, written in the same request that makes the volume outlive our claim, is all that is remembered: whose it is,
what its reclaim policy was, for which claim it is meant. So an agent that starts later goes on wherever an earlier one
ended, also without the DataDownload. From the moment that the user's claim names the volume it is the user's, and what
is left of the steps is done even for a restore that is taken back; before that, the volume is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from agent.base.errors import KubeInvalid, KubeNotFound, RebindFailed
from agent.exposers.contract import Broken, Done, Waiting
from agent.exposers.owned import find_owned, remove_owned
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.names import JOB_UID_LABEL
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTACHMENTS
from agent.kube.selector import Selector
from agent.kube.volumes import ObjectReference, PersistentVolume, PersistentVolumeClaim, ReclaimPolicy

MARK_ANNOTATION: Final = "lighterage.io/rebind"
"""On a PersistentVolume that is on its way to its user: a `Mark`."""
RESTORED_ANNOTATION: Final = "lighterage.io/restored-by"
"""On one that has arrived: uid of the DataDownload. It stays, while the label `JOB_UID_LABEL` goes."""

_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who hands over to whom."""

    restore: str
    """Uid of the DataDownload."""
    ours: Key
    """Of the claim that was filled, and of the pod that mounted it."""
    target: Key
    """Of the user's claim."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known of a volume whose claim of ours may be gone."""

    reclaim_policy: ReclaimPolicy
    """What it was, and shall be again."""
    claim_namespace: str
    claim_name: str
    claim_uid: str
    target_namespace: str
    target_name: str

    @property
    def target(self) -> Key:
        """Of the user's claim."""
        return Key(self.target_namespace, self.target_name)


def mark_of(volume: PersistentVolume) -> Mark | None:
    """The mark of a volume; None when it has none, or one that is not ours."""
    try:
        return msgspec.json.decode(volume.metadata.annotations.get(MARK_ANNOTATION, ""), type=Mark)
    except (msgspec.MsgspecError, ValueError):
        return None


async def tracked_volumes(api: KubeApi, restore: str) -> tuple[PersistentVolume, ...]:
    """Those of a DataDownload that are on their way to somewhere."""
    page = await api.list(PERSISTENT_VOLUMES, selector=Selector(labels={JOB_UID_LABEL: restore}))
    return page.items


async def hand_over(api: KubeApi, parties: Parties) -> Waiting | Done | Broken:
    """The next steps towards a user's claim that is bound to the restored volume."""
    ours = await find_owned(api, PERSISTENT_VOLUME_CLAIMS, parties.ours, parties.restore)
    try:
        target = await api.get(PERSISTENT_VOLUME_CLAIMS, parties.target)
    except KubeNotFound:
        return _broken(f"the claim {parties.target} that waits for the restored volume does not exist any more")
    volume = await _volume(api, parties, ours)
    if volume is None:
        return await _arrived(api, parties, target)
    obstacle = _obstacle(parties, ours, volume, target)
    if obstacle:
        return _broken(obstacle)
    if mark_of(volume) is None and ours is not None:
        volume = await _mark(api, parties, ours, volume)
    if ours is not None and (waiting := await _let_go(api, parties, ours, volume.metadata.name)) is not None:
        return waiting
    return await complete(api, volume, target)


def _obstacle(
    parties: Parties, ours: PersistentVolumeClaim | None, volume: PersistentVolume, target: PersistentVolumeClaim
) -> str:
    """Why the claim and the volume can never come together; empty when they can."""
    name = volume.metadata.name
    if target.spec.volume_name not in {"", name}:
        return f"the claim {parties.target} was bound to {target.spec.volume_name} meanwhile"
    if not target.spec.volume_name and target.metadata.deletion_timestamp is not None:
        return f"the claim {parties.target} that waits for the restored volume is being deleted"
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


async def is_the_users(api: KubeApi, volume: PersistentVolume) -> PersistentVolumeClaim | None:
    """The user's claim, if it names this marked volume."""
    mark = mark_of(volume)
    if mark is None:
        return None
    try:
        target = await api.get(PERSISTENT_VOLUME_CLAIMS, mark.target)
    except KubeNotFound:
        return None
    return target if target.spec.volume_name == volume.metadata.name else None


async def settle(api: KubeApi, volume: PersistentVolume) -> Waiting | Done:
    """End the way of a tracked volume, whether its restore and our claim exist or not.

    One that is the user's is handed over to the end; any other is deleted, with what the storage keeps for it.
    """
    target = await is_the_users(api, volume)
    if target is not None:
        state = await complete(api, volume, target)
        if isinstance(state, Broken):
            await release(api, volume)
            return Done()
        return state
    await discard(api, volume, volume.metadata.labels[JOB_UID_LABEL])
    return Waiting(f"the storage deletes the volume {volume.metadata.name}")


async def discard(api: KubeApi, volume: PersistentVolume, restore: str) -> None:
    """Have a volume deleted as soon as our claim is gone, and say so on it; it does not need the claim for that."""
    mark = mark_of(volume)
    spec: JsonObject = {}
    if volume.spec.persistent_volume_reclaim_policy is not ReclaimPolicy.DELETE:
        spec["persistentVolumeReclaimPolicy"] = ReclaimPolicy.DELETE.value
    if mark is not None and (volume.spec.claim_ref is None or volume.spec.claim_ref.uid != mark.claim_uid):
        # Only a volume whose claim is gone by uid becomes Released, and only what is Released is deleted.
        spec["claimRef"] = {
            "kind": "PersistentVolumeClaim",
            "namespace": mark.claim_namespace,
            "name": mark.claim_name,
            "uid": mark.claim_uid,
            "resourceVersion": None,
        }
    if not spec and mark is None and volume.metadata.labels.get(JOB_UID_LABEL) == restore:
        return
    patch: JsonObject = {"metadata": {"labels": {JOB_UID_LABEL: restore}, "annotations": {MARK_ANNOTATION: None}}}
    if spec:
        patch["spec"] = spec
    await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)


async def _volume(api: KubeApi, parties: Parties, ours: PersistentVolumeClaim | None) -> PersistentVolume | None:
    """The restored volume: that of our claim, or the marked one when the claim is gone."""
    if ours is not None:
        if not ours.spec.volume_name:
            return None
        try:
            return await api.get(PERSISTENT_VOLUMES, Key("", ours.spec.volume_name))
        except KubeNotFound:
            return None
    marked = [volume for volume in await tracked_volumes(api, parties.restore) if mark_of(volume) is not None]
    return marked[0] if marked else None


async def _arrived(api: KubeApi, parties: Parties, target: PersistentVolumeClaim) -> Done | Broken:
    """Whether there is no volume of ours because the user has it."""
    if target.spec.volume_name:
        try:
            volume = await api.get(PERSISTENT_VOLUMES, Key("", target.spec.volume_name))
        except KubeNotFound:
            volume = None
        if volume is not None and volume.metadata.annotations.get(RESTORED_ANNOTATION) == parties.restore:
            return Done()
    return _broken(f"the volume that was restored for the claim {parties.target} does not exist any more")


async def _mark(
    api: KubeApi, parties: Parties, ours: PersistentVolumeClaim, volume: PersistentVolume
) -> PersistentVolume:
    mark = Mark(
        reclaim_policy=volume.spec.persistent_volume_reclaim_policy,
        claim_namespace=parties.ours.namespace,
        claim_name=parties.ours.name,
        claim_uid=ours.metadata.uid,
        target_namespace=parties.target.namespace,
        target_name=parties.target.name,
    )
    patch: JsonObject = {
        "metadata": {
            "labels": {JOB_UID_LABEL: parties.restore},
            "annotations": {MARK_ANNOTATION: msgspec.json.encode(mark).decode()},
        },
        "spec": {"persistentVolumeReclaimPolicy": ReclaimPolicy.RETAIN.value},
    }
    return await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)


async def _let_go(api: KubeApi, parties: Parties, ours: PersistentVolumeClaim, volume: str) -> Waiting | None:
    """Our pod, then the attachment, then our claim; None when none of them is left."""
    if not await remove_owned(api, PODS, parties.ours, parties.restore):
        return Waiting(f"the pod {parties.ours} that mounted the restored volume ends")
    if await _is_attached(api, volume):
        return Waiting(f"the restored volume {volume} is still attached to a node")
    if not await remove_owned(api, PERSISTENT_VOLUME_CLAIMS, ours.key, parties.restore):
        return Waiting(f"the claim {parties.ours} that was restored to goes")
    return None


async def _is_attached(api: KubeApi, volume: str) -> bool:
    token = ""
    while True:
        page = await api.list(VOLUME_ATTACHMENTS, continue_token=token)
        if any(attachment.spec.source.persistent_volume_name == volume for attachment in page.items):
            return True
        token = page.continue_token
        if not token:
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

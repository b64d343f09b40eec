"""Claims of ours and their volumes deleted, whatever their class says of volumes without a claim."""

from __future__ import annotations

from agent.exposers.made import find, request_removal
from agent.exposers.rebind_mark import MARK_ANNOTATION, mark_of
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from agent.kube.volumes import PersistentVolume, PersistentVolumeClaim, ReclaimPolicy


async def volume_of(api: KubeApi, claim: PersistentVolumeClaim) -> PersistentVolume | None:
    """The claim's volume, also one that was made for it and is not bound to it yet."""
    name = claim.spec.volume_name or f"pvc-{claim.metadata.uid}"  # the provisioners' own rule
    volume = await find(api, PERSISTENT_VOLUMES, Key("", name))
    reference = volume.spec.claim_ref if volume is not None else None
    return volume if reference is not None and reference.uid == claim.metadata.uid else None


async def throw_away(api: KubeApi, claim: PersistentVolumeClaim, labels: dict[str, str]) -> None:
    """Have a claim of ours deleted with its volume.

    The labels say whose the volume is (`made_for`), once the claim does not.
    """
    volume = await volume_of(api, claim)
    if volume is not None:
        await discard(api, volume, labels)
    await request_removal(api, PERSISTENT_VOLUME_CLAIMS, claim, unchanged=True)


async def discard(api: KubeApi, volume: PersistentVolume, labels: dict[str, str]) -> None:
    """Have a volume deleted as soon as our claim is gone. The labels say whose it is, once the claim does not."""
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
    if not spec and mark is None and labels.items() <= volume.metadata.labels.items():
        return
    patch: JsonObject = {"metadata": {"labels": {**labels}, "annotations": {MARK_ANNOTATION: None}}}
    if spec:
        patch["spec"] = spec
    await api.patch(PERSISTENT_VOLUMES, volume.key, patch, resource_version=volume.metadata.resource_version)

"""The claims that a restore makes: one like the user's, to fill, and one for the caches of a mover pod (§3.2)."""

from __future__ import annotations

from typing import Final

from agent.exposers.hosting_pod import owner_of
from agent.exposers.made import made_for
from agent.kube.agent_config import AgentConfig
from agent.kube.data_download import DataDownload
from agent.kube.meta import Key, KubeObject, ObjectMeta
from agent.kube.volumes import (
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    ResourceRequests,
)

SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
"""Annotation of a claim: where the scheduler put the first pod that uses it."""

_BINDING = frozenset({"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"})
_MIB = 1 << 20
_GIB = 1 << 30


def cache_key(job: KubeObject) -> Key:
    """Of the claim for caches."""
    return Key(job.metadata.namespace, f"{job.metadata.name}-cache")


def wants_cache(config: AgentConfig, snapshot_size: int) -> bool:
    """Whether a mover pod gets a volume for its caches; a size of 0 is one that nobody knows."""
    cache = config.cache_pvc
    return bool(cache.storage_class) and (snapshot_size == 0 or snapshot_size >= cache.resident_threshold_mb * _MIB)


def restore_claim(job: DataDownload, target: PersistentVolumeClaim, node: str) -> PersistentVolumeClaim:
    """A claim of the same shape as the user's, without what keeps provisioners away; on `node` if one is selected."""
    annotations = {key: value for key, value in target.metadata.annotations.items() if key not in _BINDING}
    spec = target.spec
    return PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=ObjectMeta(
            name=job.metadata.name,
            namespace=job.metadata.namespace,
            labels={**target.metadata.labels, **made_for(job)},
            annotations={SELECTED_NODE: node} if node else annotations,
            owner_references=(owner_of(job),),
        ),
        spec=PersistentVolumeClaimSpec(
            access_modes=spec.access_modes,
            storage_class_name=spec.storage_class_name,
            volume_mode=spec.volume_mode,
            resources=spec.resources,
        ),
    )


def cache_claim(job: KubeObject, storage_class: str, limit_mb: int, node: str = "") -> PersistentVolumeClaim:
    """A claim with room for the repository's cache limit and a fifth more, in whole GiB.

    `node` is for pods that no scheduler sees, which would tell the provisioner where they are.
    """
    size = -(-limit_mb * _MIB * 6 // 5 // _GIB)
    key = cache_key(job)
    return PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=ObjectMeta(
            name=key.name,
            namespace=key.namespace,
            labels=made_for(job),
            annotations={SELECTED_NODE: node} if node else {},
            owner_references=(owner_of(job),),
        ),
        spec=PersistentVolumeClaimSpec(
            access_modes=("ReadWriteOnce",),
            storage_class_name=storage_class,
            resources=ResourceRequests(requests={"storage": f"{max(size, 1)}Gi"}),
        ),
    )

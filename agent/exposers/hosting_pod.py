"""The pods that hold volumes (contract §3.1 "backupPod", §3.2, §3.3), in two flavours of one shape.

A *hold* pod (`Runner.LOCAL`) does nothing but mount the volume: the agent's worker reads it through the host path. It
gets no token, no secret, no folder of the node. A *mover* pod (`Runner.POD`) runs the worker itself; what it needs for
that (environment, volumes) comes from the agent's own DaemonSet, its secrets are mounted where `movers.pod_protocol`
says, and its account, which may read none, is `ExposerSettings.mover_account`. Folders of the node are never copied
into either.

Names, labels, owners and placement are those of the stock agent's pods, so that people find them where they look.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec

from agent.exposers.contract import Runner
from agent.exposers.placement import affinity, load_affinity
from agent.kube.agent_config import AgentConfig, PodResources
from agent.kube.backup_storage_location import SecretKey
from agent.kube.meta import KubeObject, ObjectMeta, OwnerReference
from agent.kube.names import EXPOSER_POD_GROUP_LABEL, JOB_UID_LABEL, valid_name
from agent.kube.pods import Container, NodeSelector, Opaque, Pod, PodOS, PodSpec, PodTemplate, VolumeDevice
from agent.kube.volumes import VolumeMode
from agent.movers.pod_protocol import (
    CACHE_FOLDER,
    CREDENTIALS_FILE,
    CREDENTIALS_FOLDER,
    HOLD_COMMAND,
    PASSWORD_FOLDER,
    PASSWORD_KEY,
    PASSWORD_SECRET,
    RUN_COMMAND,
)

SNAPSHOT_GROUP: Final = "snapshot-exposer"
RESTORE_GROUP: Final = "generic-restore-exposer"
POD_VOLUME_GROUP: Final = "pod-volume-exposer"

_INHERITED_LABEL = "azure.workload.identity/use"
_INHERITED_ANNOTATION = "iam.amazonaws.com/role"
_INHERITED_TOLERATIONS = frozenset({"kubernetes.azure.com/scalesetpriority", "CriticalAddonsOnly"})
_CACHE_VOLUME = "cachedir"
_PASSWORD_VOLUME = "lighterage-repository"  # noqa: S105 - a volume, not a secret
_CREDENTIALS_VOLUME = "lighterage-location"
_SECRET_MODE = 0o400
_HOLD_RESOURCES: Opaque = {"requests": {"cpu": "1m", "memory": "32Mi"}}
"""Where nothing is configured: holding takes next to nothing, but a pod without requests is the first to be evicted."""
_HOLD_SECURITY: Opaque = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class ClaimVolume(msgspec.Struct, frozen=True):
    """A PersistentVolumeClaim of Velero's namespace."""

    name: str
    read_only: bool = False


class NodeFolder(msgspec.Struct, frozen=True):
    """A folder of the node, in mover pods for volumes of other pods; mounts that appear below it are seen."""

    path: str


class PodRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod is for."""

    job: KubeObject
    """Its owner. The pod has its name, and lies in its namespace."""
    label: str
    """By which people and agents find the pod of a job: `names.DATA_UPLOAD_LABEL`, …"""
    group: str
    """Pods of one group are spread over the nodes: `SNAPSHOT_GROUP`, …"""
    volume: ClaimVolume | NodeFolder
    mode: VolumeMode
    storage_class: str | None = None
    """Of the claim, after mapping: picks the entry of `loadAffinity`; None where that does not apply (§13.8)."""
    topology: NodeSelector | None = None
    """From which nodes the volume can be reached."""
    avoid_nodes: tuple[str, ...] = ()
    """Where the volume cannot be attached."""
    node_name: str = ""
    """Past the scheduler, onto this node."""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    privileged: bool = False
    spc_t: bool = False
    """Mount without relabelling every file (SELinux)."""
    credential: SecretKey | None = None
    """Of the backup storage location, if it names one; mounted into mover pods."""
    cache_claim: str = ""
    """A claim for the caches of a mover pod; empty: none."""


def volume_path(job: KubeObject) -> str:
    """Of the folder or device of a job's volume, as its own pod sees it."""
    return f"/{job.metadata.uid}"


def owner_of(job: KubeObject) -> OwnerReference:
    """As everything made for a job names it. Blocking its deletion would need more rights (contract §13.3)."""
    meta = job.metadata
    return OwnerReference(api_version=job.api_version, kind=job.kind, name=meta.name, uid=meta.uid, controller=True)


def runner_of(pod: Pod) -> Runner | None:
    """Which of the two flavours a pod is; None for one that no agent of ours made."""
    command = pod.spec.containers[0].command if pod.spec.containers else ()
    if command == HOLD_COMMAND:
        return Runner.LOCAL
    return Runner.POD if command == RUN_COMMAND else None


def hosting_pod(request: PodRequest, runner: Runner, template: PodTemplate, config: AgentConfig) -> Pod:
    """The pod of a job. `template` is that of the agent's own DaemonSet."""
    moves = runner is Runner.POD
    allowed = None if request.storage_class is None else load_affinity(config.load_affinity, request.storage_class)
    inherited = template.spec
    spec = PodSpec(
        containers=(_mover(request, template, config) if moves else _holder(request, template, config),),
        volumes=(_volume(request), *(_mover_volumes(request, template) if moves else ())),
        node_name=request.node_name,
        node_selector=request.node_selector,
        affinity=None if request.node_name else affinity(allowed, request.topology, request.avoid_nodes),
        topology_spread_constraints=() if request.node_name else (_spread(request.group),),
        tolerations=tuple(one for one in inherited.tolerations if one.get("key") in _INHERITED_TOLERATIONS),
        restart_policy="Never",
        termination_grace_period_seconds=0,
        service_account_name=inherited.service_account_name,
        automount_service_account_token=inherited.automount_service_account_token if moves else False,
        image_pull_secrets=inherited.image_pull_secrets,
        dns_policy=inherited.dns_policy if moves else "",
        dns_config=inherited.dns_config if moves else None,
        priority_class_name=config.priority_class_name,
        security_context={"runAsUser": 0, **({"seLinuxOptions": {"type": "spc_t"}} if request.spc_t else {})},
        os=PodOS(name="linux"),
    )
    return Pod(api_version="v1", kind="Pod", metadata=_metadata(request, template, config), spec=spec)


def _metadata(request: PodRequest, template: PodTemplate, config: AgentConfig) -> ObjectMeta:
    meta, above = request.job.metadata, template.metadata
    labels, annotations = config.pod_labels, config.pod_annotations
    if labels is None:
        labels = {key: value for key, value in above.labels.items() if key == _INHERITED_LABEL}
    if annotations is None:
        annotations = {key: value for key, value in above.annotations.items() if key == _INHERITED_ANNOTATION}
    ours = {
        request.label: valid_name(meta.name),
        EXPOSER_POD_GROUP_LABEL: request.group,
        JOB_UID_LABEL: valid_name(meta.uid),
    }
    return ObjectMeta(
        name=meta.name,
        namespace=meta.namespace,
        labels={**labels, **ours},
        annotations=dict(annotations),
        owner_references=(owner_of(request.job),),
    )


def _holder(request: PodRequest, template: PodTemplate, config: AgentConfig) -> Container:
    return Container(
        name=request.job.metadata.uid,
        image=template.spec.containers[0].image,
        image_pull_policy="Never",
        command=HOLD_COMMAND,
        resources=_resources(config.pod_resources) or _HOLD_RESOURCES,
        volume_mounts=_mounts(request),
        volume_devices=_devices(request),
        security_context=_HOLD_SECURITY,
    )


def _mover(request: PodRequest, template: PodTemplate, config: AgentConfig) -> Container:
    agent = template.spec.containers[0]
    kept = {volume["name"] for volume in _inherited_volumes(template)}
    mounts = [
        *_mounts(request),
        *(mount for mount in agent.volume_mounts if mount.get("name") in kept),
        {"name": _PASSWORD_VOLUME, "mountPath": PASSWORD_FOLDER, "readOnly": True},
    ]
    if request.credential is not None:
        mounts.append({"name": _CREDENTIALS_VOLUME, "mountPath": CREDENTIALS_FOLDER, "readOnly": True})
    if request.cache_claim:
        mounts.append({"name": _CACHE_VOLUME, "mountPath": CACHE_FOLDER})
    return Container(
        name=request.job.metadata.uid,
        image=agent.image,
        image_pull_policy="Never",
        command=RUN_COMMAND,
        args=("--kind", request.job.kind, "--name", request.job.metadata.name, *_log_flags(agent)),
        env=agent.env,
        env_from=agent.env_from,
        resources=_resources(config.pod_resources),
        volume_mounts=tuple(mounts),
        volume_devices=_devices(request),
        security_context={"privileged": True} if request.privileged else {},
        termination_message_policy="FallbackToLogsOnError",
    )


def _mounts(request: PodRequest) -> tuple[Opaque, ...]:
    where: Opaque = {"name": request.job.metadata.uid, "mountPath": volume_path(request.job)}
    match request.volume:
        case NodeFolder():
            return ({**where, "mountPropagation": "HostToContainer"},)
        case ClaimVolume(read_only=read_only):
            if request.mode is VolumeMode.BLOCK:
                return ()
            return ({**where, "readOnly": True} if read_only else where,)


def _devices(request: PodRequest) -> tuple[VolumeDevice, ...]:
    if request.mode is not VolumeMode.BLOCK or isinstance(request.volume, NodeFolder):
        return ()
    return (VolumeDevice(name=request.job.metadata.uid, device_path=volume_path(request.job)),)


def _volume(request: PodRequest) -> Opaque:
    match request.volume:
        case NodeFolder(path):
            return {"name": request.job.metadata.uid, "hostPath": {"path": path}}
        case ClaimVolume(name, read_only):
            claim: Opaque = {"claimName": name, "readOnly": True} if read_only else {"claimName": name}
            return {"name": request.job.metadata.uid, "persistentVolumeClaim": claim}


def _mover_volumes(request: PodRequest, template: PodTemplate) -> tuple[Opaque, ...]:
    volumes = [
        *_inherited_volumes(template),
        _secret_volume(_PASSWORD_VOLUME, PASSWORD_SECRET, PASSWORD_KEY, PASSWORD_KEY),
    ]
    if request.credential is not None:
        secret = request.credential
        volumes.append(_secret_volume(_CREDENTIALS_VOLUME, secret.name, secret.key, CREDENTIALS_FILE))
    if request.cache_claim:
        volumes.append({"name": _CACHE_VOLUME, "persistentVolumeClaim": {"claimName": request.cache_claim}})
    return tuple(volumes)


def _inherited_volumes(template: PodTemplate) -> list[Opaque]:
    return [volume for volume in template.spec.volumes if "hostPath" not in volume]


def _secret_volume(volume: str, secret: str, key: str, file: str) -> Opaque:
    source = {"secretName": secret, "items": [{"key": key, "path": file}], "defaultMode": _SECRET_MODE}
    return {"name": volume, "secret": source}


def _spread(group: str) -> Opaque:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {EXPOSER_POD_GROUP_LABEL: group}},
    }


def _log_flags(agent: Container) -> Iterator[str]:
    """Those of the agent: what collects its logs collects the pod's."""
    words = (*agent.command, *agent.args)
    for flag in ("--log-format", "--log-level"):
        for word, after in pairwise((*words, "")):
            if word.startswith(f"{flag}="):
                yield word
            elif word == flag and after:
                yield f"{flag}={after}"


def _resources(given: PodResources) -> Opaque:
    requests = {
        "cpu": given.cpu_request,
        "memory": given.memory_request,
        "ephemeral-storage": given.ephemeral_storage_request,
    }
    limits = {
        "cpu": given.cpu_limit,
        "memory": given.memory_limit,
        "ephemeral-storage": given.ephemeral_storage_limit,
    }
    sections = {"requests": requests, "limits": limits}
    kept = {name: {key: value for key, value in section.items() if value} for name, section in sections.items()}
    return {name: section for name, section in kept.items() if section}

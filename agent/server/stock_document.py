"""Velero's own configuration of the node agent: the JSON document of `--node-agent-configmap` (contract §4.1)."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from agent.kube.volumes import LabelSelector

Names: TypeAlias = tuple[str, ...]
Texts: TypeAlias = dict[str, str]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camel case outside."""


class NodeNumber(_Part, frozen=True, kw_only=True):
    """An entry of `loadConcurrency.perNodeConfig`."""

    node_selector: Annotated[LabelSelector, Meta(description="the nodes meant, by their labels")]
    number: Annotated[int, Meta(description="jobs at once there; 0 and less: the entry is ignored, with a warning")]


class LoadConcurrencyPart(_Part, frozen=True, kw_only=True):
    """How much runs at once."""

    global_config: Annotated[int, Meta(description="jobs at once on a node, all four kinds together")] = 1
    per_node_config: Annotated[
        tuple[NodeNumber, ...], Meta(description="other numbers for some nodes; of those that match the smallest wins")
    ] = ()
    prepare_queue_length: Annotated[
        int,
        Meta(
            description="objects being exposed at once in the whole namespace; 0: any number. As in Velero, agents"
            " count independently: those that begin in the same moment may exceed it, until they see one another"
        ),
    ] = 0


class LoadAffinityPart(_Part, frozen=True, kw_only=True):
    """An entry of `loadAffinity`."""

    node_selector: Annotated[LabelSelector, Meta(description="the nodes that may run pods which mount volumes")]
    storage_class: Annotated[
        str, Meta(description="only for volumes of this class; empty: for those without an entry of their own")
    ] = ""


class BackupPVCPart(_Part, frozen=True, kw_only=True):
    """How the claim is made that a snapshot is read from."""

    storage_class: Annotated[str, Meta(description="its class; empty: that of the source")] = ""
    read_only: Annotated[bool, Meta(description="make it ReadOnlyMany")] = False
    spc_no_relabeling: Annotated[bool, Meta(description="SELinux type `spc_t` for its pod; only with `readOnly`")] = (
        False
    )
    annotations: Annotated[Texts, Meta(description="set on it")] = msgspec.field(default_factory=dict)
    secret_names: Annotated[Names, Meta(description="secrets copied from the source's namespace for the driver")] = ()
    config_map_names: Annotated[Names, Meta(description="ConfigMaps copied likewise")] = ()


class RestorePVCPart(_Part, frozen=True, kw_only=True):
    """How the claim is made that a restore writes to."""

    ignore_delay_binding: Annotated[
        bool, Meta(description="with WaitForFirstConsumer, do not wait for a pod that uses the volume")
    ] = False
    secret_names: Annotated[Names, Meta(description="secrets copied from the target's namespace for the driver")] = ()
    config_map_names: Annotated[Names, Meta(description="ConfigMaps copied likewise")] = ()


class PodResourcesPart(_Part, frozen=True, kw_only=True):
    """Of pods that the agent makes. One invalid value, and the whole section is ignored with a warning."""

    cpu_request: Annotated[str, Meta(description="a quantity")] = ""
    cpu_limit: Annotated[str, Meta(description="a quantity")] = ""
    memory_request: Annotated[str, Meta(description="a quantity")] = ""
    memory_limit: Annotated[str, Meta(description="a quantity")] = ""
    ephemeral_storage_request: Annotated[str, Meta(description="a quantity")] = ""
    ephemeral_storage_limit: Annotated[str, Meta(description="a quantity")] = ""


class CachePVCPart(_Part, frozen=True, kw_only=True):
    """A volume for the cache of restores in mover pods."""

    storage_class: Annotated[
        str, Meta(description="its class, which has to delete its volumes; without one there is no such volume")
    ] = ""
    resident_threshold_mb: Annotated[int, Meta(description="snapshots below this size get none")] = msgspec.field(
        default=0, name="residentThresholdInMB"
    )


class SnapshotMetadataPart(_Part, frozen=True, kw_only=True):
    """How changed blocks are asked for, which `velero-block` does."""

    sa_name: Annotated[str, Meta(description="service account whose tokens the service is shown")] = ""


class StockDocument(_Part, frozen=True, kw_only=True):
    """The whole of it."""

    load_concurrency: Annotated[LoadConcurrencyPart, Meta(description="how much runs at once")] = LoadConcurrencyPart()
    load_affinity: Annotated[
        tuple[LoadAffinityPart, ...], Meta(description="where pods that mount volumes may run, by storage class")
    ] = ()
    backup_pvc: Annotated[
        dict[str, BackupPVCPart], Meta(description="claims that snapshots are read from, by the source's storage class")
    ] = msgspec.field(default_factory=dict, name="backupPVC")
    restore_pvc: Annotated[RestorePVCPart, Meta(description="claims that restores write to")] = msgspec.field(
        default=RestorePVCPart(), name="restorePVC"
    )
    pod_resources: Annotated[PodResourcesPart, Meta(description="requests and limits of pods that the agent makes")] = (
        PodResourcesPart()
    )
    priority_class_name: Annotated[
        str, Meta(description="priority class of these pods; ignored with a warning when it does not exist")
    ] = ""
    privileged_fs_backup: Annotated[bool, Meta(description="pods for pod volumes are privileged")] = False
    cache_pvc: Annotated[CachePVCPart, Meta(description="a volume for the cache of restores in mover pods")] = (
        msgspec.field(default=CachePVCPart(), name="cachePVC")
    )
    pod_labels: Annotated[
        Texts | None, Meta(description="set on these pods instead of the labels taken over from the DaemonSet")
    ] = None
    pod_annotations: Annotated[Texts | None, Meta(description="likewise")] = None
    csi_snapshot_metadata_service_configs: Annotated[
        SnapshotMetadataPart,
        Meta(description="for the data mover `velero-block`; without effect, as that is refused, with a warning"),
    ] = SnapshotMetadataPart()

"""The node agent's configuration as types (contract §4.1), however it was written down.

Controllers and exposers read it through a `Callable[[], AgentConfig]`, since it may change while they run. The names
are those of Velero's JSON document.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agent.kube.volumes import LabelSelector


class NodeConcurrency(msgspec.Struct, frozen=True):
    """Jobs at once on the nodes that match."""

    node_selector: LabelSelector
    number: int


class LoadConcurrency(msgspec.Struct, frozen=True):
    """Jobs at once on a node, shared by all four kinds of work."""

    global_config: int = 1
    per_node: tuple[NodeConcurrency, ...] = ()
    prepare_queue_length: int = 0
    """Objects being exposed at once in the whole namespace; 0: any number."""


class LoadAffinity(msgspec.Struct, frozen=True):
    """Nodes that may do work for a storage class; with an empty class, for those without an entry of their own."""

    node_selector: LabelSelector
    storage_class: str = ""


class BackupPVC(msgspec.Struct, frozen=True):
    """How the claim that a snapshot is read from is made, by storage class of the source."""

    storage_class: str = ""
    """Empty: that of the source."""
    read_only: bool = False
    spc_no_relabeling: bool = False
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    secret_names: tuple[str, ...] = ()
    config_map_names: tuple[str, ...] = ()


class RestorePVC(msgspec.Struct, frozen=True):
    """How the claim that a restore writes to is made."""

    ignore_delay_binding: bool = False
    secret_names: tuple[str, ...] = ()
    config_map_names: tuple[str, ...] = ()


class PodResources(msgspec.Struct, frozen=True):
    """Requests and limits of pods that we make, as quantities; empty: none."""

    cpu_request: str = ""
    cpu_limit: str = ""
    memory_request: str = ""
    memory_limit: str = ""
    ephemeral_storage_request: str = ""
    ephemeral_storage_limit: str = ""


class CachePVC(msgspec.Struct, frozen=True):
    """A volume for the caches of restores in mover pods."""

    storage_class: str = ""
    """Empty: none."""
    resident_threshold_mb: int = 0


class RunnerChoice(StrEnum):
    """Where the worker of a job runs."""

    AUTO = "auto"
    """In the agent for file systems where it sees the node's pod volumes, else in a pod."""
    LOCAL = "local"
    POD = "pod"


class AgentLimits(msgspec.Struct, frozen=True):
    """Ours: what all jobs of a node may take together; 0: no limit."""

    upload_bytes_per_second: int = 0
    download_bytes_per_second: int = 0
    requests_per_second: int = 0
    memory_bytes: int = 0
    """Of all workers of the node together."""
    worker_memory_bytes: int = 0


class AgentConfig(msgspec.Struct, frozen=True):
    """All of it, with the defaults of the stock agent."""

    load_concurrency: LoadConcurrency = LoadConcurrency()
    load_affinity: tuple[LoadAffinity, ...] = ()
    backup_pvc: Mapping[str, BackupPVC] = msgspec.field(default_factory=dict)
    restore_pvc: RestorePVC = RestorePVC()
    pod_resources: PodResources = PodResources()
    priority_class_name: str = ""
    privileged_fs_backup: bool = False
    cache_pvc: CachePVC = CachePVC()
    pod_labels: Mapping[str, str] | None = None
    """Instead of those inherited from the DaemonSet; None: inherit."""
    pod_annotations: Mapping[str, str] | None = None
    runner: RunnerChoice = RunnerChoice.AUTO
    limits: AgentLimits = AgentLimits()
    keep_partial: bool = False
    """Whether a backup with unreadable files is Completed with warnings rather than Failed (§13.17)."""
    pod_volume_timeout: float = 0.0
    """Seconds that a PodVolumeBackup or PodVolumeRestore may take; 0: any time (§2.5)."""
    log_level: str = ""
    """Empty: that of the command line."""

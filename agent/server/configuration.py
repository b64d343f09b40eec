"""The two ConfigMaps of the agent as one `AgentConfig`.

Velero's (`--node-agent-configmap`, contract §4.1) has the stock agent's meaning in every key; ours
(`--lighterage-configmap`) is on top. Every mistake of both is told in one `ConfigurationError`. What the stock agent
ignores with a warning is ignored with a warning.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from agent.base.errors import ConfigurationError, UsageError
from agent.kube import label_selector
from agent.kube.agent_config import (
    AgentConfig,
    AgentLimits,
    BackupPVC,
    CachePVC,
    LoadAffinity,
    LoadConcurrency,
    NodeConcurrency,
    PodResources,
    RestorePVC,
)
from agent.kube.durations import parse_duration
from agent.kube.meta import ConfigMap
from agent.kube.quantities import parse_bytes, parse_quantity
from agent.observe.log import level_number
from agent.server.document import Findings, read_document
from agent.server.own_document import Amount, OwnDocument
from agent.server.stock_document import (
    LoadAffinityPart,
    LoadConcurrencyPart,
    NodeNumber,
    PodResourcesPart,
    StockDocument,
)

DocumentT = TypeVar("DocumentT", StockDocument, OwnDocument)

_NS = 1e9
_MAX_AMOUNT: Final = 10**15
_MAX_MB: Final = 1 << 40


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that can be used, and what is to be said about it."""

    config: AgentConfig
    warnings: tuple[str, ...] = ()
    stock: StockDocument = msgspec.field(default_factory=StockDocument)
    """As it was written, for saying what changed."""
    own: OwnDocument = msgspec.field(default_factory=OwnDocument)


def parse_configuration(stock: ConfigMap | None, own: ConfigMap | None) -> Loaded:
    """Both ConfigMaps, where they exist, as one configuration; `ConfigurationError` names every mistake of both."""
    mistakes: list[str] = []
    warnings: list[str] = []

    def document(source: ConfigMap | None, shape: type[DocumentT], found: Findings) -> DocumentT:
        return shape() if source is None else read_document(shape, _text(source, found), found)

    def collect(source: ConfigMap | None, found: Findings) -> None:
        if source is not None:
            mistakes.extend(f"ConfigMap {source.key}: {one}" for one in found.mistakes)
            warnings.extend(f"ConfigMap {source.key}: {one} is not known and ignored" for one in found.unknown)

    of_stock, of_own = Findings(), Findings()
    stock_document = document(stock, StockDocument, of_stock)
    own_document = document(own, OwnDocument, of_own)
    config = _own(_stock(stock_document, warnings), own_document, of_own)
    collect(stock, of_stock)
    collect(own, of_own)
    if mistakes:
        raise ConfigurationError(
            f"the configuration has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}: " + "; ".join(mistakes),
            hint="docs/configuration.md has all keys",
        )
    return Loaded(config, tuple(warnings), stock_document, own_document)


def _text(source: ConfigMap, found: Findings) -> str:
    if len(source.data) != 1:
        keys = ", ".join(sorted(source.data)) or "none"
        found.mistakes.append(f"it needs exactly one data key, whatever its name; there are {len(source.data)}: {keys}")
        return "{}"
    (text,) = source.data.values()
    return text


# ---- Velero's ----


def _stock(document: StockDocument, warnings: list[str]) -> AgentConfig:
    cache = document.cache_pvc
    if cache.resident_threshold_mb and not cache.storage_class:
        warnings.append("cachePVC is ignored: it has no storageClass")
    if document.csi_snapshot_metadata_service_configs.sa_name:
        warnings.append("csiSnapshotMetadataServiceConfigs has no effect: velero-block is not implemented")
    return AgentConfig(
        load_concurrency=_concurrency(document.load_concurrency, warnings),
        load_affinity=tuple(
            LoadAffinity(entry.node_selector, entry.storage_class)
            for number, entry in enumerate(document.load_affinity)
            if _is_selector(entry, f"loadAffinity[{number}]", warnings)
        ),
        backup_pvc={
            name: BackupPVC(
                storage_class=part.storage_class,
                read_only=part.read_only,
                spc_no_relabeling=part.spc_no_relabeling and part.read_only,
                annotations=part.annotations,
                secret_names=part.secret_names,
                config_map_names=part.config_map_names,
            )
            for name, part in document.backup_pvc.items()
        },
        restore_pvc=RestorePVC(
            document.restore_pvc.ignore_delay_binding,
            document.restore_pvc.secret_names,
            document.restore_pvc.config_map_names,
        ),
        pod_resources=_pod_resources(document.pod_resources, warnings),
        priority_class_name=document.priority_class_name,
        privileged_fs_backup=document.privileged_fs_backup,
        cache_pvc=CachePVC(cache.storage_class, min(max(cache.resident_threshold_mb, 0), _MAX_MB))
        if cache.storage_class
        else CachePVC(),
        pod_labels=document.pod_labels or None,
        pod_annotations=document.pod_annotations or None,
    )


def _concurrency(part: LoadConcurrencyPart, warnings: list[str]) -> LoadConcurrency:
    default = LoadConcurrency()
    everywhere = part.global_config
    if everywhere <= 0:
        warnings.append(f"loadConcurrency.globalConfig is ignored: {everywhere} is no number of jobs")
        everywhere = default.global_config
    per_node = []
    for number, entry in enumerate(part.per_node_config):
        path = f"loadConcurrency.perNodeConfig[{number}]"
        if entry.number <= 0:
            warnings.append(f"{path} is ignored: {entry.number} is no number of jobs")
        elif _is_selector(entry, path, warnings):
            per_node.append(NodeConcurrency(entry.node_selector, entry.number))
    return LoadConcurrency(everywhere, tuple(per_node), max(part.prepare_queue_length, 0))


def _is_selector(entry: NodeNumber | LoadAffinityPart, path: str, warnings: list[str]) -> bool:
    try:
        label_selector.check(entry.node_selector)
    except ValueError as error:
        warnings.append(f"{path} is ignored: nodeSelector: {error}")
        return False
    return True


def _pod_resources(part: PodResourcesPart, warnings: list[str]) -> PodResources:
    """All of it or, where one value is wrong, none."""
    resources = PodResources(
        part.cpu_request,
        part.cpu_limit,
        part.memory_request,
        part.memory_limit,
        part.ephemeral_storage_request,
        part.ephemeral_storage_limit,
    )
    pairs = {
        "cpu": (part.cpu_request, part.cpu_limit),
        "memory": (part.memory_request, part.memory_limit),
        "ephemeralStorage": (part.ephemeral_storage_request, part.ephemeral_storage_limit),
    }
    for name, (request, limit) in pairs.items():
        try:
            least, most = (parse_quantity(one or "0") for one in (request, limit))
        except ValueError as error:
            warnings.append(f"podResources is ignored: {name}: {error}")
            return PodResources()
        if least < 0 or most < 0 or (limit and least > most):
            warnings.append(f"podResources is ignored: {name}: the request {request} is above the limit {limit}")
            return PodResources()
    return resources


# ---- ours ----


def _own(config: AgentConfig, document: OwnDocument, found: Findings) -> AgentConfig:
    limits = document.limits

    def amount(name: str, value: Amount) -> int:
        return _amount(f"limits.{name}", value, found)

    return replace(
        config,
        runner=document.runner,
        limits=AgentLimits(
            upload_bytes_per_second=amount("uploadBytesPerSecond", limits.upload_bytes_per_second),
            download_bytes_per_second=amount("downloadBytesPerSecond", limits.download_bytes_per_second),
            requests_per_second=amount("requestsPerSecond", limits.requests_per_second),
            memory_bytes=amount("memory", limits.memory),
            worker_memory_bytes=amount("workerMemory", limits.worker_memory),
        ),
        keep_partial=document.keep_partial,
        pod_volume_timeout=_seconds("podVolumeTimeout", document.pod_volume_timeout, found),
        log_level=_log_level(document.log_level, found),
    )


def _amount(path: str, value: Amount, found: Findings) -> int:
    try:
        amount = value if isinstance(value, int) else parse_bytes(value)
    except ValueError as error:
        found.mistakes.append(f"{path}: {error}")
        return 0
    if not 0 <= amount < _MAX_AMOUNT:
        found.mistakes.append(f"{path}: {value} is negative or beyond reason")
        return 0
    return amount


def _seconds(path: str, text: str, found: Findings) -> float:
    try:
        seconds = parse_duration(text) / _NS
    except ValueError as error:
        found.mistakes.append(f"{path}: {error}")
        return 0.0
    if seconds < 0:
        found.mistakes.append(f"{path}: {text} is negative")
        return 0.0
    return seconds


def _log_level(text: str, found: Findings) -> str:
    if not text:
        return ""
    try:
        level_number(text)
    except UsageError as error:
        found.mistakes.append(f"logLevel: {error}")
        return ""
    return text

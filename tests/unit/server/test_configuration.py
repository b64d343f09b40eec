"""Both ConfigMaps as one configuration (contract §4.1): everything that is wrong is told at once."""

from __future__ import annotations

import json

import pytest

from agent.base.errors import ConfigurationError
from agent.kube.agent_config import AgentConfig, BackupPVC, CachePVC, PodResources, RestorePVC, RunnerChoice
from agent.kube.meta import ConfigMap, ObjectMeta
from agent.server.configuration import parse_configuration


def _map(document: object, name: str = "node-agent-config", **more: str) -> ConfigMap:
    text = document if isinstance(document, str) else json.dumps(document)
    data = {"whatever.json": text, **more}
    return ConfigMap(api_version="v1", kind="ConfigMap", metadata=ObjectMeta(name=name, namespace="velero"), data=data)


def test_without_any_configmap_all_is_as_in_the_stock_agent() -> None:
    loaded = parse_configuration(None, None)
    assert loaded.config == AgentConfig()
    assert loaded.config.load_concurrency.global_config == 1
    assert loaded.warnings == ()


def test_every_key_of_velero_is_taken_over() -> None:
    document = {
        "loadConcurrency": {
            "globalConfig": 2,
            "perNodeConfig": [{"nodeSelector": {"matchLabels": {"disk": "fast"}}, "number": 5}],
            "prepareQueueLength": 7,
        },
        "loadAffinity": [{"nodeSelector": {"matchLabels": {"role": "backup"}}, "storageClass": "gold"}],
        "backupPVC": {
            "gold": {
                "storageClass": "scratch",
                "readOnly": True,
                "spcNoRelabeling": True,
                "annotations": {"a": "b"},
                "secretNames": ["key"],
                "configMapNames": ["settings"],
            }
        },
        "restorePVC": {"ignoreDelayBinding": True, "secretNames": ["key"], "configMapNames": ["settings"]},
        "podResources": {
            "cpuRequest": "100m",
            "cpuLimit": "2",
            "memoryRequest": "1Gi",
            "memoryLimit": "1Gi",
            "ephemeralStorageRequest": "2Gi",
            "ephemeralStorageLimit": "3Gi",
        },
        "priorityClassName": "high",
        "privilegedFsBackup": True,
        "cachePVC": {"storageClass": "gold", "residentThresholdInMB": 1024},
        "podLabels": {"team": "storage"},
        "podAnnotations": {"note": "x"},
    }
    loaded = parse_configuration(_map(document), None)
    config = loaded.config
    assert loaded.warnings == ()
    assert config.load_concurrency.per_node[0].number == 5
    assert config.load_concurrency.prepare_queue_length == 7
    assert config.load_affinity[0].storage_class == "gold"
    assert config.backup_pvc["gold"] == BackupPVC("scratch", True, True, {"a": "b"}, ("key",), ("settings",))
    assert config.restore_pvc == RestorePVC(True, ("key",), ("settings",))
    assert config.pod_resources == PodResources("100m", "2", "1Gi", "1Gi", "2Gi", "3Gi")
    assert config.priority_class_name == "high"
    assert config.privileged_fs_backup
    assert config.cache_pvc == CachePVC("gold", 1024)
    assert config.pod_labels == {"team": "storage"}
    assert config.pod_annotations == {"note": "x"}


def test_a_key_for_a_data_mover_that_is_not_done_yet_is_known_and_warned_of() -> None:
    document = {"csiSnapshotMetadataServiceConfigs": {"saName": "block-reader"}}
    (warning,) = parse_configuration(_map(document), None).warnings
    assert warning == "csiSnapshotMetadataServiceConfigs has no effect: velero-block is not implemented"


def test_ours_lies_on_top() -> None:
    own = {
        "runner": "pod",
        "limits": {"uploadBytesPerSecond": "100Mi", "memory": "4Gi", "workerMemory": 1 << 30},
        "keepPartial": True,
        "podVolumeTimeout": "4h",
        "logLevel": "debug",
    }
    config = parse_configuration(_map({"loadConcurrency": {"globalConfig": 3}}), _map(own, "lighterage-config")).config
    assert config.load_concurrency.global_config == 3
    assert config.runner is RunnerChoice.POD
    assert config.limits.upload_bytes_per_second == 100 << 20
    assert config.limits.memory_bytes == 4 << 30
    assert config.limits.worker_memory_bytes == 1 << 30
    assert config.keep_partial
    assert config.pod_volume_timeout == 14_400
    assert config.log_level == "debug"


def test_every_mistake_of_both_is_told_at_once() -> None:
    stock = {
        "loadConcurrency": {"globalConfig": "two", "perNodeConfig": [{"number": 3}]},
        "backupPVC": {"gold": {"readOnly": "yes"}, "silver": 7},
    }
    own = {"runner": "cloud", "limits": {"memory": "much", "requestsPerSecond": -1}, "podVolumeTimeout": "1 hour"}
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(_map(stock), _map(own, "lighterage-config"))
    for part in (
        "8 mistakes",
        "ConfigMap velero/node-agent-config: loadConcurrency.globalConfig",
        "loadConcurrency.perNodeConfig[0].nodeSelector: it is missing",
        "backupPVC.gold.readOnly",
        "backupPVC.silver",
        "ConfigMap velero/lighterage-config: runner",
        "limits.memory",
        "limits.requestsPerSecond",
        "podVolumeTimeout",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_configuration(_map(text), None)


def test_two_keys_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"exactly one data key.*2: other, whatever\.json"):
        parse_configuration(_map({}, other="{}"), None)


def test_no_key_is_refused() -> None:
    empty = ConfigMap(api_version="v1", kind="ConfigMap", metadata=ObjectMeta(name="x", namespace="velero"))
    with pytest.raises(ConfigurationError, match="there are 0: none"):
        parse_configuration(empty, None)


def test_unknown_keys_warn_with_their_path() -> None:
    loaded = parse_configuration(_map({"loadConcurrency": {"perZone": 1}, "future": {}}), None)
    assert any("loadConcurrency.perZone is not known" in one for one in loaded.warnings)
    assert any("future is not known" in one for one in loaded.warnings)


def test_names_match_whatever_their_case_and_null_is_absent_as_in_go() -> None:
    loaded = parse_configuration(_map({"LoadConcurrency": {"globalconfig": 4, "perNodeConfig": None}}), None)
    assert loaded.config.load_concurrency.global_config == 4
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "resources",
    [
        {"cpuRequest": "much", "memoryRequest": "1Gi"},
        {"memoryRequest": "2Gi", "memoryLimit": "1Gi"},
        {"cpuRequest": "-1"},
    ],
)
def test_one_invalid_resource_drops_the_section_with_a_warning(resources: dict[str, str]) -> None:
    loaded = parse_configuration(_map({"podResources": resources}), None)
    assert loaded.config.pod_resources == PodResources()
    assert any("podResources is ignored" in one for one in loaded.warnings)


def test_numbers_that_are_no_number_of_jobs_are_ignored() -> None:
    part = {
        "globalConfig": 0,
        "prepareQueueLength": -3,
        "perNodeConfig": [
            {"nodeSelector": {}, "number": 0},
            {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "number": 2},
        ],
    }
    loaded = parse_configuration(_map({"loadConcurrency": part}), None)
    assert loaded.config.load_concurrency == AgentConfig().load_concurrency
    assert len(loaded.warnings) == 3


def test_a_cache_without_a_class_and_empty_labels_are_off() -> None:
    loaded = parse_configuration(_map({"cachePVC": {"residentThresholdInMB": 5}, "podLabels": {}}), None)
    assert loaded.config.cache_pvc == CachePVC()
    assert loaded.config.pod_labels is None
    assert any("cachePVC is ignored" in one for one in loaded.warnings)

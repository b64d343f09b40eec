"""The pods that hold volumes, held against those that a stock agent made."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from agent.exposers.contract import Runner
from agent.exposers.hosting_pod import SNAPSHOT_GROUP, ClaimVolume, NodeFolder, PodRequest, hosting_pod, runner_of
from agent.exposers.placement import allows
from agent.kube import codec
from agent.kube.agent_config import AgentConfig, LoadAffinity, PodResources
from agent.kube.backup_storage_location import SecretKey
from agent.kube.cluster import Node
from agent.kube.data_upload import DataUpload
from agent.kube.meta import ObjectMeta
from agent.kube.names import DATA_UPLOAD_LABEL
from agent.kube.pods import DaemonSet, NodeRequirement, NodeSelector, NodeSelectorTerm, Pod, PodTemplate
from agent.kube.volumes import LabelSelector, VolumeMode

BLOCK, FILESYSTEM = VolumeMode.BLOCK, VolumeMode.FILESYSTEM


class Recorded:
    """What a stock agent made for one DataUpload, and the DaemonSet that it was copied from."""

    def __init__(self, golden: Path) -> None:
        folder = golden / "objects"
        self.pod = codec.decode(Pod, yaml.safe_load((folder / "du-pod.Running.yaml").read_text()))
        self.block_pod = codec.decode(Pod, yaml.safe_load((folder / "du-pod-block.Running.yaml").read_text()))
        self.upload = codec.decode(DataUpload, yaml.safe_load((folder / "dataupload.Accepted.yaml").read_text()))
        daemon_set = yaml.safe_load((folder / "node-agent-daemonset.yaml").read_text())
        self.template: PodTemplate = codec.decode(DaemonSet, daemon_set).spec.template

    def request(self, mode: VolumeMode = FILESYSTEM, **changes: object) -> PodRequest:
        fields: dict[str, object] = {
            "job": self.upload,
            "label": DATA_UPLOAD_LABEL,
            "group": SNAPSHOT_GROUP,
            "volume": ClaimVolume(self.upload.metadata.name),
            "mode": mode,
            "storage_class": "dir",
        }
        return PodRequest(**{**fields, **changes})  # type: ignore[arg-type]

    def make(
        self, runner: Runner, config: AgentConfig | None = None, mode: VolumeMode = FILESYSTEM, **changes: object
    ) -> Pod:
        return hosting_pod(self.request(mode, **changes), runner, self.template, config or AgentConfig())


@pytest.fixture
def recorded(golden: Path) -> Recorded:
    return Recorded(golden)


@pytest.mark.parametrize("runner", list(Runner))
def test_a_pod_is_named_labelled_owned_and_placed_as_a_stock_one(recorded: Recorded, runner: Runner) -> None:
    stock, ours = recorded.pod, recorded.make(runner)
    assert ours.key == stock.key
    assert stock.metadata.labels.items() <= ours.metadata.labels.items()
    assert ours.metadata.owner_references == stock.metadata.owner_references
    assert ours.spec.affinity == stock.spec.affinity
    assert ours.spec.topology_spread_constraints == stock.spec.topology_spread_constraints
    assert ours.spec.security_context == stock.spec.security_context
    assert ours.spec.volume(stock.spec.containers[0].name) == stock.spec.volume(stock.spec.containers[0].name)
    assert ours.spec.service_account_name == stock.spec.service_account_name
    for name in ("restart_policy", "termination_grace_period_seconds", "os"):
        assert getattr(ours.spec, name) == getattr(stock.spec, name)
    container, stock_container = ours.spec.containers[0], stock.spec.containers[0]
    assert (container.name, container.image, container.image_pull_policy) == (
        stock_container.name,
        stock_container.image,
        stock_container.image_pull_policy,
    )
    assert container.volume_mounts[0] == stock_container.volume_mounts[0]
    assert runner_of(ours) is runner
    assert runner_of(stock) is None


def test_a_mover_pod_has_the_agents_environment_and_its_secrets_as_files(recorded: Recorded) -> None:
    pod = recorded.make(Runner.POD, credential=SecretKey(name="cloud", key="key-of-mine"), cache_claim="x-cache")
    container, stock = pod.spec.containers[0], recorded.pod.spec.containers[0]
    assert container.env == stock.env
    assert container.command == ("lighter", "mover", "run")
    assert container.args == ("--kind", "DataUpload", "--name", recorded.upload.metadata.name)
    assert container.termination_message_policy == "FallbackToLogsOnError"
    paths = {mount["name"]: mount["mountPath"] for mount in container.volume_mounts}
    assert {"/scratch", "/credentials", "/cachedir"} < set(paths.values())
    assert paths["lighterage-repository"] == "/etc/lighterage/repository"
    secrets = {volume["name"]: volume["secret"] for volume in pod.spec.volumes if "secret" in volume}
    assert secrets["lighterage-repository"] == {
        "secretName": "velero-repo-credentials",
        "items": [{"key": "repository-password", "path": "repository-password"}],
        "defaultMode": 0o400,
    }
    assert secrets["lighterage-location"] == {
        "secretName": "cloud",
        "items": [{"key": "key-of-mine", "path": "credentials"}],
        "defaultMode": 0o400,
    }
    assert {volume["name"] for volume in pod.spec.volumes} == set(paths)


@pytest.mark.parametrize("runner", list(Runner))
def test_no_folder_of_the_node_is_copied_from_the_daemon_set(recorded: Recorded, runner: Runner) -> None:
    assert any("hostPath" in volume for volume in recorded.template.spec.volumes)
    assert not [volume for volume in recorded.make(runner).spec.volumes if "hostPath" in volume]


def test_a_hold_pod_has_the_volume_and_nothing_else(recorded: Recorded) -> None:
    pod = recorded.make(Runner.LOCAL, credential=SecretKey(name="cloud", key="k"), cache_claim="x-cache")
    assert [volume["name"] for volume in pod.spec.volumes] == [recorded.upload.metadata.uid]
    container = pod.spec.containers[0]
    assert container.command == ("lighter", "mover", "hold")
    assert container.env == ()
    assert pod.spec.automount_service_account_token is False
    assert container.resources == {"requests": {"cpu": "1m", "memory": "32Mi"}}


@pytest.mark.parametrize("runner", list(Runner))
def test_a_block_volume_is_a_device_as_in_a_stock_pod(recorded: Recorded, runner: Runner) -> None:
    pod = recorded.make(runner, mode=BLOCK)
    uid = recorded.upload.metadata.uid
    assert [(device.name, device.device_path) for device in pod.spec.containers[0].volume_devices] == [(uid, f"/{uid}")]
    stock = recorded.block_pod.spec.containers[0]
    assert [device.device_path for device in stock.volume_devices] == [f"/{stock.name}"]
    assert uid not in [mount["name"] for mount in pod.spec.containers[0].volume_mounts]


def test_configured_labels_replace_inherited_ones_but_never_ours(recorded: Recorded) -> None:
    inherited = {"azure.workload.identity/use": "true", "role": "node-agent"}
    recorded.template = PodTemplate(
        metadata=ObjectMeta(labels=inherited, annotations={"iam.amazonaws.com/role": "r", "other": "o"}),
        spec=recorded.template.spec,
    )
    pod = recorded.make(Runner.POD)
    assert pod.metadata.labels["azure.workload.identity/use"] == "true"
    assert "role" not in pod.metadata.labels
    assert pod.metadata.annotations == {"iam.amazonaws.com/role": "r"}
    config = AgentConfig(pod_labels={"team": "storage", DATA_UPLOAD_LABEL: "forged"}, pod_annotations={"note": "x"})
    pod = recorded.make(Runner.POD, config)
    assert pod.metadata.labels["team"] == "storage"
    assert pod.metadata.labels[DATA_UPLOAD_LABEL] == recorded.upload.metadata.name
    assert "azure.workload.identity/use" not in pod.metadata.labels
    assert pod.metadata.annotations == {"note": "x"}


@pytest.mark.parametrize("runner", list(Runner))
def test_resources_priority_and_selinux_type_are_those_of_the_configuration(recorded: Recorded, runner: Runner) -> None:
    config = AgentConfig(
        pod_resources=PodResources(cpu_request="50m", cpu_limit="2", memory_limit="2Gi", ephemeral_storage_limit="1Gi"),
        priority_class_name="high",
    )
    pod = recorded.make(runner, config, spc_t=True)
    assert pod.spec.containers[0].resources == {
        "requests": {"cpu": "50m"},
        "limits": {"cpu": "2", "memory": "2Gi", "ephemeral-storage": "1Gi"},
    }
    assert pod.spec.priority_class_name == "high"
    assert pod.spec.security_context == {"runAsUser": 0, "seLinuxOptions": {"type": "spc_t"}}


@pytest.mark.parametrize("runner", list(Runner))
def test_of_the_agents_tolerations_a_pod_has_those_that_open_nodes_to_it(recorded: Recorded, runner: Runner) -> None:
    spot = {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Exists"}
    critical = {"key": "CriticalAddonsOnly", "operator": "Exists"}
    everything = {"operator": "Exists"}
    spec = msgspec.structs.replace(recorded.template.spec, tolerations=(everything, spot, critical))
    recorded.template = PodTemplate(metadata=recorded.template.metadata, spec=spec)
    assert recorded.make(runner).spec.tolerations == (spot, critical)


def test_a_mover_pod_for_pod_volumes_is_privileged_where_that_is_configured(recorded: Recorded) -> None:
    assert recorded.make(Runner.POD, privileged=True).spec.containers[0].security_context == {"privileged": True}
    assert recorded.make(Runner.POD).spec.containers[0].security_context == {}


def test_a_pod_bound_to_a_node_mounts_its_folder_and_passes_the_scheduler(recorded: Recorded) -> None:
    folder = NodeFolder("/var/lib/kubelet/pods/x/volumes/kubernetes.io~csi/y/mount")
    pod = recorded.make(Runner.POD, volume=folder, node_name="node-1", storage_class=None)
    assert pod.spec.node_name == "node-1"
    assert pod.spec.affinity is None
    uid = recorded.upload.metadata.uid
    assert pod.spec.volumes[0] == {"name": uid, "hostPath": {"path": folder.path}}
    assert pod.spec.containers[0].volume_mounts[0] == {
        "name": uid,
        "mountPath": f"/{uid}",
        "mountPropagation": "HostToContainer",
    }


def _node(name: str, **labels: str) -> Node:
    return Node(api_version="v1", kind="Node", metadata=ObjectMeta(name=name, labels=labels))


def test_load_affinity_is_that_of_the_class_else_that_without_a_class(recorded: Recorded) -> None:
    config = AgentConfig(
        load_affinity=(
            LoadAffinity(LabelSelector(match_labels={"disk": "any"})),
            LoadAffinity(
                LabelSelector(match_expressions=({"key": "disk", "operator": "In", "values": ["fast", "faster"]},)),
                storage_class="dir",
            ),
        )
    )
    pod = recorded.make(Runner.LOCAL, config)
    assert allows(pod, _node("a", disk="faster"))
    assert not allows(pod, _node("a", disk="any"))
    other = recorded.make(Runner.LOCAL, config, storage_class="other")
    assert allows(other, _node("a", disk="any"))
    assert not allows(other, _node("a", disk="fast"))
    assert not allows(other, _node("a", disk="any", **{"kubernetes.io/os": "windows"}))
    assert allows(recorded.make(Runner.LOCAL, config, storage_class=None), _node("a"))


@pytest.mark.check(15)
def test_load_affinity_holds_in_every_zone_of_the_volume(recorded: Recorded) -> None:
    zones = NodeSelector(
        node_selector_terms=(
            NodeSelectorTerm(match_expressions=(NodeRequirement(key="zone", operator="In", values=("z1",)),)),
            NodeSelectorTerm(match_expressions=(NodeRequirement(key="zone", operator="In", values=("z2",)),)),
            NodeSelectorTerm(),
        )
    )
    config = AgentConfig(load_affinity=(LoadAffinity(LabelSelector(match_labels={"disk": "fast"})),))
    pod = recorded.make(Runner.LOCAL, config, topology=zones)
    assert allows(pod, _node("a", zone="z1", disk="fast"))
    assert allows(pod, _node("a", zone="z2", disk="fast"))
    assert not allows(pod, _node("a", zone="z2"))
    assert not allows(pod, _node("a", zone="z3", disk="fast"))
    assert not allows(pod, _node("a", disk="fast"))


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (
            ("node-agent", "server", "--log-format=json", "--log-level", "debug"),
            ("--log-format=json", "--log-level=debug"),
        ),
        (("node-agent", "server", "--log-level"), ()),
        (("node-agent", "server", "--logs=x", "json"), ()),
    ],
)
def test_a_mover_pod_writes_its_log_as_the_agent_does(
    recorded: Recorded, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    spec = recorded.template.spec
    agent = msgspec.structs.replace(spec.containers[0], args=words)
    recorded.template = msgspec.structs.replace(
        recorded.template, spec=msgspec.structs.replace(spec, containers=(agent, *spec.containers[1:]))
    )
    assert recorded.make(Runner.POD).spec.containers[0].args[4:] == flags
    assert recorded.make(Runner.LOCAL).spec.containers[0].args == ()

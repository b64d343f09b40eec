"""An agent in its cluster, and objects that cannot be worked on.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, cast

import pytest

from agent.kube.job import Phase
from agent.kube.resource import (
    DAEMON_SETS,
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    Resource,
)
from agent.testing.control_plane_csi import STORAGE_CLASS
from agent.testing.control_plane_process import ChildProgram
from agent.testing.control_plane_velero import NAMESPACE
from agent.testing.s3_server import free_ports
from tests.controlplane.agents import LIGHTER, STOCK_CONFIG
from tests.controlplane.cluster import Cluster
from tests.controlplane.objects import make, waiting_pod

KINDS: tuple[Resource[Any], ...] = (DATA_UPLOADS, DATA_DOWNLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES)


def wait_failed(cluster: Cluster, resource: Resource[Any], name: str, seconds: float = 60.0) -> str:
    """Its message."""
    cluster.eventually(
        f"{name} is final", lambda: cluster.get(resource, name, NAMESPACE).status.phase.is_final, seconds
    )
    status = cluster.get(resource, name, NAMESPACE).status
    assert status.phase is Phase.FAILED
    return str(status.message)


@pytest.mark.check(1, 3)
def test_check_01_03_the_daemon_set_is_in_the_place_of_veleros(cluster: Cluster) -> None:
    daemon_set = cluster.get(DAEMON_SETS, "node-agent", NAMESPACE)
    assert daemon_set.spec.template.spec.containers[0].command == ("lighter",)
    cluster.eventually(
        "all its pods run",
        lambda: cluster.get(DAEMON_SETS, "node-agent", NAMESPACE).status.number_ready == 2,
    )
    pods = [pod for pod in cluster.objects(PODS, NAMESPACE) if pod.metadata.labels.get("role") == "node-agent"]
    assert {pod.spec.node_name for pod in pods} == {"n1", "n2"}
    started = len(cluster.velero.server.log.read_bytes())
    cluster.velero.server.stop()
    cluster.velero.server.start()
    cluster.eventually(
        "Velero has begun", lambda: b"Starting controllers" in cluster.velero.server.log.read_bytes()[started:]
    )
    assert b"node agent not found" not in cluster.velero.server.log.read_bytes()[started:], "as it warns where none is"


@pytest.mark.check(2)
def test_check_02_the_command_of_veleros_own_manifest_starts_the_agent(cluster: Cluster) -> None:
    printed = cluster.velero.cli(
        "install",
        "--dry-run",
        "-o=json",
        "--use-node-agent",
        "--no-default-backup-location",
        "--no-secret",
        "--use-volume-snapshots=false",
        "--features=EnableCSI,Unheard",
    )
    (manifest,) = [item for item in json.loads(printed)["items"] if item["kind"] == "DaemonSet"]
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["/velero"]
    port = free_ports(1)[0]
    extra = [f"--metrics-address=127.0.0.1:{port}", f"--kubeconfig={cluster.agents.kubeconfig}"]
    command = [sys.executable, "-c", "from agent.cli.velero import main; main()", *container["args"], *extra]
    folder = cluster.plane.folder / "stock-command"
    environment = {**cluster.velero.environment, "NODE_NAME": "n1", "VELERO_SCRATCH_DIR": str(folder)}
    program = ChildProgram("stock-command", command, folder, environment=environment)
    program.start()
    try:
        program.wait_until("starts", lambda: "self-test" in program.log.read_text(), seconds=120)
        assert "Unheard" in program.log.read_text()
    finally:
        program.stop()


@pytest.mark.check(4)
@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"one": "{}", "two": "{}"}, "one"),
        ({}, "one"),
        ({"config": "{nonsense"}, "JSON"),
        ({"config": '{"loadConcurrency": {"globalConfig": "many"}}'}, "globalConfig"),
    ],
)
def test_check_04_a_bad_configuration_is_refused_by_name(cluster: Cluster, data: dict[str, str], word: str) -> None:
    metadata = {"name": "bad-config", "namespace": NAMESPACE}
    cluster.plane.kubectl("delete", "configmap", "bad-config", f"--namespace={NAMESPACE}", "--ignore-not-found")
    cluster.plane.apply(cast(Any, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
    done = subprocess.run(
        [
            str(LIGHTER),
            "agent",
            "run",
            "--node=n1",
            "--node-agent-configmap=bad-config",
            f"--kubeconfig={cluster.agents.kubeconfig}",
            "--metrics-address=127.0.0.1:0",
        ],
        env=cluster.velero.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "bad-config" in done.stdout + done.stderr and word in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.check(4)
def test_check_04_unknown_keys_are_no_hindrance(cluster: Cluster) -> None:
    cluster.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 1}, "keyOfANewerVelero": {"a": 1}})
    cluster.agents.restart()
    namespace, _ = cluster.application()
    assert cluster.wait_final(cluster.upload(namespace)).status.phase is Phase.COMPLETED


@pytest.mark.check(5)
def test_check_05_all_metrics_are_there_before_the_first_job(cluster: Cluster) -> None:
    cluster.agents.restart()
    found = cluster.agents.metrics("n1")
    for what in ("data_upload", "data_download"):
        for outcome in ("success", "failure", "cancel"):
            assert f'podVolume_{what}_{outcome}_total{{node="n1"}} 0.0' in found
    for what in ("enqueue", "dequeue"):
        assert f'podVolume_pod_volume_backup_{what}_count{{node="n1"}} 0.0' in found
    for kind, name in ("histogram", "latency_seconds"), ("gauge", "latency_seconds_gauge"):
        assert f"# TYPE podVolume_pod_volume_operation_{name} {kind}" in found


@pytest.mark.check(30)
@pytest.mark.parametrize("snapshot", ["", "0123456789abcdef0123456789abcdef"])
def test_check_30_a_restore_of_an_unknown_snapshot_fails_fast(cluster: Cluster, snapshot: str) -> None:
    namespace, _ = cluster.application()
    assert cluster.wait_final(cluster.upload(namespace)).status.phase is Phase.COMPLETED
    cluster.plane.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "target", "namespace": namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": STORAGE_CLASS,
                "resources": {"requests": {"storage": "64Mi"}},
                "selector": {"matchLabels": {"velero.io/dynamic-pv-restore": f"{namespace}.target.x"}},
            },
        }
    )
    name = f"unknown-{snapshot[:4] or 'empty'}"
    spec = {
        "backupStorageLocation": "default",
        "operationTimeout": "1m0s",
        "snapshotID": snapshot,
        "sourceNamespace": namespace,
        "targetVolume": {"namespace": namespace, "pv": "", "pvc": "target"},
    }
    make(cluster, DATA_DOWNLOADS, "DataDownload", name, spec)
    assert wait_failed(cluster, DATA_DOWNLOADS, name).startswith("snapshot.not-found")
    cluster.assert_clean()


@pytest.mark.check(36)
def test_check_36_a_failed_pod_volume_restore_leaves_the_pod_waiting(cluster: Cluster) -> None:
    namespace, volume = cluster.application()
    assert cluster.wait_final(cluster.upload(namespace)).status.phase is Phase.COMPLETED
    pod = waiting_pod(cluster, namespace)
    spec = {
        "backupStorageLocation": "default",
        "pod": {"kind": "Pod", "name": "waiting", "namespace": namespace, "uid": pod.metadata.uid},
        "repoIdentifier": "",
        "snapshotID": "0123456789abcdef0123456789abcdef",
        "sourceNamespace": namespace,
        "uploaderType": "kopia",
        "volume": "data",
    }
    make(cluster, POD_VOLUME_RESTORES, "PodVolumeRestore", "broken", spec)
    assert wait_failed(cluster, POD_VOLUME_RESTORES, "broken").startswith("snapshot.not-found")
    assert not (volume / ".velero").exists()
    assert cluster.get(PODS, "waiting", namespace).status.init_container_statuses[0].state.running is not None
    cluster.plane.kubectl("delete", "pod", "waiting", f"--namespace={namespace}")


@pytest.mark.check(34)
@pytest.mark.parametrize("uploader", ["restic"])
def test_check_34_a_pod_volume_backup_that_cannot_be_done_fails_promptly(cluster: Cluster, uploader: str) -> None:
    namespace, _ = cluster.application()
    pod = cluster.get(PODS, "app", namespace)
    spec = {
        "backupStorageLocation": "default",
        "node": pod.spec.node_name,
        "pod": {"kind": "Pod", "name": "app", "namespace": namespace, "uid": pod.metadata.uid},
        "repoIdentifier": "",
        "uploaderType": uploader,
        "volume": "data",
    }
    make(cluster, POD_VOLUME_BACKUPS, "PodVolumeBackup", f"by-{uploader}", spec)
    assert wait_failed(cluster, POD_VOLUME_BACKUPS, f"by-{uploader}", 20).startswith("mover.unsupported")


@pytest.mark.check(44)
def test_check_44_no_object_that_is_final_keeps_a_finalizer(cluster: Cluster) -> None:
    namespace, _ = cluster.application()
    cluster.wait_final(cluster.upload(namespace))

    def kept() -> list[str]:
        found = [one for resource in KINDS for one in cluster.objects(resource, NAMESPACE)]
        return [str(one.key) for one in found if one.status.phase.is_final and one.metadata.finalizers]

    # After the phase; a snapshot that a provisioner could not copy is let go of at its next look, in some minutes.
    cluster.eventually("the finalizers go", lambda: not kept(), 360)

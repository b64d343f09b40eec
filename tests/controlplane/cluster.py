"""Everything together: control plane, storage, nodes, Velero, agents; and what tests ask of it again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent.kube.codec import JsonObject, ObjectT, decode
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.pods import Pod
from agent.kube.resource import (
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Resource,
)
from agent.kube.selector import EVERYTHING, Selector
from agent.kube.snapshots import VolumeSnapshot
from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_csi import DRIVER, SNAPSHOT_CLASS, STORAGE_CLASS, CsiStorage
from agent.testing.control_plane_process import eventually, tool
from agent.testing.control_plane_velero import BUCKET, NAMESPACE, PASSWORD, VeleroServer
from agent.testing.kopia_client import KopiaClient
from agent.testing.s3_server import SeaweedServer
from agent.testing.simulated_node import SimulatedNodes
from tests.controlplane.agents import STOCK_CONFIG, Agents

_numbers = count(1)
_PROVISIONER_MARK = "provisioner.storage.kubernetes.io/volumesnapshot-as-source-protection"


@dataclass(frozen=True)
class Cluster:
    plane: ControlPlane
    storage: CsiStorage
    nodes: SimulatedNodes
    s3: SeaweedServer
    velero: VeleroServer
    agents: Agents

    # Objects

    def objects(
        self, resource: Resource[ObjectT], namespace: str = "", selector: Selector = EVERYTHING
    ) -> list[ObjectT]:
        where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"] if resource.namespaced else []
        labels = [f"--selector={selector.label_text}"] if selector.label_text else []
        answer = json.loads(self.plane.kubectl("get", _full(resource), "-o=json", *where, *labels))
        return [decode(resource.view, item) for item in answer["items"]]

    def get(self, resource: Resource[ObjectT], name: str, namespace: str = "") -> ObjectT:
        where = [f"--namespace={namespace}"] if namespace else []
        return decode(resource.view, json.loads(self.plane.kubectl("get", _full(resource), name, "-o=json", *where)))

    def knows(self, plural: str, *path: str) -> bool:
        """Whether objects of this kind have a field; older servers lack some."""
        definition = json.loads(self.plane.kubectl("get", "crd", f"{plural}.velero.io", "-o=json"))
        (version,) = [one for one in definition["spec"]["versions"] if one["storage"]]
        schema = version["schema"]["openAPIV3Schema"]
        for name in path:
            if name not in schema["properties"]:
                return False
            schema = schema["properties"][name]
        return True

    def patch(self, resource: Resource[Any], name: str, patch: JsonObject, namespace: str = "") -> None:
        where = [f"--namespace={namespace}"] if namespace else []
        self.plane.kubectl("patch", _full(resource), name, "--type=merge", f"-p={json.dumps(patch)}", *where)

    def eventually(self, what: str, check: Callable[[], bool], seconds: float = 60.0) -> None:
        eventually(what, check, seconds=seconds, interval=0.2)

    # Applications

    def namespace(self) -> str:
        """A new namespace in which pods can be made."""
        name = f"shop-{next(_numbers)}"
        self.plane.kubectl("create", "namespace", name)
        get = ["get", "serviceaccount", "default", f"--namespace={name}"]
        self.eventually("the default service account", lambda: self.plane.try_kubectl(*get).returncode == 0)
        return name

    def claim(
        self, namespace: str, name: str, *, block: bool = False, size: str = "64Mi", storage_class: str = STORAGE_CLASS
    ) -> None:
        self.plane.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": storage_class,
                    "volumeMode": "Block" if block else "Filesystem",
                    "resources": {"requests": {"storage": size}},
                },
            }
        )

    def pod(
        self,
        namespace: str,
        name: str,
        claims: Iterable[str] = (),
        *,
        volumes: Iterable[Mapping[str, Any]] = (),
        block: bool = False,
        node: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """A pod that has its claims and other volumes mounted, and runs."""
        own = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
        every = [*own, *volumes]
        mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in every]
        devices = [{"name": one["name"], "devicePath": f"/dev/{one['name']}"} for one in every]
        container = {"name": "main", "image": "lighterage.test/app:1"}
        container |= {"volumeDevices": devices} if block else {"volumeMounts": mounts}  # type: ignore[dict-item]
        spec: dict[str, Any] = {"containers": [container], "volumes": every, "terminationGracePeriodSeconds": 0}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
        self.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})  # type: ignore[dict-item]
        self.wait_running(namespace, name)

    def wait_running(self, namespace: str, name: str) -> Pod:
        where = f"--namespace={namespace}"
        self.plane.kubectl("wait", "--for=condition=Ready", f"pod/{name}", where, "--timeout=60s")
        return self.get(PODS, name, namespace)

    def application(self, **options: Any) -> tuple[str, Path]:
        """A namespace with the pod `app` that has the claim `data`; the folder with the volume's files."""
        namespace = self.namespace()
        self.claim(namespace, "data", **options)
        self.pod(namespace, "app", ["data"], block=bool(options.get("block")))
        return namespace, self.storage.volume_of(namespace, "data")

    # Velero

    def back_up(self, *flags: str, namespace: str, wait: bool = True) -> str:
        """The name of the backup, which has ended if `wait`."""
        name = f"backup-{next(_numbers)}"
        self.velero.cli("backup", "create", name, f"--include-namespaces={namespace}", *flags)
        if wait:
            self.wait_ended("backup", name)
        return name

    def restore(self, backup: str, *flags: str, source: str, wait: bool = True) -> tuple[str, str]:
        """Restore a backup into a new namespace; the name of the restore and of the namespace."""
        name, target = f"restore-{next(_numbers)}", f"shop-{next(_numbers)}"
        mapping = f"--namespace-mappings={source}:{target}"
        self.velero.cli("restore", "create", name, f"--from-backup={backup}", mapping, *flags)
        if wait:
            self.wait_ended("restore", name)
        return name, target

    def wait_ended(self, kind: str, name: str, seconds: float = 90.0) -> None:
        """Wait until a backup or restore has ended, well or not."""
        ended = {"Completed", "PartiallyFailed", "Failed", "FailedValidation"}
        try:
            self.eventually(f"{kind} {name} ends", lambda: self.velero.phase(kind, name) in ended, seconds)
        except TimeoutError as error:
            pytest.fail(f"{error}; it is {self.velero.phase(kind, name)}:\n{self.work()}")

    def work(self) -> str:
        """Phase and message of all that the agents have to do, for people."""
        columns = "KIND:.kind,NAME:.metadata.name,PHASE:.status.phase,NODE:.status.node,MESSAGE:.status.message"
        kinds = "datauploads,datadownloads,podvolumebackups,podvolumerestores"
        return self.plane.kubectl("get", kinds, f"--namespace={self.velero.namespace}", f"-o=custom-columns={columns}")

    def config(self, resource: str, document: Mapping[str, Any]) -> None:
        """A ConfigMap of Velero's namespace with one document."""
        self.plane.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": resource, "namespace": self.velero.namespace},
                "data": {"config": json.dumps(document)},
            }
        )

    def default_config(self) -> None:
        self.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 4}})
        where = f"--namespace={self.velero.namespace}"
        self.plane.kubectl("delete", "configmap", "lighterage-config", where, "--ignore-not-found")

    # DataUploads without Velero

    def upload(self, namespace: str, claim: str = "data", **spec: Any) -> str:
        """Take a snapshot and make a DataUpload of it, as Velero's CSI plug-in does; its name."""
        name = f"upload-{next(_numbers)}"
        self.plane.apply(
            {
                "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshot",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "volumeSnapshotClassName": SNAPSHOT_CLASS,
                    "source": {"persistentVolumeClaimName": claim},
                },
            }
        )
        self.eventually(
            "the snapshot is bound",
            lambda: bool(self.get(VOLUME_SNAPSHOTS, name, namespace).status.bound_volume_snapshot_content_name),
        )
        found = self.get(PERSISTENT_VOLUME_CLAIMS, claim, namespace)
        driver = {"driver": DRIVER} if self.knows("datauploads", "spec", "csiSnapshot", "driver") else {}
        self.plane.apply(
            {
                "apiVersion": "velero.io/v2alpha1",
                "kind": "DataUpload",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": {
                        "velero.io/async-operation-id": f"du-{name}",
                        "velero.io/backup-name": name,
                        "velero.io/pvc-uid": found.metadata.uid,
                    },
                },
                "spec": {
                    "snapshotType": "CSI",
                    "csiSnapshot": {
                        "volumeSnapshot": name,
                        "storageClass": found.spec.storage_class_name or "",
                        "snapshotClass": SNAPSHOT_CLASS,
                        **driver,
                    },
                    "sourcePVC": claim,
                    "sourceNamespace": namespace,
                    "backupStorageLocation": "default",
                    "operationTimeout": "2m0s",
                    **spec,
                },
            }
        )
        return name

    def upload_of(self, name: str) -> DataUpload:
        return self.get(DATA_UPLOADS, name, NAMESPACE)

    def wait_phase(self, name: str, *phases: Phase, seconds: float = 60.0) -> DataUpload:
        """Wait until a DataUpload is in one of these phases; it fails at once when it is final in another."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.upload_of(name)
            if found.status.phase in phases:
                return found
            if found.status.phase.is_final or time.monotonic() > deadline:
                pytest.fail(f"{name} is {found.status.phase or 'New'}, not {'/'.join(phases)}: {found.status.message}")
            time.sleep(0.1)

    def wait_final(self, name: str, seconds: float = 90.0) -> DataUpload:
        return self.wait_phase(name, Phase.COMPLETED, Phase.FAILED, Phase.CANCELED, seconds=seconds)

    def leftovers(self) -> list[str]:
        """What jobs have left behind in Velero's namespace and in the storage; see `assert_clean`."""
        found = [
            f"pod {pod.key}"
            for pod in self.objects(PODS, self.velero.namespace)
            if pod.metadata.labels.get("role") is None
        ]
        found += [f"claim {claim.key}" for claim in self.objects(PERSISTENT_VOLUME_CLAIMS, self.velero.namespace)]
        found += [f"snapshot {one.key}" for one in self.objects(VOLUME_SNAPSHOTS) if not _is_held_by_provisioner(one)]
        found += [f"content {content.key.name}" for content in self.objects(VOLUME_SNAPSHOT_CONTENTS)]
        claimed = {claim.metadata.uid for claim in self.objects(PERSISTENT_VOLUME_CLAIMS)}
        for volume in self.objects(PERSISTENT_VOLUMES):
            reference = volume.spec.claim_ref
            if reference is None or (reference.uid or "-") not in claimed:
                found.append(f"volume {volume.metadata.name} ({volume.status.phase})")
        return found + [f"snapshot {handle} of the storage" for handle in self.storage.snapshots()]

    def assert_clean(self, seconds: float = 30.0) -> None:
        """Nothing that a job made is left (contract §3.1, obligation)."""
        try:
            self.eventually("nothing is left behind", lambda: not self.leftovers(), seconds)
        except TimeoutError:
            pytest.fail("left behind: " + ", ".join(self.leftovers()))

    # The other side

    def kopia(self, namespace: str) -> KopiaClient:
        """Velero's own engine, connected to the repository of a namespace."""
        home = self.plane.folder / f"kopia-{next(_numbers)}"
        home.mkdir()
        client = KopiaClient(tool("kopia"), home, home, PASSWORD)
        client.run(
            "repository",
            "connect",
            "s3",
            f"--bucket={BUCKET}",
            f"--prefix=kopia/{namespace}/",
            f"--endpoint=127.0.0.1:{self.s3.port}",
            "--disable-tls",
            "--region=us-east-1",
            f"--access-key={self.s3.access_key}",
            f"--secret-access-key={self.s3.secret_key}",
            f"--cache-directory={home}/cache",
            "--override-username=default",
            "--override-hostname=default",
        )
        return client

    def restored_by_kopia(self, namespace: str, snapshot: str) -> Path:
        """The files of a snapshot as kopia restores them; it has found no fault in the repository before."""
        client = self.kopia(namespace)
        client.run("snapshot", "verify", "--verify-files-percent=100")
        target = client.home / "restored"
        client.run("snapshot", "restore", snapshot, str(target))
        return target


@contextmanager
def cluster_around(plane: ControlPlane, s3: SeaweedServer, nodes: Iterable[str]) -> Iterator[Cluster]:
    """What a control plane and an S3 server lack: storage, nodes, Velero, and our manifest in the place of its own."""
    with ExitStack() as stack:
        storage = stack.enter_context(CsiStorage(plane))
        simulated = stack.enter_context(SimulatedNodes(plane, storage))
        for name in nodes:
            simulated.add(name)
        velero = stack.enter_context(VeleroServer(plane, s3))
        agents = Agents(plane, simulated, velero)
        stack.callback(agents.stop_all)
        agents.install()
        yield Cluster(plane, storage, simulated, s3, velero, agents)


def _is_held_by_provisioner(snapshot: VolumeSnapshot) -> bool:
    """Whether a deleted snapshot only waits for the provisioner.

    It marks the source of a volume that it could not make, and looks for such marks every few minutes.
    """
    return snapshot.metadata.deletion_timestamp is not None and snapshot.metadata.finalizers == (_PROVISIONER_MARK,)


def _full(resource: Resource[Any]) -> str:
    return f"{resource.plural}.{resource.version}.{resource.group}" if resource.group else resource.plural

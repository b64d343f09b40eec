"""An application with volumes: one pod that mounts them, content made and described inside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.cluster import Cluster, Object, phase, show

IMAGE: Final = os.environ.get("E2E_WORKLOAD_IMAGE", "lighterage.test/workload:1")
STORAGE_CLASS: Final = os.environ.get("E2E_STORAGE_CLASS", "dir")
LATE_STORAGE_CLASS: Final = os.environ.get("E2E_LATE_STORAGE_CLASS", "dir-wffc")
"""A class that binds when the first pod uses the claim."""
DRIVER: Final = "dir.csi.lighterage.test"
"""Of the project's own clusters; others have another one."""
LOCAL_FOLDER: Final = "/var/lib/kubelet/lighterage-e2e"
"""On the node: where volumes that the node itself holds lie."""
_SCRIPT: Final = (Path(__file__).parent / "tree_script.py").read_text()

Content = dict[str, list[object]] | str
"""Of one volume: for files, what `tree_script` says of each path; for a device, its hash."""
_TIME: Final = 3
"""Where it stands in what the script says."""


def differences(before: dict[str, Content], after: dict[str, Content], *, by_stock: bool = False) -> list[str]:
    """What a restore did not bring back, in words; `by_stock`: without the times that the stock agent does not keep."""
    found = [f"volume {volume}: there is no such" for volume in before.keys() ^ after.keys()]
    for volume in before.keys() & after.keys():
        then, now = before[volume], after[volume]
        if isinstance(then, str) or isinstance(now, str):
            found += [f"{volume}: {then} was {now}"] if then != now else []
            continue
        for path in sorted(then.keys() | now.keys()):
            old, new = then.get(path), now.get(path)
            if old and new and (_kept_by_stock(old) == _kept_by_stock(new) if by_stock else old == new):
                continue
            found.append(f"{volume}/{path}: was {old}, is {new}")
    return found


def _kept_by_stock(entry: list[object]) -> list[object]:
    """Without the time of a folder, which ends as that of its restore; a link's in microseconds, rounded up."""
    mode, time = str(entry[0]), int(str(entry[_TIME]))
    kept = {"d": 0, "l": -(-time // 1000)}.get(mode[0], time)
    return [*entry[:_TIME], kept, *entry[_TIME + 1 :]]


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of the pod: `kind` is claim, block, empty, ephemeral, local or projected (never backed up)."""

    name: str
    kind: str = "claim"
    storage_class: str = STORAGE_CLASS
    size: str = "2Gi"

    @property
    def path(self) -> str:
        return f"/dev/{self.name}" if self.kind == "block" else f"/data/{self.name}"


@dataclass(slots=True)
class Workload:
    """The application `app` in one namespace."""

    cluster: Cluster
    namespace: str
    volumes: Sequence[Volume]
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)

    def deploy(self, seconds: float = 90) -> None:
        """Make namespace, claims and pod, and wait so long at most until it runs."""
        self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        account = ("ServiceAccount", "default")
        self.cluster.wait("a service account", 30, lambda: self._has_account(*account))
        for volume in self.volumes:
            if volume.kind == "local":
                self.cluster.create(self.local_volume(volume))
            if volume.kind in {"claim", "block", "local"}:
                self.cluster.create(self._claim(volume))
        self.cluster.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "settings", "namespace": self.namespace},
                "data": {"greeting": "hello"},
            },
            self._pod(),
        )
        self.wait_until_running(seconds)

    def _has_account(self, _kind: str, name: str) -> bool:
        return name in self.cluster.kubectl("get", "serviceaccounts", f"--namespace={self.namespace}", "--output=name")

    def wait_until_running(self, seconds: float = 90) -> None:
        def pod() -> Object | None:
            return self.cluster.get("Pod", "app", self.namespace)

        self.cluster.wait(
            f"the pod in {self.namespace} runs", seconds, lambda: phase(pod()) == "Running", show=lambda: show(pod())
        )

    def make(self, volume: str, *kinds: str, seed: int = 7) -> None:
        """Write content of these kinds (see `tree_script`) into a volume."""
        path = next(found.path for found in self.volumes if found.name == volume)
        self._python("make", path, str(seed), *kinds)

    def shell(self, script: str) -> str:
        return self.cluster.execute(self.namespace, "app", "sh", "-c", script)

    def content(self) -> dict[str, Content]:
        """Every entry of every volume that is backed up: by path of the volume."""
        folders = [v.path for v in self.volumes if v.kind not in {"block", "projected"}]
        devices = [v.path for v in self.volumes if v.kind == "block"]
        found: dict[str, Content] = {}
        if folders:
            found |= json.loads(self._python("describe", *folders))
        if devices:
            found |= json.loads(self._python("describe-device", *devices))
        return found

    def _python(self, *arguments: str) -> str:
        return self.cluster.execute(self.namespace, "app", "python3", "-", *arguments, given=_SCRIPT)

    def local_volume(self, volume: Volume) -> Object:
        """A PersistentVolume in a folder of the node. The folder is made by a pod of its own."""
        name = f"{self.namespace}-{volume.name}"
        self._prepare_local_folder(name)
        node = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": volume.size},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": name,
                "local": {"path": f"{LOCAL_FOLDER}/{name}"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
            },
        }

    def _prepare_local_folder(self, name: str) -> None:
        """An empty one: what an earlier volume left there is removed."""
        path = f"{LOCAL_FOLDER}/{name}"
        script = f"rm -rf {path} && mkdir -p {path} && chmod 777 {path}"
        mount = {"name": "top", "mountPath": LOCAL_FOLDER}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"prepare-{name}", "namespace": "default"},
            "spec": {
                "restartPolicy": "Never",
                "containers": [container("prepare", ["sh", "-c", script], mounts=[mount])],
                "volumes": [{"name": "top", "hostPath": {"path": LOCAL_FOLDER, "type": "DirectoryOrCreate"}}],
            },
        }
        self.cluster.create(pod)
        pod_name = pod["metadata"]["name"]  # type: ignore[index]

        def done() -> bool:
            return phase(self.cluster.get("Pod", str(pod_name), "default")) == "Succeeded"

        self.cluster.wait("a folder of the node", 60, done)
        self.cluster.delete("Pod", str(pod_name), "default", grace=0)

    def _claim(self, volume: Volume) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": volume.name, "namespace": self.namespace, "labels": {"lighterage.test/app": "app"}},
            "spec": self._claim_spec(volume),
        }

    def _claim_spec(self, volume: Volume) -> Object:
        class_name = f"{self.namespace}-{volume.name}" if volume.kind == "local" else volume.storage_class
        return {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class_name,
            "volumeMode": "Block" if volume.kind == "block" else "Filesystem",
            "resources": {"requests": {"storage": volume.size}},
        }

    def _pod(self) -> Object:
        mounts = [{"name": v.name, "mountPath": v.path} for v in self.volumes if v.kind != "block"]
        devices = [{"name": v.name, "devicePath": v.path} for v in self.volumes if v.kind == "block"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "app", "namespace": self.namespace, "annotations": dict(self.annotations)},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "nodeSelector": dict(self.node_selector),
                "containers": [container("app", ["tail", "-f", "/dev/null"], mounts=mounts, devices=devices)],
                "volumes": [{"name": v.name, **self._source(v)} for v in self.volumes],
            },
        }

    def _source(self, volume: Volume) -> Object:
        match volume.kind:
            case "empty":
                return {"emptyDir": {}}
            case "ephemeral":
                return {"ephemeral": {"volumeClaimTemplate": {"spec": self._claim_spec(volume)}}}
            case "projected":
                sources = [
                    {"configMap": {"name": "settings"}},
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]
                return {"projected": {"sources": sources}}
            case _:
                return {"persistentVolumeClaim": {"claimName": volume.name}}


def container(
    name: str, command: Sequence[str], *, mounts: Sequence[Object] = (), devices: Sequence[Object] = ()
) -> Object:
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "volumeMounts": list(mounts),
        "volumeDevices": list(devices),
    }

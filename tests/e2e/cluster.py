"""A cluster as the tests see it: whatever KUBECONFIG names. Objects are plain JSON; commands run through kubectl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

VELERO_NAMESPACE = "velero"

Object = dict[str, Any]

_API = {
    "Namespace": "v1",
    "Pod": "v1",
    "PersistentVolume": "v1",
    "PersistentVolumeClaim": "v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "Event": "v1",
    "Job": "batch/v1",
    "DaemonSet": "apps/v1",
    "Deployment": "apps/v1",
    "StorageClass": "storage.k8s.io/v1",
    "VolumeSnapshotClass": "snapshot.storage.k8s.io/v1",
    "VolumeSnapshot": "snapshot.storage.k8s.io/v1",
    "VolumeSnapshotContent": "snapshot.storage.k8s.io/v1",
    "Backup": "velero.io/v1",
    "Restore": "velero.io/v1",
    "Schedule": "velero.io/v1",
    "BackupRepository": "velero.io/v1",
    "BackupStorageLocation": "velero.io/v1",
    "DeleteBackupRequest": "velero.io/v1",
    "PodVolumeBackup": "velero.io/v1",
    "PodVolumeRestore": "velero.io/v1",
    "DataUpload": "velero.io/v2alpha1",
    "DataDownload": "velero.io/v2alpha1",
}


class NotInTime(AssertionError):
    """Something did not happen within its bound; the message shows how things stood last."""


class Cluster:
    """Reads, writes and waits. One instance per test process."""

    def __init__(self, kubeconfig: str) -> None:
        self.kubeconfig = kubeconfig
        self._client = DynamicClient(config.new_client_from_config(kubeconfig))

    def resource(self, kind: str) -> Any:
        """The client of a kind, for what the methods here do not do."""
        return self._client.resources.get(api_version=_API[kind], kind=kind)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None when there is none."""
        try:
            found: Object = self.resource(kind).get(name=name, namespace=namespace).to_dict()
        except NotFoundError:
            return None
        return found

    def list(self, kind: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        answer = self.resource(kind).get(namespace=namespace, label_selector=labels).to_dict()
        return list(answer["items"])

    def create(self, *manifests: Object) -> None:
        """Make objects; one that is there already is left as it is."""
        for manifest in manifests:
            metadata = manifest["metadata"]
            try:
                self.resource(manifest["kind"]).create(body=manifest, namespace=metadata.get("namespace"))
            except ConflictError:
                continue

    def patch(self, kind: str, name: str, namespace: str | None, change: Object) -> Object:
        """A JSON merge patch."""
        content = "application/merge-patch+json"
        patched: Object = (
            self.resource(kind).patch(name=name, namespace=namespace, body=change, content_type=content).to_dict()
        )
        return patched

    def delete(self, kind: str, name: str, namespace: str | None = None, *, grace: int | None = None) -> None:
        """Ask for it; what is gone is no error."""
        options = {} if grace is None else {"grace_period_seconds": grace}
        try:
            self.resource(kind).delete(name=name, namespace=namespace, **options)
        except NotFoundError:
            return

    def delete_namespaces(self, names: Iterable[str], *, seconds: float = 120) -> None:
        """Delete namespaces and wait until they are gone."""
        names = list(names)
        for name in names:
            self.delete("Namespace", name)
        for name in names:
            self.wait(f"namespace {name} is gone", seconds, partial(self._is_gone, name))

    def _is_gone(self, namespace: str) -> bool:
        return self.get("Namespace", namespace) is None

    def wait(self, what: str, seconds: float, holds: Callable[[], object], *, show: Callable[[], object] = str) -> Any:
        """The first true value of `holds`. Raises `NotInTime` with what `show` says."""
        deadline = time.monotonic() + seconds
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise NotInTime(f"not within {seconds:g} s: {what}\n{show()}")
            time.sleep(0.4)
        return value

    def kubectl(self, *arguments: str, given: str | bytes | None = None, seconds: float = 120) -> str:
        """Raises `AssertionError` with what it said."""
        return run("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, given=given, seconds=seconds)

    def execute(self, namespace: str, pod: str, *command: str, given: str | None = None) -> str:
        """Run a command in the first container of a pod, and return its standard output."""
        return self.kubectl("exec", "--stdin", f"--namespace={namespace}", pod, "--", *command, given=given)

    def describe_velero_namespace(self) -> str:
        """How things stand, for the message of a test that failed: what has not ended, pods, last events."""
        lines = []
        for kind in (
            "Pod",
            "PersistentVolumeClaim",
            "DataUpload",
            "DataDownload",
            "PodVolumeBackup",
            "PodVolumeRestore",
        ):
            for found in self.list(kind, VELERO_NAMESPACE):
                if phase(found) not in {"Completed", "Canceled", "Succeeded"}:
                    status = found.get("status") or {}
                    lines.append(
                        f"{kind} {found['metadata']['name']}: {phase(found)} {status.get('message', '')[:500]}"
                    )
        events = self.kubectl("get", "events", f"--namespace={VELERO_NAMESPACE}", "--sort-by=.lastTimestamp")
        return "\n".join([*lines, *events.splitlines()[-15:]])


def run(*command: str, given: str | bytes | None = None, seconds: float = 120) -> str:
    """The standard output of a command. Raises `AssertionError` with what it said."""
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=seconds)
    if done.returncode != 0:
        said = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{said}")
    return done.stdout.decode()


def phase(found: Object | None) -> str:
    return str(((found or {}).get("status") or {}).get("phase") or "")


def show(found: Object | None) -> str:
    """The status, for messages."""
    return json.dumps((found or {}).get("status"), indent=1, default=str)

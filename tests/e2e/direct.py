"""DataUploads and DataDownloads made by a test in Velero's place, where it has to say what is in them, and when."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, phase, show
from tests.e2e.workload import STORAGE_CLASS, Workload

SNAPSHOT_CLASS: Final = os.environ.get("E2E_SNAPSHOT_CLASS", "dir")
FINAL: Final = frozenset({"Completed", "Failed", "Canceled"})


@dataclass(frozen=True, slots=True)
class Job:
    """One DataUpload or DataDownload."""

    cluster: Cluster
    kind: str
    name: str

    def read(self) -> Object | None:
        return self.cluster.get(self.kind, self.name, VELERO_NAMESPACE)

    def wait_for(self, *phases: str, seconds: float = 90) -> Object:
        """The object, once it is in one of these phases; ended in another one is an error at once."""
        wanted = {*phases}

        def there() -> Object | None:
            found = self.read()
            if phase(found) in FINAL - wanted:
                raise AssertionError(f"{self.kind} {self.name} is {phase(found)}, not {wanted}: {show(found)}")
            return found if phase(found) in wanted else None

        found: Object = self.cluster.wait(
            f"{self.kind} {self.name} is {' or '.join(sorted(wanted))}",
            seconds,
            there,
            show=lambda: f"{show(self.read())}\n{self.cluster.describe_velero_namespace()}",
        )
        return found

    def cancel(self) -> None:
        self.cluster.patch(self.kind, self.name, VELERO_NAMESPACE, {"spec": {"cancel": True}})

    def delete(self) -> None:
        self.cluster.delete(self.kind, self.name, VELERO_NAMESPACE)


def snapshot(app: Workload, claim: str) -> None:
    """A VolumeSnapshot of a claim, under the claim's name, ready to use."""
    app.cluster.create(
        {
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshot",
            "metadata": {"name": claim, "namespace": app.namespace},
            "spec": {"volumeSnapshotClassName": SNAPSHOT_CLASS, "source": {"persistentVolumeClaimName": claim}},
        }
    )

    def ready() -> bool:
        found = app.cluster.get("VolumeSnapshot", claim, app.namespace) or {}
        return bool((found.get("status") or {}).get("readyToUse"))

    app.cluster.wait(f"snapshot of {claim}", 60, ready)


def data_upload(app: Workload, claim: str, *, location: str = "default", storage_class: str = STORAGE_CLASS) -> Job:
    """Take a snapshot of a claim and have it uploaded."""
    snapshot(app, claim)
    name = f"{app.namespace}-{claim}"
    labels = {"velero.io/backup-name": name, "velero.io/async-operation-id": name}
    app.cluster.create(
        {
            "apiVersion": "velero.io/v2alpha1",
            "kind": "DataUpload",
            "metadata": {"name": name, "namespace": VELERO_NAMESPACE, "labels": labels},
            "spec": {
                "snapshotType": "CSI",
                "csiSnapshot": {
                    "volumeSnapshot": claim,
                    "storageClass": storage_class,
                    "snapshotClass": SNAPSHOT_CLASS,
                },
                "sourcePVC": claim,
                "sourceNamespace": app.namespace,
                "backupStorageLocation": location,
                "operationTimeout": "1m0s",
            },
        }
    )
    return Job(app.cluster, "DataUpload", name)


def data_download(app: Workload, claim: str, *, snapshot_id: str, source_namespace: str) -> Job:
    """Have a snapshot written to the volume of a claim that waits for it."""
    name = f"{app.namespace}-{claim}"
    app.cluster.create(
        {
            "apiVersion": "velero.io/v2alpha1",
            "kind": "DataDownload",
            "metadata": {"name": name, "namespace": VELERO_NAMESPACE},
            "spec": {
                "targetVolume": {"pvc": claim, "pv": "", "namespace": app.namespace},
                "backupStorageLocation": "default",
                "snapshotID": snapshot_id,
                "sourceNamespace": source_namespace,
                "operationTimeout": "1m0s",
            },
        }
    )
    return Job(app.cluster, "DataDownload", name)

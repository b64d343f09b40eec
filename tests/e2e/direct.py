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


def jobs_of(app: Workload) -> list[Job]:
    """What moves data for an application, whoever made it."""
    return [
        Job(app.cluster, kind, found["metadata"]["name"])
        for kind in ("DataUpload", "DataDownload")
        for found in app.cluster.list(kind, VELERO_NAMESPACE)
        if found["metadata"]["name"].startswith(app.namespace)
    ]


def snapshot(app: Workload, claim: str, *, snapshot_class: str = SNAPSHOT_CLASS) -> None:
    """A VolumeSnapshot of a claim, under the claim's name."""
    app.cluster.create(
        {
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshot",
            "metadata": {"name": claim, "namespace": app.namespace},
            "spec": {"volumeSnapshotClassName": snapshot_class, "source": {"persistentVolumeClaimName": claim}},
        }
    )


def data_upload(
    app: Workload,
    claim: str,
    *,
    location: str = "default",
    snapshot_class: str = "",
    storage_class: str = STORAGE_CLASS,
    turn: str = "",
) -> Job:
    """Take a snapshot of a claim and have it uploaded; one of a class that is named is not waited for.

    `turn` tells uploads of the same claim from each other.
    """
    snapshot(app, claim, snapshot_class=snapshot_class or SNAPSHOT_CLASS)

    def ready() -> bool:
        found = app.cluster.get("VolumeSnapshot", claim, app.namespace) or {}
        return bool((found.get("status") or {}).get("readyToUse"))

    if not snapshot_class:
        app.cluster.wait(f"snapshot of {claim}", 60, ready)
    name = f"{app.namespace}-{claim}{turn and '-'}{turn}"
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
                    "snapshotClass": snapshot_class or SNAPSHOT_CLASS,
                },
                "sourcePVC": claim,
                "sourceNamespace": app.namespace,
                "backupStorageLocation": location,
                "operationTimeout": "1m0s",
            },
        }
    )
    return Job(app.cluster, "DataUpload", name)


def waiting_claim(app: Workload, claim: str, *, storage_class: str = STORAGE_CLASS, size: str = "1Gi") -> None:
    """A claim as Velero's restore leaves it: nothing is provisioned for it, a DataDownload has to bring its volume."""
    app.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": app.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": storage_class,
                "resources": {"requests": {"storage": size}},
                "selector": {"matchLabels": {"velero.io/dynamic-pv-restore": f"{app.namespace}.{claim}.abcde"}},
            },
        }
    )


def data_download(app: Workload, claim: str, *, snapshot_id: str, location: str = "default") -> Job:
    """Have a snapshot of the application's namespace written to the volume of a claim that waits for it."""
    name = f"{app.namespace}-{claim}"
    app.cluster.create(
        {
            "apiVersion": "velero.io/v2alpha1",
            "kind": "DataDownload",
            "metadata": {"name": name, "namespace": VELERO_NAMESPACE},
            "spec": {
                "targetVolume": {"pvc": claim, "pv": "", "namespace": app.namespace},
                "backupStorageLocation": location,
                "snapshotID": snapshot_id,
                "sourceNamespace": app.namespace,
                "operationTimeout": "1m0s",
            },
        }
    )
    return Job(app.cluster, "DataDownload", name)

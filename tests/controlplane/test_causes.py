"""Why an object cannot be done, in its status within a minute where that cannot heal by itself.

All of them fail side by side: first with the password of the repositories, then without it, then with another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import pytest

from agent.controllers.job import WAITING_ANNOTATION
from agent.kube.job import Phase
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    Resource,
)
from agent.testing.control_plane import Manifest
from agent.testing.control_plane_csi import DRIVER, STORAGE_CLASS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.cluster import Cluster
from tests.controlplane.conftest import NODES
from tests.controlplane.objects import manifest, owner, waiting_pod

WITHIN: Final = timedelta(seconds=60)
PASSWORD: Final = "velero-repo-credentials"
UNKNOWN: Final = "0123456789abcdef0123456789abcdef"
REFUSED: Final = "no pool is called gold"
FULL: Final = "the pool has no room left"
KINDS: Final[Mapping[str, Resource[Any]]] = {
    "DataUpload": DATA_UPLOADS,
    "DataDownload": DATA_DOWNLOADS,
    "PodVolumeBackup": POD_VOLUME_BACKUPS,
    "PodVolumeRestore": POD_VOLUME_RESTORES,
}
RESTORES: Final = ("DataDownload", "PodVolumeRestore")
CSI: Final = ("DataUpload", "DataDownload")


@dataclass(frozen=True)
class Cause:
    code: str
    words: tuple[str, ...]
    """What a person has to find in the message."""
    kinds: tuple[str, ...] = tuple(KINDS)


CAUSES: Final = {
    "no-location": Cause("location.not-found", ("'nowhere'",)),
    "no-credentials": Cause("location.secret-missing", (f"Secret {NAMESPACE}/no-keys", "location keyless")),
    "no-password": Cause("location.secret-missing", (f"Secret {NAMESPACE}/{PASSWORD}",)),
    "wrong-password": Cause("repository.wrong-password", (f"Secret {NAMESPACE}/{PASSWORD}", "location default")),
    "unknown-snapshot": Cause("snapshot.not-found", (UNKNOWN, "location default"), RESTORES),
    "no-class": Cause("expose.provisioning-failed", ("storage class gone",), CSI),
    "refused": Cause("expose.provisioning-failed", (f"claim {NAMESPACE}/", REFUSED), CSI),
}
CASES: Final = [(cause, kind) for cause, one in CAUSES.items() for kind in one.kinds]


class Work:
    """Objects of one application that are made to fail."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace, _ = cluster.application()
        self._app = cluster.get(PODS, "app", self.namespace)
        self._waiting = waiting_pod(cluster, self.namespace)
        self._owner = owner(cluster)
        self._names: dict[tuple[str, str], str] = {}

    def add(self, cause: str, *, location: str = "default", storage_class: str = STORAGE_CLASS) -> None:
        """One object of each kind that the cause is of."""
        made = []
        for kind in CAUSES[cause].kinds if cause in CAUSES else ("DataDownload",):
            self._names[cause, kind] = name = f"{cause}-{kind.lower()}"
            if kind == "DataUpload":
                claim = "data" if storage_class == STORAGE_CLASS else storage_class
                spec = {"backupStorageLocation": location}
                self._names[cause, kind] = self.cluster.upload(self.namespace, claim, **spec)
                continue
            spec = self._download(name, location) if kind == "DataDownload" else self._pod_volume(kind, location)
            made += [self._target(name, storage_class)] if kind == "DataDownload" else []
            made.append(manifest(KINDS[kind], kind, name, spec, self._owner))
        self.cluster.plane.apply(*made)

    def get(self, cause: str, kind: str) -> Any:
        return self.cluster.get(KINDS[kind], self._names[cause, kind], NAMESPACE)

    def wait_ended(self, *causes: str) -> None:
        """Until all are final; which of them are not, the test of each says."""
        wanted = [one for one in self._names if one[0] in causes]

        def ended() -> bool:
            while wanted and self.get(*wanted[0]).status.phase.is_final:
                wanted.pop(0)
            return not wanted

        try:
            self.cluster.eventually("all have ended", ended, seconds=WITHIN.total_seconds() + 30)
        except TimeoutError:
            return

    def _target(self, name: str, storage_class: str) -> Manifest:
        metadata = {"name": name, "namespace": self.namespace}
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "64Mi"}},
            "selector": {"matchLabels": {"velero.io/dynamic-pv-restore": name}},
        }
        return cast(Manifest, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})

    def _download(self, name: str, location: str) -> dict[str, Any]:
        return {
            "backupStorageLocation": location,
            "operationTimeout": "2m0s",
            "snapshotID": UNKNOWN,
            "sourceNamespace": self.namespace,
            "targetVolume": {"namespace": self.namespace, "pv": "", "pvc": name},
        }

    def _pod_volume(self, kind: str, location: str) -> dict[str, Any]:
        backup = kind == "PodVolumeBackup"
        pod = self._app if backup else self._waiting
        return {
            "backupStorageLocation": location,
            "pod": {"kind": "Pod", "name": pod.metadata.name, "namespace": self.namespace, "uid": pod.metadata.uid},
            "repoIdentifier": "",
            "uploaderType": "kopia",
            "volume": "data",
            **({"node": pod.spec.node_name} if backup else {"snapshotID": UNKNOWN, "sourceNamespace": self.namespace}),
        }


def classes(cluster: Cluster, **faults: str) -> None:
    """Storage classes anew, each with what the storage says to claims of it; nothing where it is well."""
    for name, fault in faults.items():
        cluster.plane.kubectl("delete", "storageclass", name, "--ignore-not-found")
        parameters = {"fail-CreateVolume": fault} if fault else {}
        made = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
        cluster.plane.apply(cast(Any, {**made, "provisioner": DRIVER, "parameters": parameters}))


def location_without_keys(cluster: Cluster) -> None:
    """One as `default` is, but for its Secret, which does not exist."""
    found = json.loads(
        cluster.plane.kubectl("get", "backupstoragelocation", "default", f"--namespace={NAMESPACE}", "-o=json")
    )
    spec = found["spec"] | {"credential": {"name": "no-keys", "key": "cloud"}, "default": False}
    metadata = {"name": "keyless", "namespace": NAMESPACE}
    cluster.plane.apply(
        {"apiVersion": "velero.io/v1", "kind": "BackupStorageLocation", "metadata": metadata, "spec": spec}
    )


def password(cluster: Cluster, value: str) -> None:
    """The one of all repositories, from now on."""
    metadata = {"name": PASSWORD, "namespace": NAMESPACE}
    data = {"repository-password": value}
    cluster.plane.apply(
        cast(Any, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data, "type": "Opaque"})
    )


@pytest.fixture(scope="module")
def work(whole_cluster: Cluster) -> Iterator[Work]:
    """All of it, ended."""
    cluster = whole_cluster
    cluster.nodes.check()
    cluster.default_config()
    cluster.agents.ensure(*NODES)
    work = Work(cluster)
    healthy(work)
    kept = json.loads(cluster.plane.kubectl("get", "secret", PASSWORD, f"--namespace={NAMESPACE}", "-o=json"))
    try:
        with_the_password(work)
        cluster.plane.kubectl("delete", "secret", PASSWORD, f"--namespace={NAMESPACE}")
        work.add("no-password")
        work.add("no-location", location="nowhere")
        work.add("no-credentials", location="keyless")
        work.wait_ended("no-password", "no-location", "no-credentials", "refused", "no-class")
        password(cluster, "another")
        work.add("wrong-password")
        work.wait_ended("wrong-password")
        yield work
    finally:
        cluster.plane.kubectl("delete", "backupstoragelocation", "keyless", f"--namespace={NAMESPACE}")
        cluster.plane.kubectl("delete", "storageclass", "refusing", "full")
        restored = {"metadata": {"name": PASSWORD, "namespace": NAMESPACE}, "data": kept["data"]}
        cluster.plane.apply({"apiVersion": "v1", "kind": "Secret", **restored})


def healthy(work: Work) -> None:
    """A repository, volumes of classes that are well as yet, and a location that is not."""
    first = work.cluster.upload(work.namespace)
    classes(work.cluster, gone="", refusing="")
    for name in ("gone", "refusing"):
        work.cluster.claim(work.namespace, name, storage_class=name)
    for name in ("gone", "refusing"):
        work.cluster.eventually(
            "it is bound",
            lambda name=name: bool(work.cluster.get(PERSISTENT_VOLUME_CLAIMS, name, work.namespace).spec.volume_name),
        )
    location_without_keys(work.cluster)
    assert work.cluster.wait_final(first).status.phase is Phase.COMPLETED


def with_the_password(work: Work) -> None:
    """What is found out with it; at the end the others are being exposed."""
    classes(work.cluster, refusing=f"INVALID_ARGUMENT: {REFUSED}", full=f"RESOURCE_EXHAUSTED: {FULL}")
    work.cluster.plane.kubectl("delete", "storageclass", "gone")
    work.add("refused", storage_class="refusing")
    work.add("full", storage_class="full")
    work.add("no-class", storage_class="gone")
    work.add("unknown-snapshot")
    work.wait_ended("unknown-snapshot")


@pytest.mark.parametrize(("cause", "kind"), CASES)
def test_what_cannot_heal_is_in_the_message_within_a_minute(work: Work, cause: str, kind: str) -> None:
    job = work.get(cause, kind)
    status = job.status
    assert status.phase is Phase.FAILED
    assert status.message.startswith(f"{CAUSES[cause].code}: ")
    assert all(word in status.message for word in CAUSES[cause].words)
    assert status.completion_timestamp - job.metadata.creation_timestamp <= WITHIN


def test_what_may_still_heal_is_waited_for_in_the_words_of_the_storage_and_nothing_is_left_of_the_others(
    work: Work,
) -> None:
    job = work.get("full", "DataDownload")
    assert job.status.phase is Phase.ACCEPTED
    assert FULL in job.metadata.annotations[WAITING_ANNOTATION]
    work.cluster.patch(DATA_DOWNLOADS, job.metadata.name, {"spec": {"cancel": True}}, NAMESPACE)
    work.wait_ended("full")
    assert work.get("full", "DataDownload").status.phase is Phase.CANCELED
    work.cluster.assert_clean()

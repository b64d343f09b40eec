"""Velero as a user has it: its own command line makes backups and restores, its objects say what became of them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, phase, run

FINAL_BACKUP: Final = frozenset({"Completed", "PartiallyFailed", "Failed", "FailedValidation"})
MOVEMENTS: Final = ("DataUpload", "PodVolumeBackup", "DataDownload", "PodVolumeRestore")
MOVE: Final = "--snapshot-move-data"
POD_VOLUMES: Final = ("--default-volumes-to-fs-backup", "--snapshot-volumes=false")


@dataclass(frozen=True, slots=True)
class Movement:
    """One of the four kinds, ended: what users read of it."""

    kind: str
    name: str
    phase: str
    message: str
    total_bytes: int
    incremental_bytes: int
    snapshot_id: str
    seconds_to_start: float
    seconds_to_end: float


class Velero:
    """Backups and restores of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def command(self, *arguments: str, seconds: float = 120) -> str:
        return run("velero", f"--kubeconfig={self._cluster.kubeconfig}", *arguments, seconds=seconds)

    @property
    def looks_for_expired_backups_often(self) -> bool:
        """As that of the project's own clusters does; by itself a server looks once an hour."""
        server = self._cluster.get("Deployment", "velero", VELERO_NAMESPACE)
        assert server is not None
        arguments = server["spec"]["template"]["spec"]["containers"][0]["args"]
        return any(one.startswith("--garbage-collection-frequency") for one in arguments)

    def restart(self) -> None:
        """Start the server anew, and wait until it works."""
        place = f"--namespace={VELERO_NAMESPACE}"
        self._cluster.kubectl("rollout", "restart", "deployment/velero", place)
        self._cluster.kubectl("rollout", "status", "deployment/velero", place, "--timeout=90s")

    def kill(self) -> None:
        """End the server without asking, and wait until another one works: asked, it first ends what it does."""
        killed = {pod["metadata"]["name"] for pod in self._servers()}
        for name in killed:
            self._cluster.delete("Pod", name, VELERO_NAMESPACE, grace=0)

        def another() -> bool:
            return any(pod["metadata"]["name"] not in killed and _is_ready(pod) for pod in self._servers())

        self._cluster.wait("another server works", 90, another, show=self._cluster.describe_velero_namespace)

    def _servers(self) -> list[Object]:
        return self._cluster.list("Pod", VELERO_NAMESPACE, "deploy=velero")

    def wait_until_available(self, location: str = "default") -> None:
        """Made, or after an outage: the server looks at a location once a minute, and refuses work until then."""

        def available() -> bool:
            return phase(self._cluster.get("BackupStorageLocation", location, VELERO_NAMESPACE)) == "Available"

        self._cluster.wait("the location is Available", 120, available)

    def start_backup(self, name: str, namespace: str, *options: str) -> None:
        self.command("backup", "create", name, f"--include-namespaces={namespace}", *options)

    def backup(self, name: str, namespace: str, *options: str, expect: str = "Completed", seconds: float = 300) -> None:
        """Back up a namespace, and wait until that has ended as expected."""
        self.start_backup(name, namespace, *options)
        self.wait_for_backup(name, expect=expect, seconds=seconds)

    def wait_for_backup(self, name: str, *, expect: str = "Completed", seconds: float = 300) -> None:
        self._wait("Backup", name, expect, seconds)

    def start_restore(self, name: str, backup: str, *options: str) -> None:
        self.command("restore", "create", name, f"--from-backup={backup}", *options)

    def restore(self, name: str, backup: str, *options: str, expect: str = "Completed", seconds: float = 300) -> None:
        self.start_restore(name, backup, *options)
        self.wait_for_restore(name, expect=expect, seconds=seconds)

    def wait_for_restore(self, name: str, *, expect: str = "Completed", seconds: float = 300) -> None:
        self._wait("Restore", name, expect, seconds)

    def _wait(self, kind: str, name: str, expect: str, seconds: float) -> None:
        def ended() -> Object | None:
            found = self._cluster.get(kind, name, VELERO_NAMESPACE)
            return found if phase(found) in FINAL_BACKUP else None

        def how_it_stands() -> str:
            return self._cluster.describe_velero_namespace()

        found = self._cluster.wait(f"{kind} {name} ends", seconds, ended, show=how_it_stands)
        if phase(found) != expect:
            said = self.command(kind.lower(), "describe", name, "--details")
            # What was refused at once has no log, and says why in its status.
            logs = "" if phase(found) == "FailedValidation" else self.command(kind.lower(), "logs", name)
            wrong = [line for line in logs.splitlines() if "level=error" in line or "level=warning" in line]
            lines = "\n".join(wrong[-20:])
            raise AssertionError(f"{kind} {name} is {phase(found)}, not {expect}\n{said}\n{lines}\n{how_it_stands()}")

    def movements(self, *, backup: str = "", restore: str = "") -> list[Movement]:
        """What moved data for a backup or a restore, by name of the kind and the object."""
        label = f"velero.io/backup-name={backup}" if backup else f"velero.io/restore-name={restore}"
        found: list[Movement] = []
        for kind in MOVEMENTS[:2] if backup else MOVEMENTS[2:]:
            found += (_movement(kind, o) for o in self._cluster.list(kind, VELERO_NAMESPACE, label))
        return found

    def delete_backup(self, name: str, *, seconds: float = 120) -> None:
        """As a user does: objects, data and snapshots go."""
        self.command("backup", "delete", name, "--confirm")

        def gone() -> bool:
            return self._cluster.get("Backup", name, VELERO_NAMESPACE) is None

        self._cluster.wait(f"backup {name} is deleted", seconds, gone)

    def leftovers(self, namespaces: Sequence[str], moved: Iterable[Movement | str]) -> list[str]:
        """What a backup or restore left behind of its temporary objects; of movements, or of objects by their names."""
        names = {found if isinstance(found, str) else found.name for found in moved}
        left = [
            f"{kind} {found['metadata']['name']}"
            for kind in ("Pod", "PersistentVolumeClaim", "VolumeSnapshot")
            for found in self._cluster.list(kind, VELERO_NAMESPACE)
            if found["metadata"]["name"].removesuffix("-cache") in names
        ]
        left += [
            f"VolumeSnapshot {found['metadata']['name']} of {namespace}"
            for namespace in namespaces
            for found in self._cluster.list("VolumeSnapshot", namespace)
        ]
        for found in self._cluster.list("VolumeSnapshotContent"):
            source = found["spec"]["volumeSnapshotRef"]
            if source["namespace"] in namespaces or source["name"] in names:
                left.append(f"VolumeSnapshotContent {found['metadata']['name']}")
        for found in self._cluster.list("PersistentVolume"):
            claim = found["spec"].get("claimRef") or {}
            if claim.get("namespace") == VELERO_NAMESPACE and claim.get("name", "").removesuffix("-cache") in names:
                left.append(f"PersistentVolume {found['metadata']['name']}")
        return left


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def _movement(kind: str, found: Object) -> Movement:
    status = found.get("status") or {}
    progress = status.get("progress") or {}
    created = _time(found["metadata"]["creationTimestamp"])
    started, ended = status.get("startTimestamp"), status.get("completionTimestamp")
    return Movement(
        kind=kind,
        name=found["metadata"]["name"],
        phase=phase(found),
        message=status.get("message") or "",
        total_bytes=progress.get("totalBytes") or 0,
        incremental_bytes=status.get("incrementalBytes") or 0,
        snapshot_id=status.get("snapshotID") or "",
        seconds_to_start=(_time(started) - created).total_seconds() if started else -1,
        seconds_to_end=(_time(ended) - created).total_seconds() if ended else -1,
    )


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)

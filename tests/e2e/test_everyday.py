"""What users do all the time beside a plain backup and restore: hooks, schedules, deletion, maintenance (needs §2)."""

from __future__ import annotations

import datetime
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, phase
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.guide import agent_pod
from tests.e2e.object_store import ObjectStore
from tests.e2e.velero import MOVE, POD_VOLUMES, Velero
from tests.e2e.workload import Volume, Workload


def _hook(when: str, command: str) -> dict[str, str]:
    """Annotations that have Velero run a command in the application's container."""
    return {
        f"{when}.hook.backup.velero.io/container": "app",
        f"{when}.hook.backup.velero.io/command": json.dumps(["sh", "-c", command]),
    }


@pytest.mark.check(35)
def test_hooks_run_around_a_pod_volume(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    freeze = _hook("pre", "touch /data/files/frozen")
    thaw = _hook("post", "rm /data/files/frozen && touch /data/files/thawed")
    app = applications.deploy(Volume("files"), annotations=freeze | thaw)
    app.make("files", "small")
    before = app.content()

    velero.backup(app.namespace, app.namespace, *POD_VOLUMES)
    assert app.shell("ls /data/files").split() == ["small", "thawed"]

    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert app.shell("ls /data/files").split() == ["frozen", "small"], "as between the two hooks"
    app.shell("rm /data/files/frozen")
    assert_equal(before, app.content())


@pytest.fixture
def schedule(app: Workload, cluster: Cluster, velero: Velero) -> Iterator[str]:
    """One of the application's namespace, whose backups are kept for two minutes."""
    name = app.namespace
    options = ("--schedule=@yearly", "--ttl=2m", f"--include-namespaces={name}", MOVE)
    velero.command("schedule", "create", name, *options)
    yield name
    velero.command("schedule", "delete", name, "--confirm")


@pytest.mark.check(9, 39)
def test_schedule_backs_up_incrementally_and_what_has_expired_goes(
    app: Workload,
    applications: Applications,
    assert_equal: Comparison,
    cluster: Cluster,
    schedule: str,
    store: ObjectStore,
    velero: Velero,
) -> None:
    if not velero.looks_for_expired_backups_often:
        pytest.skip("this server looks for what has expired once an hour")

    def is_enabled() -> bool:
        return phase(cluster.get("Schedule", schedule, VELERO_NAMESPACE)) == "Enabled"

    cluster.wait("the schedule is enabled", 30, is_enabled)
    first, second = (f"{schedule}-{number}" for number in (1, 2))
    velero.command("backup", "create", first, f"--from-schedule={schedule}")
    velero.wait_for_backup(first)
    cluster.patch("Schedule", schedule, VELERO_NAMESPACE, {"spec": {"template": {"ttl": "24h0m0s"}}})
    content = app.content()
    velero.command("backup", "create", second, f"--from-schedule={schedule}")
    velero.wait_for_backup(second)
    (again,) = velero.movements(backup=second)
    assert (again.incremental_bytes, again.total_bytes > 0) == (0, True)

    cluster.wait("the first has expired", 240, lambda: cluster.get("Backup", first, VELERO_NAMESPACE) is None)
    assert store.names(f"backups/{first}/") == []
    applications.delete()
    velero.restore(second, second)
    app.wait_until_running()
    assert_equal(content, app.content())


@pytest.mark.check(39, 41)
def test_deletion_and_maintenance_leave_other_backups_whole(
    applications: Applications, assert_equal: Comparison, cluster: Cluster, store: ObjectStore, velero: Velero
) -> None:
    app = applications.deploy(Volume("files"))
    app.make("files", "small")
    before = app.content()
    first, second, third = (f"{app.namespace}-{number}" for number in (1, 2, 3))
    velero.backup(first, app.namespace, MOVE)
    app.make("files", "large")
    velero.backup(second, app.namespace, MOVE)
    app.shell("rm -r /data/files/large /data/files/small")
    velero.backup(third, app.namespace, MOVE)

    velero.delete_backup(second)
    deleted = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    repository = f"{app.namespace}-default-kopia"
    cluster.patch("BackupRepository", repository, VELERO_NAMESPACE, {"spec": {"maintenanceFrequency": "1s"}})

    def maintained() -> bool:
        found: Object = cluster.get("BackupRepository", repository, VELERO_NAMESPACE) or {}
        runs = (found.get("status") or {}).get("recentMaintenance") or []
        return any(run.get("result") == "Succeeded" and run["startTimestamp"] >= deleted for run in runs)

    def how_it_stands() -> object:
        return cluster.get("BackupRepository", repository, VELERO_NAMESPACE)

    cluster.wait("Velero has maintained the repository", 420, maintained, show=how_it_stands)
    cluster.patch("BackupRepository", repository, VELERO_NAMESPACE, {"spec": {"maintenanceFrequency": "1h"}})
    assert store.names(f"backups/{second}/") == []

    applications.delete()
    velero.restore(app.namespace, first)
    app.wait_until_running()
    assert_equal(before, app.content())


@pytest.mark.check(45)
def test_the_bundle_of_velero_debug_has_the_logs_of_the_agent(
    app: Workload, cluster: Cluster, tmp_path: Path, velero: Velero
) -> None:
    velero.backup(app.namespace, app.namespace, *POD_VOLUMES)
    (moved,) = velero.movements(backup=app.namespace)
    bundle = tmp_path / "bundle.tar.gz"
    velero.command("debug", f"--backup={app.namespace}", f"--output={bundle}")
    with tarfile.open(bundle) as files:
        logs = {
            member.name: file.read().decode()
            for member in files.getmembers()
            if "node-agent" in member.name and (file := files.extractfile(member)) is not None
        }
    agent = agent_pod(cluster)
    assert any(agent in name and moved.name in text for name, text in logs.items()), sorted(logs)

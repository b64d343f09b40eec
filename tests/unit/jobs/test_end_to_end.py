"""From an object to a snapshot in a folder and back, by the engine itself."""

import os
import re

import msgspec
import pytest

from agent.base.clock import SystemClock
from agent.jobs.callbacks import JobTelemetry
from agent.kube.volumes import VolumeMode
from agent.movers.execute import Execution
from agent.movers.supervisor import MoverOptions, Movers
from agent.observe.metrics import Metrics
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.snapshots.policy import parse_policy, policy_labels
from agent.snapshots.store import list_snapshots
from agent.storage.open import open_storage
from tests.unit.jobs.jobs_kit import OPERATION, PASSWORD, download, folder, pod_backup, ready_world, upload

_OF_KOPIA = re.compile(
    r"kopia\.(repository|blobcfg|maintenance)|udmrepo\.Repository"
    r"|[pq][0-9a-f]{32}-s[0-9a-f]+|xn\d+_[0-9a-f]+-s[0-9a-f]+-c\d+|xe\d+"
)


async def repository_as_the_server_makes_it(path):
    storage = await open_storage(f"file://{path}", create=True)
    options = CreateOptions(splitter="DYNAMIC-128K-BUZHASH", for_velero=True)
    await Repository.create(storage, PASSWORD, options=options)
    await storage.close()


async def look(path):
    storage = await open_storage(f"file://{path}")
    try:
        async with Repository.open(storage, PASSWORD) as repo:
            found = list_snapshots(repo.manifests).snapshots
            policies = [repo.manifests.find(policy_labels(snapshot.source)) for snapshot in found]
            return found, [[parse_policy(bytes(one.data)) for one in of_one] for of_one in policies]
    finally:
        await storage.close()


async def run(made):
    spec, secrets = made
    return await Execution(spec, secrets, SystemClock()).run()


def volume(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


async def test_an_upload_is_found_under_velero_s_names_and_comes_back(tmp_path):
    root, kind = tmp_path / "store", VolumeMode.FILESYSTEM
    await repository_as_the_server_makes_it(root / "kopia" / "shop")
    world = ready_world(folder(root), environ={})
    world.jobs._cache_dir = str(tmp_path / "cache")
    source = volume(tmp_path / "source", a="first", b="second")
    (source / ".velero").mkdir()
    (source / ".velero" / "restore-uid").write_text("")

    first = await run(await world.jobs.data_upload(upload(), path=str(source), mode=kind))
    (source / "a").write_text("changed")
    second = await run(await world.jobs.data_upload(upload(), path=str(source), mode=kind))
    await run(await world.jobs.pod_volume_backup(pod_backup(), path=str(source), mode=kind))

    found, policies = await look(root / "kopia" / "shop")
    uploads = [one for one in found if "data-upload" in one.source.path]
    assert [one.id for one in uploads] == [first.snapshot, second.snapshot]
    assert second.parents == (first.snapshot,)
    assert {(one.source.user, one.source.host, one.source.path) for one in found} == {
        ("default", "default", "snapshot-data-upload-download/kopia/shop/data"),
        ("default", "default", "snapshot-pod-volume/kopia/shop/web-0/html"),
    }
    assert uploads[0].tags == {
        "snapshot-requester": "snapshot-data-upload-download",
        "snapshot-uploader": "kopia",
        "velero.io/async-operation-id": OPERATION,
    }
    assert all(one.pins == ("velero-pin",) and one.description == "Kopia Uploader" for one in found)
    assert all(len(of_one) == 1 and of_one[0].scheduling.manual for of_one in policies)

    target = tmp_path / "target"
    target.mkdir()
    restored = download(snapshot_id=second.snapshot)
    await run(await world.jobs.data_download(restored, path=str(target), mode=kind))
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "changed", "b": "second"}


@pytest.mark.check(40)
async def test_what_jobs_leave_in_a_location_is_what_kopia_leaves_in_a_repository(tmp_path):
    root, kind = tmp_path / "store", VolumeMode.FILESYSTEM
    await repository_as_the_server_makes_it(root / "kopia" / "shop")
    world = ready_world(folder(root), environ={})
    source = volume(tmp_path / "source", a="first", b="second")
    made = await run(await world.jobs.data_upload(upload(), path=str(source), mode=kind))
    await run(await world.jobs.pod_volume_backup(pod_backup(), path=str(source), mode=kind))
    await run(await world.jobs.data_download(download(snapshot_id=made.snapshot), path=str(source), mode=kind))
    assert [path.name for path in root.iterdir()] == ["kopia"], "all else makes Velero take the location for broken"
    assert [path.name for path in (root / "kopia").iterdir()] == ["shop"]
    storage = await open_storage(f"file://{root}/kopia/shop")
    names = [blob.blob_id async for blob in storage.list("")]
    await storage.close()
    assert {"kopia.repository", "udmrepo.Repository"} < set(names)
    assert [name for name in names if not _OF_KOPIA.fullmatch(name)] == []


async def test_a_real_worker_shows_in_the_metrics_what_it_did(tmp_path):
    root = tmp_path / "store"
    await repository_as_the_server_makes_it(root / "kopia" / "shop")
    source = volume(tmp_path / "source", a="x" * 100_000)
    clock = SystemClock()
    metrics = Metrics("node-a", clock)
    job = upload()
    spec, secrets = await ready_world(folder(root)).jobs.data_upload(job, path=str(source), mode=VolumeMode.FILESYSTEM)
    spec = msgspec.structs.replace(spec, cache_dir="", heartbeat=0.05)
    callbacks = JobTelemetry(metrics).callbacks_for(job)
    async with Movers(MoverOptions(), clock, os.environ) as movers, movers.job(spec, secrets, callbacks) as running:
        result = await running.result()
    text = metrics.render().decode()
    assert "lighterage_read_bytes_total 100000.0\n" in text
    assert f"lighterage_uploaded_bytes_total {float(result.uploaded_bytes)}\n" in text
    assert 'lighterage_files_total{operation="backup",outcome="done"} 1.0\n' in text
    assert 'lighterage_storage_request_duration_seconds_bucket{le="+Inf",operation="put"}' in text
    assert "lighterage_worker_memory_bytes 0.0\n" not in text

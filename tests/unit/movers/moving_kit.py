"""A repository on the file system, a small tree, and workers that move one into the other."""

import os
from contextlib import asynccontextmanager

from agent.base.clock import SystemClock
from agent.movers.spec import BackupTree, JobSpec, RestoreTree, Secrets, UrlLocation
from agent.movers.supervisor import JobCallbacks, MoverOptions, Movers
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.snapshots.model import Source
from agent.snapshots.store import list_snapshots
from agent.storage.open import open_storage

PASSWORD = "correct-horse-battery-staple"
SECRETS = Secrets(password=PASSWORD, access_key="AKIAEXAMPLE", secret_key="very-secret-key-of-the-store")
SOURCE = Source(host="default", user="default", path="snapshot-pod-volume/kopia/shop/web/data")
TAGS = {"snapshot-requester": "snapshot-pod-volume", "snapshot-uploader": "kopia"}


async def new_repository(folder):
    url = f"file://{folder}"
    storage = await open_storage(url, create=True)
    await Repository.create(storage, PASSWORD, options=CreateOptions(splitter="DYNAMIC-128K-BUZHASH"))
    await storage.close()
    return UrlLocation(url=url)


async def snapshots_in(location):
    storage = await open_storage(location.url)
    try:
        async with Repository.open(storage, PASSWORD) as repo:
            return list_snapshots(repo.manifests).snapshots
    finally:
        await storage.close()


def new_tree(folder, *, files=20, size=1000):
    for number in range(files):
        path = folder / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return folder


def backup_of(path, location, **fields):
    work = {"tags": TAGS, "pins": ("velero-pin",), "description": "Kopia Uploader", "velero": True}
    job = {key: fields.pop(key) for key in list(fields) if key in JobSpec.__struct_fields__}
    work |= fields
    return JobSpec(
        **{"id": "job", "heartbeat": 0.02, "parallel": 2, **job},
        work=BackupTree(path=str(path), source=SOURCE, **work),
        location=location,
    )


def restore_of(snapshot, target, location, **fields):
    job = {key: fields.pop(key) for key in list(fields) if key in JobSpec.__struct_fields__}
    return JobSpec(
        **{"id": "job", "heartbeat": 0.02, "parallel": 2, **job},
        work=RestoreTree(snapshot=snapshot, target=str(target), **{"sync": False, **fields}),
        location=location,
    )


def slowly(spec, bytes_a_second=50_000):
    """The same job, kept from ending."""
    import msgspec

    from agent.movers.spec import RateLimits

    limits = RateLimits(upload_bytes=bytes_a_second, download_bytes=bytes_a_second)
    return msgspec.structs.replace(spec, limits=limits)


@asynccontextmanager
async def running(movers=None, *, environ=None, clock=None, **options):
    movers = Movers(MoverOptions(**options), clock or SystemClock(), os.environ if environ is None else environ)
    async with movers:
        yield movers


async def done(movers, spec, callbacks=None, secrets=SECRETS):
    async with movers.job(spec, secrets, callbacks) as job:
        return await job.result()


def collecting():
    logs, reports, metrics = [], [], []
    return (
        logs,
        reports,
        metrics,
        JobCallbacks(on_progress=reports.append, on_log=logs.append, on_metric=metrics.append),
    )


def tree_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

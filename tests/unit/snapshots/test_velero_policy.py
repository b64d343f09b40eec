"""Backups as Velero takes them: their policy, and what stays out of them."""

import os

from agent.repository.repository import Repository
from agent.snapshots.policy import parse_policy, policy_labels
from agent.snapshots.velero_policy import set_velero_policy
from tests.unit.snapshots.backup_kit import (
    PASSWORD,
    SOURCE,
    back_up,
    contents_of,
    fill,
    opened,
    put_policy,
)


async def policies(storage):
    async with Repository.open(storage, PASSWORD) as repo:
        return [parse_policy(bytes(one.data)) for one in repo.manifests.find(policy_labels(SOURCE))]


async def set_policy(storage, **options):
    async with opened(storage) as (repo, writer):
        return await set_velero_policy(repo, writer, SOURCE, **options)


async def test_the_first_backup_of_a_source_writes_its_policy_and_the_next_finds_it(storage):
    assert await set_policy(storage, parallel=3)
    (policy,) = await policies(storage)
    assert policy.retention.keep_latest == policy.retention.keep_annual == 2_147_483_647
    assert policy.scheduling.manual and policy.error_handling.ignore_unknown_types
    assert policy.compression.compressor_name == "none"
    assert (policy.upload.max_parallel_file_reads, policy.upload.parallel_upload_above_size) == (3, 2 << 30)
    before = set(storage.blobs)
    assert not await set_policy(storage, parallel=3)
    assert set(storage.blobs) == before


async def test_another_number_of_threads_replaces_the_policy(storage):
    await set_policy(storage, parallel=3)
    assert await set_policy(storage)
    (policy,) = await policies(storage)
    assert policy.upload.max_parallel_file_reads == os.cpu_count()


async def test_every_other_policy_of_the_source_is_replaced_and_those_of_others_stay(storage):
    await put_policy(storage, {"files": {"ignore": ["*"]}})
    await put_policy(storage, {"compression": {"compressorName": 7}})
    await put_policy(storage, {"files": {"ignore": ["x"]}}, path="/data/below")
    assert await set_policy(storage, parallel=1)
    (policy,) = await policies(storage)
    assert policy.files.ignore == ()
    assert await _count(storage, "/data/below") == 1


async def _count(storage, path):
    async with Repository.open(storage, PASSWORD) as repo:
        return len(repo.manifests.find({"type": "policy", "path": path}))


async def test_what_the_restore_helper_left_in_the_root_stays_out_and_the_same_name_below_does_not(storage, tmp_path):
    fill(tmp_path, {".velero/1234-done": b"", "data": b"x", "below/.velero/kept": b"y"})
    result, progress = await back_up(storage, tmp_path, velero=True)
    found = await contents_of(storage, result.snapshot.root)
    assert set(found) == {"", "/data", "/below", "/below/.velero", "/below/.velero/kept"}
    assert result.errors == 0 and progress.files == 2


async def test_a_backup_that_is_not_for_velero_keeps_a_folder_of_that_name(storage, tmp_path):
    fill(tmp_path, {".velero/x": b"1"})
    result, _ = await back_up(storage, tmp_path)
    assert "/.velero/x" in await contents_of(storage, result.snapshot.root)

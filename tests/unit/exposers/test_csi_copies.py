"""Copied secrets are shared by the jobs that need them, and go with the last one."""

from __future__ import annotations

import random

import msgspec
import pytest

from agent.base.errors import NameTaken, SourceGone
from agent.exposers.contract import Waiting
from agent.exposers.copies import Wanted, copy_for, remove_copies
from agent.kube.cluster import Secret
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key, ObjectMeta
from agent.kube.resource import DATA_UPLOADS, SECRETS
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.kube.cluster import upload

COPY = Key("velero", "luks")
WANTED = Wanted(secrets=("luks",))


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube(VirtualClock(), random.Random(1))


async def _job(kube: FakeKube, name: str) -> DataUpload:
    return await kube.create(DATA_UPLOADS, upload(name))


async def _secret(kube: FakeKube, namespace: str, value: bytes, **metadata: object) -> None:
    meta = ObjectMeta(name="luks", namespace=namespace, **metadata)  # type: ignore[arg-type]
    await kube.create(SECRETS, Secret(api_version="v1", kind="Secret", metadata=meta, data={"k": value}))


async def _exists(kube: FakeKube) -> bool:
    return COPY in [one.key for one in (await kube.list(SECRETS)).items]


async def test_two_jobs_share_a_copy_until_both_let_go(kube: FakeKube) -> None:
    await _secret(kube, "app", b"1")
    one, two = await _job(kube, "one"), await _job(kube, "two")
    for job in (one, two, one):
        assert await copy_for(kube, job, "app", WANTED) is None
    assert (await kube.get(SECRETS, COPY)).data == {"k": b"1"}
    assert await remove_copies(kube, one, WANTED)
    assert await _exists(kube)
    assert not await remove_copies(kube, two, WANTED)
    assert await remove_copies(kube, two, WANTED)
    assert not await _exists(kube)


async def test_another_content_under_the_same_name_has_to_wait_for_its_turn(kube: FakeKube) -> None:
    await _secret(kube, "app", b"1")
    await _secret(kube, "other", b"2")
    one, two = await _job(kube, "one"), await _job(kube, "two")
    await copy_for(kube, one, "app", WANTED)
    state = await copy_for(kube, two, "other", WANTED)
    assert isinstance(state, Waiting)
    assert "another job" in state.reason
    assert await remove_copies(kube, two, WANTED)
    await remove_copies(kube, one, WANTED)
    assert await copy_for(kube, two, "other", WANTED) is None
    assert (await kube.get(SECRETS, COPY)).data == {"k": b"2"}


async def test_a_secret_of_somebody_else_is_neither_taken_nor_removed(kube: FakeKube) -> None:
    await _secret(kube, "app", b"1")
    await _secret(kube, "velero", b"1")
    job = await _job(kube, "one")
    with pytest.raises(NameTaken):
        await copy_for(kube, job, "app", WANTED)
    assert await remove_copies(kube, job, WANTED)
    assert await _exists(kube)


async def test_a_copy_that_is_being_deleted_is_waited_for(kube: FakeKube) -> None:
    await _secret(kube, "app", b"1")
    await _secret(kube, "velero", b"1", finalizers=("x",), labels={"velero.io/backup-pvc-secret": "gone"})
    await kube.delete(SECRETS, COPY)
    assert isinstance(await copy_for(kube, await _job(kube, "one"), "app", WANTED), Waiting)


async def test_a_copy_goes_with_its_jobs_when_nobody_cleans_up(kube: FakeKube) -> None:
    await _secret(kube, "app", b"1")
    job = await _job(kube, "one")
    await copy_for(kube, job, "app", WANTED)
    await kube.delete(DATA_UPLOADS, job.key)
    assert not await _exists(kube)


async def test_what_is_to_be_copied_has_to_exist(kube: FakeKube) -> None:
    job = await _job(kube, "one")
    with pytest.raises(SourceGone, match="app/luks"):
        await copy_for(kube, job, "app", WANTED)
    assert await remove_copies(kube, msgspec.structs.replace(job), WANTED)

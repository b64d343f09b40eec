"""The API server in memory keeps the promises of the real one."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import msgspec
import pytest

from agent.base.errors import (
    KubeAlreadyExists,
    KubeConflict,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
    KubeUnavailable,
    KubeUnreadable,
)
from agent.kube.api import AccessReview, EventType, error_from_status
from agent.kube.meta import Key, ObjectMeta, OwnerReference
from agent.kube.resource import DATA_UPLOADS
from agent.kube.selector import Selector
from agent.testing.clock import START_NS, VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.kube.cluster import NAMESPACE, key, upload

_FINALIZER = "velero.io/data-upload-download-finalizer"


@pytest.fixture
def api() -> FakeKube:
    return FakeKube(VirtualClock(START_NS), random.Random(1))


async def _watched(api: FakeKube, version: str, selector: Selector = Selector()) -> list[tuple[str, str]]:  # noqa: B008
    events = api.watch(DATA_UPLOADS, NAMESPACE, resource_version=version, selector=selector, timeout=1)
    async with aclosing(events) as stream:
        return [(event.type.value, event.item.key.name) async for event in stream if event.item is not None]


async def test_a_new_object_gets_what_the_server_gives(api: FakeKube) -> None:
    made = await api.create(DATA_UPLOADS, upload("", generate_name="backup-"))
    assert made.metadata.name.startswith("backup-") and len(made.metadata.name) == 12
    assert made.metadata.uid and made.metadata.resource_version and made.metadata.generation == 1
    assert made.metadata.creation_timestamp is not None
    with pytest.raises(KubeAlreadyExists):
        await api.create(DATA_UPLOADS, upload(made.metadata.name))
    with pytest.raises(KubeInvalid):
        await api.create(DATA_UPLOADS, upload("../x"))


async def test_of_two_writers_with_the_same_version_one_wins(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a"))
    version = seen.metadata.resource_version
    won = await api.patch(DATA_UPLOADS, key("a"), {"status": {"phase": "Accepted"}}, resource_version=version)
    assert (won.metadata.generation, won.spec) == (2, seen.spec)
    with pytest.raises(KubeConflict):
        await api.patch(DATA_UPLOADS, key("a"), {"status": {"phase": "Failed"}}, resource_version=version)
    with pytest.raises(KubeConflict):
        await api.patch(DATA_UPLOADS, key("a"), {"metadata": {"resourceVersion": version}})
    assert await api.get(DATA_UPLOADS, key("a")) == won


async def test_a_patch_that_changes_nothing_makes_no_version(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a"))
    same = await api.patch(DATA_UPLOADS, key("a"), {"spec": {"sourcePVC": "data"}})
    assert same == seen
    assert await _watched(api, seen.metadata.resource_version) == []


async def test_finalizers_hold_an_object_that_is_being_deleted(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a", finalizers=(_FINALIZER,)))
    await api.delete(DATA_UPLOADS, key("a"))
    assert (await api.get(DATA_UPLOADS, key("a"))).metadata.deletion_timestamp is not None
    with pytest.raises(KubeInvalid):
        await api.patch(DATA_UPLOADS, key("a"), {"metadata": {"finalizers": [_FINALIZER, "x/y"]}})
    await api.patch(DATA_UPLOADS, key("a"), {"metadata": {"finalizers": None}})
    with pytest.raises(KubeNotFound):
        await api.get(DATA_UPLOADS, key("a"))
    events = await _watched(api, seen.metadata.resource_version)
    assert events == [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_deleting_another_object_of_the_same_name_conflicts(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a"))
    with pytest.raises(KubeConflict):
        await api.delete(DATA_UPLOADS, key("a"), uid="another")
    with pytest.raises(KubeConflict):
        await api.delete(DATA_UPLOADS, key("a"), resource_version="1")
    await api.delete(DATA_UPLOADS, key("a"), uid=seen.metadata.uid)


async def test_objects_go_with_their_last_owner(api: FakeKube) -> None:
    owners = [await api.create(DATA_UPLOADS, upload(name)) for name in ("one", "two")]
    references = tuple(
        OwnerReference(api_version=o.api_version, kind=o.kind, name=o.metadata.name, uid=o.metadata.uid) for o in owners
    )
    await api.create(DATA_UPLOADS, upload("owned", owner_references=references))
    await api.delete(DATA_UPLOADS, key("one"))
    await api.get(DATA_UPLOADS, key("owned"))
    await api.delete(DATA_UPLOADS, key("two"))
    with pytest.raises(KubeNotFound):
        await api.get(DATA_UPLOADS, key("owned"))


async def test_the_metadata_of_the_server_is_not_patched(api: FakeKube) -> None:
    await api.create(DATA_UPLOADS, upload("a"))
    for name in ("uid", "name", "deletionTimestamp"):
        with pytest.raises(KubeInvalid):
            await api.patch(DATA_UPLOADS, key("a"), {"metadata": {name: "x"}})


async def test_status_is_apart_only_where_the_kind_has_the_subresource(api: FakeKube) -> None:
    await api.create(DATA_UPLOADS, upload("a"))
    with pytest.raises(KubeNotFound):
        await api.patch(DATA_UPLOADS, key("a"), {"status": {"phase": "New"}}, status=True)
    apart = msgspec.structs.replace(DATA_UPLOADS, status_subresource=True)
    both = {"spec": {"cancel": True}, "status": {"message": "m"}}
    main = await api.patch(apart, key("a"), both)  # type: ignore[arg-type]
    assert (main.spec.cancel, main.status.message) == (True, "")
    sub = await api.patch(apart, key("a"), {"spec": {"cancel": False}, "status": {"message": "m"}}, status=True)
    assert (sub.spec.cancel, sub.status.message, sub.metadata.generation) == (True, "m", main.metadata.generation)


async def test_a_watch_with_a_selector_sees_objects_enter_and_leave(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a"))
    for value in ("1", "2"):
        await api.patch(DATA_UPLOADS, key("a"), {"metadata": {"labels": {"x": value}}})
    selector = Selector(labels={"x": "1"})
    assert await _watched(api, seen.metadata.resource_version, selector) == [("ADDED", "a"), ("DELETED", "a")]
    assert (await api.list(DATA_UPLOADS, selector=Selector(has_labels=("x",)))).items
    assert (await api.list(DATA_UPLOADS, selector=Selector(fields={"metadata.name": "b"}))).items == ()
    with pytest.raises(KubeInvalid):
        await api.list(DATA_UPLOADS, selector=Selector(fields={"status.phase": "New"}))


async def test_pages_are_of_one_moment(api: FakeKube) -> None:
    for name in "abc":
        await api.create(DATA_UPLOADS, upload(name))
    first = await api.list(DATA_UPLOADS, limit=2)
    await api.delete(DATA_UPLOADS, key("c"))
    second = await api.list(DATA_UPLOADS, limit=2, continue_token=first.continue_token)
    assert [item.metadata.name for item in (*first.items, *second.items)] == list("abc")
    assert second.resource_version == first.resource_version
    assert await _watched(api, second.resource_version) == [("DELETED", "c")]


async def test_a_watch_from_before_the_compaction_is_gone(api: FakeKube) -> None:
    seen = await api.create(DATA_UPLOADS, upload("a"))
    await api.create(DATA_UPLOADS, upload("b"))
    api.compact()
    with pytest.raises(KubeGone):
        await _watched(api, seen.metadata.resource_version)


async def test_a_watch_gets_bookmarks_for_what_it_did_not_select_and_ends_at_its_timeout() -> None:
    clock = VirtualClock()
    api = FakeKube(clock, random.Random(1))
    told = []
    async for event in api.watch(DATA_UPLOADS, "elsewhere", resource_version="1", timeout=150):
        told.append((event.type, clock.monotonic()))
    assert (told, clock.monotonic()) == ([], 150)

    async def make_others() -> None:
        for name in "ab":
            await clock.sleep(40)
            await api.create(DATA_UPLOADS, upload(name))

    making = asyncio.ensure_future(make_others())
    async for event in api.watch(DATA_UPLOADS, "elsewhere", resource_version="1", timeout=150):
        told.append((event.type, clock.monotonic() - 150))
    await making
    assert told == [(EventType.BOOKMARK, 60), (EventType.BOOKMARK, 120), (EventType.BOOKMARK, 148)]


async def test_a_lost_answer_took_effect(api: FakeKube) -> None:
    api.fail("create", DATA_UPLOADS.name, KubeUnavailable("reset"), after=True)
    with pytest.raises(KubeUnavailable):
        await api.create(DATA_UPLOADS, upload("a"))
    assert (await api.get(DATA_UPLOADS, key("a"))).metadata.name == "a"


async def test_rights_are_those_that_the_test_left(api: FakeKube) -> None:
    review = AccessReview("watch", "velero.io", "datauploads")
    assert await api.allowed(review)
    api.denied.add(("watch", DATA_UPLOADS.name))
    assert not await api.allowed(review)


async def test_an_object_of_another_shape_is_named(api: FakeKube) -> None:
    await api.create(DATA_UPLOADS, upload("a"))
    api.put_raw(DATA_UPLOADS, {**api.raw(DATA_UPLOADS, key("a")), "spec": {}})
    with pytest.raises(KubeUnreadable, match="'a'"):
        await api.get(DATA_UPLOADS, Key(NAMESPACE, "a"))
    page = await api.list(DATA_UPLOADS)
    assert (page.items, page.unreadable[0].key) == ((), key("a"))


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (404, "NotFound", "kube.not-found"),
        (409, "AlreadyExists", "kube.already-exists"),
        (409, "Conflict", "kube.conflict"),
        (410, "Expired", "kube.gone"),
        (401, "Unauthorized", "kube.forbidden"),
        (403, "Forbidden", "kube.forbidden"),
        (422, "Invalid", "kube.invalid"),
        (429, "TooManyRequests", "kube.unavailable"),
        (503, "", "kube.unavailable"),
        (302, "", "kube.failed"),
    ],
)
def test_answers_become_errors_with_codes(code: int, reason: str, expected: str) -> None:
    error = error_from_status("get pods a/b", code, reason, "because")
    assert error.code == expected
    assert "cannot get pods a/b: because" in str(error)


def test_metadata_may_be_nearly_empty() -> None:
    assert ObjectMeta().name == ""

"""What controllers, exposers and informers rely on, asked of the API server in memory and of a real one alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from agent.base.errors import (
    KubeAlreadyExists,
    KubeConflict,
    KubeForbidden,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
)
from agent.kube.api import AccessReview, EventType, WatchEvent
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.meta import ConfigMap, Key, ObjectMeta, OwnerReference
from agent.kube.pods import Container, Pod, PodSpec
from agent.kube.resource import CONFIG_MAPS, DATA_UPLOADS, NODES, PERSISTENT_VOLUME_CLAIMS, PODS
from agent.kube.selector import EVERYTHING, Selector
from agent.kube.volumes import PersistentVolumeClaim, PersistentVolumeClaimSpec, ResourceRequests
from agent.testing.control_plane import ControlPlane
from tests.controlplane.api_servers import ApiServer, fake_server, real_server

FINALIZER = "velero.io/data-upload-download-finalizer"


@pytest.fixture(params=["memory", "real"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ApiServer]:
    if request.param == "memory":
        async with fake_server() as fake:
            yield fake
    else:
        plane: ControlPlane = request.getfixturevalue("plane")
        async with real_server(plane) as real:
            yield real


def upload(server: ApiServer, name: str, **metadata: object) -> DataUpload:
    return DataUpload(
        api_version=DATA_UPLOADS.api_version,
        kind="DataUpload",
        metadata=ObjectMeta(name=name, namespace=server.namespace, **metadata),  # type: ignore[arg-type]
        spec=DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
            source_pvc="data",
            source_namespace="app",
            backup_storage_location="default",
            operation_timeout="10m0s",
        ),
    )


def config_map(server: ApiServer, name: str, **metadata: object) -> ConfigMap:
    meta = ObjectMeta(name=name, namespace=server.namespace, **metadata)  # type: ignore[arg-type]
    return ConfigMap(api_version="v1", kind="ConfigMap", metadata=meta)


def pod(server: ApiServer, name: str) -> Pod:
    meta = ObjectMeta(name=name, namespace=server.namespace)
    spec = PodSpec(containers=(Container(name="main", image="none"),), service_account_name="default")
    return Pod(api_version="v1", kind="Pod", metadata=meta, spec=spec)


def claim(server: ApiServer, name: str) -> PersistentVolumeClaim:
    meta = ObjectMeta(name=name, namespace=server.namespace)
    spec = PersistentVolumeClaimSpec(
        access_modes=("ReadWriteOnce",), resources=ResourceRequests(requests={"storage": "1Gi"}), storage_class_name=""
    )
    return PersistentVolumeClaim(api_version="v1", kind="PersistentVolumeClaim", metadata=meta, spec=spec)


def key(server: ApiServer, name: str) -> Key:
    return Key(server.namespace, name)


async def watched(
    server: ApiServer, version: str, *, count: int = 0, selector: Selector = EVERYTHING, seconds: float = 2
) -> list[WatchEvent[DataUpload]]:
    """The first `count` events after a version, or all until the watch ends; bookmarks aside."""
    found: list[WatchEvent[DataUpload]] = []
    events = server.api.watch(
        DATA_UPLOADS, server.namespace, resource_version=version, selector=selector, timeout=seconds
    )
    async with aclosing(events) as stream:
        async for event in stream:
            if event.type is not EventType.BOOKMARK:
                found.append(event)
            if count and len(found) == count:
                break
    return found


def told(events: list[WatchEvent[DataUpload]]) -> list[tuple[str, str]]:
    return [(str(event.type), event.item.key.name) for event in events if isinstance(event.item, DataUpload)]


async def test_a_new_object_gets_what_the_server_gives(server: ApiServer) -> None:
    made = await server.api.create(DATA_UPLOADS, upload(server, "", generate_name="backup-"))
    meta = made.metadata
    assert meta.name.startswith("backup-") and len(meta.name) == len("backup-") + 5
    assert meta.generate_name == "backup-"
    assert meta.uid and meta.resource_version and meta.creation_timestamp is not None
    assert meta.generation == 1
    assert made == await server.api.get(DATA_UPLOADS, key(server, meta.name))


async def test_only_some_kinds_count_generations(server: ApiServer) -> None:
    made = await server.api.create(CONFIG_MAPS, config_map(server, "a"))
    assert made.metadata.generation == 0
    pvc = await server.api.create(PERSISTENT_VOLUME_CLAIMS, claim(server, "a"))
    assert pvc.metadata.generation == 0
    assert (await server.api.create(PODS, pod(server, "a"))).metadata.generation == 1


async def test_a_name_is_taken_once(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a"))
    with pytest.raises(KubeAlreadyExists):
        await server.api.create(DATA_UPLOADS, upload(server, "a"))


async def test_long_generated_names_keep_their_end(server: ApiServer) -> None:
    base = "b" * 70
    made = await server.api.create(CONFIG_MAPS, config_map(server, "", generate_name=base))
    assert made.metadata.name[:58] == base[:58]
    assert len(made.metadata.name) == 63


@pytest.mark.parametrize("name", ["../x", "a/b", "", "UPPER", "a..b", "-a", "a" * 254, "a\x00", "ü", "a?b", "%2e%2e"])
async def test_a_name_that_no_object_can_have_leads_nowhere(server: ApiServer, name: str) -> None:
    with pytest.raises(KubeInvalid):
        await server.api.create(DATA_UPLOADS, upload(server, name))
    for ask in (
        server.api.get(DATA_UPLOADS, key(server, name)),
        server.api.patch(DATA_UPLOADS, key(server, name), {"spec": {"cancel": True}}),
    ):
        with pytest.raises(KubeNotFound):
            await ask
    with pytest.raises(KubeNotFound):
        await server.api.delete(DATA_UPLOADS, key(server, name))


async def test_what_is_not_there_is_not_found(server: ApiServer) -> None:
    for ask in (
        server.api.get(DATA_UPLOADS, key(server, "a")),
        server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"cancel": True}}),
    ):
        with pytest.raises(KubeNotFound):
            await ask
    with pytest.raises(KubeNotFound):
        await server.api.delete(DATA_UPLOADS, key(server, "a"))


async def test_of_two_writers_with_the_same_version_one_wins(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    version = seen.metadata.resource_version
    accepted = {"status": {"phase": "Accepted"}}
    won = await server.api.patch(DATA_UPLOADS, key(server, "a"), accepted, resource_version=version)
    assert won.status.phase == "Accepted"
    assert won.metadata.resource_version != version
    with pytest.raises(KubeConflict):
        await server.api.patch(
            DATA_UPLOADS, key(server, "a"), {"status": {"phase": "Failed"}}, resource_version=version
        )
    with pytest.raises(KubeConflict):
        await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {"resourceVersion": version}})
    assert await server.api.get(DATA_UPLOADS, key(server, "a")) == won


async def test_an_old_version_conflicts_even_when_nothing_would_change(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    await server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"cancel": True}})
    with pytest.raises(KubeConflict):
        await server.api.patch(
            DATA_UPLOADS,
            key(server, "a"),
            {"spec": {"cancel": True}},
            resource_version=seen.metadata.resource_version,
        )


async def test_a_patch_without_a_version_is_merged_into_what_is_there(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a", labels={"one": "1", "two": "2"}))
    await server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"cancel": True}})
    after = await server.api.patch(
        DATA_UPLOADS, key(server, "a"), {"metadata": {"labels": {"one": None, "three": "3"}}}
    )
    assert (after.spec.cancel, after.metadata.labels) == (True, {"two": "2", "three": "3"})


async def test_a_patch_that_changes_nothing_makes_no_version(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    same = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"sourcePVC": "data"}})
    assert same == seen
    assert await watched(server, seen.metadata.resource_version) == []


async def test_the_generation_counts_changes_of_what_is_asked_for(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a"))
    labelled = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {"labels": {"x": "1"}}})
    assert labelled.metadata.generation == 1
    canceled = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"cancel": True}})
    assert canceled.metadata.generation == 2
    moved = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"status": {"phase": "New"}})
    assert moved.metadata.generation == 3


async def test_the_kinds_of_velero_have_no_status_subresource(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a"))
    with pytest.raises(KubeNotFound):
        await server.api.patch(DATA_UPLOADS, key(server, "a"), {"status": {"phase": "New"}}, status=True)


async def test_a_pod_has_its_status_apart(server: ApiServer) -> None:
    await server.api.create(PODS, pod(server, "a"))
    main = await server.api.patch(
        PODS, key(server, "a"), {"metadata": {"labels": {"x": "1"}}, "status": {"message": "m"}}
    )
    assert (main.metadata.labels, main.status.message) == ({"x": "1"}, "")
    apart = await server.api.patch(
        PODS, key(server, "a"), {"spec": {"hostNetwork": True}, "status": {"message": "m"}}, status=True
    )
    assert (apart.spec.host_network, apart.status.message) == (False, "m")


async def test_finalizers_hold_an_object_that_is_being_deleted(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a", finalizers=(FINALIZER,)))
    await server.api.delete(DATA_UPLOADS, key(server, "a"))
    dying = await server.api.get(DATA_UPLOADS, key(server, "a"))
    assert dying.metadata.deletion_timestamp is not None
    assert dying.metadata.generation == 2
    with pytest.raises(KubeInvalid):
        await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {"finalizers": [FINALIZER, "x.io/y"]}})
    await server.api.delete(DATA_UPLOADS, key(server, "a"))
    with pytest.raises(KubeAlreadyExists):
        await server.api.create(DATA_UPLOADS, upload(server, "a"))
    last = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {"finalizers": None}})
    assert last.metadata.finalizers == ()
    with pytest.raises(KubeNotFound):
        await server.api.get(DATA_UPLOADS, key(server, "a"))
    events = await watched(server, seen.metadata.resource_version, seconds=3)
    assert told(events) in (
        [("MODIFIED", "a"), ("DELETED", "a")],
        [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")],
    )


async def test_an_object_that_is_being_deleted_can_still_be_changed(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a", finalizers=(FINALIZER,)))
    await server.api.delete(DATA_UPLOADS, key(server, "a"))
    after = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"status": {"phase": "Canceled"}})
    assert after.status.phase == "Canceled"


async def test_deleting_another_object_of_the_same_name_conflicts(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    with pytest.raises(KubeConflict):
        await server.api.delete(DATA_UPLOADS, key(server, "a"), uid="another")
    with pytest.raises(KubeConflict):
        await server.api.delete(DATA_UPLOADS, key(server, "a"), resource_version="1")
    await server.api.delete(
        DATA_UPLOADS, key(server, "a"), uid=seen.metadata.uid, resource_version=seen.metadata.resource_version
    )


async def test_objects_go_with_their_last_owner(server: ApiServer) -> None:
    owners = [await server.api.create(DATA_UPLOADS, upload(server, name)) for name in ("one", "two")]
    references = tuple(
        OwnerReference(api_version=o.api_version, kind=o.kind, name=o.metadata.name, uid=o.metadata.uid) for o in owners
    )
    await server.api.create(CONFIG_MAPS, config_map(server, "owned", owner_references=references))
    await server.api.delete(DATA_UPLOADS, key(server, "one"))
    await server.sleep(1)
    await server.api.get(CONFIG_MAPS, key(server, "owned"))
    await server.api.delete(DATA_UPLOADS, key(server, "two"))

    async def gone() -> bool:
        page = await server.api.list(
            CONFIG_MAPS, server.namespace, selector=Selector(fields={"metadata.name": "owned"})
        )
        return page.items == ()

    await server.eventually("the owned object is collected", gone)


async def test_the_metadata_of_the_server_is_not_patched(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    fixed = {"uid": "x", "name": "x", "namespace": "x", "deletionTimestamp": "2020-01-01T00:00:00Z"}
    for name, value in fixed.items():
        with pytest.raises(KubeInvalid):
            await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {name: value}})
    ignored = {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 77}
    await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": ignored})
    assert await server.api.get(DATA_UPLOADS, key(server, "a")) == seen


async def test_pages_are_of_one_moment(server: ApiServer) -> None:
    for name in "abc":
        await server.api.create(DATA_UPLOADS, upload(server, name))
    first = await server.api.list(DATA_UPLOADS, server.namespace, limit=2)
    assert first.continue_token
    await server.api.delete(DATA_UPLOADS, key(server, "c"))
    second = await server.api.list(DATA_UPLOADS, server.namespace, limit=2, continue_token=first.continue_token)
    assert [item.metadata.name for item in (*first.items, *second.items)] == list("abc")
    assert second.continue_token == ""
    assert second.resource_version == first.resource_version
    assert told(await watched(server, second.resource_version, count=1)) == [("DELETED", "c")]


async def test_a_page_of_another_list_cannot_be_asked_for(server: ApiServer) -> None:
    with pytest.raises((KubeInvalid, KubeGone)):
        await server.api.list(DATA_UPLOADS, server.namespace, limit=2, continue_token="nonsense")


async def test_lists_and_selectors_agree(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a", labels={"x": "1"}))
    await server.api.create(DATA_UPLOADS, upload(server, "b", labels={"x": "2"}))
    await server.api.create(DATA_UPLOADS, upload(server, "c"))

    async def names(selector: Selector) -> list[str]:
        page = await server.api.list(DATA_UPLOADS, server.namespace, selector=selector)
        return [item.metadata.name for item in page.items]

    assert await names(EVERYTHING) == ["a", "b", "c"]
    assert await names(Selector(labels={"x": "2"})) == ["b"]
    assert await names(Selector(has_labels=("x",))) == ["a", "b"]
    assert await names(Selector(fields={"metadata.name": "c"})) == ["c"]
    with pytest.raises(KubeInvalid):
        await names(Selector(fields={"status.phase": "New"}))


async def test_pods_are_found_by_their_node(server: ApiServer) -> None:
    await server.api.create(PODS, pod(server, "a"))
    for node, found in (("n1", 0), ("", 1)):
        page = await server.api.list(PODS, server.namespace, selector=Selector(fields={"spec.nodeName": node}))
        assert len(page.items) == found


async def test_a_watch_tells_what_happened_after_a_version(server: ApiServer) -> None:
    start = (await server.api.list(DATA_UPLOADS, server.namespace)).resource_version
    made = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    changed = await server.api.patch(DATA_UPLOADS, key(server, "a"), {"spec": {"cancel": True}})
    await server.api.delete(DATA_UPLOADS, key(server, "a"))
    events = await watched(server, start, count=3)
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert [event.item for event in events[:2]] == [made, changed]
    assert events[0].resource_version == made.metadata.resource_version
    last = events[2].item
    assert isinstance(last, DataUpload)
    assert last.metadata.resource_version == events[2].resource_version != changed.metadata.resource_version
    assert told(await watched(server, events[0].resource_version, count=2)) == [("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_watch_with_a_selector_sees_objects_enter_and_leave(server: ApiServer) -> None:
    seen = await server.api.create(DATA_UPLOADS, upload(server, "a"))
    for value in ("1", "2"):
        await server.api.patch(DATA_UPLOADS, key(server, "a"), {"metadata": {"labels": {"x": value}}})
    events = await watched(server, seen.metadata.resource_version, count=2, selector=Selector(labels={"x": "1"}))
    assert told(events) == [("ADDED", "a"), ("DELETED", "a")]


async def test_a_watch_where_nothing_changes_ends_at_its_timeout_without_a_word(server: ApiServer) -> None:
    start = (await server.api.create(DATA_UPLOADS, upload(server, "a"))).metadata.resource_version
    await server.api.create(CONFIG_MAPS, config_map(server, "another-kind"))
    events = server.api.watch(DATA_UPLOADS, server.namespace, resource_version=start, timeout=4)
    assert [event async for event in events] == []


async def test_a_watch_gets_a_bookmark_for_what_it_did_not_select(server: ApiServer) -> None:
    start = (await server.api.create(DATA_UPLOADS, upload(server, "a"))).metadata.resource_version

    async def watch() -> list[WatchEvent[DataUpload]]:
        selector = Selector(fields={"metadata.name": "a"})
        events = server.api.watch(DATA_UPLOADS, server.namespace, resource_version=start, selector=selector, timeout=6)
        return [event async for event in events]

    watching = asyncio.ensure_future(watch())
    await server.sleep(1)
    other = await server.api.create(DATA_UPLOADS, upload(server, "b"))
    bookmarks = await watching  # one, or two when it is late
    assert {(bookmark.type, bookmark.item) for bookmark in bookmarks} == {(EventType.BOOKMARK, None)}
    assert int(bookmarks[-1].resource_version) >= int(other.metadata.resource_version)


async def test_a_watch_from_before_the_compaction_is_gone(server: ApiServer) -> None:
    await server.api.create(DATA_UPLOADS, upload(server, "a"))
    server.compact()
    with pytest.raises(KubeGone):
        await watched(server, "1", count=1)


async def test_rights_are_asked_for_and_enforced(server: ApiServer) -> None:
    review = AccessReview("get", "", "configmaps", namespace=server.namespace)
    assert await server.api.allowed(review)
    assert await server.reader.allowed(review)
    assert not await server.reader.allowed(AccessReview("delete", "", "configmaps", namespace=server.namespace))
    assert not await server.reader.allowed(AccessReview("list", "velero.io", "datauploads"))
    with pytest.raises(KubeForbidden):
        await server.reader.list(DATA_UPLOADS, server.namespace)
    with pytest.raises(KubeForbidden):
        await server.reader.create(CONFIG_MAPS, config_map(server, "a"))
    with pytest.raises(KubeNotFound):
        await server.reader.get(CONFIG_MAPS, key(server, "nothing"))


async def test_an_object_of_the_cluster_has_no_namespace(server: ApiServer) -> None:
    with pytest.raises(KubeNotFound):
        await server.api.get(NODES, Key("", "nowhere"))

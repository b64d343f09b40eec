"""The informer's store follows the cluster, whatever the API server does to its lists and watches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import KubeForbidden, KubeGone, KubeUnavailable
from agent.kube.names import BACKUP_NAME_LABEL
from agent.kube.resource import DATA_UPLOADS
from agent.kube.selector import Selector
from tests.unit.kube.cluster import Cluster, key, upload


async def test_what_is_there_and_what_comes_changes_and_goes_is_told() -> None:
    cluster = Cluster()
    for name in "abcde":
        await cluster.api.create(DATA_UPLOADS, upload(name))
    async with cluster.running() as informer:
        await informer.wait_synced()
        assert cluster.names() == list("abcde")
        assert cluster.asked("list") == 3  # pages of two
        cluster.told.clear()
        await cluster.api.create(DATA_UPLOADS, upload("f"))
        await cluster.api.patch(DATA_UPLOADS, key("a"), {"status": {"phase": "Accepted"}})
        await cluster.api.delete(DATA_UPLOADS, key("b"))
        await cluster.until(lambda: cluster.told == ["f", "a", "b"], within=1)
        stored = informer.store.get(key("a"))
        assert stored == await cluster.api.get(DATA_UPLOADS, key("a"))
        assert cluster.names() == list("acdef")


async def test_objects_are_found_by_label_also_after_the_label_changed() -> None:
    cluster = Cluster()
    await cluster.api.create(DATA_UPLOADS, upload("a", labels={BACKUP_NAME_LABEL: "one"}))
    async with cluster.running() as informer:
        await informer.wait_synced()
        assert [obj.metadata.name for obj in informer.store.by_index("backup", "one")] == ["a"]
        await cluster.api.patch(DATA_UPLOADS, key("a"), {"metadata": {"labels": {BACKUP_NAME_LABEL: "two"}}})
        await cluster.until(lambda: len(informer.store.by_index("backup", "two")) == 1, within=1)
        assert informer.store.by_index("backup", "one") == []


async def test_an_object_that_leaves_the_selector_leaves_the_store() -> None:
    cluster = Cluster()
    await cluster.api.create(DATA_UPLOADS, upload("a", labels={"x": "1"}))
    async with cluster.running(selector=Selector(labels={"x": "1"})) as informer:
        await informer.wait_synced()
        await cluster.api.patch(DATA_UPLOADS, key("a"), {"metadata": {"labels": {"x": "2"}}})
        await cluster.until(lambda: cluster.names() == [], within=1)


async def test_a_cut_watch_goes_on_without_a_list() -> None:
    cluster = Cluster()
    async with cluster.running() as informer:
        await informer.wait_synced()
        cluster.api.cut_watches()
        await cluster.api.create(DATA_UPLOADS, upload("a"))
        await cluster.until(lambda: cluster.names() == ["a"], within=5)
        assert cluster.asked("list") == 1


async def test_too_old_a_version_is_listed_anew_and_what_went_meanwhile_is_told() -> None:
    cluster = Cluster()
    await cluster.api.create(DATA_UPLOADS, upload("gone"))
    async with cluster.running() as informer:
        await informer.wait_synced()
        cluster.api.outage(True)
        await cluster.clock.sleep(5)
        cluster.api.outage(False)
        cluster.told.clear()
        await cluster.api.delete(DATA_UPLOADS, key("gone"))
        await cluster.api.create(DATA_UPLOADS, upload("new"))
        cluster.api.compact()
        await cluster.until(lambda: cluster.names() == ["new"], within=60)
        assert sorted(cluster.told) == ["gone", "new"]
        assert cluster.asked("list") == 2


async def test_bookmarks_keep_a_quiet_watch_from_becoming_too_old() -> None:
    cluster = Cluster()
    async with cluster.running() as informer:
        await informer.wait_synced()
        for name in "abc":  # others' changes, which no event of ours tells
            await cluster.clock.sleep(40)
            cluster.api.put_raw(DATA_UPLOADS, {"metadata": {"name": name, "namespace": "elsewhere"}})
        await cluster.clock.sleep(70)
        cluster.api.compact()
        cluster.api.cut_watches()
        await cluster.clock.sleep(60)
        assert cluster.asked("list") == 1


async def test_an_outage_is_asked_about_with_growing_pauses_and_survived() -> None:
    cluster = Cluster()
    async with cluster.running() as informer:
        await informer.wait_synced()
        before = len(cluster.api.requests)
        cluster.api.outage(True)
        await cluster.clock.sleep(600)
        assert isinstance(informer.last_error, KubeUnavailable)
        assert len(cluster.api.requests) - before < 30
        cluster.api.outage(False)
        await cluster.api.create(DATA_UPLOADS, upload("a"))
        await cluster.until(lambda: cluster.names() == ["a"], within=31)
        assert informer.last_error is None


async def test_the_pause_that_the_server_asks_for_is_kept() -> None:
    cluster = Cluster()
    cluster.api.fail("list", DATA_UPLOADS.name, KubeUnavailable("too many requests", retry_after=100.0))
    async with cluster.running() as informer:
        await cluster.clock.sleep(99)
        assert cluster.asked("list") == 1
        await cluster.until(informer._synced.is_set, within=2)


async def test_a_missing_right_is_named_and_healed_when_it_is_given() -> None:
    cluster = Cluster()
    cluster.api.denied.add(("list", DATA_UPLOADS.name))
    async with cluster.running() as informer:
        await cluster.clock.sleep(10)
        assert isinstance(informer.last_error, KubeForbidden)
        cluster.api.denied.clear()
        await cluster.until(informer._synced.is_set, within=31)


async def test_a_page_that_became_too_old_starts_the_list_anew() -> None:
    cluster = Cluster()
    for name in "abc":
        await cluster.api.create(DATA_UPLOADS, upload(name))
    first = await cluster.api.list(DATA_UPLOADS, limit=1)
    cluster.api.compact()
    with pytest.raises(KubeGone):
        await cluster.api.list(DATA_UPLOADS, limit=1, continue_token=first.continue_token)


async def test_each_key_is_told_again_at_a_resync() -> None:
    cluster = Cluster()
    await cluster.api.create(DATA_UPLOADS, upload("a"))
    async with cluster.running(resync=100.0):
        await cluster.clock.sleep(350)
        assert cluster.told == ["a"] * 4


async def test_a_watch_that_always_ends_at_once_is_no_hot_loop() -> None:
    cluster = Cluster()
    async with cluster.running() as informer:
        await informer.wait_synced()
        for _ in range(600):
            cluster.api.cut_watches()
            await cluster.clock.sleep(0.5)
        assert cluster.asked("watch") < 60


async def test_an_unreadable_object_hides_no_other() -> None:
    cluster = Cluster()
    await cluster.api.create(DATA_UPLOADS, upload("a"))
    await cluster.api.create(DATA_UPLOADS, upload("odd"))
    cluster.api.put_raw(DATA_UPLOADS, {**cluster.api.raw(DATA_UPLOADS, key("odd")), "status": {"phase": "Sleeping"}})
    async with cluster.running() as informer:
        await informer.wait_synced()
        assert cluster.names() == ["a"]
        assert list(informer.unreadable) == [key("odd")]
        await cluster.api.create(DATA_UPLOADS, upload("b"))
        await cluster.api.delete(DATA_UPLOADS, key("odd"))
        await cluster.until(lambda: not informer.unreadable, within=1)
        assert cluster.names() == ["a", "b"]


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32))
async def test_after_any_sequence_of_changes_and_faults_the_store_is_the_cluster(seed: int) -> None:
    cluster, rng = Cluster(), random.Random(seed)
    async with cluster.running() as informer:
        for _ in range(30):
            name = rng.choice("abcd")
            known = (("datauploads.velero.io", key(name))) in cluster.api._objects
            match rng.choice(["change", "change", "delete", "cut", "compact", "outage", "wait"]):
                case "change" if known:
                    patch = {"status": {"message": str(rng.random())}}
                    await cluster.api.patch(DATA_UPLOADS, key(name), patch)
                case "change":
                    await cluster.api.create(DATA_UPLOADS, upload(name))
                case "delete" if known:
                    await cluster.api.delete(DATA_UPLOADS, key(name))
                case "cut":
                    cluster.api.cut_watches()
                case "compact":
                    cluster.api.compact()
                case "outage":
                    cluster.api.outage(True)
                    await cluster.clock.sleep(rng.random() * 5)
                    cluster.api.outage(False)
                case _:
                    await cluster.clock.sleep(rng.random() * 3)
        await cluster.clock.sleep(120)
        there = (await cluster.api.list(DATA_UPLOADS)).items
        assert sorted(informer.store, key=lambda obj: obj.key) == sorted(there, key=lambda obj: obj.key)

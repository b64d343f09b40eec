"""Snapshots as manifests: nothing readable is lost, nothing unreadable is silent."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptManifest, SnapshotError, SnapshotNotFound, UsageError
from agent.repository.ids import ManifestId, ObjectId
from agent.snapshots import store
from agent.snapshots.model import DIRECTORY, DirectorySummary, Entry, Snapshot, Source, Stats, decode_snapshot

SOURCE = Source("default", "default", "/data")
ROOT = Entry(name="data", type=DIRECTORY, mode=0o755, obj=ObjectId("k" + "0" * 32), summ=DirectorySummary(dirs=1))


class Manifests:
    def __init__(self):
        self.items = {}

    def find(self, labels):
        return [m for m in self.items.values() if labels.items() <= m.labels.items()]

    async def put_manifest(self, labels, data):
        mid = ManifestId(f"{len(self.items):032x}")
        self.items[mid] = SimpleNamespace(id=mid, labels=labels, data=bytes(data))
        return mid

    async def delete_manifest(self, mid):
        del self.items[mid]


def snapshot(start, *, incomplete="", tags=None, pins=(), source=SOURCE, end=None):
    return Snapshot(
        source=source,
        start_ns=start,
        end_ns=start + 1 if end is None else end,
        root=ROOT,
        incomplete=incomplete,
        tags=tags or {},
        pins=pins,
    )


def test_golden_manifests_come_back_byte_for_byte(golden):
    seen = 0
    for vector in json.loads((golden / "vectors.json").read_bytes())["manifests"]:
        for entry in json.loads(vector["json"])["entries"]:
            if (entry["labels"] or {}).get("type") != "snapshot":
                continue
            stored = json.dumps(entry["data"], separators=(",", ":"), ensure_ascii=False).encode()
            read = decode_snapshot(entry["id"], stored)
            assert read.to_json() == stored
            assert {**store.source_labels(read.source), **read.tags} == entry["labels"]
            seen += 1
    assert seen


async def test_a_saved_snapshot_is_found_by_id_and_by_prefix():
    manifests = Manifests()
    saved = [await store.save_snapshot(manifests, snapshot(n, tags={"tag:a": str(n)})) for n in (2, 1)]
    assert [s.start_ns for s in store.list_snapshots(manifests).snapshots] == [1, 2]
    assert store.find_snapshot(manifests, saved[0].id) == saved[0]
    assert store.find_snapshot(manifests, "0" * 31 + "1") == saved[1]
    assert store.list_snapshots(manifests, SOURCE, {"tag:a": "2"}).snapshots == (saved[0],)
    assert store.list_snapshots(manifests, Source("other", "default", "/data")).snapshots == ()
    with pytest.raises(SnapshotNotFound, match="2 snapshots"):
        store.find_snapshot(manifests, "00")
    for name in ("ff", ""):
        with pytest.raises(SnapshotNotFound):
            store.find_snapshot(manifests, name)


async def test_an_unreadable_manifest_is_a_warning_with_its_name():
    manifests = Manifests()
    saved = await store.save_snapshot(manifests, snapshot(1))
    bad = await manifests.put_manifest(store.source_labels(SOURCE), b'{"rootEntry":{"mode":493}}')
    listed = store.list_snapshots(manifests)
    assert listed.snapshots == (saved,)
    assert bad in listed.warnings[0]
    assert store.list_sources(manifests) == [SOURCE]
    with pytest.raises(CorruptManifest, match=bad):
        store.find_snapshot(manifests, bad)


async def test_what_others_could_not_find_or_read_is_not_saved():
    manifests = Manifests()
    for bad in (snapshot(1, source=Source("", "u", "/")), snapshot(1, tags={"hostname": "x"})):
        with pytest.raises(UsageError):
            await store.save_snapshot(manifests, bad)
    for root in (
        None,
        Entry(name="a", type=DIRECTORY),
        Entry(name="a", type=DIRECTORY, obj=ObjectId("k1"), uid=2**32 - 1, mode=2**31),
    ):
        with pytest.raises((SnapshotError, CorruptManifest)):
            await store.save_snapshot(manifests, Snapshot(source=SOURCE, start_ns=0, end_ns=0, root=root))
    assert not manifests.items


async def test_pins_are_sorted_and_keys_of_others_survive_a_second_save():
    manifests = Manifests()
    time = b'"2026-01-01T00:00:00Z"'
    data = (
        b'{"source":{"host":"h","userName":"u","path":"/p"},"startTime":%s,"endTime":%s,'
        b'"rootEntry":{"name":"p","type":"d","obj":"kab","x-a":{"b":[1]}},"x-more":"<1>"}' % (time, time)
    )
    read = decode_snapshot(ManifestId("00"), data)
    saved = await store.save_snapshot(
        manifests, Snapshot(**{**{f: getattr(read, f) for f in read.__struct_fields__}, "pins": ("b", "a", "b")})
    )
    again = json.loads(manifests.items[saved.id].data)
    assert again["pins"] == ["a", "b"]
    assert again["x-more"] == "<1>"
    assert again["rootEntry"]["x-a"] == {"b": [1]}


def test_parents_are_the_newest_complete_one_and_the_incomplete_ones_after_it():
    old, base, same, later = (
        snapshot(1),
        snapshot(5),
        snapshot(5, incomplete="checkpoint"),
        snapshot(6, incomplete="canceled"),
    )
    early = snapshot(3, incomplete="checkpoint")
    assert store.find_parents([later, base, early, same, old]) == [base, later]
    assert store.find_parents([early, later]) == [early, later]
    assert store.find_parents([]) == []


def test_parents_for_velero_carry_its_tags():
    tags = {store.REQUESTER_TAG: "snapshot-pod-volume", store.UPLOADER_TAG: "kopia"}
    ours, resumed, other = (
        snapshot(2, tags={**tags, "x": "y"}),
        snapshot(3, tags=tags, incomplete="checkpoint"),
        snapshot(9),
    )
    assert store.find_parents([ours, resumed, other], tags) == [ours, resumed]


def test_superseded_are_unpinned_incomplete_ones_before_the_newest_complete_one():
    old, pinned, equal, later = (
        snapshot(1, incomplete="checkpoint"),
        snapshot(2, incomplete="checkpoint", pins=("p",)),
        snapshot(5, incomplete="checkpoint", end=5),
        snapshot(6, incomplete="checkpoint"),
    )
    assert store.superseded([old, pinned, equal, snapshot(5, end=9), later]) == [old, equal]
    assert store.superseded([old, later]) == []


@given(
    st.builds(Stats, **{f: st.integers(0, 2**31 - 1) for f in Stats.__struct_fields__}),
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])), max_size=3
    ),
)
def test_a_snapshot_decodes_to_itself(stats, time, tags):
    before = Snapshot(source=SOURCE, start_ns=time, end_ns=time, root=ROOT, stats=stats, tags=tags, description="d<&>")
    assert decode_snapshot(ManifestId(""), before.to_json()) == before

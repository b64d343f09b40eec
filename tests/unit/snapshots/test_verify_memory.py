"""What snapshots share is verified once, and named in each of them when it is damaged."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from agent.repository.ids import ContentId, ManifestId, ObjectId
from agent.repository.index_entry import IndexEntry
from agent.snapshots.model import Entry, Snapshot, Source
from agent.snapshots.verify import VerifyReport, verify_snapshots
from agent.snapshots.verify_memory import Remembered, Walked
from agent.storage.base import BlobId, BlobMetadata
from tests.unit.snapshots.memory_repository import Leaf, MemoryRepository

_PACK = BlobId("p0")


class IndexedRepository(MemoryRepository):
    """All contents in one pack, and a count of what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[ObjectId] = Counter()

    @property
    def storage(self) -> "IndexedRepository":
        return self

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        if _PACK.startswith(prefix):
            yield BlobMetadata(_PACK, 1 << 30, 0)

    def find(self, cid: ContentId) -> IndexEntry | None:
        return IndexEntry(cid, _PACK, 0, 1, 1, 0)

    async def extents(self, oid: ObjectId) -> Sequence[Leaf]:
        self.asked[oid] += 1
        return await super().extents(oid)


def tree(repository: IndexedRepository, changed: bytes) -> Entry:
    """Two folders that are always the same, beside a folder that is not; a large file in either."""
    deep = repository.directory("deep", [repository.file("d", b"deep")])
    same = repository.directory("same", [deep, repository.file("large", bytes(range(250)) * 40, 1000)])
    files = [repository.file("c", changed), repository.file("large", b"0123456789" * 500, 1000)]
    return repository.directory("", [repository.directory("changed", files), same])


def snapshots(*roots: Entry) -> list[Snapshot]:
    return [
        Snapshot(id=ManifestId(f"s{n}"), source=Source("h", "u", "/p"), start_ns=n, end_ns=n, root=root)
        for n, root in enumerate(roots)
    ]


@pytest.fixture
def repository() -> IndexedRepository:
    return IndexedRepository()


async def verify(repository: IndexedRepository, *roots: Entry) -> VerifyReport:
    return await verify_snapshots(repository, snapshots(*roots))


async def test_shared_directories_and_large_files_are_asked_for_once(repository: IndexedRepository) -> None:
    roots = [tree(repository, b"one"), tree(repository, b"two"), tree(repository, b"two")]
    report = await verify(repository, *roots)
    assert report.failed == 0
    # A root and a changed folder for each of the two states, the rest once.
    assert (report.snapshots, report.directories) == (3, 6)
    assert set(repository.asked.values()) == {1}
    assert max(Counter(repository.fetched).values()) == 1


async def test_damage_below_a_shared_directory_is_named_in_every_snapshot(repository: IndexedRepository) -> None:
    roots = [tree(repository, b"one"), tree(repository, b"two"), tree(repository, b"two")]
    del repository.data[repository.content(b"deep")]
    report = await verify(repository, *roots)
    assert [(f.snapshot, f.path) for f in report.failures] == [(f"s{n}", "same/deep/d") for n in range(3)]
    # The three directories on the way to the damage are walked each time, the changed one in each of its states.
    assert report.directories == 3 * 3 + 2
    assert max(Counter(repository.fetched).values()) == 3


async def test_a_directory_that_was_only_proved_as_a_file_is_still_read(repository: IndexedRepository) -> None:
    oid = repository.object(b"no directory at all" * 100, 1000)
    file = repository.directory("", [Entry(name="f", type="f", size=1900, obj=oid)])
    folder = repository.directory("", [Entry(name="d", type="d", obj=oid)])
    report = await verify(repository, file, folder)
    assert [(f.snapshot, f.path) for f in report.failures] == [("s1", "d")]


def test_memory_is_bounded_by_forgetting() -> None:
    remembered = Remembered(slots=4)
    assert "" not in remembered, "the hash of nothing is what an empty slot holds"
    for n in range(100):
        remembered.add(f"key {n}")
    assert 0 < sum(f"key {n}" in remembered for n in range(100)) <= 4


def test_too_many_failures_prove_nothing_good() -> None:
    walked = Walked(limit=3)
    walked.add("good", "good")
    for n in range(5):
        walked.fail(f"bad{n}")
    walked.end_snapshot()
    assert "good" not in walked
    walked.add("good", "good")
    walked.end_snapshot()
    assert "good" in walked

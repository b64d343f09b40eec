"""Objects and contents in memory, with nothing between: what hostile and damaged snapshots are made of."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from agent.base.errors import ContentNotFound, RepositoryError
from agent.repository.ids import ContentId, ObjectId, content_id, content_text
from agent.snapshots.directory import encode_directory
from agent.snapshots.model import DIRECTORY, FILE, SYMLINK, DirectorySummary, Entry
from agent.storage.base import Buffer


@dataclass(frozen=True, slots=True)
class Leaf:
    offset: int
    length: int
    content: ContentId
    compressed: bool = False


class MemoryRepository:
    """The read side of a repository, as far as restore, verify, browse and diff use it."""

    def __init__(self) -> None:
        self.data: dict[ContentId, bytes] = {}
        self.lists: dict[ObjectId, list[Leaf]] = {}
        self.fetched: list[ContentId] = []

    @property
    def contents(self) -> "MemoryRepository":
        return self

    @property
    def objects(self) -> "MemoryRepository":
        return self

    # ---- writing ----

    def content(self, data: bytes, prefix: int = 0) -> ContentId:
        cid = content_id(prefix, hashlib.blake2b(data, digest_size=16).digest())
        self.data[cid] = data
        return cid

    def object(self, data: bytes, chunk: int = 0, prefix: int = 0) -> ObjectId:
        if not chunk or len(data) <= chunk:
            return ObjectId(content_text(self.content(data, prefix)))
        leaves = [
            Leaf(i, len(data[i : i + chunk]), self.content(data[i : i + chunk])) for i in range(0, len(data), chunk)
        ]
        oid = ObjectId("I" + content_text(self.content(repr(leaves).encode(), ord("x"))))
        self.lists[oid] = leaves
        return oid

    def file(self, name: str, data: bytes, chunk: int = 0, mode: int = 0o644, mtime_ns: int = 1_000_000_007) -> Entry:
        oid = self.object(data, chunk)
        return Entry(name=name, type=FILE, mode=mode, size=len(data), mtime_ns=mtime_ns, obj=oid)

    def link(self, name: str, target: bytes) -> Entry:
        return Entry(name=name, type=SYMLINK, mode=0o777, size=len(target), mtime_ns=5, obj=self.object(target))

    def directory(self, name: str, entries: Sequence[Entry], mode: int = 0o755, mtime_ns: int = 77) -> Entry:
        data = encode_directory(entries, DirectorySummary())
        return Entry(name=name, type=DIRECTORY, mode=mode, mtime_ns=mtime_ns, obj=self.object(data, prefix=ord("k")))

    # ---- reading ----

    async def chunks(self, oid: ObjectId) -> AsyncIterator[bytes]:
        for leaf in await self.extents(oid):
            if leaf.content not in self.data:
                raise ContentNotFound(f"content {content_text(leaf.content)} is gone")
            yield self.data[leaf.content]

    async def extents(self, oid: ObjectId) -> Sequence[Leaf]:
        if oid in self.lists:
            return self.lists[oid]
        text = oid.lstrip("I")
        cid = content_id(ord(text[0]) if len(text) % 2 else 0, bytes.fromhex(text[len(text) % 2 :]))
        return [Leaf(0, len(self.data.get(cid, b"")), cid)]

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        return self.data.get(cid) == bytes(data)

    async def read_views(
        self, cids: Sequence[ContentId], *, on_error: Callable[[ContentId, RepositoryError], None] | None = None
    ) -> AsyncGenerator[list[tuple[ContentId, bytes]], None]:
        assert len(set(cids)) == len(cids)
        for cid in reversed(cids):
            self.fetched.append(cid)
            if cid in self.data:
                yield [(cid, self.data[cid])]
            else:
                assert on_error is not None
                on_error(cid, ContentNotFound(f"content {content_text(cid)} is gone"))

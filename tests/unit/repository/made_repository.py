"""A repository made by hand in memory: packs and index blobs with exactly the contents that a test wants."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from agent.repository.content_cache import PackCache
from agent.repository.content_codec import ContentCodec
from agent.repository.content_reader import ContentReader, ReadLimits
from agent.repository.disk_cache import PrivateCache
from agent.repository.encryption import ContentCipher
from agent.repository.hashing import new_hasher
from agent.repository.ids import NO_PREFIX, ContentId, content_id
from agent.repository.index_build import build_index
from agent.repository.index_cache import IndexCache
from agent.repository.index_entry import IndexEntry
from agent.repository.index_set import IndexSet, list_epoch_indexes
from agent.repository.sealer import BlobSealer
from agent.storage.base import BlobId, BlobMetadata, Buffer
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage


class CountingStorage(MemoryStorage):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[tuple[str, int, int | None]] = []
        self.lists = 0

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        self.gets.append((blob_id, offset, length))
        return await super().get(blob_id, offset, length)

    def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        self.lists += 1
        return super().list(prefix)


@dataclass
class MadeRepository:
    """`pack` and `index` put blobs; `index_set` and `contents` read them."""

    storage: CountingStorage = field(default_factory=CountingStorage)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.hasher = new_hasher("BLAKE2B-256-128", b"secret" * 5)
        self.cipher = ContentCipher("AES256-GCM-HMAC-SHA256", bytes(32))
        self.sealer = BlobSealer(self.hasher, self.cipher)
        cache = IndexCache(PrivateCache(1 << 20))
        self.index_set = IndexSet(
            self.storage, self.sealer, cache, lambda: list_epoch_indexes(self.storage), self.clock
        )
        self.packs = PackCache(self.storage, PrivateCache(1 << 20))
        self.contents = ContentReader(
            self.storage, self.index_set, ContentCodec(self.hasher, self.cipher), self.packs, ReadLimits(parallel=3)
        )

    def cid(self, data: bytes, prefix: int = NO_PREFIX) -> ContentId:
        return content_id(prefix, self.hasher(data))

    def pack(
        self, name: str, items: Sequence[bytes], *, prefix: int = NO_PREFIX, gap: int = 0, time_s: int = 1000
    ) -> list[IndexEntry]:
        """Put a pack of these contents with `gap` bytes before each; the entries that lead to them."""
        blob = bytearray(b"preamble")
        entries = []
        for item in items:
            blob += bytes(gap)
            sealed = self.cipher.seal(item, self.hasher(item))
            cid = self.cid(item, prefix)
            entries.append(IndexEntry(cid, BlobId(name), len(blob), len(sealed), len(item), time_s))
            blob += sealed
        self.put(name, bytes(blob))
        return entries

    def index(self, entries: Sequence[IndexEntry]) -> BlobId:
        """Put an index blob of epoch 0."""
        return self.index_blob(build_index(entries, 2))

    def index_blob(self, plaintext: bytes) -> BlobId:
        name, sealed = self.sealer.name_and_seal("xn0_", plaintext, "s0011223344556677123-c1")
        self.put(name, sealed)
        return BlobId(name)

    def put(self, name: str, data: bytes) -> None:
        self.storage.blobs[BlobId(name)] = data
        self.storage.timestamps_ns[BlobId(name)] = 0

    def object(self, data: bytes) -> ContentId:
        """Put a content in a pack and index of its own."""
        prefix = ord("x") if data.startswith(b'{"stream"') else NO_PREFIX
        cid = self.cid(data, prefix)
        self.index(self.pack(f"p{cid.hex()}", [data], prefix=prefix))
        return cid

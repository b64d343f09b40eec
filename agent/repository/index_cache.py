"""Decrypted index blobs as local mapped files, so that an index is fetched, decrypted and checked once.

`index_set` asks for each blob in force and stores what it had to fetch. An index blob's name is the hash of its bytes:
an entry never gets old, only unneeded.
"""

from __future__ import annotations

from agent.base.errors import CorruptIndex
from agent.repository.disk_cache import LocalCache
from agent.repository.index_read import MappedIndex
from agent.storage.base import BlobId, Buffer


class IndexCache:
    """Indexes by blob name. Thread side, thread-safe."""

    def __init__(self, files: LocalCache) -> None:
        self._files = files

    def load(self, blob_id: BlobId) -> MappedIndex | None:
        """The cached index of this blob; None when it has to be fetched."""
        data = self._files.get(blob_id)
        if data is None:
            return None
        try:
            return MappedIndex(data, f"index blob {blob_id}")
        except CorruptIndex:
            self._files.discard(blob_id)
            return None

    def store(self, blob_id: BlobId, plaintext: Buffer) -> MappedIndex:
        """Check a decrypted index and keep it. Raises `CorruptIndex`."""
        name = f"index blob {blob_id}"
        MappedIndex(plaintext, name).check_sorted()
        return MappedIndex(self._files.put(blob_id, plaintext), name)

    def close(self) -> None:
        """Forget what only this process sees; indexes given out stay good."""
        self._files.close()

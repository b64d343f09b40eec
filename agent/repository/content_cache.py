"""Whole metadata packs kept locally, so that directories and manifests are fetched once.

A `q` pack holds contents that are read one after the other and again by the next snapshot; one request brings all of
them. Packs stay sealed here: what is read from a cached pack is decrypted and hashed like anything else. `p` packs
are not kept: restores read each byte once.

Upload threads look parents' directories up here (`ContentReader.get_cached`), so a hit on an open pack is a dict
look-up.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict

from agent.repository.disk_cache import LocalCache
from agent.repository.pack import METADATA_PREFIX
from agent.storage.base import BlobId, BlobStorage

_OPEN_PACKS = 64


class PackCache:
    """Metadata packs by name. `fetch` on the loop, the rest from any thread."""

    def __init__(self, storage: BlobStorage, files: LocalCache) -> None:
        self._storage = storage
        self._files = files
        self._open: OrderedDict[BlobId, memoryview] = OrderedDict()
        self._open_lock = threading.Lock()
        self._fetching: dict[BlobId, asyncio.Lock] = {}

    @staticmethod
    def keeps(pack: BlobId) -> bool:
        """Whether packs of this name are kept here."""
        return pack.startswith(METADATA_PREFIX)

    def get(self, pack: BlobId) -> memoryview | None:
        """The pack, mapped; None when it is not here. Thread side: a pack not used lately is verified first."""
        with self._open_lock:
            data = self._open.get(pack)
            if data is not None:
                self._open.move_to_end(pack)
                return data
        data = self._files.get(pack)
        return None if data is None else self._keep_open(pack, data)

    async def fetch(self, pack: BlobId) -> memoryview:
        """The pack, from here or from the storage; fetched once however many ask. Raises `BlobNotFound`."""
        with self._open_lock:
            data = self._open.get(pack)
        if data is not None:
            return data
        lock = self._fetching.setdefault(pack, asyncio.Lock())
        try:
            async with lock:
                data = await asyncio.to_thread(self.get, pack)
                if data is not None:
                    return data
                blob = await self._storage.get(pack)
                return self._keep_open(pack, await asyncio.to_thread(self._files.put, pack, blob))
        finally:
            if not lock.locked():
                self._fetching.pop(pack, None)

    def discard(self, pack: BlobId) -> None:
        """Forget a pack, because something in it is damaged or it is gone from the storage."""
        with self._open_lock:
            self._open.pop(pack, None)
        self._files.discard(pack)

    def close(self) -> None:
        """Let go of open packs."""
        with self._open_lock:
            self._open.clear()
        self._files.close()

    def _keep_open(self, pack: BlobId, data: memoryview) -> memoryview:
        with self._open_lock:
            self._open[pack] = data
            self._open.move_to_end(pack)
            while len(self._open) > _OPEN_PACKS:
                self._open.popitem(last=False)
        return data

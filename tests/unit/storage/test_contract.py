from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.storage.base import BlobStorage
from agent.storage.filesystem import FilesystemStorage
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage
from agent.testing.storage_conformance import StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    async def storage(self) -> BlobStorage:
        return MemoryStorage(VirtualClock())


class TestFilesystem(StorageConformance):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[BlobStorage]:
        storage = await FilesystemStorage.open(str(tmp_path / "new"), create=True)
        yield storage
        await storage.close()

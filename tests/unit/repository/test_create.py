"""New repositories."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from agent.base.errors import AlgorithmUnsupported, BlobExists, RepositoryExists, UsageError
from agent.repository.create import VELERO_MARKER, CreateOptions, create_repository
from agent.repository.format_blob import BLOBCFG_BLOB, FORMAT_BLOB, EpochParameters, ObjectLock
from agent.repository.format_manager import FormatManager
from agent.storage.base import BlobId
from agent.testing.memory_storage import MemoryStorage

DAY = 24 * 3600 * 10**9


class Manifests:
    """Takes the place of the writer, and sees what was in storage by then."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.put: list[tuple[Mapping[str, str], Any]] = []
        self.present: list[str] = []

    async def __call__(self, labels: Mapping[str, str], data: msgspec.Raw) -> None:
        self.put.append((dict(labels), json.loads(bytes(data))))
        self.present = list(self.storage.blobs)


async def create(storage: MemoryStorage, **options: Any) -> Manifests:
    manifests = Manifests(storage)
    await create_repository(storage, "pw", CreateOptions(**options), manifests)
    return manifests


async def test_the_defaults_are_veleros_and_the_result_opens() -> None:
    storage = MemoryStorage()
    manifests = await create(storage)
    found = (await FormatManager.load(storage, "pw")).format
    assert (found.version, found.index_version, found.enable_password_change) == (3, 2, True)
    assert (found.hash, found.encryption) == ("BLAKE2B-256-128", "AES256-GCM-HMAC-SHA256")
    assert (found.splitter, found.max_pack_size) == ("DYNAMIC-4M-BUZHASH", 20 << 20)
    assert found.epoch_parameters.min_epoch_duration == DAY
    assert len({found.secret, found.master_key, found.unique_id}) == 3
    assert list(storage.blobs) == [BLOBCFG_BLOB, FORMAT_BLOB]
    assert manifests.put[0][0] == {"type": "maintenance"}
    assert manifests.put[0][1]["owner"] == "default@default"


async def test_version_1_has_neither_epochs_nor_another_password() -> None:
    storage = MemoryStorage()
    await create(storage, format_version=1)
    found = (await FormatManager.load(storage, "pw")).format
    assert (found.version, found.index_version, found.enable_password_change) == (1, 1, False)
    assert not found.epoch_parameters.enabled
    assert found.recovery_copy == storage.blobs[FORMAT_BLOB]


async def test_veleros_marker_comes_last() -> None:
    storage = MemoryStorage()
    manifests = await create(storage, for_velero=True, maintenance_owner="a@b")
    assert VELERO_MARKER not in manifests.present
    unique_id = json.loads(storage.blobs[FORMAT_BLOB])["uniqueID"]
    assert storage.blobs[VELERO_MARKER].decode() == f'{{"uniqueID":"{unique_id}"}}'
    assert manifests.put[0][1]["owner"] == "a@b"


async def test_retention_is_stored_and_asked_for() -> None:
    storage = MemoryStorage()
    await create(storage, object_lock=ObjectLock("COMPLIANCE", 2 * DAY))
    assert (await FormatManager.load(storage, "pw")).object_lock == ObjectLock("COMPLIANCE", 2 * DAY)
    assert {blob: lock.mode for blob, lock in storage.retentions.items()} == {
        BLOBCFG_BLOB: "COMPLIANCE",
        FORMAT_BLOB: "COMPLIANCE",
    }


async def test_a_location_that_holds_anything_is_left_alone() -> None:
    storage = MemoryStorage()
    await storage.put(BlobId("hello"), [b"x"])
    with pytest.raises(RepositoryExists, match="hello"):
        await create(storage)
    assert list(storage.blobs) == ["hello"]


async def test_of_two_creators_at_once_one_is_told_and_the_other_has_a_whole_repository() -> None:
    class Raced(MemoryStorage):
        async def put(self, blob_id: BlobId, data: Any, **options: Any) -> None:
            if options.get("if_absent"):
                raise BlobExists("taken")
            await super().put(blob_id, data, **options)

    storage = Raced()
    with pytest.raises(RepositoryExists, match="somebody else"):
        await create(storage)
    assert not storage.blobs


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"format_version": 0}, UsageError),
        ({"format_version": 4}, UsageError),
        ({"max_pack_size": 1}, UsageError),
        ({"max_pack_size": 121 << 20}, UsageError),
        ({"maintenance_owner": "nobody"}, UsageError),
        ({"maintenance_owner": "@"}, UsageError),
        ({"ecc": "REED-SOLOMON-CRC32", "ecc_overhead_percent": 0}, UsageError),
        ({"ecc": "REED-SOLOMON-CRC32", "ecc_overhead_percent": 101}, UsageError),
        ({"ecc": "XOR", "ecc_overhead_percent": 5}, AlgorithmUnsupported),
        ({"object_lock": ObjectLock("GOVERNANCE", DAY - 1)}, UsageError),
        ({"object_lock": ObjectLock("SOMETIMES", DAY)}, UsageError),
        ({"epoch_parameters": EpochParameters()}, UsageError),
        ({"epoch_parameters": EpochParameters(enabled=True)}, UsageError),
        ({"hash": "CRC"}, AlgorithmUnsupported),
        ({"encryption": "NONE"}, AlgorithmUnsupported),
        ({"splitter": "RANDOM"}, AlgorithmUnsupported),
        ({"key_algorithm": "md5"}, AlgorithmUnsupported),
    ],
)
async def test_options_that_make_no_repository_are_refused_before_a_byte_is_written(
    options: dict[str, Any], error: type[Exception]
) -> None:
    storage = MemoryStorage()
    with pytest.raises(error):
        await create(storage, **options)
    with pytest.raises(UsageError):
        await create_repository(storage, "", replace(CreateOptions()), Manifests(storage))
    assert not storage.blobs

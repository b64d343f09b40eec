"""Index blobs into the store, under the rule that makes them count (§5.2, §5.4).

With epochs, an index blob belongs to the epoch that was current when it was written; two epochs later that epoch may
have been compacted without it. So the epoch is read anew when it is not fresh, and once more after the blobs are in:
when it has moved on by two, they are deleted and written again. Only then does anybody learn that they are in force.
Called by `flush`, and by the repair of lost indexes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.base.clock import Clock
from agent.base.errors import WriteConflict
from agent.repository.epochs import (
    EPOCH_MARKER_PREFIX,
    fresh_enough_to_write,
    index_blob_prefix,
    index_blob_suffix,
    still_valid,
    write_epoch,
    write_was_too_slow,
)
from agent.repository.legacy_index import INDEX_PREFIX as LEGACY_PREFIX
from agent.repository.sealer import BlobSealer
from agent.repository.session import SessionId
from agent.storage.base import BlobId, BlobStorage

_MAX_ATTEMPTS = 5


class IndexCommitter:
    """Writes index blobs for sessions of one repository. Loop side."""

    def __init__(
        self, storage: BlobStorage, sealer: BlobSealer, clock: Clock, *, epochs: bool, refresh_frequency_ns: int
    ) -> None:
        self._storage = storage
        self._sealer = sealer
        self._clock = clock
        self._epochs = epochs
        self._refresh_frequency_ns = refresh_frequency_ns
        self._epoch = 0
        self._loaded_ns: int | None = None

    async def commit(self, session: SessionId, shards: Sequence[bytes]) -> Sequence[BlobId]:
        """Put these indexes (plaintext, `build_shards`) as blobs of `session`; their names, in order.

        They are in force when this returns. Raises `WriteConflict` when epochs advance faster than the blobs get in.
        Canceled or failed, it may have left some; putting the same again is harmless.
        """
        if not self._epochs:
            return [await self._put(LEGACY_PREFIX, shard, session) for shard in shards]
        for _ in range(_MAX_ATTEMPTS):
            written = await self._put_under_one_epoch(session, shards)
            if written is not None:
                return written
        raise WriteConflict(
            f"{len(shards)} index blobs of session {session} could not be written: in each of {_MAX_ATTEMPTS} attempts"
            f" the epoch of {self._storage.location} moved on meanwhile",
            hint="try again; when this repeats, uploads are too slow for the repository's epoch settings",
        )

    async def _put_under_one_epoch(self, session: SessionId, shards: Sequence[bytes]) -> Sequence[BlobId] | None:
        """The names, or None after taking everything back because the epoch moved on."""
        if self._loaded_ns is None or not fresh_enough_to_write(
            self._loaded_ns, self._clock.now_ns(), self._refresh_frequency_ns
        ):
            await self._load_epoch()
        epoch, suffix = self._epoch, index_blob_suffix(session, len(shards))
        written: list[BlobId] = []
        for shard in shards:
            if not still_valid(self._loaded_ns or 0, self._clock.now_ns(), self._refresh_frequency_ns):
                await self._load_epoch()
                if self._epoch != epoch:
                    await self._storage.delete(written)
                    return None
            written.append(await self._put(index_blob_prefix(epoch), shard, suffix))
        await self._load_epoch()
        if write_was_too_slow(epoch, self._epoch):
            await self._storage.delete(written)
            return None
        return written

    async def _load_epoch(self) -> None:
        started_ns = self._clock.now_ns()
        self._epoch = write_epoch([blob async for blob in self._storage.list(EPOCH_MARKER_PREFIX)])
        self._loaded_ns = started_ns

    async def _put(self, prefix: str, shard: bytes, suffix: str) -> BlobId:
        name, sealed = await asyncio.to_thread(self._sealer.name_and_seal, prefix, shard, suffix)
        await self._storage.put(BlobId(name), [sealed])
        return BlobId(name)

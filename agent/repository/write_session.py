"""One write session: what a single flush commits, and the marker that protects it meanwhile (§8.5, §8.6, §14.5).

A session begins with the first content after a flush and ends when its index is in force and its marker is gone. The
content writer fills `WriteSession` under its lock; `SessionMarkers` is the loop side: it puts the marker before the
session's first pack, compares the clocks on that occasion, and takes the marker away at the end.
"""

from __future__ import annotations

import asyncio

import msgspec

from agent._native import RowTable
from agent.base.clock import Clock
from agent.base.errors import ClockDrift
from agent.base.times import NANOSECONDS
from agent.repository.ids import ContentId
from agent.repository.index_entry import IndexEntry
from agent.repository.pack_writer import OpenPack
from agent.repository.sealer import BlobSealer
from agent.repository.session import MARKER_PREFIX, SessionId, SessionMarker, encode_marker
from agent.storage.base import BlobId, BlobStorage

MAX_CLOCK_DRIFT_NS = 5 * 60 * NANOSECONDS


class WriteSession:
    """What has been written since the last flush. All fields belong to the content writer's lock.

    Only `rows` needs it for nothing but claims.
    """

    __slots__ = (
        "active",
        "closing",
        "deletions",
        "open_packs",
        "packs",
        "rows",
        "session_id",
        "started_ns",
        "uploading",
    )

    def __init__(self, session_id: SessionId, started_ns: int) -> None:
        self.session_id = session_id
        self.started_ns = started_ns
        self.rows = RowTable()
        """Every content of this session; one that a thread has claimed and not sealed yet has no place."""
        self.deletions: dict[ContentId, IndexEntry] = {}
        """Deletion entries, ready for the index."""
        self.packs: list[BlobId] = []
        """Names by pack number."""
        self.open_packs: dict[str, OpenPack] = {}
        """By the letter of their name; at most one `p` and one `q`."""
        self.active = 0
        """Contents claimed and not sealed yet."""
        self.uploading = 0
        """Packs opened and not yet uploaded."""
        self.closing = False
        """No content is added any more except those claimed already."""

    @property
    def empty(self) -> bool:
        """Nothing was written or deleted."""
        return not self.rows and not self.deletions


class _Marker(msgspec.Struct):
    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    stored: list[BlobId] = msgspec.field(default_factory=list)
    """What was put, or may have been."""
    checked: bool = False


class SessionMarkers:
    """Puts and deletes session markers. Loop side."""

    def __init__(self, storage: BlobStorage, sealer: BlobSealer, clock: Clock, username: str, hostname: str) -> None:
        self._storage = storage
        self._sealer = sealer
        self._clock = clock
        self._username = username
        self._hostname = hostname
        self._markers: dict[SessionId, _Marker] = {}

    async def ensure(self, session: WriteSession) -> None:
        """The session's marker is in the store when this returns, and the clocks agree (§14.14).

        Raises `ClockDrift` after deleting the marker when local and storage time are more than five minutes apart.
        """
        marker = self._markers.setdefault(session.session_id, _Marker())
        async with marker.lock:
            if marker.checked:
                return
            plaintext = encode_marker(
                SessionMarker(
                    session.session_id, session.started_ns, self._clock.now_ns(), self._username, self._hostname
                )
            )
            blob_id, sealed = self._sealer.name_and_seal(MARKER_PREFIX, plaintext, session.session_id)
            marker.stored.append(blob_id)
            before = self._clock.now_ns()
            await self._storage.put(blob_id, [sealed])
            stored = (await self._storage.stat(blob_id)).timestamp_ns
            after = self._clock.now_ns()
            drift = max(before - stored, stored - after, 0)
            if drift > MAX_CLOCK_DRIFT_NS:
                await self._storage.delete(marker.stored)
                raise ClockDrift(
                    f"the clock of this machine and the time of {self._storage.location} are"
                    f" {drift // NANOSECONDS} seconds apart, nothing was written",
                    hint="set the clock right: index entries are ordered by time",
                )
            marker.checked = True

    async def remove(self, session: WriteSession) -> None:
        """Delete the session's marker, when there is one. Only after its index is in force."""
        marker = self._markers.get(session.session_id)
        if marker is None:
            return
        async with marker.lock:
            await self._storage.delete(marker.stored)
        self._markers.pop(session.session_id, None)

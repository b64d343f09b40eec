"""Manifests: small JSON items with labels, many together in contents with prefix `m` (§7.1).

Snapshots, policies and the maintenance parameters are manifests; `agent.snapshots` gives them meaning. Here they are
loaded, merged and found by label. `manifest_writer` adds the other side.

All manifests of a repository are in memory: some thousands of a few KiB. A refresh reads only contents that are new.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.base.errors import ContentNotFound, CorruptManifest, ManifestNotFound, RepositoryError
from agent.base.times import parse_rfc3339
from agent.repository import gojson
from agent.repository.content_reader import ContentReader
from agent.repository.ids import ContentId, ManifestId, content_text
from agent.storage.base import Buffer

MANIFEST_PREFIX = b"m"
TYPE_LABEL = "type"

_MAX_LENGTH = 512 << 20
_ATTEMPTS = 5
_GZIP = 31


class Manifest(msgspec.Struct, frozen=True):
    """One item."""

    id: ManifestId
    labels: Mapping[str, str]
    modified_ns: int
    """Unix nanoseconds; the latest of several with one id counts."""
    data: bytes
    """JSON, as it is stored."""
    deleted: bool = False
    """A tombstone; never handed out."""

    @property
    def type(self) -> str:
        """What kind of item: `snapshot`, `policy`, `maintenance`, …"""
        return self.labels.get(TYPE_LABEL, "")


class _Entry(msgspec.Struct, frozen=True):
    id: str
    modified: str
    labels: dict[str, str] | None = None
    deleted: bool = False
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown keys beside `entries` are refused, as kopia refuses them: a repository that holds some is damaged."""

    entries: list[_Entry] | None


_DECODER = msgspec.json.Decoder(_Content)


def parse_manifest_content(plaintext: Buffer, cid: ContentId) -> list[Manifest]:
    """The items of one `m` content, tombstones included. Raises `CorruptManifest`. Thread side."""
    what = f"manifest content {content_text(cid)}"
    content = gojson.decode(_DECODER, _gunzip(plaintext, what), what, CorruptManifest)
    return [_manifest(entry, what) for entry in content.entries or ()]


def merge_manifests(known: Mapping[ManifestId, Manifest], more: Iterable[Manifest]) -> dict[ManifestId, Manifest]:
    """Per id the item modified last; tombstones are kept, they may have to win again (§7.1)."""
    merged = dict(known)
    for manifest in more:
        old = merged.get(manifest.id)
        if old is None or manifest.modified_ns > old.modified_ns:
            merged[manifest.id] = manifest
    return merged


class ManifestStore:
    """The committed manifests of one repository. `load` on the loop; `find` and `get` look at what it loaded.

    A repository with a damaged manifest still opens, for what needs no manifests: it is `find` and `get` that raise.
    With `ignore_damaged` they do not, what can be read is there, and `damaged` says what is not.
    """

    def __init__(self, contents: ContentReader, *, ignore_damaged: bool = False) -> None:
        self._contents = contents
        self._ignore_damaged = ignore_damaged
        self._merged: dict[ManifestId, Manifest] = {}
        self._read: frozenset[ContentId] = frozenset()
        self._damaged: dict[ContentId, RepositoryError] = {}
        self._generation: int | None = None
        self._lock = asyncio.Lock()

    @property
    def contents(self) -> frozenset[ContentId]:
        """The `m` contents that were read: what a compaction replaces (§14.15)."""
        return self._read

    def count(self) -> int:
        """In how many contents manifests lie, by the index that is loaded. Thread side."""
        return len(self._current())

    @property
    def damaged(self) -> Sequence[RepositoryError]:
        """What cannot be read or understood."""
        return tuple(self._damaged.values())

    def find(self, labels: Mapping[str, str]) -> list[Manifest]:
        """Every manifest that has all these labels, oldest first. Raises `CorruptManifest`, `CorruptContent`."""
        self._raise_damage()
        wanted = labels.items()
        found = [item for item in self._merged.values() if not item.deleted and wanted <= item.labels.items()]
        return sorted(found, key=lambda item: (item.modified_ns, item.id))

    def get(self, mid: ManifestId) -> Manifest:
        """One manifest. Raises `ManifestNotFound`, `CorruptManifest`, `CorruptContent`."""
        manifest = self._merged.get(mid)
        if manifest is not None and not manifest.deleted:
            return manifest
        self._raise_damage()
        raise ManifestNotFound(f"there is no manifest {mid[:80]!r}")

    async def load(self) -> None:
        """Bring what is in memory to the state of the loaded index; damage is kept for `find`.

        Contents that vanish meanwhile were replaced by a compaction: the index is refreshed and they are read anew.
        """
        async with self._lock:
            for _ in range(_ATTEMPTS):
                generation = self._contents.index.generation
                if generation == self._generation and not self._damaged:
                    return
                await self._load()
                self._generation = generation
                if not any(isinstance(error, ContentNotFound) for error in self._damaged.values()):
                    return
                await self._contents.index.refresh()
                if self._contents.index.generation == generation:
                    return

    async def _load(self) -> None:
        current = await asyncio.to_thread(self._current)
        base = self._merged if self._read <= current else {}
        missing = sorted(current - self._read if self._read <= current else current)
        damaged: dict[ContentId, RepositoryError] = {}
        found: list[Manifest] = []
        batches = self._contents.read_batches(missing, on_error=damaged.__setitem__)
        async for batch in batches:
            for cid, plaintext in batch:
                try:
                    found += await asyncio.to_thread(parse_manifest_content, plaintext, cid)
                except CorruptManifest as error:
                    damaged[cid] = error
        self._merged = merge_manifests(base, found)
        self._read, self._damaged = current - damaged.keys(), damaged

    def _raise_damage(self) -> None:
        if not self._ignore_damaged:
            for error in self._damaged.values():
                raise error

    def _current(self) -> frozenset[ContentId]:
        return frozenset(entry.content for entry in self._contents.index.iterate(MANIFEST_PREFIX) if not entry.deleted)


def _manifest(entry: _Entry, what: str) -> Manifest:
    try:
        modified_ns = parse_rfc3339(entry.modified)
    except ValueError as error:
        raise CorruptManifest(f"item {entry.id[:80]!r} of {what} holds a time that is none: {error}") from error
    return Manifest(ManifestId(entry.id), entry.labels or {}, modified_ns, bytes(entry.data), entry.deleted)


def _gunzip(data: Buffer, what: str) -> bytes:
    """All members of a gzip stream, up to a length that no repository of manifests reaches."""
    parts: list[bytes] = []
    length = 0
    rest: Buffer = data
    while rest or not parts:
        stream = zlib.decompressobj(_GZIP)
        try:
            part = stream.decompress(rest, _MAX_LENGTH - length + 1)
        except zlib.error as error:
            raise CorruptManifest(f"{what} is not compressed as it has to be: {error}") from error
        length += len(part)
        if length > _MAX_LENGTH:
            raise CorruptManifest(f"{what} is larger than {_MAX_LENGTH} bytes")
        if not stream.eof:
            raise CorruptManifest(f"{what} is cut short")
        parts.append(part)
        rest = stream.unused_data
    return b"".join(parts)

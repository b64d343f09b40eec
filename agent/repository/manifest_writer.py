"""Manifests to be written: put, tombstone, compact (§7.1, §14.15).

Manifests wait here until a flush turns all of them into one `m` content of the session that it closes, so that none is
seen before what it refers to. A manifest that kopia cannot parse is skipped by it and what it refers to collected
as garbage; therefore everything is read back from the bytes that are about to be written, before they are.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from agent.base.clock import Clock
from agent.base.errors import CorruptManifest, UsageError
from agent.base.times import format_rfc3339
from agent.repository import gojson
from agent.repository.content_writer import ContentWriter
from agent.repository.ids import ContentId, ManifestId
from agent.repository.index_entry import IndexEntry
from agent.repository.manifests import MANIFEST_PREFIX, TYPE_LABEL, Manifest, parse_manifest_content

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

COMPACT_FROM = 16
"""So many `m` contents are worth one."""
_ID_LENGTH = 16
_GZIP_LEVEL = 6
_NULL = msgspec.Raw(b"null")
_UNWRITTEN = ContentId(MANIFEST_PREFIX)


class _Entry(msgspec.Struct, frozen=True, omit_defaults=False):
    id: str
    labels: dict[str, str] | None
    modified: str
    data: msgspec.Raw


class _Tombstone(msgspec.Struct, frozen=True):
    id: str
    labels: None
    modified: str
    deleted: bool
    data: None


class ManifestWriter:
    """The manifests that one writer has not flushed yet. Thread-safe."""

    def __init__(self, contents: ContentWriter, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._contents = contents
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._pending: list[Manifest] = []
        self._last_ns = 0

    def put(self, labels: Mapping[str, str], data: Mapping[str, JsonValue] | msgspec.Raw) -> ManifestId:
        """A new manifest with a new id, to be written by the next flush. `labels` need a `type`."""
        if not labels.get(TYPE_LABEL):
            raise UsageError(f"a manifest needs a label 'type', it has only {sorted(labels)}")
        try:
            raw = msgspec.Raw(bytes(data) if isinstance(data, msgspec.Raw) else gojson.encode(data))
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptManifest(f"the data of a manifest with labels {labels} is not JSON: {error}") from error
        with self._lock:
            record = Manifest(ManifestId(self._random(_ID_LENGTH).hex()), dict(labels), self._next_time(0), raw)
            encode_manifests([record])
            self._pending.append(record)
        return record.id

    def delete(self, manifest_id: ManifestId, modified_ns: int) -> None:
        """A tombstone for a manifest that was modified at `modified_ns`, to be written by the next flush."""
        with self._lock:
            self._pending.append(Manifest(manifest_id, {}, self._next_time(modified_ns), _NULL, deleted=True))

    def pending(self) -> Sequence[Manifest]:
        """What waits for a flush, tombstones included, oldest first."""
        with self._lock:
            return tuple(self._pending)

    def write_pending(self) -> Sequence[Manifest]:
        """Write what waits as one content; what that was. Thread side; called by the flush barrier."""
        pending = self.pending()
        if pending:
            self._write(pending)
        return pending

    def committed(self, written: Sequence[Manifest]) -> None:
        """These are in the repository now."""
        done = {id(record) for record in written}
        with self._lock:
            self._pending = [record for record in self._pending if id(record) not in done]

    def write_compacted(self, live: Sequence[Manifest], read: Iterable[IndexEntry]) -> None:
        """Write all `live` manifests as one content and delete those they were `read` from. Thread side.

        `read` must be exactly the contents that were merged into `live`: one that was not read is not replaced.
        """
        written = self._write(live)
        for entry in read:
            if entry.content != written:
                self._contents.delete_content(entry)

    def _write(self, records: Sequence[Manifest]) -> ContentId:
        return self._contents.write_content(encode_manifests(records), ord(MANIFEST_PREFIX))

    def _next_time(self, after_ns: int) -> int:
        """Later than every time given before, and than `after_ns`: of equal times either may win."""
        self._last_ns = max(self._clock.now_ns(), self._last_ns + 1, after_ns + 1)
        return self._last_ns


def encode_manifests(records: Sequence[Manifest]) -> bytes:
    """An `m` content with these items, read back. Raises `CorruptManifest` when it says anything else then."""
    data = [msgspec.Raw(_compact(item)) for item in records]
    entries = [
        _Tombstone(item.id, None, format_rfc3339(item.modified_ns), True, None)
        if item.deleted
        else _Entry(item.id, dict(item.labels), format_rfc3339(item.modified_ns), raw)
        for item, raw in zip(records, data, strict=True)
    ]
    packed = gzip.compress(gojson.encode({"entries": entries}) + b"\n", _GZIP_LEVEL, mtime=0)
    read = parse_manifest_content(packed, _UNWRITTEN)
    for item, raw, again in zip(records, data, read, strict=True):
        known = (item.id, item.labels, item.modified_ns, item.deleted, bytes(raw))
        if known != (again.id, again.labels, again.modified_ns, again.deleted, bytes(again.data)):
            raise CorruptManifest(f"manifest {item.id} reads back differently from what it is, so it is not written")
    return packed


def _compact(item: Manifest) -> bytes:
    try:
        return gojson.compact(item.data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CorruptManifest(f"the data of manifest {item.id} is not JSON, it is not written: {error}") from error

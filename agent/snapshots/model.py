"""Snapshots and directory entries as Kopia stores them (§7.2, §7.3), as frozen structs.

Everything that leaves or enters a snapshot manifest or a directory object goes through here, so that the rest of the
package deals in typed values: `directory.py` streams entries, `store.py` lists and saves snapshots, upload and restore
use both. Times are integer nanoseconds since 1970; modes are Go's `os.FileMode` permission bits (§7.3) until
`agent.volumes.attributes` turns them into POSIX ones; object ids are text.

Decoding is as tolerant as Kopia's own decoder (§7.4): unknown keys are ignored (and kept, where a value is saved
again), known keys match in any case, `null` is the zero value; a value of a wrong type is an error for the whole value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agent import _native
from agent.base.errors import CorruptDirectory, CorruptManifest
from agent.base.times import parse_rfc3339
from agent.repository.ids import ManifestId, ObjectId

FILE: Final = "f"
DIRECTORY: Final = "d"
SYMLINK: Final = "s"

INCOMPLETE_CHECKPOINT: Final = "checkpoint"
INCOMPLETE_CANCELED: Final = "canceled"

UNKNOWN_TIME: Final = -6795364578871345152
"""Go's zero time as kopia writes it, `1754-08-30T22:43:41.128654848Z`: nobody knew the time (§7.3)."""

MAX_SUMMARY_ERRORS: Final = 10
"""How many failed entries a directory summary names (§14.4); counts are always full."""

_INT64 = 1 << 63
_UINT32 = 1 << 32
_INT32 = 1 << 31


class _WrongType(Exception):
    """A known key holds a value that Kopia's decoder refuses."""


class EntryError(msgspec.Struct, frozen=True):
    """An entry that could not be backed up, as a directory summary names it."""

    path: str
    error: str


class DirectorySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What lies below a directory (§7.3, §14.2)."""

    size: int = 0
    files: int = 0
    symlinks: int = 0
    dirs: int = 0
    """Including the directory itself."""
    max_time_ns: int = 0
    incomplete: str = ""
    failed: int = 0
    ignored_errors: int = 0
    errors: tuple[EntryError, ...] = ()

    def to_json(self) -> bytes:
        """Bytes as Kopia writes them."""
        parts = [
            b'{"size":%d,"files":%d,"symlinks":%d,"dirs":%d,"maxTime":"%s"'
            % (self.size, self.files, self.symlinks, self.dirs, _native.format_time(self.max_time_ns))
        ]
        if self.incomplete:
            parts.append(b',"incomplete":' + _quote(self.incomplete))
        parts.append(b',"numFailed":%d' % self.failed)
        if self.ignored_errors:
            parts.append(b',"numIgnoredErrors":%d' % self.ignored_errors)
        if self.errors:
            listed = b",".join(b'{"path":%s,"error":%s}' % (_quote(e.path), _quote(e.error)) for e in self.errors)
            parts.append(b',"errors":[%s]' % listed)
        parts.append(b"}")
        return b"".join(parts)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One name in a directory, or the root of a snapshot."""

    name: str = ""
    type: str = ""
    """`FILE`, `DIRECTORY`, `SYMLINK`, or what a later writer may invent."""
    mode: int = 0
    """Go permission bits: 0o777, setuid 2^23, setgid 2^22, sticky 2^20."""
    size: int = 0
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    obj: ObjectId = ObjectId("")
    summ: DirectorySummary | None = None
    extra: Mapping[str, msgspec.Raw] = {}
    """Keys of other writers, as they stood."""

    def to_json(self) -> bytes:
        """Bytes as Kopia writes them; keys of other writers come last."""
        kind = self.type or "?"
        if len(kind) != 1 or not kind.isascii():
            raise ValueError(f"not an entry type: {self.type!r}")
        prefix = _native.entry_prefix(
            _utf8(self.name), kind.encode(), self.mode, self.size, self.mtime_ns, self.uid, self.gid
        )
        parts = [prefix, self.obj.encode(), b'"']
        if self.summ is not None:
            parts += [b',"summ":', self.summ.to_json()]
        parts += [b",%s:%s" % (_quote(key), bytes(raw)) for key, raw in self.extra.items()]
        parts.append(b"}")
        return b"".join(parts)


class Source(msgspec.Struct, frozen=True, order=True):
    """Who is backed up: `user@host:/path`."""

    host: str
    user: str
    path: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.path}"


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one run, as kopia counts them (§7.2, §13.6)."""

    total_size: int = 0
    excluded_total_size: int = 0
    file_count: int = 0
    """Files that were read; a file in parts counts once a part (§14.7)."""
    cached_files: int = 0
    """Files and symlinks taken over from the parent unread."""
    non_cached_files: int = 0
    dir_count: int = 0
    excluded_file_count: int = 0
    excluded_dir_count: int = 0
    ignored_error_count: int = 0
    error_count: int = 0


_STATS_KEYS: Final = (
    ("totalSize", "total_size", _INT64),
    ("excludedTotalSize", "excluded_total_size", _INT64),
    ("fileCount", "file_count", _INT32),
    ("cachedFiles", "cached_files", _INT32),
    ("nonCachedFiles", "non_cached_files", _INT32),
    ("dirCount", "dir_count", _INT32),
    ("excludedFileCount", "excluded_file_count", _INT32),
    ("excludedDirCount", "excluded_dir_count", _INT32),
    ("ignoredErrorCount", "ignored_error_count", _INT32),
    ("errorCount", "error_count", _INT32),
)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot manifest."""

    id: ManifestId = ManifestId("")
    """The manifest's id; not part of what is stored."""
    source: Source
    description: str = ""
    start_ns: int
    end_ns: int
    stats: Stats = Stats()
    incomplete: str = ""
    """Empty when complete, else `checkpoint`, `canceled`, `limit reached`."""
    root: Entry | None
    tags: Mapping[str, str] = {}
    pins: tuple[str, ...] = ()
    extra: Mapping[str, msgspec.Raw] = {}
    """Keys of other writers, as they stood."""

    def to_json(self) -> bytes:
        """The manifest's `data`, keys in Kopia's order."""
        stats = b",".join(
            b'"%s":%d' % (key.encode(), min(getattr(self.stats, field), limit - 1)) for key, field, limit in _STATS_KEYS
        )
        source = b'{"host":%s,"userName":%s,"path":%s}' % (
            _quote(self.source.host),
            _quote(self.source.user),
            _quote(self.source.path),
        )
        parts = [
            b'{"id":"","source":%s,"description":%s,"startTime":"%s","endTime":"%s","stats":{%s}'
            % (
                source,
                _quote(self.description),
                _native.format_time(self.start_ns),
                _native.format_time(self.end_ns),
                stats,
            )
        ]
        if self.incomplete:
            parts.append(b',"incomplete":' + _quote(self.incomplete))
        parts.append(b',"rootEntry":' + (self.root.to_json() if self.root else b"null"))
        if self.tags:
            tags = (b"%s:%s" % (_quote(k), _quote(self.tags[k])) for k in sorted(self.tags, key=_utf8))
            parts.append(b',"tags":{%s}' % b",".join(tags))
        if self.pins:
            parts.append(b',"pins":[%s]' % b",".join(_quote(pin) for pin in self.pins))
        parts += [b",%s:%s" % (_quote(key), bytes(raw)) for key, raw in self.extra.items()]
        parts.append(b"}")
        return b"".join(parts)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quote(text: str) -> bytes:
    return _native.quote_string(_utf8(text))


# ---- decoding ----


class _PlainEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry without anything unusual: what nearly every entry is. Summaries are decoded when they are there."""

    type: str
    obj: str
    name: str = ""
    mode: str = ""
    size: int = 0
    mtime: str = ""
    uid: int = 0
    gid: int = 0
    summ: msgspec.Raw | None = None


_plain_entry = msgspec.json.Decoder(_PlainEntry)
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw] | None)
_any = msgspec.json.Decoder[Any](Any)


def decode_entry(raw: bytes) -> Entry:
    """One element of a directory's `entries`. Raises `CorruptDirectory`."""
    try:
        try:
            plain = _plain_entry.decode(raw)
            return Entry(
                name=plain.name,
                type=plain.type,
                mode=_mode(plain.mode) if plain.mode else 0,
                size=_bounded(plain.size, -_INT64, _INT64),
                mtime_ns=parse_rfc3339(plain.mtime) if plain.mtime else 0,
                uid=_bounded(plain.uid, 0, _UINT32),
                gid=_bounded(plain.gid, 0, _UINT32),
                obj=ObjectId(plain.obj),
                summ=None if plain.summ is None else _summary(_Fields(bytes(plain.summ))),
            )
        except msgspec.MsgspecError:
            return _entry(_Fields(raw))
    except (msgspec.MsgspecError, ValueError, _WrongType, RecursionError) as error:
        raise CorruptDirectory(f"cannot understand the directory entry {raw[:120]!r}: {error}") from error


def decode_summary(raw: bytes) -> DirectorySummary | None:
    """A directory's `summary`. Raises `CorruptDirectory`."""
    try:
        return None if raw.strip() == b"null" else _summary(_Fields(raw))
    except (msgspec.MsgspecError, ValueError, _WrongType, RecursionError) as error:
        raise CorruptDirectory(f"cannot understand the directory summary {raw[:120]!r}: {error}") from error


def decode_snapshot(mid: ManifestId, data: bytes) -> Snapshot:
    """A snapshot manifest's `data`. Raises `CorruptManifest`, naming the manifest."""
    try:
        return _snapshot(mid, _Fields(data))
    except (msgspec.MsgspecError, ValueError, _WrongType, RecursionError) as error:
        raise CorruptManifest(f"cannot understand the snapshot manifest {mid}: {error}") from error


class _Fields:
    """A JSON object's values by key, taken out one by one as Go's decoder would assign them."""

    def __init__(self, raw: bytes) -> None:
        try:
            self._values = _raw_object.decode(raw)
        except msgspec.MsgspecError:
            self._values = _raw_object.decode(_repaired(raw))

    def _take(self, key: str) -> bytes | None:
        """The value of the last key that matches in any case and is not null."""
        found = None
        for name in [name for name in self._values if name == key or name.lower() == key.lower()]:
            raw = bytes(self._values.pop(name))
            if raw != b"null":
                found = raw
        return found

    def _value(self, key: str) -> Any:
        raw = self._take(key)
        if raw is None:
            return None
        try:
            return _any.decode(raw)
        except msgspec.MsgspecError:
            return _any.decode(_repaired(raw))

    def text(self, key: str) -> str:
        value = self._value(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _WrongType(f"{key} is not a string")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._value(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise _WrongType(f"{key} is not a whole number")
        return _bounded(value, low, high)

    def time_ns(self, key: str) -> int:
        text = self._value(key)
        if text is None:
            return 0
        if not isinstance(text, str):
            raise _WrongType(f"{key} is not a time")
        return parse_rfc3339(text)

    def fields(self, key: str) -> _Fields | None:
        raw = self._take(key)
        return None if raw is None else _Fields(raw)

    def items(self, key: str) -> list[bytes]:
        raw = self._take(key)
        return [] if raw is None else [bytes(item) for item in _raw_list.decode(raw) or ()]

    def texts(self, key: str) -> list[str]:
        value = self._value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(item is None or isinstance(item, str) for item in value):
            raise _WrongType(f"{key} is not a list of strings")
        return [item or "" for item in value]

    def text_map(self, key: str) -> dict[str, str]:
        value = self._value(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(item is None or isinstance(item, str) for item in value.values()):
            raise _WrongType(f"{key} is not a map of strings")
        return {str(name): item or "" for name, item in value.items()}

    def rest(self) -> dict[str, msgspec.Raw]:
        """What nobody has taken."""
        return {key: raw.copy() for key, raw in self._values.items()}


def _repaired(raw: bytes) -> bytes:
    """Bytes that are not UTF-8 become U+FFFD, as Go's decoder reads them."""
    return raw.decode("utf-8", "replace").encode()


def _bounded(value: int, low: int, high: int) -> int:
    if not low <= value < high:
        raise _WrongType(f"number {value} is out of range")
    return value


def _mode(text: str) -> int:
    """Go's `strconv.ParseInt(text, 0, 32)`."""
    digits = text.removeprefix("-").removeprefix("+")
    if digits.startswith("0") and len(digits) > 1 and digits[1] in "01234567_":
        value = int(digits.lstrip("0_") or "0", 8)
    else:
        value = int(digits, 0)
    return _bounded(-value if text.startswith("-") else value, -_INT32, _INT32)


def _summary(fields: _Fields) -> DirectorySummary:
    errors = []
    for raw in fields.items("errors"):
        if raw != b"null":
            item = _Fields(raw)
            errors.append(EntryError(item.text("path"), item.text("error")))
    return DirectorySummary(
        size=fields.integer("size", -_INT64, _INT64),
        files=fields.integer("files", -_INT64, _INT64),
        symlinks=fields.integer("symlinks", -_INT64, _INT64),
        dirs=fields.integer("dirs", -_INT64, _INT64),
        max_time_ns=fields.time_ns("maxTime"),
        incomplete=fields.text("incomplete"),
        failed=fields.integer("numFailed", -_INT64, _INT64),
        ignored_errors=fields.integer("numIgnoredErrors", -_INT64, _INT64),
        errors=tuple(errors),
    )


def _entry(fields: _Fields) -> Entry:
    mode = fields.text("mode")
    summ = fields.fields("summ")
    return Entry(
        name=fields.text("name"),
        type=fields.text("type"),
        mode=_mode(mode) if mode else 0,
        size=fields.integer("size", -_INT64, _INT64),
        mtime_ns=fields.time_ns("mtime"),
        uid=fields.integer("uid", 0, _UINT32),
        gid=fields.integer("gid", 0, _UINT32),
        obj=ObjectId(fields.text("obj")),
        summ=None if summ is None else _summary(summ),
        extra=fields.rest(),
    )


def _snapshot(mid: ManifestId, fields: _Fields) -> Snapshot:
    source = fields.fields("source") or _Fields(b"{}")
    stats = fields.fields("stats") or _Fields(b"{}")
    root = fields.fields("rootEntry")
    fields.text("id")
    return Snapshot(
        id=mid,
        source=Source(source.text("host"), source.text("userName"), source.text("path")),
        description=fields.text("description"),
        start_ns=fields.time_ns("startTime"),
        end_ns=fields.time_ns("endTime"),
        stats=Stats(**{field: stats.integer(key, -limit, limit) for key, field, limit in _STATS_KEYS}),
        incomplete=fields.text("incomplete"),
        root=None if root is None else _entry(root),
        tags=fields.text_map("tags"),
        pins=tuple(fields.texts("pins")),
        extra=fields.rest(),
    )

"""Where a folder keeps which blob: kopia's sharded layout (§1.2) as pure functions and one look at the disk.

`filesystem` asks here for the path of a blob and which folders a listing has to enter. The layout is a property of the
location, written once in its `.shards` file; a wrong one would hide every blob from other clients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import msgspec

from agent.base.errors import BlobIdInvalid, StorageError
from agent.storage.base import BlobId

PARAMETERS_FILE = ".shards"
BLOB_SUFFIX = ".f"

_MAX_PARAMETERS_LENGTH = 65536
_MAX_DEPTH = 16
_UNSHARDED_LENGTH = 20
_FOLDERS_PER_SAMPLE = 64
_BLOBS_PER_SAMPLE = 4
_ENTRIES_PER_FOLDER = 5000


class _Override(msgspec.Struct, frozen=True):
    prefix: str = ""
    shards: tuple[int, ...] | None = None


class _Parameters(msgspec.Struct, frozen=True):
    default: tuple[int, ...] | None = None
    maxNonShardedLength: int = 0  # noqa: N815  # kopia's name
    overrides: tuple[_Override, ...] | None = None


class Layout(msgspec.Struct, frozen=True):
    """How blob ids become paths."""

    default: tuple[int, ...]
    """Characters of each folder level."""
    unsharded_length: int = _UNSHARDED_LENGTH
    """Ids up to this length stay in the root folder."""
    overrides: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(id prefix, characters of each level); the first match wins."""

    def path(self, blob_id: BlobId) -> tuple[str, str]:
        """(folder relative to the root, "" for the root itself; file name). Raises `BlobIdInvalid`."""
        if len(blob_id) <= self.unsharded_length:
            return "", blob_id + BLOB_SUFFIX
        shards = next((sizes for prefix, sizes in self.overrides if blob_id.startswith(prefix)), self.default)
        folders = []
        rest: str = blob_id
        for size in shards:
            if len(rest) <= size:
                break
            if size:
                folders.append(rest[:size])
                rest = rest[size:]
        if "." in folders or ".." in folders:
            raise BlobIdInvalid(f"blob {blob_id!r} has no path in this folder's layout")
        return "/".join(folders), rest + BLOB_SUFFIX

    def to_json(self) -> bytes:
        """The `.shards` file as kopia writes it."""
        parameters: dict[str, object] = {"default": self.default, "maxNonShardedLength": self.unsharded_length}
        if self.overrides:
            parameters["overrides"] = [{"prefix": p, "shards": s} for p, s in self.overrides]
        return msgspec.json.encode(parameters) + b"\n"


DEFAULT_LAYOUT = Layout((1, 3))
"""What kopia writes today."""
LEGACY_LAYOUT = Layout((3, 3))
"""What kopia assumes where `.shards` is missing."""


def parse_layout(data: bytes, where: str) -> Layout:
    """The layout that a `.shards` file describes. Raises `StorageError`; `where` names the file in the message."""
    try:
        # Go's decoder stops after the first value, so whatever follows it is not looked at.
        parameters = msgspec.json.decode(data.partition(b"\n")[0] or data, type=_Parameters)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            parameters = msgspec.json.decode(data, type=_Parameters)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _bad_parameters(where, str(error)) from error
    layout = Layout(
        parameters.default or (),
        parameters.maxNonShardedLength,
        tuple((o.prefix, o.shards or ()) for o in parameters.overrides or ()),
    )
    for sizes in (layout.default, *(shards for _, shards in layout.overrides)):
        if len(sizes) > _MAX_DEPTH or any(size < 0 for size in sizes):
            raise _bad_parameters(where, f"folder levels {sizes} make no sense")
    return layout


def _bad_parameters(where: str, why: str) -> StorageError:
    return StorageError(
        f"{where} cannot be understood: {why}",
        hint="it says in which folders blobs lie; restore it from a copy, kopia's default is "
        '{"default":[1,3],"maxNonShardedLength":20}',
    )


def read_layout(root: str) -> Layout | None:
    """The layout in the root folder's `.shards`, None without such a file. Raises `OSError`, `StorageError`."""
    path = os.path.join(root, PARAMETERS_FILE)
    try:
        with open(path, "rb") as file:
            return parse_layout(file.read(_MAX_PARAMETERS_LENGTH), path)
    except FileNotFoundError:
        return None


def detect_layout(root: str) -> Layout | None:
    """The layout that the blobs below `root` show, None when the folder holds none. Raises `OSError`.

    For locations that lost their `.shards` or never had one. Without a blob long enough to tell, it is kopia's legacy
    layout, because that is what any kopia takes (and writes down) at its next connect.
    """
    found: dict[str, tuple[int, ...]] = {}
    any_blob = False
    for levels, blob_id in _sample_blobs(root):
        any_blob = True
        if len(blob_id) > _UNSHARDED_LENGTH:
            found.setdefault(blob_id[0], levels)
    if not found:
        return LEGACY_LAYOUT if any_blob else None
    common = max(found.values(), key=list(found.values()).count)
    return Layout(common, overrides=tuple((p, levels) for p, levels in sorted(found.items()) if levels != common))


def _sample_blobs(root: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """(characters of each level, id) of every blob in the root folder and of some below each of its sub-folders."""
    yield from _blobs_in(root, (), "")
    for name in _folders_in(root):
        todo: list[tuple[str, tuple[int, ...], str]] = [(os.path.join(root, name), (len(name),), name)]
        for _ in range(_FOLDERS_PER_SAMPLE):
            if not todo:
                break
            folder, levels, prefix = todo.pop()
            blobs = list(islice(_blobs_in(folder, levels, prefix), _BLOBS_PER_SAMPLE))
            yield from blobs
            if blobs:
                break
            if len(levels) < _MAX_DEPTH:
                todo += ((os.path.join(folder, n), (*levels, len(n)), prefix + n) for n in _folders_in(folder))


def _blobs_in(folder: str, levels: tuple[int, ...], prefix: str) -> Iterator[tuple[tuple[int, ...], str]]:
    with suppress(PermissionError, FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(BLOB_SUFFIX) and entry.is_file(follow_symlinks=False):
                yield levels, prefix + entry.name.removesuffix(BLOB_SUFFIX)


def _folders_in(folder: str) -> list[str]:
    with suppress(PermissionError, FileNotFoundError), os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, _ENTRIES_PER_FOLDER) if entry.is_dir(follow_symlinks=False)]
    return []

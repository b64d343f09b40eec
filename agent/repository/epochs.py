"""Which index blobs are in force in a repository with epochs (§5.1), and the rules for adding one (§5.2).

Pure functions over a listing: `index_set` lists and loads what `select_index_blobs` chooses, `flush` writes under the
epoch that `write_epoch` finds and asks `write_was_too_slow` afterwards. Names that follow no pattern are ignored, as
kopia ignores them (§13.11), and nothing here counts up to a number that a name claims.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from agent.repository.session import SessionId
from agent.storage.base import BlobId, BlobMetadata

INDEX_PREFIX = "x"
"""Prefix of a listing that holds all that `select_index_blobs` needs."""
EPOCH_MARKER_PREFIX = "xe"

_UNSETTLED_EPOCHS = 2
_MAX_INT = (1 << 63) - 1
_NOT_DIGITS = "".join(chr(code) for code in range(33, 127) if not chr(code).isdigit())
_NUMBER = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)
_UNCOMPACTED = re.compile(r"xn(0|[1-9][0-9]*)_", re.ASCII)

_Key = TypeVar("_Key")


class IndexSelection(msgspec.Struct, frozen=True):
    """What a listing of index blobs amounts to."""

    write_epoch: int
    """The epoch that new index blobs belong to."""
    watermark_s: int
    """Deleted entries of this unix second and before are as good as absent (§4.8)."""
    blobs: Sequence[BlobMetadata]
    """The index blobs that together hold every entry, by name."""


class _Range(msgspec.Struct, frozen=True):
    first: int
    last: int
    blobs: Sequence[BlobMetadata]


class _Chain(msgspec.Struct, frozen=True):
    """A range and the best continuation after it."""

    head: _Range
    tail: _Chain | None
    reach: int
    length: int


def select_index_blobs(listing: Iterable[BlobMetadata]) -> IndexSelection:
    """The index blobs in force among all blobs named `x…` (§5.1)."""
    uncompacted: defaultdict[int, list[BlobMetadata]] = defaultdict(list)
    singles: defaultdict[int, list[BlobMetadata]] = defaultdict(list)
    ranges: defaultdict[tuple[int, int], list[BlobMetadata]] = defaultdict(list)
    epoch = watermark = 0
    for blob in sorted(listing, key=lambda blob: blob.blob_id):
        name = blob.blob_id
        if match := _UNCOMPACTED.match(name):
            _group(uncompacted, _integer(match[1]), blob)
        elif name.startswith("xs"):
            _group(singles, _epoch_of(name), blob)
        elif name.startswith("xr"):
            _group(ranges, _range_of(name), blob)
        elif name.startswith(EPOCH_MARKER_PREFIX):
            epoch = max(epoch, _epoch_of(name) or 0)
        elif name.startswith("xw"):
            watermark = max(watermark, _integer(name[2:]) or 0)
    blobs, start = _range_blobs(ranges)
    for number in sorted(uncompacted.keys() | singles.keys()):
        if not start <= number <= epoch + 1:
            continue
        settled = number <= epoch - _UNSETTLED_EPOCHS
        compacted = first_complete_set(singles.get(number, ())) if settled else ()
        blobs.extend(compacted or uncompacted.get(number, ()))
    return IndexSelection(epoch, watermark, blobs)


def write_epoch(markers: Iterable[BlobMetadata]) -> int:
    """The epoch that new index blobs belong to, from a listing of the blobs named `xe…`."""
    return max((_epoch_of(blob.blob_id) or 0 for blob in markers), default=0)


def index_blob_prefix(epoch: int) -> str:
    """What the name of an index blob of this epoch starts with."""
    return f"xn{epoch}_"


def index_blob_suffix(session: SessionId, shard_count: int) -> str:
    """What follows the `-` after the hash in the name of an index blob."""
    return f"{session}-c{shard_count}"


def still_valid(loaded_ns: int, now_ns: int, refresh_frequency_ns: int) -> bool:
    """Whether an epoch state whose loading *began* at `loaded_ns` may still be read from."""
    return loaded_ns <= now_ns < loaded_ns + refresh_frequency_ns


def fresh_enough_to_write(loaded_ns: int, now_ns: int, refresh_frequency_ns: int) -> bool:
    """Whether three quarters of its validity are left, as a writer needs before it starts (§5.2)."""
    return loaded_ns <= now_ns <= loaded_ns + refresh_frequency_ns // 4


def write_was_too_slow(written_epoch: int, current_epoch: int) -> bool:
    """Whether an index blob came too late: its epoch may have been compacted without it (§5.2)."""
    return current_epoch >= written_epoch + _UNSETTLED_EPOCHS


def first_complete_set(blobs: Iterable[BlobMetadata]) -> Sequence[BlobMetadata]:
    """The first group of blobs `…-s<set>-c<N>` that has its N members; a blob with another name is a set by itself."""
    sets: defaultdict[str, list[BlobMetadata]] = defaultdict(list)
    for blob in blobs:
        parts = blob.blob_id.split("-")
        if len(parts) < 3 or not parts[1].startswith("s") or not parts[2].startswith("c"):
            return [blob]
        count = _integer(parts[2][1:])
        if count is None:
            return [blob]
        members = sets[parts[1]]
        members.append(blob)
        if len(members) == count:
            return members
    return ()


def _group(groups: defaultdict[_Key, list[BlobMetadata]], key: _Key | None, blob: BlobMetadata) -> None:
    if key is not None:
        groups[key].append(blob)


def _range_blobs(groups: Mapping[tuple[int, int], Sequence[BlobMetadata]]) -> tuple[list[BlobMetadata], int]:
    """The blobs of the chain of ranges that reaches furthest from epoch 0, and the first epoch after them."""
    best: dict[int, _Chain] = {}
    for first, last in sorted(groups, reverse=True):
        blobs = first_complete_set(groups[(first, last)])
        if not blobs or not 0 <= first <= last:
            continue
        tail = best.get(last + 1)
        chain = _Chain(_Range(first, last, blobs), tail, tail.reach if tail else last, 1 + (tail.length if tail else 0))
        known = best.get(first)
        if known is None or (chain.reach, -chain.length) > (known.reach, -known.length):
            best[first] = chain
    result: list[BlobMetadata] = []
    start = 0
    chain_or_none = best.get(0)
    while chain_or_none is not None:
        if chain_or_none.head.last > start:
            result.extend(chain_or_none.head.blobs)
            start = chain_or_none.head.last + 1
        chain_or_none = chain_or_none.tail
    return result, start


def _integer(text: str) -> int | None:
    """A decimal number that fits 64 bits, as Go parses one."""
    if len(text) > 20 or not _NUMBER.match(text):
        return None
    value = int(text)
    return value if -_MAX_INT <= value <= _MAX_INT else None


def _epoch_of(name: BlobId) -> int | None:
    return _integer(name.partition("_")[0].lstrip(_NOT_DIGITS))


def _range_of(name: BlobId) -> tuple[int, int] | None:
    parts = name.split("_")
    if len(parts) < 3:
        return None
    first, last = _integer(parts[0].lstrip(_NOT_DIGITS)), _integer(parts[1])
    return None if first is None or last is None else (first, last)

"""Which byte ranges of which packs to fetch for a set of contents.

Requests cost more than bytes as long as the gap between two wanted contents is small, so neighbours are fetched
together; ranges are bounded, because each is held in memory as a whole. Pure; `content_reader` executes the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.repository.content_codec import IN_PLACE
from agent.repository.index_entry import IndexEntry
from agent.storage.base import BlobId


class RangeLimits(msgspec.Struct, frozen=True):
    """When a range ends. A content that is larger than all of them has a range to itself."""

    gap: int = 256 << 10
    """Unwanted bytes between two contents that are still fetched rather than asked around: about 10 ms of one stream,
    less than a request takes to an object store."""
    length: int = 4 << 20
    """Bytes of a range of many contents."""
    few: int = 4
    """As many contents cost less to hash together than apart, so a range of no more of them may be longer."""
    length_of_few: int = 20 << 20
    """Bytes of a range of few contents."""


LIMITS = RangeLimits()


class PackRange(msgspec.Struct, frozen=True):
    """One request, and the contents it brings."""

    pack: BlobId
    offset: int
    length: int
    entries: Sequence[IndexEntry]
    """By offset."""

    def cost(self, *, in_place: bool) -> int:
        """Bytes in memory while this is fetched and opened: the range and the plaintexts besides."""
        return self.length + sum(
            entry.original_length
            for entry in self.entries
            if not in_place or entry.compression or entry.packed_length < IN_PLACE
        )


def plan_ranges(entries: Iterable[IndexEntry], limits: RangeLimits = LIMITS) -> list[PackRange]:
    """Ranges that cover every entry once: packs in order of their first entry, offsets ascending within a pack.

    No byte is in two ranges of one plan unless entries themselves overlap.
    """
    packs: dict[BlobId, list[IndexEntry]] = {}
    for entry in entries:
        packs.setdefault(entry.pack, []).append(entry)
    plan: list[PackRange] = []
    for pack, wanted in packs.items():
        wanted.sort(key=lambda entry: (entry.offset, entry.packed_length))
        plan.extend(_plan_pack(pack, wanted, limits))
    return plan


def _plan_pack(pack: BlobId, wanted: Sequence[IndexEntry], limits: RangeLimits) -> Iterable[PackRange]:
    start = first = 0
    end = wanted[0].offset
    plain = 0
    for number, entry in enumerate(wanted):
        entry_end = entry.offset + entry.packed_length
        new_end = max(end, entry_end)
        room = limits.length if number - first >= limits.few else limits.length_of_few
        if number > first and (
            entry.offset - end > limits.gap or new_end - start > room or plain + entry.original_length > 2 * room
        ):
            yield PackRange(pack, start, end - start, wanted[first:number])
            first, plain, new_end = number, 0, entry_end
        if number == first:
            start = entry.offset
        end = new_end
        plain += entry.original_length
    yield PackRange(pack, start, end - start, wanted[first:])

"""Sums by name for the few names that matter, one sum for all others: labels that cannot grow without bound.

A name gets a series of its own when it has moved more than the smallest that has one; that one's sum goes into the sum
of the others. So no series ever falls, as counters must not, and a dashboard sees those who do the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

OTHER: Final = "other"
_CANDIDATES_PER_PLACE = 4

NameT = TypeVar("NameT")


class TopSums(Generic[NameT]):
    """At most `places` names, and four times as many that may become one of them."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._sums: dict[NameT, float] = {}
        self._candidates: dict[NameT, float] = {}
        self.others = 0.0
        """Of all that have no series of their own; never falls."""

    def add(self, name: NameT, amount: float) -> None:
        """So much more for `name`."""
        if name in self._sums:
            self._sums[name] += amount
        elif len(self._sums) < self._places:
            self._sums[name] = amount
        else:
            self._add_to_others(name, amount)

    def __iter__(self) -> Iterator[tuple[NameT, float]]:
        return iter(list(self._sums.items()))

    def _add_to_others(self, name: NameT, amount: float) -> None:
        self.others += amount
        candidates = self._candidates
        candidates[name] = candidates.get(name, 0.0) + amount
        smallest = min(self._sums, key=self._sums.__getitem__, default=None)
        if smallest is not None and candidates[name] > self._sums[smallest]:
            candidates.pop(name)
            self.others += self._sums.pop(smallest)
            self._sums[name] = 0.0
        elif len(candidates) > self._places * _CANDIDATES_PER_PLACE:
            del candidates[min(candidates, key=candidates.__getitem__)]

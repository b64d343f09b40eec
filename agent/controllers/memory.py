"""What an agent remembers of the objects that it sees: when it saw what, and what it has decided.

Nothing in here has to survive: a restarted agent finds all that matters in the objects. Times are monotonic, so that a
clock that is set does not make anything too late; timestamps of objects count only for what was before the first sight.
An object that was made anew under the same name is another one, of which nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from typing import Generic

import msgspec

from agent.base.clock import Clock
from agent.controllers.job import JobT, accepted_at
from agent.exposers.contract import Ready
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.times import ns_from_time

_NS = 1e9
PodVersions = tuple[tuple[str, str], ...]
"""Uid and version of each pod."""


class Verdict(msgspec.Struct, Generic[JobT], frozen=True):
    """How an object is to end, until that is written."""

    phase: Phase
    message: str
    change: Callable[[JobT], JobT] | None
    since: float
    node: str
    """Whose it was when this was decided: an object that another agent has taken meanwhile is judged anew."""


class Remembered(msgspec.Struct, Generic[JobT]):
    """One object. Times are `Clock.monotonic()`."""

    uid: str
    phase: Phase
    phase_since: float
    """When it was first seen in its phase."""
    accepted: float = 0.0
    """When its preparation began, as far as can be known."""
    started: float = 0.0
    """When it became InProgress, as far as can be known."""
    canceled: float | None = None
    """When it was first seen to be canceled."""
    waiting: str = ""
    """What it waits for."""
    waiting_told: float | None = None
    check_from: float = 0.0
    """When it is asked again whether something is known to be wrong with it: never again once nothing was."""
    exposed: bool = False
    """Whether this agent may have made something for it that is not known to be removed."""
    trying: float | None = None
    """Since when its volume is not to be had; None when it was the last time."""
    refused: float | None = None
    """Since when the API server refuses what has to be done for it."""
    pods: PodVersions = ()
    """Those made for it on this node, when its volume was last looked at."""
    look_from: float = 0.0
    """Until then only a change of those is worth the requests of another look."""
    ready: Ready | None = None
    """The volume as it was when it was first ready, which is used once."""
    orphan: float | None = None
    """Since when nobody seems to look after it."""
    look_up_at: float | None = None
    """When it is asked where an object belongs that does not say; at once when it was this agent's the last time."""
    not_before: float = 0.0
    """When it is asked again elsewhere whether it can be taken."""
    cleaning: float | None = None
    finishing: float | None = None
    progress_shown: float | None = None
    overrun: str = ""
    """Why its work was stopped although nobody canceled it."""
    verdict: Verdict[JobT] | None = None
    ended: bool = False
    """Whether its final phase is written by us; the store may not show it yet."""

    def since(self, moment: float | None, clock: Clock) -> float:
        """Seconds since a moment; 0 when there was none."""
        return 0.0 if moment is None else clock.monotonic() - moment

    def seen_ready(self, pods: PodVersions, clock: Clock) -> Ready | None:
        """The volume as it was seen a moment ago, once; None when that is too long ago or its pod changed meanwhile."""
        ready, self.ready = self.ready, None
        return ready if pods and pods == self.pods and clock.monotonic() < self.look_from else None

    def took_too_long(self, limit: float, own: float, clock: Clock) -> bool:
        """Whether its preparation goes on for longer than `limit` seconds, up to `own` of them seen by this agent.

        Whoever accepted it may have another clock, so what its timestamp says is never enough.
        """
        return self.since(self.accepted, clock) > limit and self.since(self.phase_since, clock) > min(limit, own)


class Memory(Generic[JobT]):
    """The objects of one kind, each until it is gone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[Key, Remembered[JobT]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def knows_another(self, job: JobT) -> bool:
        """Whether an object of the same name, but not this one, is remembered."""
        known = self._objects.get(job.key)
        return known is not None and known.uid != job.metadata.uid

    def of(self, job: JobT) -> Remembered[JobT]:
        """What is known of an object, brought up to date with how it looks now."""
        known = self._objects.get(job.key)
        now = self._clock.monotonic()
        if known is None or known.uid != job.metadata.uid:
            known = self._objects[job.key] = Remembered(job.metadata.uid, job.status.phase, now)
            known.accepted = now - self._past(None if job.status.phase.is_new else accepted_at(job))
            known.started = now - self._past(job.status.start_timestamp)
        elif known.phase is not job.status.phase:
            if known.phase.is_new or job.status.phase is Phase.ACCEPTED:
                known.accepted = now
            if known.phase.is_new or known.phase in {Phase.ACCEPTED, Phase.PREPARED}:
                known.started = now
            known.phase, known.phase_since = job.status.phase, now
        return known

    def forget(self, key: Key) -> str | None:
        """The object is gone, or made anew; the uid of which was remembered."""
        known = self._objects.pop(key, None)
        return None if known is None else known.uid

    def _past(self, stamp: datetime | None) -> float:
        """Seconds since a timestamp by this machine's clock; what lies in the future is now."""
        return 0.0 if stamp is None else max(0.0, (self._clock.now_ns() - ns_from_time(stamp)) / _NS)


def share(node: str, uid: str) -> float:
    """A number from 0 to 1 that differs between nodes: agents that could all do the same thing come one by one."""
    return int.from_bytes(blake2b(f"{node}/{uid}".encode(), digest_size=4).digest()) / 2**32

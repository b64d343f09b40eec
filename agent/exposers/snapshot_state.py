"""What the status of a VolumeSnapshot says: that it is ready, that it still may be, or that the storage failed."""

from __future__ import annotations

import re

from agent.base.clock import Clock
from agent.base.errors import SnapshotFailed
from agent.exposers.contract import Waiting
from agent.exposers.events import clip
from agent.kube.snapshots import VolumeSnapshot
from agent.kube.times import ns_from_time

_PERSISTS_SECONDS = 45.0
"""An error that the driver still repeats after so long is definite: most that heal are gone at the next try."""
_HEALING = re.compile(r"code = (DeadlineExceeded|Unavailable|Aborted|ResourceExhausted|Canceled)\b")
"""Answers of a driver that is busy, restarting or throttled (large snapshots take many of them): always waited for."""


def state_of_snapshot(clock: Clock, snapshot: VolumeSnapshot) -> Waiting | None:
    """What is waited for, or None when it can be used; `SnapshotFailed` when the driver's error persists.

    The snapshot controller keeps the time at which an error was told first as long as its text is the same.
    """
    if snapshot.status.ready_to_use:
        return None
    what, error = f"the VolumeSnapshot {snapshot.key}", snapshot.status.error
    if error is None:
        return Waiting(f"{what} is not ready yet")
    text = clip(error.message)
    since = error.time or snapshot.metadata.creation_timestamp
    lasted = 0.0 if since is None else (clock.now_ns() - ns_from_time(since)) / 1e9
    if lasted < _PERSISTS_SECONDS or _HEALING.search(error.message):
        return Waiting(f"{what} is not ready: {text}")
    raise SnapshotFailed(f"{what} could not be made ready: {text}", hint="the message is that of the storage driver")

"""`metav1.Time`: times in objects of the cluster, RFC 3339 in UTC, whole seconds.

The house counts time in integer nanoseconds (`agent.base.clock`); objects carry aware datetimes, which msgspec reads
and writes in Kubernetes' own form. Controllers go from one to the other here and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware datetime; times without a zone are refused."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_SECOND = 1_000_000_000


def time_from_ns(ns: int) -> datetime:
    """Unix nanoseconds as an object's time: cut to the second, as `metav1.Time` is."""
    return _EPOCH + timedelta(seconds=ns // _NS_PER_SECOND)


def ns_from_time(time: datetime) -> int:
    """An object's time as unix nanoseconds, exact to the microsecond."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000

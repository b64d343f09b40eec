"""Limits that somebody sets through the control API, on top of those that the configuration says.

They count for as long as this agent runs, or until they are reset. Implements `agent.control.contract.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import asdict, replace

from agent.control.contract import LimitChange, NodeLimits
from agent.controllers.limits import jobs_at_once
from agent.server.capacity import Capacity


class LiveLimits:
    """Of one agent. `capacity` is what the configuration comes to; `changed` is called after `set` and `reset`."""

    def __init__(self, capacity: Callable[[], Capacity], changed: Callable[[], None]) -> None:
        self._capacity = capacity
        self._changed = changed
        self._override = LimitChange()

    @property
    def configured(self) -> NodeLimits:
        """What the configuration says."""
        return _limits(self._capacity())

    @property
    def override(self) -> LimitChange:
        """What was set on top of it."""
        return self._override

    @property
    def in_force(self) -> NodeLimits:
        """Both together."""
        return _limits(self.over(self._capacity()))

    def set(self, change: LimitChange) -> None:
        """From now on, also for jobs that run; what was set before and is not changed stays."""
        self._override = replace(self._override, **_given(change))
        self._changed()

    def reset(self) -> None:
        """What the configuration says counts again."""
        self._override = LimitChange()
        self._changed()

    def over(self, configured: Capacity) -> Capacity:
        """What counts, where the configuration says this."""
        given = _given(self._override)
        concurrency = given.pop("concurrency", configured.concurrency)
        return Capacity(concurrency, replace(configured.limits, **given))


def _limits(capacity: Capacity) -> NodeLimits:
    limits = capacity.limits
    return NodeLimits(
        upload_bytes_per_second=max(limits.upload_bytes_per_second, 0),
        download_bytes_per_second=max(limits.download_bytes_per_second, 0),
        requests_per_second=max(limits.requests_per_second, 0),
        concurrency=jobs_at_once(capacity.concurrency, limits),
    )


def _given(change: LimitChange) -> dict[str, int]:
    return {name: value for name, value in asdict(change).items() if value is not None}

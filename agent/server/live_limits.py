"""The limits of a node, shared among its running jobs, and changed while they run.

The configuration says what they are; the control API may set others for as long as this agent runs. Each running job
gets an equal part of a rate, and hears of it when the limits change or when jobs come and go.

Implements `agent.control.contract.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from agent.base.clock import Clock
from agent.control.contract import LimitChange, NodeLimits
from agent.controllers.moving import Work
from agent.jobs.limits import share
from agent.kube.agent_config import AgentConfig, AgentLimits
from agent.movers.spec import RateLimits

_LOOK_SECONDS = 1.0
_NONE = RateLimits()


class LiveLimits:
    """Of one agent. `config` is the configuration in force, `changed` is called after `set` and `reset`."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        clock: Clock,
        *,
        works: Callable[[], Iterator[Work]],
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._works = works
        self._changed = changed
        self._override = LimitChange()
        self._told: dict[Work, RateLimits] = {}
        self.configured_concurrency = 1
        """What the configuration comes to on this node."""

    @property
    def configured(self) -> NodeLimits:
        """What the configuration says."""
        limits = self._config().limits
        return NodeLimits(
            upload_bytes_per_second=max(limits.upload_bytes_per_second, 0),
            download_bytes_per_second=max(limits.download_bytes_per_second, 0),
            requests_per_second=max(limits.requests_per_second, 0),
            concurrency=self.configured_concurrency,
        )

    @property
    def override(self) -> LimitChange:
        """What was set on top of it."""
        return self._override

    @property
    def in_force(self) -> NodeLimits:
        """Both together."""
        return replace(self.configured, **_given(self._override))

    def set(self, change: LimitChange) -> None:
        """From now on, also for jobs that run."""
        self._override = replace(self._override, **_given(change))
        self._changed()
        self.spread()

    def reset(self) -> None:
        """What the configuration says counts again."""
        self._override = LimitChange()
        self._changed()
        self.spread()

    def config(self) -> AgentConfig:
        """The configuration with the rates that are in force, for jobs that begin."""
        config = self._config()
        return replace(config, limits=self._rates(config.limits))

    def jobs_at_once(self) -> int:
        """Among how many the rates are shared when one more begins."""
        return len(self._running()) + 1

    def spread(self) -> None:
        """Tell every running job its part, if it has changed."""
        running = self._running()
        part = share(self._rates(self._config().limits), len(running))
        for work in running:
            if self._told.get(work, _NONE) != part:
                work.set_limits(part)
        self._told = dict.fromkeys(running, part)

    async def run(self) -> None:
        """Until canceled."""
        while True:
            self.spread()
            await self._clock.sleep(_LOOK_SECONDS)

    def _running(self) -> list[Work]:
        return [work for work in self._works() if work.outcome is None]

    def _rates(self, configured: AgentLimits) -> AgentLimits:
        now = self.in_force
        return replace(
            configured,
            upload_bytes_per_second=now.upload_bytes_per_second,
            download_bytes_per_second=now.download_bytes_per_second,
            requests_per_second=now.requests_per_second,
        )


def _given(change: LimitChange) -> dict[str, int]:
    values = {one.name: getattr(change, one.name) for one in fields(change)}
    return {name: value for name, value in values.items() if value is not None}

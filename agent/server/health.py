"""What `/healthz` and `/readyz` say, and why.

Ready: this agent sees its objects and takes new ones. Healthy: restarting it would not help. An API server that is away
makes it unready and never unhealthy; an agent that hears the API server and still does not see its objects is stuck.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.base.clock import Clock

_STUCK_SECONDS = 600.0


class Health(msgspec.Struct):
    """Of one agent, written by `app`, read by the HTTP endpoints."""

    clock: Clock
    state: str = "the agent starts"
    """What keeps it from working; empty when nothing does."""
    sees_objects: Callable[[], bool] = lambda: False
    hears_the_server: Callable[[], bool] = lambda: False
    blind_since: float | None = None

    def unready(self) -> str:
        """Why new objects are not taken; empty when they are."""
        if self.state:
            return self.state
        if not self.sees_objects():
            return "the objects of the cluster are not known yet"
        return "" if self.hears_the_server() else "the API server does not answer"

    def unhealthy(self) -> str:
        """Why the agent should be restarted; empty when it should not."""
        if self.state or self.sees_objects() or not self.hears_the_server():
            self.blind_since = None
            return ""
        now = self.clock.monotonic()
        since = self.blind_since = now if self.blind_since is None else self.blind_since
        return "" if now - since < _STUCK_SECONDS else f"the objects were not seen for {now - since:.0f} s"

"""Who does a job: the border between controllers and whatever moves the data.

`Movers` runs it in a worker process of this agent, `PodRunner` has a mover pod do the same where that is, and
`StockPodFollower` follows the pod of a stock agent.
The rest of the house does not know which one is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from agent.movers.spec import JobResult, JobSpec, Progress, RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks


class RunningWork(Protocol):
    """A job that was started."""

    def updates(self) -> AsyncIterator[Progress]:
        """What it has done so far, as it comes; ends with the job."""
        ...

    def cancel(self, reason: str = "") -> None:
        """End soon, and keep what helps the next try."""
        ...

    def set_limits(self, limits: RateLimits) -> None:
        """From now on."""
        ...

    async def result(self) -> JobResult:
        """What it came to; raises the leaf of the error tree that the worker reported, or that was its end."""
        ...


class WorkRunner(Protocol):
    """One way to do jobs."""

    def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AbstractAsyncContextManager[RunningWork]:
        """Start a job; at the end of the block nothing of it runs any more, or it was told to end.

        Only a pod goes on when the task of the block is canceled, as it is when the agent ends: the next agent that
        asks for the same job finds it.
        """
        ...

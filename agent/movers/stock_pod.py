"""Following the mover pods of a stock agent that were running at a switch-over (contract §13.14).

    if is_stock_mover(pod):
        async with StockPodFollower(api, clock, rng, pod.key).job(spec, secrets) as work: ...

They say the same as ours (`pod_follow`, `pod_messages`), but listen to `spec.cancel` of their object only, and do what
their command line told them.
"""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager

from agent.base.clock import Clock
from agent.base.errors import MoverUnsupported
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import PODS
from agent.movers.pod_follow import FollowOptions, PodWork, following, owner_of
from agent.movers.pod_protocol import MOVED_RESOURCES
from agent.movers.spec import JobSpec, RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks

_PROGRAM = "/velero"
_MOVERS = frozenset({"data-mover", "pod-volume"})

STOCK_SILENCE = 3_600.0
"""Seconds. When a stock mover reports is not ours to say, and what it has done is lost with it: it gets long."""


def is_stock_mover(pod: Pod) -> bool:
    """Whether this is a pod in which a stock mover moves data."""
    for container in pod.spec.containers:
        words = (*container.command, *container.args)
        if len(words) > 1 and words[0] == _PROGRAM and words[1] in _MOVERS:
            return True
    return False


class StockPodFollower:
    """A `WorkRunner` that starts nothing: its job is what the pod does anyway."""

    def __init__(
        self, api: KubeApi, clock: Clock, rng: random.Random, pod: Key, options: FollowOptions | None = None
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._pod = pod
        self._options = options or FollowOptions(silence=STOCK_SILENCE)

    def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AbstractAsyncContextManager[PodWork]:
        """Follow the pod. Of `spec` only the kind of work counts; `secrets` are not used.

        At the end of the block a pod that has not ended is told to, by `spec.cancel` of its object; when the task of
        the block is canceled it goes on.
        """
        control = _Object(self._api, self._pod)
        work = PodWork(self._api, self._clock, self._rng, control, spec, callbacks or JobCallbacks(), self._options)
        return following(work)


class _Object:
    """A `PodControl` by the object that the pod works for."""

    def __init__(self, api: KubeApi, pod: Key) -> None:
        self._api = api
        self._pod = pod

    async def begin(self, spec: JobSpec) -> Pod:
        """The pod as it is; `MoverUnsupported` when it is no stock mover."""
        pod = await self._api.get(PODS, self._pod)
        if not is_stock_mover(pod):
            raise MoverUnsupported(f"the pod {self._pod} is no mover of a stock agent")
        self._owner = owner_of(pod)
        if self._owner.kind not in MOVED_RESOURCES:
            raise MoverUnsupported(f"the pod {self._pod} works for a {self._owner.kind}, which is never moved")
        return pod

    async def cancel(self, reason: str) -> None:
        """Set `spec.cancel`. The reason is not told: the object has no place for it."""
        resource = MOVED_RESOURCES[self._owner.kind]
        await self._api.patch(resource, Key(self._pod.namespace, self._owner.name), {"spec": {"cancel": True}})

    async def set_limits(self, limits: RateLimits) -> None:
        """A stock mover has none."""

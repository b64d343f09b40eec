"""The second way to do jobs: in the pod that holds the volume (contract §3.4, §13.15).

    runner = PodRunner(api, clock, rng, Key(namespace, ready.pod))
    async with runner.job(spec, secrets) as work: ...

The pod gets its job by an annotation and keeps it over restarts of the agent: whoever finds a pod with the same job
follows it, or takes the result of one that has ended. Secrets are not sent; the exposer mounted them.
"""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager

import msgspec

from agent.base.clock import Clock
from agent.base.errors import MoverUnavailable, MoverUnsupported
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import PODS
from agent.movers.pod_follow import FollowOptions, PodWork, following, owner_of
from agent.movers.pod_protocol import CANCEL_ANNOTATION, JOB_ANNOTATION, LIMITS_ANNOTATION
from agent.movers.spec import JobSpec, RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks

_NO_REASON = "canceled"


class PodRunner:
    """A `WorkRunner` for the one job of one mover pod of ours."""

    def __init__(
        self, api: KubeApi, clock: Clock, rng: random.Random, pod: Key, options: FollowOptions | None = None
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._pod = pod
        self._options = options or FollowOptions()

    def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AbstractAsyncContextManager[PodWork]:
        """Give the pod its job, or follow the one it has; at the end of the block the pod is told to end.

        When the task of the block is canceled the pod goes on, for the next agent to follow. Raises `MoverUnsupported`
        for secrets that a pod cannot be given.
        """
        if secrets.sse_customer_key:
            raise MoverUnsupported(
                "a mover pod cannot be given a customer's encryption key of the bucket",
                hint="have the job done in the agent",
            )
        control = _Annotations(self._api, self._pod)
        work = PodWork(self._api, self._clock, self._rng, control, spec, callbacks or JobCallbacks(), self._options)
        return following(work)


class _Annotations:
    """A `PodControl` by annotations of the pod."""

    def __init__(self, api: KubeApi, pod: Key) -> None:
        self._api = api
        self._pod = pod

    async def begin(self, spec: JobSpec) -> Pod:
        """Annotate the pod, unless it has this job already. One that has another is not ours to use."""
        pod = await self._api.get(PODS, self._pod)
        owner_of(pod)
        given = pod.metadata.annotations.get(JOB_ANNOTATION)
        if given is None:
            patch = _annotation(JOB_ANNOTATION, msgspec.json.encode(spec).decode())
            return await self._api.patch(PODS, self._pod, patch, resource_version=pod.metadata.resource_version)
        if _id_of(given) != spec.id:
            raise MoverUnavailable(f"the mover pod {self._pod} does the job {_id_of(given)!r:.100}, not {spec.id!r}")
        return pod

    async def cancel(self, reason: str) -> None:
        """Annotate the pod with the reason."""
        await self._api.patch(PODS, self._pod, _annotation(CANCEL_ANNOTATION, reason or _NO_REASON))

    async def set_limits(self, limits: RateLimits) -> None:
        """Annotate the pod with the limits."""
        await self._api.patch(PODS, self._pod, _annotation(LIMITS_ANNOTATION, msgspec.json.encode(limits).decode()))


class _Identity(msgspec.Struct, frozen=True):
    id: str


def _id_of(annotation: str) -> str:
    """Of the job in an annotation; empty when it cannot be understood."""
    try:
        return msgspec.json.decode(annotation, type=_Identity).id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def _annotation(name: str, value: str) -> JsonObject:
    return {"metadata": {"annotations": {name: value}}}

"""Taking over from a stock agent (contract §13.14): its mover pods are followed, or removed before they begin.

A stock mover begins when its object becomes InProgress, whoever wrote that. So a pod of an object that is not yet there
goes, and the exposer makes one of ours; what the stock agent exposed besides it is the same as ours and stays. What was
Prepared is Accepted again first: its volume is not accessible any more.
"""

from __future__ import annotations

import random
from contextlib import suppress

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeConflict, KubeNotFound
from agent.controllers.job import Job
from agent.controllers.sources import NodePods, pods_of
from agent.exposers.contract import Ready, Runner
from agent.kube.api import KubeApi
from agent.kube.pods import Pod
from agent.kube.resource import PODS
from agent.kube.volumes import VolumeMode
from agent.movers.runner import WorkRunner
from agent.movers.stock_pod import StockPodFollower, is_stock_mover


class StockMovers(msgspec.Struct, frozen=True):
    """The mover pods of a stock agent on this node."""

    api: KubeApi
    pods: NodePods
    clock: Clock
    rng: random.Random

    def pod_of(self, label: str, job: Job) -> Pod | None:
        """The one that works, or is to work, for `job`."""
        return next((pod for pod in pods_of(self.pods, label, job) if is_stock_mover(pod)), None)

    def follower(self, pod: Pod) -> WorkRunner:
        """Who waits for what it comes to."""
        return StockPodFollower(self.api, self.clock, self.rng, pod.key)

    async def remove(self, pod: Pod) -> None:
        """Before it begins."""
        with suppress(KubeNotFound, KubeConflict):
            await self.api.delete(PODS, pod.key, uid=pod.metadata.uid)


def volume_in(pod: Pod, job: Job) -> Ready:
    """Where a stock mover has the volume of `job`: only what kind of work it is matters to who follows it."""
    path = f"/{job.metadata.uid}"
    node, name = pod.spec.node_name, pod.metadata.name
    return Ready(node=node, mode=VolumeMode.FILESYSTEM, path=path, runner=Runner.POD, pod=name)

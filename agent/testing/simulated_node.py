"""Nodes that are not there: a small scheduler and small kubelets on a real API server, with real mounts.

    with ControlPlane(folder) as plane, CsiStorage(plane) as storage, SimulatedNodes(plane, storage) as nodes:
        nodes.add("n1")
        nodes.add("n2", zone="b")
        nodes.pods_folder("n1")     # what an agent on n1 gets as --host-pods

Pods get nodes, volumes are mounted where a kubelet mounts them (by the CSI driver itself), status and heartbeats are
written, deleted pods end. What is played and what is left out: `simulated_node_scheduler`, `simulated_node_kubelet`.
Mounting needs root; `control_plane_isolation` keeps the mounts of a test run apart from those of the machine.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from agent.base.clock import SystemClock
from agent.base.errors import KubeError
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import Transport, load_configuration
from agent.kube.backoff import Backoff
from agent.kube.meta import Key
from agent.kube.workqueue import WorkQueue
from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_csi import CsiStorage
from agent.testing.control_plane_process import eventually, tool
from agent.testing.simulated_node_cluster import ClusterView
from agent.testing.simulated_node_kubelet import Kubelet
from agent.testing.simulated_node_scheduler import Scheduler
from agent.testing.simulated_node_volumes import MountError, NodeMounts

_RESTORE_HELPER = "velero-restore-helper"
_ZONE = "topology.kubernetes.io/zone"
_SOON_SECONDS = 0.2
_WORKERS = 4

_T = TypeVar("_T")


class SimulatedNodes:
    """The scheduler and any number of nodes, in a thread of their own."""

    def __init__(self, plane: ControlPlane, storage: CsiStorage) -> None:
        self.folder = plane.folder / "nodes"
        self._plane = plane
        self._storage = storage
        self._kubelets: dict[str, Kubelet] = {}
        self._heartbeats: list[asyncio.Task[None]] = []
        self._programs = {f"/{_RESTORE_HELPER}": tool(_RESTORE_HELPER)}
        self._images: dict[str, tuple[str, str]] = {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-nodes", daemon=True)
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._cluster: ClusterView
        self._group: asyncio.TaskGroup

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.check()

    def add(self, name: str, *, zone: str = "", labels: dict[str, str] | None = None) -> None:
        """A node that is ready."""
        own = {_ZONE: zone} if zone else {}
        self._do(self._add(name, own | (labels or {})))
        eventually(f"node {name} is known", lambda: self._cluster.nodes.store.get(Key("", name)) is not None)

    def kill(self, name: str) -> None:
        """As by a power cut: volumes and programs are gone, the API server hears nothing any more."""
        self._do(self._kubelets[name].die())

    def revive(self, name: str) -> None:
        """Boot a killed node."""
        self._kubelets[name].alive = True

    def break_image(self, image: str, reason: str, message: str) -> None:
        """Let containers of this image wait with a reason: `ErrImagePull`, …."""
        self._images[image] = (reason, message)

    def pods_folder(self, name: str) -> Path:
        """The `pods` folder of a node's kubelet."""
        return self.folder / name / "pods"

    def check(self) -> None:
        """Raise `RuntimeError` if the simulation itself has failed."""
        if self._failure is not None:
            raise RuntimeError("the simulation of nodes has failed") from self._failure

    # Inside

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread of the test
            self._failure = error
        finally:
            self._started.set()

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        self.check()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        configuration = await load_configuration(str(self._plane.kubeconfig))
        name = "lighterage-simulated-nodes"
        async with AioKubeApi(configuration, user_agent=name) as api, Transport(configuration, user_agent=name) as raw:
            clock, rng = SystemClock(), random.Random(1)  # noqa: S311
            self._cluster = ClusterView(api, raw, clock, rng)
            queue = WorkQueue(clock, rng, Backoff(first=0.1, cap=2.0))
            self._cluster.pods.add_handler(queue.add)
            self._cluster.claims.add_handler(lambda key: self._wake_pods(queue, key))
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks: list[asyncio.Task[None]] = [group.create_task(run()) for run in self._cluster.informers]
                await self._cluster.wait_synced()
                tasks += [group.create_task(queue.run())]
                tasks += [group.create_task(self._work(queue)) for _ in range(_WORKERS)]
                self._started.set()
                await self._stop.wait()
                for kubelet in self._kubelets.values():
                    await kubelet.die()
                for task in [*tasks, *self._heartbeats]:
                    task.cancel()

    async def _add(self, name: str, labels: dict[str, str]) -> None:
        folder = self.folder / name
        (folder / "pods").mkdir(parents=True)
        mounts = NodeMounts(folder, self._storage)
        kubelet = Kubelet(name, self._cluster, mounts, folder, self._programs, self._images)
        await kubelet.register(labels)
        self._kubelets[name] = kubelet
        self._heartbeats.append(self._group.create_task(kubelet.keep_alive()))

    async def _work(self, queue: WorkQueue) -> None:
        scheduler = Scheduler(self._cluster)
        while (key := await queue.get()) is not None:
            try:
                again = await self._sync(scheduler, key)
            except (KubeError, MountError):
                queue.retry(key)
            else:
                queue.forget(key)
                if again:
                    queue.add_after(key, _SOON_SECONDS)
            finally:
                queue.done(key)

    async def _sync(self, scheduler: Scheduler, key: Key) -> bool:
        pod = self._cluster.pods.store.get(key)
        if pod is None:
            for kubelet in [*self._kubelets.values()]:
                await kubelet.forget_gone()
            return False
        if not pod.spec.node_name:
            if pod.metadata.deletion_timestamp is None:
                await scheduler.schedule(pod)
            return False
        host = self._kubelets.get(pod.spec.node_name)
        return host is not None and await host.sync(pod)

    def _wake_pods(self, queue: WorkQueue, claim: Key) -> None:
        """What happens to a claim concerns the pods that use it."""
        for pod in self._cluster.pods.store:
            if any(self._cluster.claim_of(pod, volume) == claim for volume in pod.spec.volumes):
                queue.add(pod.key)

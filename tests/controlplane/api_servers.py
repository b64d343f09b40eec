"""The API server in memory and the real one, behind what a test asks of either."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.api import KubeApi
from agent.kube.resource import CONFIG_MAPS, DATA_UPLOADS
from agent.testing.clock import START_NS, VirtualClock
from agent.testing.control_plane import ControlPlane
from agent.testing.fake_kube import FakeKube

_numbers = count()


@dataclass(frozen=True, slots=True)
class ApiServer:
    """One of the two, with a namespace that is the test's alone."""

    api: KubeApi
    namespace: str
    compact: Callable[[], None]
    """Forget the past."""
    sleep: Callable[[float], Awaitable[None]]
    """On the server's clock."""
    reader: KubeApi
    """A server of the same kind, asked by somebody who may get ConfigMaps of the namespace and nothing else."""

    async def eventually(self, what: str, check: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
        """Wait for what controllers do in their own time."""
        for _ in range(round(seconds / 0.05)):
            if await check():
                return
            await self.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s: {what}")


@asynccontextmanager
async def fake_server() -> AsyncIterator[ApiServer]:
    """`FakeKube` in virtual time."""
    clock = VirtualClock(START_NS)
    fake = FakeKube(clock, random.Random(1))
    reader = FakeKube(clock, random.Random(2))
    verbs = ("get", "list", "watch", "create", "patch", "delete")
    everything = {(verb, kind.name) for verb in verbs for kind in (CONFIG_MAPS, DATA_UPLOADS)}
    reader.denied = everything - {("get", CONFIG_MAPS.name)}
    yield ApiServer(fake, "velero", fake.compact, clock.sleep, reader)


@asynccontextmanager
async def real_server(plane: ControlPlane) -> AsyncIterator[ApiServer]:
    """`AioKubeApi` on the control plane, as admin."""
    namespace = f"contract-{next(_numbers)}"
    plane.kubectl("create", "namespace", namespace)
    plane.kubectl("create", "serviceaccount", "reader", f"--namespace={namespace}")
    plane.kubectl("create", "role", "reader", "--verb=get", "--resource=configmaps", f"--namespace={namespace}")
    plane.kubectl(
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        f"--serviceaccount={namespace}:reader",
        f"--namespace={namespace}",
    )
    token = plane.service_account(namespace, "reader")
    async with (
        AioKubeApi(await load_configuration(str(plane.kubeconfig)), user_agent="lighterage-tests") as api,
        AioKubeApi(await load_configuration(str(token)), user_agent="lighterage-tests") as reader,
    ):
        yield ApiServer(api, namespace, plane.compact, asyncio.sleep, reader)

"""Which agents are alive (contract §2.5): each renews a Lease of its node, and watches those of the others.

No clocks of machines are compared: a lease says that its agent lives by changing, and how long it has not changed is
measured here, in the time in which we could see. Our own lease, coming back through the watch, proves that we see:
after an outage of the API server, in which nobody could renew, counting starts anew. Where leases are forbidden, or an
agent has none (a stock one), the node's readiness and the agent's pod have to do. Implements
`agent.controllers.machine.NodeLiveness`.

A node has one agent at a time: its lease names the pod that holds it. A second one waits until the first gives it back,
which it does when nothing of it works any more, or is silent for too long; an agent that finds its lease taken ends.
A container that is started again in the same pod has the lease still.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from agent.base.clock import Clock
from agent.base.errors import AgentSuperseded, KubeConflict, KubeError, KubeForbidden, KubeNotFound
from agent.kube.api import KubeApi
from agent.kube.cluster import Lease, LeaseSpec, Node
from agent.kube.codec import merge_patch
from agent.kube.informer import Informer
from agent.kube.meta import Key, ObjectMeta, OwnerReference
from agent.kube.names import valid_name
from agent.kube.pods import Pod, PodPhase
from agent.kube.resource import LEASES, PODS
from agent.kube.selector import Selector
from agent.kube.wait import wait_for_event

LEASE_LABELS: Final = {"app.kubernetes.io/name": "lighterage", "app.kubernetes.io/component": "node-agent"}
AGENT_LABELS: Final = {"role": "node-agent"}
"""Of the pods of agents, stock ones too (contract §4.4)."""
_PREFIX = "lighterage-"
_MAX_NAME = 253
_NODE = "node"
_MISSED = 3
"""Renewals of which none was seen: whoever should have made them is silent."""
_REALLY_REFUSED = 3
"""Times in a row."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.stdlib.get_logger(__name__)


class LivenessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    renew: float = 10.0
    dead_after: float = 120.0
    """Without a sign of life."""
    take_over: float = 60.0
    """After so long without a renewal another agent of the same node takes the lease."""
    ask_again: float = 300.0
    """At most, for the right to leases while it is refused; an API server that has just begun refuses everything."""


class _Sign(msgspec.Struct):
    """The last sign of life of a node's agent that was seen."""

    version: str
    seen: float


def lease_name(node: str) -> str:
    """The name of a node's lease."""
    name = _PREFIX + node
    return name if len(name) <= _MAX_NAME else _PREFIX + valid_name(node)


def _node_of(lease: Lease) -> str:
    """Whose agent holds it; empty when none does. Names of nodes have no slash."""
    return lease.spec.holder_identity.partition("/")[0]


class LeaseLiveness:
    """Signs of life, given and watched, of one agent. Its owner runs `run`, and the informer of nodes.

    `pod` tells agents of one node apart; without a name they are taken for one.
    """

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        rng: random.Random,
        nodes: Informer[Node],
        *,
        node: str,
        namespace: str,
        pod: str = "",
        options: LivenessOptions | None = None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._nodes = nodes
        self._node = node
        self._identity = f"{node}/{pod}"
        self._key = Key(namespace, lease_name(node))
        self._options = options or LivenessOptions()
        self._leases: Informer[Lease] = Informer(
            api, LEASES, clock, rng, namespace=namespace, selector=Selector(labels=LEASE_LABELS)
        )
        self._leases.add_handler(self._lease_changed)
        self._agents: Informer[Pod] = Informer(
            api,
            PODS,
            clock,
            rng,
            namespace=namespace,
            selector=Selector(labels=AGENT_LABELS),
            indexes={_NODE: lambda pod: (pod.spec.node_name,)},
        )
        nodes.add_handler(self._node_changed)
        self._held: Lease | None = None
        self._refusals = 0
        self._signs: dict[str, _Sign] = {}
        self._unready: dict[str, float] = {}
        self._unattended: dict[str, float] = {}
        """Nodes without a running agent, since when that was seen."""
        self._alone = asyncio.Event()
        self._free = asyncio.Event()
        self._rival: _Sign | None = None
        """The lease as another agent of this node holds it."""
        self._seeing_since: float | None = None
        """Since when our own lease has come back through the watch without a gap."""

    @property
    def has_leases(self) -> bool:
        """Whether leases can be written; without them only the readiness of nodes counts."""
        return self._refusals < _REALLY_REFUSED

    async def wait_alone(self) -> None:
        """Until no other agent of this node works; at once where leases are forbidden."""
        await self._alone.wait()

    async def give_back(self) -> None:
        """Let the next agent of this node begin at once. For when nothing of this one works any more."""
        self._held = None
        try:
            held = await self._find()
            while held is not None and held.spec.holder_identity == self._identity:
                spec = msgspec.structs.replace(held.spec, holder_identity="")
                with suppress(KubeConflict):
                    await self._write(held, msgspec.structs.replace(held, spec=spec))
                    return
                # A renewal that was cut short took effect all the same.
                held = await self._find()
        except KubeError as error:
            _log.debug("the lease was not given back", error=str(error))

    async def run(self) -> None:
        """Renew and watch until canceled. Raises `AgentSuperseded` when another agent of this node took over."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._leases.run())
            group.create_task(self._agents.run())
            group.create_task(self._renew_all_the_time())

    def is_dead(self, node: str) -> bool:
        """Whether nobody has looked after the objects of this node for so long that others have to end them.

        False for whatever cannot be seen at the moment.
        """
        nodes, now = self._nodes, self._clock.monotonic()
        if node == self._node or not nodes.is_synced or nodes.last_error is not None:
            return False
        silence = self._silence(node, now)
        if silence is not None and silence <= _MISSED * self._options.renew:
            return False
        if nodes.store.get(Key("", node)) is None:
            return True
        if silence is not None:
            return silence > self._options.dead_after
        since = self._unready.get(node, self._unattended_since(node, now))
        return since is not None and now - since > self._options.dead_after

    def agents(self) -> Set[str]:
        """The nodes of those whose pods run; this one at least."""
        running = {pod.spec.node_name for pod in self._agents.store if pod.status.phase is PodPhase.RUNNING}
        return running | {self._node}

    def _unattended_since(self, node: str, now: float) -> float | None:
        """Since when no agent, ours or stock, was seen to run there; None when one does, or when that is not known."""
        if not self._agents.is_synced or self._agents.last_error is not None:
            self._unattended.clear()
            return None
        if any(pod.status.phase is PodPhase.RUNNING for pod in self._agents.store.by_index(_NODE, node)):
            self._unattended.pop(node, None)
            return None
        return self._unattended.setdefault(node, now)

    def _silence(self, node: str, now: float) -> float | None:
        """Seconds without a sign of life while we could see; None when leases cannot tell."""
        sign, own = self._signs.get(node), self._signs.get(self._node)
        if sign is None or own is None or self._seeing_since is None or self._is_long(now - own.seen):
            return None
        return now - max(sign.seen, self._seeing_since)

    def _is_long(self, seconds: float) -> bool:
        return seconds > _MISSED * self._options.renew

    def _lease_changed(self, key: Key) -> None:
        now = self._clock.monotonic()
        lease = self._leases.store.get(key)
        if lease is None:  # its agent, if it lives, makes it anew
            return
        node, version = _node_of(lease), lease.metadata.resource_version
        if key == self._key and self._held is None and not lease.spec.holder_identity:
            self._free.set()
        if not node:  # given back, which is no sign of life
            return
        sign = self._signs.get(node)
        if sign is not None and sign.version == version:
            return
        if node == self._node and (sign is None or self._is_long(now - sign.seen)):
            self._seeing_since = now
        self._signs[node] = _Sign(version, now)

    def _node_changed(self, key: Key) -> None:
        node = self._nodes.store.get(key)
        if node is None or node.is_ready:
            self._unready.pop(key.name, None)
        else:
            self._unready.setdefault(key.name, self._clock.monotonic())

    async def _renew_all_the_time(self) -> None:
        options = self._options
        while True:
            try:
                await self._renew()
                self._refusals = 0
            except KubeForbidden as error:
                self._refusals, self._held = self._refusals + 1, None
                self._alone.set()
                if self._refusals == _REALLY_REFUSED:
                    _log.warning("leases are forbidden: only unready nodes are taken for dead", error=str(error))
            except KubeError as error:
                self._held = self._rival = None  # silence counts only while we see
                _log.debug("the lease was not renewed", error=str(error))
            self._forget_gone_nodes()
            pause = min(options.renew * 2 ** max(self._refusals - 1, 0), options.ask_again)
            self._free.clear()
            await wait_for_event(self._clock, self._free, pause * (0.9 + 0.2 * self._rng.random()))

    def _forget_gone_nodes(self) -> None:
        """Nodes come and go for years; what is neither seen nor heard of is dead without being remembered."""
        if self._nodes.is_synced:
            old = self._clock.monotonic() - self._options.dead_after
            known = {node.metadata.name for node in self._nodes.store}
            self._signs = {node: sign for node, sign in self._signs.items() if sign.seen > old or node in known}
            self._unattended = {node: since for node, since in self._unattended.items() if node in known}

    async def _renew(self) -> None:
        held = self._held or await self._find()
        if held is not None and self._is_anothers(held):
            if self._alone.is_set():
                raise AgentSuperseded(
                    f"another agent of node {self._node} took over: {held.spec.holder_identity}",
                    hint="give each node one agent; this one begins again, and waits for its turn",
                )
            _log.info("another agent of this node works still", holder=held.spec.holder_identity)
            return
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=round(self._options.dead_after),
            renew_time=self._now(),
        )
        if held is None:
            metadata = ObjectMeta(
                name=self._key.name, namespace=self._key.namespace, labels=LEASE_LABELS, owner_references=self._owner()
            )
            lease = Lease(api_version=LEASES.api_version, kind="Lease", metadata=metadata, spec=spec)
            self._held = await self._api.create(LEASES, lease)
            self._alone.set()
            return
        after = msgspec.structs.replace(
            held, spec=spec, metadata=msgspec.structs.replace(held.metadata, labels=held.metadata.labels | LEASE_LABELS)
        )
        self._held = await self._write(held, after)
        self._rival = None
        self._alone.set()

    def _is_anothers(self, lease: Lease) -> bool:
        """Whether another agent of this node holds it, and was not silent for so long that it is ours to take."""
        if lease.spec.holder_identity in {"", self._identity}:
            return False
        now, version = self._clock.monotonic(), lease.metadata.resource_version
        if self._rival is None or self._rival.version != version:
            self._rival = _Sign(version, now)
        return now - self._rival.seen <= self._options.take_over

    async def _write(self, before: Lease, after: Lease) -> Lease:
        """Onto the version that was seen: of several who take a lease one succeeds."""
        version = before.metadata.resource_version
        return await self._api.patch(LEASES, self._key, merge_patch(before, after), resource_version=version)

    async def _find(self) -> Lease | None:
        try:
            return await self._api.get(LEASES, self._key)
        except KubeNotFound:
            return None

    def _owner(self) -> tuple[OwnerReference, ...]:
        """The node: its lease goes with it."""
        node = self._nodes.store.get(Key("", self._node))
        if node is None:
            return ()
        return (OwnerReference(api_version="v1", kind="Node", name=self._node, uid=node.metadata.uid),)

    def _now(self) -> str:
        """`metav1.MicroTime`, for people."""
        moment = _EPOCH + timedelta(microseconds=self._clock.now_ns() // 1000)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""What the state machines of an agent share: who it is, how long things may take, and who else is alive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from typing import Protocol

import msgspec

from agent.base.clock import Clock
from agent.controllers.claims import Claims
from agent.controllers.job import Job
from agent.controllers.memory import share
from agent.controllers.moving import Movings
from agent.controllers.prepare_queue import PrepareQueue
from agent.controllers.slots import Slots
from agent.controllers.sources import NodePods
from agent.controllers.status import StatusWriter
from agent.controllers.stock import StockMovers
from agent.movers.supervisor import JobCallbacks

_MAX_DOUBLINGS = 6
Again = float | None
"""Seconds after which to look again without an event; None: an event comes, or the next resync is soon enough."""


class NodeLiveness(Protocol):
    """Which agents are alive (contract §2.5)."""

    def is_dead(self, node: str) -> bool:
        """Whether nobody has looked after the objects of this node for so long that others have to end them.

        Also true of a node that has had no agent for so long, and of one that does not exist.
        """
        ...

    def agents(self) -> Set[str]:
        """The nodes of all agents that can be seen, this one's among them."""
        ...


async def nothing_to_check(_: Job) -> None:
    """For agents that find out about mistakes only when they come upon them."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    prepare: float = 1800.0
    """From Accepted to InProgress (`--data-mover-prepare-timeout`)."""
    others: float = 120.0
    """How much later another agent ends what its own agent should have ended."""
    force_prepared: float = 300.0
    force_running: float = 3600.0
    """After `cancel` was first seen: any agent ends the object, before and after it is InProgress."""
    restart: float = 600.0
    """For what a restarted agent needs to go on with an object that was InProgress."""
    kill: float = 120.0
    """After a cancel: work that has not ended by then is ended by force."""
    refused: float = 60.0
    """How long the API server may refuse what has to be done for an object until that is its end."""
    look_again: float = 5.0
    """At objects that wait for something that no event tells of."""
    resync: float = 60.0
    claim_spread: float = 0.1
    """For each agent: those that may all accept an object try one by one, within so long times their number."""
    spread: float = 15.0
    """The same for ending what another agent should have ended."""
    tell: float = 15.0
    """What is waited for is told in the object after so long, and then ever more seldom."""


class Context(msgspec.Struct):
    """What all machines of an agent share."""

    node: str
    clock: Clock
    writer: StatusWriter
    slots: Slots
    nodes: NodeLiveness
    movings: Movings
    queue: PrepareQueue
    claims: Claims
    pods: NodePods
    stock: StockMovers
    time_limit: Callable[[Job], float] = lambda _: 0.0
    """Seconds that this object may be InProgress; 0: any time."""
    callbacks: Callable[[Job], JobCallbacks | None] = lambda _: None
    check: Callable[[Job], Awaitable[None]] = nothing_to_check
    """Raises what can be known to be wrong before a volume is exposed."""
    timing: Timing = msgspec.field(default_factory=Timing)
    draining: bool = False
    """Whether the agent ends: nothing is begun or decided any more."""

    @property
    def claim_spread(self) -> float:
        """Seconds within which every agent tries: seldom two at once, however many there are; a lone one does soon."""
        return self.timing.claim_spread * len(self.nodes.agents())

    def claim_turn(self, uid: str, since: float) -> float:
        """When this agent tries to accept an object that is new since then, in monotonic time."""
        return max(since, self.claims.not_before) + share(self.node, uid) * self.claim_spread

    def rank(self, uid: str) -> int:
        """How many other agents that live come before this one at an object that any of them may look at."""
        own = share(self.node, uid)
        return sum(share(node, uid) < own and not self.nodes.is_dead(node) for node in self.nodes.agents())

    def until_look_up(self, uid: str, seconds: float) -> float:
        """Seconds until this agent asks what any may ask about an object, since that costs requests.

        Of all agents one asks in the given time, the next one waits twice as long, and so on: a few requests for each
        object, and never none, whoever is away.
        """
        doublings = min(self.rank(uid), _MAX_DOUBLINGS)
        return seconds * 2.0**doublings * (4 + share(self.node, f"{uid}/look-up")) / 5

"""What differs between the four kinds, as the state machine asks for it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.base.errors import LighterageError
from agent.controllers.job import JobT
from agent.exposers.contract import Exposer, Ready
from agent.kube.job import Phase
from agent.kube.resource import Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets


class Ours(msgspec.Struct, frozen=True):
    """This agent may take the object, now."""


class NotYet(msgspec.Struct, frozen=True):
    """This agent's perhaps, once what is missing is there."""

    reason: str
    error: LighterageError | None = None
    """Why it never will be, should it stay missing as long as a volume may take; to ask costs requests.

    None: it may be missing for ever, and is known without asking.
    """


class Refused(msgspec.Struct, frozen=True):
    """It can never be done, and the error says why."""

    error: LighterageError


Claim = Ours | NotYet | Refused


class JobKind(Protocol[JobT]):
    """One of the four."""

    @property
    def resource(self) -> Resource[JobT]:
        """As the API server names it."""
        ...

    @property
    def name(self) -> str:
        """`DataUpload`, …, for messages and events."""
        ...

    @property
    def finalizer(self) -> str:
        """Ours while the object is not final."""
        ...

    @property
    def pod_label(self) -> str:
        """Of pods that hold or move a volume; its value is the object's name."""
        ...

    @property
    def exposer(self) -> Exposer[JobT]:
        """How its volume is got at."""
        ...

    @property
    def canceled_phase(self) -> Phase:
        """How an object ends that was canceled by somebody (contract §13.12)."""
        ...

    @property
    def has_node_from_the_start(self) -> bool:
        """Whether `status.node` is set when the object is accepted, rather than when its volume is ready."""
        ...

    @property
    def is_anybodys(self) -> bool:
        """Whether any agent may accept an object, and take over what another one accepted and cannot go on with."""
        ...

    @property
    def priority(self) -> int:
        """Of two that wait for a slot, the higher one goes first."""
        ...

    def namespace(self, job: JobT) -> str:
        """Where the volume is, or was: jobs are fair between these."""
        ...

    def handles(self, job: JobT) -> bool:
        """Whether it is for agents like this one at all; what is not is never touched."""
        ...

    def refusal(self, job: JobT) -> Refused | None:
        """Why this agent has to refuse the new object, as far as that can be known without asking."""
        ...

    async def claim(self, job: JobT) -> Claim:
        """Whether this agent may accept the new object, which is anybody's or here, and has no `refusal`."""
        ...

    def node(self, job: JobT) -> str:
        """The node whose agent looks after the object in its phase; empty while it is anybody's or nobody's."""
        ...

    async def locate(self, job: JobT) -> str | LighterageError:
        """The same for an object that does not say: asked where that can be known, and empty if it may yet be said.

        An error when no agent will ever look after it. Costs requests.
        """
        ...

    def is_here(self, job: JobT) -> bool:
        """Whether this node holds what the object needs: the user's pod, or the exposer's, whoever accepted it."""
        ...

    async def work(self, job: JobT, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """What is to be done, and who does it. Definite problems are raised as leaves of the error tree."""
        ...

"""What a controller may ask of an exposer.

An exposer has no memory: each call looks at the cluster, does the next steps that are possible, and says where things
stand. So any call may be made again, by another agent too, after a crash at any point of an earlier one. Nothing here
waits: `Waiting` says for what, and the controller comes back on the next event or after a while.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec

from agent.base.errors import LighterageError
from agent.kube.meta import KubeObject
from agent.kube.volumes import VolumeMode

JobT_contra = TypeVar("JobT_contra", bound=KubeObject, contravariant=True)


class Runner(StrEnum):
    """Where the worker of a job runs."""

    LOCAL = "local"
    """In the agent of the node; a pod, if there is one, only mounts the volume."""
    POD = "pod"
    """In the pod that mounts the volume."""


class Waiting(msgspec.Struct, frozen=True):
    """Not yet, and nothing is known to be wrong: what is waited for, for people."""

    reason: str
    node: str = ""
    """Where it happens, once that is certain: the agent of that node sees more of it, and hears of it sooner."""


class Broken(msgspec.Struct, frozen=True):
    """It cannot become ready. The error says why, with the cluster's own words."""

    error: LighterageError


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The volume can be opened on a node."""

    node: str
    mode: VolumeMode
    path: str
    """Of the folder or device as the worker sees it: in the agent's file system with `LOCAL`, in the pod's else."""
    runner: Runner
    pod: str = ""
    """Name of the pod of ours that holds the volume, in Velero's namespace; empty without one."""


class Done(msgspec.Struct, frozen=True):
    """Nothing is left to do."""


class Exposer(Protocol[JobT_contra]):
    """One way to get at a volume. All methods may raise `KubeError`, after which the same call is made again."""

    async def advance(self, job: JobT_contra) -> Waiting | Ready | Broken:
        """Do the next steps towards a volume that can be opened. `Ready` as long as it can.

        A definite cause (image pull error, unschedulable for a reason that cannot heal, failed snapshot) is
        `Broken` as soon as it is seen; what may still heal is `Waiting` with the cluster's own words as reason.
        """
        ...

    async def finish(self, job: JobT_contra) -> Waiting | Done | Broken:
        """After the data was moved well: what makes the result the user's (rebinding a volume, the done file)."""
        ...

    async def clean_up(self, job: JobT_contra) -> Waiting | Done:
        """Remove everything that was made for this job, whatever the job came to; `Done` when nothing is left."""
        ...

    async def diagnose(self, job: JobT_contra) -> tuple[str, ...]:
        """Facts about the objects involved (phases, conditions, events), one a line, the most telling first."""
        ...

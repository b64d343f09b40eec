"""Why an object ends as it does, in the words that its status shows to people."""

from __future__ import annotations

from agent.base.errors import LighterageError, SnapshotNotFound, VolumeTakenAway, WrongPassword
from agent.controllers.job import Job, is_deleted
from agent.exposers.contract import Broken, Waiting
from agent.movers.pod_protocol import PASSWORD_SECRET

_MAX_SENTENCE = 400
_UNBOUND = "persistentvolumeclaim"
_CANCELED = "canceled: "


def cause(waiting: str, facts: tuple[str, ...]) -> str:
    """One or two sentences: what is waited for, and the most telling fact.

    That comes first where the scheduler only says that a claim has no volume: the claim itself tells why (§13.11).
    """
    told = list(dict.fromkeys(one[:_MAX_SENTENCE] for one in (waiting, *facts[:1]) if one))
    if _UNBOUND in waiting.lower():
        told.reverse()
    return "; ".join(told) or "nothing is known about the reason"


def cancel_reason(job: Job) -> str:
    """Who canceled it, and why; the same again once that is in the object."""
    if job.status.message.startswith(_CANCELED):
        return job.status.message
    if is_deleted(job) and not job.spec.cancel:
        return f"{_CANCELED}the object is being deleted"
    return f"{_CANCELED}spec.cancel was set{f' ({job.status.message})' if job.status.message else ''}"


def taken_away(error: LighterageError, state: Waiting | Broken) -> VolumeTakenAway:
    """What a worker said of a volume that its exposer has not any more."""
    why = state.reason if isinstance(state, Waiting) else str(state.error)
    said = f"{error.code}: {error.message}"
    return VolumeTakenAway(f"{why}, while the job ran ({said})", hint="see who deleted it, and repeat the job")


def in_the_cluster(job: Job, error: LighterageError) -> LighterageError:
    """What a worker said, which knows only a repository, with the objects of the cluster that a person looks at."""
    where = f"in the backup storage location {job.spec.backup_storage_location}"
    if isinstance(error, WrongPassword):
        secret = f"{job.metadata.namespace}/{PASSWORD_SECRET}"
        return WrongPassword(
            f"the password in the Secret {secret} does not open the repository {where}",
            hint="it has to be the one with which that repository was made",
        )
    if isinstance(error, SnapshotNotFound):
        return SnapshotNotFound(
            f"{error.message} {where}", hint="it was deleted, or the location is not that of the backup any more"
        )
    return error

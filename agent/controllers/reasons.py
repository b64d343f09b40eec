"""Why an object ends as it does, in the words that its status shows to people."""

from __future__ import annotations

from agent.base.errors import LighterageError, VolumeTakenAway
from agent.controllers.job import Job, is_deleted
from agent.exposers.contract import Broken, Waiting

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

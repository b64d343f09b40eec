"""What an error means to whoever waits for a volume: never, not yet, or ask again."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from agent.base.errors import ExposeError, KubeForbidden, KubeInvalid
from agent.exposers.contract import Broken, Waiting

_StateT = TypeVar("_StateT")


async def outcome_of(what: str, steps: Awaitable[_StateT]) -> _StateT | Waiting | Broken:
    """The state that some steps come to, errors included. What else the API server says is raised, to be tried again.

    `what` names the job, for messages.
    """
    try:
        return await steps
    except ExposeError as error:
        return Broken(error)
    except KubeInvalid as error:
        return Broken(ExposeError(f"the API server refuses an object that {what} needs: {error}"))
    except KubeForbidden as error:  # a quota, a policy or a role, which may be changed meanwhile
        return Waiting(str(error))

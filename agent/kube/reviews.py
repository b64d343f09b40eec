"""Who somebody is, and what they may: questions to the API server about others than ourselves.

The border `Reviewer` is implemented by `aio_api.AioKubeApi`, and in memory by `agent.testing.fake_reviewer`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.kube.api import AccessReview


class Identity(msgspec.Struct, frozen=True):
    """A user as the API server knows one."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


class Reviewer(Protocol):
    """All methods may raise `KubeForbidden` (we may not ask) and `KubeUnavailable`."""

    async def authenticate(self, token: str) -> Identity | None:
        """Whose bearer token this is; None when it is nobody's, or not valid any more (TokenReview)."""
        ...

    async def may(self, who: Identity, review: AccessReview) -> bool:
        """Whether somebody has the right (SubjectAccessReview)."""
        ...

"""Who is who and who may what, in memory: a `Reviewer` for tests."""

from __future__ import annotations

import msgspec

from agent.base.errors import KubeError
from agent.kube.api import AccessReview
from agent.kube.reviews import Identity


class FakeReviewer(msgspec.Struct):
    """Knows the tokens and rights that a test gave it. Remove a token, and it has expired."""

    tokens: dict[str, Identity] = msgspec.field(default_factory=dict)
    grants: set[tuple[str, AccessReview]] = msgspec.field(default_factory=set)
    """Names of users, and what each may."""
    asked: list[tuple[Identity, AccessReview]] = msgspec.field(default_factory=list)
    error: KubeError | None = None
    """Instead of any answer."""

    def grant(self, user: str, review: AccessReview) -> None:
        """From now on."""
        self.grants.add((user, review))

    async def authenticate(self, token: str) -> Identity | None:
        """Whose token this is."""
        if self.error is not None:
            raise self.error
        return self.tokens.get(token)

    async def may(self, who: Identity, review: AccessReview) -> bool:
        """Whether the test granted it."""
        if self.error is not None:
            raise self.error
        self.asked.append((who, review))
        return (who.name, review) in self.grants

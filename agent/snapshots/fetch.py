"""Contents for restore and verify: in the order of the packs, damage named and passed by."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from agent.base.errors import LighterageError, RepositoryError
from agent.repository.ids import ContentId
from agent.storage.base import Buffer


class Contents(Protocol):
    """The part of `agent.repository.content_reader.ContentReader` that is needed here."""

    def read_views(
        self, cids: Sequence[ContentId], *, on_error: Callable[[ContentId, RepositoryError], None] | None = None
    ) -> AsyncGenerator[list[tuple[ContentId, Buffer]], None]:
        """Verified contents, a range of a pack at a time."""
        ...

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        """Whether `data` is this content. Thread side."""
        ...


async def fetch(
    contents: Contents, cids: Sequence[ContentId]
) -> AsyncGenerator[list[tuple[ContentId, Buffer | LighterageError]], None]:
    """Each of the distinct `cids` once: its bytes, or why they cannot be had. A storage that fails raises."""
    failed: list[tuple[ContentId, Buffer | LighterageError]] = []
    async with aclosing(contents.read_views(cids, on_error=lambda cid, error: failed.append((cid, error)))) as batches:
        async for batch in batches:
            yield list(batch)
    if failed:
        yield failed

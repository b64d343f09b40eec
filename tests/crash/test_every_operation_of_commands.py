"""Creation and change of the password die at any operation: what is left opens, or says that it is nothing."""

from contextlib import suppress

import pytest

from agent.base.errors import LighterageError, NotARepository, RepositoryExists
from agent.repository.format_blob import ObjectLock
from agent.repository.format_manager import change_password
from agent.testing.faulty_storage import FaultyStorage, KillAt
from tests.crash.kit import PASSWORD, Store, copied, create, dying, opened, snapshots

NEW = "another passw0rd"
DAY = 24 * 3600 * 1_000_000_000


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
async def test_a_killed_creation_leaves_a_repository_or_nothing_that_looks_like_one(after_effect: bool) -> None:
    operation, done = 0, False
    while not done:
        store = Store()
        with dying():
            await create(FaultyStorage(store, kill_at=KillAt(operation, after_effect=after_effect)))
            done = True
        try:
            async with opened(store) as repo:
                assert await snapshots(repo) == []
        except NotARepository:
            assert "kopia.repository" not in store.blobs
        if store.blobs:
            with pytest.raises(RepositoryExists) as refused:
                await create(store)
            assert refused.value.hint
        else:
            await create(store)
        operation += 1
    assert operation > 8


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lock", [None, ObjectLock("GOVERNANCE", 3 * DAY)], ids=["plain", "object lock"])
async def test_after_a_killed_change_of_the_password_one_of_the_two_opens_or_the_change_can_be_repeated(
    after_effect: bool, lock: ObjectLock | None
) -> None:
    first = Store()
    await create(first, object_lock=lock)
    operation, done = 0, False
    while not done:
        store = copied(first)
        with dying():
            storage = FaultyStorage(store, kill_at=KillAt(operation, after_effect=after_effect))
            await change_password(storage, PASSWORD, NEW)
            done = True
        opening = [password for password in (PASSWORD, NEW) if await _opens(store, password)]
        assert len(opening) == 1 or (lock is not None and not opening)
        if opening != [NEW]:
            await change_password(store, PASSWORD, NEW)
        async with opened(store, password=NEW) as repo:
            assert repo.format_manager.object_lock == lock
        operation += 1
    assert operation > 4


async def _opens(store: Store, password: str) -> bool:
    with suppress(LighterageError):
        async with opened(store, password=password):
            return True
    return False

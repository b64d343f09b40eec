"""Index blobs under the epoch rule (§5.2)."""

import pytest

from agent.base.errors import WriteConflict
from agent.repository.encryption import ContentCipher
from agent.repository.hashing import new_hasher
from agent.repository.index_commit import IndexCommitter
from agent.repository.sealer import BlobSealer
from agent.repository.session import SessionId
from agent.storage.base import BlobId
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage

SESSION = SessionId("s0011223344556677147")
REFRESH_S = 1200


class Store(MemoryStorage):
    """Lets a test act after each put of an index blob."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.lists = 0
        self.after_put = lambda: None

    async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)
        if blob_id.startswith("xn"):
            self.after_put()

    def list(self, prefix=""):  # type: ignore[no-untyped-def]
        self.lists += 1
        return super().list(prefix)

    def advance_to(self, epoch: int) -> None:
        self.blobs[BlobId(f"xe{epoch}")] = b"epoch-marker"
        self.timestamps_ns[BlobId(f"xe{epoch}")] = 0


def make(epochs: bool = True) -> tuple[Store, VirtualClock, IndexCommitter]:
    clock = VirtualClock(jump=False)
    storage = Store(clock)
    sealer = BlobSealer(new_hasher("BLAKE2B-256-128", b"s" * 32), ContentCipher("AES256-GCM-HMAC-SHA256", b"m" * 32))
    committer = IndexCommitter(
        storage, sealer, clock, epochs=epochs, refresh_frequency_ns=REFRESH_S * 10**9 if epochs else 0
    )
    return storage, clock, committer


async def test_blobs_are_named_by_epoch_hash_session_and_number_of_shards() -> None:
    storage, _, committer = make()
    storage.advance_to(7)
    written = await committer.commit(SESSION, [b"one", b"two"])
    assert all(name.startswith("xn7_") and name.endswith(f"-{SESSION}-c2") for name in written)
    assert [name for name in storage.blobs if name.startswith("xn")] == list(written)


async def test_without_epochs_blobs_are_named_by_hash_and_session() -> None:
    storage, _, committer = make(epochs=False)
    (name,) = await committer.commit(SESSION, [b"one"])
    assert name.startswith("n") and name.endswith(f"-{SESSION}") and name.count("-") == 1
    assert not storage.lists


async def test_an_epoch_that_moved_on_by_one_is_good_enough() -> None:
    storage, _, committer = make()
    storage.after_put = lambda: storage.advance_to(1)
    (name,) = await committer.commit(SESSION, [b"one"])
    assert name.startswith("xn0_")


async def test_when_the_epoch_moved_on_by_two_the_blobs_are_written_again_under_the_new_one() -> None:
    storage, _, committer = make()
    storage.after_put = lambda: storage.advance_to(2)
    (name,) = await committer.commit(SESSION, [b"one"])
    assert name.startswith("xn2_")
    assert [blob for blob in storage.blobs if blob.startswith("xn")] == [name]


async def test_an_epoch_that_never_stands_still_is_a_conflict_and_leaves_nothing() -> None:
    storage, _, committer = make()
    epochs = iter(range(2, 100, 2))
    storage.after_put = lambda: storage.advance_to(next(epochs))
    with pytest.raises(WriteConflict, match="5 attempts"):
        await committer.commit(SESSION, [b"one"])
    assert not [blob for blob in storage.blobs if blob.startswith("xn")]


async def test_a_fresh_epoch_is_not_listed_again_before_writing_and_an_older_one_is() -> None:
    storage, clock, committer = make()
    await committer.commit(SESSION, [b"one"])
    assert storage.lists == 2
    clock.advance(REFRESH_S / 4)
    await committer.commit(SESSION, [b"two"])
    assert storage.lists == 3
    clock.advance(REFRESH_S / 4 + 1)
    storage.advance_to(5)
    (name,) = await committer.commit(SESSION, [b"three"])
    assert name.startswith("xn5_")
    assert storage.lists == 5


async def test_when_the_epoch_state_runs_out_between_shards_and_the_epoch_moved_all_shards_move() -> None:
    storage, clock, committer = make()

    def slow_put() -> None:
        storage.after_put = lambda: None
        clock.advance(REFRESH_S + 1)
        storage.advance_to(1)

    storage.after_put = slow_put
    written = await committer.commit(SESSION, [b"one", b"two"])
    assert all(name.startswith("xn1_") for name in written)
    assert [blob for blob in storage.blobs if blob.startswith("xn")] == list(written)

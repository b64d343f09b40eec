import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.storage.base import BlobId, BlobStorage
from agent.storage.filesystem import FilesystemStorage
from agent.storage.limit import LimitedStorage, Limits
from agent.storage.open import StorageOptions, open_storage
from agent.storage.pace import Pace, TokenBucket
from agent.storage.s3_body import PiecewiseBody
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage

A = BlobId("a")
RATE = 1000


class Journal(TokenBucket):
    """Notes when how many bytes passed."""

    def __init__(self, rate: float, clock: VirtualClock) -> None:
        super().__init__(rate, clock)
        self.passed: list[tuple[float, int]] = []

    async def allow(self, wanted: int) -> int:
        granted = await super().allow(wanted)
        self.passed.append((self._clock.monotonic(), granted))
        return granted

    def worst_excess(self, rate: float) -> float:
        """The most that passed in any span of time beyond what the rate gives in that span."""
        return max(
            sum(n for t, n in self.passed[i : j + 1]) - rate * (self.passed[j][0] - self.passed[i][0])
            for i in range(len(self.passed))
            for j in range(i, len(self.passed))
        )

    @property
    def total(self) -> int:
        return sum(n for _, n in self.passed)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def pace(clock: VirtualClock) -> Pace:
    pace = Pace(clock)
    pace.upload, pace.download = Journal(0, clock), Journal(0, clock)
    return pace


@pytest.fixture(params=["memory", "folder"])
async def limited(
    request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock, pace: Pace
) -> AsyncIterator[Callable[[Limits], LimitedStorage]]:
    folder = FilesystemStorage(str(tmp_path), pace)
    inner: BlobStorage = folder if request.param == "folder" else MemoryStorage(clock, pace)
    yield lambda limits: LimitedStorage(inner, limits, clock, pace)
    await folder.close()


@given(
    rate=st.floats(0.5, 1e6),
    wants=st.lists(st.tuples(st.integers(1, 2_000_000), st.floats(0, 3)), min_size=1, max_size=30),
)
async def test_no_span_of_time_passes_more_than_its_rate_and_half_a_second(
    rate: float, wants: list[tuple[int, float]]
) -> None:
    clock = VirtualClock()
    journal = Journal(rate, clock)
    for wanted, idle in wants:
        clock.advance(idle)
        granted = await journal.allow(wanted)
        assert 1 <= granted <= wanted
    assert journal.worst_excess(rate) <= max(rate / 2, 1) + 1


async def test_a_large_upload_is_spread_over_the_time_it_may_take(
    limited: Callable[[Limits], LimitedStorage], clock: VirtualClock, pace: Pace
) -> None:
    storage = limited(Limits(upload_bytes=RATE))
    clock.advance(3600)
    start = clock.monotonic()
    await storage.put(A, [bytes(3000), bytes(2000)])
    assert clock.monotonic() - start == pytest.approx(4.5, abs=0.2)
    assert pace.upload.total == 5000  # type: ignore[attr-defined]
    assert pace.upload.worst_excess(RATE) <= RATE / 2 + 1  # type: ignore[attr-defined]


async def test_a_large_download_is_spread_over_the_time_it_may_take(
    limited: Callable[[Limits], LimitedStorage], clock: VirtualClock, pace: Pace
) -> None:
    storage = limited(Limits(download_bytes=RATE))
    await storage.put(A, [bytes(range(250)) * 20])
    start = clock.monotonic()
    assert bytes(await storage.get(A)) == bytes(range(250)) * 20
    assert bytes(await storage.get(A, 250, 500)) == bytes(range(250)) * 2
    assert clock.monotonic() - start == pytest.approx(5.5, abs=1.1)
    assert pace.download.worst_excess(RATE) <= RATE / 2 + 1  # type: ignore[attr-defined]


async def test_many_at_once_share_one_rate(
    limited: Callable[[Limits], LimitedStorage], clock: VirtualClock, pace: Pace
) -> None:
    storage = limited(Limits(upload_bytes=RATE))
    await asyncio.gather(*(storage.put(BlobId(f"p{i}"), [bytes(500)]) for i in range(20)))
    assert clock.monotonic() == pytest.approx(10, abs=0.2)
    assert pace.upload.worst_excess(RATE) <= RATE / 2 + 1  # type: ignore[attr-defined]


async def test_the_directions_do_not_share(
    limited: Callable[[Limits], LimitedStorage], clock: VirtualClock, pace: Pace
) -> None:
    storage = limited(Limits(upload_bytes=RATE))
    await storage.put(A, [bytes(2000)])
    spent = clock.monotonic()
    await storage.get(A)
    assert clock.monotonic() == spent


async def test_a_new_rate_counts_in_the_middle_of_a_body(
    limited: Callable[[Limits], LimitedStorage], clock: VirtualClock, pace: Pace
) -> None:
    storage = limited(Limits(upload_bytes=1))
    waiting = asyncio.ensure_future(storage.put(A, [bytes(1_000_000)]))
    while not pace.upload.passed:  # type: ignore[attr-defined]  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    await storage.set_limits(Limits(upload_bytes=1_000_000))
    changed = clock.monotonic()
    await waiting
    assert clock.monotonic() - changed < 3
    slow = asyncio.ensure_future(storage.put(A, [bytes(1_000_000)]))
    await storage.set_limits(Limits(upload_bytes=1))
    await asyncio.sleep(0)
    await storage.set_limits(Limits())
    free = clock.monotonic()
    await slow
    assert clock.monotonic() - free < 2


async def test_a_limit_set_while_nothing_was_limited_starts_without_credit(clock: VirtualClock) -> None:
    bucket = Journal(0, clock)
    assert await bucket.allow(10**9) == 10**9
    bucket.set_rate(RATE)
    await bucket.allow(RATE)
    assert clock.monotonic() > 0


async def test_canceling_a_paced_put_leaves_nothing(tmp_path: Path) -> None:
    clock = VirtualClock(jump=False)
    pace = Pace(clock, upload_bytes=RATE)
    storage = FilesystemStorage(str(tmp_path), pace)
    task = asyncio.ensure_future(storage.put(BlobId("p" * 30), [bytes(5000)]))
    while not list(tmp_path.rglob("*.tmp.*")):  # noqa: ASYNC110  # a file has no event
        await asyncio.sleep(0.001)
    clock.advance(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".shards"]
    await storage.close()


async def test_a_body_is_sent_in_pieces_of_what_may_pass(clock: VirtualClock) -> None:
    journal = Journal(RATE, clock)
    data = bytes(range(200)) * 30
    sent = [(clock.monotonic(), piece) async for piece in PiecewiseBody([data[:1234], b"", data[1234:]], journal)]
    assert b"".join(piece for _, piece in sent) == data
    assert max(len(piece) for _, piece in sent) <= RATE
    assert sent[-1][0] == pytest.approx(5.5, abs=0.2)


async def test_the_limits_of_an_opened_folder_hold_and_can_be_changed(tmp_path: Path) -> None:
    clock = VirtualClock()
    options = StorageOptions(clock=clock, limits=Limits(upload_bytes=RATE))
    storage = await open_storage(f"file://{tmp_path}", options=options)
    await storage.put(A, [bytes(5000)])
    spent = clock.monotonic()
    assert spent == pytest.approx(5, abs=1.1)
    await storage.set_limits(Limits(concurrency=2))
    assert storage.limits == Limits(concurrency=2)
    await storage.put(A, [bytes(5000)])
    assert clock.monotonic() == spent
    await storage.close()

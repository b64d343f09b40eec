"""What a mover pod makes of the memory that its container may have."""

import pytest

from agent.movers.memory import POD_RESERVE, WorkerGroup, worker_share


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", 0), ("1073741824\n", 1 << 30), ("", 0), ("-1", 0), ("nonsense", 0), (None, 0)]
)
def test_the_limit_of_a_container_is_read_where_there_is_one(tmp_path, text, limit):
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    assert WorkerGroup(tmp_path).limit() == limit


def test_without_a_limit_of_the_container_the_worker_has_none():
    assert worker_share(0) == 0


@pytest.mark.parametrize("container", [64 << 20, 256 << 20, 1 << 30, 16 << 30])
def test_a_worker_reaches_its_limit_before_the_container_does(container):
    share = worker_share(container)
    assert container // 2 <= share < container
    assert share == container - POD_RESERVE or container < 2 * POD_RESERVE

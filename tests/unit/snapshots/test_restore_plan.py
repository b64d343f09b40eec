"""Windows, the spilling stack and doubtful names."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.repository.ids import ContentId
from agent.snapshots.restore_plan import NameOrder, Piece, SpillingStack, Window

A, B = ContentId(b"\0" + b"a" * 16), ContentId(b"\0" + b"b" * 16)


def test_a_content_that_two_files_need_is_needed_once_and_counted_once() -> None:
    window: Window[str] = Window()
    window.add(Piece("one", 0, 10, A, False))
    window.add(Piece("two", 0, 5, B, False))
    window.add(Piece("three", 7, 10, A, False))
    assert window.contents == [A, B]
    assert window.bytes == 15
    assert window.take(A) == [Piece("one", 0, 10, A, False), Piece("three", 7, 10, A, False)]
    assert window.take(A) == []
    assert window.contents == [B]


def test_a_window_is_full_by_files_or_by_bytes() -> None:
    by_files: Window[int] = Window(max_files=2, max_bytes=100)
    by_files.add(Piece(1, 0, 1, A, False))
    assert not by_files.full
    by_files.add(Piece(2, 0, 1, A, False))
    assert by_files.full
    by_bytes: Window[int] = Window(max_files=2, max_bytes=100)
    by_bytes.add(Piece(1, 0, 100, A, False))
    assert by_bytes.full


@given(st.lists(st.none() | st.lists(st.integers(0, 2**40), max_size=30), max_size=30))
def test_the_stack_is_a_stack_whatever_is_spilled(steps: list[list[int] | None]) -> None:
    model: list[int] = []
    with SpillingStack(msgspec.msgpack.Decoder(list[int]).decode, block=4) as stack:
        for step in steps:
            if step is None:
                assert stack.pop() == (model.pop() if model else None)
            else:
                for item in step:
                    stack.push(item)
                    model.append(item)
        while model:
            assert stack.pop() == model.pop()
        assert stack.pop() is None


@given(st.lists(st.tuples(st.text("ab\ufffd", max_size=3), st.booleans())))
def test_every_repeated_name_of_a_group_is_doubtful_and_ascending_names_never_are(
    names: list[tuple[str, bool]],
) -> None:
    order = NameOrder()
    seen: set[tuple[str, bool]] = set()
    for name, is_directory in names:
        doubtful = order.doubtful(name, is_directory=is_directory)
        if (name, is_directory) in seen:
            assert doubtful
        seen.add((name, is_directory))
    ascending = NameOrder()
    assert not any(ascending.doubtful(n, is_directory=False) for n in sorted({n for n, _ in names}))

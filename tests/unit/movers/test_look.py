"""What a worker answers reaches a listener that takes its time, whole and counted, before the worker may end."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from agent.movers import look as looking
from agent.movers.answers import End, Piece, decoder
from agent.movers.protocol import FrameReader
from agent.movers.spec import ListSnapshots, Look
from agent.repository.repository import Repository

PIECE = Piece(data=bytes(256 << 10))
"""More than a socket takes at once, by less than what a stream says that it holds back."""


async def _one_piece(*_: object) -> AsyncIterator[Piece]:
    yield PIECE


def _read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


async def test_a_worker_does_not_end_before_its_listener_has_the_last_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_answers", _one_piece)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        work = Look(question=ListSnapshots(limit=1), listener=path)
        task = asyncio.create_task(looking.look(cast(Repository, None), work))
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            done, _ = await asyncio.wait([task], timeout=0.2)
            assert not done
            received = await asyncio.to_thread(_read_all, connection)
        assert len(received) == (await task).bytes
    digest = hashlib.sha256(PIECE.data).digest()
    assert list(FrameReader(decoder).feed(received)) == [PIECE, End(answers=1, size=len(PIECE.data), sha256=digest)]

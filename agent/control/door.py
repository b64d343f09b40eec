"""The Unix socket: who connects is looked at before a byte of theirs is read.

gRPC does not tell a server whose process is at the other end of a Unix socket. So the agent listens at the socket
itself, asks the kernel for the peer (SO_PEERCRED), and lets only its own user and root through to gRPC, which
listens in a folder that nobody else can enter.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from agent.base.errors import ConfigurationError
from agent.control.relay import carry
from agent.kube.wait import either

_CREDENTIALS = struct.Struct("iII")
_MOST_CONNECTIONS = 64
_log = structlog.stdlib.get_logger(__name__)


def peer_uid(connection: socket.socket) -> int:
    """The user of the process at the other end of a Unix socket, when it connected."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    return int(uid)


def own_or_root(uid: int) -> bool:
    """Whether a user is this process's, or root."""
    return uid in (os.geteuid(), 0)


class Door(msgspec.Struct):
    """From `path`, where callers connect, to `inside`, where gRPC listens."""

    inside: Path
    admits: Callable[[int], bool]
    _open: dict[asyncio.Task[None], asyncio.StreamWriter] = msgspec.field(default_factory=dict)

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look at one caller, and carry bytes for it until one side leaves."""
        uid = peer_uid(writer.get_extra_info("socket"))
        task = asyncio.current_task()
        if task is None or not self.admits(uid) or len(self._open) >= _MOST_CONNECTIONS:
            _log.warning("a connection to the control socket was turned away", uid=uid, open=len(self._open))
            writer.close()
            return
        self._open[task] = writer
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self.inside))
            await either(carry(reader, inner_writer), carry(inner_reader, writer))
            inner_writer.close()
        except OSError as error:
            _log.warning("a connection to the control socket was lost", error=str(error))
        finally:
            del self._open[task]
            writer.close()

    async def close(self) -> None:
        """See every caller out."""
        tasks = list(self._open)
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def listening(path: Path, *, admits: Callable[[int], bool] = own_or_root) -> AsyncIterator[Path]:
    """Let callers in at `path` for the time of the block; gives the path where gRPC has to listen.

    Raises `ConfigurationError` when no socket can be there.
    """
    try:
        made = _bound(path)
        folder = tempfile.TemporaryDirectory(prefix=".control-", dir=path.parent)  # for its owner only
    except OSError as error:
        raise ConfigurationError(
            f"the control socket {path} cannot be made: {error.strerror or error}",
            hint="mount a folder there that can be written, or choose another with --control-socket",
        ) from error
    with folder as name:
        door = Door(Path(name) / "grpc.sock", admits)
        server = await asyncio.start_unix_server(door.welcome, sock=made)
        try:
            yield door.inside
        finally:
            server.close()
            _remove(path)
            await door.close()


def _bound(path: Path) -> socket.socket:
    """A socket that was never open to others, not even for a moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove(path)  # of an agent that was killed
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(made.fileno(), 0o600)  # what bind gives to the file
        made.bind(str(path))
        os.chmod(path, 0o600)
    except OSError:
        made.close()
        raise
    return made


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()

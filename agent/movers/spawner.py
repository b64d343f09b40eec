"""The agent's side of the fork server: starts it when it is needed, again when it has died, and asks it for workers.

The supervisor is the only caller. Everything runs on the event loop and nothing blocks it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import agent
from agent.base.errors import MoverCrashed, MoverUnavailable
from agent.movers.forkserver import (
    MAX_MESSAGE,
    Exited,
    Fork,
    Forked,
    Kill,
    Ready,
    Request,
    encoder,
    reply_decoder,
)

_T = TypeVar("_T")

_START_TIMEOUT = 60.0
_FORK_TIMEOUT = 60.0
_STOP_TIMEOUT = 5.0
_PASSED_ON = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|PYTHON(PATH|HOME|MALLOC|WARNINGS|HASHSEED)|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)"
    r"|MALLOC_\w+|NO_PROXY|no_proxy|AWS_(ROLE_ARN|ROLE_SESSION_NAME|WEB_IDENTITY_TOKEN_FILE|REGION|DEFAULT_REGION"
    r"|CA_BUNDLE|CONFIG_FILE|SHARED_CREDENTIALS_FILE|PROFILE|EC2_METADATA_DISABLED|STS_REGIONAL_ENDPOINTS"
    r"|CONTAINER_CREDENTIALS_(RELATIVE|FULL)_URI|CONTAINER_AUTHORIZATION_TOKEN_FILE|ENDPOINT_URL(_\w+)?)"
    r"|OTEL_(SDK_DISABLED|TRACES_EXPORTER|SERVICE_NAME|RESOURCE_ATTRIBUTES"
    r"|EXPORTER_OTLP_(TRACES_)?(ENDPOINT|PROTOCOL|INSECURE|CERTIFICATE|CLIENT_CERTIFICATE|CLIENT_KEY"
    r"|COMPRESSION|TIMEOUT))"
)
_PROXY = re.compile(r"https?_proxy", re.IGNORECASE)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the agent's environment its workers may see: nothing that is a secret or that nobody knows."""
    kept = {
        name: value
        for name, value in environ.items()
        if _PASSED_ON.fullmatch(name) or (_PROXY.fullmatch(name) and "@" not in value)
    }
    root = str(Path(agent.__path__[0]).parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return kept


class Child(msgspec.Struct, eq=False):
    """A worker process."""

    ticket: int
    pid: asyncio.Future[int]
    exited: asyncio.Future[Exited | None]
    """How it ended; None when the fork server is gone, and the worker with it."""
    handle: int = -1
    """A descriptor of the process, while it runs: it can be killed even if the fork server hangs."""

    def kill(self) -> bool:
        """Kill it, whatever the fork server does; whether that was possible."""
        if self.handle < 0:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        return True

    def close(self) -> None:
        """Let go of the descriptor."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


class _Server(msgspec.Struct, eq=False):
    """One life of the fork server."""

    process: asyncio.subprocess.Process
    control: socket.socket
    ready: asyncio.Future[None]
    children: dict[int, Child] = msgspec.field(default_factory=dict)
    alive: bool = True


class Spawner:
    """Workers on demand. `close` ends the fork server and every worker."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environment = worker_environment(environ)
        self._starting = asyncio.Lock()
        self._server: _Server | None = None
        self._next_ticket = 1

    @property
    def server_pid(self) -> int | None:
        """Of the fork server, while it runs."""
        return self._server.process.pid if self._server and self._server.alive else None

    async def warm_up(self) -> None:
        """Have the fork server running. Raises `MoverUnavailable`."""
        await self._ensure()

    async def spawn(self, connection: int, output: int, *, memory_bytes: int = 0, cgroup: str = "") -> Child:
        """Fork a worker that works on the descriptor `connection` and prints to `output`; both stay the caller's.

        Raises `MoverUnavailable`, `MoverCrashed` when the fork server died over it.
        """
        server = await self._ensure()
        loop = asyncio.get_running_loop()
        child = Child(self._next_ticket, loop.create_future(), loop.create_future())
        self._next_ticket += 1
        server.children[child.ticket] = child
        request = Fork(ticket=child.ticket, memory_bytes=memory_bytes, cgroup=cgroup)
        try:
            socket.send_fds(server.control, [encoder.encode(request)], [connection, output])
        except OSError as error:
            del server.children[child.ticket]
            raise MoverUnavailable(f"cannot ask the fork server for a worker: {error}") from error
        try:
            waiting: list[asyncio.Future[Any]] = [child.pid, child.exited]
            done, _ = await asyncio.wait(waiting, timeout=_FORK_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.kill(child)
            raise
        if not done:
            self._lost(server)  # it may still fork: its workers must not go on unseen
            raise MoverUnavailable(
                f"the fork server started no worker within {_FORK_TIMEOUT:.0f} s; it was ended with all its workers",
                hint="the node is overloaded or out of memory",
            )
        if not child.pid.done():
            ended = child.exited.result()
            if ended is None:
                raise MoverCrashed("the fork server ended before the worker began")
            raise MoverUnavailable(f"no worker could be started: {ended.reason}")
        return child

    def kill(self, child: Child) -> None:
        """Kill a worker, if it is still there; `child.exited` tells when it is gone."""
        server = self._server
        if server is None or not server.alive or child.exited.done() or child.kill():
            return
        try:
            self._send(server, Kill(ticket=child.ticket))
        except OSError:
            # It does not listen: with it go all its workers, this one included.
            server.process.kill()

    async def close(self) -> None:
        """End the fork server and all workers."""
        server, self._server = self._server, None
        if server is not None:
            self._lost(server)
            await _ended(server.process)

    async def _ensure(self) -> _Server:
        async with self._starting:
            if self._server is not None and self._server.alive:
                return self._server
            if self._server is not None:
                await _ended(self._server.process)
                self._server = None
            server = await self._start()
            try:
                await asyncio.wait_for(server.ready, _START_TIMEOUT)
            except BaseException as error:
                self._lost(server)
                await _ended(server.process)
                if isinstance(error, TimeoutError | MoverUnavailable):
                    raise MoverUnavailable(
                        f"the fork server ended or hung while it started (status {server.process.returncode})",
                        hint="its output is in the agent's log",
                    ) from None
                raise
            self._server = server
            return server

    async def _start(self) -> _Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = (sys.executable, "-P", "-m", "agent.movers.forkserver", str(theirs.fileno()), str(os.getpid()))
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise MoverUnavailable(f"the fork server could not be started: {error}") from error
            raise
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        server = _Server(process, ours, loop.create_future())
        loop.add_reader(ours.fileno(), self._readable, server)
        return server

    def _readable(self, server: _Server) -> None:
        try:
            data = server.control.recv(MAX_MESSAGE)
            reply = reply_decoder.decode(data) if data else None
        except BlockingIOError:
            return
        except (OSError, msgspec.MsgspecError):
            reply = None
        if reply is None:
            self._lost(server)
        elif isinstance(reply, Ready):
            _settle(server.ready, None)
        elif (child := server.children.get(reply.ticket)) is None:
            return
        elif isinstance(reply, Forked):
            with suppress(OSError):  # it has ended, which is the next reply; or there are no descriptors left
                child.handle = os.pidfd_open(reply.pid)
            _settle(child.pid, reply.pid)
        else:
            del server.children[reply.ticket]
            child.close()
            _settle(child.exited, reply)

    def _lost(self, server: _Server) -> None:
        """The fork server is gone, or is to go: no worker outlives it."""
        if not server.alive:
            return
        server.alive = False
        asyncio.get_running_loop().remove_reader(server.control.fileno())
        server.control.close()
        with suppress(ProcessLookupError):
            server.process.kill()
        if not server.ready.done():
            server.ready.set_exception(MoverUnavailable("the fork server ended"))
            server.ready.exception()  # may have nobody waiting
        for child in server.children.values():
            child.kill()
            child.close()
            _settle(child.exited, None)
        server.children.clear()

    @staticmethod
    def _send(server: _Server, request: Request) -> None:
        server.control.send(encoder.encode(request))


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)

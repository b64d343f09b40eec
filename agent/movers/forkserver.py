"""A warm process from which workers are forked: the engine is imported, there are no threads and no connections.

The agent's `spawner` starts it (`python -m agent.movers.forkserver FD`) and talks to it over a socketpair that keeps
messages apart. A worker gets two descriptors and nothing else: its connection, and a pipe for what it prints. Nothing
outlives the agent: the kernel kills the fork server when the agent ends, and the workers when the fork server does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import msgspec

from agent.movers import worker
from agent.storage import s3  # noqa: F401  # slow to import: once, here

MAX_MESSAGE = 1 << 14
_PR_SET_PDEATHSIG = 1
_CONNECTION = 3
_THREAD_STACK = 2 << 20
_NO_CORE = 1
"""Bytes of a core dump. Too few for one, and unlike 0 the kernel also takes it to mean none for a piped one."""


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag="fork"):
    """Fork a worker; its connection and its output come along as descriptors."""

    ticket: int
    memory_bytes: int = 0
    """Limit of its data (`RLIMIT_DATA`); 0 for none."""
    cgroup: str = ""
    """Folder of the control group it moves into, or empty."""


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag="kill"):
    """Kill a worker, if it is still there."""

    ticket: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The fork server is warm."""


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """A worker runs."""

    ticket: int
    pid: int


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """A worker has ended, or could not be forked."""

    ticket: int
    status: int
    """Exit status; negative: the signal that killed it."""
    reason: str = ""
    """Why there was none."""


Request = Fork | Kill
Reply = Ready | Forked | Exited

request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
encoder = msgspec.msgpack.Encoder()


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends; end at once when it already has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


class ForkServer:
    """Forks workers, kills them, and tells when they end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, int]] = {}
        """(pid, descriptor of the process) by ticket."""

    def serve(self) -> None:
        """Until the agent closes its end."""
        self._selector.register(self._control, selectors.EVENT_READ)
        self._send(Ready())
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    if not self._take():
                        return
                else:
                    self._reap(key.data)

    def _take(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 2)
        if not data:
            return False
        try:
            request = request_decoder.decode(data)
            if isinstance(request, Fork):
                self._fork(request, descriptors)
            elif (found := self._workers.get(request.ticket)) is not None:
                os.kill(found[0], signal.SIGKILL)  # not reaped yet: the pid is still its own
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _fork(self, request: Fork, descriptors: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Exited(ticket=request.ticket, status=1, reason=f"cannot fork: {error}"))
            return
        if pid == 0:
            _become_worker(request, descriptors, parent)
        watched = os.pidfd_open(pid)
        self._workers[request.ticket] = (pid, watched)
        self._selector.register(watched, selectors.EVENT_READ, request.ticket)
        self._send(Forked(ticket=request.ticket, pid=pid))

    def _reap(self, ticket: int) -> None:
        pid, watched = self._workers.pop(ticket)
        self._selector.unregister(watched)
        os.close(watched)
        _, status = os.waitpid(pid, 0)
        self._send(Exited(ticket=ticket, status=os.waitstatus_to_exitcode(status)))

    def _send(self, reply: Reply) -> None:
        self._control.send(encoder.encode(reply))


def _become_worker(request: Fork, descriptors: list[int], parent: int) -> NoReturn:
    """In the child: shed what is the fork server's, take on the limits, work."""
    try:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError, ValueError):  # those that libc keeps for itself
                signal.signal(number, signal.SIG_DFL)
        for ignored in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        die_with_parent(parent)
        connection = _keep_only(*descriptors)
        faulthandler.enable()
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a real file in a process of its own
        _limit(request)
        threading.stack_size(_THREAD_STACK)
        worker.main(connection)
    except BaseException:  # noqa: BLE001  # the border of the process
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(1)


def _keep_only(connection: int, output: int) -> socket.socket:
    """Standard input is empty, output goes to the pipe, the connection is descriptor 3, all others are closed."""
    highest = max(connection, output, _CONNECTION) + 1
    os.dup2(connection, highest)
    os.dup2(output, highest + 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(highest + 1, 1)
    os.dup2(highest + 1, 2)
    os.dup2(highest, _CONNECTION, inheritable=False)
    os.closerange(_CONNECTION + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return socket.socket(fileno=_CONNECTION)


def _limit(request: Fork) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = _NO_CORE if hard == resource.RLIM_INFINITY else min(_NO_CORE, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # rather a worker than the agent
        file.write("500")
    if request.cgroup:
        with open(f"{request.cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    if request.memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, request.memory_bytes))


def main() -> None:
    """`python -m agent.movers.forkserver FD PARENT`."""
    die_with_parent(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    gc.collect()
    gc.freeze()  # pages stay shared with the workers
    ForkServer(control).serve()


if __name__ == "__main__":
    main()

"""The worker: takes a job from a link, does it, and tells over the link how it goes and how it ended.

`run_job` is the whole of it and runs wherever a `Link` leads somewhere: over a socketpair in a process of the fork
server (`main`), or in a mover pod. The link is also the leash: when it ends, the job ends, and saves nothing more.
What the job prints to stdout and stderr is the business of whoever started the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol

import uvloop

from agent import _native
from agent.base.clock import Clock, SystemClock
from agent.base.errors import LighterageError, MoverProtocolError
from agent.movers.execute import Execution
from agent.movers.failure import Redactor, describe
from agent.movers.protocol import (
    VERSION,
    Cancel,
    Channel,
    Finished,
    FromWorker,
    Log,
    Report,
    SetLimits,
    Start,
    ToWorker,
    to_worker,
)
from agent.movers.spec import BackupResult, Secrets
from agent.observe.collector import tracing_from
from agent.observe.tracing import Span, Tracing, Value, parse_traceparent, timed, untimed

ORPHANED = 3
"""Exit status of a worker whose supervisor is gone."""
_METRICS_EVERY = 10
"""Heartbeats."""
_TRACES_WITHIN = 3.0
"""Seconds for a collector to take what was recorded; the job's end is waited for as long."""
_HEARD_WITHIN = 300.0
"""Seconds that a supervisor may take to read the end: an agent may be stopped or starved for a while."""


class Link(Protocol):
    """The way to a supervisor."""

    async def receive(self) -> ToWorker | None:
        """The next message; None when nobody is there any more. Raises `MoverProtocolError`."""
        ...

    def post(self, message: FromWorker) -> bool:
        """Send what may be lost, without waiting."""
        ...

    async def send(self, message: FromWorker) -> None:
        """Send what has to arrive."""
        ...


async def run_job(link: Link, clock: Clock, traces: Callable[[str], Tracing] = lambda _: Tracing()) -> int:
    """Serve one job from `Start` to `Finished`; the exit status of the process.

    Its spans go to what `traces` makes of the headers that a collector wants.

    0 means that a `Finished` was sent, whatever it says.
    """
    try:
        first = await link.receive()
        if first is None:
            return ORPHANED
        if not isinstance(first, Start) or first.version != VERSION:
            raise MoverProtocolError(f"the first message is no job of protocol version {VERSION}")
    except MoverProtocolError as error:
        await link.send(Finished(error=describe(error, Redactor(Secrets(password="")))))
        return 0
    finished = await _Job(link, clock, first, traces(first.secrets.trace_headers)).run()
    if finished is None:
        return ORPHANED
    await link.send(finished)
    return 0


class _Job:
    """One job and the tasks around it."""

    def __init__(self, link: Link, clock: Clock, start: Start, tracing: Tracing) -> None:
        self._link = link
        self._clock = clock
        self._spec = start.spec
        self._redact = Redactor(start.secrets)
        self._tracing = tracing
        self._begun = clock.now_ns()
        self._parent = parse_traceparent(start.spec.traceparent) if tracing.on else None
        # A job that is begun again, after a restart of the agent, is another span.
        self._span = self._parent and self._parent.child(f"work {self._begun}")
        stage = timed(tracing, clock, self._span) if self._span else untimed
        self._execution = Execution(start.spec, start.secrets, clock, stage)
        self._orphaned = False

    async def run(self) -> Finished | None:
        work = asyncio.create_task(self._work())
        others = [asyncio.create_task(self._beat()), asyncio.create_task(self._listen(work))]
        try:
            finished = await work
        except asyncio.CancelledError:
            if not self._orphaned:
                raise
            return None
        finally:
            work.cancel()
            for task in others:
                task.cancel()
            await asyncio.gather(work, *others, return_exceptions=True)
        for metric in self._execution.metrics():
            self._link.post(metric)
        self._report()
        self._record(finished)
        return finished

    def _record(self, finished: Finished) -> None:
        if self._span is None:
            return
        progress, result = self._execution.progress(), finished.result
        attributes: dict[str, Value] = {
            "lighterage.id": self._spec.id,
            "lighterage.bytes": progress.bytes_done,
            "lighterage.files": progress.files_done,
        }
        if isinstance(result, BackupResult):
            attributes["lighterage.bytes_uploaded"] = result.uploaded_bytes
        elif result is not None:
            attributes["lighterage.bytes_downloaded"] = result.downloaded_bytes
        span = Span(
            name=type(self._spec.work).__name__,
            context=self._span,
            parent=self._parent,
            start_ns=self._begun,
            end_ns=self._clock.now_ns(),
            attributes=attributes,
            error=finished.error.code if finished.error else "",
        )
        self._tracing.record(span)

    async def _work(self) -> Finished:
        self._log("info", f"{type(self._spec.work).__name__} {self._spec.id} begins")
        try:
            return Finished(result=await self._execution.run())
        except LighterageError as error:
            return Finished(error=describe(error, self._redact))
        except Exception as error:  # noqa: BLE001  # the border of the process: it is told, with its traceback
            self._log("error", "".join(traceback.format_exception(error))[-2_000:])
            return Finished(error=describe(error, self._redact))

    async def _beat(self) -> None:
        beats = 0
        while True:
            self._report()
            await self._clock.sleep(self._spec.heartbeat)
            beats += 1
            if beats % _METRICS_EVERY == 0:
                for metric in self._execution.metrics():
                    self._link.post(metric)

    def _report(self) -> None:
        self._link.post(Report(progress=self._execution.progress()))

    async def _listen(self, work: asyncio.Task[Finished]) -> None:
        """Until the link ends. A supervisor that cannot be understood is as good as none."""
        try:
            while (message := await self._link.receive()) is not None:
                if isinstance(message, Cancel):
                    self._log("info", f"canceled: {message.reason}")
                    self._execution.cancel(message.reason)
                elif isinstance(message, SetLimits):
                    await self._execution.set_limits(message.limits)
        except MoverProtocolError as error:
            self._log("error", str(error))
        self._orphaned = True
        work.cancel()

    def _log(self, level: str, text: str) -> None:
        self._link.post(Log(level=level, text=self._redact.clip(text)))


def main(connection: socket.socket) -> NoReturn:
    """Serve the job that comes over `connection`, and end the process. Call it in a process of its own."""
    _native.return_large_blocks()
    uvloop.run(_serve(connection))
    raise SystemExit(1)  # not reached: `_serve` ends the process


async def _serve(connection: socket.socket) -> NoReturn:
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    channel = Channel(reader, writer, to_worker)
    opened: list[Tracing] = []

    def traces(headers: str) -> Tracing:
        opened.append(tracing_from(os.environ, {}, headers))
        return opened[-1]

    status = await run_job(channel, SystemClock(), traces)
    await asyncio.gather(_until_heard(channel), *(tracing.close(_TRACES_WITHIN) for tracing in opened))
    await channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # What threads still do is of no interest: everything that counts is durable, and they may wait for a dead disk.
    os._exit(status)


async def _until_heard(channel: Channel[ToWorker]) -> None:
    """Wait until the supervisor hangs up, which it does when it has read the end, but not for ever.

    Were the process gone before, a cancel or a limit that is sent to it now would break the connection, and with it
    would go the result that nobody has read yet.
    """
    with suppress(TimeoutError, MoverProtocolError):
        async with asyncio.timeout(_HEARD_WITHIN):
            while await channel.receive() is not None:
                continue

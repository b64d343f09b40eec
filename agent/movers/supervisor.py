"""What the agent calls: workers, a bounded number at once, each with somebody who watches it.

    async with Movers(options, clock, os.environ) as movers:
        async with movers.job(spec, secrets) as job:
            async for progress in job.updates(): ...
            result = await job.result()

Whatever becomes of a worker becomes the result of its job: an error that it reported is raised as the same leaf, a
crash is `MoverCrashed`, silence `MoverSilent`, lack of memory `MoverOutOfMemory`. Nothing of it reaches other jobs or
the agent. A worker ends with its job's block, and the fork server with `Movers`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from agent.base.clock import Clock
from agent.base.errors import (
    CanceledError,
    LighterageError,
    MoverCrashed,
    MoverOutOfMemory,
    MoverProtocolError,
    MoverSilent,
)
from agent.movers.failure import Redactor, rebuild, tells_of_lack_of_memory
from agent.movers.forkserver import Exited
from agent.movers.memory import WorkerGroup
from agent.movers.output import OutputLines
from agent.movers.protocol import (
    VERSION,
    Cancel,
    Channel,
    Finished,
    FromWorker,
    Log,
    Metric,
    Report,
    SetLimits,
    Start,
    from_worker,
)
from agent.movers.spawner import Child, Spawner
from agent.movers.spec import JobResult, JobSpec, Progress, RateLimits, Secrets, check_result
from agent.observe.collector import trace_headers

_CHUNK = 1 << 16
_MEMORY_HINT = "raise the memory limit of workers, or lower the number of threads of a job"


class MoverOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How workers are kept."""

    concurrency: int = 4
    """Jobs at once; others wait for their turn."""
    memory_bytes: int = 0
    """Limit of each worker; 0 for none."""
    cgroup_parent: Path | None = None
    """A control group (v2) below which each worker gets one of its own, where that is possible."""
    silence: float = 120.0
    """Seconds without a message after which a worker is killed."""
    cancel_grace: float = 60.0
    """Seconds that a canceled job may take to save what it has."""
    exit_grace: float = 5.0
    """Seconds that a worker may take to end after its result."""
    kill_grace: float = 30.0
    """Seconds that a killed worker may take to be gone. One that hangs in the kernel, as on a dead disk, never is: its
    job ends without it then, since it will not run another instruction."""


def _ignore(_: object) -> None:
    return


class JobCallbacks(msgspec.Struct, frozen=True, kw_only=True):
    """Called on the event loop with what a worker says. An error in one of them ends the job with that error."""

    on_progress: Callable[[Progress], None] = _ignore
    on_log: Callable[[Log], None] = _ignore
    """The worker's own lines, and what it prints (level `output`)."""
    on_metric: Callable[[Metric], None] = _ignore


class Movers:
    """All workers of this agent."""

    def __init__(self, options: MoverOptions, clock: Clock, environ: Mapping[str, str]) -> None:
        """`environ` is the agent's; workers see what is harmless of it, and are told what a collector wants shown."""
        self._options = options
        self._clock = clock
        self._spawner = Spawner(environ)
        self._trace_headers = trace_headers(environ)
        self._concurrency = options.concurrency
        self._running = 0
        self._room = asyncio.Condition()

    async def __aenter__(self) -> Movers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._spawner.close()

    @property
    def fork_server_pid(self) -> int | None:
        """While there is one."""
        return self._spawner.server_pid

    async def warm_up(self) -> None:
        """Start the fork server now rather than with the first job. Raises `MoverUnavailable`."""
        await self._spawner.warm_up()

    async def set_concurrency(self, concurrency: int) -> None:
        """From now on; no running job is stopped."""
        async with self._room:
            self._concurrency = concurrency
            self._room.notify_all()

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[RunningJob]:
        """Start a job when it is its turn; at the end of the block its worker is gone, killed if need be.

        Raises `MoverUnavailable` and `MoverCrashed` when no worker could be started.
        """
        async with self._room:
            await self._room.wait_for(lambda: self._running < self._concurrency)
            self._running += 1
        secrets = msgspec.structs.replace(secrets, trace_headers=self._trace_headers)
        try:
            async with self._worker(spec, secrets, callbacks or JobCallbacks()) as job:
                yield job
        finally:
            self._running -= 1
            async with self._room:
                self._room.notify_all()

    @asynccontextmanager
    async def _worker(self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks) -> AsyncIterator[RunningJob]:
        options = self._options
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        output, printed = os.pipe()
        printing = os.fdopen(output, "rb", buffering=0)
        group: WorkerGroup | None = None
        try:
            if options.cgroup_parent is not None and options.memory_bytes:
                name = f"worker-{os.getpid()}-{theirs.fileno()}"
                group = await asyncio.to_thread(WorkerGroup.create, options.cgroup_parent, name, options.memory_bytes)
            child = await self._spawner.spawn(
                theirs.fileno(),
                printed,
                memory_bytes=0 if group else options.memory_bytes,
                cgroup=str(group.folder) if group else "",
            )
        except BaseException:
            ours.close()
            printing.close()
            if group:
                group.remove()
            raise
        finally:
            theirs.close()
            os.close(printed)
        job = RunningJob(spec, secrets, callbacks, options, self._clock, self._spawner, child, group)
        watcher = asyncio.create_task(job.supervise(ours, printing, secrets))
        try:
            yield job
        finally:
            job.kill("its owner let go of it")
            try:
                await _surely(watcher)
            finally:
                if group:
                    await asyncio.to_thread(group.remove)


class RunningJob:
    """A job whose worker runs, or has ended."""

    def __init__(
        self,
        spec: JobSpec,
        secrets: Secrets,
        callbacks: JobCallbacks,
        options: MoverOptions,
        clock: Clock,
        spawner: Spawner,
        child: Child,
        group: WorkerGroup | None,
    ) -> None:
        self.spec = spec
        self.progress = Progress()
        """The last that was heard."""
        self._reports = 0
        self._callbacks = callbacks
        self._options = options
        self._clock = clock
        self._spawner = spawner
        self._child = child
        self._group = group
        self._lines = OutputLines(Redactor(secrets))
        self._channel: Channel[FromWorker] | None = None
        self._heard = clock.monotonic()
        self._canceled: tuple[float, str] | None = None
        self._limits: RateLimits | None = None
        self._verdict: LighterageError | None = None
        """Why it was killed."""
        self._given_up = False
        """Whether it is still there although it was killed."""
        self._outcome: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._child.pid.result()

    @property
    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._outcome.done()

    async def result(self) -> JobResult:
        """What came of it, once the worker is gone.

        Raises what the worker reported, `MoverCrashed`, `MoverSilent`, `MoverOutOfMemory`, `MoverProtocolError`, and
        `CanceledError` when it was killed. A canceled backup that could save something is a result, `incomplete`.
        """
        return await asyncio.shield(self._outcome)

    async def updates(self) -> AsyncIterator[Progress]:
        """Progress as it comes, until the end; a slow reader misses what has been overtaken."""
        seen = 0
        while not self.done:
            if self._reports > seen:
                seen = self._reports
                yield self.progress
            else:
                waiting: list[asyncio.Future[Any]] = [self._news, self._outcome]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self, reason: str = "") -> None:
        """End it soon, saving what helps the next run; it is killed when that takes longer than the grace."""
        if self._canceled is None and not self.done:
            self._canceled = (self._clock.monotonic(), reason)
            if self._channel is not None:
                self._channel.post(Cancel(reason=reason))

    def set_limits(self, limits: RateLimits) -> None:
        """From now on; before the worker has its job, from its start."""
        self._limits = limits
        if self._channel is not None:
            self._channel.post(SetLimits(limits=limits))

    def kill(self, reason: str) -> None:
        """End it at once, saving nothing."""
        if not self.done:
            self._condemn(CanceledError(f"the job was ended: {reason}"))

    def _condemn(self, verdict: LighterageError) -> None:
        if self._verdict is None:
            self._verdict = verdict
        self._spawner.kill(self._child)
        if self._channel is not None:
            self._channel.abort()  # a process that cannot be killed does not hang up

    async def supervise(self, connection: socket.socket, output: BinaryIO, secrets: Secrets) -> None:
        """Until the worker is gone. For `Movers`, which owns the task; tells its outcome through `result` only."""
        try:
            async with asyncio.TaskGroup() as tasks:
                printing = tasks.create_task(self._read_output(output))
                watch = tasks.create_task(self._watch())
                try:
                    finished = await self._converse(connection, secrets)
                    exited = await self._gone()
                finally:
                    watch.cancel()
                if self._given_up:  # nor does it close what it prints to
                    printing.cancel()
                    self._callbacks.on_log(Log(level="error", text=f"the worker {self.pid} cannot be killed: it hangs"))
            self._outcome.set_result(self._judge(finished, exited))
        except LighterageError as error:
            self._outcome.set_exception(error)
        except BaseExceptionGroup as group:
            self._outcome.set_exception(group.exceptions[0])
        finally:
            self._spawner.kill(self._child)
            if not self._outcome.done():
                self._outcome.set_exception(CanceledError("the job was ended: its supervisor was canceled"))
            self._outcome.exception()  # may have nobody waiting
            if not self._given_up:
                await self._exits_within(self._options.kill_grace)

    async def _converse(self, connection: socket.socket, secrets: Secrets) -> Finished | None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        self._channel = channel = Channel(reader, writer, from_worker)
        finished: Finished | None = None
        try:
            if self._verdict is not None:
                channel.abort()
            await channel.send(Start(version=VERSION, spec=self.spec, secrets=secrets))
            if self._limits is not None:
                channel.post(SetLimits(limits=self._limits))
            if self._canceled is not None:
                channel.post(Cancel(reason=self._canceled[1]))
            while finished is None and (message := await channel.receive()) is not None:
                self._heard = self._clock.monotonic()
                if isinstance(message, Finished):
                    finished = message
                else:
                    self._take(message)
        except MoverProtocolError as error:
            self._condemn(error)
        finally:
            self._channel = None
            await channel.close()
        return finished

    def _take(self, message: Report | Log | Metric) -> None:
        if isinstance(message, Report):
            self.progress = message.progress
            self._reports += 1
            self._callbacks.on_progress(message.progress)
            news, self._news = self._news, asyncio.get_running_loop().create_future()
            news.set_result(None)
        elif isinstance(message, Log):
            self._callbacks.on_log(message)
        else:
            self._callbacks.on_metric(message)

    async def _read_output(self, output: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        try:
            while data := await reader.read(_CHUNK):
                self._print(self._lines.feed(data))
            self._print(self._lines.feed(b"", final=True))
        finally:
            transport.close()

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._callbacks.on_log(Log(level="output", text=line))

    async def _watch(self) -> None:
        """Kill it when it is silent for too long, or too slow to end after it was canceled."""
        options = self._options
        pause = min(options.silence, options.cancel_grace) / 4
        while True:
            slept = self._clock.monotonic()
            await self._clock.sleep(pause)
            now = self._clock.monotonic()
            if (late := now - slept - pause) > pause:
                # It is this agent that was stopped or starved: what the worker said meanwhile was not read yet.
                self._heard += late
            if now - self._heard > options.silence:
                self._condemn(
                    MoverSilent(
                        f"the worker was silent for {now - self._heard:.0f} s and was killed, {self._so_far()}",
                        hint="the volume or the node hangs, or the node is overloaded",
                    )
                )
            elif self._canceled is not None and now - self._canceled[0] > options.cancel_grace:
                reason = f": {self._canceled[1]}" if self._canceled[1] else ""
                self._condemn(
                    CanceledError(
                        f"the job was canceled{reason}; it did not end in time and was killed, {self._so_far()}"
                    )
                )

    async def _gone(self) -> Exited | None:
        """Wait for the end of the process; push when it takes too long, and go on without it when that is in vain."""
        if not await self._exits_within(self._options.exit_grace):
            self._spawner.kill(self._child)
            if not await self._exits_within(self._options.kill_grace):
                self._given_up = True
                return None
        return self._child.exited.result()

    async def _exits_within(self, seconds: float) -> bool:
        """Whether the process is gone after so long at most."""
        patience = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            waiting: list[asyncio.Future[Any]] = [self._child.exited, patience]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        return self._child.exited.done()

    def _judge(self, finished: Finished | None, exited: Exited | None) -> JobResult:
        """What the job came to. A result counts, whatever became of the process after it."""
        if finished is not None and finished.result is not None:
            try:
                check_result(self.spec.work, finished.result)
            except LighterageError as error:
                raise MoverProtocolError(str(error)) from None
            return finished.result
        if finished is not None and finished.error is not None:
            raise rebuild(finished.error)
        if self._verdict is not None:
            raise self._verdict
        if self._group is not None and self._group.was_exhausted():
            raise MoverOutOfMemory(
                f"the worker needed more than its {self._options.memory_bytes} bytes of memory, {self._so_far()}",
                hint=_MEMORY_HINT,
            )
        last = self._lines.tail[-1] if self._lines.tail else ""
        if self._options.memory_bytes and any(map(tells_of_lack_of_memory, self._lines.tail)):
            raise MoverOutOfMemory(f"the worker ran out of memory ({last}), {self._so_far()}", hint=_MEMORY_HINT)
        raise MoverCrashed(
            f"the worker {_ending(exited)}, {self._so_far()}" + (f"; it said last: {last}" if last else ""),
            hint="the agent's log has its output" if last else "",
        )

    def _so_far(self) -> str:
        done = self.progress
        total = "" if done.bytes_total is None else f" of {done.bytes_total}"
        return f"after {done.bytes_done}{total} bytes and {done.files_done} files"


def _ending(exited: Exited | None) -> str:
    if exited is None:
        return "was lost with the fork server"
    if exited.status >= 0:
        return f"ended with status {exited.status} and without a result"
    with suppress(ValueError):
        name = signal.Signals(-exited.status).name
        by_kernel = ", by the kernel for want of memory or by somebody" if name == "SIGKILL" else ""
        return f"was killed by {name}{by_kernel}"
    return f"was killed by signal {-exited.status}"


async def _surely(task: asyncio.Task[None]) -> None:
    """Wait for a task to end even if the one who waits is canceled; then be canceled."""
    canceled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        raise canceled

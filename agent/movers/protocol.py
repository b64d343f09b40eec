"""Messages between a supervisor and a worker, and how they go over a socket.

A frame is a length of four bytes, big-endian, and so many bytes of msgpack: one message. The first message to a worker
is `Start`, which carries the version; a worker of another version refuses it. After that `Cancel` and `SetLimits` may
come at any time. The worker sends `Progress`, `Log` and `Metric` as it likes and at its end exactly one `Finished`.

Either side takes the other for hostile: a frame that is too long, no msgpack, or no message of that direction is a
`MoverProtocolError`, and memory is bounded by one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from agent.base.errors import MoverProtocolError
from agent.movers.spec import JobError, JobResult, JobSpec, Progress, RateLimits, Secrets

VERSION = 1
MAX_FRAME = 1 << 20
"""Bytes of a message. A spec with certificates and a result with its warnings are far below it."""
_HEADER = 4

_M = TypeVar("_M")


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The job. Always the first message."""

    version: int
    spec: JobSpec
    secrets: Secrets


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """End the job soon and keep of it what helps the next one."""

    reason: str = ""


class SetLimits(msgspec.Struct, frozen=True, kw_only=True, tag="limits"):
    """From now on."""

    limits: RateLimits


ToWorker = Start | Cancel | SetLimits


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Where the job is. Also the sign of life."""

    progress: Progress


class Log(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """A line for the agent's log, without secrets."""

    level: str
    text: str


class Metric(msgspec.Struct, frozen=True, kw_only=True, tag="metric"):
    """A counter of the worker as it stands, or `memory_bytes`, what it has now."""

    name: str
    labels: dict[str, str] = {}
    value: float


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The end: a result or an error. Always the last message."""

    result: JobResult | None = None
    error: JobError | None = None

    def __post_init__(self) -> None:
        if (self.result is None) == (self.error is None):
            raise ValueError("a job ends with a result or an error")


FromWorker = Report | Log | Metric | Finished

_encoder = msgspec.msgpack.Encoder()
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode_frame(message: msgspec.Struct) -> bytes:
    """One message as it goes over the socket. Raises `MoverProtocolError` when it is too long."""
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError:
        raise MoverProtocolError(f"a message of the kind {type(message).__name__} is no valid text") from None
    if len(body) > MAX_FRAME:
        raise MoverProtocolError(f"a message of {len(body)} bytes is longer than {MAX_FRAME}")
    return len(body).to_bytes(_HEADER, "big") + body


class FrameReader(Generic[_M]):
    """Bytes as they come, messages as they are complete."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[_M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[_M]:
        """The messages that `data` completes. Raises `MoverProtocolError`; nothing can be read after that."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _HEADER:
                length = int.from_bytes(self._buffer[start : start + _HEADER], "big")
                if length > MAX_FRAME:
                    raise MoverProtocolError(f"a message of {length} bytes is announced, at most {MAX_FRAME} may come")
                end = start + _HEADER + length
                if len(self._buffer) < end:
                    return
                body = bytes(self._buffer[start + _HEADER : end])
                start = end
                yield self._decode(body)
        finally:
            del self._buffer[:start]

    def _decode(self, body: bytes) -> _M:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # What was sent may hold secrets: only its kind of mistake is told.
            raise MoverProtocolError(f"a message of {len(body)} bytes cannot be understood: {error}") from None


_CHUNK = 1 << 16
_PATIENCE = 1 << 18


class Channel(Generic[_M]):
    """One end of a connection, on the event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.msgpack.Decoder[_M]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader(decoder)
        self._ready: list[_M] = []

    async def receive(self) -> _M | None:
        """The next message; None at the end of the connection, however it came. Raises `MoverProtocolError`."""
        while not self._ready:
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                return None
            if not data:
                return None
            self._ready = list(self._frames.feed(data))[::-1]
        return self._ready.pop()

    def post(self, message: ToWorker | FromWorker) -> bool:
        """Send without waiting; whether there was room. What can be lost (progress, logs) is sent this way."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > _PATIENCE:
            return False
        self._writer.write(encode_frame(message))
        return True

    async def send(self, message: ToWorker | FromWorker) -> None:
        """Send, and wait until the other side takes it. A side that is gone is no error: `receive` tells."""
        frame = encode_frame(message)
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except OSError:
            return

    def abort(self) -> None:
        """End the connection at once, whatever is buffered; `receive` finds its end."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is buffered, and end the connection."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

"""A command in a container, with its standard input and output as a stream of bytes: what `kubectl exec -i` does.

The API server carries it over a WebSocket whose messages begin with a byte that names their channel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from kubernetes.aio.client.configuration import Configuration

from agent.base.errors import KubeInvalid
from agent.kube.aio_transport import Transport
from agent.kube.meta import Key
from agent.kube.names import is_dns_label, is_dns_subdomain

_PROTOCOL: Final = "v4.channel.k8s.io"
_INPUT, _OUTPUT, _ERRORS, _STATUS = range(4)
_MOST_WORDS: Final = 2_000


class _Status(msgspec.Struct, frozen=True):
    status: str = ""
    message: str = ""


class ExecStream:
    """A command that runs. Its end, whatever it was, is the end of the stream."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._words = bytearray()
        self.failure = ""
        """What it said last on standard error, and how it ended, if that was not well."""

    async def write(self, data: bytes) -> None:
        """To its standard input. Raises OSError when it has ended."""
        await self._socket.send_bytes(bytes((_INPUT,)) + data)

    async def read(self) -> bytes:
        """From its standard output, as it comes; nothing at its end."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], bytes(message.data[1:])
            if channel == _OUTPUT and data:
                return data
            if channel == _ERRORS and len(self._words) < _MOST_WORDS:
                self._words += data[:_MOST_WORDS]
            if channel == _STATUS:
                self._ended(data)
        return b""

    def _ended(self, data: bytes) -> None:
        try:
            status = msgspec.json.decode(data, type=_Status)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            status = _Status(status="Failure", message="it did not say how it ended")
        if status.status != "Success":
            said = self._words.decode("utf-8", "replace").strip()
            self.failure = ": ".join(filter(None, (status.message[:_MOST_WORDS], said)))


@asynccontextmanager
async def execute(
    configuration: Configuration, pod: Key, container: str, command: Sequence[str], *, user_agent: str
) -> AsyncGenerator[ExecStream, None]:
    """Run `command` for the time of the block. Raises leaves of `KubeError` when the API server does not let."""
    what = f"run {command[0]!r} in the pod {pod}"
    if not (is_dns_label(pod.namespace) and is_dns_subdomain(pod.name)):
        raise KubeInvalid(f"cannot {what}: that is no name of a pod")
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/exec"
    query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
    query += [("command", word) for word in command]
    async with (
        Transport(configuration, user_agent=user_agent) as transport,
        transport.websocket(what, path, query, _PROTOCOL) as socket,
    ):
        yield ExecStream(socket)

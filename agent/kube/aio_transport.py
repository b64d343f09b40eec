"""Authenticated requests to a real API server: JSON in, JSON out, and streams of lines.

Connections, TLS, proxies, tokens that are replaced on disk, exec plug-ins are the library's (`kubernetes.aio`). Its
generated models are not used, since ours are the typed views. Only `aio_api` calls this. Whatever goes wrong on the way
becomes a leaf of `KubeError`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from agent.base.errors import ConfigurationError, KubeError, KubeUnavailable, KubeUnreadable
from agent.kube.api import error_from_status
from agent.kube.codec import JsonObject

MERGE_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_CONNECT_SECONDS = 10.0
_REQUEST_SECONDS = 60.0
_QUIET_SECONDS = 150.0
"""An API server sends a bookmark each minute; a watch that is silent for longer hangs on a dead connection."""
_GRACE_SECONDS = 30.0
_HEARTBEAT_SECONDS = 20.0
_MAX_BODY = 256 << 20
_MAX_LINE = 8 << 20
_REQUESTS_AT_ONCE = 32
_CHUNK = 1 << 16


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    """`metav1.Status`."""

    code: int = 0
    reason: str = ""
    message: str = ""


async def load_configuration(kubeconfig: str = "", context: str = "") -> Configuration:
    """How to get at the API server: from a kubeconfig file, or, without one, from the pod's service account.

    Raises `ConfigurationError`.
    """
    configuration = Configuration()
    try:
        if kubeconfig:
            await kube_config.load_kube_config(
                config_file=kubeconfig,
                context=context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        else:
            kube_config.load_incluster_config(client_configuration=configuration)
    except (kube_config.ConfigException, OSError, ValueError) as error:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "the service account of this pod"
        raise ConfigurationError(
            f"cannot get at the API server by {where}: {error}", hint="name a file by --kubeconfig or KUBECONFIG"
        ) from error
    return configuration


class Transport:
    """Connections to one API server. At most 32 requests are under way at once, watches aside."""

    def __init__(self, configuration: Configuration, *, user_agent: str) -> None:
        self._configuration = configuration
        self._user_agent = user_agent
        self._room = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        try:
            self._client = RESTClientObject(configuration)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"cannot use the certificates for the API server: {error}") from error

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def request(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = _JSON,
    ) -> bytes:
        """The body of a good answer. `what` is for people: `get datauploads.velero.io velero/x`."""
        async with self._room, self._ask(what, method, path, query, body, content_type, _REQUEST_SECONDS) as response:
            return await _body(what, response)

    @asynccontextmanager
    async def lines(
        self, what: str, path: str, *, query: Mapping[str, str], seconds: float
    ) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """The lines of an answer as they come, for a little more than `seconds` at most; the end may be a cut."""
        async with self._ask(what, "GET", path, query, None, _JSON, seconds + _GRACE_SECONDS) as response:
            lines = _lines(what, response)
            try:
                yield lines
            finally:
                await lines.aclose()

    @asynccontextmanager
    async def websocket(
        self, what: str, path: str, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        """A WebSocket for the time of the block."""
        url = self._configuration.host + path + f"?{urlencode(query)}"
        url = "ws" + url.removeprefix("http")  # https:// becomes wss://
        try:
            if self._client.pool_manager is None:  # made with the first request, as the library's own does it
                self._client.pool_manager = self._client._create_pool_manager()
            socket = await self._client.pool_manager.ws_connect(
                url, headers=await self._headers(), protocols=(protocol,), heartbeat=_HEARTBEAT_SECONDS
            )
        except aiohttp.WSServerHandshakeError as error:
            raise error_from_status(what, error.status, "", f"it answers with status {error.status}") from error
        except (aiohttp.ClientError, OSError, kube_config.ConfigException) as error:
            raise _unreachable(what, error) from error
        try:
            yield socket
        finally:
            await socket.close()

    async def token(self) -> str:
        """The bearer token that is shown to the API server; empty for none."""
        shown = (await self._headers()).get("Authorization", "")
        kind, _, token = shown.partition(" ")
        return token if kind == "Bearer" else ""

    async def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": self._user_agent}
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return headers | ({"Authorization": token} if token else {})

    @asynccontextmanager
    async def _ask(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
        content_type: str,
        seconds: float,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS, sock_read=_QUIET_SECONDS)
        try:
            headers = {"Accept": _JSON, "Content-Type": content_type} | await self._headers()
            answer = await self._client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        except (aiohttp.ClientError, OSError, kube_config.ConfigException) as error:  # TimeoutError is an OSError
            raise _unreachable(what, error) from error
        response: aiohttp.ClientResponse = answer.response
        try:
            if response.status >= 400:
                raise await _refusal(what, response)
            yield response
        finally:
            response.close() if method == "GET" and not response.content.at_eof() else response.release()


async def _body(what: str, response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for part in response.content.iter_chunked(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > _MAX_BODY:
                raise KubeUnreadable(f"cannot {what}: the answer is longer than {_MAX_BODY} bytes")
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(what, error) from error
    return b"".join(parts)


async def _lines(what: str, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    rest = b""
    try:
        async for part in response.content.iter_any():
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                if line:
                    yield line
            if len(rest) > _MAX_LINE:
                raise KubeUnreadable(f"cannot {what}: an event is longer than {_MAX_LINE} bytes")
    except (aiohttp.ClientError, OSError):
        return  # cut: whoever watches goes on from the last version


async def _refusal(what: str, response: aiohttp.ClientResponse) -> KubeError:
    try:
        status = msgspec.json.decode(await _body(what, response), type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, KubeError):
        status = _Status(message=response.reason or "")
    return error_from_status(
        what, response.status, status.reason, status.message, _retry_after(response.headers.get("Retry-After", ""))
    )


def _retry_after(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None


def _unreachable(what: str, error: Exception) -> KubeUnavailable:
    text = str(error) or type(error).__name__
    return KubeUnavailable(f"cannot {what}: the API server cannot be reached: {text}", hint="it is tried again")

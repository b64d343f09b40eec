"""A TCP proxy that remembers the head of each HTTP request on its way: what real clients ask a real server for."""

from __future__ import annotations

import http.client
import io
from collections.abc import Mapping
from typing import Final

import msgspec

from agent.testing.tcp_proxy import TcpProxy

_HEAD_END: Final = b"\r\n\r\n"


class RequestHead(msgspec.Struct, frozen=True):
    """One request. Header names are in lower case; `target` is path and query as they were sent."""

    method: str
    target: str
    headers: Mapping[str, str]


class RecordingProxy(TcpProxy):
    """As `TcpProxy`; `requests` grows by each request whose head has passed whole."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port, listen_up=lambda: _Heads(self.requests).hear)
        self.requests: list[RequestHead] = []


class _Heads:
    """Finds the heads in what one connection sends; bodies have a length, as all S3 clients' have."""

    def __init__(self, found: list[RequestHead]) -> None:
        self._found = found
        self._heard = bytearray()
        self._body = 0
        """Bytes of a body that are still to come."""

    def hear(self, data: bytes) -> None:
        """Raises `ValueError` for a body whose end cannot be known from its head."""
        self._heard += data
        while True:
            skipped = min(self._body, len(self._heard))
            del self._heard[:skipped]
            self._body -= skipped
            end = self._heard.find(_HEAD_END)
            if self._body or end < 0:
                return
            line, _, fields = bytes(self._heard[: end + len(_HEAD_END)]).partition(b"\r\n")
            del self._heard[: end + len(_HEAD_END)]
            method, target, _ = line.decode("latin-1").split(" ")
            parsed = http.client.parse_headers(io.BytesIO(fields))
            headers = {name.lower(): value for name, value in parsed.items()}
            if "transfer-encoding" in headers:
                raise ValueError(f"{method} {target} sends a body of unknown length")
            self._body = int(headers.get("content-length", "0"))
            self._found.append(RequestHead(method, target, headers))

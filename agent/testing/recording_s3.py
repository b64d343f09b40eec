"""A small S3 endpoint on loopback that remembers what it was asked and says what a test wants to hear.

For what real servers on a desk cannot do: other regions, expired tokens, key management, skewed clocks, roles. It keeps
objects in a dict and understands just the calls that `agent.storage.s3` makes; `agent.testing.s3_server` starts the
real thing for all behaviour that can be had there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

import msgspec
from aiohttp import web

BUCKET = "blobs"
"""The one bucket."""

_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class RecordedRequest(msgspec.Struct, frozen=True):
    """One request as it arrived. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """The object's key, whether the bucket is in the path or in the host name."""
        return self.path.removeprefix("/").removeprefix(BUCKET + "/")

    @property
    def signed_region(self) -> str:
        """The region that the signature was made for."""
        return self.headers["authorization"].partition("Credential=")[2].split("/")[2]

    @property
    def access_key(self) -> str:
        """Whose signature it is."""
        return self.headers["authorization"].partition("Credential=")[2].split("/")[0]


class Answer(msgspec.Struct, frozen=True):
    """What to say to one request."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


def s3_error(status: int, code: str, *, headers: Mapping[str, str] | None = None, **details: str) -> Answer:
    """An error document with `details` as further elements."""
    elements = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in {"Code": code, **details}.items())
    return Answer(status, f"<Error>{elements}</Error>", {"Content-Type": "application/xml", **(headers or {})})


Rule = Callable[[RecordedRequest], Answer | None]
"""An answer to give instead of the usual one, or None."""


class RecordingS3:
    """Async context manager: an endpoint for path style and virtual-hosted requests, and also an HTTP proxy."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.objects: dict[str, bytes] = {}
        """By key."""
        self.uploads: dict[str, dict[int, bytes]] = {}
        """Parts of unfinished multipart uploads by upload id."""
        self.rules: list[Rule] = []
        """Asked in turn before the usual answer is given."""
        self.parts_at_once = 0
        """The most parts that were being received at the same time."""
        self._receiving = 0
        self._upload_keys: dict[str, str] = {}
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._port}"

    def answer_once(self, method: str, answer: Answer, *, times: int = 1, query: str = "") -> None:
        """Give `answer` to the next requests of this method, of those with `query` among their parameters."""
        left = times

        def rule(request: RecordedRequest) -> Answer | None:
            nonlocal left
            if request.method != method or not left or (query and query not in request.query):
                return None
            left -= 1
            return answer

        self.rules.append(rule)

    def answer_path(self, method: str, path: str, answer: Answer) -> None:
        """Always give `answer` here: for endpoints that are not S3."""
        self.rules.append(lambda request: answer if (request.method, request.path) == (method, path) else None)

    def asked(self, method: str) -> list[RecordedRequest]:
        """The requests of one method so far."""
        return [request for request in self.requests if request.method == method]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, raw: web.Request) -> web.Response:
        part = "partNumber" in raw.query
        self._receiving += part
        self.parts_at_once = max(self.parts_at_once, self._receiving)
        try:
            request = RecordedRequest(
                raw.method,
                raw.path,
                dict(raw.query),
                {name.lower(): value for name, value in raw.headers.items()},
                await raw.read(),
            )
            await asyncio.sleep(0)
        finally:
            self._receiving -= part
        self.requests.append(request)
        for rule in self.rules:
            if answer := rule(request):
                return _response(answer.status, answer.body.encode(), answer.headers)
        if request.query.keys() & {"uploads", "uploadId"}:
            return self._multipart(request)
        return self._object(request)

    def _object(self, request: RecordedRequest) -> web.Response:
        if request.method == "PUT":
            if request.headers.get("if-none-match") == "*" and request.key in self.objects:
                return _error(request, 412, "PreconditionFailed")
            self.objects[request.key] = request.body
            return _response(200, b"", {"ETag": _etag(request.body)})
        if request.method == "DELETE":
            self.objects.pop(request.key, None)
            return _response(204, b"", {})
        if request.method == "POST":
            return _response(200, b"<DeleteResult/>", {})
        return self._list(request) if "list-type" in request.query else self._read(request)

    def _read(self, request: RecordedRequest) -> web.Response:
        data = self.objects.get(request.key)
        if data is None:
            return _error(request, 404, "NoSuchKey")
        headers = {"ETag": _etag(data), "Last-Modified": format_datetime(_MOMENT, usegmt=True)}
        asked = request.headers.get("range")
        if not asked:
            return _response(200, data, headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)) + 1, len(data))
        if start >= len(data):
            return _error(request, 416, "InvalidRange")
        return _response(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def _list(self, request: RecordedRequest) -> web.Response:
        prefix = request.query.get("prefix", "")
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            f"<LastModified>{_MOMENT:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return _response(200, f"<ListBucketResult>{items}</ListBucketResult>".encode(), {})

    def _multipart(self, request: RecordedRequest) -> web.Response:
        upload_id = request.query.get("uploadId", "")
        body = ""
        headers: dict[str, str] = {}
        if request.method == "GET":
            found = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId></Upload>"
                for name, key in self._upload_keys.items()
            )
            body = f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>"
        elif request.method == "POST" and not upload_id:
            upload_id = f"upload-{len(self.requests)}"
            self.uploads[upload_id] = {}
            self._upload_keys[upload_id] = request.key
            body = f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
        elif upload_id not in self.uploads:
            return _error(request, 404, "NoSuchUpload")
        elif request.method == "PUT":
            self.uploads[upload_id][int(request.query["partNumber"])] = request.body
            headers["ETag"] = _etag(request.body)
        else:
            parts = self.uploads.pop(upload_id)
            key = self._upload_keys.pop(upload_id)
            if request.method == "POST":
                self.objects[key] = b"".join(data for _, data in sorted(parts.items()))
                body = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        return _response(204 if request.method == "DELETE" else 200, body.encode(), headers)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _error(request: RecordedRequest, status: int, code: str) -> web.Response:
    answer = s3_error(status, code, Resource=request.path)
    return _response(answer.status, answer.body.encode(), answer.headers)


def _response(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=status, body=body, headers=headers)

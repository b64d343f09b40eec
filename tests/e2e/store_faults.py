"""The S3 server of `hack/cluster` as one test's location sees it: shut for good, full, out of its quota, or halting."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from aiohttp import ClientSession, web
from yarl import URL

from agent.testing.tcp_proxy import TcpProxy

_OF_A_CONNECTION: Final = frozenset({"connection", "date", "expect", "keep-alive", "server", "transfer-encoding"})
_PACK: Final = re.compile(r"/kopia/[^/]+/p[^/]+$")
"""What holds the content of files; folders, indices and all else lie beside it."""
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Door:
    """A way to the server through the test's own process: it can be shut for good."""

    def __init__(self, s3_url: str) -> None:
        address = urlsplit(s3_url)
        assert address.hostname
        assert address.port
        self._proxy = TcpProxy(address.port, host=address.hostname)
        self._loop = _Loop()
        self._loop.run(self._proxy.__aenter__())
        self.s3_url = urlunsplit(address._replace(netloc=f"{address.hostname}:{self._proxy.port}"))

    def shut(self) -> None:
        """Cut every connection, and take no new one."""
        if self._loop.is_running:
            self._loop.run(self._proxy.__aexit__(None, None, None))
            self._loop.stop()


class _Way:
    """A way to the server that looks at each request before it lets it through."""

    def __init__(self, s3_url: str) -> None:
        self._target = s3_url
        self._loop = _Loop()
        self._loop.run(self._start(urlsplit(s3_url).hostname or ""))

    def close(self) -> None:
        self._loop.run(self._stop())
        self._loop.stop()

    async def _look_at(self, asked: web.Request) -> web.Response | None:
        """The answer, if it is not the server's."""
        raise NotImplementedError

    async def _start(self, host: str) -> None:
        self._session = ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, 0).start()
        self.s3_url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, asked: web.Request) -> web.Response:
        body = await asked.read()
        if (own := await self._look_at(asked)) is not None:
            return own
        url = URL(self._target + asked.raw_path, encoded=True)
        async with self._session.request(asked.method, url, headers=_lasting(asked.headers), data=body) as answer:
            return web.Response(status=answer.status, headers=_lasting(answer.headers), body=await answer.read())


class FullDisk(_Way):
    """A way to the server that can refuse to write as full ones do."""

    def __init__(self, s3_url: str) -> None:
        self.answer: tuple[int, str] | None = None
        """Status and code for whatever would need room; None: the server's own answer."""
        super().__init__(s3_url)

    async def _look_at(self, asked: web.Request) -> web.Response | None:
        if self.answer is None or asked.method != "PUT":
            return None
        status, code = self.answer
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="text/xml")


class Gate(_Way):
    """A way to the server on which data waits while it is shut: who moves it is in the middle of its work."""

    def __init__(self, s3_url: str) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        super().__init__(s3_url)

    def shut(self) -> None:
        self._loop.run(self._turn(self._opened.clear))

    def open(self) -> None:
        """Let through what waits, and what comes."""
        self._loop.run(self._turn(self._opened.set))

    async def _turn(self, how: Callable[[], None]) -> None:
        how()

    async def _look_at(self, asked: web.Request) -> web.Response | None:
        if _PACK.search(asked.path):
            await self._opened.wait()
        return None


def _lasting(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OF_A_CONNECTION}


class Quota:
    """What SeaweedFS does with a bucket whose quota is used up, done to one folder of it."""

    def __init__(self, s3_url: str, folder: str) -> None:
        self._host = urlsplit(s3_url).hostname
        self._folder = f"/buckets/{folder}"

    def use_up(self) -> None:
        """From now on nothing can be written there."""
        self._write([{"locationPrefix": self._folder, "readOnly": True}])

    def raise_it(self) -> None:
        """There is room."""
        self._write([])

    def _write(self, locations: list[dict[str, object]]) -> None:
        body = json.dumps({"version": 1, "locations": locations}).encode()
        request = urllib.request.Request(
            f"http://{self._host}:8888/etc/seaweedfs/filer.conf",
            data=body,
            method="PUT",
            headers={"Content-Type": "application/json"},
        )
        _open(request, timeout=10).close()


class _Loop:
    """An event loop beside the test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

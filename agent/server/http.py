"""The HTTP endpoints that a scraper and the kubelet ask: `/metrics`, `/healthz`, `/readyz` (`--metrics-address`).

It answers whatever happens: a question that fails is an answer that says so. `/healthz` says whether restarting the
agent would help, so an API server that is away does not make it fail; `/readyz` whether the agent sees its objects.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog
from aiohttp import web

from agent.base.errors import UsageError

_METRICS_TYPE = "text/plain"
_METRICS_PARAMETERS = "version=0.0.4; charset=utf-8"
_MOST_LINE = 8_190
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%a-z]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})", re.ASCII)

_log = structlog.stdlib.get_logger(__name__)


class Address(msgspec.Struct, frozen=True):
    """Where to listen. An empty host means every address of the machine."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """`:8085`, `127.0.0.1:0` (any free port), `[::1]:8085`. Raises `UsageError`."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise UsageError(
            f"{text[:64]!r} is no address to listen at", hint="write host:port, :port for every address, or [::1]:port"
        )
    return Address(match["six"] or match["host"] or "", int(match["port"]))


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    metrics: Callable[[], bytes]
    """The text for a scraper."""
    unhealthy: Callable[[], str]
    """Why the agent should be restarted; empty when it should not."""
    unready: Callable[[], str]
    """Why the agent is not ready yet; empty when it is."""


@asynccontextmanager
async def serve(address: Address, endpoints: Endpoints) -> AsyncIterator[Address]:
    """Answer for the time of the block; gives the address with the port that was really taken.

    Raises `UsageError` when nobody can listen there.
    """
    runner = web.AppRunner(_application(endpoints), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host or None, address.port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"cannot listen at {address.host}:{address.port}: {error.strerror or error}",
                hint="another process listens there, or the address is not this machine's: change --metrics-address",
            ) from error
        taken = runner.addresses[0]
        yield Address(str(taken[0]), int(taken[1]))
    finally:
        await runner.cleanup()


def _application(endpoints: Endpoints) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=endpoints.metrics(), headers={"Content-Type": f"{_METRICS_TYPE}; {_METRICS_PARAMETERS}"}
        )

    async def health(_: web.Request) -> web.Response:
        return _verdict(endpoints.unhealthy())

    async def ready(_: web.Request) -> web.Response:
        return _verdict(endpoints.unready())

    application = web.Application(middlewares=[_answer_always], client_max_size=_MOST_LINE)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", health)
    application.router.add_get("/readyz", ready)
    return application


def _verdict(trouble: str) -> web.Response:
    return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)


@web.middleware
async def _answer_always(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001  # the border of the process: it is told, and the next request is answered too
        _log.exception("an HTTP request could not be answered", path=request.path)
        return web.Response(text="internal error, see the agent's log\n", status=500)

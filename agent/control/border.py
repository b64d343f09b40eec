"""Around every method: may the caller, and what becomes of an error.

A `Gate` decides who may; what methods raise becomes a status with details (`errors`). Streams are driven here, so that
what a method holds is let go of at the moment when its caller leaves or its deadline is over, not some time later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NoReturn, Protocol, TypeAlias, cast

import grpc
import structlog

from agent.base.errors import ControlDeadline, ControlForbidden, LighterageError
from agent.control.errors import status_of, trailers_of
from agent.control.rights import OPEN, RIGHTS, Right

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Answer: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_STALLED_SECONDS = 300.0
_log = structlog.stdlib.get_logger(__name__)


class Gate(Protocol):
    """Who may call."""

    async def admit(self, right: Right, context: Context) -> None:
        """Return if the caller has the right. Raises `ControlUnauthenticated`, `ControlForbidden`, `KubeError`."""
        ...


class OpenGate:
    """For callers that were looked at before they could send anything (`door`)."""

    async def admit(self, right: Right, context: Context) -> None:
        """They may everything."""


class Border(grpc.aio.ServerInterceptor):
    """Of one server."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of a method behind the gate; health and reflection are before it."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        right = RIGHTS.get(method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                cast("Any", self._stream(method, right, handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            cast("Any", self._single(method, right, handler.unary_unary)),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _single(self, method: str, right: Right | None, inner: Any) -> _Answer:
        async def answer(request: Any, context: Context) -> Any:
            async with self._crossing(method, right, context):
                return await inner(request, context)

        return answer

    def _stream(self, method: str, right: Right | None, inner: Any) -> _Answer:
        async def answer(request: Any, context: Context) -> None:
            async with self._crossing(method, right, context), aclosing(_iterated(inner, request, context)) as messages:
                async for message in messages:
                    await _written(context, message)

        return answer

    def _crossing(self, method: str, right: Right | None, context: Context) -> _Crossing:
        return _Crossing(self._gate, method, right, context)


async def _written(context: Context, message: Any) -> None:
    """Wait until the caller takes it. One that takes nothing holds a worker, and is not waited for for ever."""
    try:
        async with asyncio.timeout(_STALLED_SECONDS):
            await context.write(message)
    except TimeoutError:
        raise ControlDeadline(f"the caller took nothing for {_STALLED_SECONDS:.0f} s") from None


def _iterated(inner: Any, request: Any, context: Context) -> Any:
    return cast("AsyncIterator[Any]", inner(request, context))


class _Crossing(AbstractAsyncContextManager[None]):
    """One call: admitted at its beginning, its error translated at its end."""

    def __init__(self, gate: Gate, method: str, right: Right | None, context: Context) -> None:
        self._gate = gate
        self._method = method
        self._right = right
        self._context = context

    async def __aenter__(self) -> None:
        try:
            if self._right is None:
                raise ControlForbidden(f"nobody may call {self._method}: no right is known for it")
            await self._gate.admit(self._right, self._context)
        except LighterageError as error:
            await self._refuse(error)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            return
        if not isinstance(error, LighterageError):
            _log.error("a call of the control API could not be answered", method=self._method, exc_info=error)
            error = LighterageError("internal error", hint="the agent's log says more")
        await self._refuse(error)

    async def _refuse(self, error: LighterageError) -> NoReturn:
        _log.debug("a call of the control API was refused", method=self._method, code=error.code, error=str(error))
        await self._context.abort(status_of(error), str(error.message), cast("Any", trailers_of(error)))

"""The border to the API server: what the house asks of it, and nothing else.

Informers, controllers and exposers get a `KubeApi` passed in: the real one, or `agent.testing.fake_kube`. Every method
raises leaves of `KubeError`; `error_from_status` is the one place that turns an answer of the API server into them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Final, Generic, Protocol

import msgspec

from agent.base.errors import (
    KubeAlreadyExists,
    KubeConflict,
    KubeError,
    KubeForbidden,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
    KubeUnavailable,
    KubeUnreadable,
)
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector

PAGE_SIZE: Final = 500


class EventType(StrEnum):
    """What a watch tells."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


class Unreadable(msgspec.Struct, frozen=True):
    """An object that has another shape than its kind; one such object must not hide the others."""

    key: Key
    error: KubeUnreadable


class WatchEvent(msgspec.Struct, Generic[ObjectT], frozen=True):
    """One change. `item` is None for bookmarks; `resource_version` is where a later watch goes on."""

    type: EventType
    resource_version: str
    item: ObjectT | Unreadable | None = None


class Page(msgspec.Struct, Generic[ObjectT], frozen=True):
    """A part of a list. `continue_token` is empty on the last page; a watch goes on from `resource_version`."""

    items: tuple[ObjectT, ...]
    unreadable: tuple[Unreadable, ...]
    resource_version: str
    continue_token: str = ""


class AccessReview(msgspec.Struct, frozen=True):
    """May this service account do `verb` on `resource` (in `namespace`, or everywhere)?"""

    verb: str
    group: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class KubeApi(Protocol):
    """The API server. All methods may raise `KubeForbidden` and `KubeUnavailable`."""

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object; `KubeNotFound`, `KubeUnreadable`."""
        ...

    async def list(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        selector: Selector = EVERYTHING,
        limit: int = PAGE_SIZE,
        continue_token: str = "",
    ) -> Page[ObjectT]:
        """One page of the objects of a namespace, or of all; `KubeGone` when the continue token is too old."""
        ...

    def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        """Changes after `resource_version`, with bookmarks; ends after `timeout` seconds, or earlier when cut.

        `KubeGone` when the resource version is too old. Close the iterator (`contextlib.aclosing`) to end early.
        """
        ...

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object; `KubeAlreadyExists`, `KubeInvalid`, and `KubeNotFound` when its namespace is gone."""
        ...

    async def patch(
        self,
        resource: Resource[ObjectT],
        key: Key,
        patch: JsonObject,
        *,
        resource_version: str = "",
        status: bool = False,
    ) -> ObjectT:
        """A merge patch, with `resource_version` only onto that version (`KubeConflict` otherwise).

        `status` patches the status subresource, which Velero's kinds do not have (`KubeNotFound`). A patch that holds
        a list (finalizers) replaces it whole and therefore needs the resource version.
        """
        ...

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Delete, if it is still the object of this uid and version (`KubeConflict` otherwise); `KubeNotFound`."""
        ...

    async def allowed(self, review: AccessReview) -> bool:
        """Whether this service account may (SelfSubjectAccessReview)."""
        ...


def error_from_status(what: str, code: int, reason: str, message: str, retry_after: float | None = None) -> KubeError:
    """The error for an answer of the API server. `what` says what was tried on what: `get dataupload velero/x`."""
    text = f"cannot {what}: {message or reason or code}"
    error: KubeError
    if code == 404:
        error = KubeNotFound(text)
    elif code == 409 and reason == "AlreadyExists":
        error = KubeAlreadyExists(text)
    elif code == 409:
        error = KubeConflict(text, hint="the object changed meanwhile; it is read again")
    elif code == 410:
        error = KubeGone(text, hint="the list is fetched anew")
    elif code in {401, 403}:
        error = KubeForbidden(text, hint="check the role and the token of the service account")
    elif code in {400, 405, 406, 413, 415, 422}:
        error = KubeInvalid(text)
    elif code == 429 or code >= 500:
        error = KubeUnavailable(text, hint="it is tried again", retry_after=retry_after)
    else:
        error = KubeError(text)
    return error

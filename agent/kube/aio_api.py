"""`KubeApi` on a real API server.

    async with AioKubeApi(await load_configuration(), user_agent="lighterage/1.0") as api:
        page = await api.list(DATA_UPLOADS, "velero")

Requests are never repeated here: whoever asked knows whether asking again is right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, TypeVar, cast

import msgspec
from kubernetes.aio.client.configuration import Configuration

from agent.base.errors import KubeUnreadable
from agent.kube.aio_transport import MERGE_PATCH, Transport
from agent.kube.api import PAGE_SIZE, AccessReview, EventType, Page, Unreadable, WatchEvent, error_from_status
from agent.kube.codec import JsonObject, ObjectT, decode, encode
from agent.kube.meta import Key
from agent.kube.names import is_dns_label, is_dns_subdomain
from agent.kube.resource import Resource
from agent.kube.reviews import Identity
from agent.kube.selector import EVERYTHING, Selector

_StructT = TypeVar("_StructT", bound=msgspec.Struct)
_REVIEWS: Final = "/apis/authorization.k8s.io/v1"
_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105  # a path


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True):
    kind: str = ""
    metadata: _ListMeta = _ListMeta()
    items: list[dict[str, object]] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    item: dict[str, object] = msgspec.field(name="object")


class _Decision(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _Decision = _Decision()


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()


class _Authentication(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()


class _TokenReview(msgspec.Struct, frozen=True):
    status: _Authentication = _Authentication()


class AioKubeApi:
    """A `KubeApi` over HTTP. One per process, on one event loop; use it as an asynchronous context manager."""

    def __init__(self, configuration: Configuration, *, user_agent: str) -> None:
        """Raises `ConfigurationError` for certificates that cannot be used."""
        self._transport = Transport(configuration, user_agent=user_agent)

    async def __aenter__(self) -> AioKubeApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object."""
        what = f"get {resource.name} {key}"
        return _decode(what, resource, await self._transport.request(what, "GET", _path(what, resource, key)))

    async def list(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        selector: Selector = EVERYTHING,
        limit: int = PAGE_SIZE,
        continue_token: str = "",
    ) -> Page[ObjectT]:
        """One page."""
        what = f"list {resource.name} {namespace}".rstrip()
        _check_namespace(what, namespace)
        query = _selection(selector) | {"limit": str(limit)}
        if continue_token:
            query["continue"] = continue_token
        body = await self._transport.request(what, "GET", resource.path(namespace), query=query)
        listed = _parse(what, body, _List)
        kind = listed.kind.removesuffix("List")
        views = [
            _view(resource, {"apiVersion": resource.api_version, "kind": kind, **item}) for item in listed.items or ()
        ]
        return Page(
            items=tuple(view for view in views if not isinstance(view, Unreadable)),
            unreadable=tuple(view for view in views if isinstance(view, Unreadable)),
            resource_version=listed.metadata.resource_version,
            continue_token=listed.metadata.continue_token,
        )

    async def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,  # noqa: ASYNC109  # the server's, not ours
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        """Changes after a version."""
        what = f"watch {resource.name} {namespace}".rstrip()
        _check_namespace(what, namespace)
        query = _selection(selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(timeout))),
        }
        async with self._transport.lines(what, resource.path(namespace), query=query, seconds=timeout) as lines:
            async for line in lines:
                yield _event(what, resource, _parse(what, line, _Event))

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object."""
        metadata = obj.metadata
        what = f"create {resource.name} {Key(metadata.namespace, metadata.name or metadata.generate_name)}"
        _check_namespace(what, metadata.namespace)
        body = await self._transport.request(what, "POST", resource.path(metadata.namespace), body=encode(obj))
        return _decode(what, resource, body)

    async def patch(
        self,
        resource: Resource[ObjectT],
        key: Key,
        patch: JsonObject,
        *,
        resource_version: str = "",
        status: bool = False,
    ) -> ObjectT:
        """A merge patch."""
        what = f"patch {resource.name} {key}"
        if resource_version:
            metadata = patch.get("metadata")
            below = metadata if isinstance(metadata, dict) else {}
            patch = {**patch, "metadata": {**below, "resourceVersion": resource_version}}
        path = _path(what, resource, key) + ("/status" if status else "")
        body = await self._transport.request(what, "PATCH", path, body=patch, content_type=MERGE_PATCH)
        return _decode(what, resource, body)

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Delete; what the object owns goes in the background."""
        conditions: JsonObject = {}
        if uid:
            conditions["uid"] = uid
        if resource_version:
            conditions["resourceVersion"] = resource_version
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if conditions:
            options["preconditions"] = conditions
        what = f"delete {resource.name} {key}"
        await self._transport.request(what, "DELETE", _path(what, resource, key), body=options)

    async def allowed(self, review: AccessReview) -> bool:
        """Ask the API server about our own rights."""
        what = f"ask for the right to {review.verb} {review.plural}"
        return await self._decide(what, "SelfSubjectAccessReview", {"resourceAttributes": _attributes(review)})

    async def may(self, who: Identity, review: AccessReview) -> bool:
        """Ask the API server about the rights of somebody."""
        spec: JsonObject = {"resourceAttributes": _attributes(review), "user": who.name, "groups": list(who.groups)}
        if who.uid:
            spec["uid"] = who.uid
        what = f"ask for the right of somebody to {review.verb} {review.plural}"
        return await self._decide(what, "SubjectAccessReview", spec)

    async def authenticate(self, token: str) -> Identity | None:
        """Ask the API server whose token this is."""
        what = "ask whose token this is"
        body: JsonObject = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        status = _parse(
            what, await self._transport.request(what, "POST", _TOKEN_REVIEWS, body=body), _TokenReview
        ).status
        if not (status.authenticated and status.user.username):
            return None
        return Identity(status.user.username, status.user.groups, status.user.uid)

    async def _decide(self, what: str, kind: str, spec: JsonObject) -> bool:
        body: JsonObject = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        answer = await self._transport.request(what, "POST", f"{_REVIEWS}/{kind.lower()}s", body=body)
        return _parse(what, answer, _Review).status.allowed


def _attributes(review: AccessReview) -> JsonObject:
    attributes = {
        "verb": review.verb,
        "group": review.group,
        "resource": review.plural,
        "namespace": review.namespace,
        "name": review.name,
        "subresource": review.subresource,
    }
    return {name: value for name, value in attributes.items() if value}


def _parse(what: str, body: bytes, kind: type[_StructT]) -> _StructT:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KubeUnreadable(f"cannot {what}: the answer cannot be understood: {error}") from error


def _decode(what: str, resource: Resource[ObjectT], body: bytes) -> ObjectT:
    try:
        value = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KubeUnreadable(f"cannot {what}: the answer cannot be understood: {error}") from error
    return decode(resource.view, cast(JsonObject, value))


def _view(resource: Resource[ObjectT], value: dict[str, object]) -> ObjectT | Unreadable:
    try:
        return decode(resource.view, cast(JsonObject, value))
    except KubeUnreadable as error:
        metadata = value.get("metadata")
        named = metadata if isinstance(metadata, dict) else {}
        return Unreadable(Key(str(named.get("namespace", "")), str(named.get("name", ""))), error)


def _event(what: str, resource: Resource[ObjectT], event: _Event) -> WatchEvent[ObjectT]:
    """A line of a watch. An event of type ERROR is an answer that came late."""
    if event.type == "ERROR":
        code = event.item.get("code")
        raise error_from_status(
            what,
            code if isinstance(code, int) else 500,
            str(event.item.get("reason", "")),
            str(event.item.get("message", "")),
        )
    try:
        kind = EventType(event.type)
    except ValueError:
        raise KubeUnreadable(f"cannot {what}: there is an event of type {event.type!r}") from None
    metadata = event.item.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version:
        raise KubeUnreadable(f"cannot {what}: an event has no resource version")
    return WatchEvent(kind, version, None if kind is EventType.BOOKMARK else _view(resource, event.item))


def _selection(selector: Selector) -> dict[str, str]:
    texts = {"labelSelector": selector.label_text, "fieldSelector": selector.field_text}
    return {name: text for name, text in texts.items() if text}


def _path(what: str, resource: Resource[ObjectT], key: Key) -> str:
    """The path of an object. Names come from fields that anybody may have filled: they must not lead elsewhere."""
    _check_namespace(what, key.namespace)
    if not is_dns_subdomain(key.name):
        raise error_from_status(what, 404, "NotFound", f"no object can have the name {key.name!r}")
    return resource.path(key.namespace, key.name)


def _check_namespace(what: str, namespace: str) -> None:
    if namespace and not is_dns_label(namespace):
        raise error_from_status(what, 404, "NotFound", f"no namespace can have the name {namespace!r}")

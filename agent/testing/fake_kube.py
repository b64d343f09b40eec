"""An API server in memory: `FakeKube` is a `KubeApi` for tests that run in virtual time.

What it keeps of the real one: one growing resource version for everything; patches with and without a version as
precondition; patches that change nothing make no new version; `generation`; `generateName`; finalizers and
`deletionTimestamp`; owners whose last one goes take their objects along; the status subresource or, as with Velero's
kinds, none; consistent pages; watches from a version, with bookmarks, 410 after `compact`, and events turned into
ADDED and DELETED where an object enters or leaves a selector. What it does not: schemas (nothing is pruned, nothing
defaulted), admission, strategic merge, rights below a whole verb and kind.

Faults: `fail` refuses the next requests, before or after they took effect; `outage` refuses all and cuts watches;
`cut_watches` and `compact` do what an API server may do at any time.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NoReturn, cast

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeError, KubeUnreadable
from agent.kube.api import PAGE_SIZE, AccessReview, EventType, Page, Unreadable, WatchEvent, error_from_status
from agent.kube.codec import JsonObject, JsonValue, ObjectT, apply_merge_patch, decode, encode
from agent.kube.meta import Key, KubeObject
from agent.kube.names import is_dns_subdomain
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector
from agent.kube.times import time_from_ns
from agent.kube.wait import wait_for_event

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_MAX_GENERATED_BASE = 58
_BOOKMARK_SECONDS = 60.0
_LAST_BOOKMARK_SECONDS = 2.0
_IMMUTABLE = ("uid", "name", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds")
_KEPT = ("creationTimestamp", "generation")
"""Of the server alone: what a patch says about them is ignored."""
_GROUPS_WITH_GENERATION = ("velero.io", "snapshot.storage.k8s.io", "apps")

_Where = tuple[str, Key]
"""Name of the resource and key."""


class _Change(msgspec.Struct, frozen=True):
    version: int
    where: _Where
    before: JsonObject | None
    after: JsonObject | None
    views: dict[int, KubeObject | Unreadable] = msgspec.field(default_factory=dict)
    """Before (0) and after (1) as their kind's view, for the second watch that wants it."""


class _Fault(msgspec.Struct):
    verb: str
    resource: str
    error: KubeError
    times: int
    after: bool


class FakeKube:
    """An API server in memory. All its time and randomness is passed in."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._version = 1
        self._oldest = 0
        self._objects: dict[_Where, JsonObject] = {}
        self._history: list[_Change] = []
        self._pages: dict[str, tuple[int, list[JsonObject]]] = {}
        self._wakers: dict[asyncio.Event, str] = {}
        self._cut = 0
        self._faults: list[_Fault] = []
        self._down = False
        self.denied: set[tuple[str, str]] = set()
        """Verbs and resources (`("watch", "datauploads.velero.io")`) that answer 403."""
        self.requests: list[tuple[str, str]] = []
        """Verb and resource of each request, in order."""
        self.observers: list[Callable[[str, JsonObject | None, JsonObject | None], None]] = []
        """Called with each change: the name of the resource, the object before and after. They must not keep them."""

    # What a test does to it

    def fail(self, verb: str, resource: str, error: KubeError, *, times: int = 1, after: bool = False) -> None:
        """Answer the next `times` such requests with `error`; with `after`, do first what was asked (a lost answer)."""
        self._faults.append(_Fault(verb, resource, error, times, after))

    def outage(self, down: bool) -> None:
        """Be unreachable, or be back."""
        self._down = down
        if down:
            self.cut_watches()

    def cut_watches(self) -> None:
        """End every watch, without an error, wherever it is."""
        self._cut += 1
        self._wake_all()

    def compact(self) -> None:
        """Forget the past: watches and pages from before answer 410."""
        self._history.clear()
        self._oldest = self._version
        self._pages.clear()

    def raw(self, resource: Resource[ObjectT], key: Key) -> JsonObject:
        """A copy of an object as stored; `KeyError` when there is none."""
        return copy.deepcopy(self._objects[resource.name, key])

    def put_raw(self, resource: Resource[ObjectT], value: JsonObject) -> None:
        """Store an object as another client would, whatever its shape."""
        metadata = _metadata(value)
        key = Key(str(metadata.get("namespace", "")), str(metadata["name"]))
        self._store((resource.name, key), copy.deepcopy(value))

    def remove(self, resource: Resource[ObjectT], key: Key) -> None:
        """Delete an object as another client would; its finalizers keep it. Harmless when there is none."""
        if (resource.name, key) in self._objects:
            self._delete((resource.name, key))

    # KubeApi

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object."""
        what = self._request("get", resource, str(key))
        return decode(resource.view, self._existing(what, resource, key))

    async def list(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        selector: Selector = EVERYTHING,
        limit: int = PAGE_SIZE,
        continue_token: str = "",
    ) -> Page[ObjectT]:
        """One page; later pages are of the same moment as the first."""
        what = self._request("list", resource, namespace)
        if continue_token:
            if continue_token not in self._pages:
                raise error_from_status(what, 410, "Expired", "the provided continue parameter is too old")
            version, rest = self._pages[continue_token]
        else:
            version = self._version
            rest = [
                value
                for (name, key), value in sorted(self._objects.items(), key=lambda item: item[0])
                if name == resource.name and _is_selected(what, key, value, namespace, selector)
            ]
        token = ""
        if limit and len(rest) > limit:
            token = f"{version}.{self._rng.getrandbits(64):016x}"
            self._pages[token] = (version, rest[limit:])
            rest = rest[:limit]
        views = [_view(resource, value) for value in rest]
        return Page(
            items=tuple(view for view in views if not isinstance(view, Unreadable)),
            unreadable=tuple(view for view in views if isinstance(view, Unreadable)),
            resource_version=str(version),
            continue_token=token,
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
        """Changes after a version; once there were any, bookmarks each minute and shortly before the end."""
        what = self._request("watch", resource, namespace)
        position = int(resource_version)
        if position < self._oldest:
            raise error_from_status(what, 410, "Expired", f"too old resource version: {position} ({self._oldest})")
        cut, deadline = self._cut, self._clock.monotonic() + timeout
        bookmark = self._next_bookmark(deadline)
        started = newest = max(position, self._version)
        waker = asyncio.Event()
        self._wakers[waker] = resource.name
        try:
            while self._cut == cut:
                waker.clear()
                if position < self._oldest:
                    raise error_from_status(what, 410, "Expired", "the watch fell behind")
                for change in self._changes_after(position):
                    if self._cut != cut:
                        return
                    position = change.version
                    newest = max(newest, position) if change.where[0] == resource.name else newest
                    event = _event(what, change, resource, namespace, selector)
                    if event is not None:
                        yield event
                now = self._clock.monotonic()
                if now >= deadline:
                    return
                if self._changes_after(position):  # while a slow client took the last ones
                    continue
                if now >= bookmark:
                    bookmark = self._next_bookmark(deadline)
                    if newest > started:
                        yield WatchEvent(EventType.BOOKMARK, str(newest))
                    continue
                await wait_for_event(self._clock, waker, min(deadline, bookmark) - now)
        finally:
            self._wakers.pop(waker, None)

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object with uid, version, creation time, and a name if it has only `generateName`."""
        value = encode(obj)
        metadata = _metadata(value)
        base = str(metadata.get("generateName", ""))[:_MAX_GENERATED_BASE]
        name = str(metadata.get("name", "")) or base + self._suffix() * bool(base)
        key = Key(str(metadata.get("namespace", "")), name)
        what = self._request("create", resource, str(key))
        if not is_dns_subdomain(name) or bool(key.namespace) != resource.namespaced or "resourceVersion" in metadata:
            raise error_from_status(what, 422, "Invalid", "metadata is not that of a new object")
        if (resource.name, key) in self._objects:
            raise error_from_status(what, 409, "AlreadyExists", f"{resource.name} {name!r} already exists")
        metadata.update(name=name, uid=self._uid(), creationTimestamp=self._now())
        if resource.group in _GROUPS_WITH_GENERATION or resource.name == "pods":
            metadata["generation"] = 1
        if resource.status_subresource:
            value.pop("status", None)
        self._store((resource.name, key), value)
        self._fail_after("create", resource)
        return decode(resource.view, value)

    async def patch(
        self,
        resource: Resource[ObjectT],
        key: Key,
        patch: JsonObject,
        *,
        resource_version: str = "",
        status: bool = False,
    ) -> ObjectT:
        """A merge patch, with the version as precondition if one is given."""
        what = self._request("patch", resource, str(key))
        if status and not resource.status_subresource:
            raise error_from_status(what, 404, "NotFound", "the server could not find the requested resource")
        before = self._existing(what, resource, key)
        asked = resource_version or str(_metadata(patch).get("resourceVersion") or "")
        if asked and asked != _metadata(before)["resourceVersion"]:
            raise error_from_status(what, 409, "Conflict", "the object has been modified")
        after = copy.deepcopy(apply_merge_patch(before, patch))
        if resource.status_subresource:
            kept = before if not status else {**before, "status": after.get("status")}
            after = {**(after if not status else kept), "status": kept.get("status")}
            after = {name: copy.deepcopy(value) for name, value in after.items() if value is not None}
        self._check_metadata(what, before, after)
        _metadata(after).update({name: value for name, value in _metadata(before).items() if name in _KEPT})
        if after != before:
            self._change(resource, key, before, after)
        self._fail_after("patch", resource)
        return decode(resource.view, after)

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Remove an object, or mark it as being deleted while it has finalizers."""
        what = self._request("delete", resource, str(key))
        metadata = _metadata(self._existing(what, resource, key))
        if (uid or metadata["uid"]) != metadata["uid"]:
            raise error_from_status(what, 409, "Conflict", "the uid in the precondition does not match")
        if (resource_version or metadata["resourceVersion"]) != metadata["resourceVersion"]:
            raise error_from_status(what, 409, "Conflict", "the version in the precondition does not match")
        self._delete((resource.name, key))
        self._fail_after("delete", resource)

    async def allowed(self, review: AccessReview) -> bool:
        """Whether `denied` says otherwise."""
        name = f"{review.plural}.{review.group}" if review.group else review.plural
        return (review.verb, name) not in self.denied

    # Inside

    def _request(self, verb: str, resource: Resource[ObjectT], about: str) -> str:
        """Record a request, and refuse it if that is what a test asked for; returns what was asked, for errors."""
        self.requests.append((verb, resource.name))
        what = f"{verb} {resource.name} {about}".rstrip()
        if self._down:
            raise error_from_status(what, 503, "ServiceUnavailable", "connection refused")
        if (verb, resource.name) in self.denied:
            raise error_from_status(what, 403, "Forbidden", "no such right")
        self._raise_fault(verb, resource.name, after=False)
        return what

    def _fail_after(self, verb: str, resource: Resource[ObjectT]) -> None:
        self._raise_fault(verb, resource.name, after=True)

    def _raise_fault(self, verb: str, resource: str, *, after: bool) -> None:
        for fault in self._faults:
            if (fault.verb, fault.resource, fault.after) == (verb, resource, after) and fault.times > 0:
                fault.times -= 1
                raise fault.error

    def _existing(self, what: str, resource: Resource[ObjectT], key: Key) -> JsonObject:
        value = self._objects.get((resource.name, key))
        if value is None:
            raise error_from_status(what, 404, "NotFound", f"{resource.name} {key.name!r} not found")
        return value

    def _check_metadata(self, what: str, before: JsonObject, after: JsonObject) -> None:
        old, new = _metadata(before), _metadata(after)
        if any(old.get(name) != new.get(name) for name in _IMMUTABLE):
            raise error_from_status(what, 422, "Invalid", f"one of {', '.join(_IMMUTABLE)} may not be changed")
        if "deletionTimestamp" in old and set(_finalizers(after)) - set(_finalizers(before)):
            raise error_from_status(what, 422, "Invalid", "no new finalizers can be added to an object being deleted")

    def _change(self, resource: Resource[ObjectT], key: Key, before: JsonObject, after: JsonObject) -> None:
        """Store a changed object; one that is being deleted goes with its last finalizer."""
        metadata = _metadata(after)
        apart = {"metadata", "status"} if resource.status_subresource else {"metadata"}
        if any(before.get(name) != after.get(name) for name in {*before, *after} - apart):
            _count_generation(metadata)
        self._store((resource.name, key), after)
        if "deletionTimestamp" in metadata and not _finalizers(after):
            self._remove((resource.name, key))

    def _delete(self, where: _Where) -> None:
        before = self._objects[where]
        if not _finalizers(before):
            self._remove(where)
        elif "deletionTimestamp" not in _metadata(before):
            after = copy.deepcopy(before)
            _metadata(after).update(deletionTimestamp=self._now(), deletionGracePeriodSeconds=0)
            _count_generation(_metadata(after))
            self._store(where, after)

    def _store(self, where: _Where, value: JsonObject) -> None:
        self._version += 1
        _metadata(value)["resourceVersion"] = str(self._version)
        self._happened(_Change(self._version, where, self._objects.get(where), value))
        self._objects[where] = value

    def _remove(self, where: _Where) -> None:
        self._version += 1
        last = self._objects.pop(where)
        gone = copy.deepcopy(last)
        _metadata(gone)["resourceVersion"] = str(self._version)
        self._happened(_Change(self._version, where, gone, None))
        self._collect_owned(str(_metadata(gone).get("uid", "")))

    def _collect_owned(self, uid: str) -> None:
        alive = {_metadata(value).get("uid") for value in self._objects.values()}
        for where, value in list(self._objects.items()):
            owners = _owners(value)
            if uid in owners and not alive & owners and where in self._objects:
                self._delete(where)

    def _next_bookmark(self, deadline: float) -> float:
        """When a watch gets its next bookmark: in a minute, or shortly before it ends."""
        now = self._clock.monotonic()
        last = deadline - _LAST_BOOKMARK_SECONDS
        return min(now + _BOOKMARK_SECONDS, last if last > now else deadline)

    def _changes_after(self, version: int) -> Sequence[_Change]:
        first = len(self._history)
        while first and self._history[first - 1].version > version:
            first -= 1
        return self._history[first:]

    def _happened(self, change: _Change) -> None:
        self._history.append(change)
        name, _ = change.where
        for waker, watched in self._wakers.items():
            if watched == name:
                waker.set()
        for observe in self.observers:
            observe(name, change.before, change.after)

    def _wake_all(self) -> None:
        for waker in self._wakers:
            waker.set()

    def _now(self) -> str:
        return time_from_ns(self._clock.now_ns()).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _suffix(self) -> str:
        return "".join(self._rng.choices(_SUFFIX_LETTERS, k=_SUFFIX_LENGTH))

    def _uid(self) -> str:
        digits = f"{self._rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _metadata(value: JsonObject) -> JsonObject:
    """The metadata of an object or a patch, for reading or changing in place."""
    metadata = value.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _count_generation(metadata: JsonObject) -> None:
    """Count a change of what is asked for, in kinds that count."""
    generation = metadata.get("generation")
    if isinstance(generation, int):
        metadata["generation"] = generation + 1


def _finalizers(value: JsonObject) -> list[str]:
    finalizers = _metadata(value).get("finalizers")
    return [str(name) for name in finalizers] if isinstance(finalizers, list) else []


def _owners(value: JsonObject) -> set[JsonValue]:
    owners = _metadata(value).get("ownerReferences")
    return {str(owner["uid"]) for owner in owners if isinstance(owner, dict)} if isinstance(owners, list) else set()


def _view(resource: Resource[ObjectT], value: JsonObject) -> ObjectT | Unreadable:
    try:
        return decode(resource.view, value)
    except KubeUnreadable as error:
        metadata = _metadata(value)
        return Unreadable(Key(str(metadata.get("namespace", "")), str(metadata.get("name", ""))), error)


def _is_selected(what: str, key: Key, value: JsonObject, namespace: str, selector: Selector) -> bool:
    if namespace and key.namespace != namespace:
        return False
    labels = _metadata(value).get("labels")
    labels = labels if isinstance(labels, dict) else {}
    return (
        all(labels.get(name) == wanted for name, wanted in selector.labels.items())
        and all(name in labels for name in selector.has_labels)
        and all(_field(what, value, path) == wanted for path, wanted in selector.fields.items())
    )


def _field(what: str, value: JsonObject, path: str) -> str:
    known = {"metadata.name", "metadata.namespace"}
    if value.get("kind") == "Pod":
        known |= {"spec.nodeName", "status.phase"}
    if value.get("kind") == "Event":
        known |= {"reason", "type", *(f"involvedObject.{name}" for name in ("kind", "name", "namespace", "uid"))}
    if path not in known:
        _refuse_field(what, path)
    part: JsonValue = value
    for name in path.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return "" if part is None else str(part)


def _refuse_field(what: str, path: str) -> NoReturn:
    raise error_from_status(what, 400, "BadRequest", f"field label not supported: {path}")


def _event(
    what: str, change: _Change, resource: Resource[ObjectT], namespace: str, selector: Selector
) -> WatchEvent[ObjectT] | None:
    """What a change is to a watch with this selector; None when it does not concern it."""
    name, key = change.where
    if name != resource.name:
        return None
    before, after = (
        value if value is not None and _is_selected(what, key, value, namespace, selector) else None
        for value in (change.before, change.after)
    )
    version = str(change.version)
    if after is not None:
        kind = EventType.ADDED if before is None else EventType.MODIFIED
        return WatchEvent(kind, version, _seen(resource, change, 1, after))
    if before is not None:
        return WatchEvent(EventType.DELETED, version, _seen(resource, change, 0, before))
    return None


def _seen(resource: Resource[ObjectT], change: _Change, which: int, value: JsonObject) -> ObjectT | Unreadable:
    if which not in change.views:
        change.views[which] = _view(resource, value)
    return cast(ObjectT | Unreadable, change.views[which])

"""How a status is written: as the difference to what was seen, onto the version that was seen, and a final phase once.

Fields that the installed definitions do not know are never sent: the API server would drop them without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.base.clock import Clock
from agent.base.errors import KubeConflict, KubeNotFound
from agent.controllers.job import (
    MOVED_ANNOTATION,
    WAITING_ANNOTATION,
    Job,
    JobT,
    with_exposing,
    with_metadata,
    with_status,
)
from agent.controllers.spans import PhaseSpans
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject, merge_patch
from agent.kube.job import Phase
from agent.kube.resource import Resource
from agent.kube.times import Time, time_from_ns
from agent.observe.tracing import Tracing

MAX_MESSAGE = 4_096
"""Characters of a status message; the rest is cut. The server prints it in one line."""


class Definitions(Protocol):
    """What the server's custom resource definitions know (contract §10.2)."""

    def has_phase(self, plural: str, phase: Phase) -> bool:
        """Whether objects of this kind may have the phase."""
        ...

    def has_field(self, plural: str, path: str) -> bool:
        """Whether they have the field (`status.incrementalBytes`, `spec.cancel`)."""
        ...


class EventSink(Protocol):
    """Where Kubernetes events go. Never fails, never waits."""

    def emit(self, job: Job, reason: str, message: str, *, warning: bool = False) -> None:
        """Say that something happened to `job`."""
        ...


class StatusWriter:
    """Writes objects of the four kinds."""

    def __init__(
        self, api: KubeApi, definitions: Definitions, events: EventSink, clock: Clock, tracing: Tracing
    ) -> None:
        self._api = api
        self._definitions = definitions
        self._events = events
        self._clock = clock
        self._spans = PhaseSpans(tracing, clock)
        self._overwritten: dict[str, str] = {}
        """The version of each object, by its uid, onto which was written last."""

    def tell(self, job: Job, reason: str, message: str) -> None:
        """An event about something that is no change of phase."""
        self._events.emit(job, reason, message)

    def now(self) -> Time:
        """As objects keep it: to the second."""
        return time_from_ns(self._clock.now_ns()).replace(microsecond=0)

    def is_overwritten(self, job: Job) -> bool:
        """Whether this is the object as it was before the last write, so that another one onto it were a conflict."""
        return self._overwritten.get(job.metadata.uid) == job.metadata.resource_version

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._overwritten.pop(uid, None)

    def has_phase(self, resource: Resource[JobT], phase: Phase) -> bool:
        """Whether the server knows the phase for this kind."""
        return self._definitions.has_phase(resource.plural, phase)

    def has_field(self, resource: Resource[JobT], path: str) -> bool:
        """Whether the server knows the field for this kind."""
        return self._definitions.has_field(resource.plural, path)

    async def write(self, resource: Resource[JobT], before: JobT, after: JobT) -> JobT:
        """Write the difference. Raises `KubeConflict` when the object is not what `before` was any more."""
        patch = self._known(resource, merge_patch(before, self._spans.marked(before, after)))
        if not patch:
            return before
        written = await self._api.patch(resource, before.key, patch, resource_version=before.metadata.resource_version)
        if written.metadata.resource_version != before.metadata.resource_version:
            self._overwritten[before.metadata.uid] = before.metadata.resource_version
        if after.status.phase is not before.status.phase:
            self._tell(written, before.status.phase)
            self._spans.record(before, written)
        return written

    async def write_final(
        self,
        resource: Resource[JobT],
        job: JobT,
        change: Callable[[JobT], JobT],
        *,
        holds: Callable[[JobT], bool] = lambda _: True,
    ) -> JobT | None:
        """End the object as `change` does. What another client changed meanwhile is kept; what is final stays as it is.

        None when the object is gone. Conflicts are resolved here, as long as `holds` says of the object as it is by
        then that it may still be ended so; `KubeConflict` when it does not. Other errors of the API server are raised.
        """
        uid = job.metadata.uid
        while True:
            if job.status.phase.is_final:
                return job
            try:
                return await self.write(resource, job, change(job))
            except KubeNotFound:
                return None
            except KubeConflict:
                try:
                    job = await self._api.get(resource, job.key)
                except KubeNotFound:
                    return None
                if job.metadata.uid != uid:
                    return None
                if not holds(job):
                    raise

    def final(self, job: JobT, phase: Phase, message: str) -> JobT:
        """The object at its end, without what only counted until then."""
        ended = with_status(
            job,
            phase=phase,
            message=message[:MAX_MESSAGE],
            start_timestamp=job.status.start_timestamp or self.now(),
            completion_timestamp=self.now(),
        )
        annotations = {WAITING_ANNOTATION: None, MOVED_ANNOTATION: None}
        return with_metadata(with_exposing(ended, False), annotations=annotations)

    def _known(self, resource: Resource[JobT], patch: JsonObject) -> JsonObject:
        status = patch.get("status")
        if not isinstance(status, dict):
            return patch
        known = {
            name: value
            for name, value in status.items()
            if self._definitions.has_field(resource.plural, f"status.{name}")
        }
        rest = {name: value for name, value in patch.items() if name != "status"}
        return {**rest, "status": known} if known else rest

    def _tell(self, job: Job, before: Phase) -> None:
        phase, message = job.status.phase, job.status.message
        text = f"{before or Phase.NEW} -> {phase}" + (f": {message}" if message else "")
        self._events.emit(job, str(phase), text, warning=phase is Phase.FAILED)

"""What the cluster itself said about an object: its events, in its own words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from agent.base.clock import Clock
from agent.base.errors import KubeForbidden
from agent.kube.api import KubeApi
from agent.kube.cluster import Event
from agent.kube.meta import KubeObject
from agent.kube.resource import EVENTS
from agent.kube.selector import Selector
from agent.kube.times import ns_from_time

_DEFAULT_NAMESPACE = "default"
"""Where events about objects without a namespace are."""
MAX_WORDS: Final = 1_000
"""Characters that are taken of one text of the cluster."""
_QUIET_SECONDS = 5.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


async def events_of(api: KubeApi, obj: KubeObject) -> list[Event]:
    """Those about exactly this object, the latest first; none where this agent may not read events."""
    selector = Selector(fields={"involvedObject.uid": obj.metadata.uid})
    try:
        page = await api.list(EVENTS, obj.metadata.namespace or _DEFAULT_NAMESPACE, selector=selector)
    except KubeForbidden:
        return []
    return sorted(page.items, key=last_said, reverse=True)


async def last_warning(api: KubeApi, clock: Clock, obj: KubeObject) -> str:
    """The text of the latest warning about this object, if nothing better was said since; else empty.

    Of what was made a moment ago nothing is asked: what is said of it now mostly passes, and events are dear to list.
    """
    if _is_new(clock, obj):
        return ""
    for event in await events_of(api, obj):
        return words_of(event) if event.type == "Warning" else ""
    return ""


async def warnings_of(api: KubeApi, clock: Clock, obj: KubeObject) -> list[Event]:
    """All warnings about this object, the latest first, whatever was said since; see `last_warning` for new ones."""
    return [] if _is_new(clock, obj) else [event for event in await events_of(api, obj) if event.type == "Warning"]


def first_said(event: Event) -> datetime:
    """When an event that may have come again and again was first told."""
    return event.first_timestamp or event.event_time or event.metadata.creation_timestamp or _LONG_AGO


def last_said(event: Event) -> datetime:
    """When it was told last."""
    series = event.series.last_observed_time if event.series is not None else None
    return series or event.last_timestamp or event.event_time or event.metadata.creation_timestamp or _LONG_AGO


def words_of(event: Event) -> str:
    """Reason and message."""
    return clip(f"{event.reason}: {event.message}" if event.message else event.reason)


def clip(text: str) -> str:
    """A text of the cluster in one line, and no longer than a person would read."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def _is_new(clock: Clock, obj: KubeObject) -> bool:
    made = obj.metadata.creation_timestamp
    return made is not None and (clock.now_ns() - ns_from_time(made)) / 1e9 < _QUIET_SECONDS

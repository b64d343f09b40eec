"""Facts about the objects around a volume, for the log and the message of an object that failed (contract §9.2).

One fact a line, the cluster's own words wherever it said something, the most telling first: errors that a controller
wrote into a status, then warnings, then what is not as it should be, then the rest. What cannot be read is a fact too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum

import msgspec

from agent.base.errors import KubeError, KubeNotFound
from agent.exposers.events import clip, events_of, words_of
from agent.exposers.made import is_being_deleted
from agent.kube.api import KubeApi
from agent.kube.cluster import Event
from agent.kube.codec import ObjectT
from agent.kube.meta import Key
from agent.kube.pods import Pod, PodPhase
from agent.kube.resource import (
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Resource,
)
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.volumes import PersistentVolume, PersistentVolumeClaim

_MOST_EVENTS = 5
"""Of one object."""


class _Rank(IntEnum):
    """How much a fact tells."""

    ERROR = 0
    WARNING = 1
    LIKELY = 2
    """No failure by itself, and the reason all the same: whoever should make a volume does not."""
    UNWELL = 3
    MISSING = 4
    NORMAL = 5


_Fact = tuple[_Rank, str]


class Involved(msgspec.Struct, frozen=True, kw_only=True):
    """The objects that a job's volume depends on, whether they exist or not. Volumes are found by their claims."""

    pods: tuple[Key, ...] = ()
    claims: tuple[Key, ...] = ()
    snapshots: tuple[Key, ...] = ()
    contents: tuple[Key, ...] = ()


async def diagnose(api: KubeApi, involved: Involved) -> tuple[str, ...]:
    """The facts. Raises nothing that the API server may answer."""
    facts: list[_Fact] = []
    for key in involved.pods:
        facts += await _facts(api, PODS, key, _of_pod)
    volumes: list[Key] = []
    for key in involved.claims:
        facts += await _facts(api, PERSISTENT_VOLUME_CLAIMS, key, lambda claim: _of_claim(claim, volumes))
    for key in volumes:
        facts += await _facts(api, PERSISTENT_VOLUMES, key, _of_volume)
    for key in involved.snapshots:
        facts += await _facts(api, VOLUME_SNAPSHOTS, key, _of_snapshot)
    for key in involved.contents:
        facts += await _facts(api, VOLUME_SNAPSHOT_CONTENTS, key, _of_content)
    return tuple(text for _, text in sorted(facts, key=lambda fact: fact[0]))


async def _facts(
    api: KubeApi, resource: Resource[ObjectT], key: Key, describe: Callable[[ObjectT], Iterator[_Fact]]
) -> list[_Fact]:
    what = f"{resource.view.__name__} {key}"
    try:
        found = await api.get(resource, key)
        events = await events_of(api, found)
    except KubeNotFound:
        return [(_Rank.MISSING, f"{what} does not exist")]
    except KubeError as error:
        return [(_Rank.MISSING, f"{what} cannot be looked at: {error}")]
    facts = list(describe(found))
    if is_being_deleted(found):
        facts.append((_Rank.UNWELL, f"is being deleted, held by {', '.join(found.metadata.finalizers) or 'its node'}"))
    facts += [(_rank_of(event), words_of(event)) for event in events[:_MOST_EVENTS]]
    return [(rank, f"{what}: {text}") for rank, text in facts]


def _rank_of(event: Event) -> _Rank:
    if event.reason == "ExternalProvisioning":
        return _Rank.LIKELY
    if event.type != "Warning":
        return _Rank.NORMAL
    if event.reason == "SnapshotContentMissing":  # as between the making of our copy of a snapshot and of its content
        return _Rank.UNWELL
    about_a_claim = event.reason == "FailedScheduling" and "persistentvolumeclaim" in event.message.lower()
    return _Rank.UNWELL if about_a_claim else _Rank.WARNING  # the claim itself tells why (contract §13.11)


def _of_pod(pod: Pod) -> Iterator[_Fact]:
    well = pod.status.phase is PodPhase.RUNNING
    where = f" on node {pod.spec.node_name}" if pod.spec.node_name else ""
    yield _Rank.NORMAL if well else _Rank.UNWELL, f"phase {pod.status.phase or 'unknown'}{where}"
    if pod.status.message or pod.status.reason:
        yield _Rank.ERROR, clip(f"{pod.status.reason}: {pod.status.message}")
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if (waiting := status.state.waiting) is not None:
            yield _Rank.UNWELL, clip(f"container waits: {waiting.reason}: {waiting.message}")
        if (end := status.state.terminated) is not None:
            text = f"container ended with exit status {end.exit_code}: {end.reason}: {end.message}"
            yield _Rank.ERROR if end.exit_code else _Rank.NORMAL, clip(text)
    for condition in pod.status.conditions:
        if condition.status == "False" and condition.message:
            yield _Rank.UNWELL, clip(f"not {condition.type}: {condition.reason}: {condition.message}")


def _of_claim(claim: PersistentVolumeClaim, volumes: list[Key]) -> Iterator[_Fact]:
    if claim.spec.volume_name:
        volumes.append(Key("", claim.spec.volume_name))
    well = claim.status.phase == "Bound"
    rank = _Rank.NORMAL if well else _Rank.UNWELL
    yield rank, f"phase {claim.status.phase or 'unknown'}, class {claim.spec.storage_class_name or 'by default'}"


def _of_volume(volume: PersistentVolume) -> Iterator[_Fact]:
    well = volume.status.phase == "Bound"
    yield _Rank.NORMAL if well else _Rank.UNWELL, f"phase {volume.status.phase or 'unknown'}"
    if volume.status.message or volume.status.reason:
        yield _Rank.ERROR, clip(f"{volume.status.reason}: {volume.status.message}")


def _of_snapshot(snapshot: VolumeSnapshot) -> Iterator[_Fact]:
    status = snapshot.status
    content = status.bound_volume_snapshot_content_name or "none"
    ready = "ready to use" if status.ready_to_use else "not ready to use"
    yield _Rank.NORMAL if status.ready_to_use else _Rank.UNWELL, f"{ready}, content {content}"
    if status.error is not None:
        yield _Rank.ERROR, clip(status.error.message)


def _of_content(content: VolumeSnapshotContent) -> Iterator[_Fact]:
    status = content.status
    ready = "ready to use" if status.ready_to_use else "not ready to use"
    text = f"{ready}, policy {content.spec.deletion_policy}, driver {content.spec.driver}"
    yield _Rank.NORMAL if status.ready_to_use else _Rank.UNWELL, text
    if status.error is not None:
        yield _Rank.ERROR, clip(status.error.message)

"""When objects came to their phases, seen by a watch: Kubernetes' own times are whole seconds, not of all phases."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from kubernetes import watch
from urllib3.exceptions import ProtocolError

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, phase

FINAL: Final = frozenset({"Completed", "Failed", "Canceled"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a watch has told so far: of each object the moment of each phase, in seconds; names of pods."""

    moments: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """By kind and name; the phase "" is that of the creation."""
    pods: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)
    """Nobody watches any more."""

    def has_ended(self, name: tuple[str, str]) -> bool:
        """Whether its final phase was seen."""
        return bool(FINAL & self.moments.get(name, {}).keys())

    def steps(self, kind: str, name: str) -> tuple[float, float, float, float]:
        """Until accepted, from there until prepared, until in progress, until the end."""
        moments = self.moments[kind, name]
        end = next(at for step, at in moments.items() if step in FINAL)
        # A watch may skip a phase that lasted for a moment: it took no time.
        at = [moments[""]]
        for step in ("Accepted", "Prepared", "InProgress"):
            at.append(moments.get(step, at[-1]))
        accepted, prepared, progress = (later - earlier for earlier, later in itertools.pairwise(at))
        return accepted, prepared, progress, end - at[-1]

    def seconds(self, names: Sequence[tuple[str, str]]) -> float:
        """From the first one's creation to the last one's end."""
        ends = [max(self.moments[name].values()) for name in names]
        return max(ends) - min(self.moments[name][""] for name in names)


@contextmanager
def watching(cluster: Cluster, kinds: Sequence[str]) -> Iterator[Seen]:
    """Watch these kinds, and pods, in Velero's namespace."""
    seen = Seen()
    watchers = {kind: watch.Watch() for kind in (*kinds, "Pod")}
    threads = [
        threading.Thread(target=_watch, args=(cluster, kind, watcher, seen), daemon=True)
        for kind, watcher in watchers.items()
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # what is there before is listed first
    try:
        yield seen
    finally:
        seen.ended.set()
        for watcher in watchers.values():
            watcher.stop()


def _watch(cluster: Cluster, kind: str, watcher: watch.Watch, seen: Seen) -> None:
    resource = cluster.resource(kind)
    try:
        for event in resource.watch(namespace=VELERO_NAMESPACE, watcher=watcher, resource_version=0, timeout=3600):
            _note(kind, event["type"], event["raw_object"], seen)
    except ProtocolError:  # which is how a stream says that it was closed
        if not seen.ended.is_set():
            raise


def _note(kind: str, what: str, found: Mapping[str, Any], seen: Seen) -> None:
    name = found["metadata"]["name"]
    if kind == "Pod":
        if what == "ADDED":
            seen.pods.add(name)
        return
    moments = seen.moments.setdefault((kind, name), {})
    moments.setdefault(phase(dict(found)).replace("New", ""), time.monotonic())
    moments.setdefault("", time.monotonic())

"""Objects recorded from a cluster with the stock agent: ours go the same way, and say the same or more at each step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.base.errors import MoverCrashed
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    Resource,
)
from agent.testing.fake_exposer import ExposeScript
from agent.testing.fake_movers import Script
from agent.testing.virtual_loop import VirtualLoop
from tests.unit.controllers.controllers_kit import NAMESPACE, Cluster, Server

NODE = "node1"
KINDS: dict[str, Resource[Any]] = {
    "dataupload": DATA_UPLOADS,
    "datadownload": DATA_DOWNLOADS,
    "podvolumebackup": POD_VOLUME_BACKUPS,
    "podvolumerestore": POD_VOLUME_RESTORES,
}
WAY = ("New", "Accepted", "Prepared", "InProgress", "Canceling", "Canceled", "Completed", "Failed")


def recorded(golden: Path, name: str) -> dict[str, JsonObject]:
    """The object as recorded in each phase."""
    files = {phase: golden / "objects" / f"{name}.{phase}.yaml" for phase in WAY}
    return {phase: yaml.safe_load(file.read_text()) for phase, file in files.items() if file.is_file()}


def part(value: JsonObject, name: str) -> JsonObject:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


class Replay:
    """The same object, done by our agent."""

    def __init__(self, name: str, stock: dict[str, JsonObject], loop: VirtualLoop) -> None:
        self.name, self.stock, self.loop = name, stock, loop
        self.resource = KINDS[name.partition("-")[0]]
        self.cluster = Cluster(random.Random(1), server=Server(18), clock=loop.clock)
        self.ours: dict[str, JsonObject] = {}
        self.cluster.kube.observers.append(self._observe)

    def _observe(self, name: str, before: JsonObject | None, after: JsonObject | None) -> None:
        if name == self.resource.name and after is not None:
            self.ours[str(part(after, "status").get("phase") or "New")] = dict(after)

    async def run(self) -> None:
        new = self.stock["New"]
        metadata, spec, kube = part(new, "metadata"), part(new, "spec"), self.cluster.kube
        key = Key(NAMESPACE, str(metadata["name"]))
        never_ready, is_canceled = "prepare-timeout" in self.name, "cancelled" in self.name
        self.cluster.scripts[key] = ExposeScript(node=NODE, seconds=1e9 if never_ready else 3.0)
        killed = MoverCrashed("the worker was killed by SIGKILL") if "killed" in self.name else None
        self.cluster.moved.script = lambda _: Script(seconds=300.0 if is_canceled else 12.0, error=killed)
        self._surroundings(spec)
        fresh = {name: value for name, value in metadata.items() if name not in {"finalizers", "resourceVersion"}}
        kube.put_raw(self.resource, {**new, "metadata": fresh})
        self.cluster.start_agent(NODE)
        if is_canceled:
            await self.loop.clock.sleep(30.0)
            await self.cluster.patch(self.resource, key.name, {"spec": {"cancel": True}})
        await self.loop.clock.sleep(2400.0)
        await self.cluster.stop()

    def _surroundings(self, spec: JsonObject) -> None:
        """The claim of a download; the waiting pod of a restore."""
        if self.resource is DATA_DOWNLOADS:
            target = part(spec, "targetVolume")
            claim: JsonObject = {"name": str(target["pvc"]), "namespace": str(target["namespace"]), "uid": "claim"}
            kind: JsonObject = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim}
            self.cluster.kube.put_raw(PERSISTENT_VOLUME_CLAIMS, kind)
        if self.resource is POD_VOLUME_RESTORES:
            pod = part(spec, "pod")
            waits: JsonObject = {"name": "restore-wait", "state": {"running": {}}}
            self.cluster.kube.put_raw(
                PODS,
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {name: str(pod[name]) for name in ("name", "namespace", "uid")},
                    "spec": {"nodeName": NODE, "initContainers": [{"name": "restore-wait"}]},
                    "status": {"phase": "Pending", "initContainerStatuses": [waits]},
                },
            )


@pytest.mark.parametrize(
    "name",
    [
        "dataupload",
        "dataupload-block",
        "dataupload-cancelled",
        "dataupload-mover-killed",
        "dataupload-prepare-timeout",
        "datadownload",
        "podvolumebackup",
        "podvolumerestore",
    ],
)
def test_a_recorded_object_goes_through_the_same_phases_with_at_least_the_same_fields(golden: Path, name: str) -> None:
    stock = recorded(golden, name)
    with VirtualLoop() as loop:
        replay = Replay(name, stock, loop)
        loop.run_until_complete(replay.run())
    ours = replay.ours
    assert [phase for phase in WAY if phase in ours] == [phase for phase in WAY if phase in stock]
    for phase, theirs in stock.items():
        said = part(ours[phase], "status")
        for field, value in part(theirs, "status").items():
            if field == "progress" and not part(part(theirs, "status"), field):
                continue
            assert field in said, f"{phase}: the stock agent says {field}: {value}"
            if field in {"node", "acceptedByNode", "nodeOS", "path", "phase"}:
                assert said[field] == value
        assert part(part(ours[phase], "metadata"), "labels") == part(part(theirs, "metadata"), "labels")
    last = part(ours[next(phase for phase in reversed(WAY) if phase in ours)], "status")
    assert {"completionTimestamp", "startTimestamp"} <= set(last)
    assert last["phase"] == "Completed" or last["message"]

"""Changes the node agent of the cluster as a user does: one DaemonSet goes, the other's manifests are applied."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Final

from hack.node import agents
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, show

STOCK: Final = os.environ.get("E2E_STOCK_IMAGE", agents.STOCK)
OURS: Final = os.environ.get("E2E_AGENT_IMAGE", agents.OURS)
OUR_MANIFESTS: Final = Path(os.environ.get("E2E_AGENT_MANIFESTS", agents.OUR_MANIFESTS))

_PLACE: Final = f"--namespace={VELERO_NAMESPACE}"
_UNTIL_ENDED: Final = 150
"""Seconds: what an agent of ours may take to save what its backups have, and some."""
_UNTIL_READY: Final = 240
"""Seconds; an agent that could not say that it ended is waited for."""


class AgentSwitch:
    """The DaemonSet `node-agent`, and the way back to what it was.

    Rights stay when an agent goes, as the guide has it: those of ours do not disturb Velero's.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._patient = False
        found = self._daemon_set()
        kept = ("name", "namespace", "labels")
        self._before: Object = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {name: found["metadata"].get(name) for name in kept},
            "spec": found["spec"],
        }
        self._image_before = self.image

    @property
    def image(self) -> str:
        """Nothing when there is no agent."""
        found = self._cluster.get("DaemonSet", "node-agent", VELERO_NAMESPACE)
        return str(agents.container(found)["image"]) if found else ""

    def _daemon_set(self) -> Object:
        found = self._cluster.get("DaemonSet", "node-agent", VELERO_NAMESPACE)
        assert found is not None
        return found

    def use(self, image: str) -> None:
        """Have the stock agent or ours run on every node, each by its own manifests."""
        if image == self.image:
            return
        if image == self._image_before:
            self.put_back()
        elif image == OURS:
            self._replace(agents.our_agent(OUR_MANIFESTS))
        else:
            self._replace([self._stock(image)])

    def drop_in(self) -> None:
        """Have ours run by the stock agent's manifest, of which only the image is changed; until `restore`."""
        self._replace([self._stock(OURS)])

    def _stock(self, image: str) -> Object:
        return agents.stock_agent(Path(self._cluster.kubeconfig), image)

    def be_patient(self) -> None:
        """Without the short time-out that `hack/cluster` gives agents to prepare a volume; until `restore`."""
        self._patient = True
        if self._with_options(self._before) != self._before:
            self._replace([self._before])

    def put_back(self) -> None:
        """The agent under test, with all that it brings, whatever became of it."""
        rights = agents.our_agent(OUR_MANIFESTS) if self._image_before == OURS else []
        self._replace([*(found for found in rights if found["kind"] != "DaemonSet"), self._before])

    def restore(self) -> None:
        """The agent under test as it was, unless nothing has changed."""
        self._patient = False
        found = self._cluster.get("DaemonSet", "node-agent", VELERO_NAMESPACE)
        if found is None or found["spec"] != self._before["spec"]:
            self.put_back()

    def _replace(self, objects: list[Object]) -> None:
        delete = ("delete", "daemonset", "node-agent", _PLACE, "--ignore-not-found", "--cascade=foreground")
        self._cluster.kubectl(*delete, seconds=_UNTIL_ENDED)
        listed = {"apiVersion": "v1", "kind": "List", "items": [self._with_options(found) for found in objects]}
        apply = ("apply", "--server-side", "--force-conflicts", "--filename=-")
        self._cluster.kubectl(*apply, given=json.dumps(listed))
        self.wait_until_ready()

    def _with_options(self, found: Object) -> Object:
        if found["kind"] != "DaemonSet" or not self._patient:
            return found
        changed = copy.deepcopy(found)
        container = agents.container(changed)
        container["args"] = [one for one in container["args"] if not one.startswith(agents.PREPARE_TIMEOUT)]
        return changed

    def wait_until_ready(self, seconds: float = _UNTIL_READY) -> None:
        def ready() -> bool:
            found = self._daemon_set()
            status = found["status"]
            wanted = status["desiredNumberScheduled"]
            observed = status.get("observedGeneration") == found["metadata"]["generation"]
            return bool(observed and status.get("updatedNumberScheduled") == wanted == status.get("numberAvailable"))

        self._cluster.wait("the node agent runs", seconds, ready, show=lambda: show(self._daemon_set()))

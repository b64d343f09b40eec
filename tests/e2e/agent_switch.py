"""Changes the node agent of the cluster: only the image of the DaemonSet `node-agent`, as a user does."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, show

STOCK: Final = os.environ.get("E2E_STOCK_IMAGE", "velero/velero:v1.18.2")
OURS: Final = os.environ.get("E2E_AGENT_IMAGE", "lighterage/lighterage:dev")


class AgentSwitch:
    """The DaemonSet's image, and the way back to what it was."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self.image
        self._options_before: list[str] = self._container()["args"]

    @property
    def image(self) -> str:
        return str(self._container()["image"])

    def _container(self) -> dict[str, Any]:
        container: dict[str, Any] = self._daemon_set()["spec"]["template"]["spec"]["containers"][0]
        return container

    def _daemon_set(self) -> Object:
        found = self._cluster.get("DaemonSet", "node-agent", VELERO_NAMESPACE)
        assert found is not None
        return found

    def use(self, image: str) -> None:
        """Change the image, and wait until it runs on every node."""
        if image == self.image:
            return
        container = {"name": "node-agent", "image": image}
        self._cluster.kubectl(
            "set", "image", "daemonset/node-agent", f"{container['name']}={image}", f"--namespace={VELERO_NAMESPACE}"
        )
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 90) -> None:
        def ready() -> bool:
            found = self._daemon_set()
            status = found["status"]
            wanted = status["desiredNumberScheduled"]
            observed = status.get("observedGeneration") == found["metadata"]["generation"]
            return bool(observed and status.get("updatedNumberScheduled") == wanted == status.get("numberAvailable"))

        self._cluster.wait("the node agent runs", seconds, ready, show=lambda: show(self._daemon_set()))

    def be_patient(self) -> None:
        """Without the short time-out that `hack/cluster` gives agents to prepare a volume, for the sake of tests."""
        self._set_options([one for one in self._options_before if not one.startswith("--data-mover-prepare-timeout")])

    def _set_options(self, options: list[str]) -> None:
        if options == self._container()["args"]:
            return
        change = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": options}]
        place = f"--namespace={VELERO_NAMESPACE}"
        self._cluster.kubectl("patch", "daemonset/node-agent", place, "--type=json", f"--patch={json.dumps(change)}")
        self.wait_until_ready()

    def restore(self) -> None:
        self._set_options(self._options_before)
        self.use(self._before)

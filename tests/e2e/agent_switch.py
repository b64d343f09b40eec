"""Changes the node agent of the cluster: only the image of the DaemonSet `node-agent`, as a user does."""

from __future__ import annotations

import os
from typing import Final

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, show

STOCK: Final = os.environ.get("E2E_STOCK_IMAGE", "velero/velero:v1.18.2")
OURS: Final = os.environ.get("E2E_AGENT_IMAGE", "lighterage/lighterage:dev")


class AgentSwitch:
    """The DaemonSet's image, and the way back to what it was."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self.image

    @property
    def image(self) -> str:
        return str(self._daemon_set()["spec"]["template"]["spec"]["containers"][0]["image"])

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

    def restore(self) -> None:
        self.use(self._before)

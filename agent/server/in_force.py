"""The configuration put into force: whoever does not read it at each use is told here, now and at each change.

What is set through the control API counts over the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.controllers.controllers import Controllers
from agent.controllers.limits import jobs_at_once
from agent.kube.cluster import Node
from agent.kube.informer import Informer
from agent.kube.meta import Key
from agent.observe.metrics import LimitsInForce
from agent.server.capacity import Capacity, capacity
from agent.server.live_configuration import LiveConfiguration
from agent.server.live_limits import LiveLimits
from agent.server.parts import Basis


class ConfigurationInForce:
    """What a node may do at the moment. Follows the configuration and the labels of the node."""

    def __init__(self, basis: Basis, config: LiveConfiguration, node_labels: Mapping[str, str]) -> None:
        self._basis = basis
        self._config = config
        self._labels = node_labels
        self.capacity: Capacity = capacity(config(), node_labels)
        """As configured. The memory of a worker is that of the start, as long as the agent runs."""
        self._controllers: Controllers | None = None
        self.limits = LiveLimits(lambda: self.capacity, self._apply)

    def follow(self, nodes: Informer[Node], controllers: Controllers) -> None:
        """Tell `controllers`, the log and the metrics, now and whenever something changes."""
        own = Key("", self._basis.flags.node)

        def node_changed(key: Key) -> None:
            node = nodes.store.get(own)
            if key == own and node is not None and node.metadata.labels != self._labels:
                self._labels = node.metadata.labels
                self._apply()

        self._controllers = controllers
        self._apply()
        self._config.add_handler(lambda _: self._apply())
        nodes.add_handler(node_changed)

    def _apply(self) -> None:
        basis, config, controllers = self._basis, self._config(), self._controllers
        worker_memory = self.capacity.limits.worker_memory_bytes
        self.capacity = capacity(config, self._labels, worker_memory_bytes=worker_memory)
        now = self.limits.over(self.capacity)
        concurrency, limits = now.concurrency, now.limits
        basis.logging.set_level(config.log_level)
        if controllers is not None:
            controllers.set_limits(limits)
            controllers.set_concurrency(concurrency)
            controllers.set_prepare_queue_length(config.load_concurrency.prepare_queue_length)
        basis.metrics.set_limits(
            LimitsInForce(
                upload_bytes_per_second=limits.upload_bytes_per_second,
                download_bytes_per_second=limits.download_bytes_per_second,
                requests_per_second=limits.requests_per_second,
                jobs=jobs_at_once(concurrency, limits),
                memory_bytes=limits.memory_bytes,
                worker_memory_bytes=worker_memory,
            )
        )

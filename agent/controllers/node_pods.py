"""The pods of this node, kept up to date, and which objects to look at when one of them changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from agent.base.clock import Clock
from agent.kube.api import KubeApi
from agent.kube.informer import Informer
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import PODS
from agent.kube.selector import Selector

_LABEL = "label"
_UID = "uid"


class NodePodInformer:
    """Implements `NodePods`."""

    def __init__(self, api: KubeApi, node: str, clock: Clock, rng: random.Random) -> None:
        self._informer: Informer[Pod] = Informer(
            api,
            PODS,
            clock,
            rng,
            selector=Selector(fields={"spec.nodeName": node}),
            indexes={_LABEL: _labels, _UID: lambda pod: (pod.metadata.uid,)},
        )
        self._known: dict[Key, Pod] = {}
        self._handlers: list[Callable[[Pod], None]] = []
        self._informer.add_handler(self._changed)

    def add_handler(self, handler: Callable[[Pod], None]) -> None:
        """Call `handler` with each pod that appeared, changed or went. It must not block."""
        self._handlers.append(handler)

    async def run(self) -> None:
        """Follow until canceled."""
        await self._informer.run()

    async def wait_synced(self) -> None:
        """Wait for a first complete list."""
        await self._informer.wait_synced()

    def by_label(self, label: str, value: str) -> list[Pod]:
        """Those with this label, in any namespace."""
        return self._informer.store.by_index(_LABEL, f"{label}={value}")

    def by_uid(self, uid: str) -> Pod | None:
        """The one with this uid."""
        found = self._informer.store.by_index(_UID, uid)
        return found[0] if found else None

    def _changed(self, key: Key) -> None:
        pod = self._informer.store.get(key)
        known = self._known.pop(key, None)
        if pod is not None:
            self._known[key] = pod
        about = pod or known
        if about is not None:
            for handler in self._handlers:
                handler(about)


def _labels(pod: Pod) -> Iterable[str]:
    return [f"{label}={value}" for label, value in pod.metadata.labels.items()]

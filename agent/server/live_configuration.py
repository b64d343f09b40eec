"""The configuration as it is now: loaded at start, watched, and told to whoever has to do something about a change.

At start a mistake is refused. Later it is not: the last good configuration stays in force, and that is said. Whoever
reads the configuration calls this object each time (`Callable[[], AgentConfig]`), so most changes need nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace

import structlog

from agent.base.clock import Clock
from agent.base.errors import ConfigurationError, KubeError, KubeNotFound
from agent.kube.agent_config import AgentConfig, CachePVC
from agent.kube.api import KubeApi
from agent.kube.informer import Informer
from agent.kube.meta import ConfigMap, Key
from agent.kube.resource import CONFIG_MAPS, PRIORITY_CLASSES, STORAGE_CLASSES
from agent.kube.selector import Selector
from agent.kube.volumes import ReclaimPolicy
from agent.server.configuration import Loaded, parse_configuration

_log = structlog.stdlib.get_logger(__name__)

ChangeHandler = Callable[[AgentConfig], None]
Teller = Callable[[str, str, bool], None]
"""Reason, message, and whether it is a warning: an event about this agent."""


@dataclass(frozen=True, slots=True)
class ConfigMaps:
    """Which ConfigMaps, in which namespace; an empty name: none."""

    namespace: str
    stock: str = ""
    own: str = ""


class LiveConfiguration:
    """Call it for the configuration as it is now."""

    def __init__(self, api: KubeApi, clock: Clock, rng: random.Random, maps: ConfigMaps, tell: Teller) -> None:
        self._api = api
        self._maps = maps
        self._tell = tell
        self._config = AgentConfig()
        self._warnings: tuple[str, ...] = ()
        self._handlers: list[ChangeHandler] = []
        self._changed = asyncio.Event()
        self._informers: dict[str, Informer[ConfigMap]] = {
            name: Informer(
                api,
                CONFIG_MAPS,
                clock,
                rng,
                namespace=maps.namespace,
                selector=Selector(fields={"metadata.name": name}),
            )
            for name in (maps.stock, maps.own)
            if name
        }

    def __call__(self) -> AgentConfig:
        """The configuration in force."""
        return self._config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was ignored of it, and why."""
        return self._warnings

    def add_handler(self, handler: ChangeHandler) -> None:
        """Call `handler` with each new configuration, before the next thing happens."""
        self._handlers.append(handler)

    async def load(self) -> None:
        """Read it for the first time.

        Raises `ConfigurationError` when Velero's ConfigMap is named but missing, as the stock agent does, or when
        either has a mistake; `KubeError` when it cannot be read. Ours may be missing.
        """
        stock, own = await self._read(self._maps.stock), await self._read(self._maps.own)
        if self._maps.stock and stock is None:
            raise ConfigurationError(
                f"there is no ConfigMap {self._maps.namespace}/{self._maps.stock}",
                hint="create it, or leave --node-agent-configmap out",
            )
        self._take(await in_cluster(self._api, parse_configuration(stock, own)))

    async def run(self) -> None:
        """Follow both ConfigMaps until canceled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                informer.add_handler(lambda _: self._changed.set())
                group.create_task(informer.run())
            for informer in self._informers.values():
                await informer.wait_synced()
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._apply()

    async def _apply(self) -> None:
        """Take over what the ConfigMaps say now, if it can be used."""
        stock, own = self._seen(self._maps.stock), self._seen(self._maps.own)
        if self._maps.stock and stock is None:
            self._refuse(f"the ConfigMap {self._maps.namespace}/{self._maps.stock} is gone")
            return
        try:
            loaded = await in_cluster(self._api, parse_configuration(stock, own))
        except (ConfigurationError, KubeError) as error:
            self._refuse(str(error))
            return
        before = self._config
        changes = list(differences(before, loaded.config))
        if not changes:
            return
        self._take(loaded)
        text = "; ".join(changes)
        _log.info("the configuration has changed", changes=changes)
        self._tell("ConfigurationChanged", text, False)
        for handler in self._handlers:
            handler(loaded.config)

    def _take(self, loaded: Loaded) -> None:
        self._config, self._warnings = loaded.config, loaded.warnings
        for warning in loaded.warnings:
            _log.warning("configuration", warning=warning)

    def _refuse(self, why: str) -> None:
        _log.error("the new configuration cannot be used; the one before stays in force", error=why)
        self._tell("ConfigurationInvalid", f"the configuration before stays in force: {why}", True)

    def _seen(self, name: str) -> ConfigMap | None:
        informer = self._informers.get(name)
        return None if informer is None else informer.store.get(Key(self._maps.namespace, name))

    async def _read(self, name: str) -> ConfigMap | None:
        if not name:
            return None
        try:
            return await self._api.get(CONFIG_MAPS, Key(self._maps.namespace, name))
        except KubeNotFound:
            return None


async def in_cluster(api: KubeApi, loaded: Loaded) -> Loaded:
    """The configuration without classes that the cluster does not have, each with a warning (§4.1)."""
    config, warnings = loaded.config, list(loaded.warnings)
    if config.priority_class_name:
        try:
            await api.get(PRIORITY_CLASSES, Key("", config.priority_class_name))
        except KubeError as error:
            warnings.append(f"priorityClassName is ignored: {error}")
            config = replace(config, priority_class_name="")
    if config.cache_pvc.storage_class:
        try:
            storage_class = await api.get(STORAGE_CLASSES, Key("", config.cache_pvc.storage_class))
        except KubeError as error:
            warnings.append(f"cachePVC is ignored: {error}")
            config = replace(config, cache_pvc=CachePVC())
        else:
            if storage_class.reclaim_policy is not ReclaimPolicy.DELETE:
                warnings.append("cachePVC is ignored: its storage class does not delete its volumes")
                config = replace(config, cache_pvc=CachePVC())
    return Loaded(config, tuple(warnings))


def differences(before: object, after: object, path: str = "") -> Iterator[str]:
    """What changed between two dataclasses, by the names of the ConfigMap: `limits.memoryBytes: 0 -> 1024`."""
    if is_dataclass(before) and not isinstance(before, type) and type(before) is type(after):
        for one in fields(before):
            first, *others = one.name.split("_")
            name = first + "".join(word.capitalize() for word in others)
            where = f"{path}.{name}" if path else name
            yield from differences(getattr(before, one.name), getattr(after, one.name), where)
    elif before != after:
        yield f"{path}: {before} -> {after}"

"""The configuration as it is now: loaded at start, watched, and told to whoever has to do something about a change.

At start a mistake is refused. Later it is not: the last good configuration stays in force, and that is said. Whoever
reads the configuration calls this object each time (`Callable[[], AgentConfig]`), so most changes need nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import msgspec
import structlog
from msgspec.structs import replace

from agent.base.clock import Clock
from agent.base.errors import ConfigurationError, KubeError, KubeForbidden, KubeNotFound, KubeUnavailable
from agent.kube.agent_config import AgentConfig, CachePVC
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.informer import Informer
from agent.kube.meta import ConfigMap, Key
from agent.kube.resource import CONFIG_MAPS, PRIORITY_CLASSES, STORAGE_CLASSES, Resource
from agent.kube.selector import Selector
from agent.kube.volumes import ReclaimPolicy, StorageClass
from agent.server.configuration import Loaded, parse_configuration

_log = structlog.stdlib.get_logger(__name__)

ChangeHandler = Callable[[AgentConfig], None]
Teller = Callable[[str, str, bool], None]
"""Reason, message, and whether it is a warning: an event about this agent."""


class ConfigMaps(msgspec.Struct, frozen=True):
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
        self._loaded = Loaded(AgentConfig())
        self._refused = False
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
        return self._loaded.config

    @property
    def is_refused(self) -> bool:
        """Whether the ConfigMaps as they stand have a mistake, so that what is in force is older."""
        return self._refused

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was ignored of it, and why."""
        return self._loaded.warnings

    def add_handler(self, handler: ChangeHandler) -> None:
        """Call `handler` with each new configuration, before the next thing happens."""
        self._handlers.append(handler)

    async def load(self) -> None:
        """Read it for the first time.

        Raises `ConfigurationError` when Velero's ConfigMap is named but missing, as the stock agent does, or when
        either has a mistake; `KubeError` when it cannot be read. Ours may be missing, or not be ours to read: Velero's
        agent works without such a right, too.
        """
        stock, own = await self._read(self._maps.stock), await self._read_ours()
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
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        except KubeError as error:  # the next resync asks again
            _log.warning("the new configuration cannot be checked yet", error=str(error))
            return
        self._refused = False
        before = self._loaded
        if loaded == before:
            return
        self._take(loaded)
        if loaded.config == before.config:
            return
        changes = [*differences(before.stock, loaded.stock), *differences(before.own, loaded.own)]
        _log.info("the configuration has changed", changes=changes)
        self._tell("ConfigurationChanged", "; ".join(changes) or "the cluster has other classes", False)
        for handler in self._handlers:
            handler(loaded.config)

    def _take(self, loaded: Loaded) -> None:
        self._loaded = loaded
        for warning in loaded.warnings:
            _log.warning("configuration", warning=warning)

    def _refuse(self, why: str) -> None:
        self._refused = True
        _log.error("the new configuration cannot be used; the one before stays in force", error=why)
        self._tell("ConfigurationInvalid", f"the configuration before stays in force: {why}", True)

    def _seen(self, name: str) -> ConfigMap | None:
        informer = self._informers.get(name)
        return None if informer is None else informer.store.get(Key(self._maps.namespace, name))

    async def _read_ours(self) -> ConfigMap | None:
        try:
            return await self._read(self._maps.own)
        except KubeForbidden as error:
            _log.warning("what our configuration says is not known", error=str(error))
            return None

    async def _read(self, name: str) -> ConfigMap | None:
        if not name:
            return None
        try:
            return await self._api.get(CONFIG_MAPS, Key(self._maps.namespace, name))
        except KubeNotFound:
            return None


async def in_cluster(api: KubeApi, loaded: Loaded) -> Loaded:
    """The configuration without classes that the cluster does not have, each with a warning (§4.1).

    Raises `KubeUnavailable`.
    """
    config, warnings = loaded.config, list(loaded.warnings)
    if config.priority_class_name:
        obstacle = await _obstacle(api, PRIORITY_CLASSES, config.priority_class_name)
        if obstacle:
            warnings.append(f"priorityClassName is ignored: {obstacle}")
            config = replace(config, priority_class_name="")
    if config.cache_pvc.storage_class:
        obstacle = await _obstacle(api, STORAGE_CLASSES, config.cache_pvc.storage_class, _deletes_volumes)
        if obstacle:
            warnings.append(f"cachePVC is ignored: {obstacle}")
            config = replace(config, cache_pvc=CachePVC())
    return replace(loaded, config=config, warnings=tuple(warnings))


async def _obstacle(
    api: KubeApi, resource: Resource[ObjectT], name: str, check: Callable[[ObjectT], str] = lambda _: ""
) -> str:
    """Why a class cannot be used; empty when it can."""
    try:
        return check(await api.get(resource, Key("", name)))
    except KubeUnavailable:
        raise
    except KubeError as error:
        return str(error)


def _deletes_volumes(storage_class: StorageClass) -> str:
    keeps = storage_class.reclaim_policy is not ReclaimPolicy.DELETE
    return "its storage class does not delete its volumes" if keeps else ""


def differences(before: msgspec.Struct, after: msgspec.Struct, path: str = "") -> Iterator[str]:
    """What changed between two documents of one type, by its keys: `loadConcurrency.globalConfig: 1 -> 4`."""
    for field in msgspec.structs.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        where = f"{path}.{field.encode_name}" if path else field.encode_name
        if isinstance(old, msgspec.Struct) and isinstance(new, msgspec.Struct):
            yield from differences(old, new, where)
        elif old != new:
            yield f"{where}: {_text(old)} -> {_text(new)}"


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()

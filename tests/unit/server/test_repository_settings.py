"""Velero's configuration of new repositories, as far as agents read it (contract §4.2)."""

from __future__ import annotations

import pytest

from agent.base.errors import ConfigurationError
from agent.exposers.settings import DEFAULT_CACHE_MB
from agent.kube.meta import ConfigMap, ObjectMeta
from agent.kube.resource import CONFIG_MAPS
from agent.server.repository_settings import cache_limit_mb
from tests.unit.server.server_kit import NAMESPACE, World


async def _limit(**data: str) -> int:
    world = World()
    metadata = ObjectMeta(name="repositories", namespace=NAMESPACE)
    await world.api.create(CONFIG_MAPS, ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data=data))
    return await cache_limit_mb(world.api, NAMESPACE, "repositories")


async def test_the_limit_is_under_the_type_of_the_repository() -> None:
    assert await _limit(kopia='{"cacheLimitMB": 2048, "fullMaintenanceInterval": "fastGC"}', restic="{}") == 2048


async def test_without_a_limit_it_is_veleros_default() -> None:
    assert await _limit(kopia="{}") == DEFAULT_CACHE_MB
    assert await _limit(restic="not even JSON") == DEFAULT_CACHE_MB
    assert await cache_limit_mb(World().api, NAMESPACE, "") == DEFAULT_CACHE_MB


@pytest.mark.parametrize("text", ["{", '{"cacheLimitMB": "much"}', '{"cacheLimitMB": -1}'])
async def test_a_mistake_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="repositories, key kopia"):
        await _limit(kopia=text)


async def test_a_named_configmap_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no ConfigMap velero/none"):
        await cache_limit_mb(World().api, NAMESPACE, "none")

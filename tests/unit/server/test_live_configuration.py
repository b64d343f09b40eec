"""The configuration while the agent runs: changes count at once, mistakes never."""

from __future__ import annotations

import json

import pytest

from agent.base.errors import ConfigurationError, KubeForbidden, KubeUnavailable
from agent.kube.agent_config import AgentConfig
from agent.kube.cluster import PriorityClass
from agent.kube.meta import Key, ObjectMeta
from agent.kube.resource import CONFIG_MAPS, PRIORITY_CLASSES, STORAGE_CLASSES
from agent.kube.volumes import ReclaimPolicy, StorageClass
from agent.server.live_configuration import ConfigMaps, LiveConfiguration, differences
from agent.server.own_document import LimitsPart, OwnDocument
from agent.server.stock_document import BackupPVCPart, StockDocument
from tests.unit.server.server_kit import NAMESPACE, World

STOCK, OWN = "node-agent-config", "lighterage-config"


class Configured(World):
    def __init__(self, *, stock: str = STOCK) -> None:
        super().__init__()
        self.told: list[tuple[str, str, bool]] = []
        self.seen: list[AgentConfig] = []
        maps = ConfigMaps(NAMESPACE, stock, OWN)
        self.live = LiveConfiguration(
            self.api,
            self.clock,
            self.rng,
            maps,
            lambda reason, text, warning: self.told.append((reason, text, warning)),
        )
        self.live.add_handler(self.seen.append)

    async def concurrency(self, number: int, verb: str = "set") -> None:
        text = json.dumps({"loadConcurrency": {"globalConfig": number}})
        await (self.add_config(STOCK, text) if verb == "add" else self.set_config(STOCK, text))


async def test_a_named_configmap_that_is_missing_is_refused_as_by_the_stock_agent() -> None:
    with pytest.raises(ConfigurationError, match="there is no ConfigMap velero/node-agent-config"):
        await Configured().live.load()


async def test_ours_may_be_missing() -> None:
    world = Configured(stock="")
    await world.live.load()
    assert world.live() == AgentConfig()


async def test_ours_counts_as_soon_as_it_may_be_read() -> None:
    world = Configured(stock="")
    await world.add_config(OWN, json.dumps({"keepPartial": True}))
    rights = {("get", CONFIG_MAPS.name), ("list", CONFIG_MAPS.name)}
    world.api.denied |= rights
    await world.live.load()
    assert world.live() == AgentConfig()
    async with world.running(world.live.run()):
        world.api.denied -= rights
        await world.until(lambda: world.live().keep_partial, within=60)


async def test_a_change_counts_at_once_and_is_told_with_what_changed() -> None:
    world = Configured()
    await world.concurrency(1, "add")
    await world.live.load()
    async with world.running(world.live.run()):
        await world.clock.sleep(5)
        assert world.told == []
        await world.concurrency(4)
        await world.clock.sleep(1)
        assert world.live().load_concurrency.global_config == 4
        assert world.told == [("ConfigurationChanged", "loadConcurrency.globalConfig: 1 -> 4", False)]
        assert world.seen == [world.live()]


async def test_ours_counts_when_it_appears_and_no_more_when_it_goes() -> None:
    world = Configured(stock="")
    await world.live.load()
    async with world.running(world.live.run()):
        await world.clock.sleep(5)
        await world.add_config(OWN, json.dumps({"limits": {"uploadBytesPerSecond": "1Mi"}}))
        await world.clock.sleep(1)
        assert world.live().limits.upload_bytes_per_second == 1 << 20
        await world.api.delete(CONFIG_MAPS, Key(NAMESPACE, OWN))
        await world.clock.sleep(1)
        assert world.live() == AgentConfig()


async def test_a_mistake_while_running_leaves_the_configuration_before_in_force_and_is_told() -> None:
    world = Configured()
    await world.concurrency(3, "add")
    await world.live.load()
    async with world.running(world.live.run()):
        await world.clock.sleep(5)
        await world.set_config(STOCK, '{"loadConcurrency": 7}')
        await world.clock.sleep(1)
        assert world.live().load_concurrency.global_config == 3
        assert [(reason, warning) for reason, _, warning in world.told] == [("ConfigurationInvalid", True)]
        await world.api.delete(CONFIG_MAPS, Key(NAMESPACE, STOCK))
        await world.clock.sleep(1)
        assert world.live().load_concurrency.global_config == 3
        assert "is gone" in world.told[-1][1]
        assert world.live.is_refused
        await world.concurrency(3, "add")
        await world.clock.sleep(1)
        assert not world.live.is_refused
    assert world.seen == []


async def test_configmaps_that_may_not_be_watched_stay_as_they_were_loaded() -> None:
    world = Configured()
    await world.concurrency(3, "add")
    await world.live.load()
    world.api.denied.add(("list", CONFIG_MAPS.name))
    async with world.running(world.live.run()):
        await world.clock.sleep(60)
        assert world.live().load_concurrency.global_config == 3


async def test_classes_that_the_cluster_does_not_have_are_ignored_with_a_warning() -> None:
    world = Configured()
    await world.add_config(STOCK, json.dumps({"priorityClassName": "high", "cachePVC": {"storageClass": "gold"}}))
    await world.live.load()
    assert world.live() == AgentConfig()
    assert [warning.split(" is ignored")[0] for warning in world.live.warnings] == ["priorityClassName", "cachePVC"]


async def test_a_class_that_keeps_its_volumes_is_no_place_for_a_cache() -> None:
    world = Configured()
    metadata = ObjectMeta(name="gold")
    keeping = StorageClass(
        api_version="storage.k8s.io/v1", kind="StorageClass", metadata=metadata, reclaim_policy=ReclaimPolicy.RETAIN
    )
    await world.api.create(STORAGE_CLASSES, keeping)
    priority = PriorityClass(api_version="scheduling.k8s.io/v1", kind="PriorityClass", metadata=ObjectMeta(name="high"))
    await world.api.create(PRIORITY_CLASSES, priority)
    await world.add_config(STOCK, json.dumps({"priorityClassName": "high", "cachePVC": {"storageClass": "gold"}}))
    await world.live.load()
    assert world.live().priority_class_name == "high"
    assert world.live().cache_pvc.storage_class == ""


async def test_an_api_server_that_refuses_the_configmap_is_no_configuration() -> None:
    world = Configured()
    world.api.fail("get", CONFIG_MAPS.name, KubeForbidden("no"))
    with pytest.raises(KubeForbidden):
        await world.live.load()


async def test_an_api_server_that_is_away_while_classes_are_checked_is_asked_again() -> None:
    world = Configured()
    await world.add_config(STOCK, json.dumps({"priorityClassName": "high"}))
    world.api.fail("get", PRIORITY_CLASSES.name, KubeUnavailable("away"))
    with pytest.raises(KubeUnavailable):
        await world.live.load()


async def test_a_class_that_appears_later_counts_after_a_resync() -> None:
    world = Configured()
    await world.add_config(STOCK, json.dumps({"priorityClassName": "high"}))
    await world.live.load()
    async with world.running(world.live.run()):
        await world.clock.sleep(5)
        metadata = ObjectMeta(name="high")
        priority = PriorityClass(api_version="scheduling.k8s.io/v1", kind="PriorityClass", metadata=metadata)
        await world.api.create(PRIORITY_CLASSES, priority)
        await world.until(lambda: world.live().priority_class_name == "high", within=400)
    assert world.told == [("ConfigurationChanged", "the cluster has other classes", False)]


def test_differences_have_the_keys_of_the_document() -> None:
    limits = LimitsPart(memory="4Gi")
    assert list(differences(OwnDocument(), OwnDocument(limits=limits, keep_partial=True))) == [
        'limits.memory: 0 -> "4Gi"',
        "keepPartial: false -> true",
    ]
    changed = StockDocument(backup_pvc={"gold": BackupPVCPart(read_only=True)})
    (text,) = differences(StockDocument(), changed)
    assert text.startswith('backupPVC: {} -> {"gold":{')

"""Mover pods of a stock agent, as they were recorded, followed over a switch-over."""

import asyncio
import random

import pytest
import yaml

from agent.base.errors import CanceledError, MoverCrashed, MoverError, MoverUnsupported
from agent.kube.codec import decode
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import DATA_UPLOADS, EVENTS, PODS
from agent.movers.pod_follow import FollowOptions
from agent.movers.stock_pod import StockPodFollower, is_stock_mover
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.movers.moving_kit import SECRETS
from tests.unit.movers.pod_kit import BACKUP, RESTORE, PodCluster


class Recorded:
    """A cluster that holds what was recorded."""

    def __init__(self, golden):
        self._folder = golden / "objects"
        self.clock = VirtualClock()
        self.api = FakeKube(self.clock, random.Random(1))

    def read(self, name):
        return list(yaml.safe_load_all((self._folder / f"{name}.yaml").read_text()))

    def pod(self, name):
        (value,) = self.read(name)
        value["metadata"].pop("deletionTimestamp", None)
        self.api.put_raw(PODS, value)
        return decode(Pod, value)

    def events(self, name, about):
        """Those of one object, oldest first."""
        for value in self.read(name):
            if value["involvedObject"]["name"] == about and value["reason"].startswith("Data-Path"):
                yield value

    def follow(self, pod, spec, **options):
        key = Key(pod.metadata.namespace, pod.metadata.name)
        options = FollowOptions(**{"silence": 3_600, **options})
        return StockPodFollower(self.api, self.clock, random.Random(2), key, options).job(spec, SECRETS)


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("du-pod.Running", True),
        ("dd-pod.Running", True),
        ("du-pod-block.Running", True),
        ("pvb-pod.Running", True),
        ("pvr-pod.Running", True),
        ("maintenance-pod.Running", False),
        ("fs-restored-app-pod.Running", False),
    ],
)
def test_stock_movers_are_known_by_their_command(golden, name, stock):
    (value,) = yaml.safe_load_all((golden / "objects" / f"{name}.yaml").read_text())
    assert is_stock_mover(decode(Pod, value)) is stock


async def test_our_own_pods_are_no_stock_movers():
    cluster = await PodCluster().create()
    assert not is_stock_mover(await cluster.api.get(PODS, cluster.worker()._place.pod))


async def test_a_recorded_upload_is_followed_from_its_events_to_its_result(golden):
    cluster = Recorded(golden)
    pod = cluster.pod("du-pod.Running")
    value = cluster.api.raw(PODS, pod.key)
    for status in value["status"]["containerStatuses"]:
        status["state"] = {"running": {}}
    cluster.api.put_raw(PODS, value)
    seen = []
    async with cluster.follow(pod, BACKUP) as work:

        async def updates():
            async for progress in work.updates():
                seen.append((progress.bytes_done, progress.bytes_total))

        following = asyncio.create_task(updates())
        for event in cluster.events("events-dm-big", pod.metadata.name):
            await cluster.clock.sleep(10)
            cluster.api.put_raw(EVENTS, event)
        cluster.pod("du-pod.Succeeded")
        result = await work.result()
        await following
    assert seen == [
        (0, 1_073_741_824),
        (448_724_992, 1_073_741_824),
        (903_217_152, 1_073_741_824),
        (1_073_741_824, 1_073_741_824),
    ]
    assert result.snapshot == "5abfef868f0925e519e429fe2d0940cc"
    assert (result.total_bytes, result.incremental_bytes, result.incomplete) == (1_073_741_824, 1_073_741_824, "")


@pytest.mark.parametrize("name", ["dd-pod", "pvr-pod", "dd-pod-agentcfg", "du-pod-block"])
async def test_a_recorded_restore_that_has_ended_gives_its_bytes(golden, name):
    cluster = Recorded(golden)
    async with cluster.follow(cluster.pod(f"{name}.Succeeded"), RESTORE) as work:
        assert (await work.result()).bytes > 0


async def test_a_recorded_backup_that_has_ended_gives_its_snapshot(golden):
    cluster = Recorded(golden)
    async with cluster.follow(cluster.pod("pvb-pod.Succeeded"), BACKUP) as work:
        assert len((await work.result()).snapshot) == 32


def ended(value, message, exit_code=1):
    terminated = {"exitCode": exit_code, "reason": "Error", "message": message}
    value["status"]["phase"] = "Failed"
    value["status"]["containerStatuses"][0]["state"] = {"terminated": terminated}
    return value


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        ("error to run data path: data path is canceled", CanceledError, "error to run data path"),
        ("error to initialize uploader: no such bucket", MoverError, "no such bucket"),
        ("", MoverCrashed, "ended with status 1 and without a result"),
    ],
)
async def test_a_stock_mover_that_fails_tells_how(golden, message, error, words):
    cluster = Recorded(golden)
    pod = cluster.pod("du-pod.Running")
    cluster.api.put_raw(PODS, ended(cluster.api.raw(PODS, pod.key), message))
    async with cluster.follow(pod, BACKUP) as work:
        with pytest.raises(error, match=words):
            await work.result()


async def test_a_cancel_reaches_a_stock_mover_through_its_object(golden):
    cluster = Recorded(golden)
    pod = cluster.pod("du-pod.Running")
    value = cluster.api.raw(PODS, pod.key)
    value["status"]["containerStatuses"][0]["state"] = {"running": {}}
    cluster.api.put_raw(PODS, value)
    (upload,) = cluster.read("dataupload.InProgress")
    upload["metadata"]["name"] = pod.metadata.owner_references[0].name
    cluster.api.put_raw(DATA_UPLOADS, upload)
    async with cluster.follow(pod, BACKUP, cancel_grace=60) as work:
        await cluster.clock.sleep(5)
        work.cancel("it took too long")
        with pytest.raises(CanceledError, match="it took too long"):
            await work.result()
    key = Key("velero", upload["metadata"]["name"])
    assert cluster.api.raw(DATA_UPLOADS, key)["spec"]["cancel"] is True
    assert "annotations" not in cluster.api.raw(PODS, pod.key)["metadata"]


async def test_a_pod_that_is_no_stock_mover_is_refused(golden):
    cluster = Recorded(golden)
    async with cluster.follow(cluster.pod("maintenance-pod.Running"), BACKUP) as work:
        with pytest.raises(MoverUnsupported):
            await work.result()

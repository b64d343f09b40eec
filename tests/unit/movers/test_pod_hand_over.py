"""How an agent gives a mover pod its job, and for how long it tries."""

import pytest

from agent.base.errors import KubeForbidden, KubeNotFound, KubeUnavailable, MoverUnavailable, MoverUnsupported
from agent.kube.resource import PODS
from agent.movers.spec import Secrets
from tests.unit.movers.moving_kit import SECRETS
from tests.unit.movers.pod_kit import BACKUP, KEY, NAME, PodCluster, outcome


async def test_an_api_server_that_is_away_for_a_while_delays_the_job():
    cluster = await PodCluster().create()
    cluster.api.outage(True)
    async with cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(60)
        cluster.api.outage(False)
        async with cluster.pod():
            assert (await work.result()).total_bytes == 1 << 20


async def test_a_pod_that_cannot_be_given_its_job_in_time_is_an_error():
    cluster = await PodCluster().create()
    cluster.api.outage(True)
    with pytest.raises(MoverUnavailable, match="could not be given its job"):
        await outcome(cluster, hand_over=60)
    assert 60 <= cluster.clock.monotonic() < 90


async def test_a_missing_right_is_told_after_a_while():
    cluster = await PodCluster().create()
    cluster.api.fail("patch", PODS.name, KubeForbidden("may not patch pods"), times=1_000)
    with pytest.raises(MoverUnavailable, match="may not patch pods"):
        await outcome(cluster)
    assert 60 <= cluster.clock.monotonic() < 90


async def test_an_api_server_that_does_not_know_the_roles_yet_delays_the_job():
    cluster = await PodCluster().create()
    cluster.api.fail("patch", PODS.name, KubeForbidden("may not patch pods"), times=3)
    async with cluster.runner().job(BACKUP, SECRETS) as work, cluster.pod():
        assert (await work.result()).total_bytes == 1 << 20


async def test_a_pod_that_is_gone_is_not_waited_for():
    cluster = await PodCluster().create()
    cluster.api.fail("patch", PODS.name, KubeNotFound("there is no such pod"))
    with pytest.raises(MoverUnavailable, match="there is no such pod"):
        await outcome(cluster)
    assert cluster.clock.monotonic() == 0


async def test_a_pod_that_changes_while_it_is_given_its_job_gets_it_once():
    cluster = await PodCluster().create()
    cluster.api.fail("patch", PODS.name, KubeUnavailable("the answer was lost"), after=True)
    async with cluster.pod():
        await outcome(cluster)
    assert cluster.world.started == [NAME]


async def test_a_pod_without_an_owner_is_not_used():
    cluster = await PodCluster().create()
    await cluster.api.patch(PODS, KEY, {"metadata": {"ownerReferences": None}})
    with pytest.raises(MoverUnavailable, match="belongs to no object"):
        await outcome(cluster)


async def test_a_customers_key_of_the_bucket_is_not_sent_to_a_pod():
    cluster = await PodCluster().create()
    with pytest.raises(MoverUnsupported):
        cluster.runner().job(BACKUP, Secrets(password="x", sse_customer_key=b"k" * 32))

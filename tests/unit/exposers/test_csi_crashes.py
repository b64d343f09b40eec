"""An agent may die at any request: the next one goes on or cleans up, and nothing is left, nor lost.

Each test dies at every single request of a run in turn, before the request took effect and after.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from agent.base.errors import KubeError
from agent.exposers.contract import Broken, Done, Ready, Waiting
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.kube.agent_config import BackupPVC
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, VOLUME_SNAPSHOT_CONTENTS, VOLUME_SNAPSHOTS
from agent.kube.volumes import BindingMode, ReclaimPolicy
from agent.testing.crashing_kube import CrashingKube, Died, FlakyKube
from tests.unit.exposers.csi_kit import JOB, NAME, SECONDS_PER_LOOK, SOURCE_SNAPSHOT, World


def _early() -> World:
    return World(reclaim=ReclaimPolicy.RETAIN)


def _late() -> World:
    return World(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER, sees_host_pods=False)


WORLDS = [pytest.param(_early, id="bound-at-once-and-retained"), pytest.param(_late, id="bound-late-in-a-pod")]


async def _build(make: Callable[[], World]) -> World:
    world = make()
    await world.build()
    await world.secret(Key("app", "luks"), "passphrase")
    world.configure(backup_pvc={"dir": BackupPVC(secret_names=("luks",))})
    return world


async def _whole_run(world: World, exposer: CsiSnapshotExposer) -> None:
    state = await world.expose(exposer)
    assert isinstance(state, Ready), state
    assert await exposer.finish(await world.job()) == Done()
    assert await world.clean_up(exposer) == Done()


async def _requests_of_a_whole_run(make: Callable[[], World]) -> int:
    world = await _build(make)
    counting = CrashingKube(world.kube)
    await _whole_run(world, world.exposer(api=counting))
    return counting.requests


async def _nothing_is_left(world: World) -> None:
    assert await world.left() == []
    assert "luks" not in [one.metadata.name for one in (await world.kube.list(SECRETS, "velero")).items]


async def _die(make: Callable[[], World], at: int, *, after: bool) -> World:
    """A world in which an agent died at its nth request."""
    world = await _build(make)
    with pytest.raises(Died):
        await _whole_run(world, world.exposer(api=CrashingKube(world.kube, at, after=after)))
    return world


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("make", WORLDS)
async def test_whoever_cleans_up_after_a_death_at_any_request_leaves_nothing(
    make: Callable[[], World], after: bool
) -> None:
    total = await _requests_of_a_whole_run(make)
    assert total > 40
    for at in range(1, total + 1):
        for steps in (0, 3):  # the rest of the cluster goes on, or is as slow as can be
            world = await _die(make, at, after=after)
            await world.csi.step(steps)
            assert await world.clean_up(world.exposer("node-b")) == Done(), at
            await _nothing_is_left(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("make", WORLDS)
async def test_whoever_goes_on_after_a_death_at_any_request_gets_the_same_snapshot(
    make: Callable[[], World], after: bool
) -> None:
    world = await _build(make)
    counting = CrashingKube(world.kube)
    assert isinstance(await world.expose(world.exposer(api=counting)), Ready)
    for at in range(1, counting.requests + 1):
        world = await _build(make)
        handles = set(world.csi.storage.snapshots)
        with pytest.raises(Died):
            await world.expose(world.exposer(api=CrashingKube(world.kube, at, after=after)))
        state = await world.expose(world.exposer("node-b"))
        assert isinstance(state, Ready), (at, state)
        assert world.csi.storage.snapshots == handles
        assert await world.clean_up() == Done()
        await _nothing_is_left(world)


@pytest.mark.parametrize("make", WORLDS)
async def test_whoever_cleans_up_may_die_too(make: Callable[[], World]) -> None:
    world = await _build(make)
    assert isinstance(await world.expose(), Ready)
    counting = CrashingKube(world.kube)
    assert await world.clean_up(world.exposer(api=counting)) == Done()
    for at in range(1, counting.requests + 1):
        world = await _build(make)
        assert isinstance(await world.expose(), Ready)
        with pytest.raises(Died):
            await world.clean_up(world.exposer(api=CrashingKube(world.kube, at, after=True)))
        assert await world.clean_up(world.exposer("node-b")) == Done()
        await _nothing_is_left(world)


@pytest.mark.parametrize("make", WORLDS)
async def test_a_whole_job_that_dies_again_and_again_gets_on_with_each_life(make: Callable[[], World]) -> None:
    world = await _build(make)
    lives = 0
    state: Waiting | Ready | Broken = Waiting("")
    while not isinstance(state, Ready):
        lives += 1
        assert lives < 60, state
        api = CrashingKube(world.kube, die_at=9 + lives)
        try:
            state = await world.expose(world.exposer(api=api), looks=1)
        except Died:
            await world.csi.step()
    assert await world.clean_up() == Done()
    await _nothing_is_left(world)


async def test_a_stale_view_of_the_object_does_not_hide_what_was_taken_over() -> None:
    world = World()
    stale = await world.build()
    exposer = world.exposer()
    for _ in range(6):
        state = await exposer.advance(stale)
        await world.csi.step(2)
    assert isinstance(state, Ready), state
    for _ in range(20):
        if await exposer.clean_up(stale) == Done():
            break
        await world.csi.step()
        world.clock.advance(SECONDS_PER_LOOK)
    assert await world.left() == []


async def test_what_died_between_the_policy_and_the_deletion_of_the_source_leaves_no_content() -> None:
    world = World()
    await world.build()
    await world.exposer().advance(await world.job())
    contents = (await world.kube.list(VOLUME_SNAPSHOT_CONTENTS)).items
    source = next(one for one in contents if one.spec.volume_snapshot_ref.name == SOURCE_SNAPSHOT.name)
    assert source.spec.deletion_policy == "Retain"
    await world.csi.step(1)  # its VolumeSnapshot goes, and with it the only object that names the content
    assert await world.clean_up(world.exposer("node-b")) == Done()
    assert await world.left() == []


async def test_a_claim_that_is_bound_while_it_is_removed_takes_its_volume_along() -> None:
    world = World(reclaim=ReclaimPolicy.RETAIN)
    await world.build()
    await world.exposer().advance(await world.job())
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    await world.csi.step(2)
    assert (
        await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    ).metadata.resource_version != claim.metadata.resource_version
    assert await world.clean_up() == Done()
    assert await world.left() == []


@pytest.mark.parametrize("seed", range(20))
async def test_an_api_server_that_loses_requests_and_answers_delays_but_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    world = World(reclaim=ReclaimPolicy.RETAIN, seed=seed)
    await world.build()

    async def persist(done: Callable[[object], bool], *, cleaning: bool) -> object:
        state: object = None
        for _ in range(200):
            flaky = FlakyKube(world.kube, rng, loss=0.08)
            exposer = world.exposer(rng.choice(["node-a", "node-b"]), flaky)
            job = await world.job()
            try:
                state = await (exposer.clean_up(job) if cleaning else exposer.advance(job))
            except KubeError:
                continue
            if done(state):
                break
            await world.csi.step(rng.randrange(3))
        return state

    assert isinstance(await persist(lambda state: isinstance(state, Ready), cleaning=False), Ready)
    assert await persist(lambda state: state == Done(), cleaning=True) == Done()
    assert await world.left() == []


async def test_a_content_whose_snapshot_went_before_it_was_protected_is_removed_all_the_same() -> None:
    """The snapshot controller binds both a moment before it protects the snapshot, which a cancel then takes away."""
    world = World()
    await world.build()
    assert isinstance(await world.exposer().advance(await world.job()), Waiting)
    for resource in (PODS, PERSISTENT_VOLUME_CLAIMS):  # the look ended before it came to them
        await world.kube.delete(resource, JOB)
    snapshot = await world.kube.get(VOLUME_SNAPSHOTS, JOB)
    assert not snapshot.metadata.finalizers
    content = await world.kube.get(VOLUME_SNAPSHOT_CONTENTS, Key("", NAME))
    bound: JsonObject = {
        "metadata": {"finalizers": ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"]},
        "spec": {"volumeSnapshotRef": {"uid": snapshot.metadata.uid}},
    }
    await world.kube.patch(
        VOLUME_SNAPSHOT_CONTENTS, content.key, bound, resource_version=content.metadata.resource_version
    )
    assert await world.clean_up() == Done()
    assert await world.left() == []

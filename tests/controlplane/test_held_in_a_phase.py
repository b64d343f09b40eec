"""Uploads that are held in a phase while something happens: with real processes, what the histories in virtual time
(`tests/unit/controllers/test_schedules.py`) show of every phase and everything that may happen in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.agents import STOCK_CONFIG
from tests.controlplane.cluster import Cluster
from tests.controlplane.transfers import fill, in_progress

OUTAGE_SECONDS = 10


@contextmanager
def accepted(cluster: Cluster) -> Iterator[str]:
    """The volume cannot be mounted until the end of the block."""
    namespace, volume = cluster.application()
    fill(volume, 1)
    cluster.storage.faults(fail={"NodeStageVolume": "not yet"})
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.ACCEPTED)
    try:
        yield name
    finally:
        cluster.storage.faults()


@contextmanager
def prepared(cluster: Cluster) -> Iterator[str]:
    """Another upload has the only slot until the end of the block."""
    only = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}}}
    cluster.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 1}, "loadAffinity": [only]})
    cluster.agents.restart()
    namespace, running = in_progress(cluster, mebibytes=100)
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.PREPARED)
    try:
        yield name
    finally:
        cluster.patch(DATA_UPLOADS, running.metadata.name, {"spec": {"cancel": True}}, NAMESPACE)
        cluster.wait_final(running.metadata.name)


@contextmanager
def in_transfer(cluster: Cluster) -> Iterator[str]:
    yield in_progress(cluster)[1].metadata.name


def outage(cluster: Cluster, _: str) -> None:
    cluster.plane.outage(OUTAGE_SECONDS)


def killed(cluster: Cluster, _: str) -> None:
    for node in ("n1", "n2"):
        cluster.agents.kill(node)
    cluster.agents.ensure("n1", "n2")


def forgotten(cluster: Cluster, _: str) -> None:
    """The API server starts again, and knows none of the versions that the watches saw."""
    cluster.plane.compact()
    cluster.plane.outage(1)


def deleted(cluster: Cluster, name: str) -> None:
    cluster.plane.kubectl("delete", "dataupload", name, f"--namespace={NAMESPACE}", "--timeout=60s")


@pytest.mark.slow
@pytest.mark.parametrize("happen", [outage, killed, forgotten])
@pytest.mark.parametrize("hold", [accepted, prepared, in_transfer])
def test_an_upload_is_completed_whatever_happened_while_it_was_held(
    cluster: Cluster,
    hold: Callable[[Cluster], AbstractContextManager[str]],
    happen: Callable[[Cluster, str], None],
) -> None:
    with hold(cluster) as name:
        happen(cluster, name)
    ended = cluster.wait_final(name, seconds=180)
    assert (ended.status.phase, ended.status.message) == (Phase.COMPLETED, "")
    cluster.eventually("its finalizer goes", lambda: cluster.upload_of(name).metadata.finalizers == ())
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize("hold", [accepted, prepared])
def test_an_upload_that_is_deleted_before_its_data_moves_goes(
    cluster: Cluster, hold: Callable[[Cluster], AbstractContextManager[str]]
) -> None:
    with hold(cluster) as name:
        deleted(cluster, name)
    cluster.assert_clean()


@pytest.mark.slow
def test_an_upload_whose_agent_is_killed_while_it_is_canceled_ends_canceled(cluster: Cluster) -> None:
    with in_transfer(cluster) as name:
        cluster.patch(DATA_UPLOADS, name, {"spec": {"cancel": True}}, NAMESPACE)
        killed(cluster, name)
    assert cluster.wait_final(name, seconds=120).status.phase is Phase.CANCELED
    cluster.assert_clean()

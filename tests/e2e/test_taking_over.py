"""From Velero's own agent to ours in the middle of its work (contract §13.14): nothing is lost or left behind.

No data gets to the store or from it while the agents change, so that one object is in progress, and the one behind it
is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.e2e.agent_switch import OURS, STOCK, AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, phase
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.location import Location
from tests.e2e.store_faults import Gate
from tests.e2e.velero import MOVE, POD_VOLUMES, Movement, Velero
from tests.e2e.workload import Volume, Workload, differences

pytestmark = pytest.mark.disturbing

_CHANGE = 500_000


@pytest.fixture(params=[[MOVE], POD_VOLUMES], ids=["data-mover", "pod-volume"])
def options(request: pytest.FixtureRequest) -> Sequence[str]:
    """Of backups: how volumes are read."""
    found: Sequence[str] = request.param
    return found


@pytest.fixture
def app(applications: Applications) -> Workload:
    app = applications.deploy(Volume("one"), Volume("other"))
    for seed, volume in enumerate(app.volumes):
        app.make(volume.name, "large", seed=seed)
    return app


@pytest.fixture
def location(app: Workload, cluster: Cluster) -> Iterator[Location]:
    made = Location(cluster, app.namespace)
    yield made
    for found in cluster.list("Backup", VELERO_NAMESPACE):
        if found["spec"].get("storageLocation") == made.name:
            cluster.delete("Backup", found["metadata"]["name"], VELERO_NAMESPACE)
    made.delete()


@dataclass(frozen=True, slots=True)
class Work:
    """A backup or restore of two volumes that the stock agent has begun."""

    cluster: Cluster
    name: str
    kind: str
    moving: str
    """The object that is in progress."""
    prepared: str
    pod: Object
    """The stock agent's, in which its data moves."""

    def of(self, name: str) -> Object:
        found = self.cluster.get(self.kind, name, VELERO_NAMESPACE)
        assert found is not None
        return found


@pytest.fixture
def work(
    agents: AgentSwitch, app: Workload, cluster: Cluster, gate: Gate, options: Sequence[str], velero: Velero
) -> Work:
    """Begun by the stock agent; now ours has come."""
    agents.use(STOCK)
    velero.wait_until_available(app.namespace)
    gate.shut()
    velero.start_backup(app.namespace, app.namespace, *options, f"--storage-location={app.namespace}")

    begun = _begun(cluster, app.namespace, lambda: velero.movements(backup=app.namespace))
    agents.use(OURS)
    return begun


def _begun(cluster: Cluster, name: str, movements: Callable[[], list[Movement]]) -> Work:
    def by_phase() -> dict[str, Movement]:
        return {moved.phase: moved for moved in movements()}

    def begun() -> bool:
        return by_phase().keys() == {"InProgress", "Prepared"}

    cluster.wait("one is in progress, one prepared", 90, begun, show=cluster.describe_velero_namespace)
    found = by_phase()
    moving = found["InProgress"]
    pod = cluster.get("Pod", moving.name, VELERO_NAMESPACE)
    assert pod is not None
    return Work(cluster, name, moving.kind, moving.name, found["Prepared"].name, pod)


def _assert_nothing_is_left(velero: Velero, work: Work) -> None:
    def left() -> list[str]:
        return velero.leftovers([work.name], [work.moving, work.prepared])

    work.cluster.wait("nothing is left behind", 60, lambda: not left(), show=left)


def _back_up_again(app: Workload, options: Sequence[str], velero: Velero) -> list[int]:
    """Of each volume, what was not known."""
    again = f"{app.namespace}-2"
    app.shell(f"for v in one other; do head -c {_CHANGE} /dev/urandom >/data/$v/new; done; sync")
    velero.backup(again, app.namespace, *options, f"--storage-location={app.namespace}")
    return [moved.incremental_bytes for moved in velero.movements(backup=again)]


def test_what_the_stock_agent_has_begun_comes_to_its_end(
    app: Workload,
    applications: Applications,
    assert_equal: Comparison,
    gate: Gate,
    options: Sequence[str],
    velero: Velero,
    work: Work,
) -> None:
    content = app.content()
    started = _assert_it_goes_on_where_it_is(work)
    gate.open()
    velero.wait_for_backup(work.name)
    assert [moved.phase for moved in velero.movements(backup=work.name)] == ["Completed"] * 2
    assert work.of(work.moving)["status"]["startTimestamp"] == started
    _assert_nothing_is_left(velero, work)

    applications.delete()
    velero.restore(work.name, work.name)
    app.wait_until_running()
    assert_equal(content, app.content())
    assert _back_up_again(app, options, velero) == [_CHANGE] * 2


def _assert_it_goes_on_where_it_is(work: Work) -> object:
    """And what has not begun is out of the stock agent's hands. When the one that moves began."""

    def removed() -> bool:
        pod = work.cluster.get("Pod", work.prepared, VELERO_NAMESPACE)
        return pod is None or pod["spec"]["containers"][0]["image"] == OURS

    show = work.cluster.describe_velero_namespace
    work.cluster.wait("the pod that has not begun is none of the stock agent's", 60, removed, show=show)
    assert phase(work.of(work.moving)) == "InProgress"
    pod = work.cluster.get("Pod", work.moving, VELERO_NAMESPACE)
    assert pod is not None
    assert pod["metadata"]["uid"] == work.pod["metadata"]["uid"]
    return work.of(work.moving)["status"]["startTimestamp"]


def test_what_the_stock_agent_restores_comes_to_its_end(
    agents: AgentSwitch,
    app: Workload,
    applications: Applications,
    cluster: Cluster,
    gate: Gate,
    options: Sequence[str],
    velero: Velero,
) -> None:
    content, name = app.content(), app.namespace
    agents.use(STOCK)
    velero.wait_until_available(name)
    velero.backup(name, name, *options, f"--storage-location={name}")
    applications.delete()
    gate.shut()
    velero.start_restore(name, name)
    work = _begun(cluster, name, lambda: velero.movements(restore=name))
    agents.use(OURS)
    started = _assert_it_goes_on_where_it_is(work)
    gate.open()
    velero.wait_for_restore(name)
    assert [moved.phase for moved in velero.movements(restore=name)] == ["Completed"] * 2
    assert work.of(work.moving)["status"]["startTimestamp"] == started
    app.wait_until_running()
    # Folders restored by the stock agent end with other times.
    found = differences(content, app.content(), by_stock=True)
    assert not found, "\n".join(found[:20])
    _assert_nothing_is_left(velero, work)


def _cancel(work: Work) -> str:
    work.cluster.patch(work.kind, work.moving, VELERO_NAMESPACE, {"spec": {"cancel": True}})
    return "cancel"


def _take_the_pod_away(work: Work) -> str:
    work.cluster.delete("Pod", work.moving, VELERO_NAMESPACE, grace=0)
    return work.moving


@pytest.mark.parametrize("end", [_cancel, _take_the_pod_away], ids=["canceled", "pod-deleted"])
def test_what_the_stock_agent_has_begun_and_does_not_end_says_why(
    app: Workload, end: Callable[[Work], str], gate: Gate, options: Sequence[str], velero: Velero, work: Work
) -> None:
    named = end(work)

    def ended() -> bool:
        return phase(work.of(work.moving)) in {"Canceled", "Failed"}

    work.cluster.wait("it has ended", 150, ended, show=work.cluster.describe_velero_namespace)
    status = work.of(work.moving)["status"]
    assert named in status["message"]
    assert status["completionTimestamp"]

    gate.open()
    velero.wait_for_backup(work.name, expect="PartiallyFailed")
    assert phase(work.of(work.prepared)) == "Completed"
    _assert_nothing_is_left(velero, work)
    _back_up_again(app, options, velero)

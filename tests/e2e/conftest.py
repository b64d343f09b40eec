"""Fixtures of the tests on a real cluster: `make e2e` runs them on the one of `hack/cluster`.

KUBECONFIG names the cluster; Velero and the agent under test are installed in it. With `hack/cluster` around (its
variable LIGHTERAGE_CLUSTER_RUN is set), tests can also take processes of the node away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.agent_switch import STOCK, AgentSwitch
from tests.e2e.cluster import Cluster
from tests.e2e.direct import jobs_of
from tests.e2e.guide import Guide, Seat
from tests.e2e.location import Location
from tests.e2e.node_faults import NodeFaults, node_faults
from tests.e2e.object_store import ObjectStore
from tests.e2e.store_faults import Gate
from tests.e2e.velero import Velero
from tests.e2e.workload import Content, Volume, Workload, differences


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        pytest.fail("KUBECONFIG names no cluster: `make e2e` brings one up")
    return Cluster(kubeconfig)


@pytest.fixture(scope="session")
def velero(cluster: Cluster) -> Velero:
    return Velero(cluster)


@pytest.fixture(scope="session")
def store(cluster: Cluster) -> ObjectStore:
    return ObjectStore(cluster)


@pytest.fixture
def agents(cluster: Cluster) -> Iterator[AgentSwitch]:
    """Another agent than the one under test for a while."""
    switch = AgentSwitch(cluster)
    yield switch
    switch.restore()


@pytest.fixture
def guide(cluster: Cluster, tmp_path: Path) -> Guide:
    return Guide(cluster, tmp_path)


@pytest.fixture
def seat(agents: AgentSwitch, cluster: Cluster, guide: Guide) -> Iterator[Seat]:
    seat = Seat(cluster, guide, agents)
    yield seat
    seat.restore()


Comparison = Callable[[dict[str, Content], dict[str, Content]], None]


@pytest.fixture
def assert_equal(agents: AgentSwitch) -> Comparison:
    """Compares content before and after; what the stock agent does not keep is not asked of it."""

    def compare(before: dict[str, Content], after: dict[str, Content]) -> None:
        found = differences(before, after, by_stock=agents.image == STOCK)
        assert not found, "\n".join(found[:20])

    return compare


class Applications:
    """Deploys applications in namespaces of the test's own, which go when it ends."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        """Unique to the test run: for namespaces, backups, restores."""
        self.namespaces = [name]

    def deploy(self, *volumes: Volume, seconds: float = 90, **options: dict[str, str]) -> Workload:
        workload = Workload(self._cluster, self.name, volumes, **options)
        workload.deploy(seconds)
        return workload

    def elsewhere(self, workload: Workload) -> Workload:
        """The same application as a restore into another namespace makes it."""
        namespace = f"{self.name}-copy"
        self.namespaces.append(namespace)
        return Workload(self._cluster, namespace, workload.volumes)

    def delete(self) -> None:
        """The disaster."""
        self._cluster.delete_namespaces(self.namespaces, seconds=300)


@pytest.fixture
def applications(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Applications]:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-").removeprefix("test-")
    unique = os.urandom(3).hex()
    made = Applications(cluster, f"{words[:32].strip('-')}-{unique}")
    yield made
    for namespace in made.namespaces:
        cluster.delete("Namespace", namespace)
    for volume in cluster.list("PersistentVolume"):
        if volume["metadata"]["name"].startswith(made.name):
            cluster.delete("PersistentVolume", volume["metadata"]["name"])


@pytest.fixture
def app(applications: Applications) -> Workload:
    app = applications.deploy(Volume("files"))
    app.make("files", "small")
    return app


@pytest.fixture
def clean(app: Workload, velero: Velero) -> Iterator[None]:
    """Whatever became of a job, none of its temporary objects may stay."""
    yield

    def left() -> list[str]:
        return velero.leftovers([app.namespace], [job.name for job in jobs_of(app)])

    app.cluster.wait("nothing is left behind", 60, lambda: not left(), show=left)


@pytest.fixture
def faults() -> NodeFaults:
    return node_faults()


@pytest.fixture
def location(app: Workload, cluster: Cluster) -> Iterator[Location]:
    """A location of the test's own, still to be created."""
    made = Location(cluster, app.namespace)
    yield made
    made.delete()


@pytest.fixture
def gate(faults: NodeFaults, location: Location) -> Iterator[Gate]:
    """The location, created, with a way to its store on which data waits while the gate is shut."""
    del faults  # pods reach a server of the test's process
    gate = Gate(location.s3_url)
    location.create(s3_url=gate.s3_url)
    yield gate
    gate.close()

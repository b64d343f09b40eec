"""Many volumes in one backup: none starves, nothing is left (E2E_VOLUMES says how many small ones; 200 by itself)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.e2e.agent_switch import AgentSwitch
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.velero import MOVE, Movement, Velero
from tests.e2e.workload import Volume, Workload

pytestmark = [pytest.mark.slow, pytest.mark.disturbing]

_COUNT = int(os.environ.get("E2E_VOLUMES", "200"))


@pytest.fixture(autouse=True)
def patient(agents: AgentSwitch) -> None:
    """The kubelet makes some pods a second, and a restore asks for all of them at once."""
    agents.be_patient()


def _all_completed_and_gone(app: Workload, velero: Velero, movements: Sequence[Movement], count: int) -> None:
    assert {movement.phase for movement in movements} == {"Completed"}
    assert len(movements) == count

    def left() -> list[str]:
        return velero.leftovers([app.namespace], movements)

    # The snapshot controller has a queue of its own for what the agents delete.
    app.cluster.wait("nothing is left behind", 60, lambda: not left(), show=left)


def _there_and_back(applications: Applications, app: Workload, velero: Velero, seconds: float) -> None:
    count = len(app.volumes)
    velero.backup(app.namespace, app.namespace, MOVE, seconds=seconds)
    _all_completed_and_gone(app, velero, velero.movements(backup=app.namespace), count)
    applications.delete()
    velero.restore(app.namespace, app.namespace, seconds=seconds)
    app.wait_until_running(300)
    _all_completed_and_gone(app, velero, velero.movements(restore=app.namespace), count)


def test_many_small_volumes(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    volumes = [Volume(f"files-{number:03d}", size="10Mi") for number in range(_COUNT)]
    app = applications.deploy(*volumes, seconds=300)
    app.shell("for folder in /data/*; do echo $folder >$folder/name; done")
    before = app.content()
    _there_and_back(applications, app, velero, 300 + 20 * _COUNT)
    assert_equal(before, app.content())


def test_volumes_of_mixed_size(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    kinds = [["small"], ["odd"], ["large"]]
    app = applications.deploy(*(Volume(f"files-{number:02d}") for number in range(30)))
    for number in range(30):
        # Every tenth holds 192 MiB: what waits behind one of those has to come about.
        app.make(f"files-{number:02d}", *kinds[2 if number % 10 == 0 else number % 2], seed=number)
    before = app.content()
    _there_and_back(applications, app, velero, 600)
    assert_equal(before, app.content())

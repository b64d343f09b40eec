"""`make cluster-bench`: our agent and Velero's own on the same cluster, the same data, one after the other.

Seconds are those of the objects (a DataUpload's creation, start and end), so Velero's own work counts for nobody. What
comes before the data path does: snapshots handed over, volumes and pods made, a slot waited for. Each row restores what
it has backed up, and compares it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tests.e2e.agent_switch import OURS, STOCK, AgentSwitch
from tests.e2e.cluster import Cluster
from tests.e2e.velero import MOVE, POD_VOLUMES, Movement, Velero
from tests.e2e.workload import Volume, Workload, differences

_AGENTS = {"stock": STOCK, "ours": OURS}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of backup: what lies in how many volumes."""

    name: str
    content: tuple[str, ...]
    volumes: int = 1
    options: tuple[str, ...] = (MOVE,)


_ROWS = (
    Row("one volume, 2 MB", ("small",)),
    Row("one volume, 4 x 256 MiB random", ("huge",)),
    Row("one volume, 20,000 x 4 KiB", ("many",)),
    Row("pod volume, 20,000 x 4 KiB", ("many",), options=tuple(POD_VOLUMES)),
    Row("10 volumes, 2 MB each", ("small",), volumes=10),
)


def main() -> None:
    cluster = Cluster(os.environ["KUBECONFIG"])
    agents = AgentSwitch(cluster)
    print("| | agent | backup: wait + work, s | restore: wait + work, s |\n|---|---|---|---|", flush=True)
    try:
        for number, row in enumerate(_ROWS):
            for agent, image in _AGENTS.items():
                agents.use(image)
                backup, restore = measure(cluster, row, f"bench-{number}-{agent}-{int(time.time())}", agent)
                print(f"| {row.name} | {agent} | {backup} | {restore} |", flush=True)
    finally:
        agents.restore()


def measure(cluster: Cluster, row: Row, name: str, agent: str) -> tuple[str, str]:
    """Back up, lose, restore, compare: what the objects say of both ways."""
    velero = Velero(cluster)
    app = Workload(cluster, name, [Volume(f"files-{number}") for number in range(row.volumes)])
    app.deploy()
    for number, volume in enumerate(app.volumes):
        app.make(volume.name, *row.content, seed=number)
    app.shell("sync")
    before = app.content()
    velero.backup(name, name, *row.options, seconds=900)
    cluster.delete_namespaces([name])
    velero.restore(name, name, seconds=900)
    app.wait_until_running()
    wrong = differences(before, app.content(), by_stock=agent == "stock")
    cluster.delete_namespaces([name])
    if wrong:
        raise SystemExit("\n".join([f"{row.name}, {agent}: not equal", *wrong[:20]]))
    return seconds(velero.movements(backup=name)), seconds(velero.movements(restore=name))


def seconds(movements: list[Movement]) -> str:
    """Of one object: until it started, and from there to its end. Of many: until the last one ended."""
    if len(movements) > 1:
        return f"{max(moved.seconds_to_end for moved in movements):.0f} until the last"
    (moved,) = movements
    return f"{moved.seconds_to_start:.0f} + {moved.seconds_to_end - moved.seconds_to_start:.0f}"


if __name__ == "__main__":
    main()
